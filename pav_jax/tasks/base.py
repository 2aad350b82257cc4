"""What a task is: problems with a checkable answer, and a grader."""

import dataclasses
import enum
import hashlib
from collections.abc import Hashable, Sequence
from typing import Protocol


class Grade(enum.Enum):
    """How a response fared; only CORRECT earns Rex = 1."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    TIMED_OUT = "timed_out"  # beyond the bounds that a grader sets


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question with a checkable final answer.

    Attributes:
      prompt: the question as the policy reads it, up to and including the
        newline after which the response starts.
      answer: the reference answer `y*`, in the task's own notation.
      solution: a demonstration, one step a line, the final answer on the last
        line, without a trailing newline. Empty where none is known.
    """

    prompt: str
    answer: str
    solution: str = ""

    @property
    def id(self) -> int:
        """A 31-bit hash of the prompt: the problem's name in sampling keys."""
        digest = hashlib.blake2b(self.prompt.encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little") & 0x7FFF_FFFF


class Task(Protocol):
    """A source of problems. `split` is 'train', 'validation' or 'test'."""

    name: str

    def problems(self, split: str, count: int) -> Sequence[Problem]:
        """The first `count` problems of a split, always in the same order.

        Raises:
          UserError: the split holds fewer than `count` problems.
        """

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

    def state(self, problem: Problem, response: str) -> Hashable | None:
        """What of a prefix its value nearly depends on; None if it cannot tell."""
