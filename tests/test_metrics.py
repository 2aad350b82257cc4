"""Estimators, against the same quantities counted over all subsets and all pairs."""

import itertools
import math
import statistics

import numpy as np
import pytest
from scipy import stats

from pav_jax import metrics
from pav_jax.core.types import Response

_RNG = np.random.default_rng(0)
# Rows of every kind: none, one, some and all correct.
CORRECT = np.array(
    [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1],
    ],
    bool,
)
SAMPLES = CORRECT.shape[1]
SCORES = {
    "distinct": _RNG.permuted(np.arange(5 * SAMPLES)).reshape(5, SAMPLES) / 7.0,
    "ties": _RNG.integers(0, 3, (5, SAMPLES)) / 2.0,
    "all equal": np.full((5, SAMPLES), 0.25),
}


def _over_subsets(n, value):
    """The mean of `value(problem, indices)` over all subsets, for each problem."""
    subsets = list(itertools.combinations(range(SAMPLES), n))
    return np.array(
        [np.mean([value(p, s) for s in subsets]) for p in range(len(CORRECT))]
    )


def test_aggregation_by_hand():
    found = metrics.aggregate([[0.5, 0.25, 1.0], [0.75]])
    assert {name: scores.tolist() for name, scores in found.items()} == {
        "last": [1.0, 0.75],
        "min": [0.25, 0.75],
        "product": [0.125, 0.75],
        "mean": [pytest.approx(7 / 12), 0.75],
    }


@pytest.mark.parametrize("n", range(1, SAMPLES + 1))
def test_pass_at_n(n):
    expected = _over_subsets(n, lambda p, s: any(CORRECT[p, i] for i in s))
    ours = metrics.pass_at_n(CORRECT, n)
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-12)
    assert ours[0] == 0 and ours[-1] == 1  # exactly, or no interval is Wilson's


@pytest.mark.parametrize("n", range(1, SAMPLES + 1))
@pytest.mark.parametrize("kind", SCORES)
def test_best_of_n(kind, n):
    scores = SCORES[kind]

    def value(p, subset):
        best = max(scores[p, i] for i in subset)
        return np.mean([CORRECT[p, i] for i in subset if scores[p, i] == best])

    np.testing.assert_allclose(
        metrics.best_of_n(scores, CORRECT, n),
        _over_subsets(n, value),
        rtol=0,
        atol=1e-12,
    )


def _certain(scores, correct, n):
    """The outcome of each problem of which all subsets have the same; else NaN."""
    out = np.full(len(scores), np.nan)
    for p, (score, right) in enumerate(zip(scores, correct, strict=True)):
        # Scores that the best of n can have.
        can_win = np.sort(score)[n - 1]
        outcomes = set(right[score >= can_win].tolist())
        if len(outcomes) == 1:
            out[p] = outcomes.pop()
    return out


@pytest.mark.parametrize("samples", [2, 3, 5, 7, 32, 63, 128])
def test_what_is_certain_is_zero_or_one_exactly(samples):
    """Not 1 - 1e-16, of which no interval is Wilson's, and equal ones have no width."""
    rng, rows = np.random.default_rng(samples), samples + 1
    correct = np.arange(samples)[None, :] < np.arange(rows)[:, None]  # 0, 1, ... right
    kinds = {
        "distinct": rng.random((rows, samples)),
        "ties": rng.integers(0, 3, (rows, samples)) / 2.0,
        "oracle": correct * 1.0,
        "against it": correct * -1.0,
    }
    for n in {1, 2, samples // 2, samples - 1, samples}:
        for scores in kinds.values():
            certain = _certain(scores, correct, n)
            found = metrics.best_of_n(scores, correct, n)
            known = ~np.isnan(certain)
            assert known.sum() >= 2
            assert found[known].tolist() == certain[known].tolist()
        found = metrics.pass_at_n(correct, n)
        assert found[0] == 0 and np.all(found[rows - n :] == 1)
        answers = [["x" if right else "y" for right in row] for row in correct]
        for weights in (None, kinds["distinct"]):
            vote = metrics.majority_of_n(
                answers, correct, n, seed=0, weights=weights, draws=3
            )
            assert (vote[0], vote[-1]) == (0, 1)


def test_interval_of_best_of_n_that_is_always_right():
    """A verifier that is never wrong on 63 problems has not shown that it never is."""
    rng = np.random.default_rng(0)
    scores, correct = rng.random((63, 8)), np.ones((63, 8), bool)
    for n in range(1, 9):
        mean, interval = metrics.mean_interval(metrics.best_of_n(scores, correct, n))
        wilson = stats.binomtest(63, 63).proportion_ci(method="wilson")
        assert mean == 1
        assert interval == pytest.approx((wilson.low, 1), abs=1e-6)


def test_closed_forms_for_many_samples():
    """Binomials of 4096 overflow floats; their ratio does not."""
    correct = np.zeros((1, 4096), bool)
    correct[0, :41] = True
    n = 128
    wrong = math.comb(4096 - 41, n) / math.comb(4096, n)
    [ours] = metrics.pass_at_n(correct, n)
    assert ours == pytest.approx(1 - wrong, abs=1e-9)
    # A score that tells right from wrong: best-of-n is pass@n; the other way
    # round, all n have to be right.
    [best] = metrics.best_of_n(correct * 1.0, correct, n)
    assert best == pytest.approx(1 - wrong, abs=1e-9)
    [worst] = metrics.best_of_n(correct * -1.0, correct, 8)
    assert worst == pytest.approx(math.comb(41, 8) / math.comb(4096, 8), rel=1e-6)


# Voting. "x" is right; the last problem's answers tie at n = M.
ANSWERS = [
    ["x", "x", "x", "y", "y", "z"],
    ["x", "x", "y", "y", "y", None],
    [None, None, None, None, None, "x"],
    [None] * 6,
    ["x", "x", "y", "y", None, "z"],
]
RIGHT = np.array([[answer == "x" for answer in row] for row in ANSWERS])


def _vote(p, subset):
    """The share of right ones among the answers with the most votes."""
    votes = [ANSWERS[p][i] for i in subset if ANSWERS[p][i] is not None]
    if not votes:
        return 0.0
    most = max(votes.count(answer) for answer in votes)
    winners = {answer for answer in votes if votes.count(answer) == most}
    return ("x" in winners) / len(winners)


def test_majority_of_all():
    ours = metrics.majority_of_n(ANSWERS[:4], RIGHT[:4], SAMPLES, seed=0, draws=1)
    assert ours.tolist() == [_vote(p, range(SAMPLES)) for p in range(4)]
    assert ours.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6])
def test_majority_of_n(n):
    ours = metrics.majority_of_n(ANSWERS, RIGHT, n, seed=1, draws=4000)
    # Four standard errors of a mean of 4000 draws of 0 or 1, at most.
    np.testing.assert_allclose(ours, _over_subsets(n, _vote), rtol=0, atol=0.032)
    if n == 1:
        np.testing.assert_allclose(ours, RIGHT.mean(axis=1), rtol=0, atol=0.032)


def test_majority_is_a_function_of_the_seed():
    draw = [metrics.majority_of_n(ANSWERS, RIGHT, 3, seed=s) for s in (1, 1, 2)]
    assert draw[0].tolist() == draw[1].tolist() != draw[2].tolist()


@pytest.mark.parametrize(("right", "count"), [(0, 10), (3, 4), (1, 1), (500, 500)])
def test_interval_of_outcomes_is_wilsons(right, count):
    values = np.r_[np.ones(right), np.zeros(count - right)]
    mean, (low, high) = metrics.mean_interval(values)
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert mean == right / count
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= low <= mean <= high <= 1 and low < high


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_interval_of_outcomes_that_are_alike_ends_at_the_mean(outcome):
    """By Wilson's formula one end is the mean, whatever floats make of it."""
    for count in range(1, 3_001):
        mean, (low, high) = metrics.mean_interval(np.full(count, outcome))
        assert mean == outcome and 0 <= low <= mean <= high <= 1, count
        assert (high if outcome else low) == pytest.approx(outcome, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 104, 320, 500, 1_319, 3_000])
def test_interval_of_outcomes_holds_the_mean(count):
    for right in {*range(0, count, 1 + count // 100), count - 1, count}:
        values = np.r_[np.ones(right), np.zeros(count - right)]
        mean, (low, high) = metrics.mean_interval(values)
        assert 0 <= low <= mean <= high <= 1 and low < high, right


def test_interval_by_hand():
    _, (low, high) = metrics.mean_interval(np.zeros(10))
    # p = 0: from 0 to z^2 / (n + z^2) = 3.8415 / 13.8415.
    assert (low, high) == pytest.approx((0.0, 0.27753), abs=1e-5)


def test_interval_of_fractions_is_normal():
    values = [0.2, 0.5, 0.9, 1.0, 0.0]
    mean, (low, high) = metrics.mean_interval(np.array(values))
    half = 1.96 * statistics.stdev(values) / math.sqrt(5)
    assert mean == pytest.approx(0.52)
    assert (low, high) == pytest.approx((0.52 - half, 0.52 + half), abs=1e-4)


def test_one_fraction_says_nothing():
    _, (low, high) = metrics.mean_interval(np.array([0.5]))
    assert low <= 0 and high >= 1


def test_interval_of_any_number_is_normal():
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0])  # zeros and ones, which are no shares
    mean, interval = metrics.normal_interval(values)
    half = 1.959964 * statistics.stdev(values) / math.sqrt(5)
    assert mean == pytest.approx(0.6)
    assert interval == pytest.approx((0.6 - half, 0.6 + half), rel=1e-9)
    assert metrics.normal_interval(np.zeros(10)) == (0.0, (0.0, 0.0))
    assert metrics.normal_interval(np.array([3.0])) == (3.0, None)


@pytest.mark.parametrize("count", [2, 3, 5, 30])
def test_interval_over_seeds_is_students(count):
    values = np.random.default_rng(count).normal(0.4, 0.1, count)
    mean, interval = metrics.seed_interval(values)
    assert mean == pytest.approx(statistics.mean(values))
    expected = stats.t.interval(
        0.95, count - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    assert interval == pytest.approx(expected, abs=1e-12)


def test_interval_over_few_seeds_by_hand():
    """The quantiles of t with 1 and 2 degrees of freedom are closed forms."""
    mean, (low, high) = metrics.seed_interval([1.0, 3.0])
    # t = tan(0.475 π), and the standard error is 1.
    half = math.tan(0.475 * math.pi)
    assert (mean, low, high) == pytest.approx((2.0, 2.0 - half, 2.0 + half))
    mean, (low, high) = metrics.seed_interval([5.9, 1.4, 3.3])
    # t = 0.95 √(2 / (1 - 0.95²)), and s² = 5.1033.
    half = 0.95 * math.sqrt(2 / (1 - 0.95**2)) * math.sqrt(5.103333 / 3)
    assert (mean, high - mean) == pytest.approx((10.6 / 3, half), rel=1e-6)
    assert mean - low == pytest.approx(half, rel=1e-6)


def test_one_seed_has_no_interval():
    assert metrics.seed_interval([0.5]) == (0.5, None)
    assert metrics.seed_interval(np.array([1.0, 1.0])) == (1.0, (1.0, 1.0))


def test_interpolation_is_exact_for_what_is_linear_in_the_logarithm():
    places = np.array([10.0, 30.0, 1000.0])
    slopes, offsets = np.array([0.5, -2.0]), np.array([1.0, 3.0])

    def line(x):
        return offsets + slopes * np.log(x)

    values = np.stack([line(x) for x in places])
    for x in (10.0, 17.0, 30.0, 31.0, 400.0, 1000.0):
        np.testing.assert_allclose(
            metrics.interpolate_log(x, places, values), line(x), rtol=1e-12
        )
    # Half-way in the logarithm is the geometric mean.
    np.testing.assert_allclose(
        metrics.interpolate_log(np.sqrt(300.0), places, values),
        (values[0] + values[1]) / 2,
        rtol=1e-12,
    )
    assert metrics.interpolate_log(9.9, places, values) is None
    assert metrics.interpolate_log(1001.0, places, values) is None


def test_interpolation_of_a_single_place():
    places, values = np.array([10.0]), np.array([[0.25]])
    assert metrics.interpolate_log(10.0, places, values) == [0.25]
    assert metrics.interpolate_log(10.1, places, values) is None


def test_auc():
    rng = np.random.default_rng(3)
    scores = [rng.integers(0, 4, size) / 3.0 for size in (7, 5, 6, 4, 0)]
    positive = [rng.random(len(score)) < 0.5 for score in scores]
    positive[2][:], positive[3][:] = True, False  # no pairs
    wins = pairs = 0.0
    for score, kind in zip(scores, positive, strict=True):
        for i, j in itertools.product(range(len(score)), repeat=2):
            if kind[i] and not kind[j]:
                pairs += 1
                wins += 1.0 if score[i] > score[j] else 0.5 * (score[i] == score[j])
    assert pairs > 8
    assert any(len(set(score[:5])) < 5 for score in scores[:2])  # there are ties
    auc, count = metrics.within_problem_auc(scores, positive)
    assert (auc, count) == (pytest.approx(wins / pairs), pairs)
    # Other problems' scores do not matter, only the order within a problem.
    shifted = [10.0 * i + score**3 for i, score in enumerate(scores)]
    assert metrics.within_problem_auc(shifted, positive)[0] == pytest.approx(auc)
    flipped, _ = metrics.within_problem_auc([-s for s in scores], positive)
    assert flipped == pytest.approx(1 - auc)


@pytest.mark.parametrize("kind", [True, False])
def test_auc_without_pairs(kind):
    scores = [np.array([0.1, 0.9]), np.array([0.5])]
    positive = [np.full(len(score), kind) for score in scores]
    assert metrics.within_problem_auc(scores, positive) == (None, 0)
    assert metrics.within_problem_auc([], []) == (None, 0)


def _mistakes(pairs, at):
    return np.mean([(value >= at) != right for value, right in pairs])


def test_outcome_error_by_brute_force():
    """A threshold for each step, by trying all, on the other half of the problems."""
    rng = np.random.default_rng(0)
    responses, rewards = [], []
    for problem in (3, 4, 7, 9):
        for _ in range(5):
            correct = bool(rng.integers(2))
            responses.append(Response(problem, (1,), (2,), (), correct))
            length = rng.integers(1, 4)
            rewards.append(np.round(0.5 * correct + rng.normal(size=length), 1))
    halves = [{3, 7}, {4, 9}]
    expected = []
    for step in range(3):
        mistakes = []
        for ours, others in (halves, halves[::-1]):
            fit, measured = (
                [
                    (v[step], r.correct)
                    for v, r in zip(rewards, responses, strict=True)
                    if r.problem in half and len(v) > step
                ]
                for half in (others, ours)
            )
            values = sorted({v for v, _ in fit})
            tries = [-np.inf, *np.convolve(values, [0.5, 0.5], "valid"), np.inf]
            at = min(tries, key=lambda at, fit=fit: _mistakes(fit, at))
            mistakes += [(value >= at) != right for value, right in measured]
        expected.append(np.mean(mistakes))
    found = metrics.outcome_error(responses, rewards)
    np.testing.assert_allclose(found[:3], expected)
    assert found[3:] == [None] * 7


def test_outcome_error_of_a_reward_that_says_nothing_is_that_of_the_commoner():
    responses = [Response(i % 4, (1,), (2,), (), i < 3) for i in range(12)]
    found = metrics.outcome_error(responses, [np.zeros(1)] * 12)
    assert found[0] == pytest.approx(3 / 12)
