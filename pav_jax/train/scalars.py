"""Where the scalars of a training go, besides `metrics.jsonl`."""

from collections.abc import Callable, Mapping
from typing import Protocol


class ScalarLog(Protocol):
    """The scalars of one attempt at a training."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars of a step, which has others already or is the latest so far."""

    def close(self) -> None:
        """Nothing is added any more."""


class NoLog:
    """Keeps nothing."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


# steps done before -> the log of an attempt that goes on from there. What earlier
# attempts have logged of later steps no longer counts.
OpenLog = Callable[[int], ScalarLog]


def open_none(first: int) -> ScalarLog:
    """Opens a log that keeps nothing."""
    return NoLog()
