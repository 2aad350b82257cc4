"""`pav advise`: beams or selection among samples, as measured or bounded by labels."""

import dataclasses

import numpy as np
import pytest
from labelled_tree import RESULTS, near

from pav_jax.core.types import Response
from pav_jax.tools.advice import budget, estimates
from pav_jax.tools.advice import budget_lines as lines
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
    assert said.reason == (
        "beams are the better buy (vote by ORM or best-of-N by ORM: 30.0%)"
    )
    assert said.detail.startswith("beam_pav 50.0% less the strongest selection")
    at = budget.versus(RESULTS, None)
    assert [point.tokens for point in at] == [100, 400]


@pytest.mark.parametrize(("tokens", "place"), [(60, "fewer"), (500, "more")])
def test_beyond_what_was_measured(tokens, place):
    first, second = lines.versus_lines(budget.versus(RESULTS, tokens))
    assert first.estimate is None and first.reason.startswith(place)
    assert second.name == f"selection, {tokens} tokens" and second.estimate is not None


def test_the_selection_is_named_that_is_compared_with():
    """One that was measured beside a beam, between the N that have rows, as well."""
    efficiency = RESULTS["compute_efficiency"]
    # N samples cost 50 + 750 (N - 1) / 7 tokens: 157 for 2, 264 for 3.
    chosen = {"1": "vote_orm", "2": "vote_pav", "3": "best_of_n_pav", "8": "vote_orm"}
    results = RESULTS | {
        "search": [
            r | {"method": r["method"].replace("best_of_n", "vote")}
            for r in RESULTS["search"]
            if r["method"] != "best_of_n_orm" or r["n"] > 1
        ],
        "compute_efficiency": efficiency | {"reference_methods": chosen},
    }
    for tokens, name in (
        (110, "vote by ORM or vote by PAV"),
        (50 + 750 / 7, "vote by PAV"),
        (200, "vote by PAV or best-of-N by PAV"),
        (400, "best-of-N by PAV or vote by ORM"),
    ):
        (found,) = budget.versus(results, tokens)
        assert found.selection == name
    old = {k: v for k, v in efficiency.items() if k != "reference_methods"}
    (found,) = budget.versus(RESULTS | {"compute_efficiency": old}, 200)
    assert found.selection == "best-of-N by ORM"


def test_beams_on_both_sides_of_selection():
    """They have the selections that are nearest to them beside them."""
    cheap, dear = (
        dict(method="beam_q", n=n, tokens=tokens, accuracy=0.2, ci=[0.1, 0.3])
        for n, tokens in ((1, 20), (8, 9000))
    )
    oracle = cheap | {"method": "beam_oracle", "tokens": 100}
    others = [row for row in RESULTS["search"] if row["method"] != "beam_pav"]
    for beams, wanted in (
        ([dear, cheap, oracle], {50: "vote by ORM", 800: "best-of-N by ORM"}),
        ([cheap], {50: "vote by ORM"}),
        ([oracle], None),
    ):
        found = budget.apart(RESULTS | {"search": [*others, *beams]})
        if wanted is None:
            assert found is None
            continue
        assert {k: name for k, (name, _) in found.selections.items()} == wanted
        said = list(lines.apart_lines(found))
        assert said[0].name == "beam_q, 20 tokens"
        assert said[0].reason.startswith("fewer than any selection")


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.1, 0.2), "beams are the better buy"),
        ((-0.2, -0.1), "selection is the better buy"),
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
    (said,) = lines.bound_lines(budget.pass_bound(labelled, 5), "there is no run")
    assert "less than one response" in said.reason
