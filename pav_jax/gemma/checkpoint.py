"""Reads published checkpoints into our parameter tree, and writes them back.

A checkpoint is read one tensor at a time, each directly into its place (and its shards)
in parameters that are allocated once, so that the host never holds more than one tensor
beside them.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.core.errors import UserError
from pav_jax.core.types import Params
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.formats import Piece, Source, damage_is_a_user_error
from pav_jax.gemma.hugging_face import HuggingFaceSource, difference
from pav_jax.gemma.package_format import GEMMA_NAMES, GemmaSource
from pav_jax.storage import checkpoints


def read(
    path: Path,
    *,
    architecture: TransformerConfig,
    dtype: jnp.dtype = jnp.float32,
    shardings: Params | None = None,
) -> Params:
    """Reads a checkpoint of the gemma package or of Hugging Face.

    Args:
      path: the folder of an Orbax checkpoint (nested, flat or stacked), or one with
        config.json and safetensors. Only the text model is read.
      architecture: of the network. The spare embeddings at the end of the table, which
        belong to no token, may be more or fewer than the checkpoint's.
      dtype: of the parameters returned.
      shardings: where the parameters go: a tree like that of
        `forward.init_params`; by default the first device.

    Returns:
      The tree of `forward.init_params`.

    Raises:
      UserError: there is no checkpoint, it is damaged, or it has another
        architecture: a tensor is missing, unknown or has another shape.
    """
    source = _open(path)
    if isinstance(source, HuggingFaceSource):
        with damage_is_a_user_error(path):
            _check_fields(path, source.config, architecture)
    pieces = source.pieces(architecture)
    _check_tensors(path, source, pieces)
    like = forward.param_shapes(architecture, dtype)
    if shardings is None:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shardings = jax.tree.map(lambda _: here, like)
    tree = jax.tree.map(
        lambda leaf, sharding: jnp.zeros(leaf.shape, leaf.dtype, device=sharding),
        like,
        shardings,
    )
    for piece in pieces:
        holder, places = tree, shardings
        if piece.at:
            holder, places = tree["layers"], shardings["layers"]
        leaf = holder.pop(piece.leaf)  # or the donated array would stay referenced
        tensor = _on_device(
            piece.ours(source.read(piece.name)),
            _without_leading(places[piece.leaf], len(piece.at)),
        )
        leaf = _insert(leaf, tensor, piece.at)
        holder[piece.leaf] = leaf.block_until_ready()  # so the host may forget it
    return tree


def _open(path: Path) -> Source:
    """The checkpoint in a folder, in either format.

    Raises:
      UserError: there is no checkpoint, or it is damaged.
    """
    if not path.is_dir():
        raise UserError(f"there is no checkpoint folder {path}")
    if list(path.glob("*.safetensors")) and (path / "config.json").is_file():
        return HuggingFaceSource(path)
    if (path / "_METADATA").is_file() or (path / "_CHECKPOINT_METADATA").is_file():
        return GemmaSource(path)
    raise UserError(
        f"{path} holds no checkpoint: neither config.json and *.safetensors (Hugging"
        " Face) nor _METADATA (an Orbax checkpoint of the gemma package)"
    )


def _without_leading(sharding: jax.sharding.Sharding, axes: int):
    """The sharding of what one index of the first `axes` axes selects."""
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return sharding
    spec = jax.sharding.PartitionSpec(*sharding.spec[axes:])
    return jax.sharding.NamedSharding(sharding.mesh, spec)


def _on_device(tensor: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
    """The tensor in its own dtype; each device is sent only its shard."""
    return jax.make_array_from_callback(
        tensor.shape, sharding, lambda index: np.ascontiguousarray(tensor[index])
    )


@functools.partial(jax.jit, donate_argnums=0)
def _insert(leaf: jax.Array, tensor: jax.Array, at: tuple[int, ...]) -> jax.Array:
    """`leaf.at[at].set(tensor)` in place; the scatter itself would copy the leaf."""
    tensor = tensor.astype(leaf.dtype).reshape((1,) * len(at) + tensor.shape)
    return jax.lax.dynamic_update_slice(leaf, tensor, at + (0,) * (leaf.ndim - len(at)))


def _check_fields(path: Path, stated: dict[str, Any], architecture: TransformerConfig):
    if found := difference(stated, architecture):
        name, theirs, ours = found
        raise UserError(
            f"the checkpoint {path} has another architecture: its config.json"
            f" says {name}={_brief(theirs)}, where {_brief(ours)} is expected"
        )


def _brief(value: Any) -> str:
    if isinstance(value, tuple):  # the kinds of layers
        return f"{len(value)} layers ({', '.join(value[:7])}, ...)"
    return repr(value)


def _check_tensors(path: Path, source: Source, pieces: list[Piece]) -> None:
    """Raises UserError if a tensor is missing, unknown, or has another shape."""
    found = source.shapes
    wrong = [
        f"tensor {p.name} of shape {list(p.shape)} is missing"
        if p.name not in found
        else f"tensor {p.name} has shape {list(found[p.name])}, where"
        f" {list(p.shape)} is expected"
        for p in pieces
        if found.get(p.name) != p.shape
    ]
    unknown = sorted(found.keys() - {p.name for p in pieces})
    wrong += [f"tensor {n} of shape {list(found[n])} is unknown" for n in unknown]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(
            f"the checkpoint {path} does not fit the architecture that the config"
            f" names: {wrong[0]}{more}"
        )


def write(path: Path, params: Params, *, architecture: TransformerConfig) -> None:
    """Writes a nested checkpoint, for `gm.ckpts.load_params` and the package's models.

    Args:
      path: a folder that does not exist.
      params: the tree of `forward.init_params`, in the dtype to write.
      architecture: of the network; for the package's own models, one of
        `sizes.by_name`, whose tables have spare rows. These are filled with the padding
        token's.
    """
    table = params["embed"]
    if (spare := architecture.vocab_size - len(table)) > 0:
        table = jnp.concatenate([table, jnp.repeat(table[:1], spare, axis=0)])
    tree = {
        "embedder": {"input_embedding": table},
        "final_norm": {"scale": params["final_norm"]},
    }
    for i in range(architecture.num_layers):
        layer = {name: leaf[i] for name, leaf in params["layers"].items()}
        q, kv, gate = layer.pop("q"), layer.pop("kv"), layer.pop("gate")
        named = {GEMMA_NAMES[name]: leaf for name, leaf in layer.items()}
        if architecture.num_heads == architecture.num_kv_heads:
            named["attn/qkv_einsum/w"] = jnp.concatenate([q[None], kv])
        else:
            named |= {"attn/q_einsum/w": q, "attn/kv_einsum/w": kv}
        named["mlp/gating_einsum"] = (
            gate.swapaxes(1, 2) if architecture.transposed_gate else gate
        )
        for name, leaf in named.items():
            *modules, last = name.split("/")
            node = tree.setdefault(f"layer_{i}", {})
            for module in modules:
                node = node.setdefault(module, {})
            node[last] = leaf
    checkpoints.save_params(path, tree)
