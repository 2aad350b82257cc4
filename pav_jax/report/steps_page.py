"""The page of a file that `pav score` wrote: Q and progress of every step."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.report import parts, text
from pav_jax.report.page import document
from pav_jax.report.viewer import viewer
from pav_jax.storage import artifacts, buckets

_LEAD = (
    "Each step of a response, coloured by the verifier's predictions: its value Q or "
    "its progress A<sup>μ</sup>. The bar is Q."
)
_LISTED = 50  # lines that could not be scored, at most


def write(
    source: str | os.PathLike[str], target: str | os.PathLike[str], *, count: int
) -> Path:
    """Writes the page; returns its path.

    Args:
      source: written by `pav score`. `correct` (true or false) and `answer` (text) of
        a line are shown if they are there.
      target: the page, one file of HTML.
      count: how many responses to show, from the first.

    Raises:
      UserError: `pav score` did not write the input, or scored nothing in it; or
        `count` is below 1.
    """
    source, target = Path(source), Path(target)
    if count < 1:
        raise UserError(f"--count={count} must be at least 1")
    if buckets.same(str(target), str(source)):
        raise UserError(f"{target} is the input; give another --output")
    shown, bad, scored, failed = [], [], 0, 0
    for number, (row, verdict) in enumerate(_read(source), start=1):
        if "error" in verdict:
            failed += 1
            if len(bad) < _LISTED:
                bad.append([str(number), text.escape(verdict["error"])])
            continue
        scored += 1
        if len(shown) < count:
            try:
                shown.append(_response(row, verdict))
            except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
                raise _foreign(source, number) from None
    if not shown:
        raise UserError(f"{source} has no scored responses to show")
    what = counted(scored, "response")
    if scored > len(shown):
        what = f"The first {len(shown):,} of {what}"
    note = f"{counted(failed, 'line')} could not be scored"
    if failed > len(bad):
        note += f"; these are the first {len(bad)}"
    table = parts.table(["Line", "Reason"], bad, note)
    html = document(text.escape(source.name), _body(source.name, what, shown, table))
    artifacts.write_text(target, html)
    return target


def _body(name: str, what: str, shown: list[dict[str, Any]], table: str) -> str:
    """The page inside its frame; `what` and `table` are HTML."""
    return (
        '<header><p class="kicker">Process advantage verifiers · '
        '<a href="https://arxiv.org/abs/2410.08146">arXiv 2410.08146</a></p>'
        f'<h1>{text.escape(name)}</h1><p class="description">{what}</p></header>'
        + parts.section("steps", "Responses, step by step", _LEAD, viewer(shown))
        + parts.section("bad", "Lines left out", "", table)
    )


def _read(source: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each line as it was given to `pav score`, and what that added to it."""
    try:
        with source.open("rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                verdict = row.pop("pav", None) if isinstance(row, dict) else None
                if not isinstance(verdict, dict):
                    raise _foreign(source, number)
                yield row, verdict
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror}") from error


def _foreign(source: Path, number: int) -> UserError:
    return UserError(
        f"line {number} of {source} was not written by pav score; --input takes a "
        "file that it wrote"
    )


def _response(row: dict[str, Any], verdict: dict[str, Any]) -> dict[str, Any]:
    """A response as the viewer takes it; the fields of `row` can have any type."""
    correct, answer, orm = row.get("correct"), row.get("answer"), verdict["orm"]
    numbers = [step[name] for step in verdict["steps"] for name in ("q", "advantage")]
    if not all(math.isfinite(x) for x in [*numbers, *([] if orm is None else [orm])]):
        raise ValueError("a score is not finite")
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
            for step in verdict["steps"]
        ],
    }
