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

import functools
import itertools
import random
from collections.abc import Hashable, Iterator, Sequence

from pav_jax.core.errors import UserError
from pav_jax.core.types import Grade, Problem
from pav_jax.tasks.base import Task
from pav_jax.tasks.puzzle import (
    ANSWER,
    MAX_VALUE,
    NAMES,
    PHRASES,
    STEP,
    Puzzle,
    Verdict,
    apply,
    check,
)

ITEMS = "apples books cards coins marbles shells stamps stickers".split()
_GONE = " has gone home. "


@functools.cache
def _choices(value: int) -> tuple[list[str], list[int]]:
    """Operations that `value` admits, and how often each is drawn."""
    ops = [op for op in PHRASES if apply(op, value) is not None]
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
        if max_decoy < 1:
            raise UserError(
                f"relations task: max_decoy={max_decoy} is the length of a branch; it"
                " must be at least 1"
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
        pieces += [f" has {phrase} " for phrase in PHRASES.values()]
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
            sentence = f"{reference} has {PHRASES[op]} {name}."
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
            steps.append(f" has {PHRASES[op]} {name}: {change}. {name}")
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
        answer = ANSWER.fullmatch(last)
        lines = [STEP.fullmatch(step) for step in steps if self._answer_path]
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
        ended = bool(steps) and ANSWER.fullmatch(steps[-1]) is not None
        if ended:
            return ("ended", self.grade(problem, response))
        worst = max(verdicts, key=list(Verdict).index, default=Verdict.GOOD)
        path = puzzle.path()
        named = {line[2] for s in steps if (line := STEP.fullmatch(s)) is not None}
        missing = [name for name in path if name not in named]
        return (worst, len(steps), len(missing), verdicts[-1:] == [Verdict.USELESS])
