"""Whether success is so rare that the labels teach nothing about steps."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.core.types import StepLabels
from pav_jax.prover import squared_progress
from pav_jax.tools.advice.estimates import Estimate, mean_of_all, share_of
from pav_jax.tools.advice.labelled import KS, Labelled, bok, fewest

# Of each problem, by its number: a sum over steps of π, and how many steps.
OverSteps = Mapping[int, tuple[float, int]]


@dataclasses.dataclass(frozen=True)
class Sparsity:
    """How rare success is, and what steps do to its chance.

    Attributes:
      base: the share of π's responses that are correct.
      problems: the share of problems none of whose continuations is correct.
      problems_by_chance: what that would be if every prefix had the value `base`.
      prefixes: the share of step prefixes without a correct continuation.
      prefixes_by_chance: likewise.
      progress: for each prover that the labels can tell, the mean square of its
        progress, `E (A^μ)^2` over steps of π. A verifier has nothing to learn where it
        is zero.
    """

    base: Estimate
    problems: Estimate
    problems_by_chance: Estimate
    prefixes: Estimate
    prefixes_by_chance: Estimate
    progress: Mapping[str, Estimate]


def sparsity(labelled: Labelled) -> Sparsity:
    """How rare success is; `progress` is empty with one continuation a prefix."""
    groups = labelled.by_problem()
    counts = [_distinct(labelled, places) for places in groups]
    base = share_of(_base_rates(labelled))
    prefixes = [[k == 0 for k, _ in found] for found in counts]
    all_counts = np.array([n for found in counts for _, n in found])
    totals = np.array([sum(n for _, n in found) for found in counts])
    weight = np.array([1 / len(found) for found in counts for _ in found]) / len(counts)
    progress = {
        bok(k): per_step(squares(labelled, labelled.labels, k))
        for k in KS
        if 2 * k <= labelled.n_mc
    }
    for name, theirs in labelled.others.items():
        there = [x for x in theirs if x is not None]
        if there and fewest(there) >= 2:
            progress[name] = per_step(squares(labelled, theirs, 1))
    return Sparsity(
        base,
        share_of(np.array([all(zero) for zero in prefixes], float)),
        base.through(lambda p: np.mean((1 - p) ** totals)),
        share_of(np.array([np.mean(zero) for zero in prefixes])),
        base.through(lambda p: np.sum(weight * (1 - p) ** all_counts)),
        progress,
    )


def _base_rates(labelled: Labelled) -> np.ndarray:
    """The share of correct responses of each problem, `[P]`."""
    outcomes: dict[int, list[bool]] = {}
    for response in labelled.rollouts:
        outcomes.setdefault(response.problem, []).append(response.correct)
    return np.array([np.mean(found) for found in outcomes.values()])


def _distinct(labelled: Labelled, places: Sequence[int]) -> list[tuple[int, int]]:
    """Correct and all continuations of the distinct prefixes of one problem.

    Responses that begin alike have the continuations of those prefixes in common.
    """
    found = {}
    for i in places:
        response, labels = labelled.responses[i], labelled.labels[i]
        for place, end in enumerate(labels.ends[:-1].tolist()):
            key = response.tokens[:end]
            found[key] = int(labels.correct[place]), int(labels.count[place])
    return list(found.values())


def squares(
    labelled: Labelled, labels: Sequence[StepLabels | None], k: int
) -> OverSteps:
    """`(A^μ)^2` over steps of π, for `μ = BoK` of those whose labels they are."""
    found = {}
    for places in labelled.by_problem():
        steps = [
            squared_progress(labels[i], k=k) for i in places if labels[i] is not None
        ]
        if steps:
            problem = labelled.responses[places[0]].problem
            found[problem] = float(sum(map(np.sum, steps))), sum(map(len, steps))
    return found


def per_step(found: OverSteps) -> Estimate:
    """The mean over steps, each of which weighs alike."""
    return mean_of_all(np.array(list(found.values())))
