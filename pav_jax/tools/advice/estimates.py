"""A number with its 95% interval over problems: a mean, a share, or a ratio.

Of a mean by Student's t; of a ratio of sums by bootstrap. Letters: P problems, C sums
of each.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr, stdtrit

from pav_jax.metrics import mean_interval, seed_interval

FEWEST = 10  # problems that a verdict takes
TOO_FEW = f"too few problems to tell (it takes {FEWEST})"
_RESAMPLES = 1000

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval over problems.

    Attributes:
      value: the number.
      interval: None where there are too few problems, which do not say how problems
        differ.
      problems: that it is over; 0 if that is not known.
    """

    value: float
    interval: Interval | None
    problems: int = 0

    @property
    def tells(self) -> bool:
        """Whether a verdict may rest on it: it is over enough problems."""
        return self.interval is not None and self.problems >= FEWEST

    @property
    def above_zero(self) -> bool:
        """Whether it tells, and all of the interval is."""
        return self.tells and self.interval[0] > 0

    def through(self, function: Callable[[float], float]) -> "Estimate":
        """A monotone function of it."""
        interval = None
        if self.interval is not None:
            low, high = sorted(float(function(end)) for end in self.interval)
            interval = low, high
        return Estimate(float(function(self.value)), interval, self.problems)


def mean_of(values: np.ndarray) -> Estimate:
    """The mean of one number a problem, `[P]`."""
    return Estimate(*seed_interval(values), len(values))


def mean_of_all(sums: np.ndarray) -> Estimate:
    """The mean of numbers of which problems have several, each of which weighs alike.

    By Student's t of each problem's influence on the mean (the delta method); with
    equally many numbers a problem it is `mean_of` their means.

    Args:
      sums: float `[P, 2]`: the sum of a problem's numbers, and how many.
    """
    mean, influence = _influence(sums)
    return _around(mean, influence)


def difference_of_all(ours: np.ndarray, theirs: np.ndarray) -> Estimate:
    """The first mean less the second, over the same problems; each as `mean_of_all`."""
    (one, of_one), (other, of_other) = _influence(ours), _influence(theirs)
    return _around(one - other, of_one - of_other)


def _influence(sums: np.ndarray) -> tuple[float, np.ndarray]:
    """A mean, and by how much each problem moves it, times P; its mean is zero."""
    total, count = np.sum(sums, axis=0)
    mean = total / count
    return float(mean), (sums[:, 0] - mean * sums[:, 1]) * len(sums) / count


def _around(value: float, influence: np.ndarray) -> Estimate:
    _, interval = seed_interval(influence)
    if interval is not None:
        half = (interval[1] - interval[0]) / 2
        interval = value - half, value + half
    return Estimate(value, interval, len(influence))


def share_of(values: np.ndarray) -> Estimate:
    """The mean of one share a problem, `[P]`, each in [0, 1].

    Of outcomes, 0 or 1, by Wilson's interval.
    """
    found = mean_of(values)
    if found.interval is None:
        return found
    low, high = found.interval
    if np.all((values == 0) | (values == 1)):
        _, (low, high) = mean_interval(values)
    return Estimate(found.value, (max(low, 0.0), min(high, 1.0)), len(values))


def ratio_of(
    sums: np.ndarray, function: Callable[[np.ndarray], np.ndarray]
) -> Estimate | None:
    """A function of sums over problems, and its bootstrap interval.

    Quantiles of resamples are too narrow by `√((P - 1) / P)`, and as a normal interval
    is beside Student's; the levels are those that make up for both (the expanded
    percentile interval: Hesterberg, The American Statistician, 2015).

    Args:
      sums: float `[P, C]`.
      function: of totals `[C, ...]`; gives `[...]`, NaN where it is not defined.

    Returns:
      None if it is not defined for the problems as they are. It has no interval below
      `FEWEST` problems, of which there are too few different resamples.
    """
    value = float(function(sums.sum(axis=0)))
    if not np.isfinite(value):
        return None
    count, rng = len(sums), np.random.default_rng(0)
    if count < FEWEST:
        return Estimate(value, None, count)
    drawn = [
        np.bincount(rng.integers(count, size=count), minlength=count) @ sums
        for _ in range(_RESAMPLES)
    ]
    found = function(np.array(drawn).T)
    level = float(ndtr(stdtrit(count - 1, 0.025) * np.sqrt(count / (count - 1))))
    low, high = np.quantile(found[np.isfinite(found)], (level, 1 - level))
    return Estimate(value, (min(float(low), value), max(float(high), value)), count)


def divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by, but for rounding."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 1e-12, top / bottom, np.nan)
