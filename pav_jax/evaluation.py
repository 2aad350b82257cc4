"""How good a verifier is, on responses to held-out problems."""

from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np

from pav_jax import verifier
from pav_jax.core.ledger import Ledger
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.labels import Response, StepLabels
from pav_jax.metrics import within_problem_auc
from pav_jax.tasks.base import Grade
from pav_jax.train.batches import pad_rows
from pav_jax.verifier import VerifierParams

_BATCH_TOKENS = 8192
_BINS = 10

_step_values = jax.jit(verifier.step_values, static_argnames="config")


def score_rows(
    params: VerifierParams,
    rows: Sequence[Sequence[int]],
    *,
    widths: Sequence[int],
    config: TransformerConfig,
) -> list[np.ndarray]:
    """Q at every token of each row, one pass a row.

    Rows of like length go through together, in batches of one shape a width.

    Args:
      params: the verifier.
      rows: token ids of prompts and responses.
      widths: increasing; each row is padded to the first that holds it.
      config: the verifier's architecture.

    Returns:
      Float32 `[len(row)]` for each.
    """
    place = np.searchsorted(widths, [len(row) for row in rows])
    out: list[np.ndarray | None] = [None] * len(rows)
    for bucket in np.unique(place).tolist():
        width = widths[bucket]
        size = 1 << max(0, (_BATCH_TOKENS // width).bit_length() - 1)
        members = np.flatnonzero(place == bucket).tolist()
        for first in range(0, len(members), size):
            batch = members[first : first + size]
            padding = [[]] * (size - len(batch))
            tokens = pad_rows([*(rows[i] for i in batch), *padding], width)
            q = np.asarray(_step_values(params, tokens, config=config))
            for i, values in zip(batch, q, strict=False):
                out[i] = values[: len(rows[i])].copy()  # else the batch stays, too
    return out


def score_responses(
    params: VerifierParams,
    responses: Sequence[Response],
    ends: Sequence[np.ndarray],
    *,
    config: TransformerConfig,
    ledger: Ledger,
) -> list[np.ndarray]:
    """Q at the ends of all steps, one pass a response.

    Args:
      params: the verifier.
      responses: what to score.
      ends: for each, the response tokens in each prefix, int `[H + 1]`, the
        bare prompt (0) first.
      config: the verifier's architecture.
      ledger: counts are added to it.

    Returns:
      Float32 `[H + 1]` for each response.
    """
    rows = [response.prompt + response.tokens for response in responses]
    ledger.scored += sum(map(len, rows))
    width = -(-max(map(len, rows)) // 16) * 16
    q = score_rows(params, rows, widths=[width], config=config)
    return [
        values[len(response.prompt) + stops - 1]
        for values, response, stops in zip(q, responses, ends, strict=True)
    ]


def _grouped(responses: Sequence[Response], *columns: Sequence) -> list[tuple]:
    """Columns of arrays, concatenated problem by problem."""
    problems = np.array([response.problem for response in responses])
    groups = [np.flatnonzero(problems == p) for p in np.unique(problems)]
    return [
        tuple(np.concatenate([np.atleast_1d(col[i]) for i in group]) for col in columns)
        for group in groups
    ]


def _auc(responses: Sequence[Response], scores: Sequence, positive: Sequence):
    if not len(scores):
        return None
    groups = _grouped(responses, scores, positive)
    return within_problem_auc([s for s, _ in groups], [p for _, p in groups])[0]


def outcome_auc(
    responses: Sequence[Response], q: Sequence[np.ndarray], depth: int = 10
) -> dict[str, object]:
    """Within-problem AUC of Q against the outcome, by step.

    Args:
      responses: several of each problem.
      q: float `[H + 1]` for each, as from `score_responses`.
      depth: steps to report on.

    Returns:
      `last` and `middle` (step floor(H / 2) of each response), and `by_step`
      for steps 1 to `depth` of the responses that have them.
    """
    correct = [response.correct for response in responses]
    by_step = []
    for step in range(1, depth + 1):
        has = [i for i in range(len(q)) if len(q[i]) > step]
        by_step.append(
            _auc(
                [responses[i] for i in has],
                [q[i][step] for i in has],
                [correct[i] for i in has],
            )
        )
    return {
        "last": _auc(responses, [values[-1] for values in q], correct),
        "middle": _auc(
            responses, [values[(len(values) - 1) // 2] for values in q], correct
        ),
        "by_step": by_step,
    }


def error_auc(
    responses: Sequence[Response],
    q: Sequence[np.ndarray],
    verdicts: Sequence[Sequence[str]],
) -> tuple[float | None, float | None]:
    """Within-problem AUC of Q against "no error has been made so far".

    Args:
      responses: several of each problem.
      q: float `[H + 1]` for each.
      verdicts: a word a step for each; anything but "good" is an error.

    Returns:
      The AUC over all prefixes of a problem, and the AUC over prefixes with the
      same number of steps, which progress alone cannot raise.
    """
    clean = [np.cumsum([word != "good" for word in words]) == 0 for words in verdicts]
    fits = [i for i in range(len(q)) if len(clean[i]) == len(q[i]) - 1]
    pooled = _auc(
        [responses[i] for i in fits], [q[i][1:] for i in fits], [clean[i] for i in fits]
    )
    scores, positive = [], []
    for step in range(1, max((len(values) for values in q), default=0)):
        has = [i for i in fits if len(q[i]) > step]
        for values, is_clean in (
            _grouped(
                [responses[i] for i in has],
                [q[i][step] for i in has],
                [clean[i][step - 1] for i in has],
            )
            if has
            else []
        ):
            scores.append(values)
            positive.append(is_clean)
    return pooled, within_problem_auc(scores, positive)[0]


def calibration(predicted: np.ndarray, labels: Sequence[StepLabels]) -> dict:
    """Predictions against near-exact values of the inner prefixes.

    Args:
      predicted: float `[N]`, all inner prefixes of all labelled responses.
      labels: their labels; the last prefix of each, its outcome, is left out.

    Returns:
      `brier`: mean squared error of the prediction against outcomes of
      continuations; `brier_floor`: what the exact values would get, estimated
      from the same counts; `q_rmse`: root mean squared error against Q itself,
      the sampling noise of the labels taken out; `correlation` with the labels;
      and `calibration`, a list of equal-width bins.
    """
    correct = np.concatenate([x.correct[:-1] for x in labels])
    count = np.concatenate([x.count[:-1] for x in labels])
    q = correct / count
    noise = q * (1 - q) / np.maximum(count - 1, 1)  # unbiased Var of each mean
    spread = np.mean(q * (1 - q) * count / np.maximum(count - 1, 1))
    error = np.mean((predicted - q) ** 2) - np.mean(noise)
    place = np.minimum((predicted * _BINS).astype(int), _BINS - 1)
    bins = [
        {
            "predicted": float(predicted[place == b].mean()),
            "observed": float(q[place == b].mean()),
            "count": int((place == b).sum()),
        }
        for b in range(_BINS)
        if np.any(place == b)
    ]
    varied = np.std(predicted) > 0 and np.std(q) > 0
    return {
        "brier": float(error + spread),
        "brier_floor": float(spread),
        "q_rmse": float(np.sqrt(max(error, 0.0))),
        "correlation": float(np.corrcoef(predicted, q)[0, 1]) if varied else None,
        "calibration": bins,
    }


def count_grades(grades: Sequence[Grade]) -> dict[str, int]:
    """Responses of each grade, by its value."""
    return {grade.value: grades.count(grade) for grade in Grade}


def failures(responses: Sequence[Response], verdicts: Sequence[Sequence[str]]) -> dict:
    """Shares of responses by outcome: correct, or the kind of their first error."""
    kinds = Counter(
        "correct"
        if response.correct
        else next((word for word in words if word != "good"), "no answer")
        for response, words in zip(responses, verdicts, strict=True)
    )
    return {kind: count / len(responses) for kind, count in kinds.most_common()}
