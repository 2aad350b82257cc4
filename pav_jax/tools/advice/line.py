"""A line of `pav advise`: a number, its interval, and what follows from it."""

import dataclasses
import textwrap
from typing import Any

from pav_jax.tools.advice.estimates import Estimate

WIDTH = 100  # of a screen
_NAME, _NUMBER = 22, 23


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of advice.

    Attributes:
      name: of the number.
      estimate: it, and its interval; None where only the reason is known.
      reason: what it is, and what follows from it; short, so that it fits a line.
      percent: whether text shows it in percent.
      detail: what the reason has no room for; JSON alone has it.
      screen: whether text has the line. The number of one that it has not is in the
        reason of another, or is one of many.
    """

    name: str
    estimate: Estimate | None
    reason: str
    percent: bool = False
    detail: str = ""
    screen: bool = True

    def as_json(self) -> dict[str, Any]:
        """The same as values that JSON has."""
        found = self.estimate
        return {
            "name": self.name,
            "value": None if found is None else found.value,
            "interval": None if found is None else found.interval,
            "problems": None if found is None else found.problems,
            "reason": self.reason,
            "detail": self.detail,
        }

    def text(self) -> str:
        """The same for a screen."""
        number = "-"
        if self.estimate is not None:
            number = shown(self.estimate, percent=self.percent)
        return textwrap.fill(
            self.reason,
            WIDTH,
            initial_indent=f"  {self.name:<{_NAME}} {number:<{_NUMBER}} ",
            subsequent_indent=" " * (_NAME + _NUMBER + 4),
            break_on_hyphens=False,
        )


def shown(found: Estimate, *, percent: bool = False) -> str:
    """A number and its interval, for a screen."""
    value = written(found.value, percent=percent)
    if found.interval is None:
        return f"{value} ({'few problems' if found.problems else 'no interval'})"
    low, high = (written(end, percent=percent) for end in found.interval)
    return f"{value} [{low}, {high}]"


def written(value: float, *, percent: bool = False) -> str:
    """A number with three digits, or in percent with one after the point."""
    return f"{value:.1%}" if percent else f"{value:.3g}"
