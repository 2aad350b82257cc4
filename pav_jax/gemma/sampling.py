"""How tokens are sampled: the settings, and the draw of one token."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.core.errors import UserError
from pav_jax.core.types import Params
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig

_DRAWN = 128  # branches of a trunk whose first tokens are drawn at a time


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn, and on what grid.

    Hashable, so that it can be a static argument of a jitted function.

    Attributes:
      max_tokens: most tokens of a whole response, its prefix included.
      end_ids: tokens that end a response.
      temperature: 0 takes the most likely token.
      trunks: trunks in flight (G * S).
      rows: rows in flight for each trunk (M = S * rows).
      trunks_per_group: trunks of a group (S), a divisor of `trunks`. A row works for
        any trunk of its group and computes scores on all of them: more work for a
        token, but fewer rows wait for the last branches of a trunk.

    Raises:
      UserError: `trunks_per_group` does not divide `trunks`.
    """

    max_tokens: int
    end_ids: tuple[int, ...]
    temperature: float = 1.0
    trunks: int = 32
    rows: int = 8
    trunks_per_group: int = 1

    def __post_init__(self):
        if self.trunks % self.trunks_per_group:
            raise UserError(
                f"config.sampling.trunks={self.trunks} has to be a multiple of"
                f" config.sampling.trunks_per_group={self.trunks_per_group}"
            )


def sample_token(
    keys: jax.Array, position: jax.Array, logits: jax.Array, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Draws one token for each row, by inverting the cumulative sum.

    Probabilities are summed in units of 2^-30. A float32 sum that runs in parallel is
    not monotone: over Gemma's vocabulary, its rounding alone gave 1e-4 of the draws to
    tokens of almost no probability. Integers sum exactly, in any order.

    Args:
      keys: uint32 `[..., 2]`, one for each branch.
      position: int32 `[...]`, the token's place in its branch.
      logits: float32 `[..., V]`.
      temperature: 0 takes the most likely token.

    Returns:
      int32 tokens `[...]`, and their float32 log-probabilities `[...]`.
    """
    if temperature == 0:
        log_probs = jax.nn.log_softmax(logits)
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    else:
        log_probs = jax.nn.log_softmax(logits / temperature)
        uniform = jax.vmap(
            lambda data, at: jax.random.uniform(
                jax.random.fold_in(jax.random.wrap_key_data(data), at)
            )
        )(keys.reshape(-1, 2), position.reshape(-1)).reshape(position.shape)
        weights = jnp.round(jnp.exp(log_probs) * 2.0**30).astype(jnp.int32)
        token = _first_above(weights, uniform)
    log_prob = jnp.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0]
    return token, log_prob


def _first_above(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Where the cumulative sum of `weights` exceeds `uniform` times its total.

    In two levels, first blocks and then the places of one block: a cumulative sum over
    a whole vocabulary reads it once for every doubling. A block lies within one
    device's shard of the vocabulary, so that none is gathered.

    Args:
      weights: int32 `[..., V]`, whose sum fits int32.
      uniform: float32 `[...]`, in [0, 1).

    Returns:
      int32 `[...]`.
    """
    shards = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    size = weights.shape[-1] // shards
    block = 1 << ((size - 1).bit_length() + 1) // 2  # about the square root
    blocks = -(-size // block)  # of a shard
    weights = weights.reshape(*weights.shape[:-1], shards, size)
    pad = [(0, 0)] * (weights.ndim - 1) + [(0, -size % block)]
    weights = jnp.pad(weights, pad).reshape(*weights.shape[:-2], -1, block)
    cdf = jnp.cumsum(jnp.sum(weights, axis=-1), axis=-1)
    total = cdf[..., -1:]
    point = (uniform[..., None] * total.astype(jnp.float32)).astype(jnp.int32)
    # Rounding must not reach the total, which is past the last token.
    point = jnp.minimum(point, total - 1)
    chosen = jnp.sum(cdf <= point, axis=-1, dtype=jnp.int32, keepdims=True)
    before = jnp.max(jnp.where(cdf <= point, cdf, 0), axis=-1, keepdims=True)
    inner = jnp.take_along_axis(weights, chosen[..., None], axis=-2)[..., 0, :]
    inner = before + jnp.cumsum(inner, axis=-1)
    place = jnp.sum(inner <= point, axis=-1, dtype=jnp.int32)
    shard, at = jnp.divmod(chosen[..., 0], blocks)
    return shard * size + at * block + place


def first_tokens(
    params: Params,
    trunk: tuple[jax.Array, jax.Array, jax.Array],
    *,
    architecture: TransformerConfig,
    sampling: SamplingConfig,
) -> tuple[jax.Array, jax.Array]:
    """Draws the first token of each branch of a trunk, 128 branches at a time.

    Args:
      params: the policy's parameters.
      trunk: its hidden states `[T, D]`; tokens of it that each branch sees, int32
        `[J]`; and keys, uint32 `[J, 2]`.
      architecture: of the network.
      sampling: how tokens are drawn.

    Returns:
      Tokens int32 `[J]`, and their log-probabilities float32 `[J]`.
    """
    hidden, *branches = trunk

    def draw(some):
        prefix, keys = some
        logits = forward.logits(params, hidden[prefix - 1], architecture=architecture)
        place = jnp.zeros_like(prefix)
        return sample_token(keys, place, logits, temperature=sampling.temperature)

    return _in_blocks(draw, branches, _DRAWN)


def _in_blocks(f: Callable, arrays: Any, size: int) -> Any:
    """`f` of arrays `[J, ...]`, of at most `size` rows at a time.

    Args:
      f: takes what `arrays` is, and returns arrays of as many rows.
      arrays: a tree of arrays; they are padded to whole blocks by their last rows.
      size: of a block.
    """
    (count,) = {len(array) for array in jax.tree.leaves(arrays)}
    if count <= size:
        return f(arrays)

    def split(array):
        padding = [(0, -count % size), *[(0, 0)] * (array.ndim - 1)]
        return jnp.pad(array, padding, "edge").reshape(-1, size, *array.shape[1:])

    found = jax.lax.map(f, jax.tree.map(split, arrays))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)
