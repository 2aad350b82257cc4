"""Step labels that others made, as `pav import` keeps them: text, of no tokenizer.

A folder has `labels.jsonl`, a response a line (`LabelledText`), and `about.json`, which
says what the labels mean and where they are from.
"""

import dataclasses
import enum
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pav_jax.core.errors import UserError
from pav_jax.storage import artifacts

ABOUT = "about.json"
_ROWS = "labels.jsonl"
FILES = (_ROWS, ABOUT)


class Meaning(enum.Enum):
    """What the label of a step says."""

    # k of n continuations of the prefix up to the step reached the right answer.
    MONTE_CARLO = "monte_carlo"
    # At least one of some number n of them did ("hard estimation"). Its mean is not Q
    # but 1 - (1 - Q)^n, the value of best-of-n.
    ANY_OF_N = "any_of_n"
    # Nothing is wrong up to the end of the step.
    PREFIX = "prefix"
    # The step itself is right, whatever is before it.
    STEP = "step"


@dataclasses.dataclass(frozen=True)
class LabelledText:
    """A response in steps, and what is known of them.

    Attributes:
      prompt: the question.
      steps: H texts. How they are joined is left to who reads them.
      correct: of each step, k; where the label is a verdict, 1 if it is good.
      count: of each step, n; where the label is a verdict, 1. It is 0 if there is no
        label, and `correct` too.
      first: the first step whose label counts. Those before it are in another row as
        well, of a response that starts with the same steps.
      prompt_correct: k of the bare prompt.
      prompt_count: n of the bare prompt; 0 if nothing is known of it.
      finished: whether the response ends after the last step.
      outcome: whether its final answer is right; None if that is not known.
      line: of the file that it is from, counted from 1.
    """

    prompt: str
    steps: tuple[str, ...]
    correct: tuple[int, ...]
    count: tuple[int, ...]
    first: int = 0
    prompt_correct: int = 0
    prompt_count: int = 0
    finished: bool = True
    outcome: bool | None = None
    line: int = 0


def write(folder: Path, rows: Iterable[LabelledText]) -> None:
    """Writes the rows, one at a time; `write_about` then completes the folder."""
    artifacts.write_jsonl(folder / _ROWS, (vars(row) for row in rows))


def write_about(folder: Path, about: dict[str, Any]) -> None:
    """Writes what the labels are: a JSON object with `meaning`, and for messages
    `format`, and `outcome_field` of that format or None."""
    artifacts.write_json(folder / ABOUT, about)


def read_about(folder: Path) -> dict[str, Any]:
    """What `write_about` wrote, with `meaning` as a `Meaning`.

    Raises:
      UserError: the folder is not one of `pav import`.
    """
    if not (folder / ABOUT).exists() or not (folder / _ROWS).exists():
        raise UserError(
            f"{folder} is not a folder that pav import wrote: it has no {_ROWS} and"
            f" {ABOUT}"
        )
    about = artifacts.read_json(folder / ABOUT)
    try:
        return about | {"meaning": Meaning(about["meaning"])}
    except (KeyError, TypeError, ValueError):
        known = ", ".join(meaning.value for meaning in Meaning)
        raise UserError(
            f"{folder / ABOUT} does not say what the labels mean; its field 'meaning'"
            f" is one of {known}"
        ) from None


def read(folder: Path) -> Iterator[LabelledText]:
    """The rows that `write` wrote, one at a time.

    Raises:
      UserError: a line is damaged.
    """
    path = folder / _ROWS
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line)
                for name in ("steps", "correct", "count"):
                    record[name] = tuple(record[name])
                yield LabelledText(**record)
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(
                    f"line {number} of {path} is damaged ({error}); import again"
                ) from error
