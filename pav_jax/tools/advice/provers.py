"""Which prover the labels prefer: Theorem 3.1's terms of each that they can tell.

Alignment, a mean over the steps that π takes, is told by one response to a problem.
Distinguishability is a variance over the steps from one state: that of π itself is the
mean of `(A^π)^2`, as `A^π` has mean zero in every state; of another prover it takes two
responses that share a state. With one, it is between two bounds over the same steps:

    (E A^μ A^π)^2 / E (A^π)^2  <=  E_s Var_{a~π}[A^μ]  <=  E (A^μ)^2

The first is Cauchy and Schwarz', the second lacks the mean of A^μ in a state. Every
step weighs alike, so that states do as π visits them: were long responses weighed down,
`A^π` would have no mean of zero.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.core.progress_bar import progress_bar
from pav_jax.core.types import StepLabels
from pav_jax.prover import aligned_progress, prover_terms
from pav_jax.tools.advice.estimates import (
    Estimate,
    difference_of_all,
    divide,
    mean_of,
    ratio_of,
)
from pav_jax.tools.advice.labelled import KS, Labelled, bok, fewest
from pav_jax.tools.advice.sparsity import OverSteps, per_step, squares

Sums = Mapping[int, tuple[float, ...]]  # by the number of a problem


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A prover and its terms.

    Attributes:
      name: "π", "Bo4", or that of another policy.
      distinguishability: `E_s Var_{a~π}[A^μ]`, at the states that two responses share;
        of π, if none do, over every step. None if the labels only bound it.
      alignment: `E_s E_{a~π}[A^μ A^π]`, over every step.
      total: both terms of each problem, by its number, at the states that two responses
        share.
      aligned: of what `alignment` is a mean.
      squared: `(A^μ)^2` likewise; empty with fewer than 2K continuations.
      at_least: of distinguishability, over every step; None if the labels give none.
      at_most: likewise.
    """

    name: str
    distinguishability: Estimate | None
    alignment: Estimate
    total: Mapping[int, float]
    aligned: OverSteps = dataclasses.field(default_factory=dict)
    squared: OverSteps = dataclasses.field(default_factory=dict)
    at_least: Estimate | None = None
    at_most: Estimate | None = None


@dataclasses.dataclass(frozen=True)
class Preference:
    """The candidate of greatest alignment, or of greatest sum.

    Attributes:
      best: its name.
      second: the candidate that is least clearly behind it.
      margin: by how much, over the problems that both have.
    """

    best: str
    second: str
    margin: Estimate


def candidates(labelled: Labelled) -> list[Candidate]:
    """The provers whose alignment these labels can tell: BoK of π with K + 1
    continuations and more, and the other policies; π first, if it is one."""
    found = [
        _candidate(labelled, bok(k), labelled.labels, k)
        for k in KS
        if k < labelled.n_mc
    ]
    found += [
        _candidate(labelled, name, theirs, 1)
        for name, theirs in labelled.others.items()
        if any(x is not None for x in theirs)
    ]
    own = next((c.squared for c in found if c.name == bok(1)), {})
    return [_bounded(candidate, own) for candidate in found]


def _candidate(
    labelled: Labelled, name: str, theirs: Sequence[StepLabels | None], k: int
) -> Candidate:
    """All but the bounds."""
    is_own = theirs is labelled.labels
    has_squares = fewest([x for x in theirs if x is not None]) >= 2 * k
    aligned, apart, total = {}, {}, {}
    groups = [
        [i for i in places if theirs[i] is not None] for places in labelled.by_problem()
    ]
    for places in progress_bar(
        iterable=[places for places in groups if places],
        desc=name,
        unit="problem",
        leave=False,
        delay=5,
    ):
        own, prover = ([some[i] for i in places] for some in (labelled.labels, theirs))
        problem = labelled.responses[places[0]].problem
        steps = [
            aligned_progress(x, k=k, prover_labels=None if is_own else y)
            for x, y in zip(own, prover, strict=True)
        ]
        aligned[problem] = float(sum(map(np.sum, steps))), sum(map(len, steps))
        if has_squares and len(places) > 1:
            responses = [labelled.responses[i] for i in places]
            terms = prover_terms(responses, own, k=k, prover_labels=prover)
            apart[problem] = terms.distinguishability
            total[problem] = terms.distinguishability + terms.alignment
    squared = squares(labelled, theirs, k) if has_squares else {}
    known = None
    if apart:
        known = mean_of(np.array(list(apart.values())))
    elif is_own and k == 1:
        known = per_step(squared)
    return Candidate(name, known, per_step(aligned), total, aligned, squared)


def _bounded(candidate: Candidate, own: OverSteps) -> Candidate:
    """The same with the bounds of its distinguishability."""
    at_least = at_most = None
    if both := _rows(candidate.aligned, own):
        at_least = ratio_of(np.array(both), lambda t: _least(t[:2], t[2:]))
    if candidate.squared:
        at_most = per_step(candidate.squared)
    return dataclasses.replace(candidate, at_least=at_least, at_most=at_most)


def _rows(*columns: Sums) -> list[list[float]]:
    """Of each problem that all columns have, what they have of it."""
    both = [p for p in columns[0] if all(p in column for column in columns)]
    return [[x for column in columns for x in column[p]] for p in both]


def _least(aligned: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Cauchy and Schwarz' bound, 0 without alignment.

    Args:
      aligned: the sum of `A^μ A^π` and of how many steps, `[2, ...]`.
      own: likewise of `(A^π)^2`.
    """
    mean, square = aligned[0] / aligned[1], own[0] / own[1]
    return np.where((mean <= 0) | (square <= 0), 0.0, divide(mean**2, square))


def by_alignment(found: Sequence[Candidate]) -> Preference | None:
    """Which candidate is aligned best; None if there is no choice."""
    return _preference({c.name: c.aligned for c in found})


def preference(found: Sequence[Candidate]) -> Preference | None:
    """Which candidate the sum of the terms prefers; None if there is no choice, or no
    two responses share a state."""
    return _preference({c.name: {p: (x, 1) for p, x in c.total.items()} for c in found})


def _preference(sums: Mapping[str, Sums]) -> Preference | None:
    """The candidate of the greatest mean, of sums and of how many numbers.

    That the best was picked by these same numbers needs no correction as long as it is
    held against the closest of all others (Gutmann and Maymin, 1987).
    """
    known = {name: found for name, found in sums.items() if found}
    if len(known) < 2:
        return None
    best = max(known, key=lambda name: per_step(known[name]).value)
    margins = []
    for other in known:
        rows = np.array(_rows(known[best], known[other]))
        if other != best and len(rows):
            gap = difference_of_all(rows[:, :2], rows[:, 2:])
            margins.append(Preference(best, other, gap))
    return _closest(margins)


def _closest(margins: Sequence[Preference]) -> Preference | None:
    """The margin that is least clear; first one with too few problems in common, which
    leaves the choice open."""
    return min(
        margins,
        key=lambda m: (m.margin.tells, m.margin.interval or (m.margin.value,)),
        default=None,
    )


def by_bounds(found: Sequence[Candidate]) -> Preference | None:
    """Which candidate has the greatest sum wherever it is between its bounds.

    The margin is the least that the sum of the best can be, less the most that the
    other's can: above zero it decides, below it decides nothing.

    Returns:
      None if there is no choice, or π's own distinguishability is not known.
    """
    own = next((c.squared for c in found if c.name == bok(1)), {})
    known = [c for c in found if c.squared and _rows(c.aligned, own)]
    if len(known) < 2:
        return None

    def least(t):
        return t[2] / t[3] + _least(t[2:4], t[:2])

    best = max(known, key=lambda c: least(np.sum(_rows(own, c.aligned), axis=0)))
    margins = []
    for other in known:
        rows = _rows(own, best.aligned, other.aligned, other.squared)
        if other is not best and rows:
            gap = ratio_of(
                np.array(rows), lambda t: least(t) - t[4] / t[5] - t[6] / t[7]
            )
            margins.append(Preference(best.name, other.name, gap))
    return _closest(margins)
