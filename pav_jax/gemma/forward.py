"""Gemma's forward pass as pure functions over one stacked parameter tree.

The `gemma` package is the reference (tests hold the two equal). The differences are
these: layers are stacked along a leading axis, so that training scans over them with
remat; keys and values are stored `[..., kv_head, time, head_dim]`, so that appending to
a cache copies nothing; and logits are computed only for the positions and tokens that
are asked for.

Shape letters: B batch, T time, D embed_dim, N query heads, K kv heads, H
head_dim, F mlp_dim, V vocabulary, L layers.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.core.types import Params
from pav_jax.distributed.mesh import BATCH
from pav_jax.distributed.sharding import constrain, constrain_one
from pav_jax.gemma import blockwise_attention, chunked_log_probs
from pav_jax.gemma.architecture import TransformerConfig


def init_params(
    key: jax.Array, architecture: TransformerConfig, dtype: jnp.dtype = jnp.float32
) -> Params:
    """Random parameters; the key is consumed.

    Matrices are normal with variance 1/fan_in; norm scales are zero (a scale is applied
    as `1 + scale`); the embedding has standard deviation 1/sqrt(D), since Gemma
    multiplies embeddings by sqrt(D).
    """
    c = architecture
    shapes = {
        "q": ((c.num_layers, c.num_heads, c.embed_dim, c.head_dim), c.embed_dim),
        "kv": (
            (c.num_layers, 2, c.num_kv_heads, c.embed_dim, c.head_dim),
            c.embed_dim,
        ),
        "o": (
            (c.num_layers, c.num_heads, c.head_dim, c.embed_dim),
            c.num_heads * c.head_dim,
        ),
        "gate": ((c.num_layers, 2, c.embed_dim, c.mlp_dim), c.embed_dim),
        "down": ((c.num_layers, c.mlp_dim, c.embed_dim), c.mlp_dim),
    }
    keys = dict(zip([*shapes, "embed"], jax.random.split(key, 6), strict=True))
    layers = {
        name: (jax.random.normal(keys[name], shape) * fan_in**-0.5).astype(dtype)
        for name, (shape, fan_in) in shapes.items()
    }
    for name in ("pre_attn_norm", "post_attn_norm", "pre_mlp_norm", "post_mlp_norm"):
        layers[name] = jnp.zeros((c.num_layers, c.embed_dim), dtype)
    if c.qk_norm:
        layers["q_norm"] = jnp.zeros((c.num_layers, c.head_dim), dtype)
        layers["k_norm"] = jnp.zeros((c.num_layers, c.head_dim), dtype)
    embed = jax.random.normal(keys["embed"], (c.vocab_size, c.embed_dim))
    return {
        "embed": (embed * c.embed_dim**-0.5).astype(dtype),
        "final_norm": jnp.zeros((c.embed_dim,), dtype),
        "layers": layers,
    }


def param_shapes(architecture: TransformerConfig, dtype: jnp.dtype) -> Params:
    """The tree of `init_params`, each leaf a `jax.ShapeDtypeStruct`."""
    init = functools.partial(init_params, architecture=architecture, dtype=dtype)
    return jax.eval_shape(init, jax.random.key(0))


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """RMS norm in float32, returned in `x`'s dtype; `scale` is `[D]`."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + 1e-6)
    scale = scale.astype(jnp.float32).reshape((1,) * (x.ndim - 1) + (-1,))
    return (y * (1.0 + scale)).astype(x.dtype)


def rope_angles(
    positions: jax.Array, architecture: TransformerConfig
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """(sin, cos) of each layer kind, float32 `[*positions.shape, H/2]`."""
    exponents = jnp.arange(architecture.head_dim // 2, dtype=jnp.float32)
    exponents = exponents * (2.0 / architecture.head_dim)
    angles = {}
    for kind, base, scale in (
        ("local", architecture.local_rope_base, architecture.local_rope_scale),
        ("global", architecture.global_rope_base, architecture.global_rope_scale),
    ):
        inverse = (1.0 / (base**exponents)).reshape((1,) * positions.ndim + (-1,))
        angle = positions[..., None].astype(jnp.float32) * inverse / scale
        angles[kind] = (jnp.sin(angle), jnp.cos(angle))
    return angles


def _rotate(x: jax.Array, angle: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Applies RoPE to `x [..., N, H]` by angles `[..., H/2]`.

    Each half times the cosine, plus the other half times the sine, negative for the
    first half. Swapping the halves is an index of the same loop, while concatenating
    two results is a branch for every element: on a CPU, a tenth of decoding.
    """
    sin, cos = (a[..., None, None, :] for a in angle)
    halves = x.astype(jnp.float32).reshape(*x.shape[:-1], 2, -1)
    sin = jnp.concatenate([-sin, sin], axis=-2)
    rotated = halves * cos + jnp.flip(halves, axis=-2) * sin
    return rotated.reshape(x.shape).astype(x.dtype)


def embed(params: Params, tokens: jax.Array) -> jax.Array:
    """Token embeddings `[..., D]` of int32 `tokens [...]`, scaled by sqrt(D)."""
    return _scaled(params["embed"][tokens])


def _scaled(x: jax.Array) -> jax.Array:
    return x * jnp.sqrt(x.shape[-1]).astype(x.dtype)


def _look_up(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """`table[tokens]`, `[B, T, D]`; every device looks up its columns of the table.

    On a mesh, tokens and then activations move between devices; the table, which is
    larger, does not.
    """
    rows = constrain(table[constrain(tokens, "data")], "data", None, "fsdp")
    return constrain(rows, BATCH)


def _spread(x: jax.Array) -> jax.Array:
    """`x [B, T, D]` with the tokens of a row sharded over `tensor`.

    This is the form between layers, where the backward pass keeps it, and in norms.
    With the sum over shards of heads or columns before it, it is one operation (a
    reduce-scatter), which sends half of what the sum alone would. The engine's
    `[G, M, S, D]`, with few tokens, stays as it is.
    """
    return constrain(x, BATCH, "tensor") if x.ndim == 3 else x


def _gathered(x: jax.Array) -> jax.Array:
    """`x [B, T, D]` with all tokens of its rows, for a product with shards of heads.

    Its gradient is sharded as `x` was.
    """
    return constrain(_spread(x), BATCH) if x.ndim == 3 else x


def _summed(x: jax.Array) -> jax.Array:
    """The reverse: a sum over shards, spread; its gradient has all tokens."""
    return _spread(constrain(x, BATCH)) if x.ndim == 3 else x


def project_qkv(
    layer: Params,
    x: jax.Array,
    angle: tuple[jax.Array, jax.Array],
    *,
    architecture: TransformerConfig,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Rotated, scaled queries `[..., N, H]`; keys and values `[..., K, H]`."""
    y = _gathered(rms_norm(x, layer["pre_attn_norm"]))
    q, k, v = (
        constrain_one(jnp.einsum("...d,ndh->...nh", y, matrix), -2, "tensor")
        for matrix in (layer["q"], layer["kv"][0], layer["kv"][1])
    )
    if architecture.qk_norm:
        q = rms_norm(q, layer["q_norm"])
        k = rms_norm(k, layer["k_norm"])
    q = _rotate(q, angle) * architecture.query_scale
    return q, _rotate(k, angle), v


def mask_scores(
    scores: jax.Array, mask: jax.Array, *, architecture: TransformerConfig
) -> jax.Array:
    """Attention scores in float32, soft-capped, and masked."""
    scores = scores.astype(jnp.float32)
    capped = chunked_log_probs.softcap(scores, architecture.attn_softcap)
    return jnp.where(mask, capped, chunked_log_probs.NEVER)


def finish_layer(layer: Params, x: jax.Array, encoded: jax.Array) -> jax.Array:
    """Output projection, feed-forward and residuals of one layer.

    Args:
      layer: one layer's parameters.
      x: the layer's input `[..., D]`.
      encoded: what attention gathered, `[..., N, H]`.

    Returns:
      The layer's output `[..., D]`.
    """
    encoded = constrain_one(encoded, -2, "tensor")
    out = _summed(jnp.einsum("...nh,nhd->...d", encoded, layer["o"]))
    x = x + rms_norm(out, layer["post_attn_norm"])
    y = _gathered(rms_norm(x, layer["pre_mlp_norm"]))
    gate, up = _gate_and_up(layer, y)
    out = jnp.einsum("...f,fd->...d", jax.nn.gelu(gate) * up, layer["down"])
    return x + rms_norm(_summed(out), layer["post_mlp_norm"])


def _gate_and_up(layer: Params, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both halves of the gated feed-forward layer, `[..., F]` each."""
    if "gate_up" in layer:  # of `cached_attention.unstack`
        both = jnp.einsum("...d,dcf->...cf", y, layer["gate_up"])
        pair = both[..., 0, :], both[..., 1, :]
    else:
        pair = (_widen(y, matrix, y.dtype) for matrix in layer["gate"])
    gate, up = (constrain_one(half, -1, "tensor") for half in pair)
    return gate, up


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _widen(x: jax.Array, matrix: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """`x [..., D] @ matrix [D, F]` in `dtype`, where F is larger than D.

    The gradient of the matrix needs either `x` or the cotangent transposed. jax's own
    rule transposes the cotangent, which is wider, together with all the arithmetic that
    it comes from: on a CPU, a third of a training step. Here it is `x`.
    """
    return jnp.einsum("...d,df->...f", x, matrix, preferred_element_type=dtype)


def _widen_forward(x, matrix, dtype):
    return _widen(x, matrix, dtype), (x, matrix)


def _widen_backward(dtype, saved, cotangent):
    x, matrix = saved
    return (
        jnp.einsum("...f,df->...d", cotangent, matrix).astype(x.dtype),
        jnp.einsum("...d,...f->df", x, cotangent).astype(matrix.dtype),
    )


_widen.defvjp(_widen_forward, _widen_backward)


def _attention(length: int, architecture: TransformerConfig) -> Callable[..., Any]:
    """Causal attention of whole sequences of `length` tokens.

    Returns:
      A function of queries `[B, T, N, H]`, keys and values `[B, T, K, H]` and whether
      the layer is local, which returns `[B, T, N, H]`: by blocks for long sequences,
      and for others of all scores at once.
    """
    if length >= blockwise_attention.SHORTEST:
        return functools.partial(blockwise_attention.attend, architecture=architecture)
    causal = jnp.tril(jnp.ones((length, length), bool))
    near = jnp.triu(jnp.ones((length, length), bool), 1 - architecture.window)
    groups = architecture.num_heads // architecture.num_kv_heads

    def attend(q, k, v, is_local):
        shape = q.shape
        q = q.reshape(
            *q.shape[:2], architecture.num_kv_heads, groups, architecture.head_dim
        )
        logits = jnp.einsum("btkgh,bskh->bkgts", q, k)
        mask = causal & (near | ~is_local)
        scores = mask_scores(logits, mask[None, None, None], architecture=architecture)
        weights = jax.nn.softmax(scores)
        encoded = jnp.einsum("bkgts,bskh->btkgh", weights.astype(v.dtype), v)
        return encoded.reshape(shape)

    return attend


def hidden_states(
    params: Params,
    tokens: jax.Array,
    *,
    architecture: TransformerConfig,
    return_kv: bool = False,
) -> Any:
    """Final-norm hidden states of whole sequences.

    Right padding needs no mask: attention is causal, so no real token sees it, and
    what is computed for it is not read. The backward pass computes each layer again,
    from its input, which is all that is stored.

    Args:
      params: the tree of `init_params`.
      tokens: int32 `[B, T]`, real tokens first.
      architecture: of the network.
      return_kv: also return keys and values, each `[L, B, K, T, H]`.

    Returns:
      `[B, T, D]` in the parameters' dtype, or `(hidden, (keys, values))`.
    """
    batch, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length), (batch, length))
    angles = rope_angles(positions, architecture)
    attend = _attention(length, architecture)

    def block(x, scanned):
        layer, is_local = scanned
        angle = jax.tree.map(
            lambda a, b: jnp.where(is_local, a, b), angles["local"], angles["global"]
        )
        q, k, v = project_qkv(layer, x, angle, architecture=architecture)
        encoded = attend(q, k, v, is_local)
        kv = (k.swapaxes(1, 2), v.swapaxes(1, 2)) if return_kv else None
        return _spread(finish_layer(layer, x, encoded)), kv

    is_local = jnp.array([kind == "local" for kind in architecture.layers])
    x, kv = jax.lax.scan(
        jax.checkpoint(block, prevent_cse=False),  # which a scan does not need
        _spread(_scaled(_look_up(params["embed"], tokens))),
        (params["layers"], is_local),
    )
    x = _gathered(rms_norm(x, params["final_norm"]))
    return (x, kv) if return_kv else x


def logits(
    params: Params, hidden: jax.Array, *, architecture: TransformerConfig
) -> jax.Array:
    """Float32 next-token logits `[..., V]` of final hidden states `[..., D]`."""
    out = jnp.einsum(
        "...d,vd->...v", hidden, params["embed"], preferred_element_type=jnp.float32
    )
    return chunked_log_probs.softcap(out, architecture.final_softcap)


def token_log_probs(
    params: Params,
    hidden: jax.Array,
    targets: jax.Array,
    *,
    architecture: TransformerConfig,
    chunk: int = 16_384,
) -> jax.Array:
    """Float32 log-probability `[B, T]` of `targets [B, T]` given `hidden [B, T, D]`.

    If the vocabulary is larger than `chunk`, at most `chunk` logits of a token exist at
    once, also in the backward pass, which computes them again.
    """
    table, cap = params["embed"], architecture.final_softcap
    if len(table) > chunk:
        return chunked_log_probs.log_probs(table, hidden, targets, cap, chunk)
    out = chunked_log_probs.softcap(
        _widen(hidden, table.T, jnp.dtype(jnp.float32)), cap
    )
    log_probs = jax.nn.log_softmax(out)
    return jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
