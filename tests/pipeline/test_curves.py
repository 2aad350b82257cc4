"""Curves: what points cost, and beam search against best-of-N."""

import numpy as np
import pytest

from pav_jax.metrics import best_of_n
from pav_jax.pipeline import curves
from pav_jax.pipeline.curves import Point
from pav_jax.storage import artifacts


def _point(method, n, correct, tokens):
    """A point whose problems cost `tokens` each, all of them decoded."""
    correct = np.asarray(correct, float)
    return Point(method, n, correct, np.array([[tokens, 0.0, 0.0]] * len(correct)))


# Best-of-N: 100 tokens and 1/4, 400 tokens and 1/2, 1600 tokens and 3/4.
_REFERENCE = [
    _point("best_of_n_orm", 1, [1, 0, 0, 0], 100.0),
    _point("best_of_n_orm", 4, [1, 1, 0, 0], 400.0),
    _point("best_of_n_orm", 16, [1, 1, 1, 0], 1600.0),
]


def test_samples_cost_their_tokens_and_a_verifier_reads_the_prompt_once():
    samples = {
        "correct": np.array([[True, False], [False, False]]),
        "length": np.array([[3, 5], [7, 7]]),
        "prompt_length": np.array([10, 20]),
        "greedy": np.array([True, False]),
        "greedy_length": np.array([3, 9]),
        "orm": np.array([[0.9, 0.1], [0.5, 0.2]]),
        "prm": np.array([[0.1, 0.9], [0.5, 0.2]]),
    }
    answers = [["1", "2"], [None, "3"]]
    points = curves.sample_points(samples, answers, (2,), seed=0)
    found = {point.method: point for point in points}
    unscored = [[8, 10, 0], [14, 20, 0]]
    scored = [[8, 10, 18], [14, 20, 34]]
    np.testing.assert_array_equal(found["greedy"].tokens, [[3, 10, 0], [9, 20, 0]])
    for method, correct, tokens in (
        ("majority", [None, 0], unscored),  # one vote each: the first answer drawn
        ("pass_at_n", [1, 0], unscored),
        ("best_of_n_orm", [1, 0], scored),
        ("best_of_n_pav", [0, 0], scored),
        ("vote_orm", [1, 0], scored),
        ("vote_pav", [0, 0], scored),
    ):
        np.testing.assert_array_equal(found[method].tokens, tokens)
        for got, wanted in zip(found[method].correct, correct, strict=True):
            assert wanted is None or got == wanted
    row = found["best_of_n_orm"].row()
    assert row["accuracy"] == 0.5 and row["n"] == 2
    assert [row[key] for key in ("decoded", "prefilled", "scored")] == [11, 15, 26]
    assert row["tokens"] == 52


def test_samples_are_picked_by_every_rule():
    samples = {
        "correct": np.array([[True, False, False]]),
        "orm": np.array([[0.9, 0.1, 0.2]]),
        "prm": np.array([[0.3, 0.9, 0.8]]),
        "prm_min": np.array([[0.3, 0.1, 0.2]]),
    }

    def accuracies(found, n):
        return {r["pick"]: r["accuracy"] for r in found if r["n"] == n}

    lengths = dict(length=np.ones((1, 3)), prompt_length=np.ones(1))
    greedy = dict(greedy=np.zeros(1), greedy_length=np.ones(1))
    points = curves.sample_points(
        samples | lengths | greedy, [["1", "2", None]], (1, 3), seed=0
    )
    found = curves.sample_pick_rows(points, samples, (1, 3))
    assert {row["method"] for row in found} == {"best_of_n"}
    by_rule = {"prm": 0, "orm": 1, "prm_min": 1, "vote_prm": 0, "vote_orm": 1, "any": 1}
    assert accuracies(found, 3) == pytest.approx(by_rule)
    one = accuracies(found, 1)
    for rule in ("prm", "orm", "prm_min", "any"):
        assert one[rule] == pytest.approx(1 / 3)


def _searched(prm, orm, tokens):
    """The row of a problem whose first response is right, and second wrong."""
    return {
        "responses": [[1], [2]],
        "answers": ["1", "2"],
        "correct": [True, False],
        "ended": [True, True],
        "prm": prm,
        "orm": orm,
        "tokens": tokens,
        "orm_tokens": 10,
    }


def test_beams_are_those_on_disk(tmp_path):
    rows = [
        _searched([0.9, 0.1], [0.1, 0.9], [5, 6, 7]),
        _searched([0.1, 0.9], [0.2, 0.9], [1, 2, 3]),
    ]
    for name in ("beam_pav-4", "beam_q-2", "beam_q-1"):
        artifacts.write_json(tmp_path / f"{name}.json", rows)
    points = curves.beam_points(tmp_path, (1, 2, 4), dict(beam_q="prm", beam_pav="orm"))
    assert [(p.method, p.n) for p in points] == [
        ("beam_q", 1),
        ("beam_q", 2),
        ("beam_pav", 4),
    ]
    assert points[0].accuracy == 0.5 and points[0].mean_tokens == 12
    np.testing.assert_array_equal(points[0].correct, [1, 0])
    np.testing.assert_array_equal(points[0].tokens, [[5, 6, 7], [1, 2, 3]])
    # The outcome verifier reads the last responses, and is wrong on both problems.
    np.testing.assert_array_equal(points[2].correct, [0, 0])
    np.testing.assert_array_equal(points[2].tokens, [[5, 6, 17], [1, 2, 13]])
    cells = {
        (row["method"], row["n"], row["pick"]): row["accuracy"]
        for row in curves.pick_rows(tmp_path, (1, 2, 4), ("beam_q", "beam_pav"))
    }
    assert len(cells) == 3 * 6  # these files have no scores of single steps
    assert cells["beam_pav", 4, "prm"] == 0.5 and cells["beam_pav", 4, "orm"] == 0
    assert cells["beam_pav", 4, "any"] == 1


def _eight(method, n, right, tokens):
    """A point with that many of eight problems right, the first ones."""
    return _point(method, n, [1] * right + [0] * (8 - right), tokens)


def test_equal_accuracy_is_of_the_smallest_beam_that_reaches_it():
    reference = [_eight("best_of_n_orm", n, n // 2, 100.0 * n) for n in (2, 4, 8)]
    beams = [
        _eight("beam_pav", 1, 3, 150.0),
        _eight("beam_pav", 2, 7, 320.0),  # three more: 3/8, and half of it 0.36
        _eight("beam_pav", 4, 8, 640.0),
        # Two more, 1/4, and half of it 0.32: the interval reaches below zero.
        _eight("beam_q", 1, 6, 150.0),
    ]
    for order in (beams, beams[::-1]):  # as `config.search.beams` may have it
        found = curves.efficiency(reference + order)
        assert found["accuracy"] == 0.5 and found["tokens"] == 800.0
        assert found["beam_pav"] == found["paper"]["beam_pav"] == 800 / 320
        assert found["beam_q"] is None


def test_the_accuracy_with_the_most_samples_may_be_less_than_the_best():
    """Fig. 4: best-of-N by a verifier may fall, and is then reached by fewer tokens."""
    reference = [
        _eight("best_of_n_orm", 4, 6, 400.0),
        _eight("best_of_n_orm", 16, 2, 1600.0),
    ]
    beams = [
        _eight("beam_pav", 1, 4, 150.0),  # two more, 1/4, and half of it 0.32
        _eight("beam_pav", 2, 5, 320.0),  # three more: 3/8, and half of it 0.36
        _eight("beam_q", 1, 4, 150.0),
    ]
    found = curves.efficiency(reference + beams)["paper"]
    assert found["most_samples"] == {"n": 16, "beam_pav": 1600 / 320, "beam_q": None}
    assert found["accuracy"] == 0.75 and found["beam_pav"] is None


@pytest.mark.parametrize("share", [0.0, 1.0, 0.3])
def test_an_interval_without_width_shows_nothing(share):
    """Of a policy that is never right, or always, and of problems that are alike."""
    reference = _point("best_of_n_orm", 4, [share] * 4, 400.0)
    beams = [
        _point("beam_pav", 1, [share] * 4, 150.0),
        _point("beam_q", 1, np.array([share] * 4) + [0, 1e-16, 0, 2e-16], 150.0),
    ]
    found = curves.efficiency([reference, *beams])
    assert found["beam_pav"] is found["paper"]["beam_pav"] is found["beam_q"] is None


def test_there_is_nothing_to_reach_where_the_reference_is_never_right():
    reference = _point("best_of_n_orm", 4, [0] * 8, 400.0)
    beam = _eight("beam_pav", 1, 7, 150.0)  # far above zero
    assert curves.efficiency([reference, beam])["beam_pav"] is None


def test_equal_tokens_are_between_the_points_of_best_of_n():
    # 200 tokens are half-way, in the logarithm, from 100 to 400.
    expected = np.array([1, 0.5, 0, 0])
    low, high = np.array([1, 1, 0, 1]), np.array([1, 1, 1, 1])
    beams = [
        _point("beam_pav", 1, [0, 0, 0, 0], 99.0),  # out of range
        _point("beam_pav", 2, low, 200.0),
        _point("beam_pav", 4, high, 1600.0),
        _point("beam_pav", 8, [0, 0, 0, 0], 1601.0),  # out of range
    ]
    found = curves.efficiency(_REFERENCE + beams)
    differences = [low - expected, high - np.array([1, 1, 1, 0])]
    assert [row["n"] for row in found["by_point"]] == [2, 4]
    for row, difference in zip(found["by_point"], differences, strict=True):
        assert row["points"] == pytest.approx(difference.mean(), rel=1e-12)
    values = np.mean(differences, axis=0)
    mean, half = values.mean(), 1.959964 * values.std(ddof=1) / 2
    interval = (mean - half, mean + half)
    assert found["points_at_equal_tokens"] == {"beam_pav": pytest.approx(mean)}
    assert found["points_ci"]["beam_pav"] == pytest.approx(interval)


def test_selection_is_measured_at_the_tokens_of_each_beam():
    """A prompt of 10 and responses of 5 tokens: N of them cost 20 + 10 N."""
    rng = np.random.default_rng(0)
    samples = {
        "correct": rng.random((3, 8)) < 0.3,
        "length": np.full((3, 8), 5),
        "prompt_length": np.full(3, 10),
        "greedy": np.zeros(3, bool),
        "greedy_length": np.full(3, 5),
        "orm": rng.random((3, 8)),
        "prm": rng.random((3, 8)),
    }
    answers = [["1"] * 8] * 3
    points = curves.sample_points(samples, answers, (1, 8), seed=0)
    costs = {1: 29.0, 2: 50.0, 4: 75.0, 8: 101.0}  # 0.9, 3, 5.5 and 8.1 samples
    beams = [_point("beam_pav", n, [1, 0, 0], cost) for n, cost in costs.items()]
    beside = curves.beside_beams(points + beams, samples, answers, seed=0)
    assert sorted({point.n for point in beside}) == [3, 4, 5, 6]
    found = curves.efficiency(points + beams + beside)["paper"]["by_point"]
    assert [row["n"] for row in found] == [2, 4]
    exact = [best_of_n(samples["orm"], samples["correct"], n).mean() for n in (3, 5, 6)]
    weight = np.log(75 / 70) / np.log(80 / 70)
    between = (1 - weight) * exact[1] + weight * exact[2]
    for row, expected in zip(found, (exact[0], between), strict=True):
        assert row["points"] == pytest.approx(1 / 3 - expected)
    nothing = samples | {"length": np.zeros((3, 8))}
    assert not curves.beside_beams(points + beams, nothing, answers, seed=0)
    # Nothing is added where no beam is, or all are.
    assert not curves.beside_beams(points, samples, answers, seed=0)
    all_n = curves.sample_points(samples, answers, range(1, 9), seed=0)
    assert not curves.beside_beams(all_n + beams, samples, answers, seed=0)


def test_the_reference_is_the_strongest_at_each_n():
    others = [
        _point("best_of_n_pav", 1, [1, 0, 0, 0], 100.0),
        _point("best_of_n_pav", 4, [1, 1, 1, 0], 400.0),
        _point("vote_orm", 16, [1, 1, 1, 1], 1600.0),
        _point("majority", 4, [1, 1, 1, 1], 400.0),  # no verifier selects
    ]
    beam = [_point("beam_pav", 4, [1, 1, 1, 0], 400.0)]
    found = curves.efficiency(_REFERENCE + others + beam)
    assert found["reference_methods"] == {
        "1": "best_of_n_orm",
        "4": "best_of_n_pav",
        "16": "vote_orm",
    }
    assert found["accuracy"] == 1.0 and found["beam_pav"] is None
    assert found["points_at_equal_tokens"]["beam_pav"] == 0
    # Against the paper's own reference the same beam is ahead.
    assert found["paper"]["reference"] == "best_of_n_orm"
    assert found["paper"]["accuracy"] == 0.75
    assert found["paper"]["points_at_equal_tokens"]["beam_pav"] == 0.25


def test_the_order_of_ns_does_not_matter():
    beam = [_point("beam_q", 2, [1, 1, 0, 1], 200.0)]
    assert curves.efficiency(_REFERENCE[::-1] + beam) == curves.efficiency(
        _REFERENCE + beam
    )
