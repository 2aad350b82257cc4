"""How one token is drawn: the right distribution, to the ends of the vocabulary."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from pav_jax.core.errors import UserError
from pav_jax.gemma import sampling
from pav_jax.gemma.sampling import SamplingConfig

_sample_token = jax.jit(sampling.sample_token, static_argnames="temperature")


def _draw(
    logits: np.ndarray, count: int, *, temperature: float = 1.0, by: str = "key"
) -> tuple[np.ndarray, np.ndarray]:
    """Draws from one row of logits with many keys, or at many positions."""
    many = jnp.arange(count)
    keys = jax.vmap(lambda i: jax.random.key_data(jax.random.key(i)))(many)
    tokens, log_probs = _sample_token(
        keys if by == "key" else jnp.broadcast_to(keys[:1], keys.shape),
        jnp.zeros_like(many) if by == "key" else many,
        jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, len(logits))),
        temperature=temperature,
    )
    return np.asarray(tokens), np.asarray(log_probs)


def _softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits - logits.max())
    return p / p.sum()


def _p_value(tokens: np.ndarray, p: np.ndarray) -> float:
    """Chi-square of the counts; tokens expected less than 8 times are pooled."""
    counts, expected = np.bincount(tokens, minlength=len(p)), len(tokens) * p
    rare = expected < 8
    observed = [*counts[~rare], counts[rare].sum()]
    expected = [*expected[~rare], expected[rare].sum()]
    if expected[-1] == 0:
        assert observed.pop() == expected.pop() == 0
    return stats.chisquare(observed, expected).pvalue


_RNG = np.random.default_rng(0)
# One token with three quarters of the mass, and a quarter spread evenly.
FLAT_TAIL = np.log(np.r_[np.full(100, 0.25 / 256), 0.75, np.full(156, 0.25 / 256)])
PEAKED = np.where(np.arange(256) == 77, 9.0, _RNG.normal(size=256))
NORMAL = 3.0 * _RNG.normal(size=256)
# Both ends and two thirds of the middle cannot be drawn.
HOLES = np.where(np.arange(256) % 3 == 1, NORMAL, -np.inf)


@pytest.mark.parametrize("by", ["key", "position"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    "logits",
    [FLAT_TAIL, PEAKED, NORMAL, HOLES],
    ids=["flat_tail", "peaked", "normal", "holes"],
)
def test_tokens_have_the_right_distribution(logits, temperature, by):
    tokens, log_probs = _draw(logits, 50_000, temperature=temperature, by=by)
    p = _softmax(logits / temperature)
    assert _p_value(tokens, p) > 1e-3
    assert (p[tokens] > 0).all()
    np.testing.assert_allclose(log_probs, np.log(p[tokens]), rtol=0, atol=1e-5)
    if logits is FLAT_TAIL and temperature == 1:
        assert np.mean(tokens != 100) == pytest.approx(0.25, abs=0.01)
    # The bound is one that a sampler at the wrong temperature does not meet.
    assert _p_value(tokens, _softmax(logits / (temperature + 0.05))) < 1e-3


def test_greedy_takes_the_best_token():
    for logits in (NORMAL, HOLES):
        tokens, log_probs = _draw(logits, 3, temperature=0.0)
        assert (tokens == logits.argmax()).all()
        expected = np.log(_softmax(logits).max())
        np.testing.assert_allclose(log_probs, expected, rtol=0, atol=1e-5)


def _draw_with(found: Sequence[int], logits: np.ndarray) -> tuple[np.ndarray, ...]:
    """Draws with keys that a search through many has found."""
    keys = jax.vmap(
        lambda i: jax.random.key_data(jax.random.fold_in(jax.random.key(0), i))
    )(jnp.asarray(found))
    many = (len(found), len(logits))
    return jax.device_get(
        _sample_token(
            keys,
            jnp.zeros(len(found), jnp.int32),
            jnp.broadcast_to(jnp.asarray(logits, jnp.float32), many),
            temperature=1.0,
        )
    )


def test_the_cumulative_sum_does_not_invent_tokens():
    """A float32 sum over Gemma's vocabulary rises where there is nothing to add.

    With these keys, of two million tried, the draw fell on such a place: about one
    in 50 000 does.
    """
    logits = np.full(262_144, -np.inf)
    live = np.arange(0, len(logits), 131)
    logits[live] = 0.0
    tokens, log_probs = _draw_with([62, 133_090, 141_456, 156_065, 1_056_477], logits)
    assert np.isin(tokens, live).all()
    np.testing.assert_allclose(log_probs, -np.log(len(live)), atol=1e-4)


def test_the_ends_of_the_unit_interval_stay_among_the_tokens():
    """The uniform numbers of these keys are 0, 0 and twice the largest below 1."""
    tokens, log_probs = _draw_with([835_668, 23_777_178, 27_523_623, 30_427_137], HOLES)
    live = np.flatnonzero(np.isfinite(HOLES))
    assert live[0] > 0 and live[-1] < 255
    assert tokens.tolist() == [live[0]] * 2 + [live[-1]] * 2
    assert np.isfinite(log_probs).all()


def test_trunks_that_make_no_whole_groups_are_refused():
    with pytest.raises(
        UserError,
        match="config.sampling.trunks=3 .* config.sampling.trunks_per_group=2",
    ):
        SamplingConfig(max_tokens=12, end_ids=(), trunks=3, trunks_per_group=2)
