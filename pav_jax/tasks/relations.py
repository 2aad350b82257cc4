"""The built-in task: who has how many, through a tree of relations.

    Ben has half as many as Dan. Ana has 3 fewer than Ben. Ana has twice as many as
    Gus. ... Gus has gone home. How many coins does Dan have? We start with 7. Ana
     has 3 fewer than Ben: 7 -> 10. Ben
     has half as many as Dan: 10 -> 20. Dan
    Answer: 20

A line goes on from the person that the line before it ends with. docs/decisions.md
("The built-in task") says why the task has this shape. In short: people form a tree of
relations; one path leads from the person whose number is given to the one asked about,
and the other branches are decoys, which end at somebody who has gone home.
Before a step is written, telling a decoy from the path needs a look ahead: from a
person to the sentences about them, to whom these name, to who of those has gone.
Once it is written, one look back at the name that it ends with. That is what makes
generation harder than verification, and steps worth verifying.
"""

import dataclasses
import enum
import functools
import itertools
import random
import re
from collections.abc import Hashable, Iterator, Sequence

from pav_jax.core.errors import UserError
from pav_jax.core.types import Grade, Problem
from pav_jax.tasks.base import Task

NAMES = (
    "Ana Ben Cleo Dan Eve Finn Gus Hana Ivo Jill Kai Lena Milo Nora Otto Pia"
    " Quinn Rosa Sven Tess Uri Vera Walt Yara"
).split()
ITEMS = "apples books cards coins marbles shells stamps stickers".split()
MAX_VALUE = 40
_DELTAS = range(1, 10)
# What Ben has, given what Ana has: "Ana has 3 fewer than Ben" adds 3.
_PHRASES = {
    **{f"+ {k}": f"{k} fewer than" for k in _DELTAS},
    **{f"- {k}": f"{k} more than" for k in _DELTAS},
    "* 2": "half as many as",
    "* 3": "a third as many as",
    "/ 2": "twice as many as",
}
_OPS = {phrase: op for op, phrase in _PHRASES.items()}
_GONE = " has gone home. "
_NAME = "|".join(NAMES)
_RELATION = re.compile(rf"({_NAME}) has ({'|'.join(_OPS)}) ({_NAME})\.")
_QUESTION = re.compile(
    rf"How many \w+ does ({_NAME}) have\? We start with (\d+)\. ({_NAME})\n"
)
# One spelling a number: no leading zero, and no digits of other scripts.
_NUMBER = "(0|[1-9][0-9]?)"
_STEP = re.compile(
    rf" has ({'|'.join(_OPS)}) ({_NAME}): {_NUMBER} -> {_NUMBER}\. (?:\2)"
)
_ANSWER = re.compile(f"Answer: {_NUMBER}")


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
        if (answer := _ANSWER.fullmatch(step)) is not None:
            good = known.get(puzzle.target) == int(answer[1])
            verdicts.append(Verdict.GOOD if good else Verdict.WRONG_ANSWER)
        elif (line := _STEP.fullmatch(step)) is not None:
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


@functools.cache
def _choices(value: int) -> tuple[list[str], list[int]]:
    """Operations that `value` admits, and how often each is drawn."""
    ops = [op for op in _PHRASES if apply(op, value) is not None]
    # Multiplying and dividing are few among the operations, but not rare.
    return ops, [1 if op[0] in "+-" else 4 for op in ops]


def _people(
    depths: tuple[int, int], fewest: int | None, most: int | None, num_names: int
) -> tuple[int, int]:
    """Fewest and most people of a problem, where those are what the config gives."""
    most = 10 if most is None else most
    fewest = most if fewest is None else fewest
    if not 1 <= depths[0] <= depths[1] < fewest <= most <= num_names:
        raise UserError(
            "relations task: need 1 <= min_depth <= max_depth < min_people <="
            f" num_people <= num_names={num_names}, got {depths[0]}, {depths[1]},"
            f" {fewest}, {most}"
        )
    return fewest, most


def _check_decoys(depths: tuple[int, int], decoys: Sequence[int], num_names: int):
    """Raises UserError unless every problem has decoys, and names enough."""
    pair = isinstance(decoys, Sequence) and [*map(type, decoys)] == [int, int]
    if (
        not pair
        or not 1 <= decoys[0] <= decoys[1]
        or not 1 <= depths[0] <= depths[1] < num_names - decoys[1]
    ):
        raise UserError(
            f"relations task: decoys={decoys} must be the fewest and the most people"
            " who are not on the path, such as (1, 8); need 1 <= min_depth <= max_depth"
            f" < num_names - most, got {depths[0]}, {depths[1]}, {num_names}"
        )


class Relations(Task):
    """The built-in task.

    Args:
      seed: names the stream of problems.
      min_depth: fewest relations between the number given and the one asked.
      max_depth: most.
      num_people: people in a problem; those not on the path are decoys. 10 if neither
        this nor `decoys` is given.
      min_people: fewest people, where problems differ in it; else as `num_people`.
      decoys: fewest and most people off the path, in place of the number of people.
      num_names: how many of NAMES people are drawn from, and the vocabulary holds.
      answer_path: whether the people on the way are part of the answer, so that it is
        not right by luck: there are only MAX_VALUE numbers.
      max_decoy: longest decoy branch; its last person has gone home.
      gone_beside: who has gone home is said just before the sentence that leads to
        them, where whoever looks that up sees it, and not after all else.
      wrong_turns: probability that a demonstration takes a decoy where there is one;
        it follows that to its end, and answers with the number that it has there.
    """

    name = "relations"

    def __init__(
        self,
        *,
        seed: int = 0,
        min_depth: int = 5,
        max_depth: int = 7,
        num_people: int | None = None,
        min_people: int | None = None,
        decoys: tuple[int, int] | None = None,
        num_names: int = 16,
        answer_path: bool = False,
        max_decoy: int = 1,
        gone_beside: bool = False,
        wrong_turns: float = 0.0,
    ):
        if not 1 <= num_names <= len(NAMES):
            raise UserError(
                f"relations task: num_names={num_names} must be from 1 to {len(NAMES)}"
            )
        depths = (min_depth, max_depth)
        if decoys is None:
            people = _people(depths, min_people, num_people, num_names)
        else:
            if (num_people, min_people) != (None, None):
                raise UserError(
                    "relations task: decoys says how many people there are beside the"
                    " path; leave out num_people and min_people, or decoys"
                )
            people = None
            _check_decoys(depths, decoys, num_names)
        if not 0 <= wrong_turns <= 1:
            raise UserError(
                f"relations task: wrong_turns={wrong_turns} is a probability; it must"
                " be between 0 and 1"
            )
        self._seed = seed
        self._depths, self._people, self._decoys = depths, people, decoys
        self._names, self._answer_path = NAMES[:num_names], answer_path
        self._max_decoy = max_decoy
        self._gone_beside = gone_beside
        self._wrong_turns = wrong_turns

    def vocabulary(self) -> Sequence[str]:
        """Words and phrases of the task, each of which is one token."""
        pieces = [
            f"{before}{n}"
            for before in (" ", ": ", " -> ")
            for n in range(MAX_VALUE + 1)
        ]
        pieces += [f" has {phrase} " for phrase in _PHRASES.values()]
        pieces += [f"How many {item} does " for item in ITEMS]
        # Referred to in the prompt, who a sentence or a step is about, and, with the
        # newline, where a step ends: where the policy looks up how to go on is where
        # a verifier reads the value.
        for name in self._names:
            pieces += [name, f"{name}. ", f". {name}\n"]
        return [*pieces, _GONE, " have? We start with", "\n", "Answer:"]

    def problems(self, split: str, count: int) -> Sequence[Problem]:
        if split not in ("train", "validation", "test"):
            raise UserError(f"no split {split!r}; there are train, validation, test")
        return list(itertools.islice(self._stream(split), count))

    def _stream(self, split: str) -> Iterator[Problem]:
        for index in itertools.count():
            rng = random.Random(f"{self._seed}/{index}")
            problem = self._problem(rng)
            # By hash of the text, so that no prompt can be in two splits.
            bucket = problem.id % 20
            where = {0: "test", 1: "validation"}.get(bucket, "train")
            if where == split:
                yield problem

    def _problem(self, rng: random.Random) -> Problem:
        depth = rng.randint(*self._depths)
        few, many = self._people or [depth + 1 + n for n in self._decoys]
        # No draw where there is no choice: the problems of old stay as they are.
        people = many if few == many else rng.randint(few, many)
        names = rng.sample(self._names, people)
        item = rng.choice(ITEMS)
        path, decoys = names[: depth + 1], names[depth + 1 :]
        values = {path[0]: rng.randint(1, MAX_VALUE)}
        relations: dict[str, tuple[str, str]] = {}
        used: set[str] = set()

        def relate(name: str, reference: str):
            ops, weights = _choices(values[reference])
            # No phrase twice, as far as they last: then a phrase tells its sentence.
            fresh = [w * (op not in used) for op, w in zip(ops, weights, strict=True)]
            (op,) = rng.choices(ops, fresh if any(fresh) else weights)
            used.add(op)
            relations[name] = (op, reference)
            values[name] = apply(op, values[reference])

        for reference, name in itertools.pairwise(path):
            relate(name, reference)
        gone = []
        while decoys:
            length = rng.randint(1, self._max_decoy)
            branch, decoys = decoys[:length], decoys[length:]
            start = path[rng.randrange(depth)]
            for reference, name in itertools.pairwise([start, *branch]):
                relate(name, reference)
            gone.append(branch[-1])

        left = {name: f"{name}{_GONE.rstrip()}" for name in gone}
        sentences = []
        for name, (op, reference) in relations.items():
            beside = [left[name]] if self._gone_beside and name in left else []
            sentence = f"{reference} has {_PHRASES[op]} {name}."
            sentences.append(" ".join([*beside, sentence]))
        rng.shuffle(sentences)
        if not self._gone_beside:
            # Last, so that no sentence can be read in the light of who has gone.
            sentences += [left[name] for name in rng.sample(gone, len(gone))]
        shown = self._demonstrated(rng, path, relations)
        steps = []
        for name in shown:
            op, reference = relations[name]
            change = f"{values[reference]} -> {values[name]}"
            steps.append(f" has {_PHRASES[op]} {name}: {change}. {name}")
        steps.append(f"Answer: {values[shown[-1]]}")
        question = f"How many {item} does {path[-1]} have?"
        start = f"We start with {values[path[0]]}. {path[0]}"
        way = path[1:] if self._answer_path else []
        return Problem(
            prompt=f"{' '.join(sentences)} {question} {start}\n",
            answer=" ".join([*way, str(values[path[-1]])]),
            solution="\n".join(steps),
        )

    def _demonstrated(
        self,
        rng: random.Random,
        path: list[str],
        relations: dict[str, tuple[str, str]],
    ) -> list[str]:
        """The people of a demonstration, in order: the path, up to a wrong turn."""
        if not self._wrong_turns:
            return path[1:]
        onward: dict[str, list[str]] = {}
        for name, (_, reference) in relations.items():
            if name not in path:
                onward.setdefault(reference, []).append(name)
        for i, name in enumerate(path):
            if name in onward and rng.random() < self._wrong_turns:
                shown = path[1 : i + 1]
                while name in onward:
                    name = rng.choice(onward[name])
                    shown.append(name)
                return shown
        return path[1:]

    def answer(self, response: str) -> str | None:
        *steps, last = response.rstrip("\n").split("\n")
        answer = _ANSWER.fullmatch(last)
        lines = [_STEP.fullmatch(step) for step in steps if self._answer_path]
        if answer is None or None in lines:
            return None
        return " ".join([*(line[2] for line in lines), answer[1]])

    def grade(self, problem: Problem, response: str) -> Grade:
        answer = self.answer(response)
        if answer is None:
            return Grade.UNPARSED
        return Grade.CORRECT if answer == problem.answer else Grade.WRONG

    def check_steps(self, problem: Problem, response: str) -> list[str]:
        steps = response.rstrip("\n").split("\n")
        return [verdict.value for verdict in check(Puzzle.parse(problem.prompt), steps)]

    def facts(self, problem: Problem, response: str) -> Hashable:
        """(worst verdict, steps written, steps still needed, ended, correct)."""
        puzzle = Puzzle.parse(problem.prompt)
        steps = response.rstrip("\n").split("\n") if response else []
        verdicts = check(puzzle, steps)
        ended = bool(steps) and _ANSWER.fullmatch(steps[-1]) is not None
        if ended:
            return ("ended", self.grade(problem, response))
        worst = max(verdicts, key=list(Verdict).index, default=Verdict.GOOD)
        path = puzzle.path()
        named = {line[2] for s in steps if (line := _STEP.fullmatch(s)) is not None}
        missing = [name for name in path if name not in named]
        return (worst, len(steps), len(missing), verdicts[-1:] == [Verdict.USELESS])
