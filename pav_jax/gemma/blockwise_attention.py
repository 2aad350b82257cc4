"""Causal attention of whole sequences, a block of queries and of keys at a time.

The scores of all pairs of tokens, T × T for each head, would be most of the memory of
a training step on long rows. Here a scan visits pairs of blocks, and the scores of one
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

Shape letters: B batch, T time, N query heads, K kv heads, H head_dim; C blocks of S
tokens; R = S * N / K, the queries of a block that share a kv head.
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
# to 512 take the same time within 15%, and a step of training takes less than by plain
# attention from SHORTEST tokens on (docs/decisions.md).
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
    """`[B, T, N, H]` as `[C, B, K, R, H]`; the last block is filled up with zeros."""
    batch, length, _, head_dim = x.shape
    x = jnp.pad(x, ((0, 0), (0, -length % BLOCK), (0, 0), (0, 0)))
    x = x.reshape(batch, -1, BLOCK, kv_heads, x.shape[2] // kv_heads, head_dim)
    x = x.transpose(1, 0, 3, 4, 2, 5)
    return _spread(x.reshape(*x.shape[:3], -1, head_dim))


def _tokens(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The reverse: `[C, B, K, R, H]` as `shape`, which is `[B, T, N, H]`."""
    count, batch, kv_heads, _, head_dim = x.shape
    x = x.reshape(count, batch, kv_heads, -1, BLOCK, head_dim)
    x = x.transpose(1, 0, 4, 2, 3, 5)
    return x.reshape(batch, count * BLOCK, -1, head_dim)[:, : shape[1]]


def _spread(x: jax.Array) -> jax.Array:
    """`x [C, B, K, ...]`, its rows and heads sharded as they are elsewhere."""
    return constrain(x, None, BATCH, "tensor")


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(q, k, v, is_local, cap, windows):
    """Attention of blocks.

    Args:
      q: `[C, B, K, R, H]`.
      k: `[C, B, K, S, H]`.
      v: the same shape.
      is_local: bool scalar.
      cap: the soft cap of the scores, or None.
      windows: the windows that layers may have; two, or one if all have the same.

    Returns:
      `[C, B, K, R, H]` in the dtype of `v`.
    """
    return _forward(q, k, v, is_local, cap, windows)[0]


def _forward(q, k, v, is_local, cap, windows):
    def run(window, q, k, v):
        def visit(carry, pair):
            i, j = pair
            top, total, out = (_at(x, i) for x in carry)
            scores = softcap(_scores(_at(q, i), _at(k, j)), cap)
            scores = jnp.where(_seen(scores, i, j, window), scores, -jnp.inf)
            # Finite from the first pair on, in which each query sees itself.
            new_top = jnp.maximum(top, jnp.max(scores, axis=-1))
            weights = jnp.exp(scores - new_top[..., None])
            shrink = jnp.exp(top - new_top)
            total = total * shrink + jnp.sum(weights, axis=-1)
            part = _product("bkrs,bksh->bkrh", weights.astype(v.dtype), _at(v, j))
            out = out * shrink[..., None] + part
            return _put(carry, (new_top, total, out), i), None

        sums = jnp.zeros(q.shape[:-1], jnp.float32)
        start = (sums - jnp.inf, sums, jnp.zeros(q.shape, jnp.float32))
        start = jax.tree.map(_spread, start)
        (top, total, out), _ = jax.lax.scan(visit, start, _pairs(len(q), window))
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
            query, key, value, slope = (
                _at(q, i),
                _at(k, j),
                _at(v, j),
                _at(cotangent, i),
            )
            scores = softcap(_scores(query, key), cap)
            weights = jnp.exp(scores - _at(log_total, i)[..., None])
            weights = jnp.where(_seen(scores, i, j, window), weights, 0.0)
            add = _product("bkrs,bkrh->bksh", weights.astype(v.dtype), slope)
            of_v = _put(of_v, _at(of_v, j) + add, j)
            slopes = _product("bkrh,bksh->bkrs", slope, value)
            slopes = weights * (slopes - _at(mean, i)[..., None])
            if cap is not None:
                slopes *= 1.0 - jnp.square(scores / cap)
            slopes = slopes.astype(q.dtype)
            add = _product("bkrs,bksh->bkrh", slopes, key)
            of_q = _put(of_q, _at(of_q, i) + add, i)
            add = _product("bkrs,bkrh->bksh", slopes, query)
            of_k = _put(of_k, _at(of_k, j) + add, j)
            return (of_q, of_k, of_v), None

        start = [_spread(jnp.zeros(x.shape, jnp.float32)) for x in (q, k, v)]
        found, _ = jax.lax.scan(visit, tuple(start), _pairs(len(q), window))
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
    """Float32 `[B, K, R, S]`."""
    return _product("bkrh,bksh->bkrs", query, key)


def _seen(scores: jax.Array, i: jax.Array, j: jax.Array, window: int) -> jax.Array:
    """Which keys of block `j` each query of block `i` sees, bool `[1, 1, R, S]`."""
    rows, columns = scores.shape[2:]
    query = i * BLOCK + jnp.arange(rows)[:, None] % BLOCK
    distance = query - (j * BLOCK + jnp.arange(columns)[None])
    return ((distance >= 0) & (distance < window))[None, None]


def _at(x: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(x, i, keepdims=False)


def _put(whole: Any, part: Any, i: jax.Array) -> Any:
    """Arrays with the parts at `i` replaced; in place, which `.at[i].set` is not."""

    def put(a, b):
        return jax.lax.dynamic_update_index_in_dim(a, b, i, axis=0)

    return jax.tree.map(put, whole, part)
