"""Whether beams or selection is the better buy: as measured, or as labels bound it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.metrics import interpolate_log, pass_at_n
from pav_jax.prover import best_of_k
from pav_jax.report import methods
from pav_jax.tools.advice.estimates import Estimate, share_of
from pav_jax.tools.advice.labelled import Labelled

_PAPERS = "best_of_n_orm"  # the reference where results.json names no other
_ORACLE = "beam_oracle"  # which takes exact values


@dataclasses.dataclass(frozen=True)
class Versus:
    """Beam search against selection among independent samples, at equal tokens.

    Attributes:
      method: the beam search.
      tokens: of a problem.
      measured: the least and the most tokens at which both were measured.
      selection: the strongest one there: best-of-N or votes, by which verifier; two
        where it is another at the next N.
      beam: the accuracy of the beams; None outside of what was measured.
      reference: that of the selection, likewise.
      points: the first less the second, of the same problems, within `measured`.
    """

    method: str
    tokens: float
    measured: tuple[float, float]
    selection: str
    beam: Estimate | None
    reference: Estimate | None
    points: Estimate | None


def versus(results: Mapping[str, Any], tokens: float | None) -> list[Versus]:
    """What a run measured, at a budget or at every width of its beams.

    Between what was measured, accuracies and the widths of intervals are taken to be
    linear in log tokens, as `pipeline/curves.py` does. Intervals of differences are of
    the same problems, paired, and so those that the run reports at its beams.

    Args:
      results: of `report/results.json`.
      tokens: the budget of a problem; None for every width that was measured.

    Returns:
      Of the search by `Q + αA`, or of the first method there is without it; empty if
      no beam was measured at tokens at which selection was.
    """
    by_point = results["compute_efficiency"]["by_point"]
    if not by_point:
        return []
    method, pairs = _of_one_method(by_point)
    beams = [row for row in results["search"] if row["method"] == method]
    reference, chosen = _strongest(results)
    places = sorted(row["tokens"] for row in pairs)
    return [
        Versus(
            method,
            budget,
            (places[0], places[-1]),
            _selection(budget, reference, chosen),
            *_beside(budget, results["problems"], beams, reference, pairs),
        )
        for budget in ([tokens] if tokens else places)
    ]


@dataclasses.dataclass(frozen=True)
class Apart:
    """Beams at whose tokens no selection was measured: there is nothing to compare.

    Attributes:
      method: the beam search.
      measured: the least and the most tokens at which selection was measured.
      beams: the accuracy of each number of beams, by their tokens.
      selections: likewise of the strongest selection at its least or most tokens, those
        that are nearest to a beam's; and its name.
    """

    method: str
    measured: tuple[float, float]
    beams: Mapping[float, Estimate]
    selections: Mapping[float, tuple[str, Estimate]]


def apart(results: Mapping[str, Any]) -> Apart | None:
    """What a run measured where all of its beams are outside of selection's tokens.

    Args:
      results: those for which `versus` has nothing.

    Returns:
      None if the run has no beams.
    """
    rows = [
        row
        for row in results["search"]
        if row["method"].startswith("beam_") and row["method"] != _ORACLE
    ]
    if not rows:
        return None
    method, beams = _of_one_method(rows)
    reference, chosen = _strongest(results)
    ends = reference[0]["tokens"], reference[-1]["tokens"]
    nearest = {ends[0 if row["tokens"] < ends[0] else 1] for row in beams}
    problems = results["problems"]

    def found(row: Mapping) -> Estimate:
        return Estimate(row["accuracy"], tuple(row["ci"]), problems)

    return Apart(
        method,
        ends,
        {row["tokens"]: found(row) for row in beams},
        {
            row["tokens"]: (_label(row["method"]), found(row))
            for row in (reference[0], reference[-1])
            if row["tokens"] in nearest
        },
    )


def _of_one_method(rows: Sequence[Mapping]) -> tuple[str, list[Mapping]]:
    """The search by `Q + αA`, or else the first one, and its rows by their tokens."""
    there = dict.fromkeys(row["method"] for row in rows)
    method = "beam_pav" if "beam_pav" in there else next(iter(there))
    found = [row for row in rows if row["method"] == method]
    return method, sorted(found, key=lambda row: row["tokens"])


def _strongest(results: Mapping[str, Any]) -> tuple[list[Mapping], dict[int, str]]:
    """The strongest selections: their rows by tokens; and the method at each N, also at
    those N that were measured beside beams and have no row."""
    rows = results["search"]
    chosen = results["compute_efficiency"].get("reference_methods")
    chosen = chosen or {row["n"]: _PAPERS for row in rows if row["method"] == _PAPERS}
    by_n = {int(n): method for n, method in chosen.items()}
    found = [row for row in rows if row["method"] == by_n.get(row["n"])]
    return sorted(found, key=lambda row: row["tokens"]), by_n


def _selection(
    tokens: float, reference: Sequence[Mapping], by_n: Mapping[int, str]
) -> str:
    """The strongest selection at the N just below some tokens and just above them."""
    places, ns = zip(*((row["tokens"], row["n"]) for row in reference), strict=True)
    n = np.interp(tokens, places, ns)  # each sample costs the same
    below = max((x for x in by_n if x <= n + 1e-6), default=min(by_n))
    above = min((x for x in by_n if x >= n - 1e-6), default=max(by_n))
    return " or ".join(dict.fromkeys(_label(by_n[x]) for x in (below, above)))


def _label(method: str) -> str:
    """As on the page: "best-of-N by ORM", "vote by PAV"."""
    label = methods.ordered([method])[0].label
    return label[0].lower() + label[1:]


def _beside(
    tokens: float,
    problems: int,
    beams: Sequence[Mapping],
    reference: Sequence[Mapping],
    pairs: Sequence[Mapping],
) -> tuple[Estimate | None, Estimate | None, Estimate | None]:
    """The beam, the reference, and their difference, which the run knows best."""
    beam, other = (
        _at(tokens, problems, rows, "accuracy") for rows in (beams, reference)
    )
    points = _at(tokens, problems, pairs, "points")
    if beam is None or other is None or points is None:
        return beam, other, None
    value = beam.value - points.value
    low, high = (end + value - other.value for end in other.interval)
    return beam, Estimate(value, (low, high), problems), points


def _at(
    tokens: float, problems: int, rows: Sequence[Mapping], name: str
) -> Estimate | None:
    rows = sorted(rows, key=lambda row: row["tokens"])
    places = np.array([row["tokens"] for row in rows])
    found = interpolate_log(
        tokens, places, np.array([[row[name], *row["ci"]] for row in rows], float)
    )
    if found is None:
        return None
    value, low, high = found.tolist()
    return Estimate(value, (low, high), problems)


@dataclasses.dataclass(frozen=True)
class Bound:
    """Pass@N of the independent samples that a budget buys.

    Attributes:
      n: samples; 0 if the budget buys none.
      tokens: that they cost, decoded, prefilled and scored.
      samples: of each problem, from which it is estimated.
      accuracy: Pass@N, which no choice among N samples can exceed; where `n` is above
        `samples`, a bound of that.
    """

    n: int
    tokens: float
    samples: int
    accuracy: Estimate


def pass_bound(labelled: Labelled, tokens: float | None) -> Bound:
    """The bound from π's responses alone.

    A verifier reads what is decoded, and the prompt. Above M samples,
    `Pass@N <= 1 - (1 - Pass@M)^(N/M)`, since the mean of a power is at least the power
    of the mean.

    Args:
      labelled: the labels.
      tokens: the budget of a problem; that of M samples by default.
    """
    outcomes: dict[int, list[bool]] = {}
    for response in labelled.rollouts:
        outcomes.setdefault(response.problem, []).append(response.correct)
    samples = min(map(len, outcomes.values()))
    correct = np.array([found[:samples] for found in outcomes.values()])
    length = np.mean([len(r.tokens) for r in labelled.rollouts])
    prompt = np.mean([len(r.prompt) for r in labelled.rollouts])
    n = samples if tokens is None else max(int((tokens / 2 - prompt) / length), 0)
    inner = min(n, samples)
    accuracy = share_of(pass_at_n(correct, inner)) if n else Estimate(0.0, None)
    if n > samples:
        accuracy = accuracy.through(lambda x: best_of_k(x, n / samples))
    return Bound(n, float(2 * (prompt + n * length)), samples, accuracy)
