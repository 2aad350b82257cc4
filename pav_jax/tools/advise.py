"""`pav advise`: from the labels of a run, what to do with this policy.

Reads what stages have written, runs no model, and does not need jax.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.storage import artifacts, buckets
from pav_jax.tools.advice import budget, budget_lines, lines, noise, sparsity
from pav_jax.tools.advice.labelled import Labelled
from pav_jax.tools.advice.line import WIDTH, Line
from pav_jax.tools.advice.verifier import Evaluated

_RESULTS = "report/results.json"
TITLES = {
    "provers": "Which prover: terms of Theorem 3.1 (D is distinguishability)",
    "noise": "Noise of the labels; by n_mc, at equal tokens: reliability, and worth in"
    " these labels",
    "sparsity": "Whether the labels teach",
    "verifier": "Whether the verifier orders steps as near-exact values do, which"
    " search and RL follow",
    "budget": "Beams less selection among samples (best-of-N, votes), at equal tokens",
}


@dataclasses.dataclass(frozen=True)
class Advice:
    """All that is advised.

    Attributes:
      head: what the labels are.
      sections: the lines of each of `TITLES`.
    """

    head: dict[str, Any]
    sections: dict[str, list[Line]]

    def as_json(self) -> dict[str, Any]:
        """All of it, as values that JSON has."""
        sections = {
            name: [line.as_json() for line in found]
            for name, found in self.sections.items()
        }
        return self.head | sections

    def text(self) -> str:
        """All of it for a screen: a line each, but for long reasons."""
        head = self.head
        place, note = head["labels"], " (95% intervals over problems)"
        if (excess := len(place) + len(note) - WIDTH) > 0:
            place = f"...{place[excess + 3 :]}"
        rows = [
            place + note,
            f"{counted(head['problems'], 'problem')},"
            f" {counted(head['n_cov'], 'labelled response')} each,"
            f" {counted(head['n_mc'], 'continuation')} of a step prefix",
        ]
        for name, found in self.sections.items():
            rows += [TITLES[name], *(line.text() for line in found if line.screen)]
        return "\n".join(rows)


def advise(
    labels: str, verifier: str | None = None, tokens: float | None = None
) -> Advice:
    """What the labels of a run advise, and its verifier and searches if there are.

    Args:
      labels: the workdir of a run, or its folder `labels`; may be in a bucket.
      verifier: the workdir of a run, or its folder `prm`, likewise; its stage
        `evaluation` is read.
      tokens: the budget of a problem at test time.

    Raises:
      UserError: they are no such folders, or what is in them is damaged.
    """
    place = _root(labels, "labels", beside="rollouts")
    with _fetched(place) as workdir:
        with artifacts.as_written(place, "pav run --until=labels"):
            labelled = Labelled.read(workdir, place)
        measured = _results(workdir)
    sections = {
        "provers": lines.prover_lines(labelled),
        "noise": lines.noise_lines(labelled, noise.noise(labelled)),
        "sparsity": lines.sparsity_lines(labelled, sparsity.sparsity(labelled)),
    }
    if verifier is not None:
        sections["verifier"] = _verifier(_root(verifier, "prm", beside="evaluation"))
    sections["budget"] = _budget(place, labelled, measured, tokens)
    head = {
        "labels": place,
        "problems": len(labelled.by_problem()),
        "n_cov": labelled.n_cov,
        "n_mc": labelled.n_mc,
    }
    return Advice(head, {name: list(found) for name, found in sections.items()})


def _root(path: str, stage: str, *, beside: str) -> str:
    """The workdir, of itself or of the folder of a stage in it."""
    parent, _, name = path.rstrip("/").rpartition("/")
    if name == stage and not buckets.exists(f"{path}/{beside}"):
        return parent or "."
    return path.rstrip("/") or "/"


@contextlib.contextmanager
def _fetched(place: str) -> Iterator[Path]:
    """The workdir; if it is in a bucket, a copy of what is read of it."""
    parts = {"rollouts", "labels", _RESULTS}
    if buckets.is_remote(place):
        with buckets.explained(place):
            tops = {name.partition("/")[0] for name in buckets.files(place)}
        parts |= {name for name in tops if name.startswith("labels-")}
    with buckets.to_read(place, parts=sorted(parts)) as workdir:
        yield workdir


def _verifier(place: str) -> list[Line]:
    """What a run found of its verifier, and what its samples say of it."""
    with buckets.to_read(place, parts=("evaluation", "samples")) as workdir:
        folder = workdir / "evaluation"
        if not folder.is_dir():
            raise UserError(
                f"{place} has no finished stage evaluation; give --verifier=DIR the"
                " workdir of a run that has, or its folder prm; pav run"
                " --until=evaluation makes both"
            )
        with artifacts.as_written(f"{place}/evaluation", "pav run --until=evaluation"):
            return list(lines.verifier_lines(Evaluated.read(workdir)))


def _results(workdir: Path) -> dict[str, Any] | None:
    """results.json of stage `report`; None if the run has none."""
    path = workdir / _RESULTS
    return artifacts.read_json(path) if path.exists() else None


def _budget(
    place: str,
    labelled: Labelled,
    results: dict[str, Any] | None,
    tokens: float | None,
) -> list[Line]:
    """Beams against selection as measured; else a bound from the labels."""
    why = "the run has no report yet"
    if results is not None:
        why = "the run has no beams"
        with artifacts.as_written(f"{place}/{_RESULTS}", "pav run"):
            if found := budget.versus(results, tokens):
                return list(budget_lines.versus_lines(found))
            if found := budget.apart(results):
                return list(budget_lines.apart_lines(found))
    return list(budget_lines.bound_lines(budget.pass_bound(labelled, tokens), why))
