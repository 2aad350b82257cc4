"""The forward pass equals the gemma package's, and does not depend on how it is run."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

from pav_jax.core.types import Params
from pav_jax.gemma import cached_attention, forward
from pav_jax.gemma.architecture import TransformerConfig, tiny_gemma2

# Caps far below Gemma's 50 and 30, so that these small models feel them.
GEMMA2 = TransformerConfig(
    vocab_size=40,
    embed_dim=24,
    mlp_dim=40,
    num_heads=4,
    num_kv_heads=4,
    head_dim=8,
    layers=("local", "global", "local"),
    window=5,
    query_scale=8**-0.5,
    attn_softcap=2.0,
    final_softcap=3.0,
)
GEMMA3 = dataclasses.replace(
    GEMMA2,
    num_kv_heads=2,
    layers=("local",) * 5 + ("global",),
    attn_softcap=None,
    final_softcap=None,
    qk_norm=True,
    global_rope_base=1_000_000.0,
    global_rope_scale=8.0,
)
BATCH, LENGTH = 2, 17
PROMPT, DECODED = 7, 64  # greedy decoding, far past the window

# What compares our code with itself needs one layer of each kind.
short_configs = pytest.mark.parametrize(
    "architecture",
    [dataclasses.replace(c, layers=("local", "global")) for c in (GEMMA2, GEMMA3)],
    ids=["gemma2", "gemma3"],
)


def _scaled_by_embed_dim(architecture: TransformerConfig) -> TransformerConfig:
    scale = (architecture.embed_dim // architecture.num_heads) ** -0.5
    return dataclasses.replace(architecture, query_scale=scale)


def _transposed(architecture: TransformerConfig) -> TransformerConfig:
    return dataclasses.replace(architecture, transposed_gate=True)


_GROUPED = dataclasses.replace(GEMMA2, num_kv_heads=2)
CASES = {
    "gemma2-qkv": GEMMA2,
    "gemma2-qkv-transposed": _transposed(GEMMA2),
    "gemma2-grouped": _GROUPED,
    "gemma2-grouped-transposed": _transposed(_GROUPED),
    "gemma2-27b": _scaled_by_embed_dim(_transposed(_GROUPED)),
    "gemma3-1b": _transposed(
        dataclasses.replace(GEMMA3, num_kv_heads=1, global_rope_scale=1.0)
    ),
    "gemma3": _transposed(GEMMA3),
    "gemma3-27b": _scaled_by_embed_dim(_transposed(GEMMA3)),
}


def _tokens(architecture: TransformerConfig, length: int = LENGTH) -> jax.Array:
    """Random tokens; not token 0, which the package takes for padding."""
    rng = np.random.default_rng(length)
    return jnp.asarray(
        rng.integers(1, architecture.vocab_size, (BATCH, length)), jnp.int32
    )


def _stack(tree: dict[str, Any], architecture: TransformerConfig) -> Params:
    """The package's parameters as the tree of `forward.init_params`."""

    def one(i):
        block = tree[f"layer_{i}"]
        attn, mlp = block["attn"], block["mlp"]
        if "qkv_einsum" in attn:
            q, kv = attn["qkv_einsum"]["w"][0], attn["qkv_einsum"]["w"][1:]
        else:
            q, kv = attn["q_einsum"]["w"], attn["kv_einsum"]["w"]
        gate = mlp["gating_einsum"]
        if gate.shape[1:] == (architecture.mlp_dim, architecture.embed_dim):
            gate = gate.swapaxes(1, 2)
        layer = {
            "q": q,
            "kv": kv,
            "o": attn["attn_vec_einsum"]["w"],
            "gate": gate,
            "down": mlp["linear"],
            "pre_attn_norm": block["pre_attention_norm"]["scale"],
            "post_attn_norm": block["post_attention_norm"]["scale"],
            "pre_mlp_norm": block["pre_ffw_norm"]["scale"],
            "post_mlp_norm": block["post_ffw_norm"]["scale"],
        }
        if architecture.qk_norm:
            layer["q_norm"] = attn["_query_norm"]["scale"]
            layer["k_norm"] = attn["_key_norm"]["scale"]
        return layer

    layers = [one(i) for i in range(architecture.num_layers)]
    return {
        "embed": tree["embedder"]["input_embedding"],
        "final_norm": tree["final_norm"]["scale"],
        "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers),
    }


def _likeliest(logits):
    """Over `[..., V]`, but for token 0, which the package takes for padding."""
    return logits[..., 1:].argmax(-1) + 1


@functools.partial(jax.jit, static_argnames="architecture")
def _greedy(params, prompt, *, architecture):
    """The likeliest token, 64 times, after `prompt [T]`; through the cache."""
    trunk, hidden = cached_attention.prefill(
        params, prompt[None], architecture=architecture
    )
    suffix = cached_attention.empty_suffix(1, 1, DECODED, architecture=architecture)
    trunk_length = jnp.full((1, 1), len(prompt), jnp.int32)

    def step(i, carry):
        suffix, hidden, tokens = carry
        token = _likeliest(forward.logits(params, hidden, architecture=architecture))
        suffix, hidden = cached_attention.extend(
            params,
            trunk,
            suffix,
            jnp.full((1, 1, 1), token, jnp.int32),
            trunk_length,
            jnp.full((1, 1), i, jnp.int32),
            architecture=architecture,
        )
        return suffix, hidden[0, 0, 0], tokens.at[i].set(token)

    tokens = jnp.zeros((DECODED,), jnp.int32)
    return jax.lax.fori_loop(0, DECODED, step, (suffix, hidden[0, -1], tokens))[2]


@functools.cache
def _reference(package_model, name: str) -> tuple[Params, Any, Any, Any]:
    """Weights as our tree, tokens, and the package's hidden states and logits.

    The tokens are random in one row; the other is a random prompt, and what our
    cached decoding makes of it.
    """
    architecture = CASES[name]
    model, variables = package_model(architecture)
    weights = dict(variables["params"])
    # Turned around, or else each token is its own likeliest successor, as the table
    # that reads a token in is also the one that writes it out.
    weights["final_norm"] = {"scale": weights["final_norm"]["scale"] - 2}
    params = _stack(weights, architecture)
    tokens = _tokens(architecture, PROMPT + DECODED)
    decoded = _greedy(params, tokens[1, :PROMPT], architecture=architecture)
    tokens = tokens.at[1, PROMPT:].set(decoded)
    with jax.numpy_rank_promotion("allow"):
        out = model.apply({"params": weights}, tokens, return_hidden_states=True)
    return params, tokens, np.asarray(out.hidden_states), np.asarray(out.logits)


@functools.partial(jax.jit, static_argnames="architecture")
def _jitted(params, tokens, *, architecture):
    hidden, kv = forward.hidden_states(
        params, tokens, architecture=architecture, return_kv=True
    )
    return hidden, kv, forward.logits(params, hidden, architecture=architecture)


def _run(params, tokens, *, architecture):
    """Our (hidden states, (keys, values), logits), as numpy arrays."""
    return jax.device_get(_jitted(params, tokens, architecture=architecture))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_equals_the_gemma_package(package_model, name):
    architecture = CASES[name]
    params, tokens, their_hidden, their_logits = _reference(package_model, name)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    hidden, _, logits = _run(params, tokens, architecture=architecture)
    np.testing.assert_allclose(hidden, their_hidden, rtol=0, atol=1e-4)
    np.testing.assert_allclose(logits, their_logits, rtol=0, atol=1e-4)
    # The numbers compared are far larger than the tolerance.
    assert their_hidden.std() > 0.5 and their_logits.std() > 0.5
    # Each token that we decoded is the likeliest one to the package, and to our
    # forward pass without a cache, so either would have decoded the same.
    decoded = np.asarray(tokens[1, PROMPT:])
    assert len(set(decoded.tolist())) > 9
    for whole in (their_logits, logits):
        np.testing.assert_array_equal(_likeliest(whole[1, PROMPT - 1 : -1]), decoded)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma2-qkv", "gemma3"])
def test_keys_and_values_equal_the_package_s_cache(package_model, name):
    architecture = CASES[name]
    model, variables = package_model(architecture)
    cache = model.config.init_cache(BATCH, jnp.float32, cache_length=LENGTH)
    with jax.numpy_rank_promotion("allow"):
        cache = model.apply(variables, _tokens(architecture), cache=cache).cache
    params = _stack(variables["params"], architecture)
    _, (keys, values), _ = _run(
        params, _tokens(architecture), architecture=architecture
    )
    shape = (BATCH, architecture.num_kv_heads, LENGTH, architecture.head_dim)
    assert keys.shape == values.shape == (architecture.num_layers, *shape)
    for i in range(architecture.num_layers):
        for ours, theirs in ((keys, "k"), (values, "v")):
            np.testing.assert_allclose(
                ours[i],
                np.asarray(cache[f"layer_{i}"][theirs]).swapaxes(1, 2),
                rtol=0,
                atol=1e-4,
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gemma2-27b", dict(query_scale=8**-0.5)),
        ("gemma2-27b", dict(attn_softcap=None)),
        ("gemma2-27b", dict(final_softcap=None)),
        ("gemma2-27b", dict(window=4)),
        ("gemma2-27b", dict(window=6)),
        ("gemma2-27b", dict(layers=("global", "local", "global"))),
        ("gemma2-27b", dict(local_rope_base=1_000_000.0)),
        ("gemma3", dict(qk_norm=False)),
        ("gemma3", dict(window=6)),
        ("gemma3", dict(global_rope_base=10_000.0)),
        ("gemma3", dict(global_rope_scale=1.0)),
        ("gemma3", dict(local_rope_scale=8.0)),
        ("gemma3", dict(layers=("local",) * 6)),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else value,
)
def test_the_comparison_notices_a_wrong_switch(package_model, name, change):
    """So the test above compares what it is there to compare."""
    params, tokens, _, their_logits = _reference(package_model, name)
    architecture = dataclasses.replace(CASES[name], **change)
    _, _, logits = _run(params, tokens, architecture=architecture)
    assert np.abs(logits - their_logits).max() > 1e-2


def test_the_gradient_is_that_of_plain_differentiation(monkeypatch):
    """Of all parameters, where no layer is computed again and jax lays out all."""
    architecture = dataclasses.replace(GEMMA2, layers=("local", "global"))
    params, tokens = random_params(architecture), _tokens(architecture)

    def loss(params):
        hidden = forward.hidden_states(params, tokens, architecture=architecture)
        log_probs = forward.token_log_probs(
            params, hidden[:, :-1], tokens[:, 1:], architecture=architecture
        )
        return -jnp.mean(log_probs)

    ours, gradient = jax.jit(jax.value_and_grad(loss))(params)
    assert "remat" in str(jax.make_jaxpr(loss)(params))
    monkeypatch.setattr(jax, "checkpoint", lambda function, **_: function)
    monkeypatch.setattr(
        forward, "_widen", lambda x, matrix, _: jnp.einsum("...d,df->...f", x, matrix)
    )
    plain, plain_gradient = jax.jit(jax.value_and_grad(lambda p: loss(p)))(params)
    np.testing.assert_allclose(ours, plain, atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
        gradient,
        plain_gradient,
    )
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(gradient))


@short_configs
def test_what_follows_a_token_changes_nothing(architecture):
    """Neither more padding nor other padding; and a real change is seen."""
    params, tokens = random_params(architecture), _tokens(architecture)
    plain = _run(params, tokens, architecture=architecture)
    for padding in (jnp.zeros((BATCH, 9), jnp.int32), _tokens(architecture, 9)):
        padded = _run(
            params, jnp.concatenate([tokens, padding], 1), architecture=architecture
        )
        hidden, (keys, values), logits = padded
        np.testing.assert_allclose(hidden[:, :LENGTH], plain[0], atol=1e-5)
        np.testing.assert_allclose(keys[:, :, :, :LENGTH], plain[1][0], atol=1e-5)
        np.testing.assert_allclose(values[:, :, :, :LENGTH], plain[1][1], atol=1e-5)
        np.testing.assert_allclose(logits[:, :LENGTH], plain[2], atol=1e-5)

    at = 7
    changed = tokens.at[:, at].set((tokens[:, at] + 1) % architecture.vocab_size)
    hidden = _run(params, changed, architecture=architecture)[0]
    np.testing.assert_allclose(hidden[:, :at], plain[0][:, :at], atol=1e-5)
    moved = np.abs(hidden - plain[0]).max(axis=-1)
    assert (moved[:, at:] > 1e-4).all()


@short_configs
def test_asking_for_keys_and_values_changes_nothing_else(architecture):
    params, tokens = random_params(architecture), _tokens(architecture)
    hidden, (keys, values), _ = _run(params, tokens, architecture=architecture)
    plain = jax.jit(forward.hidden_states, static_argnames="architecture")(
        params, tokens, architecture=architecture
    )
    np.testing.assert_allclose(hidden, plain, atol=1e-6)
    # Position 0 is not rotated, so layer 0 can be written out here.
    x = params["embed"][tokens[:, 0]] * architecture.embed_dim**0.5
    layer = jax.tree.map(lambda a: a[0], params["layers"])
    x = np.asarray(x, np.float64)
    x = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)
    x = x * (1 + np.asarray(layer["pre_attn_norm"])[None])
    key, value = np.einsum("bd,skdh->sbkh", x, np.asarray(layer["kv"]))
    if architecture.qk_norm:
        key = key / np.sqrt(np.mean(key**2, -1, keepdims=True) + 1e-6)
        key = key * (1 + np.asarray(layer["k_norm"])[None, None])
    np.testing.assert_allclose(keys[0, :, :, 0], key, atol=1e-5)
    np.testing.assert_allclose(values[0, :, :, 0], value, atol=1e-5)


def test_token_log_probs_are_those_of_the_logits():
    params, tokens = random_params(GEMMA2), _tokens(GEMMA2)
    hidden, _, logits = _run(params, tokens, architecture=GEMMA2)
    targets = tokens[:, ::-1]
    exact = np.asarray(logits, np.float64)
    exact = exact - np.log(np.sum(np.exp(exact), -1, keepdims=True))
    exact = np.take_along_axis(exact, np.asarray(targets)[..., None], -1)[..., 0]
    ours = jax.jit(forward.token_log_probs, static_argnames="architecture")(
        params, hidden, targets, architecture=GEMMA2
    )
    np.testing.assert_allclose(ours, exact, atol=1e-5)


@pytest.mark.parametrize("chunk", [20, 15], ids=["even", "with-padding"])
@pytest.mark.parametrize("cap", [3.0, None], ids=["softcap", ""])
def test_a_vocabulary_in_chunks_gives_the_same_log_probs_and_gradient(chunk, cap):
    architecture = dataclasses.replace(GEMMA2, final_softcap=cap)
    params, targets = (
        {"embed": random_params(architecture)["embed"]},
        _tokens(architecture),
    )
    rng = np.random.default_rng(1)
    hidden = jnp.asarray(3 * rng.normal(size=(BATCH, LENGTH, 24)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=targets.shape), jnp.float32)

    @functools.partial(jax.jit, static_argnames="chunk")
    def run(params, hidden, chunk):
        def loss(params, hidden):
            log_probs = forward.token_log_probs(
                params, hidden, targets, architecture=architecture, chunk=chunk
            )
            return jnp.sum(log_probs * weights), log_probs

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, hidden)

    whole, parts = run(params, hidden, 40), run(params, hidden, chunk)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole, parts)
    assert all(np.abs(leaf).max() > 0.1 for leaf in jax.tree.leaves(whole))


def test_a_large_vocabulary_s_logits_are_never_all_there():
    vocabulary, batch, length, width = 262_144, 4, 128, 8
    params = {"embed": jax.ShapeDtypeStruct((vocabulary, width), jnp.float32)}
    hidden = jax.ShapeDtypeStruct((batch, length, width), jnp.float32)
    targets = jax.ShapeDtypeStruct((batch, length), jnp.int32)

    def loss(params, hidden, targets):
        return jnp.sum(
            forward.token_log_probs(params, hidden, targets, architecture=GEMMA2)
        )

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, hidden, targets)
    used = compiled.compile().memory_analysis().temp_size_in_bytes
    all_logits = batch * length * vocabulary * 4
    assert used < all_logits / 2  # without chunks: five times `all_logits`


@pytest.mark.parametrize(
    "architecture",
    [
        GEMMA2,
        GEMMA3,
        tiny_gemma2(
            32, num_layers=3, embed_dim=16, num_heads=4, mlp_dim=24, num_kv_heads=2
        ),
    ],
    ids=["gemma2", "gemma3", "tiny"],
)
def test_the_architecture_counts_its_parameters(architecture):
    params = random_params(architecture)
    assert architecture.num_params == sum(leaf.size for leaf in jax.tree.leaves(params))
