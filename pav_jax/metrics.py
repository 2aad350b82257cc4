"""Closed forms: Pass@N, best-of-N, votes, intervals; and how well a verifier tells.

Estimates from M samples a problem are unbiased. Intervals are over problems
(`mean_interval`, of shares; `normal_interval`) or over seeds (`seed_interval`).
Shape letters: P problems, M samples of each, S seeds.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import gammaln, stdtrit

from pav_jax.core.types import Response, StepLabels

_BINS = 10  # of a calibration curve
_DEPTH = 10  # steps whose AUC is reported
_Z = 1.959964  # of a normal 95% interval

# The score of a response, of a verifier's values after its steps, `[H]`.
AGGREGATIONS: dict[str, Callable[[np.ndarray], float]] = {
    "last": lambda of_steps: of_steps[-1],
    "min": np.min,
    "product": np.prod,
    "mean": np.mean,
}


def _log_binomial(n: np.ndarray, k: int) -> np.ndarray:
    n = np.asarray(n, float)
    with np.errstate(invalid="ignore"):
        out = gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)
    return np.where(n >= k, out, -np.inf)


def pass_at_n(correct: np.ndarray, n: int) -> np.ndarray:
    """Probability that one of n samples is correct, `[P]`.

    `1 - C(M - c, n) / C(M, n)` for c correct of M: the mean over all subsets.

    Args:
      correct: bool `[P, M]`.
      n: subset size, at most M.
    """
    samples = correct.shape[1]
    wrong = samples - correct.sum(axis=1)
    return 1.0 - np.exp(_log_binomial(wrong, n) - _log_binomial(samples, n))


def best_of_n(scores: np.ndarray, correct: np.ndarray, n: int) -> np.ndarray:
    """Accuracy of the best-scored of n samples, `[P]`: the mean over all subsets.

    Among equal scores each is equally likely to be taken.

    Args:
      scores: float `[P, M]`.
      correct: bool `[P, M]`.
      n: subset size, at most M.
    """
    samples = scores.shape[1]
    out = np.zeros(len(scores))
    for p in range(len(scores)):
        values, place = np.unique(scores[p], return_inverse=True)
        size = np.bincount(place, minlength=len(values))
        right = np.bincount(place, weights=correct[p], minlength=len(values)) / size
        # P(the best of n is at or below each value), over subsets.
        subsets = _log_binomial(np.cumsum(size), n)
        at_or_below = np.exp(subsets - _log_binomial(samples, n))
        # By parts: certainties are 0 and 1 exactly, which `mean_interval` looks for.
        out[p] = np.sum(at_or_below * (right - np.append(right[1:], 0.0)))
    return out


def aggregate(values: Sequence[Sequence[float]]) -> dict[str, np.ndarray]:
    """The scores of responses by each of `AGGREGATIONS`, float64 `[M]` each.

    Args:
      values: of each of M responses, float `[H]`.
    """
    return {
        name: np.array([rule(np.asarray(row, float)) for row in values])
        for name, rule in AGGREGATIONS.items()
    }


def majority_of_n(
    answers: list[list[str | None]],
    correct: np.ndarray,
    n: int,
    *,
    seed: int,
    weights: np.ndarray | None = None,
    draws: int = 64,
) -> np.ndarray:
    """Accuracy of the answer of n samples that has most votes, `[P]`.

    The mean over `draws` random subsets; all of them are the same at n = M.
    Responses without an answer do not vote; ties go to the answer seen first.

    Args:
      answers: `[P][M]`, normalised final answers, None where there is none.
      correct: bool `[P, M]`.
      n: subset size, at most M.
      seed: names the subsets.
      weights: of the votes, float `[P, M]`; 1 each by default.
      draws: subsets.
    """
    rng = np.random.default_rng(seed)
    out = np.zeros(len(answers))
    for p, row in enumerate(answers):
        total, weight = 0.0, np.ones(len(row)) if weights is None else weights[p]
        for _ in range(draws):
            votes: dict[str, float] = {}
            right: dict[str, bool] = {}
            for i in rng.choice(len(row), n, replace=False):
                if (answer := row[i]) is not None:
                    votes[answer] = votes.get(answer, 0.0) + weight[i]
                    right[answer] = bool(correct[p, i])
            total += right[max(votes, key=votes.__getitem__)] if votes else 0.0
        out[p] = total / draws
    return out


def mean_interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The mean share over problems and its 95% interval, by the normal approximation.

    For 0/1 outcomes Wilson's score interval, clipped to [0, 1] and to hold the mean.

    Args:
      values: float `[P]`, one a problem, each in [0, 1].
    """
    values, z = np.asarray(values, float), _Z
    count, (mean, interval) = len(values), normal_interval(values)
    if np.all((values == 0) | (values == 1)):
        denominator = 1 + z**2 / count
        centre = (mean + z**2 / (2 * count)) / denominator
        spread = mean * (1 - mean) / count + z**2 / (4 * count**2)
        half = z * np.sqrt(spread) / denominator
        low, high = np.clip((centre - half, centre + half), (0, mean), (mean, 1))
        return mean, (float(low), float(high))
    return mean, interval or (mean - 1.0, mean + 1.0)


def normal_interval(values: np.ndarray) -> tuple[float, tuple[float, float] | None]:
    """The mean over problems of any number, and its 95% normal interval.

    Args:
      values: float `[P]`, one a problem, of any scale; shares are `mean_interval`'s.

    Returns:
      The mean; the interval, None for one problem, which does not say how they differ.
    """
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, None
    half = float(_Z * np.std(values, ddof=1) / np.sqrt(count))
    return mean, (mean - half, mean + half)


def seed_interval(
    values: Sequence[float] | np.ndarray, level: float = 0.95
) -> tuple[float, tuple[float, float] | None]:
    """The mean over seeds and its interval, by Student's t.

    It says what another seed may give. An interval over problems does not, however
    many problems there are. Two methods run with the same seeds are compared by the
    interval of their differences, seed by seed.

    Args:
      values: float `[S]`, one a seed; at least one.
      level: how often such an interval holds the truth.

    Returns:
      The mean, and at 95% `mean ± t_{0.975, S-1} s / √S` with s the standard deviation
      of the sample; None in its place with one seed, which does not say how seeds
      differ. It has no width where all values are equal.
    """
    values = np.asarray(values, float)
    count, mean = len(values), float(np.mean(values))
    if count < 2:
        return mean, None
    error = float(np.std(values, ddof=1)) / np.sqrt(count)
    half = float(stdtrit(count - 1, (1 + level) / 2) * error)
    return mean, (mean - half, mean + half)


def interpolate_log(
    x: float, places: np.ndarray, values: np.ndarray
) -> np.ndarray | None:
    """`values` at `x`, taken to be linear in log x between the places.

    Args:
      x: positive, such as a number of tokens.
      places: where the values were measured, `[N]`, positive and ascending.
      values: float `[N, ...]`.

    Returns:
      float `[...]`; None if x is outside the places.
    """
    here, logs = np.log(x), np.log(places)
    if not logs[0] <= here <= logs[-1]:
        return None
    high = int(np.searchsorted(logs, here))
    low = max(high - 1, 0)
    span = logs[high] - logs[low]
    weight = (here - logs[low]) / span if span else 0.0
    return (1 - weight) * values[low] + weight * values[high]


def within_problem_auc(
    scores: list[np.ndarray], positive: list[np.ndarray]
) -> tuple[float | None, int]:
    """Chance that a positive outranks a negative of the same problem.

    Ties count half. Pairs of all problems weigh alike.

    Args:
      scores: one float array a problem.
      positive: bool arrays of the same lengths.

    Returns:
      The AUC, None where no problem has both kinds; and the number of pairs.
    """
    wins = pairs = 0.0
    for score, is_positive in zip(scores, positive, strict=True):
        good, bad = score[is_positive], score[~is_positive]
        above = good[:, None] - bad[None, :]
        wins += float(np.sum(above > 0) + 0.5 * np.sum(above == 0))
        pairs += above.size
    return (wins / pairs if pairs else None), int(pairs)


# How well a verifier tells good from bad.


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
    responses: Sequence[Response], q: Sequence[np.ndarray]
) -> dict[str, object]:
    """Within-problem AUC of Q against the outcome, by step.

    Args:
      responses: several of each problem.
      q: float `[H + 1]` for each, as from `score_responses`.

    Returns:
      `last` and `middle` (step floor(H / 2) of each response), and `by_step`
      for steps 1 to 10 of the responses that have them.
    """
    correct = [response.correct for response in responses]
    by_step = []
    for step in range(1, _DEPTH + 1):
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


def outcome_error(
    responses: Sequence[Response], rewards: Sequence[np.ndarray]
) -> list[float | None]:
    """How often a step's reward mistakes the outcome (Fig. 10).

    "Right" is said of a response whose reward is at a threshold or above: for each step
    that of least error on one half of the problems, measured on the other; both ways.

    Args:
      responses: several of each problem.
      rewards: float `[H]` for each.

    Returns:
      The fraction that is mistaken after each of steps 1 to 10, of the responses that
      have it; None where a half of the problems has none.
    """
    correct = np.array([response.correct for response in responses])
    half = np.unique([r.problem for r in responses], return_inverse=True)[1] % 2
    errors: list[float | None] = []
    for step in range(_DEPTH):
        has = np.array([len(r) > step for r in rewards])
        values = np.array([r[step] for r in rewards if len(r) > step])
        of, right = half[has], correct[has]
        if len(np.unique(of)) < 2:
            errors.append(None)
            continue
        least = [_threshold(values[of == fit], right[of == fit]) for fit in (0, 1)]
        errors.append(float(np.mean((values >= np.array(least)[1 - of]) != right)))
    return errors


def _threshold(values: np.ndarray, right: np.ndarray) -> float:
    """Of least error when "right" is said from it on; halfway between two values."""
    found = np.unique(values)
    candidates = np.array([-np.inf, *(found[:-1] + found[1:]) / 2, np.inf])
    errors = ((values >= candidates[:, None]) != right).sum(axis=1)
    return float(candidates[np.argmin(errors)])


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
      labels: of 2 or more continuations; the last prefix, an outcome, is left out.

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
    # By range: the standard deviation of equal float32 values need not be 0.
    varied = np.ptp(predicted) > 0 and np.ptp(q) > 0
    return {
        "brier": float(error + spread),
        "brier_floor": float(spread),
        "q_rmse": float(np.sqrt(max(error, 0.0))),
        "correlation": float(np.corrcoef(predicted, q)[0, 1]) if varied else None,
        "calibration": bins,
    }
