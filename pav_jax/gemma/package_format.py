"""The gemma package's Orbax checkpoints: nested, flat and stacked."""

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.core.errors import UserError
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.formats import (
    Piece,
    damage_is_a_user_error,
    embedding_piece,
    layer_shapes,
)

GEMMA_NAMES = {
    "o": "attn/attn_vec_einsum/w",
    "down": "mlp/linear",
    "pre_attn_norm": "pre_attention_norm/scale",
    "post_attn_norm": "post_attention_norm/scale",
    "pre_mlp_norm": "pre_ffw_norm/scale",
    "post_mlp_norm": "post_ffw_norm/scale",
    "q_norm": "attn/_query_norm/scale",
    "k_norm": "attn/_key_norm/scale",
}
_NOT_TEXT = ("vision_encoder", "SigLiPFromPatches", "mm_input_projection")
_NOT_TEXT += ("mm_soft_embedding_norm",)


def gemma_pieces(
    architecture: TransformerConfig, found: Mapping[str, tuple[int, ...]]
) -> list[Piece]:
    """The pieces of an architecture in a nested checkpoint.

    Args:
      architecture: of the network.
      found: the shapes of the checkpoint's tensors, which show how many spare rows the
        table has and whether the gate is transposed.
    """
    shapes = layer_shapes(architecture)
    joint = architecture.num_heads == architecture.num_kv_heads
    gate = shapes["gate"]
    across = (gate[0], gate[2], gate[1])
    table = "embedder/input_embedding"
    pieces = [
        embedding_piece(table, architecture, found.get(table)),
        Piece("final_norm/scale", (architecture.embed_dim,), "final_norm"),
    ]
    for i in range(architecture.num_layers):
        layer, at = f"layer_{i}", (i,)
        if joint:
            name = f"{layer}/attn/qkv_einsum/w"
            shape = (3, *shapes["q"])
            pieces.append(Piece(name, shape, "q", at, lambda w: w[0]))
            pieces.append(Piece(name, shape, "kv", at, lambda w: w[1:]))
        else:
            for leaf in ("q", "kv"):
                name = f"{layer}/attn/{leaf}_einsum/w"
                pieces.append(Piece(name, shapes[leaf], leaf, at))
        name = f"{layer}/mlp/gating_einsum"
        transposed = architecture.transposed_gate
        if gate != across and found.get(name) in (gate, across):
            transposed = found[name] == across
        pieces.append(
            Piece(name, across, "gate", at, lambda w: w.swapaxes(1, 2))
            if transposed
            else Piece(name, gate, "gate", at)
        )
        for leaf, name in GEMMA_NAMES.items():
            if leaf in shapes:
                pieces.append(Piece(f"{layer}/{name}", shapes[leaf], leaf, at))
    return pieces


@dataclasses.dataclass(frozen=True)
class _Stored:
    """Where the Orbax tree has a tensor: a whole leaf, or one layer of a stack."""

    path: tuple[str, ...]
    shape: tuple[int, ...]
    row: int | None = None


class GemmaSource:
    """An Orbax checkpoint of the gemma package: nested, flat or stacked.

    In all three, tensors get their nested names, such as `layer_0/mlp/linear`. A flat
    one joins the names of modules by slashes; a stacked one has the layers with the
    same place in the attention pattern in one tensor.
    """

    def __init__(self, path: Path):
        # Imported here, since it takes seconds that nothing else needs.
        import orbax.checkpoint as ocp

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp = ocp
        self._path = path.absolute()
        self._last: tuple[tuple[str, ...], np.ndarray] | None = None
        with damage_is_a_user_error(path), ocp.StandardCheckpointer() as reader:
            metadata = reader.metadata(self._path).item_metadata
            if metadata is None:
                raise UserError(
                    f"the checkpoint {path} is damaged: it has no tree of arrays"
                )
            leaves = dict(_leaves(metadata.tree))
        self._stored = {
            name: stored
            for name, stored in _nested_names(leaves).items()
            if not any(part in name for part in _NOT_TEXT)
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of the text model."""
        return {name: stored.shape for name, stored in self._stored.items()}

    def pieces(self, architecture: TransformerConfig) -> list[Piece]:
        """The pieces of an architecture, those of one stacked tensor together."""
        nowhere = _Stored((), ())
        return sorted(
            gemma_pieces(architecture, self.shapes),
            key=lambda piece: self._stored.get(piece.name, nowhere).path,
        )

    def read(self, name: str) -> np.ndarray:
        """One tensor, in the dtype that it is stored in."""
        stored = self._stored[name]
        if self._last is None or self._last[0] != stored.path:
            self._last = None  # freed before the next is read
            self._last = (stored.path, self._restore(stored.path))
        tensor = self._last[1]
        return tensor if stored.row is None else tensor[stored.row]

    def _restore(self, path: tuple[str, ...]) -> np.ndarray:
        args = self._ocp.RestoreArgs(restore_type=np.ndarray)
        item: Any = 0
        for key in reversed(path):
            item, args = {key: item}, {key: args}
        with damage_is_a_user_error(self._path):
            with self._ocp.PyTreeCheckpointer() as reader:
                tree = reader.restore(
                    self._path,
                    args=self._ocp.args.PyTreeRestore(
                        item=item, restore_args=args, partial_restore=True
                    ),
                )
            for key in path:
                tree = tree[key]
        return tree


def _leaves(
    tree: Any, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """(path, shape) of every array of an Orbax tree."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), tuple(value.shape)


def _nested_names(
    leaves: dict[tuple[str, ...], tuple[int, ...]],
) -> dict[str, _Stored]:
    """The tensors by the names that they have in a nested checkpoint."""
    stack = re.compile(r"stacked_layers/attention_type_(\d+)/(.*)")
    found = {}
    stacked = []
    for path, shape in leaves.items():
        name = "/".join(path).removeprefix("transformer/")
        # The published flat and stacked ones have one level more here.
        name = re.sub(r"(mlp/(?:linear|gating_einsum))/w$", r"\1", name)
        if match := stack.fullmatch(name):
            stacked.append((int(match[1]), match[2], path, shape))
        else:
            found[name] = _Stored(path, shape)
    period = 1 + max((place for place, *_ in stacked), default=0)
    for place, name, path, shape in stacked:
        for row in range(shape[0]):
            layer = row * period + place
            found[f"layer_{layer}/{name}"] = _Stored(path, shape[1:], row)
    return found
