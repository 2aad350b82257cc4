"""How well a verifier tells responses and steps apart, with intervals over problems.

Measures of stage `evaluation` are sums over problems, which it keeps in
`by_problem.json`. Of a run that did not, the samples of test problems and the steps of
`viewer.json` give an interval where they can.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.metrics import within_problem_auc
from pav_jax.pipeline.manifest import MANIFEST, read_manifest
from pav_jax.storage import artifacts, records
from pav_jax.tools.advice.estimates import Estimate, divide, ratio_of
from pav_jax.tools.advice.siblings import share_of_pairs

# Of an AUC: which array of stage `samples` has its scores.
_SCORES = {"last": "prm", "orm_last": "orm"}


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What a run keeps of its verifiers.

    Attributes:
      measures: evaluation.json.
      viewer: viewer.json, responses with the steps that have near-exact values.
      by_problem: by_problem.json; empty if the run has none.
      samples: `correct`, `prm` and `orm`, `[P, M]`, of test problems; None if the run
        has not come to them.
      n_mc: continuations that near-exact values are means of; None if not known.
    """

    measures: Mapping[str, Any]
    viewer: Sequence[Mapping]
    by_problem: Mapping[str, list]
    samples: Mapping[str, np.ndarray] | None
    n_mc: int | None

    @classmethod
    def read(cls, workdir: Path) -> "Evaluated":
        """The stages `evaluation` and, if it is there, `samples`."""
        folder, samples = workdir / "evaluation", None
        by_problem, n_mc = {}, None
        if (folder / "by_problem.json").exists():
            by_problem = artifacts.read_json(folder / "by_problem.json")
        if (folder / MANIFEST).exists():
            n_mc = read_manifest(folder)["fields"].get("evaluation.oracle_n_mc")
        if (workdir / "samples" / MANIFEST).exists():
            parts = [
                artifacts.read_arrays(path)
                for path in records.shards(workdir / "samples")
            ]
            samples = {
                name: np.concatenate([part[name] for part in parts])
                for name in ("correct", *_SCORES.values())
            }
        return cls(
            artifacts.read_json(folder / "evaluation.json"),
            artifacts.read_json(folder / "viewer.json"),
            by_problem,
            samples,
            n_mc,
        )

    def auc(self, name: str) -> tuple[Estimate | None, str]:
        """An AUC within problems, and where it is from.

        Args:
          name: "last" or "orm_last", of whole responses by the verifier of steps or the
            outcome verifier, or "error_so_far_same_step".

        Returns:
          None if there is none. The source is "" with an interval of stage
          `evaluation`, "samples", or "no sums" if no interval can be given.
        """
        if name in self.by_problem:
            return share_of_pairs(np.array(self.by_problem[name], float)), ""
        if self.samples is not None and name in _SCORES:
            correct, scores = self.samples["correct"], self.samples[_SCORES[name]]
            sums = []
            for score, is_right in zip(scores, correct, strict=True):
                auc, pairs = within_problem_auc([score], [is_right])
                sums.append([(auc or 0.0) * pairs, pairs])
            return share_of_pairs(np.array(sums)), "samples"
        if name == "orm_last":
            value = self.measures.get("orm", {}).get("auc_last")
        else:
            value = self.measures["auc_within_problem"].get(name)
        return None if value is None else Estimate(value, None), "no sums"

    def q_error(self) -> tuple[Estimate, str]:
        """Root mean square error of Q against near-exact values, their noise taken out;
        and where it is from: "", "viewer" or "no sums" as for `auc`."""
        sums, source = self.by_problem.get("squared_errors"), ""
        if sums is None and self.n_mc is not None and self.n_mc > 1:
            sums, source = _viewed_errors(self.viewer, self.n_mc), "viewer"
        found = None
        if sums:
            found = ratio_of(
                np.array(sums, float),
                lambda t: np.sqrt(np.maximum(divide(t[0], t[1]), 0.0)),
            )
        if found is None:
            return Estimate(self.measures["q_rmse"], None), "no sums"
        return found, source


def _viewed_errors(viewer: Sequence[Mapping], n_mc: int) -> list[list[float]]:
    """Of each problem the sum of squared errors after its inner steps, without the
    noise of near-exact values, and how many."""
    found: dict[str, list[float]] = {}
    for response in viewer:
        sums = found.setdefault(response["prompt"], [0.0, 0.0])
        for step in response["steps"][:-1]:  # the last value is an outcome
            q, exact = step["q"], step["q_mc"]
            sums[0] += (q - exact) ** 2 - exact * (1 - exact) / (n_mc - 1)
            sums[1] += 1
    return list(found.values())
