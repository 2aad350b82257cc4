"""What the tasks whose problems are in files share: splits, and reading JSON lines."""

import codecs
import dataclasses
import functools
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.types import Problem
from pav_jax.tasks.base import Task

T = TypeVar("T")


class StoredTask(Task):
    """A `Task` with a list of problems for training and one for the test.

    Validation is held out of the former. A problem's side of that cut depends on
    nothing but its prompt, so it stays the same when problems are added, dropped or
    reordered. Nothing is read before the first call of `problems`: grading needs no
    files.

    What is in the test is kept out of training: problems for training whose prompt is
    also in the test, but for white space, are left out, with a warning.
    """

    name: str

    def __init__(self, validation_fraction: float):
        """Args: validation_fraction: the share, in [0, 1), to hold out.

        Raises:
          UserError: the fraction is out of range.
        """
        if not 0 <= validation_fraction < 1:
            raise UserError(
                f"validation_fraction is {validation_fraction}; it must be at least "
                "0 and below 1"
            )
        self.validation_fraction = validation_fraction

    def _read(self) -> tuple[list[Problem], list[Problem]]:
        """The problems for training and for the test, which may have some in common;
        raises UserError."""
        raise NotImplementedError

    @functools.cached_property
    def _splits(self) -> dict[str, list[Problem]]:
        read, test = self._read()
        train = without_copies(read, prompts_of(test))
        if both := len(read) - len(train):
            logging.warning(
                "%s: the prompts of %s for training are also in the test; left out of"
                " training",
                self.name,
                counted(both, "problem"),
            )
        splits = {"train": [], "validation": [], "test": test}
        limit = self.validation_fraction * 2**31
        for problem in train:
            splits["validation" if problem.id < limit else "train"].append(problem)
        return splits

    def problems(self, split: str, count: int | None = None) -> Sequence[Problem]:
        """The first problems of a split, in the order of the files.

        Args:
          split: 'train', 'validation' or 'test'.
          count: how many; all of them if None.

        Returns:
          `count` problems.

        Raises:
          UserError: the files cannot be read, there is no such split, or it holds
            fewer problems.
        """
        if split not in self._splits:
            known = ", ".join(self._splits)
            raise UserError(f"{self.name} has no split {split!r}; it has {known}")
        problems = self._splits[split]
        if count is None:
            return list(problems)
        if not 0 <= count <= len(problems):
            raise UserError(
                f"asked for {counted(count, 'problem')} of {self.name} {split}, which"
                f" holds {len(problems)}"
            )
        return problems[:count]

    def vocabulary(self) -> Sequence[str]:
        """Nothing: a vocabulary is learned from the text, or comes with the model."""
        return ()

    def check_steps(self, problem: Problem, response: str) -> None:
        """There is no step checker."""

    def facts(self, problem: Problem, response: str) -> None:
        """Nor a summary of what a prefix is worth."""


def plain_text(text: str) -> str:
    """A user's text without a byte order mark, its newlines as "\\n" alone."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def squeezed(text: str) -> str:
    """A text by which prompts are compared: white space counts as one space."""
    return " ".join(text.split())


def prompts_of(problems: Iterable[Problem]) -> set[str]:
    """The prompts of problems, `squeezed`."""
    return {squeezed(problem.prompt) for problem in problems}


def without_copies(problems: Iterable[Problem], prompts: set[str]) -> list[Problem]:
    """Those of `problems` whose prompts are none of `prompts_of` some others, in their
    order."""
    return [p for p in problems if squeezed(p.prompt) not in prompts]


def read_lines(
    file: Path,
    parse: Callable[[dict], T],
    fields: Sequence[str],
    layout: str,
    numbers: Sequence[str] = (),
) -> Iterator[T]:
    """Reads a file of JSON objects, one a line; empty lines are skipped.

    Args:
      file: the file.
      parse: turns an object into what is wanted, or raises ValueError.
      fields: that must be there and hold text that is not blank.
      layout: what would be right, for the message.
      numbers: fields that may hold a number too, which is text as it is written there.

    Raises:
      UserError: the file cannot be read, or a line is bad; names file and line.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(
            f"cannot read {file.absolute()}: {error.strerror}; {layout}"
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.removeprefix(codecs.BOM_UTF8).strip():
            try:
                item = parse(parse_object(line, fields, numbers))
            # json raises RecursionError on deep nesting, ValueError otherwise.
            except (ValueError, RecursionError) as error:
                raise UserError(f"{file}, line {number}: {error}; {layout}") from error
            yield item


@dataclasses.dataclass(frozen=True)
class _Number:
    """A number of a JSON text, as it is spelt there."""

    spelling: str


def parse_object(
    text: bytes, fields: Sequence[str], numbers: Sequence[str] = ()
) -> dict:
    """A JSON object in which `fields` hold text; raises ValueError.

    Args:
      text: in UTF-8, perhaps with a byte order mark.
      fields: see `read_lines`.
      numbers: see `read_lines`; 5.0 becomes "5.0". Other numbers are `_Number`.
    """
    spelt = {"parse_int": _Number, "parse_float": _Number}
    row = json.loads(text.decode("utf-8-sig"), **spelt)
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for field in numbers:
        number = row.get(field)
        if isinstance(number, _Number) and math.isfinite(float(number.spelling)):
            row[field] = number.spelling
    for field in fields:
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise ValueError(f"no text field {field!r}")
        row[field].encode()  # half a surrogate pair, which JSON can spell, fails
    return row
