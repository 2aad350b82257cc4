"""A number with its 95% interval over problems: a mean, a share, or a ratio.

Of a mean by the normal approximation; of a ratio of sums by bootstrap. Letters: P
problems, C sums of each.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from pav_jax.metrics import mean_interval, normal_interval

_RESAMPLES = 1000

Interval = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number and its 95% interval over problems.

    Attributes:
      value: the number.
      interval: None where there is one problem only, which does not say how problems
        differ.
    """

    value: float
    interval: Interval | None

    @property
    def above_zero(self) -> bool:
        """Whether all of the interval is."""
        return self.interval is not None and self.interval[0] > 0

    def through(self, function: Callable[[float], float]) -> "Estimate":
        """A monotone function of it."""
        if self.interval is None:
            return Estimate(float(function(self.value)), None)
        low, high = sorted(float(function(end)) for end in self.interval)
        return Estimate(float(function(self.value)), (low, high))


def mean_of(values: np.ndarray) -> Estimate:
    """The mean of one number a problem, `[P]`."""
    return Estimate(*normal_interval(values))


def share_of(values: np.ndarray) -> Estimate:
    """The mean of one share a problem, `[P]`, each in [0, 1]."""
    mean, (low, high) = mean_interval(values)
    interval = (max(low, 0.0), min(high, 1.0)) if len(values) > 1 else None
    return Estimate(mean, interval)


def ratio_of(
    sums: np.ndarray, function: Callable[[np.ndarray], np.ndarray]
) -> Estimate | None:
    """A function of sums over problems, and its bootstrap interval.

    Args:
      sums: float `[P, C]`.
      function: of totals `[C, ...]`; gives `[...]`, NaN where it is not defined.

    Returns:
      None if it is not defined for the problems as they are.
    """
    value = float(function(sums.sum(axis=0)))
    if not np.isfinite(value):
        return None
    count, rng = len(sums), np.random.default_rng(0)
    if count < 2:
        return Estimate(value, None)
    drawn = [
        np.bincount(rng.integers(count, size=count), minlength=count) @ sums
        for _ in range(_RESAMPLES)
    ]
    found = function(np.array(drawn).T)
    low, high = np.quantile(found[np.isfinite(found)], (0.025, 0.975))
    return Estimate(value, (min(float(low), value), max(float(high), value)))


def divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """NaN where there is nothing to divide by, but for rounding."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(bottom > 1e-12, top / bottom, np.nan)
