"""`pav advise`: its numbers against closed forms and known truth, and what it says."""

import math

import numpy as np
import pytest
from labelled_tree import POLICY, VALUES, counts_of, near, tree

from pav_jax.core.types import Response, StepLabels
from pav_jax.metrics import seed_interval
from pav_jax.tools.advice import estimates, lines
from pav_jax.tools.advice.labelled import Labelled
from pav_jax.tools.advice.noise import noise
from pav_jax.tools.advice.sparsity import sparsity


def _flat(q, n_mc, seed=0):
    """Responses of one step: a labelled prompt of value `q[p]`, and an outcome."""
    rng = np.random.default_rng(seed)
    right = rng.random(len(q)) < q
    counts = rng.binomial(n_mc, q)
    responses = [Response(p, (1,), (9,), (0.0,), bool(x)) for p, x in enumerate(right)]
    found = [counts_of([k, x], [n_mc, 1]) for k, x in zip(counts, right, strict=True)]
    return Labelled(responses, found, responses, {})


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


def test_a_mean_of_all_weighs_numbers_alike():
    """As its bootstrap is wide; and as `mean_of`, if problems have equally many."""
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 9, 400)
    numbers = [rng.normal(rng.normal(2.0, n), 1.0, n) for n in counts]
    sums = np.array([[x.sum(), len(x)] for x in numbers])
    found = estimates.mean_of_all(sums)
    assert found.value == pytest.approx(np.concatenate(numbers).mean())
    drawn = estimates.ratio_of(sums, lambda t: t[0] / t[1])
    assert np.ptp(found.interval) == pytest.approx(np.ptp(drawn.interval), rel=0.1)
    alike = estimates.mean_of_all(np.stack([sums[:, 0], np.full(400, 4)], axis=1))
    means = estimates.mean_of(sums[:, 0] / 4)
    assert alike.value == pytest.approx(means.value)
    assert alike.interval == pytest.approx(means.interval)
    other = sums + np.array([1.0, 0.0]) * rng.normal(0.5, 0.1, (400, 1)) * sums[:, 1:]
    gap = estimates.difference_of_all(other, sums)
    drawn = estimates.ratio_of(
        np.hstack([other, sums]), lambda t: t[0] / t[1] - t[2] / t[3]
    )
    assert gap.value == pytest.approx(drawn.value)
    assert np.ptp(gap.interval) == pytest.approx(np.ptp(drawn.interval), rel=0.1)
    assert np.ptp(gap.interval) < np.ptp(found.interval) / 5  # of the same problems
    assert estimates.mean_of_all(sums[:1]).interval is None


def test_a_verdict_takes_ten_problems():
    values = np.linspace(0.4, 0.6, 10)
    for made in (estimates.mean_of, estimates.share_of):
        assert made(values).above_zero and made(values).tells
        assert not made(values[:9]).above_zero and not made(values[:9]).tells
    assert not estimates.Estimate(0.5, (0.4, 0.6)).tells  # over who knows how many


# Noise.


@pytest.mark.parametrize(("n_mc", "ns"), [(2, [1, 2, 4, 8]), (5, [1, 2, 4, 5, 8, 16])])
def test_noise_and_other_splits(n_mc, ns):
    q = np.tile([0.05, 0.3, 0.9], 1500)
    found = noise(_flat(q, n_mc))
    true, spread = np.var(q), np.mean(q * (1 - q))
    assert near(found.values, spread / n_mc / (true + spread / n_mc))
    # The step goes from the prompt to the outcome: E (Rex - Q)^2 is the spread itself.
    assert near(found.progress, 1 / (n_mc + 1))
    assert [split.n_mc for split in found.splits] == ns
    reliability = {n: true / (true + spread / n) for n in ns}
    for split in found.splits:
        n = split.n_mc
        assert near(split.reliability, reliability[n])
        # A response of one token and its prompt, which is read once more to continue
        # it; and one token of each continuation.
        assert split.responses == pytest.approx((3 + n_mc) / (3 + n))
        gain = reliability[n] / reliability[n_mc]
        assert split.worth.value == pytest.approx(gain * split.responses, rel=0.02)
        if n > n_mc:
            assert split.alike is None  # of one response each there are fewer problems
            assert near(split.worth, gain * split.responses)
        elif n < n_mc:
            assert near(split.alike, gain)
        else:
            assert split.worth.interval == split.alike.interval == (1.0, 1.0)
    # The reliability is what labels of that n_mc, drawn anew, have in common with Q.
    drawn = np.random.default_rng(7).binomial(ns[-1], q) / ns[-1]
    expected = np.corrcoef(drawn, q)[0, 1] ** 2
    assert found.splits[-1].reliability.value == pytest.approx(expected, abs=0.03)
    now = found.splits[ns.index(n_mc)].reliability.value
    assert found.values.value == pytest.approx(1 - now)


def test_another_split_costs_the_same_tokens():
    """Counted token by token; what two responses begin with is paid once."""
    prompt, ends = (1, 2, 3), (0, 2, 5)  # and the whole response, which is graded
    one = Response(0, prompt, (4, 5, 6, 6, 6, 9), (0.0,) * 6, True)
    two = Response(0, prompt, (4, 5, 7, 7, 7, 9), (0.0,) * 6, False)
    labels = [
        StepLabels(
            np.array([*ends, 6]), np.array([2, 3, 4 * k, k]), np.array([4, 4, 4, 1])
        )
        for k in (1, 0)
    ]
    labelled = Labelled([one, two], labels, [one, two], {})

    def cost(n):
        drawn = len(prompt) + len(one.tokens) + len(two.tokens)
        read = 2 * len(prompt) + ends[-1] + ends[-1]  # up to the last prefix
        # Of the prompt 6 tokens, of the shared first step 4, of each own prefix 1.
        return drawn + read + n * (6 + 4 + 1 + 1)

    for split in noise(labelled).splits:
        assert split.responses * cost(split.n_mc) == pytest.approx(cost(4))
        assert (split.alike is None) == (2 * split.responses < 1)
    said = list(lines.noise_lines(labelled, noise(labelled)))
    shown = [line.name for line in said if line.screen]
    assert shown == ["noise of Q", *(f"n_mc={n}" for n in (1, 2, 4, 8, 16))]
    (double,) = (line for line in said if line.name == "n_mc=8")
    assert double.reason.startswith(f"{2 * cost(4) / cost(8):.0f} response")


def test_labels_without_anything_reliable():
    """Every problem is alike, and by its counts no less than by chance."""
    found = noise(_flat(np.full(40, 0.5), 2, seed=5))
    assert found.splits[1].reliability.value == 0.0
    assert found.splits[0].worth is None and found.splits[0].alike is None
    labelled = _flat(np.full(40, 0.5), 2, seed=5)
    said = [line.reason for line in lines.noise_lines(labelled, found)]
    assert any("nothing is reliable" in reason for reason in said)


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
    told = {line.name: line.reason for line in lines.prover_lines(labelled)}
    (aligned,) = (told[name] for name in told if name.startswith("alignment: "))
    (total,) = (told[name] for name in told if name.startswith("sum: "))
    assert "too few problems" in aligned and "too few problems" in total


def test_the_other_policy_that_would_teach():
    labelled = tree(
        100, 1, 2, values=np.zeros(3), other=np.array([0.9, 0.1, 0.5]), n_other=4
    )
    *_, own, last = lines.sparsity_lines(labelled, sparsity(labelled))
    assert "teach nothing" in own.reason and own.estimate.value == 0
    assert last.name == "mean square of A, mu" and last.estimate.above_zero
