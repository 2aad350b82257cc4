"""Sums of each problem: together they are the measures of stage `evaluation`."""

import numpy as np
import pytest

from pav_jax import metrics
from pav_jax.core.types import Response, StepLabels
from pav_jax.pipeline import by_problem


def _drawn(problems=12, samples=5):
    """Responses of several lengths, in an order that mixes problems; Q with ties."""
    rng = np.random.default_rng(4)
    responses, q, verdicts = [], [], []
    for place in rng.permutation(problems * samples):
        steps = int(rng.integers(1, 5))
        tokens = tuple(range(steps))
        right = bool(rng.random() < 0.5)
        problem = int(place) // samples
        responses.append(Response(problem, (1,), tokens, (0.0,) * steps, right))
        q.append(rng.integers(0, 5, steps + 1) / 4)
        verdicts.append(list(rng.choice(["good", "good", "wrong"], steps)))
    return responses, q, verdicts


def test_pairs_are_those_of_the_measures():
    responses, q, verdicts = _drawn()
    verdicts[3] = verdicts[3][:-1]  # what the checker could not read to its end
    right, pairs = np.sum(by_problem.outcome_pairs(responses, q), axis=0)
    assert right / pairs == pytest.approx(metrics.outcome_auc(responses, q)["last"])
    right, pairs = np.sum(by_problem.error_pairs(responses, q, verdicts), axis=0)
    expected = metrics.error_auc(responses, q, verdicts)[1]
    assert right / pairs == pytest.approx(expected) and 0.2 < expected < 0.8


def test_pairs_of_one_problem_are_its_own():
    responses, q, verdicts = _drawn()
    first = responses[0].problem
    ours = [i for i, r in enumerate(responses) if r.problem == first]
    some = [responses[i] for i in ours], [q[i] for i in ours]
    alone = by_problem.error_pairs(*some, [verdicts[i] for i in ours])
    assert by_problem.error_pairs(responses, q, verdicts)[0] == alone[0]
    assert (
        by_problem.outcome_pairs(responses, q)[0] == by_problem.outcome_pairs(*some)[0]
    )


def test_squared_errors_are_those_of_the_calibration():
    responses, q, _ = _drawn()
    rng = np.random.default_rng(5)
    labels = [
        StepLabels(
            np.arange(len(x), dtype=np.int32),
            np.append(rng.integers(0, 9, len(x) - 1), 1),
            np.append(np.full(len(x) - 1, 8), 1),
        )
        for x in q
    ]
    total, count = np.sum(by_problem.squared_errors(responses, q, labels), axis=0)
    predicted = np.concatenate([x[:-1] for x in q])
    expected = metrics.calibration(predicted, labels)["q_rmse"]
    assert np.sqrt(total / count) == pytest.approx(expected) and expected > 0.1
