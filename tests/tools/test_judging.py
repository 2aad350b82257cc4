"""Finding first errors and picking the best: by hand, and against brute force."""

import itertools

import numpy as np
import pytest

from pav_jax.tools.judging import measures
from pav_jax.tools.judging.measures import Examples


def _random(rng, count, problems):
    values = [rng.integers(0, 12, rng.integers(1, 6)) / 11 for _ in range(count)]
    errors = np.array([rng.integers(-1, len(row)) for row in values])
    errors[:2] = -1, 0  # both kinds
    return Examples(values, errors, rng.integers(0, problems, count))


def _f1(examples, threshold):
    """F1 as ProcessBench defines it, one example at a time."""
    right = {True: [], False: []}
    for row, error in zip(examples.values, examples.errors, strict=True):
        found = next((h for h, q in enumerate(row) if q < threshold), -1)
        right[bool(error == -1)].append(found == error)
    a, b = (np.mean(found) for found in right.values())
    return 2 * a * b / (a + b) if a + b else 0.0


# Three with an error (in steps 1, 0 and 2) and two without.
HAND = Examples(
    values=[
        np.array([0.9, 0.2, 0.8]),
        np.array([0.6, 0.1]),
        np.array([0.9, 0.4, 0.3]),
        np.array([0.7, 0.8]),
        np.array([0.9, 0.45, 0.9]),
    ],
    errors=np.array([1, 0, 2, -1, -1]),
    problems=np.arange(5),
)


@pytest.mark.parametrize(
    ("threshold", "flagged", "expected"),
    [
        (0.05, [-1, -1, -1, -1, -1], (0, 1, 0)),
        (0.3, [1, 1, -1, -1, -1], (1 / 3, 1, 1 / 2)),  # below, not at the threshold
        (0.35, [1, 1, 2, -1, -1], (2 / 3, 1, 4 / 5)),
        (0.5, [1, 1, 1, -1, 1], (1 / 3, 1 / 2, 2 / 5)),
        (0.65, [1, 0, 1, -1, 1], (2 / 3, 1 / 2, 4 / 7)),
        (1.0, [0, 0, 0, 0, 0], (1 / 3, 0, 0)),
    ],
)
def test_measures_by_hand(threshold, flagged, expected):
    assert measures.first_below(HAND.values, threshold).tolist() == flagged
    np.testing.assert_allclose(measures.measure(HAND, threshold), expected)


def test_the_threshold_by_hand():
    assert measures.choose_threshold(HAND) == pytest.approx(0.35)


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_has_a_higher_f1(seed):
    examples = _random(np.random.default_rng(seed), count=30, problems=9)
    chosen = measures.choose_threshold(examples)
    best = max(_f1(examples, t) for t in np.arange(-0.5, 13) / 11)
    assert _f1(examples, chosen) == pytest.approx(best)
    assert measures.measure(examples, chosen)[2] == pytest.approx(best)


def test_a_verifier_that_says_the_same_of_all_has_no_f1():
    same = Examples([np.ones(3), np.ones(3)], np.array([-1, 1]), np.arange(2))
    assert measures.measure(same, measures.choose_threshold(same))[2] == 0


def test_intervals_are_over_problems():
    """The interval's ends, against draws of whole problems made in another way."""
    rng = np.random.default_rng(0)
    one = _random(rng, count=60, problems=60)
    one = Examples(one.values, one.errors, np.arange(60))
    many = Examples(one.values * 4, np.tile(one.errors, 4), np.tile(one.problems, 4))
    value, low, high = measures.estimates({"a": one}, 0.5)["a"]["f1"]
    # Copies of an example to the same problem add nothing.
    assert measures.estimates({"a": many}, 0.5)["a"]["f1"] == [value, low, high]
    draws = []
    for _ in range(4000):
        drawn = rng.integers(0, 60, 60)
        values = [one.values[i] for i in drawn]
        draws.append(_f1(Examples(values, one.errors[drawn], drawn), 0.5))
    np.testing.assert_allclose(
        [low, high], np.percentile(draws, [2.5, 97.5]), atol=0.03
    )
    assert low < value < high


def test_the_average_is_of_the_subsets():
    rng = np.random.default_rng(1)
    subsets = {name: _random(rng, 80, 80) for name in "ab"}
    found = measures.estimates(subsets, 0.4)
    assert list(found) == ["a", "b", "average"]
    widths = {}
    for key in measures.MEASURES:
        values = [found[name][key][0] for name in "ab"]
        assert found["average"][key][0] == pytest.approx(np.mean(values))
        for name, (_, low, high) in ((name, row[key]) for name, row in found.items()):
            widths[name] = high - low
        # Of two independent ones.
        expected = np.hypot(widths["a"], widths["b"]) / 2
        assert widths["average"] == pytest.approx(expected, rel=0.15)
    assert "average" not in measures.estimates({"a": subsets["a"]}, 0.4)


def test_best_of_n_is_the_mean_over_all_subsets():
    rng = np.random.default_rng(2)
    correct = [rng.random(m) < 0.4 for m in (5, 4, 6)]
    scores = [rng.permutation(len(c)) / 7 for c in correct]
    rows = measures.best_of_each_n({"rule": scores}, correct)
    assert [row["n"] for row in rows] == [1, 2, 4]
    for row in rows:
        best, some = [], []
        for s, c in zip(scores, correct, strict=True):
            subsets = [*itertools.combinations(range(len(c)), row["n"])]
            best.append(np.mean([c[max(u, key=s.__getitem__)] for u in subsets]))
            some.append(np.mean([any(c[i] for i in u) for u in subsets]))
        assert row["rule"][0] == pytest.approx(np.mean(best))
        assert row["any"][0] == pytest.approx(np.mean(some))
        assert row["rule"][1] < row["rule"][0] < row["rule"][2]
