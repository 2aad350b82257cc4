"""How well a verifier finds the first error of a response, and picks one of several.

The measures of ProcessBench (arXiv 2412.06559, Sec. 2) and of the papers on process
reward models. As there, a step is flagged where the verifier's value of the prefix that
it ends is below a threshold, and what the verifier says is the first such step. It is
the value and not its drop, since a prefix stays wrong after its first error: its value
is low from there on, however many steps it takes to fall. A verifier of `Q^π` pays for
that on problems that are hard for its policy, where values are low before any error.

Letters: N examples, P problems, H steps of an example, D draws.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.metrics import best_of_n, mean_interval, pass_at_n

MEASURES = ("accuracy_erroneous", "accuracy_correct", "f1")

_DRAWS = 2000  # of the bootstrap
_SEED = 0  # of the bootstrap


@dataclasses.dataclass(frozen=True)
class Examples:
    """Responses whose first wrong step is known.

    Attributes:
      values: of each, float `[H]`, the verifier's value after each step.
      errors: int `[N]`, the index of the first wrong step; -1 if there is none.
      problems: `[N]`, numbers or texts; those of one problem are equal.
    """

    values: Sequence[np.ndarray]
    errors: np.ndarray
    problems: np.ndarray

    def where(self, chosen: np.ndarray) -> "Examples":
        """Some of them, by a bool `[N]`."""
        return Examples(
            [self.values[i] for i in np.flatnonzero(chosen)],
            self.errors[chosen],
            self.problems[chosen],
        )


def first_below(values: Sequence[np.ndarray], threshold: float) -> np.ndarray:
    """The index of the first step whose value is below the threshold, int `[N]`.

    -1 if there is none. Arguments are as of `Examples`.
    """
    found = [np.flatnonzero(of_steps < threshold) for of_steps in values]
    return np.array([below[0] if len(below) else -1 for below in found], int)


def choose_threshold(examples: Examples) -> float:
    """The threshold of the highest F1 among all that there are.

    An example is right where the threshold is above some value and not above another:
    of its least value up to the first error, and of its least before that. So F1
    changes only at these, and one threshold between each two of them is enough: beyond
    them no error is found, or every right response is flagged. The lowest of equally
    good ones is taken.

    Args:
      examples: of both kinds, with an error and without.
    """
    above, up_to = np.full((2, len(examples.errors)), np.inf)
    for i, (of_steps, error) in enumerate(
        zip(examples.values, examples.errors, strict=True)
    ):
        least = np.minimum.accumulate(np.asarray(of_steps, float))
        above[i] = least[error] if error >= 0 else -np.inf
        if error:  # with an error in the first step any high threshold is right
            up_to[i] = least[error - 1] if error > 0 else least[-1]
    ends = np.unique(np.concatenate([above, up_to]))
    ends = ends[np.isfinite(ends)]
    candidates = (ends[:-1] + ends[1:]) / 2 if len(ends) > 1 else ends
    accuracies = []
    for kind in (examples.errors >= 0, examples.errors < 0):
        # An example whose interval is empty is in both counts.
        entered = np.searchsorted(np.sort(above[kind]), candidates, "left")
        left = np.searchsorted(np.sort(up_to[kind]), candidates, "left")
        accuracies.append((entered - left) / kind.sum())
    return float(candidates[np.argmax(_harmonic(*accuracies))])


def measure(examples: Examples, threshold: float) -> np.ndarray:
    """`MEASURES` of examples of both kinds, float `[3]`."""
    counts = _counts(examples, threshold)
    return _of_counts(counts.sum(axis=0, keepdims=True))[0]


def resample(
    examples: Examples, threshold: float, rng: np.random.Generator
) -> np.ndarray:
    """`MEASURES` of bootstrap draws, float `[D, 3]`.

    Problems are drawn, each with all of its examples, since responses to one problem
    are alike. Where every problem has one, this is the bootstrap over examples. A draw
    without one of the kinds is NaN.
    """
    counts = _counts(examples, threshold)
    count = len(counts)
    times = rng.multinomial(count, np.full(count, 1 / count), size=_DRAWS)
    return _of_counts(times @ counts)


def estimates(
    examples: Mapping[str, Examples], threshold: float
) -> dict[str, dict[str, list[float]]]:
    """`MEASURES` of subsets, by name, as value and 95% interval.

    Args:
      examples: by the name of their subset, each of both kinds.
      threshold: chosen on others than these.

    Returns:
      Of each subset and, if there are several, of their mean ("average"), each of
      `MEASURES` as value, lower and upper end.
    """
    rng = np.random.default_rng(_SEED)
    values = {name: measure(some, threshold) for name, some in examples.items()}
    draws = {name: resample(some, threshold, rng) for name, some in examples.items()}
    if len(examples) > 1:
        for found in (values, draws):
            found["average"] = np.mean(list(found.values()), axis=0)
    out = {}
    for name, of_subset in values.items():
        ends = np.nanpercentile(draws[name], [2.5, 97.5], axis=0).T
        pairs = zip(MEASURES, of_subset, ends, strict=True)
        out[name] = {key: [float(v), *map(float, e)] for key, v, e in pairs}
    return out


def _counts(examples: Examples, threshold: float) -> np.ndarray:
    """Of each problem, int `[P, 4]`: examples with an error, how many of them are
    right, those without, and how many of them are right."""
    is_wrong = examples.errors >= 0
    is_right = first_below(examples.values, threshold) == examples.errors
    columns = (is_wrong, is_wrong & is_right, ~is_wrong, ~is_wrong & is_right)
    problems, place = np.unique(examples.problems, return_inverse=True)
    counted = [np.bincount(place, weights=c, minlength=len(problems)) for c in columns]
    return np.stack(counted, axis=1).astype(int)


def _of_counts(counts: np.ndarray) -> np.ndarray:
    """`MEASURES` of rows of counts `[R, 4]`, float `[R, 3]`; NaN where one is 0."""
    with np.errstate(invalid="ignore"):
        erroneous, correct = counts[:, 1] / counts[:, 0], counts[:, 3] / counts[:, 2]
    return np.stack([erroneous, correct, _harmonic(erroneous, correct)], axis=1)


def _harmonic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The harmonic mean; 0 where both are."""
    total = a + b
    return np.where(total == 0, 0.0, 2 * a * b / np.where(total == 0, 1.0, total))


# Best of N.


def best_of_each_n(
    scores: Mapping[str, Sequence[np.ndarray]], correct: Sequence[np.ndarray]
) -> list[dict]:
    """Accuracy of the best-scored of N responses, N = 1, 2, 4, ... as far as all
    problems have them.

    Args:
      scores: by the name of a rule, of each problem, float `[M]`.
      correct: of each problem, bool `[M]`; M may differ between problems.

    Returns:
      For each N a row: `n`, and of each rule and of `any`, which is Pass@N, the
      accuracy and its 95% interval over problems.
    """
    rows, n = [], 1
    while n <= min(map(len, correct)):
        row: dict = {"n": n}
        for name, of_problems in scores.items():
            pairs = zip(of_problems, correct, strict=True)
            row[name] = _estimate([best_of_n(s[None], c[None], n) for s, c in pairs])
        row["any"] = _estimate([pass_at_n(c[None], n) for c in correct])
        rows.append(row)
        n *= 2
    return rows


def _estimate(of_problems: Sequence[np.ndarray]) -> list[float]:
    mean, (low, high) = mean_interval(np.concatenate(of_problems))
    return [mean, low, high]
