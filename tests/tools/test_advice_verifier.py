"""`pav advise`: how a verifier tells steps and responses apart, with intervals."""

import itertools

import numpy as np
import pytest

from pav_jax.storage import artifacts
from pav_jax.tools.advice import lines, siblings
from pav_jax.tools.advice.verifier import Evaluated

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


# AUC and errors.


def _evaluated(**changes):
    measures = {
        "auc_within_problem": {"last": 0.9, "error_so_far_same_step": 0.8},
        "orm": {"auc_last": 0.7},
        "q_rmse": 0.2,
    }
    empty = dict(measures=measures, viewer=[], by_problem={}, samples=None, n_mc=None)
    return Evaluated(**(empty | changes))


def _sums(problems=60):
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 9, problems)
    return np.stack([rng.binomial(pairs, rng.beta(6, 2, problems)), pairs], 1)


def test_an_auc_has_an_interval_over_problems():
    """As wide as that of a ratio by the delta method."""
    sums = _sums()
    found, source = _evaluated(by_problem={"last": sums.tolist()}).auc("last")
    right, pairs = sums[sums[:, 1] > 0].T.astype(float)
    auc, count = right.sum() / pairs.sum(), len(pairs)
    assert (found.value, source, found.problems) == (pytest.approx(auc), "", count)
    error = np.std(right - auc * pairs, ddof=1) * np.sqrt(count) / pairs.sum()
    low, high = found.interval
    assert low < auc < high
    assert (high - low) / 2 == pytest.approx(2.0 * error, rel=0.12)


def test_without_sums_the_samples_tell_of_whole_responses():
    rng = np.random.default_rng(1)
    correct = rng.random((30, 6)) < 0.5
    prm = rng.integers(0, 3, (30, 6)) + correct  # with ties
    samples = {"correct": correct, "prm": prm, "orm": -prm}
    evaluated = _evaluated(samples=samples)
    found, source = evaluated.auc("last")
    wins = total = 0.0
    for score, right in zip(prm, correct, strict=True):
        for i, j in itertools.product(range(6), repeat=2):
            if right[i] and not right[j]:
                total += 1
                wins += (score[i] > score[j]) + 0.5 * (score[i] == score[j])
    assert source == "samples" and found.value == pytest.approx(wins / total)
    assert found.interval[0] < found.value < found.interval[1]
    assert evaluated.auc("orm_last")[0].value == pytest.approx(1 - wins / total)
    # Samples do not say where an error is.
    same_step, source = evaluated.auc("error_so_far_same_step")
    assert (same_step.value, same_step.interval, source) == (0.8, None, "no sums")
    assert evaluated.auc("of no such name") == (None, "no sums")


def test_the_error_of_q_is_without_the_noise_of_near_exact_values():
    rng, n_mc = np.random.default_rng(2), 8
    viewer = []
    for p in range(400):
        exact = rng.uniform(0.2, 0.8, 5)
        drawn = rng.binomial(n_mc, exact) / n_mc
        off = rng.choice([-0.1, 0.1], 5)
        steps = [("a", q, m) for q, m in zip(exact + off, drawn, strict=True)]
        steps.append(("b", 0.0, 1.0))  # an outcome, which is no near-exact value
        viewer.append(_viewed(str(p), *steps))
    found, source = _evaluated(viewer=viewer, n_mc=n_mc).q_error()
    assert source == "viewer"
    assert found.value == pytest.approx(0.1, abs=0.01)
    assert found.interval[0] < 0.1 < found.interval[1] < 0.13
    kept = {"squared_errors": [[0.2, 5.0]] * 20}
    found, source = _evaluated(by_problem=kept, viewer=viewer, n_mc=n_mc).q_error()
    assert (found.value, source) == (pytest.approx(0.2), "")
    unknown, source = _evaluated(viewer=viewer).q_error()
    assert (unknown.value, unknown.interval, source) == (0.2, None, "no sums")


def test_lines_of_what_has_no_interval_say_why():
    old = {line.name: line for line in lines.verifier_lines(_evaluated())}
    for name in ("error_so_far_same_step", "last", "q_rmse"):
        assert "no sums by problem kept" in old[name].reason
        assert "has no by_problem.json" in old[name].detail
    sums = _sums().tolist()
    names = ("last", "orm_last", "error_so_far_same_step", "squared_errors")
    new = _evaluated(by_problem=dict.fromkeys(names, sums))
    for line in lines.verifier_lines(new):
        if not line.name.startswith("order"):
            assert line.estimate.interval and "no sums" not in line.reason
    (last,) = (x for x in lines.verifier_lines(new) if x.name == "last")
    assert f"of the ORM {last.estimate.value:.3g} [" in last.reason


def test_few_pairs_are_called_few():
    steps = [("a", 0.0, 0.0), ("b", 1.0, 1.0)]
    for problems in (lines.FEW_PAIRS - 1, lines.FEW_PAIRS):
        viewer = [_viewed(str(p), step) for p in range(problems) for step in steps]
        _, order, *_ = lines.verifier_lines(_evaluated(viewer=viewer))
        assert order.name == "order, siblings"
        few = problems < lines.FEW_PAIRS
        assert ("(few)" in order.reason) == few
        assert ("config.evaluation.oracle_n " in order.detail) == few
        assert order.reason.startswith(f"of {problems} pairs")


def test_too_few_problems_are_why_there_is_no_interval():
    sums = {"last": [[1.0, 2.0]] * 9, "squared_errors": [[0.2, 5.0]] * 9}
    said = {x.name: x for x in lines.verifier_lines(_evaluated(by_problem=sums))}
    assert "0.5 (few problems)" in said["last"].text()
    assert "0.2 (few problems)" in said["q_rmse"].text()
    assert "0.8 (no interval)" in said["error_so_far_same_step"].text()
    assert (
        said["order, siblings"].reason
        == "no pair after the same steps differs in value"
    )


def test_stage_samples_is_read_by_shards(tmp_path):
    folder = tmp_path / "samples"
    for shard in range(2):
        arrays = {
            name: np.full((3, 2), shard + i, np.float32)
            for i, name in enumerate(("correct", "prm", "orm"))
        }
        artifacts.write_arrays(folder / f"shard-0000{shard}.npz", arrays)
    artifacts.write_json(tmp_path / "evaluation/evaluation.json", {})
    artifacts.write_json(tmp_path / "evaluation/viewer.json", [])
    assert Evaluated.read(tmp_path).samples is None  # unfinished
    artifacts.write_json(folder / "manifest.json", {"fields": {}})
    found = Evaluated.read(tmp_path).samples
    assert found["orm"].tolist() == [[2.0, 2.0]] * 3 + [[3.0, 3.0]] * 3
