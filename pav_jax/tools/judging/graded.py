"""Graded responses of a file, for best-of-N: what `pav score` wrote, or can score."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.types import Grade, Problem
from pav_jax.tasks import grading
from pav_jax.tools import jsonl
from pav_jax.tools.judging.sources import Judged, score
from pav_jax.tools.score_file import KEY
from pav_jax.tools.scoring import Encoded, Verifier

_SCORED = (
    f"--on=best_of_n expects what pav score wrote (with {KEY}.steps), or with"
    " --verifier what it reads (the texts prompt and response), each line with the"
    " field correct (true or false), or answer (the reference answer, in the notation"
    " of MATH)"
)


def read_responses(
    path: Path, load: Callable[[], Verifier] | None
) -> tuple[list[Judged], str, list[str]]:
    """Responses of a file, graded, with its scores, or with those of the verifier.

    Args:
      path: of lines as `_SCORED` says.
      load: gives the verifier; None without one.

    Returns:
      The responses, the fingerprint of the verifier, and what was left out.

    Raises:
      UserError: a line is bad, or scored by another verifier than the others or the one
        given; or none is scored, and there is no verifier; or it can score none.
    """
    try:
        rows = list(_rows(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if not rows:
        raise UserError(f"{path} holds no response; {_SCORED}")
    scorers = {row[KEY]["verifier"] if KEY in row else None for row in rows}
    if len(scorers) > 1:
        raise UserError(
            f"the lines of {path} are not all scored by one verifier; score them again"
        )
    (scorer,) = scorers
    verifier = load() if load else None
    if scorer is None and verifier is None:
        raise UserError(f"the lines of {path} are not scored; give a --verifier")
    if scorer and verifier and scorer != verifier.fingerprint:
        raise UserError(
            f"{path} is scored by another verifier; leave out --verifier, or score the"
            " responses again"
        )
    correct = _outcomes(rows)
    if scorer is None:
        judged, notes = _score_rows(verifier, rows, correct)
        return judged, verifier.fingerprint, notes
    judged = [
        Judged(Problem(row["prompt"], "").id, *_scores(row[KEY]), correct=is_right)
        for row, is_right in zip(rows, correct, strict=True)
        if "error" not in row[KEY]
    ]
    if not judged:
        raise UserError(
            f"there is no response to judge in {path}: pav score could score none of"
            f" its {counted(len(rows), 'line')}, such as: {rows[0][KEY]['error']}"
        )
    bad = len(rows) - len(judged)
    notes = [f"{counted(bad, 'line')} left out, which pav score could not score"]
    return judged, scorer, notes if bad else []


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file; raises UserError if one is bad."""
    for number, row in enumerate(jsonl.rows(path, _SCORED).values, start=1):
        if jsonl.is_blank(row):
            continue
        try:
            row = jsonl.as_object(row)
            _check(row)
        except ValueError as error:
            raise UserError(f"line {number} of {path}: {error}; {_SCORED}") from error
        yield row


def _check(row: dict[str, Any]) -> None:
    """Raises ValueError if a row is not as `_SCORED` says."""
    try:
        jsonl.text_field(row, "prompt").encode()
    except UnicodeEncodeError:
        raise ValueError("the prompt has half a surrogate pair") from None
    if "correct" not in row:
        jsonl.text_field(row, "answer")
    elif not isinstance(row["correct"], bool):
        raise ValueError(f"correct is {row['correct']!r}; true or false is right")
    if KEY not in row or "correct" not in row:
        jsonl.text_field(row, "response")
    if KEY in row:
        try:
            if not isinstance(row[KEY]["verifier"], str):
                raise TypeError("no fingerprint")
            if "error" not in row[KEY]:
                _scores(row[KEY])
        except (TypeError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"field {KEY!r} is not of pav score") from error


def _scores(added: dict[str, Any]) -> tuple[np.ndarray, float | None]:
    """The values of the steps, and the ORM's score."""
    values = np.array([float(step["q"]) for step in added["steps"]])
    if not len(values) or not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"the values of {KEY}.steps are not all from 0 to 1")
    orm = added["orm"]
    return values, None if orm is None else float(orm)


def _outcomes(rows: Sequence[dict[str, Any]]) -> list[bool]:
    """`correct` of each row; where it is not there, by grading."""
    asked = [row for row in rows if "correct" not in row]
    grades = iter(grading.grade_all([(r["answer"], r["response"]) for r in asked]))
    return [
        row["correct"] if "correct" in row else next(grades) is Grade.CORRECT
        for row in rows
    ]


def _score_rows(
    verifier: Verifier, rows: Sequence[dict[str, Any]], correct: Sequence[bool]
) -> tuple[list[Judged], list[str]]:
    encoded: list[Encoded | None] = []
    errors: list[UserError] = []
    for row in rows:
        try:
            encoded.append(verifier.encode(row["prompt"], row["response"]))
        except UserError as error:
            encoded.append(None)
            errors.append(error)
    scores, notes = score(verifier, encoded)
    judged = [
        Judged.of(row["prompt"], found, correct=is_right)
        for row, found, is_right in zip(rows, scores, correct, strict=True)
        if found is not None
    ]
    if errors:
        notes.append(f"{counted(len(errors), 'line')} left out, such as: {errors[0]}")
    if not judged:
        raise UserError(f"the verifier can score no response: {'; '.join(notes)}")
    return judged, notes
