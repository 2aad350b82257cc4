r"""Competition problems: MATH, in the paper's split, and a user's own in its manner.

A response is steps, one a line; its final answer is the last `\boxed{...}`.
"""

import logging
import os
import pathlib
import re
from collections.abc import Sequence

from pav_jax.core.errors import UserError
from pav_jax.core.types import Grade, Problem
from pav_jax.tasks import grading
from pav_jax.tasks.stored import (
    StoredTask,
    parse_object,
    plain_text,
    read_lines,
    squeezed,
)

_MATH_LAYOUT = (
    "expected a folder with math500.jsonl (MATH-500, one JSON object a line with the "
    "text fields 'problem', 'solution' and 'answer') and, to train, MATH as published, "
    "train/<subject>/<number>.json and test/<subject>/<number>.json, each an object "
    "with the text fields 'problem' and 'solution'"
)
_JSONL_LAYOUT = (
    "expected one JSON object a line with the text fields 'prompt' and 'answer' (which "
    "may be a number), and a 'solution' where there is one, its steps one a line"
)
_PUBLISHED = ("problem", "solution")
_FIELDS = (*_PUBLISHED, "answer")


class _AnswersInMath(StoredTask):
    """Graded by `grading`."""

    def grade(self, problem: Problem, response: str) -> Grade:
        """Compares the last final answer; see `grading.grade`."""
        return grading.grade(problem.answer, response)

    def grade_all(self, pairs: Sequence[tuple[Problem, str]]) -> list[Grade]:
        return grading.grade_all(
            [(problem.answer, response) for problem, response in pairs]
        )

    def answer(self, response: str) -> str | None:
        """The last final answer in a normal spelling, or None."""
        answer = grading.last_answer(response)
        return grading.normal(answer) or None if answer is not None else None


class Math(_AnswersInMath):
    """MATH: MATH-500 is the test, and all else, of train and test, is for training.

    Args:
      path: the folder with the published layout and math500.jsonl; None to download
        the same split from the PRM800K repository.
      validation_fraction: the share of the training problems, in [0, 1), to hold out.
      data_dir: where the prepared dataset is kept; see `datasets.load`.

    Raises:
      UserError: from `problems`, where a file is missing or is not a problem, or some
        of MATH-500 cannot be told apart from the rest.
    """

    name = "math"

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        validation_fraction: float = 0.04,
        data_dir: str | os.PathLike | None = None,
    ):
        super().__init__(validation_fraction)
        self._path = None if path is None else pathlib.Path(path)
        self._data_dir = data_dir

    def _read(self) -> tuple[list[Problem], list[Problem]]:
        # TFDS takes two seconds to import, which grading does without.
        from pav_jax.tasks import datasets

        rows = datasets.load(
            datasets.PavMath, _read_rows, path=self._path, data_dir=self._data_dir
        )
        train, test = ([*map(_problem, rows[split])] for split in ("train", "test"))
        return train, test

    def files(self) -> Sequence[pathlib.Path]:
        return _files(self._path) if self._path else ()


class Jsonl(_AnswersInMath):
    """A user's own problems, graded as those of MATH.

    Args:
      path: a folder with train.jsonl and test.jsonl, each line an object with the
        texts `prompt` and `answer`, and a `solution` for those to learn from. An answer
        may be a number, which is read as it is written.
      validation_fraction: the share of the training problems, in [0, 1), to hold out.

    Raises:
      UserError: from `problems`, where a file is missing or a line is bad; the message
        names the file and the line.
    """

    name = "jsonl"

    def __init__(self, path: str | os.PathLike, validation_fraction: float = 0.05):
        super().__init__(validation_fraction)
        self._path = pathlib.Path(path)

    def _read(self) -> tuple[list[Problem], list[Problem]]:
        train, test = (
            list(
                read_lines(
                    self._path / f"{split}.jsonl",
                    _own_problem,
                    ("prompt", "answer"),
                    _JSONL_LAYOUT,
                    numbers=("answer",),
                )
            )
            for split in ("train", "test")
        )
        return train, test

    def files(self) -> Sequence[pathlib.Path]:
        return [self._path / f"{split}.jsonl" for split in ("train", "test")]


def _own_problem(row: dict) -> Problem:
    solution = row.get("solution") or ""
    if not isinstance(solution, str):
        raise ValueError("'solution' is not text")
    solution.encode()
    if not grading.normal(row["answer"].strip()):
        raise ValueError(f"'answer' {row['answer']!r} states nothing")
    if solution and grading.grade(row["answer"], solution) is not Grade.CORRECT:
        raise ValueError(
            rf"the last \boxed{{}} or '# Answer' line of 'solution' is not 'answer', "
            f"{row['answer']!r}"
        )
    lines = [line.strip() for line in solution.split("\n") if line.strip()]
    return Problem(
        prompt=plain_text(row["prompt"]).rstrip("\n") + "\n",
        answer=row["answer"].strip(),
        solution="\n".join(lines),
    )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Those of either layout that a folder has; the first is that of MATH-500."""
    test, train = folder / "math500.jsonl", folder / "train.jsonl"
    if train.exists():
        return [test, train]
    return [
        test,
        *(
            file
            for split in ("train", "test")
            # In order of their numbers: 2.json before 10.json.
            for file in sorted(
                (folder / split).glob("*/*.json"),
                key=lambda file: (file.parent.name, len(file.name), file.name),
            )
        ),
    ]


def _read_rows(folder: pathlib.Path) -> dict[str, list[dict[str, str]]]:
    """The problems for training and of MATH-500, in a folder of either layout."""
    test = list(read_lines(folder / "math500.jsonl", _row, _FIELDS, _MATH_LAYOUT))
    if (folder / "train.jsonl").exists():  # the same split, ready-made
        lines = read_lines(folder / "train.jsonl", _row, _FIELDS, _MATH_LAYOUT)
        return {"train": list(lines), "test": test}
    missing = {squeezed(row["problem"]) for row in test}
    held_out, train, unanswered = set(missing), [], 0
    for file in _files(folder)[1:]:
        try:
            row = parse_object(file.read_bytes(), _PUBLISHED)
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{file}: {error}; {_MATH_LAYOUT}") from error
        answer = grading.last_answer(row["solution"])
        if squeezed(row["problem"]) in held_out:
            missing.discard(squeezed(row["problem"]))
        elif answer is None:
            unanswered += 1
        else:
            train.append(_row({**row, "answer": answer}))
    if unanswered:
        logging.warning("MATH: %d solutions state no answer; left out", unanswered)
    if missing and (folder / "test").is_dir():
        raise UserError(
            f"{len(missing)} of the {len(held_out)} problems in math500.jsonl are not "
            f"under {folder}/test, so that they could be among those for training in "
            f"another spelling; the first begins {min(missing)[:60]!r}"
        )
    return {"train": train, "test": test}


def _row(row: dict[str, str]) -> dict[str, str]:
    return {field: row[field] for field in _FIELDS}


def _problem(row: dict[str, str]) -> Problem:
    """Lays a published problem out: a step a line, the final answer on the last."""
    steps = split_steps(row["solution"])
    answer = row["answer"].strip()
    if not steps or grading.last_answer(steps[-1]) is None:
        steps.append(rf"# Answer: \boxed{{{answer}}}")
    return Problem(
        prompt=row["problem"].strip() + "\n", answer=answer, solution="\n".join(steps)
    )


_DRAWING = re.compile(r"\[asy\].*?\[/asy\]", re.S)
_FORMULA = re.compile(
    r"\$\$.*?\$\$|\\\[.*?\\\]|\\\(.*?\\\)|\$(?:\\.|[^$\\])*\$"
    r"|\\begin\{(?P<kind>\w+\*?)\}.*?\\end\{(?P=kind)\}",
    re.S,
)
_CLOSED = re.compile(r"[.?!]\s*(?:\$\$?|\\\]|\\\)|\\end\{\w+\*?\}|\})+$")
# In a text whose formulas are one character, and those that end a sentence two.
_BETWEEN = re.compile(
    "(?:(?<=[.?!])\\s+|(?<=[.?!][\"')])\\s+|(?<=\ue001)\\s*)(?=[A-Z\ue000])"
)


def split_steps(solution: str) -> list[str]:
    r"""A solution as steps, one for each sentence.

    The paper's steps are lines, but a published solution breaks its lines at random,
    and half of those in MATH-500 are one line. Sentences are not cut inside formulas,
    of which each stays on one line. Drawings (`[asy]`) are left out.
    """
    text = _DRAWING.sub(" ", re.sub("[\ue000\ue001]", "", solution))
    formulas = []

    def hide(match: re.Match) -> str:
        formulas.append(squeezed(match[0]))
        return "\ue000\ue001" if _CLOSED.search(match[0]) else "\ue000"

    text = squeezed(_FORMULA.sub(hide, text))
    found = iter(formulas)
    steps = _BETWEEN.split(text)
    steps = [
        re.sub("\ue000\ue001?", lambda _: next(found), step).strip() for step in steps
    ]
    return [step for step in steps if step]
