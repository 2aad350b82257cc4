"""What a task is: problems with a checkable answer, and a grader."""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Protocol

from pav_jax.core.types import Grade, Problem


class Task(Protocol):
    """A source of problems. `split` is 'train', 'validation' or 'test'."""

    name: str

    def problems(self, split: str, count: int) -> Sequence[Problem]:
        """The first `count` problems of a split, always in the same order.

        Raises:
          UserError: the split holds fewer than `count` problems.
        """

    def files(self) -> Sequence[Path]:
        """The user's files that `problems` reads, those that should be there too."""
        return ()

    def vocabulary(self) -> Sequence[str]:
        """Strings that must each be one token; empty to learn one from text."""

    def grade(self, problem: Problem, response: str) -> Grade:
        """Grades untrusted text: never evaluates it, never raises on it."""

    def grade_all(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        """Grades many responses; those that are costly side by side."""
        return [self.grade(problem, response) for problem, response in pairs]

    def answer(self, response: str) -> str | None:
        """The final answer in a normal form, for voting; None where there is none."""

    def check_steps(self, problem: Problem, response: str) -> list[str] | None:
        """A word on each step, "good" or the kind of error; None if it cannot tell."""

    def facts(self, problem: Problem, response: str) -> Hashable | None:
        """What of a prefix its value nearly depends on; None if it cannot tell."""
