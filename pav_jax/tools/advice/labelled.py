"""The labels of a run, as `pav advise` reads them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from pav_jax.core.errors import UserError
from pav_jax.core.types import Response, StepLabels
from pav_jax.pipeline.manifest import MANIFEST, read_manifest
from pav_jax.storage import records

KS = (1, 2, 4, 8, 16, 32)  # the provers BoK(π) that are looked at


def bok(k: int) -> str:
    """The name of the prover BoK(π)."""
    return "π" if k == 1 else f"Bo{k}"


@dataclasses.dataclass(frozen=True)
class Labelled:
    """The labels of a run.

    Attributes:
      responses: seed rollouts of π, the step prefixes of which are labelled.
      labels: of each of them, by π's continuations.
      rollouts: all responses of π, the seed rollouts included.
      others: by the name of another prover, its labels of some of the seed rollouts,
        in the place of each; None for the rest.
    """

    responses: Sequence[Response]
    labels: Sequence[StepLabels]
    rollouts: Sequence[Response]
    others: Mapping[str, Sequence[StepLabels | None]]

    @classmethod
    def read(cls, workdir: Path, place: str) -> "Labelled":
        """The stages `rollouts` and `labels` of a run, and every `labels-NAME`.

        Args:
          workdir: of the run, on this machine.
          place: what a user calls it.

        Raises:
          UserError: a stage is missing, unfinished or damaged, they do not belong
            together, or the labels were imported.
        """
        made = workdir / "labels"
        if (made / MANIFEST).exists() and (
            "labels.from" in read_manifest(made)["fields"]
        ):
            raise UserError(
                f"the labels in {place} were imported (config.labels.from), and pav"
                " advise needs labels of the run's own policy; give --labels=DIR the"
                " workdir of a run without config.labels.from"
            )
        for stage in ("rollouts", "labels"):
            if not (workdir / stage / MANIFEST).exists():
                raise UserError(
                    f"{place} has no finished stage {stage}, so it is not the workdir"
                    " of a run with labels; give --labels=DIR such a workdir, or its"
                    " folder labels beside the folder rollouts; pav run"
                    " --until=labels makes both"
                )
        n_cov = read_manifest(workdir / "labels")["fields"]["rollouts.n_cov"]
        rollouts = records.read_all_responses(workdir / "rollouts")
        responses, labels = records.read_labelled_rollouts(
            workdir / "rollouts", workdir / "labels", n_cov
        )
        if not labels:
            raise UserError(f"{place}/labels is empty; label some problems")
        others = {
            folder.name.removeprefix("labels-"): _beside(responses, folder)
            for folder in sorted(workdir.glob("labels-*"))
            if (folder / MANIFEST).exists()
        }
        return cls(responses, labels, rollouts, others)

    def by_problem(self) -> list[list[int]]:
        """The places of the seed rollouts of each problem."""
        groups: dict[int, list[int]] = {}
        for place, response in enumerate(self.responses):
            groups.setdefault(response.problem, []).append(place)
        return list(groups.values())

    @property
    def n_cov(self) -> int:
        """Labelled responses of a problem, the most that any has."""
        return max(map(len, self.by_problem()))

    @property
    def n_mc(self) -> int:
        """Continuations of a step prefix, the fewest that any has."""
        return fewest(self.labels)


def fewest(labels: Sequence[StepLabels]) -> int:
    """Continuations of a step prefix, the fewest that any has."""
    return int(min(found.count[:-1].min() for found in labels))


def _beside(responses: Sequence[Response], folder: Path) -> list[StepLabels | None]:
    """What another prover's stage says of each of some responses."""
    theirs = {
        (response.problem, response.tokens): found
        for response, found in zip(*records.read_labelled(folder), strict=True)
    }
    return [theirs.get((r.problem, r.tokens)) for r in responses]
