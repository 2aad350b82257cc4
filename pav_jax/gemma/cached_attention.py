"""Attention over shared trunks and private branches: the engine's model half.

Every sampling job is many short continuations of few shared prefixes. A trunk is a
prefix that M branches read but never write; a branch adds a short private suffix. The
place where a branch leaves its trunk is just a length, the mask `t < trunk_length`: to
continue every prefix of a response, nothing is copied.

Shape letters: G trunks, M branches of each, S new tokens, T trunk capacity, C suffix
capacity, N heads, K kv heads, H head_dim. There is one array a layer, since a cache
that is stacked over layers is copied at every step on a CPU.
"""

import dataclasses
import functools
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
      tokens: int32 `[G, T]`, real tokens first; what is computed for padding is not
        read.
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
    """Parameters in the form that `extend` reads fastest on their device.

    A TPU reads a layer's slice of the stacked weights in place. On a CPU a slice is a
    copy, made again at every token, and on a GPU some are: a decode step of Gemma 2 2B
    took 8.5 ms on an H200 with stacked weights, and 6.4 with buffers of their own. So
    there each layer gets its own, which is a second copy of the layers' weights.
    """
    platforms = {d.platform for d in params["embed"].devices()}
    if platforms == {"cpu"}:
        return unstack(params, one_product=False)
    return unstack(params, one_product=True) if platforms == {"gpu"} else params


@functools.partial(jax.jit, static_argnames="one_product")
def unstack(params: Params, *, one_product: bool) -> Params:
    """Parameters with a tuple of layers in place of stacked arrays.

    Args:
      params: the tree of `forward.init_params`.
      one_product: gate and up become one matrix, `gate_up [D, 2, F]`. Two products of
        the same input are joined by XLA on a GPU, with a kernel that is half as fast.
    """
    layers = []
    for i in range(len(params["layers"]["q"])):
        layer = _layer(params, i)
        if one_product:
            layer["gate_up"] = jnp.stack(layer.pop("gate"), axis=1)
        layers.append(layer)
    return params | {"layers": tuple(layers)}


def copy_rows(suffix: KeyValues, parents: jax.Array, used: jax.Array) -> KeyValues:
    """Branch m of trunk g becomes a copy of branch `parents[g, m]`.

    In place, a stretch of tokens at a time, as far as there are tokens: the rest, which
    is most of a suffix, is not copied.

    Args:
      suffix: `[G, M, K, C, H]` a layer.
      parents: int32 `[G, M]`.
      used: int32 scalar, the most tokens that a branch holds.

    Returns:
      The suffix, of which only the first `used` tokens are valid.
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

    A branch may have fewer real tokens than S: the rest is written beyond its length,
    where the mask hides it until it is overwritten. Tokens past the capacity are
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
        trunks lie end to end; by default all begin at 0.

    Returns:
      The suffix with the tokens' keys and values, and hidden states
      `[G, M, S, D]`.
    """
    count = tokens.shape[-1]
    offset = suffix_length[..., None] + jnp.arange(count)[None, None]  # [G, M, S]
    position = trunk_length[..., None] + offset
    angles = forward.rope_angles(position, architecture)
    start = jnp.zeros_like(trunk_length) if trunk_start is None else trunk_start
    on_trunk, on_suffix = _masks(
        trunk, suffix, start, position, offset, architecture=architecture
    )
    at = _places(offset, architecture.num_kv_heads)
    new_keys, new_values = [], []
    x = forward.embed(params, tokens)
    for i, kind in enumerate(architecture.layers):
        layer = _layer(params, i)
        q, k, v = forward.project_qkv(layer, x, angles[kind], architecture=architecture)
        new_keys.append(suffix.keys[i].at[at].set(k, mode="drop"))
        new_values.append(suffix.values[i].at[at].set(v, mode="drop"))
        encoded = _attend(
            q,
            (trunk.keys[i], trunk.values[i], on_trunk[kind]),
            (new_keys[i], new_values[i], on_suffix[kind]),
            architecture=architecture,
        )
        x = forward.finish_layer(layer, x, encoded)
    x = forward.rms_norm(x, params["final_norm"])
    return KeyValues(tuple(new_keys), tuple(new_values)), x


def _places(offset: jax.Array, kv_heads: int) -> tuple[jax.Array, ...]:
    """Where in `[G, M, K, C, H]` new tokens go, as an index; `offset` is `[G, M, S]`.

    It has every axis but the last. A window over kv heads too would make a TPU
    transpose the cache for the update, and back, at every token.
    """
    groups, branches, _ = offset.shape
    return (
        jnp.arange(groups)[:, None, None, None],
        jnp.arange(branches)[None, :, None, None],
        jnp.arange(kv_heads)[None, None, None],
        offset[..., None],
    )


def _attend(q, trunk, suffix, *, architecture: TransformerConfig) -> jax.Array:
    """Attention of new tokens over their trunk and their own suffix, as one softmax.

    The queries of all branches of a trunk are one matrix product with it. Scores on
    trunk and suffix are never concatenated: a softmax needs only their common maximum
    and sum (log-sum-exp).

    Args:
      q: queries `[G, M, S, N, H]`.
      trunk: keys and values `[G, K, T, H]`, and what queries see of them, bool
        `[G, 1, M * Q, T]`, with Q = S * N / K.
      suffix: keys and values `[G, M, K, C, H]`, and bool `[G, M, 1, Q, C]`.
      architecture: of the network.

    Returns:
      `[G, M, S, N, H]`.
    """
    trunk_keys, trunk_values, on_trunk = trunk
    suffix_keys, suffix_values, on_suffix = suffix
    shape, branches, dtype = q.shape, q.shape[1], trunk_values.dtype
    q = _by_kv_head(q, architecture.num_kv_heads)
    far = jnp.einsum("gkqh,gkth->gkqt", _by_trunk(q), trunk_keys)
    near = jnp.einsum("gmkqh,gmkch->gmkqc", q, suffix_keys)
    far = forward.mask_scores(far, on_trunk, architecture=architecture)
    near = forward.mask_scores(near, on_suffix, architecture=architecture)
    top = jnp.maximum(_by_branch(jnp.max(far, -1), branches), jnp.max(near, -1))
    far = jnp.exp(far - _by_trunk(top)[..., None])
    near = jnp.exp(near - top[..., None])
    total = _by_branch(jnp.sum(far, -1), branches) + jnp.sum(near, -1)
    encoded = jnp.einsum("gkqt,gkth->gkqh", far.astype(dtype), trunk_values)
    encoded = _by_branch(encoded, branches)
    encoded += jnp.einsum("gmkqc,gmkch->gmkqh", near.astype(dtype), suffix_values)
    return _by_token((encoded / total[..., None]).astype(dtype), shape)


def _by_kv_head(q: jax.Array, kv_heads: int) -> jax.Array:
    """`[G, M, S, N, H]` as `[G, M, K, Q, H]`, with Q = S * N / K."""
    groups, branches, count, _, head_dim = q.shape
    q = q.reshape(groups, branches, count, kv_heads, -1, head_dim)
    q = q.transpose(0, 1, 3, 2, 4, 5)  # [G, M, K, S, N / K, H]
    return q.reshape(groups, branches, kv_heads, -1, head_dim)


def _by_token(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """`[G, M, K, Q, H]` as `shape`, which is `[G, M, S, N, H]`."""
    x = x.reshape(*x.shape[:3], shape[2], -1, x.shape[-1])
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(shape)


def _layer(params: Params, i: int) -> Params:
    """One layer's parameters.

    Pairs are separated by the same slice as the layer: a TPU's compiler copies a slice
    that two products read, at every token.
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
