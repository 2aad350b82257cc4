"""`pav advise`: beams or selection among samples, as measured or bounded by labels."""

import dataclasses

import numpy as np
import pytest
from labelled_tree import RESULTS, near

from pav_jax.core.types import Response
from pav_jax.tools.advice import budget, estimates, lines
from pav_jax.tools.advice.labelled import Labelled


def test_between_what_was_measured():
    (found,) = budget.versus(RESULTS, 200)  # halfway in log tokens
    assert found.beam.value == pytest.approx(0.5)
    assert found.beam.interval == pytest.approx((0.4, 0.6))
    assert found.reference.value == pytest.approx(0.1 + 0.4 * 0.5)  # 50, 200, 800
    assert found.points.value == pytest.approx(0.5 - 0.3)
    assert np.ptp(found.points.interval) == pytest.approx(0.3)
    by_point = RESULTS["compute_efficiency"]["by_point"]
    known = [row | {"points": row["points"] - 0.05} for row in by_point]
    exact = RESULTS["compute_efficiency"] | {"by_point": known}
    (better,) = budget.versus(RESULTS | {"compute_efficiency": exact}, 200)
    # The run knows the reference there better than what lies between its N.
    assert better.points.value == pytest.approx(0.15)
    assert better.reference.value == pytest.approx(0.35)
    assert np.ptp(better.reference.interval) == pytest.approx(0.2)
    (said,) = lines.versus_lines([found])
    assert said.name == "points, 200 tokens"
    assert "beams are the better buy (50.0% to 30.0%)" in said.reason
    at = budget.versus(RESULTS, None)
    assert [point.tokens for point in at] == [100, 400]


@pytest.mark.parametrize(("tokens", "place"), [(60, "fewer"), (500, "more")])
def test_beyond_what_was_measured(tokens, place):
    first, second = lines.versus_lines(budget.versus(RESULTS, tokens))
    assert first.estimate is None and first.reason.startswith(place)
    assert second.name == f"best-of-N, {tokens} tokens" and second.estimate is not None


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.1, 0.2), "beams are the better buy"),
        ((-0.2, -0.1), "best-of-N is the better buy"),
        ((-0.1, 0.1), "no difference shown"),
    ],
)
def test_the_better_buy(interval, words):
    found = estimates.Estimate(float(np.mean(interval)), interval, 10)
    assert words in lines._buy(found)
    few = dataclasses.replace(found, problems=9)
    assert lines._buy(few).startswith("too few problems to tell")


def test_pass_at_n_bounds_best_of_n():
    rates = np.random.default_rng(0).beta(0.4, 1.6, 4000)
    right = np.random.default_rng(1).random((4000, 6)) < rates[:, None]
    responses = [
        Response(p, (1, 2), (3, 4, 5), (0.0,) * 3, bool(x))
        for p, row in enumerate(right)
        for x in row
    ]
    labelled = Labelled([], [], responses, {})
    for n in (1, 3, 6):
        # A budget of n samples, and no more: prompt and samples, decoded and scored.
        found = budget.pass_bound(labelled, 2 * (2 + 3 * n) + 5)
        assert (found.n, found.tokens, found.samples) == (n, 2 * (2 + 3 * n), 6)
        assert near(found.accuracy, np.mean(1 - (1 - rates) ** n))
    far = budget.pass_bound(labelled, 2 * (2 + 3 * 50))
    assert far.n == 50
    # Of the mean power of six that the samples have, not of the truth.
    six = budget.pass_bound(labelled, None).accuracy
    assert far.accuracy.value == pytest.approx(1 - (1 - six.value) ** (50 / 6))
    assert far.accuracy.interval[0] == pytest.approx(
        1 - (1 - six.interval[0]) ** (50 / 6)
    )
    assert far.accuracy.value > np.mean(1 - (1 - rates) ** 50)
    assert budget.pass_bound(labelled, None).n == 6
    assert budget.pass_bound(labelled, 5).n == 0
    (said,) = lines.bound_lines(budget.pass_bound(labelled, 5))
    assert "less than one response" in said.reason
