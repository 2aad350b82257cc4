"""What the formats of checkpoints have in common.

A format is a `Source`: it lists the `Piece`s that make up our parameter tree, and reads
one tensor at a time. There are two: `package_format` and `hugging_face`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from pav_jax.core.errors import UserError, exhausted
from pav_jax.gemma.architecture import TransformerConfig

# Embedding tables end in rows that belong to no token; checkpoints differ in how many.
SPARE_ROWS = 256


@dataclasses.dataclass(frozen=True)
class Piece:
    """One tensor of a checkpoint, and its place in our parameter tree.

    Attributes:
      name: the checkpoint's name for the tensor.
      shape: the shape that it must have in the checkpoint.
      leaf: the name of our parameter.
      at: the leading indices at which the tensor goes into our parameter; empty if it
        is the whole parameter.
      ours: the tensor in our layout, as a view.
      theirs: the reverse, of a format that is written by its pieces.
    """

    name: str
    shape: tuple[int, ...]
    leaf: str
    at: tuple[int, ...] = ()
    ours: Callable[[np.ndarray], np.ndarray] = lambda tensor: tensor
    theirs: Callable[[np.ndarray], np.ndarray] = lambda tensor: tensor


class Source(Protocol):
    """A checkpoint that can be read one tensor at a time."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor of the text model."""
        ...

    def pieces(self, architecture: TransformerConfig) -> list[Piece]:
        """The pieces of an architecture, in a good order for reading."""
        ...

    def read(self, name: str) -> np.ndarray:
        """One tensor, in the dtype that it is stored in."""
        ...


def embedding_piece(
    name: str, architecture: TransformerConfig, found: tuple[int, ...] | None
) -> Piece:
    """The embedding table, with as many spare rows as the architecture has.

    Missing rows become copies of the padding token's, which is never to be sampled; a
    row of zeros would have the logit 0, which can be large.

    Args:
      name: the checkpoint's name for the table.
      architecture: of the network.
      found: the table's shape in the checkpoint; None if it is missing.
    """
    size = architecture.vocab_size
    rows = found[0] if found else size
    if abs(rows - size) > SPARE_ROWS:
        rows = size  # so that the check of shapes says what is wrong

    def fit(table: np.ndarray) -> np.ndarray:
        if len(table) >= size:
            return table[:size]
        return np.concatenate([table, np.repeat(table[:1], size - len(table), 0)])

    return Piece(name, (rows, architecture.embed_dim), "embed", (), fit)


@contextlib.contextmanager
def damage_is_a_user_error(path: Path) -> Iterator[None]:
    """A context that raises UserError for any error in reading `path`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax, TensorStore and safetensors raise many kinds
        if exhausted(error):
            raise
        raise UserError(
            f"the checkpoint {path} is damaged ({type(error).__name__}: {error})"
        ) from error


def layer_shapes(architecture: TransformerConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of one layer's parameters, as in `forward.init_params`."""
    c = architecture
    shapes = {
        "q": (c.num_heads, c.embed_dim, c.head_dim),
        "kv": (2, c.num_kv_heads, c.embed_dim, c.head_dim),
        "o": (c.num_heads, c.head_dim, c.embed_dim),
        "gate": (2, c.embed_dim, c.mlp_dim),
        "down": (c.mlp_dim, c.embed_dim),
    }
    for name in ("pre_attn_norm", "post_attn_norm", "pre_mlp_norm", "post_mlp_norm"):
        shapes[name] = (c.embed_dim,)
    if c.qk_norm:
        shapes |= {"q_norm": (c.head_dim,), "k_norm": (c.head_dim,)}
    return shapes
