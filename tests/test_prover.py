"""The paper's formulas; Theorem 3.1's terms, exact on a tree and without bias."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import prover as theory
from pav_jax.core.errors import UserError
from pav_jax.core.types import Response, StepLabels
from pav_jax.prover import advantages, best_of_k, effective_reward


def test_best_of_k():
    q = np.array([0.0, 0.1, 0.25, 0.9, 1.0])
    np.testing.assert_allclose(best_of_k(q, 1), q, rtol=0, atol=1e-7)
    for k in (1, 2, 4, 32):
        ours = np.asarray(best_of_k(q, k))
        assert (ours[0], ours[-1]) == (0.0, 1.0)
        # One of K independent tries: the sum over how many of them succeed.
        for value, chance in zip(q.tolist(), ours, strict=True):
            some = sum(
                math.comb(k, i) * value**i * (1 - value) ** (k - i)
                for i in range(1, k + 1)
            )
            assert chance == pytest.approx(some, abs=1e-6)


def test_advantages():
    rng = np.random.default_rng(0)
    q, previous = rng.random((2, 3, 4))
    np.testing.assert_array_equal(advantages(q, previous), q - previous)
    ours = advantages(best_of_k(q, 3), best_of_k(previous, 3))
    np.testing.assert_allclose(ours, (1 - previous) ** 3 - (1 - q) ** 3, atol=1e-12)
    # Of a response's prefixes: each less the one before, and in sum the whole way.
    steps = advantages(q)
    assert steps.shape == (3, 3)
    for h in range(3):
        np.testing.assert_array_equal(steps[:, h], q[:, h + 1] - q[:, h])
    assert best_of_k(1.0, 4) - best_of_k(0.0, 4) == 1


def test_effective_reward():
    """Eq. 5; of JAX arrays it is a JAX array."""
    q, progress = np.array([0.25, 0.5]), np.array([0.5, -0.25])
    np.testing.assert_array_equal(effective_reward(q, progress, 2.0), [1.25, 0.0])
    ours = effective_reward(jnp.asarray(q), jnp.asarray(progress), 2.0)
    assert isinstance(ours, jax.Array)
    np.testing.assert_array_equal(ours, [1.25, 0.0])


# A tree of two steps, two actions each; leaves are right or wrong by chance, so
# that values differ everywhere. States: the root, and one after each action.
FIRST = np.array([0.3, 0.7])
SECOND = np.array([[0.6, 0.4], [0.1, 0.9]])
LEAF = np.array([[1.0, 0.0], [0.0, 1.0]])  # Rex of each leaf


def _q(first, second):
    """Q(s, a) of a policy at [root, after 0, after 1] x 2 actions."""
    inner = (second * LEAF).sum(axis=1)
    return np.stack([inner, LEAF[0], LEAF[1]])


POLICY = np.stack([FIRST, *SECOND])
VISITS = np.array([1.0, *FIRST])
Q = _q(FIRST, SECOND)


def _value(policy):
    """Expected Rex of a policy `[3, 2]`, by enumeration."""
    return sum(
        policy[0, a] * policy[1 + a, b] * LEAF[a, b]
        for a, b in itertools.product(range(2), repeat=2)
    )


def exact_terms(
    visits: np.ndarray, policy: np.ndarray, q_prover: np.ndarray, q_policy: np.ndarray
) -> theory.Terms:
    """The terms where everything is known.

    Args:
      visits: float `[S]`, how often π visits each state; need not sum to one.
      policy: float `[S, A]`, `π(a|s)`.
      q_prover: float `[S, A]`, `Q^μ(s, a)`.
      q_policy: float `[S, A]`, `Q^π(s, a)`.
    """
    weight = visits / np.sum(visits)

    def centred(q):
        return q - np.sum(policy * q, axis=1, keepdims=True)

    prover, own = centred(q_prover), centred(q_policy)
    return theory.Terms(
        float(np.sum(weight[:, None] * policy * prover**2)),
        float(np.sum(weight[:, None] * policy * prover * own)),
    )


def test_exact_terms_by_enumeration():
    mu = 1.0 - (1.0 - Q) ** 3
    ours = exact_terms(VISITS, POLICY, mu, Q)
    apart = aligned = 0.0
    for s in range(3):
        mean_mu = sum(POLICY[s, a] * mu[s, a] for a in range(2))
        v = sum(POLICY[s, a] * Q[s, a] for a in range(2))
        for a in range(2):
            share = VISITS[s] / VISITS.sum() * POLICY[s, a]
            apart += share * (mu[s, a] - mean_mu) ** 2
            # Alignment with A^μ as defined, from the value of the state before.
            aligned += share * (mu[s, a] - (1 - (1 - v) ** 3)) * (Q[s, a] - v)
    assert ours.distinguishability == pytest.approx(apart, rel=1e-12)
    assert ours.alignment == pytest.approx(aligned, rel=1e-12)
    assert apart > 0.01 and aligned > 0.01


@pytest.mark.parametrize("alpha", [0.0, 1.0, 4.0])
def test_the_terms_are_what_a_small_step_gains(alpha):
    """π' ∝ π exp(γ(Q^π + αA^μ)) gains γ(Var A^π + α alignment) to first order."""
    mu = 1.0 - (1.0 - Q) ** 3
    own = exact_terms(VISITS, POLICY, Q, Q)
    prover = exact_terms(VISITS, POLICY, mu, Q)
    assert own.distinguishability == own.alignment  # μ = π

    def stepped(gamma):
        new = POLICY * np.exp(gamma * (Q + alpha * mu))
        return _value(new / new.sum(axis=1, keepdims=True))

    slope = (stepped(1e-4) - stepped(-1e-4)) / 2e-4
    expected = VISITS.sum() * (own.alignment + alpha * prover.alignment)
    assert slope == pytest.approx(expected, rel=1e-6)


def _labels(correct, count):
    ends = np.arange(len(correct))
    return StepLabels(*(np.array(x, np.int32) for x in (ends, correct, count)))


def _binomial(n, q):
    return [math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(n + 1)]


@pytest.mark.parametrize("power", [1, 2, 5])
def test_failure_power_is_unbiased(power):
    """Its exact mean over the binomial counts, and the outcome at the end."""
    for q in (0.0, 0.2, 0.77, 1.0):
        chances = _binomial(5, q)
        mean = sum(
            p * theory.failure_power(_labels([k, 1], [5, 1]), power)[0]
            for k, p in enumerate(chances)
        )
        assert mean == pytest.approx((1 - q) ** power, abs=1e-12)
    ends = [theory.failure_power(_labels([0, r], [5, 1]), power)[-1] for r in (0, 1)]
    assert ends == [1.0, 0.0]


def _expected(k, n, m, prover=None):
    """Mean of the estimate over all pairs of responses and all their counts.

    Responses of one step from one state with three actions; then the response
    goes on, so that its step has continuations and not an outcome.
    """
    policy, q = np.array([0.5, 0.2, 0.3]), np.array([0.1, 0.55, 0.9])
    mu = q if prover is None else prover
    apart = aligned = 0.0
    for actions in itertools.product(range(3), repeat=2):
        chance = np.prod(policy[list(actions)])
        distinct = sorted(set(actions))
        counts = itertools.product(range(n + 1), repeat=len(distinct))
        others = list(itertools.product(range(m + 1), repeat=len(distinct)))
        for own, other in itertools.product(counts, others if m else [None]):
            p = chance
            for a, c in zip(distinct, own, strict=True):
                p *= _binomial(n, q[a])[c]
            for a, c in zip(distinct, other or (), strict=other is not None):
                p *= _binomial(m, mu[a])[c]
            found, found_other, responses = [], [], []
            for a in actions:
                # The same prefix has the same continuations, and so counts.
                place = distinct.index(a)
                found.append(_labels([0, own[place], 0], [n, n, 1]))
                if other:
                    found_other.append(_labels([0, other[place], 0], [m, m, 1]))
                responses.append(Response(0, (2,), (a, 9), (0.0, 0.0), False))
            ours = theory.prover_terms(
                responses, found, k=k, prover_labels=found_other or None
            )
            # Of like actions the state after them is seen twice as well, and as it
            # has one action it adds only its visits to the mean.
            states = 2 if len(distinct) == 1 else 1
            apart += p * ours.distinguishability * states
            aligned += p * ours.alignment * states
    value = 1.0 - (1.0 - mu) ** k
    exact = exact_terms(np.ones(1), policy[None], value[None], q[None])
    return (apart, aligned), exact


@pytest.mark.parametrize(("k", "n"), [(1, 2), (2, 4), (2, 5)])
def test_terms_from_counts_are_unbiased(k, n):
    (apart, aligned), exact = _expected(k, n, 0)
    assert apart == pytest.approx(exact.distinguishability, rel=1e-9)
    assert aligned == pytest.approx(exact.alignment, rel=1e-9)


def test_terms_of_another_policy_are_unbiased():
    mu = np.array([0.3, 0.2, 0.8])
    (apart, aligned), exact = _expected(1, 1 + 1, 2, mu)
    assert apart == pytest.approx(exact.distinguishability, rel=1e-9)
    assert aligned == pytest.approx(exact.alignment, rel=1e-9)


def _of_one_response(estimate, n):
    """Mean over a response of the tree, and all its counts, of the mean over steps."""
    first, total = _value(POLICY), 0.0
    for a, b in itertools.product(range(2), repeat=2):
        for at_root, after in itertools.product(range(n + 1), repeat=2):
            p = POLICY[0, a] * POLICY[1 + a, b]
            p *= _binomial(n, first)[at_root] * _binomial(n, Q[0, a])[after]
            labels = _labels([at_root, after, int(LEAF[a, b])], [n, n, 1])
            total += p * np.mean(estimate(labels))
    return total


@pytest.mark.parametrize(("k", "n"), [(1, 2), (2, 3), (4, 5)])
def test_one_response_tells_alignment(k, n):
    """K + 1 continuations, and no other response to the problem."""
    exact = exact_terms(VISITS, POLICY, 1 - (1 - Q) ** k, Q)
    ours = _of_one_response(lambda x: theory.aligned_progress(x, k=k), n)
    assert ours == pytest.approx(exact.alignment, rel=1e-9)
    with pytest.raises(UserError, match=f"fewer than {k + 1}"):
        theory.aligned_progress(_labels([0, 0, 1], [k, k, 1]), k=k)


def test_one_response_tells_alignment_of_another_policy():
    """μ's counts are apart from π's, and one continuation of each is enough."""
    mu = np.stack([[0.2, 0.8], *LEAF])  # of its first step; a leaf is what it is
    before, exact = 0.35, exact_terms(VISITS, POLICY, mu, Q)
    total = 0.0
    for at_root, after_0, after_1 in itertools.product(range(2), repeat=3):
        p = np.prod(
            [
                _binomial(1, x)[c]
                for x, c in zip(
                    (before, *mu[0]), (at_root, after_0, after_1), strict=True
                )
            ]
        )
        for a, b in itertools.product(range(2), repeat=2):
            after, leaf = (after_0, after_1)[a], int(LEAF[a, b])
            for own_root, own_after in itertools.product(range(2), repeat=2):
                chance = p * POLICY[0, a] * POLICY[1 + a, b]
                chance *= _binomial(1, _value(POLICY))[own_root]
                chance *= _binomial(1, Q[0, a])[own_after]
                steps = theory.aligned_progress(
                    _labels([own_root, own_after, leaf], [1, 1, 1]),
                    k=1,
                    prover_labels=_labels([at_root, after, leaf], [1, 1, 1]),
                )
                total += chance * np.mean(steps)
    assert total == pytest.approx(exact.alignment, rel=1e-9)


@pytest.mark.parametrize(("k", "n"), [(1, 2), (2, 4)])
def test_squared_progress_bounds_distinguishability(k, n):
    """It has the mean of `A^μ` in a state on top, which of π itself is zero."""
    mu = 1 - (1 - Q) ** k
    exact = exact_terms(VISITS, POLICY, mu, Q).distinguishability
    values = np.array([_value(POLICY), *Q[0]])  # of π, at each state
    drift = np.sum(POLICY * mu, axis=1) - (1 - (1 - values) ** k)
    extra = VISITS @ drift**2 / VISITS.sum()
    ours = _of_one_response(lambda x: theory.squared_progress(x, k=k), n)
    assert ours == pytest.approx(exact + extra, rel=1e-9)
    assert (extra < 1e-12) == (k == 1)


def test_too_few_of_either():
    response = Response(0, (2,), (5, 9), (0.0, 0.0), False)
    labels = _labels([1, 2, 0], [4, 4, 1])
    with pytest.raises(UserError, match="rollouts.n_cov"):
        theory.prover_terms([response], [labels], k=2)
    with pytest.raises(UserError, match="4 continuations.*labels.n_mc"):
        theory.prover_terms([response] * 2, [labels] * 2, k=4)
