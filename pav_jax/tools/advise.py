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
from pav_jax.tools.advice import budget, lines, noise, sparsity
from pav_jax.tools.advice.labelled import Labelled
from pav_jax.tools.advice.lines import Line

_RESULTS = "report/results.json"
TITLES = {
    "provers": "Which prover (Theorem 3.1)",
    "noise": "Noise of the labels",
    "sparsity": "Whether the labels teach",
    "verifier": "Whether the verifier tells steps apart, which search and RL follow",
    "budget": "Beams, or selection among samples: best-of-N and votes",
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
        """All of it for a screen."""
        head = self.head
        rows = [
            f"{head['labels']}: {counted(head['problems'], 'problem')},"
            f" {counted(head['n_cov'], 'labelled response')} each,"
            f" {counted(head['n_mc'], 'continuation')} of a step prefix. Intervals are"
            " 95%, over problems."
        ]
        for name, found in self.sections.items():
            rows += [TITLES[name], *(line.text() for line in found)]
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
    """What a run found of its verifier: evaluation.json and viewer.json."""
    with buckets.to_read(place, parts=("evaluation",)) as workdir:
        folder = workdir / "evaluation"
        if not folder.is_dir():
            raise UserError(
                f"{place} has no finished stage evaluation; give --verifier=DIR the"
                " workdir of a run that has, or its folder prm; pav run"
                " --until=evaluation makes both"
            )
        evaluation = artifacts.read_json(folder / "evaluation.json")
        viewer = artifacts.read_json(folder / "viewer.json")
    with artifacts.as_written(f"{place}/evaluation", "pav run --until=evaluation"):
        return list(lines.verifier_lines(evaluation, viewer))


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
                return list(lines.versus_lines(found))
            if found := budget.apart(results):
                return list(lines.apart_lines(found))
    return list(lines.bound_lines(budget.pass_bound(labelled, tokens), why))
