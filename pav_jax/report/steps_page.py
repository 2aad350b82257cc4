"""The page of a file that `pav score` wrote: every step by its value and progress."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pav_jax.core.errors import UserError
from pav_jax.report import parts, text
from pav_jax.report.page import document
from pav_jax.report.viewer import viewer
from pav_jax.storage import artifacts

_LEAD = (
    "Each step of a response, coloured by what the verifier says: its value Q, or the "
    "progress A<sup>μ</sup> it makes. The bar is Q."
)
_BAD = 50  # bad lines that are listed


def write(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, count: int
) -> Path:
    """Writes the page; returns its path.

    Args:
      source: written by `pav score`. `correct` (true or false) and `answer` (text) of
        a line are shown where they are there.
      target: the page, one file of HTML.
      count: responses to show, from the first.

    Raises:
      UserError: the input was not written by `pav score`, or nothing in it is scored.
    """
    source, target = Path(source), Path(target)
    if count < 1:
        raise UserError(f"--count={count} must be at least 1")
    if target.exists() and target.samefile(source):
        raise UserError(f"{target} is the input; give another --output")
    shown, bad, scored, unread = [], [], 0, 0
    for number, (row, said) in enumerate(_read(source), start=1):
        if "error" in said:
            unread += 1
            if len(bad) < _BAD:
                bad.append([str(number), text.escape(said["error"])])
            continue
        scored += 1
        if len(shown) < count:
            try:
                shown.append(_response(row, said))
            except (AttributeError, KeyError, TypeError, ValueError):
                raise _foreign(source, number) from None
    if not shown:
        raise UserError(f"{source} has no scored responses to show")
    what = f"{scored:,} responses"
    if scored > len(shown):
        what = f"The first {len(shown):,} of {what}"
    note = f"{unread:,} lines could not be scored"
    if unread > len(bad):
        note += f", of which these are the first {len(bad)}"
    table = parts.table(["Line", "Why"], bad, note) if bad else ""
    title = text.escape(source.name)
    body = (
        '<header><p class="kicker">Process advantage verifiers · '
        '<a href="https://arxiv.org/abs/2410.08146">arXiv 2410.08146</a></p>'
        f'<h1>{title}</h1><p class="description">{what}</p></header>'
        + parts.section("steps", "Responses, step by step", _LEAD, viewer(shown))
        + parts.section("bad", "Lines left out", "", table)
    )
    html = document(title, body)
    artifacts.write_atomically(target, lambda file: file.write(html.encode()))
    return target


def _read(source: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The lines, and what `pav score` added to each."""
    try:
        with source.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                said = row.pop("pav", None) if isinstance(row, dict) else None
                if not isinstance(said, dict):
                    raise _foreign(source, number)
                yield row, said
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}") from error


def _foreign(source: Path, number: int) -> UserError:
    return UserError(
        f"line {number} of {source} was not written by pav score; give its --output"
    )


def _response(row: dict[str, Any], said: dict[str, Any]) -> dict[str, Any]:
    """A response as the viewer takes it; the fields of `row` are anything at all."""
    correct, answer, orm = row.get("correct"), row.get("answer"), said["orm"]
    return {
        "prompt": str(row["prompt"]),
        "correct": correct if isinstance(correct, bool) else None,
        "answer": answer if isinstance(answer, str) else None,
        "orm": None if orm is None else float(orm),
        "steps": [
            {
                "text": str(step["text"]),
                "q": float(step["q"]),
                "advantage": float(step["advantage"]),
            }
            for step in said["steps"]
        ],
    }
