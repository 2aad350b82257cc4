"""Unbiased estimates from M samples a problem, and intervals over problems."""

import numpy as np
from scipy.special import gammaln


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
        share = np.bincount(place, weights=correct[p], minlength=len(values)) / size
        # P(the best of n is at or below each value), over subsets.
        at_or_below = np.exp(
            _log_binomial(np.cumsum(size), n) - _log_binomial(samples, n)
        )
        out[p] = np.sum(np.diff(at_or_below, prepend=0.0) * share)
    return out


def majority_of_n(
    answers: list[list[str | None]],
    correct: np.ndarray,
    n: int,
    *,
    seed: int,
    draws: int = 64,
) -> np.ndarray:
    """Accuracy of the most frequent answer of n samples, `[P]`.

    The mean over `draws` random subsets; all of them are the same at n = M.
    Responses without an answer do not vote; ties go to the answer seen first.

    Args:
      answers: `[P][M]`, normalised final answers, None where there is none.
      correct: bool `[P, M]`.
      n: subset size, at most M.
      seed: names the subsets.
      draws: subsets.
    """
    rng = np.random.default_rng(seed)
    out = np.zeros(len(answers))
    for p, row in enumerate(answers):
        total = 0.0
        for _ in range(draws):
            votes: dict[str, int] = {}
            right: dict[str, bool] = {}
            for i in rng.choice(len(row), n, replace=False):
                if (answer := row[i]) is not None:
                    votes[answer] = votes.get(answer, 0) + 1
                    right[answer] = bool(correct[p, i])
            total += right[max(votes, key=votes.__getitem__)] if votes else 0.0
        out[p] = total / draws
    return out


def mean_interval(values: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The mean over problems and its 95% interval, by the normal approximation.

    For 0/1 outcomes the Wilson score interval, which stays inside [0, 1].

    Args:
      values: float `[P]`, one a problem.
    """
    values = np.asarray(values, float)
    count, mean, z = len(values), float(np.mean(values)), 1.959964
    if np.all((values == 0) | (values == 1)):
        denominator = 1 + z**2 / count
        centre = (mean + z**2 / (2 * count)) / denominator
        spread = mean * (1 - mean) / count + z**2 / (4 * count**2)
        half = z * np.sqrt(spread) / denominator
        return mean, (float(centre - half), float(centre + half))
    half = z * float(np.std(values, ddof=1)) / np.sqrt(count) if count > 1 else 1.0
    return mean, (mean - half, mean + half)


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
