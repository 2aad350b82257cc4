"""`pav advise`: the terms of provers, their bounds, and which prover they prefer."""

import dataclasses
import itertools

import numpy as np
import pytest
from labelled_tree import POLICY, VALUES, near, tree

from pav_jax.prover import aligned_progress, prover_terms
from pav_jax.tools.advice import estimates, lines
from pav_jax.tools.advice.labelled import Labelled
from pav_jax.tools.advice.provers import (
    Candidate,
    by_alignment,
    by_bounds,
    candidates,
    preference,
)


def _exact(prover, n_cov):
    """The mean of both terms over problems, by all draws of the first steps.

    States after a step that two responses took are visited twice too. They have one
    action each, so that they add nothing but their visits.
    """
    apart = aligned = 0.0
    for actions in itertools.product(range(3), repeat=n_cov):
        chance = np.prod(POLICY[list(actions)])
        again = sum(actions.count(a) for a in range(3) if actions.count(a) > 1)
        chance *= n_cov / (n_cov + again) / (n_cov * (n_cov - 1))
        for a, b in itertools.combinations(actions, 2):
            apart += chance * (prover[a] - prover[b]) ** 2
            aligned += chance * (prover[a] - prover[b]) * (VALUES[a] - VALUES[b])
    return apart, aligned


def _every_step(prover):
    """Alignment and distinguishability over both steps of the tree.

    The last step is right or wrong, as if two actions were there: `Q^μ` after it is
    `Rex`, and what a prover had before it is a constant.
    """
    root, own_root = POLICY @ prover, POLICY @ VALUES  # π's first step, by μ's values
    first = POLICY @ ((prover - root) * (VALUES - own_root))
    last = POLICY @ (VALUES * (1 - VALUES))
    apart = POLICY @ (prover - root) ** 2
    return (first + last) / 2, (apart + last) / 2


def _square(prover, before):
    """`E (A^μ)^2` over both steps, with `Q^μ` of the problem."""
    wrong = VALUES * (1 - prover) ** 2 + (1 - VALUES) * prover**2
    return (POLICY @ (prover - before) ** 2 + POLICY @ wrong) / 2


def test_terms_are_those_of_the_tree():
    mu = np.array([0.9, 0.2, 0.5])
    labelled = tree(500, 3, 8, other=mu, n_other=2)
    found = {c.name: c for c in candidates(labelled)}
    assert list(found) == ["π", "Bo2", "Bo4", "mu"]
    for name, k in {"π": 1, "Bo2": 2, "Bo4": 4, "mu": 1}.items():
        prover, ours = mu if name == "mu" else 1 - (1 - VALUES) ** k, found[name]
        apart, _ = _exact(prover, 3)
        assert near(ours.distinguishability, apart)
        assert near(ours.alignment, _every_step(prover)[0])
        theirs = labelled.others["mu"] if name == "mu" else labelled.labels
        parts = [slice(i, i + 3) for i in range(0, 1500, 3)]
        terms = [
            prover_terms(
                labelled.responses[x], labelled.labels[x], k=k, prover_labels=theirs[x]
            )
            for x in parts
        ]
        mean = np.mean([t.distinguishability for t in terms])
        assert ours.distinguishability.value == pytest.approx(mean, rel=1e-12)
        both = [t.distinguishability + t.alignment for t in terms]
        assert list(ours.total.values()) == pytest.approx(both)


def test_with_two_responses_the_terms_are_those_of_the_state():
    """A closed form: two that are alike say nothing, whatever their visits weigh."""
    prover = 1 - (1 - VALUES) ** 4
    apart, aligned = _exact(prover, 2)
    mean = POLICY @ prover
    assert apart == pytest.approx(POLICY @ (prover - mean) ** 2)
    assert aligned == pytest.approx(POLICY @ ((prover - mean) * VALUES))


def test_the_sum_prefers_what_is_clearly_best():
    found = candidates(tree(400, 3, 8))
    choice = preference(found)
    sums = {c.name: np.mean(list(c.total.values())) for c in found}
    assert choice.best == max(sums, key=sums.get) == "Bo4"
    assert choice.margin.above_zero
    assert choice.margin.value == pytest.approx(sums["Bo4"] - sums[choice.second])
    same = candidates(tree(60, 2, 8, values=np.full(3, 0.3)))
    assert not preference(same).margin.above_zero
    assert preference(found[:1]) is None


def test_the_closest_of_the_others_decides():
    def made(name, *totals):
        nothing = estimates.Estimate(0.0, None)
        return Candidate(name, nothing, nothing, dict(enumerate(totals)))

    ours = made("a", *[3.0, 4.0, 5.0] * 4)
    # The second is further behind, but not clearly.
    others = [made("b", *[2.0, 3.1, 3.9] * 4), made("c", *[9.0, -9.0, 0.0] * 4)]
    choice = preference([others[0], ours, others[1]])
    assert (choice.best, choice.second) == ("a", "c")
    assert not choice.margin.above_zero
    assert preference([ours, others[0]]).margin.above_zero
    # Nor is it the best of all, if one of them has too few problems to tell.
    few = preference([ours, others[0], made("d", 1.0, 2.0, 3.0)])
    assert few.second == "d" and not few.margin.above_zero


def test_a_prover_is_held_against_the_others_where_it_has_labels():
    labelled = tree(40, 2, 2, other=np.array([0.9, 0.1, 0.1]), n_other=4)
    known = labelled.others["mu"]
    few = Labelled(
        labelled.responses,
        labelled.labels,
        labelled.rollouts,
        {"mu": [x if i < 20 else None for i, x in enumerate(known)]},
    )
    found = {c.name: c for c in candidates(few)}
    assert set(found["mu"].total) == set(range(10))
    assert set(found["π"].total) == set(range(40))
    choice, (mu, own) = preference(list(found.values())), (found["mu"], found["π"])
    gaps = [mu.total[p] - own.total[p] for p in range(10)]
    assert abs(choice.margin.value) == pytest.approx(abs(np.mean(gaps)))


def test_one_response_tells_alignment_and_bounds():
    """Closed forms: π's own terms are exact, those of others within what is said."""
    mu = np.array([0.9, 0.2, 0.5])
    labelled = tree(6000, 1, 8, other=mu, n_other=2)
    found = {c.name: c for c in candidates(labelled)}
    assert list(found) == ["π", "Bo2", "Bo4", "mu"]
    own, _ = _every_step(VALUES)
    for name, k in {"π": 1, "Bo2": 2, "Bo4": 4, "mu": 1}.items():
        prover, ours = mu if name == "mu" else 1 - (1 - VALUES) ** k, found[name]
        before = POLICY @ mu if name == "mu" else 1 - (1 - POLICY @ VALUES) ** k
        aligned, apart = _every_step(prover)
        assert near(ours.alignment, aligned)
        assert near(ours.at_least, aligned**2 / own)
        assert near(ours.at_most, _square(prover, before))
        assert aligned**2 / own <= apart * (1 + 1e-12)
        assert apart <= _square(prover, before) * (1 + 1e-12)
        assert not ours.total
    assert near(found["π"].distinguishability, own)
    assert found["π"].distinguishability == found["π"].at_most
    assert found["π"].at_least.value == pytest.approx(own, rel=0.1)
    assert all(found[name].distinguishability is None for name in ("Bo2", "Bo4", "mu"))


def test_alignment_is_the_mean_over_all_steps():
    """Long responses have as many votes as they have steps; by brute force."""
    labelled = tree(30, 2, 3, other=np.array([0.9, 0.1, 0.1]), n_other=1)
    short = [i for i in range(60) if i % 3]  # of some problems one response
    few = Labelled(
        [labelled.responses[i] for i in short],
        [labelled.labels[i] for i in short],
        labelled.rollouts,
        {"mu": [labelled.others["mu"][i] for i in short]},
    )
    found = {c.name: c for c in candidates(few)}
    assert list(found) == ["π", "Bo2", "mu"]  # K + 1 continuations are enough
    for name, k in (("π", 1), ("Bo2", 2), ("mu", 1)):
        steps = [
            aligned_progress(x, k=k, prover_labels=y if name == "mu" else None)
            for x, y in zip(few.labels, few.others["mu"], strict=True)
        ]
        mean = np.concatenate(steps).mean()
        assert found[name].alignment.value == pytest.approx(mean)
    # One continuation of μ tells its alignment, but not how much its progress differs.
    assert found["mu"].at_most is None and not found["mu"].total
    assert found["Bo2"].at_most is None and found["Bo2"].at_least is not None


def test_without_two_continuations_others_are_aligned_alone():
    labelled = tree(40, 1, 1, other=np.array([0.9, 0.1, 0.1]), n_other=2)
    (mu,) = candidates(labelled)
    assert mu.name == "mu" and mu.at_least is None and mu.at_most is not None
    assert candidates(dataclasses.replace(labelled, others={})) == []
    (no_terms, missing) = lines.prover_lines(dataclasses.replace(labelled, others={}))
    assert "config.labels.n_mc=1" in no_terms.reason and "2 does" in no_terms.reason
    assert missing.name == "π to Bo32"


def test_the_best_by_alignment():
    """By brute force; and by what is known of the tree: μ's values are as π's, times
    three."""
    labelled = tree(6000, 1, 2, other=3 * VALUES, n_other=4)
    found = candidates(labelled)
    choice, (own, mu) = by_alignment(found), found
    assert (choice.best, choice.second) == ("mu", "π")
    total = [sum(s for s, _ in c.aligned.values()) for c in (mu, own)]
    steps = sum(n for _, n in own.aligned.values())
    assert choice.margin.value == pytest.approx((total[0] - total[1]) / steps)
    gap = _every_step(3 * VALUES)[0] - _every_step(VALUES)[0]
    assert choice.margin.above_zero and near(choice.margin, gap)
    assert by_alignment(found[:1]) is None and by_alignment([]) is None


def test_bounds_decide_where_they_are_apart():
    labelled = tree(3000, 1, 4, other=3 * VALUES, n_other=4)
    found = [c for c in candidates(labelled) if c.name != "Bo2"]
    choice = by_bounds(found)
    assert (choice.best, choice.second) == ("mu", "π") and choice.margin.above_zero
    # Of μ the least that the sum can be; of π it is twice its distinguishability.
    own, (aligned, _) = _every_step(VALUES)[0], _every_step(3 * VALUES)
    assert near(choice.margin, aligned + aligned**2 / own - 2 * own)
    said = {line.name: line.reason for line in lines.prover_lines(labelled)}
    assert said["sum: mu less Bo2"].endswith("mu is best")
    alike = candidates(tree(300, 1, 4, other=VALUES, n_other=4))
    assert not by_bounds(alike).margin.above_zero
    assert by_bounds(found[:1]) is None
    assert by_bounds([c for c in found if c.name != "π"]) is None


def test_lines_say_for_which_step_a_term_ranks():
    """None says to take a prover, and Adam is told apart."""
    wide = tree(400, 3, 8)
    said = {line.name: line for line in lines.prover_lines(wide) if line.screen}
    aligned = next(line for name, line in said.items() if "alignment: Bo4" in name)
    total = next(line for name, line in said.items() if "sum: Bo4" in name)
    assert aligned.reason.startswith("for a small natural step")
    assert total.reason.startswith("for a large natural step")
    assert aligned.reason.endswith("Bo4 is best") and total.reason.endswith(
        "Bo4 is best"
    )
    assert said["with Adam"].reason.startswith("no term ranks provers")
    assert not any("take " in line.reason for line in said.values())
    assert "at shared states" in said["Bo4 alignment"].reason
    assert "4 for Bo2; it is 2" in list(lines.prover_lines(tree(20, 1, 2)))[-1].reason


def test_lines_say_what_would_tell():
    one = tree(60, 1, 2, other=np.array([0.9, 0.1, 0.3]), n_other=2)
    said = {line.name: line for line in lines.prover_lines(one)}
    (total,) = (line for name, line in said.items() if name.startswith("sum: "))
    assert "config.rollouts.n_cov=2 tells it" in total.reason
    assert "from_policy=2" in total.detail
    bounds = said["mu alignment"].reason
    low, high = (said[f"mu distinguishability, at {x}"] for x in ("least", "most"))
    assert f"{high.estimate.value:.3g} [" in bounds and bounds.endswith("bounds")
    assert f"D {low.estimate.value:.3g} to" in bounds
    assert "μ = π changes nothing" in said["π alignment"].reason
    # Another prover with labels of one response to a problem, where π has two.
    two = tree(60, 2, 4, other=np.array([0.9, 0.1, 0.3]), n_other=2)
    theirs = [x if i % 2 else None for i, x in enumerate(two.others["mu"])]
    two = dataclasses.replace(two, others={"mu": theirs})
    said = {line.name: line.reason for line in lines.prover_lines(two)}
    (total,) = (reason for name, reason in said.items() if name.startswith("sum: "))
    assert total.endswith("of those with D")
    none = tree(60, 1, 1, other=np.array([0.9, 0.1, 0.3]), n_other=2)
    pair = dataclasses.replace(none, others=none.others | {"nu": none.others["mu"]})
    said = {line.name: line.reason for line in lines.prover_lines(pair)}
    assert "config.rollouts.n_cov=2 and config.labels.n_mc=2" in said["sum"]
