"""`pav advise`: its numbers against closed forms and known truth, and what it says."""

import itertools
import math

import numpy as np
import pytest
from labelled_tree import POLICY, VALUES, counts_of, near, tree

from pav_jax.core.types import Response
from pav_jax.metrics import seed_interval
from pav_jax.prover import prover_terms
from pav_jax.tools.advice import estimates, lines, siblings
from pav_jax.tools.advice.labelled import Labelled
from pav_jax.tools.advice.noise import noise
from pav_jax.tools.advice.provers import Candidate, candidates, preference
from pav_jax.tools.advice.sparsity import sparsity


def _flat(q, n_mc, seed=0):
    """Responses of one step: a labelled prompt of value `q[p]`, and an outcome."""
    rng = np.random.default_rng(seed)
    right = rng.random(len(q)) < q
    counts = rng.binomial(n_mc, q)
    responses = [Response(p, (1,), (9,), (0.0,), bool(x)) for p, x in enumerate(right)]
    found = [counts_of([k, x], [n_mc, 1]) for k, x in zip(counts, right, strict=True)]
    return Labelled(responses, found, responses, {})


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


# Estimates.


def test_the_bootstrap_holds_the_truth_as_often_as_it_says():
    rng, held = np.random.default_rng(1), 0
    for _ in range(120):
        weight = rng.gamma(2.0, size=60)
        sums = np.stack([weight * rng.normal(3.0, 1.0, 60), weight], axis=1)
        found = estimates.ratio_of(sums, lambda t: t[0] / t[1])
        assert found.value == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum())
        held += found.interval[0] <= 3.0 <= found.interval[1]
    assert 0.86 < held / 120 <= 1.0  # 95%, less three standard errors and some bias


def test_the_bootstrap_of_a_mean_is_as_wide_as_students():
    rng, widths = np.random.default_rng(2), []
    for _ in range(60):
        sums = np.stack([rng.normal(size=10), np.ones(10)], axis=1)
        found = estimates.ratio_of(sums, lambda t: t[0] / t[1])
        _, exact = seed_interval(sums[:, 0])
        widths.append(np.ptp(found.interval) / np.ptp(exact))
    assert np.mean(widths) == pytest.approx(1, abs=0.05)
    # Of fewer there are too few different resamples.
    assert estimates.ratio_of(sums[:9], lambda t: t[0] / t[1]).interval is None


def test_a_mean_is_students_and_one_problem_has_no_interval():
    values = np.array([0.0, 1.0, 2.0, 5.0])
    found = estimates.mean_of(values)
    half = 3.182446 * values.std(ddof=1) / 2  # t with three degrees of freedom
    assert found.value == 2.0
    assert found.interval == pytest.approx((2 - half, 2 + half))
    tenths = estimates.share_of(values / 10)
    assert tenths.interval == pytest.approx((0, 0.2 + half / 10))  # no less than 0
    assert estimates.mean_of(np.ones(1)).interval is None
    assert not estimates.mean_of(np.zeros(15)).above_zero
    inverse = estimates.Estimate(0.5, (0.2, 0.6), 12).through(lambda x: 1 - x)
    assert inverse.interval == pytest.approx((0.4, 0.8))
    assert inverse.tells


def test_a_verdict_takes_ten_problems():
    values = np.linspace(0.4, 0.6, 10)
    for made in (estimates.mean_of, estimates.share_of):
        assert made(values).above_zero and made(values).tells
        assert not made(values[:9]).above_zero and not made(values[:9]).tells
    assert not estimates.Estimate(0.5, (0.4, 0.6)).tells  # over who knows how many


# Provers.


def test_terms_are_those_of_the_tree():
    mu = np.array([0.9, 0.2, 0.5])
    labelled = tree(500, 3, 8, other=mu, n_other=2)
    found = {c.name: c for c in candidates(labelled)}
    assert list(found) == ["π", "Bo2", "Bo4", "mu"]
    for name, k in {"π": 1, "Bo2": 2, "Bo4": 4, "mu": 1}.items():
        prover, ours = mu if name == "mu" else 1 - (1 - VALUES) ** k, found[name]
        apart, aligned = _exact(prover, 3)
        assert near(ours.distinguishability, apart)
        assert near(ours.alignment, aligned)
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


def test_without_pairs_there_are_no_terms():
    labelled = tree(20, 1, 2)
    assert candidates(labelled) == []
    first, second = lines.prover_lines(labelled)
    assert "config.rollouts.n_cov=1" in first.reason and "raise it to 2" in first.reason
    assert second.name == "Bo2 to Bo32"
    assert "4 for Bo2; it is 2" in second.reason


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


# Noise.


@pytest.mark.parametrize("n_mc", [2, 5])
def test_noise_and_other_splits(n_mc):
    q = np.tile([0.05, 0.3, 0.9], 1500)
    found = noise(_flat(q, n_mc))
    true, spread = np.var(q), np.mean(q * (1 - q))
    assert near(found.values, spread / n_mc / (true + spread / n_mc))
    # The step goes from the prompt to the outcome: E (Rex - Q)^2 is the spread itself.
    assert near(found.progress, 1 / (n_mc + 1))
    assert [split.n_mc for split in found.splits] == [n_mc, n_mc // 2, 2 * n_mc]
    for split in found.splits:
        assert near(split.reliability, true / (true + spread / split.n_mc))
        assert split.responses == n_mc / split.n_mc
        # One token a response, and one each of its continuations.
        cost = split.responses * (1 + split.n_mc) / (1 + n_mc)
        assert split.tokens == pytest.approx(cost)
    # The reliability is what labels of that n_mc, drawn anew, have in common with Q.
    drawn = np.random.default_rng(7).binomial(2 * n_mc, q) / (2 * n_mc)
    expected = np.corrcoef(drawn, q)[0, 1] ** 2
    assert found.splits[2].reliability.value == pytest.approx(expected, abs=0.03)
    assert found.values.value == pytest.approx(1 - found.splits[0].reliability.value)


def test_noise_of_labels_that_say_nothing():
    assert noise(_flat(np.full(50, 0.5), 1)) is None
    assert noise(_flat(np.ones(50), 4)) is None
    assert noise(_flat(np.zeros(50), 4)) is None
    alone = noise(tree(1, 2, 4))
    assert alone is None or alone.values.interval is None


# Sparsity.


def test_shares_without_success_are_counted():
    responses = [
        Response(0, (1,), (0, 9), (0.0,) * 2, False),
        Response(0, (1,), (0, 8), (0.0,) * 2, True),  # the same first step
        Response(1, (1,), (0, 9), (0.0,) * 2, False),
        Response(1, (1,), (2, 9), (0.0,) * 2, False),
    ]
    labels = [
        counts_of([0, 1, 0], [2, 2, 1]),
        counts_of([0, 1, 1], [2, 2, 1]),
        counts_of([0, 0, 0], [2, 2, 1]),
        counts_of([0, 0, 0], [2, 2, 1]),
    ]
    found = sparsity(Labelled(responses, labels, responses, {}))
    assert found.base.value == 0.25
    assert found.problems.value == 0.5
    assert found.prefixes.value == (0.5 + 1) / 2
    # Problem 0 has two distinct prefixes, problem 1 three; two continuations each.
    chance = (0.75**4 + 0.75**6) / 2
    assert found.problems_by_chance.value == pytest.approx(chance)
    assert found.prefixes_by_chance.value == pytest.approx(0.75**2)
    low, high = found.prefixes_by_chance.interval
    assert low == pytest.approx((1 - found.base.interval[1]) ** 2)
    assert high == pytest.approx((1 - found.base.interval[0]) ** 2)


def test_chance_is_what_like_problems_have():
    alike = sparsity(_flat(np.full(3000, 0.2), 4))
    assert abs(alike.prefixes.value - 0.8**4) < 4 * math.sqrt(0.4096 * 0.5904 / 3000)
    assert lines._more(alike.prefixes, alike.prefixes_by_chance) == ""
    unlike = sparsity(_flat(np.tile([0.0, 0.4], 1500), 4))
    assert abs(unlike.prefixes.value - (1 + 0.6**4) / 2) < 0.03
    assert lines._more(unlike.prefixes, unlike.prefixes_by_chance)


def test_progress_is_that_of_the_tree():
    other = np.array([0.9, 0.2, 0.5])
    found = sparsity(tree(1500, 2, 8, other=other, n_other=3)).progress
    assert list(found) == ["π", "Bo2", "Bo4", "mu"]
    for name, k in {"π": 1, "Bo2": 2, "Bo4": 4, "mu": 1}.items():
        values = other if name == "mu" else VALUES
        after, before = 1 - (1 - values) ** k, 1 - (1 - POLICY @ values) ** k
        first = POLICY @ (after - before) ** 2
        last = POLICY @ (VALUES * (1 - after) ** 2 + (1 - VALUES) * after**2)
        assert near(found[name], (first + last) / 2)


@pytest.mark.parametrize(
    ("values", "n_mc", "words"),
    [
        (np.full(3, 0.0), 4, "no BoK differs where π never succeeds"),
        (np.full(3, 1.0), 4, "success is common"),
        (np.array([0.0, 0.05, 0.2]), 2, "Bo16 takes values"),
        (np.array([0.0, 0.05, 0.2]), 1, "n_mc=1 does not tell progress from noise"),
    ],
)
def test_what_sparse_labels_are_told(values, n_mc, words):
    labelled = tree(400, 1, n_mc, values=values)
    said = list(lines.sparsity_lines(labelled, sparsity(labelled)))
    assert words in said[-1].reason


def test_not_shown_is_not_that_there_is_nothing():
    labelled = tree(12, 1, 2, values=np.full(3, 0.1))
    found = sparsity(labelled)
    interval = found.progress["π"].interval
    assert interval[0] < 0 < interval[1]
    said = {line.name: line.reason for line in lines.sparsity_lines(labelled, found)}
    assert said["mean square of A, π"].startswith("not shown to teach")


@pytest.mark.parametrize("problems", [1, 2, 9])
def test_few_problems_have_numbers_and_no_verdict(problems):
    labelled = tree(problems, 2, 4)
    found = sparsity(labelled)
    *_, own = lines.sparsity_lines(labelled, found)
    assert own.name == "mean square of A, π" and "too few problems" in own.reason
    assert lines._more(found.problems, found.problems_by_chance) == ""
    told = [line.reason for line in lines.prover_lines(labelled)]
    assert not any(reason.startswith("take ") for reason in told)
    assert any("too few problems" in reason for reason in told)


def test_the_other_policy_that_would_teach():
    labelled = tree(
        100, 1, 2, values=np.zeros(3), other=np.array([0.9, 0.1, 0.5]), n_other=4
    )
    *_, own, last = lines.sparsity_lines(labelled, sparsity(labelled))
    assert "teach nothing" in own.reason and own.estimate.value == 0
    assert last.name == "mean square of A, mu" and last.estimate.above_zero


# Siblings.


def _viewed(prompt, *steps):
    rows = [{"text": text, "q": q, "q_mc": exact} for text, q, exact in steps]
    return {"prompt": prompt, "steps": rows}


def test_siblings_by_hand():
    viewer = [
        _viewed("p", ("a", 0.9, 0.5), ("x", 0.4, 1.0)),
        _viewed("p", ("b", 0.1, 0.2), ("y", 0.6, 0.0)),  # first right, second wrong
        _viewed("p", ("a", 0.9, 0.5), ("y", 0.4, 0.5)),  # tied with x, above b
        _viewed("q", ("a", 0.1, 0.5), ("x", 0.1, 0.3)),
    ]
    order, pairs = siblings.told_apart(viewer, siblings=True)
    # (a, b) right; after a: (x, y), of equal Q, half.
    assert pairs == 2 and order.value == 0.75
    order, pairs = siblings.told_apart(viewer, siblings=False)
    # First steps: a-b twice, right. Second: x-y(b) wrong, x-y half, y-y(b) wrong.
    assert pairs == 5 and order.value == pytest.approx(2.5 / 5)
    assert order.interval is None  # all of one problem
    assert siblings.told_apart(viewer[3:], siblings=True) == (None, 0)
    assert siblings.told_apart([], siblings=False) == (None, 0)


def test_siblings_by_brute_force():
    rng = np.random.default_rng(3)
    viewer = [
        _viewed(str(p), *((str(rng.integers(2)), *rng.random(2)) for _ in range(3)))
        for p in range(30)
        for _ in range(3)
    ]
    right = total = 0
    for one, two in itertools.combinations(viewer, 2):
        if one["prompt"] == two["prompt"]:
            for a, b in zip(one["steps"], two["steps"], strict=True):
                total += 1
                right += (a["q"] - b["q"]) * (a["q_mc"] - b["q_mc"]) > 0
    order, pairs = siblings.told_apart(viewer, siblings=False)
    assert pairs == total == 30 * 3 * 3
    assert order.value == pytest.approx(right / total)
    assert order.interval[0] < 0.5 < order.interval[1]
    said = lines._verdict(order)
    assert said.startswith("not shown to be told apart") and "would follow" not in said


def test_a_verifier_that_is_always_right_is_not_certain():
    steps = [("a", 0.0, 0.0), ("b", 1.0, 1.0)]
    viewer = [_viewed(str(p), step) for p in range(10) for step in steps]
    order, pairs = siblings.told_apart(viewer, siblings=True)
    assert (order.value, pairs) == (1.0, 10)
    assert order.interval == pytest.approx((10 / (10 + 1.959964**2), 1.0))  # Wilson
    assert lines._verdict(order).startswith("told apart")
    order, pairs = siblings.told_apart(viewer[:4], siblings=True)
    assert (order.value, pairs) == (1.0, 2)
    assert lines._verdict(order).startswith("too few problems to tell")
    mixed = [*viewer[:4], _viewed("q", ("a", 0.0, 1.0)), _viewed("q", ("b", 1.0, 0.0))]
    order, _ = siblings.told_apart(mixed, siblings=True)
    assert order.value == pytest.approx(2 / 3) and order.interval is None
