"""Trunks and branches compute what one uncached pass over the same tokens does."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny import random_params

from pav_jax.gemma import cached_attention, forward
from pav_jax.gemma.architecture import TransformerConfig

ARCHITECTURE = TransformerConfig(
    vocab_size=30,
    embed_dim=16,
    mlp_dim=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    layers=("local", "global"),
    window=4,
    query_scale=6**-0.5,
    attn_softcap=3.0,
)

extend = jax.jit(cached_attention.extend, static_argnames="architecture")
prefill = jax.jit(cached_attention.prefill, static_argnames="architecture")
hidden_states = jax.jit(forward.hidden_states, static_argnames="architecture")


@dataclasses.dataclass(frozen=True)
class Shape:
    """Sizes of a job: G trunks, M branches of each, S tokens a pass."""

    groups: int
    branches: int
    trunk: int
    suffix: int
    chunk: int


def _compare(
    architecture: TransformerConfig, shape: Shape, *, seed: int, ragged: bool
) -> None:
    """Fills every suffix to its capacity, and compares each state on the way."""
    rng = np.random.default_rng(seed)
    params = random_params(architecture, seed)
    g, m, t, c, s = dataclasses.astuple(shape)

    def draw(*size):
        return rng.integers(0, architecture.vocab_size, size, dtype=np.int32)

    trunk, suffix = draw(g, t), draw(g, m, c)
    # Anywhere on the trunk, both of its ends included.
    leaves = rng.integers(0, t + 1, (g, m), dtype=np.int32)
    leaves.flat[0], leaves.flat[-1] = 0, t
    whole = draw(g, m, t + c)
    for i, j in np.ndindex(g, m):
        at = leaves[i, j]
        whole[i, j, :at] = trunk[i, :at]
        whole[i, j, at : at + c] = suffix[i, j]
    expected = hidden_states(
        params, whole.reshape(g * m, t + c), architecture=architecture
    )
    expected = np.asarray(expected).reshape(g, m, t + c, -1)
    assert expected.std() > 0.5

    kv, trunk_hidden = prefill(params, trunk, architecture=architecture)
    trunk_hidden = np.asarray(trunk_hidden)
    for i, j in np.ndindex(g, m):
        at = leaves[i, j]
        np.testing.assert_allclose(
            trunk_hidden[i, :at], expected[i, j, :at], atol=1e-4, rtol=0
        )
    cache = cached_attention.empty_suffix(g, m, c, architecture=architecture)
    length = np.zeros((g, m), np.int32)
    while length.min() < c:
        count = rng.integers(0, s + 1, (g, m)) if ragged else np.full((g, m), s)
        count = np.minimum(count, c - length)
        tokens = draw(g, m, s)  # what is past a branch's count is noise
        for i, j in np.ndindex(g, m):
            at = slice(length[i, j], length[i, j] + count[i, j])
            tokens[i, j, : count[i, j]] = suffix[i, j, at]
        cache, hidden = extend(
            params, kv, cache, tokens, leaves, length, architecture=architecture
        )
        hidden = np.asarray(hidden)
        for i, j in np.ndindex(g, m):
            n, start = count[i, j], leaves[i, j] + length[i, j]
            np.testing.assert_allclose(
                hidden[i, j, :n],
                expected[i, j, start : start + n],
                atol=1e-4,
                rtol=0,
                err_msg=f"{architecture=} {shape=} {i=} {j=} {length[i, j]=}",
            )
        length += count.astype(np.int32)


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(i, marks=pytest.mark.slow) for i in range(2, 7))]
)
def test_random_shapes(seed):
    rng = np.random.default_rng(100 + seed)

    def pick(*values):
        return values[rng.integers(len(values))]

    kv_heads = pick(1, 2, 3)
    head_dim = pick(2, 6, 8)
    gemma3 = bool(seed % 2)
    architecture = TransformerConfig(
        vocab_size=30,
        embed_dim=pick(12, 16),
        mlp_dim=20,
        num_heads=kv_heads * pick(1, 2),
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        layers=tuple(pick("local", "global") for _ in range(3)),
        window=pick(1, 2, 3, 5, 8),
        query_scale=head_dim**-0.5,
        attn_softcap=None if gemma3 else 3.0,
        final_softcap=None if gemma3 else 3.0,
        qk_norm=gemma3,
        global_rope_base=1e6 if gemma3 else 1e4,
        global_rope_scale=8.0 if gemma3 else 1.0,
    )
    shape = Shape(
        groups=pick(1, 2, 3),
        branches=pick(1, 2, 4),
        trunk=pick(3, 7, 12),
        suffix=pick(4, 6, 9),
        chunk=pick(1, 2, 4),
    )
    _compare(architecture, shape, seed=seed, ragged=bool(rng.integers(2)))


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("chunk", [1, 3])
def test_chunks(chunk, ragged):
    """A capacity that 3 does not divide: the last pass writes past the end."""
    shape = Shape(groups=2, branches=3, trunk=9, suffix=7, chunk=chunk)
    _compare(ARCHITECTURE, shape, seed=1, ragged=ragged)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_a_window_over_the_border(window):
    """Local layers only, so that what a token sees is all within the window."""
    architecture = dataclasses.replace(
        ARCHITECTURE, layers=("local", "local"), window=window
    )
    shape = Shape(groups=2, branches=3, trunk=6, suffix=6, chunk=2)
    _compare(architecture, shape, seed=2, ragged=False)

    # The trunk token that two local layers just reach from the first token of a
    # branch, and the one just out of reach.
    params = random_params(architecture, 2)
    trunk = np.tile(np.arange(1, 7, dtype=np.int32), (2, 1))
    tokens = np.full((2, 3, 2), 7, np.int32)
    leaves = np.full((2, 3), 6, np.int32)

    def first_state(changed):
        other = trunk.copy()
        other[:, changed] = 0
        kv, _ = prefill(params, other, architecture=architecture)
        cache = cached_attention.empty_suffix(2, 3, 6, architecture=architecture)
        _, hidden = extend(
            params, kv, cache, tokens, leaves, 0 * leaves, architecture=architecture
        )
        return np.asarray(hidden)[:, :, 0]

    plain = first_state([])
    reach = 6 - 2 * (window - 1)
    if reach < 6:
        assert np.abs(first_state(reach) - plain).max() > 1e-5
    if reach > 0:
        np.testing.assert_array_equal(first_state(reach - 1), plain)


@pytest.mark.parametrize("one_product", [False, True], ids=["two", "one_product"])
def test_parameters_with_buffers_of_their_own(one_product):
    """The forms of `for_extend`, on a CPU and on a GPU."""
    params = random_params(ARCHITECTURE, 3)
    unstacked = cached_attention.unstack(params, one_product=one_product)
    trunk = np.arange(10, dtype=np.int32).reshape(2, 5)
    kv, _ = prefill(params, trunk, architecture=ARCHITECTURE)
    cache = cached_attention.empty_suffix(2, 3, 4, architecture=ARCHITECTURE)
    tokens = np.arange(12, dtype=np.int32).reshape(2, 3, 2)
    leaves = np.full((2, 3), 5, np.int32)

    def hidden(params):
        _, hidden = extend(
            params, kv, cache, tokens, leaves, 0 * leaves, architecture=ARCHITECTURE
        )
        return np.asarray(hidden)

    expected = hidden(params)
    assert expected.std() > 0.5
    np.testing.assert_allclose(hidden(unstacked), expected, atol=1e-5, rtol=0)


def test_branches_do_not_see_each_other():
    """Nor the trunk tokens after the place where they leave it."""
    params, rng = random_params(ARCHITECTURE, 3), np.random.default_rng(3)
    trunk = rng.integers(0, ARCHITECTURE.vocab_size, (2, 8), dtype=np.int32)
    tokens = rng.integers(0, ARCHITECTURE.vocab_size, (2, 3, 4), dtype=np.int32)
    leaves = np.array([[3, 5, 8], [2, 3, 4]], np.int32)

    def run(trunk, tokens):
        kv, _ = prefill(params, trunk, architecture=ARCHITECTURE)
        cache = cached_attention.empty_suffix(2, 3, 4, architecture=ARCHITECTURE)
        zeros = np.zeros_like(leaves)
        _, hidden = extend(
            params, kv, cache, tokens, leaves, zeros, architecture=ARCHITECTURE
        )
        return np.asarray(hidden)

    plain = run(trunk, tokens)
    other = trunk.copy()
    other[0, 5:] = (other[0, 5:] + 1) % ARCHITECTURE.vocab_size
    changed = tokens.copy()
    changed[0, 0] = (changed[0, 0] + 1) % ARCHITECTURE.vocab_size
    moved = np.abs(run(other, changed) - plain).max(axis=(2, 3))
    assert moved[0, 0] > 1e-4 and moved[0, 2] > 1e-4
    still = np.array([[False, True, False], [True, True, True]])
    np.testing.assert_array_equal(moved[still], 0)
