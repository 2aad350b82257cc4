"""What the measures of stage `evaluation` are sums of, problem by problem.

Intervals over problems are made of these: `by_problem.json`, read by `pav advise`.
"""

from collections.abc import Sequence

import numpy as np

from pav_jax.core.types import Response, StepLabels
from pav_jax.metrics import within_problem_auc

Pairs = list[list[float]]  # of each problem: pairs in the right order, and all pairs


def outcome_pairs(responses: Sequence[Response], scores: Sequence[np.ndarray]) -> Pairs:
    """Right and wrong responses to a problem: `metrics.outcome_auc`, "last".

    Args:
      responses: several of each problem.
      scores: float `[H + 1]` for each, as from `score_responses`.
    """
    return [
        _pairs(
            [np.array([scores[i][-1] for i in places])],
            [np.array([responses[i].correct for i in places])],
        )
        for places in _places(responses)
    ]


def error_pairs(
    responses: Sequence[Response],
    q: Sequence[np.ndarray],
    verdicts: Sequence[Sequence[str]],
) -> Pairs:
    """Prefixes of a problem with and without an error so far, of as many steps:
    `metrics.error_auc`, the second.

    Args:
      responses: several of each problem.
      q: float `[H + 1]` for each.
      verdicts: a word a step for each; anything but "good" is an error.
    """
    clean = [np.cumsum([word != "good" for word in words]) == 0 for words in verdicts]
    found = []
    for places in _places(responses):
        fits = [i for i in places if len(clean[i]) == len(q[i]) - 1]
        scores, positive = [], []
        for step in range(1, max((len(q[i]) for i in fits), default=0)):
            has = [i for i in fits if len(q[i]) > step]
            scores.append(np.array([q[i][step] for i in has]))
            positive.append(np.array([clean[i][step - 1] for i in has], bool))
        found.append(_pairs(scores, positive))
    return found


def squared_errors(
    responses: Sequence[Response],
    q: Sequence[np.ndarray],
    labels: Sequence[StepLabels],
) -> list[list[float]]:
    """Squared errors of Q, without the noise of the labels, of which
    `metrics.calibration` has the root of the mean, "q_rmse".

    Returns:
      Of each problem their sum over inner prefixes, and how many prefixes.
    """
    found = []
    for places in _places(responses):
        total = count = 0.0
        for i in places:
            n = labels[i].count[:-1]
            exact = labels[i].correct[:-1] / n
            noise = exact * (1 - exact) / np.maximum(n - 1, 1)
            total += float(np.sum((q[i][:-1] - exact) ** 2 - noise))
            count += len(n)
        found.append([total, count])
    return found


def _places(responses: Sequence[Response]) -> list[list[int]]:
    """The responses to each problem."""
    groups: dict[int, list[int]] = {}
    for place, response in enumerate(responses):
        groups.setdefault(response.problem, []).append(place)
    return list(groups.values())


def _pairs(scores: list[np.ndarray], positive: list[np.ndarray]) -> list[float]:
    auc, pairs = within_problem_auc(scores, positive)
    return [(auc or 0.0) * pairs, float(pairs)]
