"""`pav judge`: how well a verifier finds first errors, and picks the best of N."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.metrics import aggregate
from pav_jax.tools.judging import graded, sources
from pav_jax.tools.judging.measures import (
    MEASURES,
    Examples,
    best_of_each_n,
    choose_threshold,
    estimates,
)
from pav_jax.tools.judging.sources import Judged
from pav_jax.tools.scoring import Verifier

_THRESHOLD_ON = "gsm8k"  # as in ProcessBench's paper
_HEADS = ("first error found", "nothing flagged in correct", "F1")  # of MEASURES


def judge(
    on: str,
    source: Path,
    load: Callable[[], Verifier] | None,
    threshold_on: str | None = None,
) -> dict[str, Any]:
    """Judges a verifier.

    Args:
      on: "processbench", "relations" or "best_of_n".
      source: a file, a folder of files, or the workdir of a run.
      load: gives the verifier, once `source` is known to be right; None without one.
      threshold_on: of several files, the one of which the threshold is chosen.

    Returns:
      What was measured, as JSON has it; `text` shows it.

    Raises:
      UserError: `source` is not what `on` needs, a label is out of range, a subset is
        missing or has no F1, or the verifier cannot read the texts or the tokens.
    """
    if not source.exists():
        raise UserError(f"--input={source} does not exist")
    if on == "best_of_n" and source.is_file():
        return {"on": on, **_picked(*graded.read_responses(source, load))}
    if load is None:
        raise UserError(f"--on={on} of {source} needs a --verifier")
    if on == "processbench":
        found = _processbench(source, load, threshold_on)
    elif on == "relations":
        run = sources.Run.open(source, "validation")
        verifier = load()
        judged, notes = sources.with_verdicts(run, verifier)
        found = _detected({on: judged}, None, verifier.fingerprint, notes)
    else:
        run = sources.Run.open(source, "test")
        verifier = load()
        judged, notes = sources.with_outcomes(run, verifier)
        found = _picked(judged, verifier.fingerprint, notes)
    return {"on": on, **found}


# The first error.


def _processbench(
    source: Path, load: Callable[[], Verifier], threshold_on: str | None
) -> dict[str, Any]:
    subsets = sources.read_subsets(source)
    chosen_on = _threshold_subset(source, list(subsets), threshold_on)
    verifier, judged, notes = load(), {}, []
    for name, rows in subsets.items():
        judged[name], of_subset = sources.score_texts(verifier, name, rows)
        notes += of_subset
    return _detected(judged, chosen_on, verifier.fingerprint, notes)


def _threshold_subset(
    source: Path, names: Sequence[str], asked: str | None
) -> str | None:
    """The subset that the threshold is chosen on; None if the only one is halved."""
    if len(names) == 1:
        if asked:
            raise UserError(
                f"{source} has one subset, {names[0]}, half of whose problems the"
                f" threshold is chosen on; leave out --threshold_on={asked}"
            )
        return None
    name = asked or _THRESHOLD_ON
    if name not in names:
        raise UserError(
            f"there is no subset {name} in {source}, which has {', '.join(names)}; give"
            " the one to choose the threshold on as --threshold_on"
        )
    return name


def _detected(
    judged: dict[str, list[Judged]],
    chosen_on: str | None,
    fingerprint: str,
    notes: Sequence[str],
) -> dict[str, Any]:
    """The measures of all subsets, at a threshold that is chosen on one of them."""
    if chosen_on is None:
        ((name, only),) = judged.items()
        chosen_on = f"{name}, half of the problems"
        judged = {
            chosen_on: [row for row in only if _is_first_half(row.problem)],
            f"{name}, the other half": [
                row for row in only if not _is_first_half(row.problem)
            ],
        }
    sizes, examples = {}, {}
    for name, rows in judged.items():
        errors = np.array([row.error for row in rows], int)
        sizes[name] = {
            "erroneous": int(np.sum(errors >= 0)),
            "correct": int(np.sum(errors < 0)),
        }
        for kind, size in sizes[name].items():
            if not size:
                raise UserError(
                    f"of {counted(len(rows), 'response')} of {name} none is {kind}, and"
                    " F1 needs both kinds"
                )
        problems = np.array([row.problem for row in rows])
        examples[name] = Examples([row.values for row in rows], errors, problems)
    chosen = examples.pop(chosen_on)
    threshold = choose_threshold(chosen)
    found = estimates(examples, threshold)
    return {
        "verifier": fingerprint,
        "threshold": threshold,
        "chosen_on": {
            "subset": chosen_on,
            **sizes[chosen_on],
            **estimates({chosen_on: chosen}, threshold)[chosen_on],
        },
        "subsets": {name: sizes[name] | found[name] for name in examples},
        "average": found.get("average"),
        "notes": list(notes),
    }


def _is_first_half(problem: int) -> bool:
    # By a high bit: the low ones are in what the task relations makes its splits by.
    return (problem >> 20) % 2 == 0


# The best of N.


def _picked(
    judged: Sequence[Judged], fingerprint: str, notes: Sequence[str]
) -> dict[str, Any]:
    """Accuracy of the best of N by each rule, and by the ORM if all have its score."""
    if not judged:
        raise UserError(f"there is no response to judge: {'; '.join(notes)}")
    groups: dict[int, list[Judged]] = {}
    for row in judged:
        groups.setdefault(row.problem, []).append(row)
    correct = [np.array([row.correct for row in group]) for group in groups.values()]
    by_problem = [aggregate([row.values for row in g]) for g in groups.values()]
    scores = {rule: [found[rule] for found in by_problem] for rule in by_problem[0]}
    if all(row.orm is not None for row in judged):
        scores["orm"] = [np.array([r.orm for r in group]) for group in groups.values()]
    return {
        "verifier": fingerprint,
        "problems": len(groups),
        "responses": {
            "fewest": min(map(len, correct)),
            "most": max(map(len, correct)),
        },
        "best_of_n": best_of_each_n(scores, correct),
        "notes": list(notes),
    }


# What is printed.


def text(found: dict[str, Any]) -> str:
    """What `judge` returned, as tables; intervals are of 95%."""
    lines = _best_of_n_lines(found) if "best_of_n" in found else _error_lines(found)
    return "\n".join([*lines, *(f"({note})" for note in found["notes"])])


def _error_lines(found: dict[str, Any]) -> list[str]:
    chosen, average = found["chosen_on"], found["average"]
    rows = [("", *_HEADS, "erroneous", "correct")]

    def add(name: str, row: dict[str, Any]) -> None:
        sizes = (f"{row[kind]:,}" if kind in row else "" for kind in rows[0][-2:])
        rows.append((name, *(_percent(row[key]) for key in MEASURES), *sizes))

    add(f"{chosen['subset']} (threshold)", chosen)
    for name, row in found["subsets"].items():
        add(name, row)
    if average:
        add(f"average of {len(found['subsets'])}", average)
    return [
        f"A step is flagged where the value after it is below {found['threshold']:.4f},"
        f" chosen by F1 on {chosen['subset']}"
        f"{', which is not in the average' if average else ''}.",
        *_table(rows),
    ]


def _best_of_n_lines(found: dict[str, Any]) -> list[str]:
    rules = [key for key in found["best_of_n"][0] if key != "n"]
    rows = [("N", *rules)]
    for row in found["best_of_n"]:
        rows.append((str(row["n"]), *(_percent(row[rule]) for rule in rules)))
    fewest, most = found["responses"].values()
    each = counted(most, "response") if fewest == most else f"{fewest} to {most}"
    return [
        f"Accuracy of the best of N by the values of its steps, on"
        f" {counted(found['problems'], 'problem')} with {each} each; any is Pass@N.",
        *_table(rows),
    ]


def _percent(estimate: Sequence[float]) -> str:
    value, low, high = (100 * number for number in estimate)
    return f"{value:.1f} [{low:.1f}, {high:.1f}]"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
