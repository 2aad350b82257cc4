"""Curves of accuracy against N and against tokens, kept problem by problem.

Shape letters: P problems.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.metrics import (
    best_of_n,
    interpolate_log,
    majority_of_n,
    mean_interval,
    pass_at_n,
)
from pav_jax.storage import artifacts

_BEAMS = ("beam_q", "beam_pav", "beam_oracle")
_REFERENCE = "best_of_n_orm"  # what beam search is compared with


@dataclasses.dataclass(frozen=True)
class Point:
    """One method at one N.

    Attributes:
      method: its name in results.json.
      n: samples, or beams.
      correct: accuracy on each problem, float `[P]`.
      tokens: tokens that each problem cost, decoded, prefilled and scored, `[P, 3]`.
    """

    method: str
    n: int
    correct: np.ndarray
    tokens: np.ndarray

    @property
    def accuracy(self) -> float:
        """The mean over the problems."""
        return self.correct.mean()

    @property
    def mean_tokens(self) -> float:
        """All tokens of a problem, the mean over the problems."""
        return self.tokens.sum(axis=1).mean()

    def row(self) -> dict[str, Any]:
        """The point as an entry of `search` in results.json."""
        accuracy, interval = mean_interval(self.correct)
        decoded, prefilled, scored = self.tokens.mean(axis=0).tolist()
        return {
            "method": self.method,
            "n": self.n,
            "accuracy": accuracy,
            "ci": interval,
            "tokens": decoded + prefilled + scored,
            "decoded": decoded,
            "prefilled": prefilled,
            "scored": scored,
        }


def sample_points(
    samples: Mapping[str, np.ndarray],
    answers: list[list[str | None]],
    ns: Sequence[int],
    seed: int,
) -> list[Point]:
    """The methods that select among independent samples, and greedy decoding.

    N of M samples cost N times the mean length of the M, and one prompt. A verifier
    scores each of them with its prompt.

    Args:
      samples: `correct`, `length`, `orm` and `prm`, `[P, M]`; `greedy`,
        `greedy_length` and `prompt_length`, `[P]`.
      answers: `[P][M]`, normalised final answers, None if there is none.
      ns: at most M each.
      seed: of the majority vote's subsets.
    """
    correct, prompt = samples["correct"], samples["prompt_length"]
    length, nothing = samples["length"].mean(axis=1), np.zeros(len(prompt))
    cost = np.stack([samples["greedy_length"], prompt, nothing], axis=1)
    points = [Point("greedy", 1, samples["greedy"].astype(float), cost)]
    for n in ns:
        unscored = np.stack([n * length, prompt, nothing], axis=1)
        scored = np.stack([n * length, prompt, n * (prompt + length)], axis=1)
        majority = majority_of_n(answers, correct, n, seed=seed)
        by_orm = best_of_n(samples["orm"], correct, n)
        by_pav = best_of_n(samples["prm"], correct, n)
        points += [
            Point("majority", n, majority, unscored),
            Point("best_of_n_orm", n, by_orm, scored),
            Point("best_of_n_pav", n, by_pav, scored),
            Point("pass_at_n", n, pass_at_n(correct, n), unscored),
        ]
    return points


def beam_points(folder: Path, beams: Sequence[int]) -> list[Point]:
    """The beam searches whose files are in the folder of stage `search`."""
    return [
        Point(method, n, *read_beam(path))
        for method in _BEAMS
        for n in beams
        if (path := folder / f"{method}-{n}.json").exists()
    ]


def read_beam(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """What one beam search found: `correct` `[P]` and `tokens` `[P, 3]`."""
    rows = np.array(artifacts.read_json(path), float)
    return rows[:, 0], rows[:, 1:]


def efficiency(points: Sequence[Point]) -> dict[str, Any]:
    """Beam search against best-of-N by the ORM, at equal accuracy and at equal tokens.

    Equal accuracy is the best that best-of-N reaches: its tokens there, over those of
    the smallest beam that reaches it; None if no beam does.

    Equal tokens are those of each beam within the range of best-of-N, whose accuracy
    between its N is taken to be linear in log tokens. The difference is the mean over
    these beams; its interval is over problems, paired.
    """
    reference = sorted(
        (point for point in points if point.method == _REFERENCE),
        key=lambda point: point.mean_tokens,
    )
    best = max(reference, key=lambda point: point.accuracy)
    out: dict[str, Any] = {
        "reference": f"{_REFERENCE} best accuracy",
        "accuracy": float(best.accuracy),
        "tokens": float(best.mean_tokens),
        "points_at_equal_tokens": {},
        "points_ci": {},
        "by_point": [],
    }
    for method in ("beam_q", "beam_pav"):
        beams = [point for point in points if point.method == method]
        reached = [beam for beam in beams if beam.accuracy >= best.accuracy]
        saved = best.mean_tokens / reached[0].mean_tokens if reached else None
        out[method] = None if saved is None else float(saved)
        differences = _at_equal_tokens(beams, reference)
        for beam, difference in differences:
            mean, interval = mean_interval(difference)
            out["by_point"].append(
                {"method": method, "n": beam.n, "tokens": float(beam.mean_tokens)}
                | {"points": mean, "ci": interval}
            )
        if differences:
            overall = np.mean([difference for _, difference in differences], axis=0)
            mean, interval = mean_interval(overall)
            out["points_at_equal_tokens"][method] = mean
            out["points_ci"][method] = interval
    return out


def _at_equal_tokens(
    beams: Sequence[Point], reference: Sequence[Point]
) -> list[tuple[Point, np.ndarray]]:
    """Each beam within the reference's range, and its difference there, `[P]`."""
    places = np.array([point.mean_tokens for point in reference])
    values = np.stack([point.correct for point in reference])
    pairs = []
    for beam in beams:
        expected = interpolate_log(beam.mean_tokens, places, values)
        if expected is not None:
            pairs.append((beam, beam.correct - expected))
    return pairs
