"""A problem of the built-in task as read from its prompt, and a checker of its steps.

The words of prompts and steps are here; `relations.py` makes problems of them.
"""

import dataclasses
import enum
import functools
import re
from collections.abc import Sequence

from pav_jax.core.errors import UserError

NAMES = (
    "Ana Ben Cleo Dan Eve Finn Gus Hana Ivo Jill Kai Lena Milo Nora Otto Pia"
    " Quinn Rosa Sven Tess Uri Vera Walt Yara"
).split()
MAX_VALUE = 40
_DELTAS = range(1, 10)
# What Ben has, given what Ana has: "Ana has 3 fewer than Ben" adds 3.
PHRASES = {
    **{f"+ {k}": f"{k} fewer than" for k in _DELTAS},
    **{f"- {k}": f"{k} more than" for k in _DELTAS},
    "* 2": "half as many as",
    "* 3": "a third as many as",
    "/ 2": "twice as many as",
}
_OPS = {phrase: op for op, phrase in PHRASES.items()}
_NAME = "|".join(NAMES)
_RELATION = re.compile(rf"({_NAME}) has ({'|'.join(_OPS)}) ({_NAME})\.")
_QUESTION = re.compile(
    rf"How many \w+ does ({_NAME}) have\? We start with (\d+)\. ({_NAME})\n"
)
# One spelling a number: no leading zero, and no digits of other scripts.
_NUMBER = "(0|[1-9][0-9]?)"
STEP = re.compile(
    rf" has ({'|'.join(_OPS)}) ({_NAME}): {_NUMBER} -> {_NUMBER}\. (?:\2)"
)
ANSWER = re.compile(f"Answer: {_NUMBER}")


class Verdict(enum.Enum):
    """What the checker says of one step."""

    GOOD = "good"
    USELESS = "useless"  # true, but not on the way to the person asked about
    RESTATED = "restated"  # of somebody whose number was already worked out
    WRONG_FACT = "wrong_fact"  # a relation or a number that was never given
    WRONG_ARITHMETIC = "wrong_arithmetic"
    WRONG_ANSWER = "wrong_answer"  # the answer line, not of the person asked about
    UNPARSED = "unparsed"


@functools.cache
def apply(op: str, value: int) -> int | None:
    """The result of an operation such as '+ 3', or None where it has none."""
    symbol, operand = op[0], int(op[2:])
    if symbol == "/":
        return value // operand if value % operand == 0 else None
    result = {
        "+": value + operand,
        "-": value - operand,
        "*": value * operand,
    }[symbol]
    return result if 1 <= result <= MAX_VALUE else None


@dataclasses.dataclass(frozen=True)
class Puzzle:
    """A problem's structure, as read from its prompt.

    Attributes:
      root: the person whose number is given.
      value: that number.
      relations: person -> (operation, person it refers to).
      target: the person asked about.
    """

    root: str
    value: int
    relations: dict[str, tuple[str, str]]
    target: str

    @classmethod
    def parse(cls, prompt: str) -> "Puzzle":
        question = _QUESTION.search(prompt)
        if question is None:
            raise UserError(f"not a prompt of the relations task: {prompt!r}")
        relations = {
            name: (_OPS[phrase], reference)
            for reference, phrase, name in _RELATION.findall(prompt)
        }
        return cls(question[3], int(question[2]), relations, question[1])

    def path(self) -> list[str]:
        """The people from just after the root to the target, in order."""
        names, name = [], self.target
        while name != self.root:
            if name not in self.relations or name in names:
                raise UserError(f"no relations lead from {self.root} to {self.target}")
            names.append(name)
            name = self.relations[name][1]
        return names[::-1]


def check(puzzle: Puzzle, steps: Sequence[str]) -> list[Verdict]:
    """The verdict on each step, given the ones before it.

    A step after a mistake is judged by what it takes from the steps before it:
    " has 3 fewer than Ben: 8 -> 11. Ben" is GOOD after a step that said, wrongly,
    that Ana has 8.
    """
    known = {puzzle.root: puzzle.value}
    reference = puzzle.root
    path = set(puzzle.path())
    verdicts = []
    for step in steps:
        if (answer := ANSWER.fullmatch(step)) is not None:
            good = known.get(puzzle.target) == int(answer[1])
            verdicts.append(Verdict.GOOD if good else Verdict.WRONG_ANSWER)
        elif (line := STEP.fullmatch(step)) is not None:
            phrase, name, value, result = line.groups()
            op = _OPS[phrase]
            if name in known:
                verdict = Verdict.RESTATED
            elif (
                puzzle.relations.get(name) != (op, reference)
                or int(value) != known[reference]
            ):
                verdict = Verdict.WRONG_FACT
            elif apply(op, int(value)) != int(result):
                verdict = Verdict.WRONG_ARITHMETIC
            elif name not in path:
                verdict = Verdict.USELESS
            else:
                verdict = Verdict.GOOD
            known.setdefault(name, int(result))
            reference = name
            verdicts.append(verdict)
        else:
            verdicts.append(Verdict.UNPARSED)
    return verdicts
