"""Which prover to take: Theorem 3.1's terms of each that the labels can tell."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.core.progress_bar import progress_bar
from pav_jax.core.types import StepLabels
from pav_jax.prover import Terms, prover_terms
from pav_jax.tools.advice.estimates import Estimate, mean_of
from pav_jax.tools.advice.labelled import KS, Labelled, bok, fewest


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A prover and its terms.

    Attributes:
      name: "π", "Bo4", or that of another policy.
      distinguishability: `E_s Var_{a~π}[A^μ]`.
      alignment: `E_s E_{a~π}[A^μ A^π]`.
      total: both terms of each problem, by its number.
    """

    name: str
    distinguishability: Estimate
    alignment: Estimate
    total: Mapping[int, float]


@dataclasses.dataclass(frozen=True)
class Preference:
    """The candidate of greatest sum.

    Attributes:
      best: its name.
      second: the candidate that is least clearly behind it.
      margin: by how much, over the problems that both have.
    """

    best: str
    second: str
    margin: Estimate


def candidates(labelled: Labelled) -> list[Candidate]:
    """The provers whose terms these labels can tell; none with `n_cov` = 1."""
    found = [
        _candidate(labelled, bok(k), labelled.labels, k)
        for k in KS
        if 2 * k <= labelled.n_mc
    ]
    for name, theirs in labelled.others.items():
        there = [x for x in theirs if x is not None]
        if there and fewest(there) >= 2:
            found.append(_candidate(labelled, name, theirs, 1))
    return [candidate for candidate in found if candidate is not None]


def _candidate(
    labelled: Labelled, name: str, theirs: Sequence[StepLabels | None], k: int
) -> Candidate | None:
    terms: dict[int, Terms] = {}
    groups = [
        [i for i in places if theirs[i] is not None] for places in labelled.by_problem()
    ]
    groups = [places for places in groups if len(places) > 1]
    for places in progress_bar(
        iterable=groups, desc=name, unit="problem", leave=False, delay=5
    ):
        terms[labelled.responses[places[0]].problem] = prover_terms(
            [labelled.responses[i] for i in places],
            [labelled.labels[i] for i in places],
            k=k,
            prover_labels=[theirs[i] for i in places],
        )
    if not terms:
        return None
    apart = np.array([t.distinguishability for t in terms.values()])
    aligned = np.array([t.alignment for t in terms.values()])
    total = dict(zip(terms, (apart + aligned).tolist(), strict=True))
    return Candidate(name, mean_of(apart), mean_of(aligned), total)


def preference(found: Sequence[Candidate]) -> Preference | None:
    """Which candidate the sum of the terms prefers; None if there is no choice.

    That the best was picked by these same numbers needs no correction as long as it is
    held against the closest of all others (Gutmann and Maymin, 1987).
    """
    if len(found) < 2:
        return None
    best = max(found, key=lambda c: np.mean(list(c.total.values())))
    margins = []
    for other in found:
        both = [p for p in best.total if p in other.total]
        if other is not best and both:
            gap = mean_of(np.array([best.total[p] - other.total[p] for p in both]))
            margins.append(Preference(best.name, other.name, gap))
    if not margins:
        return None
    # First one with too few problems in common, which leaves the choice open.
    return min(
        margins,
        key=lambda m: (m.margin.tells, m.margin.interval or (m.margin.value,)),
    )
