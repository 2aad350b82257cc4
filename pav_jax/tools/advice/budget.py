"""Whether best-of-N is the better buy: as a run measured, or as its labels bound it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pav_jax.metrics import interpolate_log, pass_at_n
from pav_jax.prover import best_of_k
from pav_jax.tools.advice.estimates import Estimate, share_of
from pav_jax.tools.advice.labelled import Labelled

_PAPERS = "best_of_n_orm"  # the reference where results.json names no other


@dataclasses.dataclass(frozen=True)
class Versus:
    """Beam search against selection among independent samples, at equal tokens.

    Attributes:
      method: the beam search.
      tokens: of a problem.
      measured: the least and the most tokens at which both were measured.
      beam: its accuracy; None outside of what was measured.
      reference: that of the strongest selection, likewise.
      points: the first less the second, of the same problems, within `measured`.
    """

    method: str
    tokens: float
    measured: tuple[float, float]
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
      no beam was measured.
    """
    efficiency = results["compute_efficiency"]
    methods = dict.fromkeys(row["method"] for row in efficiency["by_point"])
    if not methods:
        return []
    method = "beam_pav" if "beam_pav" in methods else next(iter(methods))
    pairs = [row for row in efficiency["by_point"] if row["method"] == method]
    beams = [row for row in results["search"] if row["method"] == method]
    chosen = efficiency.get("reference_methods", {})
    reference = [
        row
        for row in results["search"]
        if row["method"] == chosen.get(str(row["n"]), _PAPERS)
    ]
    places = sorted(row["tokens"] for row in pairs)
    return [
        Versus(
            method,
            budget,
            (places[0], places[-1]),
            *_beside(budget, results["problems"], beams, reference, pairs),
        )
        for budget in ([tokens] if tokens else places)
    ]


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
