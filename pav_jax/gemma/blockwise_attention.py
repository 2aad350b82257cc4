"""Causal attention of whole sequences, a block of queries and of keys at a time.

The scores of all pairs of tokens, T × T for each head, would be the largest arrays of a
training step on long rows. Here a scan visits pairs of blocks, and the scores of one
pair exist at a time. The softmax of a query is put together on the way: its largest
score so far, the sum of exponentials and the sum of values, both relative to that
score. Pairs that no query sees, above the diagonal or out of a local layer's window,
are not visited, so that the work is about half of T × T, or less.

The backward pass is a scan over the same pairs. From the forward pass it needs the
result and one number for each query, the logarithm of its sum; it computes the scores
again.

jax has no such function. `jax.nn.dot_product_attention` has no soft cap, and but for
cuDNN's kernels it holds T × T scores; the splash kernel, which has soft caps, is in
`jax.experimental`, and for TPUs alone.

Shape letters: B batch, T time, N query heads, K kv heads, H head_dim; G = N / K, the
query heads that share a kv head, or 1 of keys and values; C blocks of S tokens.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.distributed.mesh import BATCH
from pav_jax.distributed.sharding import constrain
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.chunked_log_probs import softcap

# Tokens of a block, and of a sequence from which this is used. On a CPU, blocks of 128
# to 512 take the same time within 20%, and a step of training takes less than by plain
# attention at SHORTEST tokens and above (docs/decisions.md).
BLOCK = 256
SHORTEST = 512
_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    is_local: jax.Array,
    *,
    architecture: TransformerConfig,
) -> jax.Array:
    """What each token gathers from itself and those before it.

    Scores and sums are float32; the products are of the inputs' dtype. In bfloat16 the
    result is within 0.25% of float32 attention of the same numbers, and gradients are
    within 0.4%, as root mean squares: about what rounding to bfloat16 takes.

    Args:
      q: rotated and scaled queries `[B, T, N, H]`.
      k: rotated keys `[B, T, K, H]`.
      v: values `[B, T, K, H]`.
      is_local: bool scalar; whether a token sees only the architecture's window.
      architecture: of the network.

    Returns:
      `[B, T, N, H]` in the dtype of `v`.
    """
    length = q.shape[1]
    windows = {
        architecture.window if kind == "local" else length
        for kind in architecture.layers
    }
    # The smaller first, which is that of local layers.
    windows = tuple(sorted({min(window, length) for window in windows}))
    out = _attend(
        _blocks(q, k.shape[2]),
        _blocks(k, k.shape[2]),
        _blocks(v, k.shape[2]),
        is_local,
        architecture.attn_softcap,
        windows,
    )
    return _tokens(out, q.shape)


def _blocks(x: jax.Array, kv_heads: int) -> jax.Array:
    """`[B, T, N, H]` as `[B, K, G, C, S, H]`; the last block is padded with zeros."""
    batch, length, _, head_dim = x.shape
    x = jnp.pad(x, ((0, 0), (0, -length % BLOCK), (0, 0), (0, 0)))
    count = x.shape[1] // BLOCK
    x = x.swapaxes(1, 2).reshape(batch, kv_heads, -1, count, BLOCK, head_dim)
    return _spread(x)


def _tokens(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The reverse: `[B, K, G, C, S, H]` as `shape`, which is `[B, T, N, H]`."""
    batch, length, heads, head_dim = shape
    return x.reshape(batch, heads, -1, head_dim)[:, :, :length].swapaxes(1, 2)


def _spread(x: jax.Array) -> jax.Array:
    """`x [B, K, ...]`, its rows and heads sharded as they are elsewhere."""
    return constrain(x, BATCH, "tensor")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(q, k, v, is_local, cap, windows):
    """Attention of blocks.

    Args:
      q: `[B, K, G, C, S, H]`.
      k: `[B, K, 1, C, S, H]`.
      v: the same shape.
      is_local: bool scalar.
      cap: the soft cap of the scores, or None.
      windows: the windows that layers may have; two, or one if all have the same.

    Returns:
      `[B, K, G, C, S, H]` in the dtype of `v`.
    """
    return _forward(q, k, v, is_local, cap, windows)[0]


def _forward(q, k, v, is_local, cap, windows):
    def run(window, q, k, v):
        def visit(carry, pair):
            i, j = pair
            top, total, out = (_at(x, i) for x in carry)
            scores = softcap(_scores(_at(q, i), _at(k, j)[:, :, 0]), cap)
            scores = jnp.where(_seen(i, j, window), scores, -jnp.inf)
            # Finite from the first pair on, in which each query sees itself.
            new_top = jnp.maximum(top, jnp.max(scores, axis=-1))
            weights = jnp.exp(scores - new_top[..., None])
            shrink = jnp.exp(top - new_top)
            total = total * shrink + jnp.sum(weights, axis=-1)
            weights, value = weights.astype(v.dtype), _at(v, j)[:, :, 0]
            part = _product("bkgts,bksh->bkgth", weights, value)
            out = out * shrink[..., None] + part
            return _put(carry, (new_top, total, out), i), None

        sums = jnp.zeros(q.shape[:-1], jnp.float32)
        start = (sums - jnp.inf, sums, jnp.zeros(q.shape, jnp.float32))
        start = jax.tree.map(_spread, start)
        (top, total, out), _ = jax.lax.scan(visit, start, _pairs(q.shape[3], window))
        return (out / total[..., None]).astype(v.dtype), top + jnp.log(total)

    out, log_total = _choose(is_local, windows, run, q, k, v)
    return out, (q, k, v, is_local, out, log_total)


def _backward(cap, windows, saved, cotangent):
    q, k, v, is_local, out, log_total = saved
    # What the softmax takes off: the mean of the slopes of a query, by its weights.
    mean = jnp.sum(out.astype(jnp.float32) * cotangent.astype(jnp.float32), axis=-1)

    def run(window, q, k, v, cotangent, log_total, mean):
        def visit(carry, pair):
            i, j = pair
            of_q, of_k, of_v = carry
            query, slope = _at(q, i), _at(cotangent, i)
            key, value = _at(k, j)[:, :, 0], _at(v, j)[:, :, 0]
            scores = softcap(_scores(query, key), cap)
            weights = jnp.exp(scores - _at(log_total, i)[..., None])
            weights = jnp.where(_seen(i, j, window), weights, 0.0)
            add = _product("bkgts,bkgth->bksh", weights.astype(v.dtype), slope)
            of_v = _put(of_v, _at(of_v, j) + add[:, :, None], j)
            slopes = _product("bkgth,bksh->bkgts", slope, value)
            slopes = weights * (slopes - _at(mean, i)[..., None])
            if cap is not None:
                slopes *= 1.0 - jnp.square(scores / cap)
            slopes = slopes.astype(q.dtype)
            add = _product("bkgts,bksh->bkgth", slopes, key)
            of_q = _put(of_q, _at(of_q, i) + add, i)
            add = _product("bkgts,bkgth->bksh", slopes, query)
            of_k = _put(of_k, _at(of_k, j) + add[:, :, None], j)
            return (of_q, of_k, of_v), None

        start = [_spread(jnp.zeros(x.shape, jnp.float32)) for x in (q, k, v)]
        found, _ = jax.lax.scan(visit, tuple(start), _pairs(q.shape[3], window))
        return tuple(g.astype(x.dtype) for g, x in zip(found, (q, k, v), strict=True))

    found = _choose(is_local, windows, run, q, k, v, cotangent, log_total, mean)
    return (*found, None)


_attend.defvjp(_forward, _backward)


def _choose(is_local: jax.Array, windows: tuple[int, ...], run: Any, *arrays) -> Any:
    """`run(window, *arrays)` with this layer's window: the first if it is local."""
    branches = [functools.partial(run, window) for window in windows]
    if len(branches) == 1:
        return branches[0](*arrays)
    return jax.lax.cond(is_local, *branches, *arrays)


def _pairs(count: int, window: int) -> tuple[jax.Array, jax.Array]:
    """Blocks of queries, and of keys that some query of them sees, each int32.

    A block's own keys come first.
    """
    # The nearest tokens of two blocks are this much less than their distance apart.
    reach = (window + BLOCK - 2) // BLOCK
    pairs = [(i, j) for i in range(count) for j in range(i, max(-1, i - reach - 1), -1)]
    queries, keys = zip(*pairs, strict=True)
    return jnp.array(queries, jnp.int32), jnp.array(keys, jnp.int32)


def _scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """Float32 `[B, K, G, S, S]`, of `query [B, K, G, S, H]` and `key [B, K, S, H]`."""
    return _product("bkgth,bksh->bkgts", query, key)


def _seen(i: jax.Array, j: jax.Array, window: int) -> jax.Array:
    """Which keys of block `j` each query of block `i` sees, bool `[1, 1, 1, S, S]`."""
    place = jnp.arange(BLOCK)
    distance = (i - j) * BLOCK + place[:, None] - place[None]
    return ((distance >= 0) & (distance < window))[None, None, None]


def _at(x: jax.Array, i: jax.Array) -> jax.Array:
    """Block `i` of `x [B, K, G, C, ...]`."""
    return jax.lax.dynamic_index_in_dim(x, i, axis=3, keepdims=False)


def _put(whole: Any, part: Any, i: jax.Array) -> Any:
    """Arrays with the parts at `i` replaced; in place, which `.at[i].set` is not."""

    def put(a, b):
        return jax.lax.dynamic_update_index_in_dim(a, b, i, axis=3)

    return jax.tree.map(put, whole, part)
