"""The published architectures, by name."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.gemma.architecture import TransformerConfig, tiny_gemma2
from pav_jax.gemma.formats import SPARE_ROWS

_MOST_LAYERS, _MOST = 1_000, 1 << 20  # of an architecture of one's own
_DTYPES = ("float32", "bfloat16")


def _gemma2(
    num_layers: int,
    embed_dim: int,
    mlp_dim: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int = 256,
    *,
    query_scale: float = 256**-0.5,
    transposed_gate: bool = True,
) -> TransformerConfig:
    """Local and global layers in turn; soft-capped logits."""
    return TransformerConfig(
        vocab_size=256_128,
        embed_dim=embed_dim,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        layers=tuple("global" if i % 2 else "local" for i in range(num_layers)),
        window=4096,
        query_scale=query_scale,
        transposed_gate=transposed_gate,
    )


def _gemma3(
    num_layers: int,
    embed_dim: int,
    mlp_dim: int,
    num_heads: int,
    num_kv_heads: int,
    head_dim: int = 256,
    *,
    query_scale: float = 256**-0.5,
    window: int = 1024,
    global_rope_scale: float = 8.0,
) -> TransformerConfig:
    """Every sixth layer global; normalised queries and keys."""
    return TransformerConfig(
        vocab_size=262_144,
        embed_dim=embed_dim,
        mlp_dim=mlp_dim,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        layers=tuple("local" if (i + 1) % 6 else "global" for i in range(num_layers)),
        window=window,
        query_scale=query_scale,
        attn_softcap=None,
        final_softcap=None,
        qk_norm=True,
        global_rope_base=1_000_000.0,
        global_rope_scale=global_rope_scale,
        transposed_gate=True,
    )


# The 27Bs scale queries by embed_dim / num_heads rather than by head_dim.
SIZES: dict[str, TransformerConfig] = {
    "gemma2_2b": _gemma2(26, 2304, 9216, 8, 4, transposed_gate=False),
    "gemma2_9b": _gemma2(42, 3584, 14336, 16, 8),
    "gemma2_27b": _gemma2(
        46, 4608, 36864, 32, 16, head_dim=128, query_scale=(4608 // 32) ** -0.5
    ),
    "gemma3_270m": _gemma3(18, 640, 2048, 4, 1, window=512, global_rope_scale=1.0),
    "gemma3_1b": _gemma3(26, 1152, 6912, 4, 1, window=512, global_rope_scale=1.0),
    "gemma3_4b": _gemma3(34, 2560, 10240, 8, 4),
    "gemma3_12b": _gemma3(48, 3840, 15360, 16, 8),
    "gemma3_27b": _gemma3(
        62, 5376, 21504, 32, 16, head_dim=128, query_scale=(5376 // 32) ** -0.5
    ),
}


def by_name(name: str) -> TransformerConfig:
    """A published architecture, with as many embeddings as the gemma package has.

    These are more than Gemma 2's tokenizer has tokens, so that the rows divide well.

    Raises:
      UserError: no architecture has that name.
    """
    if name not in SIZES:
        raise UserError(
            f"there is no architecture {name!r}; there are: {', '.join(SIZES)}"
        )
    return SIZES[name]


def shrunk(published: TransformerConfig) -> TransformerConfig:
    """An architecture of the same family and of laptop size, for trials.

    It has a layer of each kind, and keeps what distinguishes the family: query heads
    per kv head, norms, soft caps, the scale of queries, and RoPE.
    """
    heads, head_dim, embed_dim = published.num_heads // published.num_kv_heads, 8, 32
    by_head = published.query_scale == published.head_dim**-0.5
    return dataclasses.replace(
        published,
        embed_dim=embed_dim,
        mlp_dim=64,
        num_heads=heads,
        num_kv_heads=1,
        head_dim=head_dim,
        layers=("local", "global"),
        window=16,
        query_scale=(head_dim if by_head else embed_dim // heads) ** -0.5,
    )


def from_config(model: ConfigDict, vocab_size: int | None) -> TransformerConfig:
    """The architecture that `config.model` describes, of the policy and the verifiers.

    Args:
      model: the `name` of a published size, which may be `shrunk`, or the arguments
        of `tiny_gemma2`, which are not `shrunk`; and what `policy.initial_policy`
        reads.
      vocab_size: of the tokenizer, and so of the embeddings: the spare ones of a
        published size could only be sampled as tokens that have no text. None keeps
        those of a published size.

    Raises:
      UserError: there is no such size, or the tokenizer does not belong to it.
    """
    fields = {k: v for k, v in model.items() if k not in ("checkpoint", "dtype")}
    if "name" not in fields:
        if fields.pop("shrunk", False):
            raise UserError(
                "config.model.shrunk=True makes a published size small; set"
                " config.model.name to one, or leave config.model.shrunk out"
            )
        _check_own(fields)
        return tiny_gemma2(vocab_size, **fields)
    if others := sorted(fields.keys() - {"name", "shrunk"}):
        raise UserError(
            f"config.model.name={model.name!r} already fixes the architecture; remove"
            f" {', '.join(f'config.model.{field}' for field in others)}"
        )
    published = by_name(model.name)
    if vocab_size is None:
        return published
    if model.get("shrunk"):
        return dataclasses.replace(shrunk(published), vocab_size=vocab_size)
    if not 0 <= published.vocab_size - vocab_size <= SPARE_ROWS:
        raise UserError(
            f"the tokenizer has {vocab_size} tokens, and {model.name} has"
            f" {published.vocab_size} embeddings; set config.tokenizer.path to the"
            " tokenizer.model, or tokenizer.json, that belongs to it"
        )
    return dataclasses.replace(published, vocab_size=vocab_size)


def _check_own(fields: dict[str, Any]) -> None:
    """Raises UserError for the size of an architecture of one's own that is none."""
    for field, value in fields.items():
        most = _MOST_LAYERS if field == "num_layers" else _MOST
        if type(value) is not int or not 1 <= value <= most:
            raise UserError(
                f"config.model.{field} is {value!r}; it must be a whole number from 1"
                f" to {most}"
            )


def dtype_of(model: ConfigDict) -> jnp.dtype:
    """The dtype of a policy's parameters: `config.model.dtype`, float32 by default.

    Raises:
      UserError: training does not support it.
    """
    name = model.get("dtype", "float32")
    if name not in _DTYPES:
        raise UserError(
            f"config.model.dtype is {name!r}; it may be {' or '.join(_DTYPES)}"
        )
    return jnp.dtype(name)
