"""Problems, responses and labels on disk."""

import numpy as np
import pytest

from pav_jax.core.errors import UserError
from pav_jax.core.types import Problem, Response, StepLabels
from pav_jax.storage import records

RESPONSES = [
    Response(3, (2, 7, 7), (5, 4, 1), (-0.5, -1.25, -3.0), True),
    Response(0, (2,), (), (), False),  # it is empty
    Response(2**20, (2, 262_143), (1,), (-0.0078125,), True),
    Response(3, (2, 7, 7), (), (), False),
]


@pytest.mark.parametrize("which", [[0, 1, 2, 3], [1], [3, 1], [0]])
def test_responses_round_trip(tmp_path, which):
    wanted = [RESPONSES[i] for i in which]
    records.write_responses(tmp_path / "r.npz", wanted)
    found = records.read_responses(tmp_path / "r.npz")
    assert found == wanted
    assert {type(token) for r in found for token in r.tokens} <= {int}
    assert all(type(r.correct) is bool and type(r.problem) is int for r in found)


def _labels(ends, correct, count):
    return StepLabels(*(np.array(x, np.int32) for x in (ends, correct, count)))


LABELS = [
    _labels([0, 2, 5], [3, 0, 1], [10, 10, 1]),
    _labels([0], [0], [1]),  # of a response without a step
    _labels([0, 1], [20, 0], [20, 1]),
]


def test_labels_round_trip(tmp_path):
    records.write_labels(tmp_path / "l.npz", LABELS)
    found = records.read_labels(tmp_path / "l.npz")
    assert len(found) == len(LABELS)
    for ours, wanted in zip(found, LABELS, strict=True):
        for name, array in vars(wanted).items():
            np.testing.assert_array_equal(getattr(ours, name), array)
            assert getattr(ours, name).dtype == np.int32
        np.testing.assert_array_equal(ours.q, wanted.q)
    assert found[0].q[0] == np.float32(0.3)


def test_problems_round_trip(tmp_path):
    problems = [
        Problem("How many?\n", "3", "1 + 2 = 3\nAnswer: 3"),
        Problem('"Quoted" \\ \t back\u2028slash, 5 \u20ac\n', "1,000"),
        Problem("\n", "", ""),
    ]
    records.write_problems(tmp_path / "p.jsonl", problems)
    found = records.read_problems(tmp_path / "p.jsonl")
    assert found == problems
    assert [p.id for p in found] == [p.id for p in problems]


def test_shards_are_read_in_order(tmp_path):
    """Labels are in the order of the seed rollouts, whatever the shards are."""
    kept = [r for r in RESPONSES for _ in range(2)]
    for number, first in enumerate(range(0, len(kept), 3)):
        path = records.shard_path(tmp_path, number + 9)  # 9, 10, 11
        records.write_responses(path, kept[first : first + 3])
    assert records.read_all_responses(tmp_path) == kept
    # Problem 3 comes twice: the first two of its four responses are labelled.
    seeds = records.read_seed_rollouts(tmp_path, 2)
    assert seeds == [kept[i] for i in (0, 1, 2, 3, 4, 5)]
    assert records.read_seed_rollouts(tmp_path, 1) == [kept[i] for i in (0, 2, 4)]


def test_labels_of_other_responses_are_refused(tmp_path):
    """They are paired by order alone, so nothing else would show it."""
    rollouts, of_labels = tmp_path / "rollouts", tmp_path / "labels"
    for folder in (rollouts, of_labels):
        folder.mkdir()
    records.write_responses(records.shard_path(rollouts, 0), RESPONSES)
    labels = [_labels([0, len(r.tokens)], [1, 0], [2, 1]) for r in RESPONSES]
    path = records.shard_path(of_labels, 0)
    records.write_labels(path, labels)
    responses, found = records.read_labelled_rollouts(rollouts, of_labels, 2)
    assert responses == RESPONSES
    assert [x.ends[-1] for x in found] == [3, 0, 1, 0]
    # As many, another order; fewer; more of each problem than were labelled.
    for others, n_cov in ((labels[::-1], 2), (labels[:3], 2), (labels, 1)):
        records.write_labels(path, others)
        with pytest.raises(UserError, match="labels are not of the .* of stage rollo"):
            records.read_labelled_rollouts(rollouts, of_labels, n_cov)
