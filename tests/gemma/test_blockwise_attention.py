"""Attention by blocks is plain attention, and makes no array of T × T scores."""

import dataclasses
import functools
import itertools
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

from pav_jax.gemma import blockwise_attention, cached_attention, forward
from pav_jax.gemma.architecture import TransformerConfig

BLOCK = 8
# A cap far below Gemma's 50, so that scores of these sizes feel it.
CAPPED = TransformerConfig(
    vocab_size=40,
    embed_dim=12,
    mlp_dim=20,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    layers=("local", "global"),
    window=11,
    query_scale=8**-0.5,
    attn_softcap=2.0,
    final_softcap=3.0,
)
UNCAPPED = dataclasses.replace(CAPPED, attn_softcap=None, num_kv_heads=4)
NETWORK = dataclasses.replace(CAPPED, qk_norm=True)
RAGGED = 3 * BLOCK + 5  # tokens, of which the last block is not full


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(blockwise_attention, "BLOCK", BLOCK)


def _inputs(architecture, length, dtype=jnp.float32):
    """Queries, keys, values, and a cotangent of the result."""
    rng = np.random.default_rng(length)
    c = architecture
    heads = (c.num_heads, c.num_kv_heads, c.num_kv_heads, c.num_heads)
    scales = (c.query_scale * 2, 1.0, 1.0, 1.0)
    return [
        jnp.asarray(rng.normal(size=(2, length, n, c.head_dim)) * scale, dtype)
        for n, scale in zip(heads, scales, strict=True)
    ]


def _plain(q, k, v, is_local, *, architecture):
    """All scores at once, query head by query head."""
    per_kv = architecture.num_heads // architecture.num_kv_heads
    k, v = (jnp.repeat(x, per_kv, axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k)
    if cap := architecture.attn_softcap:
        scores = cap * jnp.tanh(scores / cap)
    place = jnp.arange(q.shape[1])
    distance = place[:, None] - place[None]
    window = jnp.where(is_local, architecture.window, q.shape[1])
    seen = (distance >= 0) & (distance < window)
    weights = jax.nn.softmax(jnp.where(seen[None, None], scores, -jnp.inf))
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


@functools.partial(jax.jit, static_argnames=("attend", "architecture"))
def _with_gradients(attend, architecture, is_local, q, k, v, cotangent):
    """The result, and the gradients of queries, keys and values."""
    out, pull = jax.vjp(
        lambda *x: attend(*x, is_local, architecture=architecture), q, k, v
    )
    return out, *pull(cotangent.astype(out.dtype))


@pytest.mark.parametrize(
    ("architecture", "length"),
    [
        (CAPPED, RAGGED),
        (UNCAPPED, RAGGED),
        (dataclasses.replace(UNCAPPED, window=BLOCK), 4 * BLOCK),
        (dataclasses.replace(CAPPED, window=BLOCK + 1, num_kv_heads=1), 4 * BLOCK - 1),
        (dataclasses.replace(CAPPED, window=4096), 2 * BLOCK + 1),
        (dataclasses.replace(UNCAPPED, layers=("global",)), BLOCK - 3),
    ],
)
def test_equals_plain_attention(architecture, length):
    """Values and gradients; with soft caps, windows and grouped heads, and without."""
    inputs = _inputs(architecture, length)
    for kind in architecture.layers:
        args = (architecture, jnp.array(kind == "local"), *inputs)
        ours = _with_gradients(blockwise_attention.attend, *args)
        plain = _with_gradients(_plain, *args)
        for a, b in zip(ours, plain, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
            assert np.abs(b).max() > 0.1


def _network(params, tokens, length):
    """Hidden states, keys and values, and gradients of the loss of real tokens."""

    def loss(params):
        hidden, kv = forward.hidden_states(
            params, tokens, architecture=NETWORK, return_kv=True
        )
        log_probs = forward.token_log_probs(
            params, hidden[:, :-1], tokens[:, 1:], architecture=NETWORK
        )
        return -jnp.mean(log_probs[:, : length - 1]), (hidden, kv)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


def test_networks_compute_the_same_by_blocks(monkeypatch):
    """Training and prefill of rows that end in padding, against rows without any."""
    params, padding = random_params(NETWORK), 7
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, NETWORK.vocab_size, (2, RAGGED + padding)).astype(np.int32)
    (loss, (hidden, kv)), gradient = _network(params, tokens[:, :RAGGED], RAGGED)
    monkeypatch.setattr(blockwise_attention, "SHORTEST", RAGGED + padding)
    (ours, (our_hidden, our_kv)), our_gradient = _network(params, tokens, RAGGED)
    np.testing.assert_allclose(ours, loss, atol=1e-6)
    np.testing.assert_allclose(our_hidden[:, :RAGGED], hidden, atol=1e-5)
    for a, b in zip(our_kv, kv, strict=True):
        np.testing.assert_allclose(a[..., :RAGGED, :], b, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        our_gradient,
        gradient,
    )
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(gradient))


def _largest(jaxpr):
    """Elements of the largest array within a program."""
    size = max((v.aval.size for e in jaxpr.eqns for v in e.outvars), default=0)
    inner = [
        getattr(item, "jaxpr", item)
        for equation in jaxpr.eqns
        for value in equation.params.values()
        for item in (value if isinstance(value, tuple | list) else (value,))
    ]
    return max([size, *(_largest(j) for j in inner if hasattr(j, "eqns"))])


def test_no_array_has_all_pairs_of_tokens(monkeypatch):
    """Neither forwards nor backwards, nor in prefill; and plain attention has some."""
    architecture = dataclasses.replace(CAPPED, vocab_size=4, mlp_dim=4)
    params, length = random_params(architecture), 32 * BLOCK
    tokens = jnp.zeros((1, length), jnp.int32)

    def loss(params):
        hidden = forward.hidden_states(params, tokens, architecture=architecture)
        return jnp.sum(hidden)

    def prefill(params):
        return cached_attention.prefill(params, tokens, architecture=architecture)

    for shortest, holds in ((length, False), (length + 1, True)):
        monkeypatch.setattr(blockwise_attention, "SHORTEST", shortest)
        for function in (jax.grad(loss), prefill):
            jaxpr = jax.make_jaxpr(lambda p, f=function: f(p))(params)
            assert (_largest(jaxpr.jaxpr) >= length**2) == holds


@pytest.mark.parametrize("window", [1, 2, BLOCK, BLOCK + 1, BLOCK + 2, 3 * BLOCK, 99])
def test_pairs_that_no_query_sees_are_not_visited(window):
    count = 5
    tokens = range(count * BLOCK)
    seen = {
        (t // BLOCK, s // BLOCK)
        for t, s in itertools.product(tokens, tokens)
        if 0 <= t - s < window
    }
    queries, keys = blockwise_attention._pairs(count, window)
    pairs = list(zip(queries.tolist(), keys.tolist(), strict=True))
    assert sorted(pairs) == sorted(seen)
    # The first that a query meets has itself in it.
    assert all(i == j for i, j in dict(reversed(pairs)).items())


def test_in_bfloat16_the_error_is_that_of_rounding():
    """Against plain attention in float32, as the docstring of `attend` says."""
    rounded = _inputs(CAPPED, RAGGED, jnp.bfloat16)
    exact = [x.astype(jnp.float32) for x in rounded]
    is_local = jnp.array(False)
    ours = _with_gradients(blockwise_attention.attend, CAPPED, is_local, *rounded)
    plain = _with_gradients(_plain, CAPPED, is_local, *exact)
    for a, b, most in zip(ours, plain, (0.0025, 0.004, 0.004, 0.004), strict=True):
        assert a.dtype == jnp.bfloat16
        error = np.asarray(a, np.float32) - np.asarray(b)
        assert 1e-4 < np.sqrt(np.mean(error**2) / np.mean(np.square(b))) < most


def test_the_demo_s_sequences_are_short():
    demo = Path(__file__).parents[2] / "experiments" / "demo.py"
    limits = runpy.run_path(str(demo))["get_config"]().limits
    assert limits.max_prompt_tokens + limits.max_tokens < blockwise_attention.SHORTEST
