"""Attention over shared trunks and private branches: the engine's model half.

Every sampling job is many short continuations of few shared prefixes. A trunk
is a prefix that G groups of M branches each read but never write; a branch adds
a short private suffix. Where a branch leaves its trunk is just a length: the
mask `t < trunk_length`, so continuations of every prefix of a response need
nothing but integers.

Shape letters: G trunks, M branches of each, S new tokens, T trunk capacity, C
suffix capacity, K kv heads, H head_dim; one array a layer, since a cache that
is stacked over layers is copied at every step on CPU.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from pav_jax.core.types import Params
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValues:
    """Keys and values of every layer.

    Attributes:
      keys: a tuple with `[..., K, time, H]` for each layer, already rotated.
      values: the same shapes.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]


def prefill(
    params: Params, tokens: jax.Array, *, architecture: TransformerConfig
) -> tuple[KeyValues, jax.Array]:
    """Keys and values of whole trunks.

    Args:
      params: the tree of `forward.init_params`.
      tokens: int32 `[G, T]`, real tokens first; padding is computed and unread.
      architecture: of the network.

    Returns:
      Trunks of `[G, K, T, H]` a layer, and final hidden states `[G, T, D]`.
    """
    hidden, (keys, values) = forward.hidden_states(
        params, tokens, architecture=architecture, return_kv=True
    )
    return KeyValues(tuple(keys), tuple(values)), hidden


def zero_key_values(
    shape: tuple[int, ...], *, architecture: TransformerConfig, dtype: jnp.dtype
) -> KeyValues:
    """Zeros of `shape` for every layer, each a buffer of its own."""

    def zeros():
        return tuple(jnp.zeros(shape, dtype) for _ in architecture.layers)

    return KeyValues(zeros(), zeros())


def empty_suffix(
    groups: int,
    branches: int,
    capacity: int,
    *,
    architecture: TransformerConfig,
    dtype: jnp.dtype = jnp.float32,
) -> KeyValues:
    """Room for `capacity` tokens a branch: `[G, M, K, C, H]` a layer."""
    shape = (
        groups,
        branches,
        architecture.num_kv_heads,
        capacity,
        architecture.head_dim,
    )
    return zero_key_values(shape, architecture=architecture, dtype=dtype)


def for_extend(params: Params) -> Params:
    """Parameters in the form that `extend` reads fastest, where they are.

    A CPU copies what it slices, of stacked layers all weights at every token: there
    each layer gets buffers of its own. Elsewhere the slice is read in place.
    """
    on_cpu = all(d.platform == "cpu" for d in params["embed"].devices())
    return _unstack(params) if on_cpu else params


@jax.jit
def _unstack(params: Params) -> Params:
    count = len(params["layers"]["q"])
    return params | {"layers": tuple(_layer(params, i) for i in range(count))}


def copy_rows(suffix: KeyValues, parents: jax.Array, used: jax.Array) -> KeyValues:
    """Branch m of trunk g becomes what branch `parents[g, m]` of it was.

    In place, a stretch of tokens at a time, as far as there are tokens: what lies
    beyond is most of a suffix, and is not copied.

    Args:
      suffix: `[G, M, K, C, H]` a layer.
      parents: int32 `[G, M]`.
      used: int32 scalar, the most tokens that a branch holds.

    Returns:
      The suffix, in which only the first `used` tokens mean anything.
    """
    capacity = suffix.keys[0].shape[3]
    size = math.gcd(capacity, 16)
    index = parents[:, :, None, None, None]

    def copy(stretch, suffix):
        def move(array):
            part = jax.lax.dynamic_slice_in_dim(array, stretch * size, size, axis=3)
            part = jnp.take_along_axis(part, index, axis=1)
            return jax.lax.dynamic_update_slice_in_dim(
                array, part, stretch * size, axis=3
            )

        return jax.tree.map(move, suffix)

    return jax.lax.fori_loop(0, (used + size - 1) // size, copy, suffix)


def extend(
    params: Params,
    trunk: KeyValues,
    suffix: KeyValues,
    tokens: jax.Array,
    trunk_length: jax.Array,
    suffix_length: jax.Array,
    *,
    architecture: TransformerConfig,
    trunk_start: jax.Array | None = None,
) -> tuple[KeyValues, jax.Array]:
    """Appends S tokens to every branch, in one pass.

    Tokens past a branch's real ones are written beyond its length, where the
    mask hides them until they are overwritten; past the capacity they are
    dropped.

    Args:
      params: the tree of `forward.init_params`, or what `for_extend` makes of it.
      trunk: `[G, K, T, H]` a layer; read once for all branches of a group.
      suffix: `[G, M, K, C, H]` a layer.
      tokens: int32 `[G, M, S]`.
      trunk_length: int32 `[G, M]`, how much of its trunk each branch sees.
      suffix_length: int32 `[G, M]`, tokens that the suffix holds before this.
      architecture: of the network.
      trunk_start: int32 `[G, M]`, where in T each branch's trunk begins, if several
        are laid end to end; else all begin at 0.

    Returns:
      The suffix with the tokens' keys and values, and hidden states
      `[G, M, S, D]`.
    """
    groups, branches, count = tokens.shape
    kv_heads, head_dim = architecture.num_kv_heads, architecture.head_dim
    queries = count * architecture.num_heads // kv_heads  # of a kv head, in one branch
    offset = suffix_length[..., None] + jnp.arange(count)[None, None]  # [G, M, S]
    position = trunk_length[..., None] + offset
    angles = forward.rope_angles(position, architecture)
    start = jnp.zeros_like(trunk_length) if trunk_start is None else trunk_start
    on_trunk, on_suffix = _masks(
        trunk, suffix, start, position, offset, architecture=architecture
    )
    # Every axis but the last is indexed. A window over kv heads too would have a TPU
    # turn the cache around for the update, and back, at every token.
    row = (
        jnp.arange(groups)[:, None, None, None],
        jnp.arange(branches)[None, :, None, None],
        jnp.arange(kv_heads)[None, None, None],
        offset[..., None],
    )
    new_keys, new_values = [], []
    x = forward.embed(params, tokens)
    for i, kind in enumerate(architecture.layers):
        layer = _layer(params, i)
        q, k, v = forward.project_qkv(layer, x, angles[kind], architecture=architecture)
        keys = suffix.keys[i].at[row].set(k, mode="drop")
        values = suffix.values[i].at[row].set(v, mode="drop")
        # A trunk's queries are those of all its branches: one matrix product. Scores
        # on trunk and suffix are never laid end to end; they meet in the maximum and
        # the sum that a softmax needs of them.
        q = q.reshape(groups, branches, count, kv_heads, -1, head_dim)
        q = q.transpose(0, 1, 3, 2, 4, 5)  # [G, M, K, S, P, H]
        q = q.reshape(groups, branches, kv_heads, queries, head_dim)
        far = jnp.einsum(
            "gkqh,gkth->gkqt",
            q.swapaxes(1, 2).reshape(groups, kv_heads, -1, head_dim),
            trunk.keys[i],
        )
        near = jnp.einsum("gmkqh,gmkch->gmkqc", q, keys)
        far = forward.mask_scores(far, on_trunk[kind], architecture=architecture)
        near = forward.mask_scores(near, on_suffix[kind], architecture=architecture)
        top = jnp.maximum(_by_branch(jnp.max(far, -1), branches), jnp.max(near, -1))
        far = jnp.exp(far - _by_trunk(top)[..., None])
        near = jnp.exp(near - top[..., None])
        total = _by_branch(jnp.sum(far, -1), branches) + jnp.sum(near, -1)
        encoded = jnp.einsum("gkqt,gkth->gkqh", far.astype(v.dtype), trunk.values[i])
        encoded = _by_branch(encoded, branches)
        encoded += jnp.einsum("gmkqc,gmkch->gmkqh", near.astype(v.dtype), values)
        encoded = (encoded / total[..., None]).astype(v.dtype)
        encoded = encoded.reshape(groups, branches, kv_heads, count, -1, head_dim)
        encoded = encoded.transpose(0, 1, 3, 2, 4, 5)
        encoded = encoded.reshape(
            groups, branches, count, architecture.num_heads, head_dim
        )
        x = forward.finish_layer(layer, x, encoded)
        new_keys.append(keys)
        new_values.append(values)
    x = forward.rms_norm(x, params["final_norm"])
    return KeyValues(tuple(new_keys), tuple(new_values)), x


def _layer(params: Params, i: int) -> Params:
    """One layer's parameters.

    Pairs come apart in the same slice as the layer: of a slice that two products read,
    a TPU's compiler makes a copy, at every token.
    """
    if isinstance(params["layers"], tuple):
        return params["layers"][i]
    return {
        name: (a[i, 0], a[i, 1]) if name in ("kv", "gate") else a[i]
        for name, a in params["layers"].items()
    }


def _by_branch(x: jax.Array, branches: int) -> jax.Array:
    """`[G, K, M * Q, ...]` as `[G, M, K, Q, ...]`."""
    return x.reshape(*x.shape[:2], branches, -1, *x.shape[3:]).swapaxes(1, 2)


def _by_trunk(x: jax.Array) -> jax.Array:
    """`[G, M, K, Q, ...]` as `[G, K, M * Q, ...]`."""
    x = x.swapaxes(1, 2)
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _masks(
    trunk: KeyValues,
    suffix: KeyValues,
    start: jax.Array,
    position: jax.Array,
    offset: jax.Array,
    *,
    architecture: TransformerConfig,
) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
    """What each token sees of its trunk and of its own suffix, by layer kind.

    Args:
      trunk: `[G, K, T, H]` a layer.
      suffix: `[G, M, K, C, H]` a layer.
      start: int32 `[G, M]`, where each trunk begins.
      position: int32 `[G, M, S]`, of the new tokens.
      offset: int32 `[G, M, S]`, their places in the suffix.
      architecture: of the network.

    Returns:
      Two bool arrays for each of 'global' and 'local': on the trunk
      `[G, 1, M * Q, T]`, on the suffix `[G, M, 1, Q, C]`, with Q = S * heads of a
      kv head.
    """
    per_kv = architecture.num_heads // architecture.num_kv_heads
    trunk_time = jnp.arange(trunk.keys[0].shape[2])[None, None, None]
    suffix_time = jnp.arange(suffix.keys[0].shape[3])[None, None, None]
    position, offset = position[..., None], offset[..., None]
    trunk_time = trunk_time - start[..., None, None]
    far = {"global": (trunk_time >= 0) & (trunk_time < position - offset)}
    near = {"global": suffix_time <= offset}
    far["local"] = far["global"] & (position - trunk_time < architecture.window)
    near["local"] = near["global"] & (offset - suffix_time < architecture.window)

    def for_heads(mask):  # [G, M, S, time] -> [G, M, 1, Q, time]
        return jnp.repeat(mask, per_kv, axis=2)[:, :, None]

    return (
        {kind: _by_trunk(for_heads(mask)) for kind, mask in far.items()},
        {kind: for_heads(mask) for kind, mask in near.items()},
    )
