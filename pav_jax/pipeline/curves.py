"""Curves of accuracy against N and against tokens, kept problem by problem.

Shape letters: P problems.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.metrics import (
    best_of_n,
    interpolate_log,
    majority_of_n,
    mean_interval,
    normal_interval,
    pass_at_n,
)
from pav_jax.pipeline.search_files import Searched
from pav_jax.search.pick import AGGREGATED

_PAPERS = "best_of_n_orm"  # what the paper compares beam search with
# Selection among independent samples, which costs the same tokens by each of them.
_SELECTIONS = (_PAPERS, "best_of_n_pav", "vote_orm", "vote_pav")
_OF_SAMPLES = {  # rule of the pick -> the method that picks by it
    "prm": "best_of_n_pav",
    "orm": "best_of_n_orm",
    "vote_prm": "vote_pav",
    "vote_orm": "vote_orm",
}
_ALIKE = 1e-9  # differences that are so near each other are equal, but for rounding


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
    reads each of them, and the prompt once.

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
        vote = majority_of_n(answers, correct, n, seed=seed)
        points += [
            Point("majority", n, vote, unscored),
            Point("pass_at_n", n, pass_at_n(correct, n), unscored),
            *_selections(samples, answers, n, seed),
        ]
    return points


def _selections(
    samples: Mapping[str, np.ndarray],
    answers: list[list[str | None]],
    n: int,
    seed: int,
) -> list[Point]:
    """Best-of-N and weighted votes by either verifier, at one N."""
    correct = samples["correct"]
    length, prompt = samples["length"].mean(axis=1), samples["prompt_length"]
    cost = selection_tokens(length, prompt, n)
    points = []
    for name, verifier in (("orm", "orm"), ("pav", "prm")):
        weights = samples[verifier]
        best = best_of_n(weights, correct, n)
        vote = majority_of_n(answers, correct, n, seed=seed, weights=weights)
        points += [
            Point(f"best_of_n_{name}", n, best, cost),
            Point(f"vote_{name}", n, vote, cost),
        ]
    return points


def selection_tokens(length: np.ndarray, prompt: np.ndarray, n: int) -> np.ndarray:
    """Tokens of N samples that a verifier chooses among, `[P, 3]` as in `Point`.

    Args:
      length: mean length of a problem's samples, `[P]`.
      prompt: tokens of its prompt, `[P]`, which the verifier reads once as well.
      n: samples.
    """
    decoded = n * length
    return np.stack([decoded, prompt, prompt + decoded], axis=1)


def beside_beams(
    points: Sequence[Point],
    samples: Mapping[str, np.ndarray],
    answers: list[list[str | None]],
    seed: int,
) -> list[Point]:
    """Selection among as many samples as each beam's tokens buy: one less, one more.

    Between N that are far apart selection gains more than a straight line says.

    Args:
      points: those of `sample_points`, and of `beam_points`.
      samples, answers, seed: as of `sample_points`.

    Returns:
      `efficiency` takes these beside the others; nothing at an N that is there.
    """
    prompt, length = samples["prompt_length"].mean(), samples["length"].mean()
    there = {point.n for point in points if point.method == _PAPERS}
    wanted: set[int] = set()
    for method in _beam_methods(points) if length else ():
        for point in (point for point in points if point.method == method):
            n = int((point.mean_tokens / 2 - prompt) / length)
            wanted |= {n, n + 1}
    wanted &= set(range(min(there), max(there)))
    return [
        point
        for n in sorted(wanted - there)
        for point in _selections(samples, answers, n, seed)
    ]


def beam_points(
    folder: Path, beams: Sequence[int], picks: Mapping[str, str]
) -> list[Point]:
    """The beam searches whose files are in the folder of stage `search`.

    Args:
      folder: of the stage.
      beams: N.
      picks: the rule of the final pick of each method.
    """
    return [
        Point(method, n, found.outcomes(rule), found.tokens(rule))
        for method, n, found in _searches(folder, beams, picks)
        for rule in [picks[method]]
    ]


def pick_rows(
    folder: Path, beams: Sequence[int], methods: Iterable[str]
) -> list[dict[str, Any]]:
    """Accuracy by every rule of the final pick, and Pass@N of each beam ("any")."""
    rows = []
    for method, n, found in _searches(folder, beams, methods):
        outcomes = {rule: found.outcomes(rule) for rule in found.rules}
        rows += _pick_rows(method, n, outcomes | {"any": found.any_correct()})
    return rows


def sample_pick_rows(
    points: Sequence[Point], samples: Mapping[str, np.ndarray], ns: Sequence[int]
) -> list[dict[str, Any]]:
    """The same of N independent samples, whose copies each have a vote.

    Args:
      points: what `sample_points` returned.
      samples: as there; older files lack the scores of `AGGREGATED`.
      ns: as there.
    """
    known = {(point.method, point.n): point.correct for point in points}
    rows = []
    for n in ns:
        outcomes = {rule: known[method, n] for rule, method in _OF_SAMPLES.items()}
        for rule in filter(samples.__contains__, AGGREGATED):
            outcomes[rule] = best_of_n(samples[rule], samples["correct"], n)
        outcomes["any"] = known["pass_at_n", n]
        rows += _pick_rows("best_of_n", n, outcomes)
    return rows


def _pick_rows(
    method: str, n: int, outcomes: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """A row for each rule, from its accuracy on each problem, `[P]`."""
    rows = []
    for rule, correct in outcomes.items():
        accuracy, interval = mean_interval(correct)
        cell = {"method": method, "n": n, "pick": rule}
        rows.append(cell | {"accuracy": accuracy, "ci": interval})
    return rows


def _searches(
    folder: Path, beams: Sequence[int], methods: Iterable[str]
) -> Iterator[tuple[str, int, Searched]]:
    for method in methods:
        for n in beams:
            if (path := folder / f"{method}-{n}.json").exists():
                yield method, n, Searched.read(path)


def efficiency(points: Sequence[Point]) -> dict[str, Any]:
    """Beam search against selection among samples, at equal accuracy and equal tokens.

    The reference is the strongest of best-of-N and of weighted votes, by either
    verifier: at each N the method of highest accuracy on these same problems, which
    favours it. `paper` has the same figures against best-of-N by the ORM, the paper's
    reference, and `most_samples` how many times fewer tokens each beam search needs for
    the accuracy that it has at its largest N, which may be less than its best (Fig. 4).

    Equal accuracy is the best that the reference reaches: its tokens there, over those
    of the smallest beam that is shown to reach it, which is one for which no part of
    the 95% interval of the paired difference is below zero; None if no beam is. A beam
    of as high an accuracy, or a higher one, may be among those that are not. Where all
    differences are equal, such an interval has no width, and shows nothing; and there
    is nothing to reach where the reference is never right.

    Equal tokens are those of each beam within the range of the reference, whose
    accuracy between its N is taken to be linear in log tokens. The difference is the
    mean over these beams; its interval is over problems, paired.

    Args:
      points: of `sample_points`, `beam_points` and `beside_beams`.
    """
    ns = sorted({point.n for point in points if point.method == _PAPERS})
    strongest = [
        max(
            (p for p in points if p.method in _SELECTIONS and p.n == n),
            key=lambda point: point.accuracy,
        )
        for n in ns
    ]
    papers = [point for point in points if point.method == _PAPERS]
    most = max(papers, key=lambda point: point.n)
    most_samples = {
        method: _times_fewer(_of_method(points, method), most)
        for method in _beam_methods(points)
    }
    return {
        "reference": "the strongest of best-of-N and weighted votes",
        "reference_methods": {str(point.n): point.method for point in strongest},
        **_against(points, strongest),
        "paper": {
            "reference": _PAPERS,
            **_against(points, papers),
            "most_samples": {"n": most.n, **most_samples},
        },
    }


def _against(points: Sequence[Point], reference: Sequence[Point]) -> dict[str, Any]:
    """The figures of `efficiency` against one reference."""
    reference = sorted(reference, key=lambda point: point.mean_tokens)
    best = max(reference, key=lambda point: point.accuracy)
    out: dict[str, Any] = {
        "accuracy": float(best.accuracy),
        "tokens": float(best.mean_tokens),
        "points_at_equal_tokens": {},
        "points_ci": {},
        "by_point": [],
    }
    for method in _beam_methods(points):
        beams = _of_method(points, method)
        out[method] = _times_fewer(beams, best)
        pairs = _at_equal_tokens(beams, reference)
        for beam, expected in pairs:
            mean, interval = _difference(beam.correct, expected)
            out["by_point"].append(
                {"method": method, "n": beam.n, "tokens": float(beam.mean_tokens)}
                | {"points": mean, "ci": interval}
            )
        if pairs:
            mean, interval = _difference(
                np.mean([beam.correct for beam, _ in pairs], axis=0),
                np.mean([expected for _, expected in pairs], axis=0),
            )
            out["points_at_equal_tokens"][method] = mean
            out["points_ci"][method] = interval
    return out


def _of_method(points: Sequence[Point], method: str) -> list[Point]:
    """Those of a method, cheapest first."""
    mine = (point for point in points if point.method == method)
    return sorted(mine, key=lambda point: point.mean_tokens)


def _times_fewer(beams: Sequence[Point], target: Point) -> float | None:
    """The target's tokens over those of the cheapest beam that is shown to reach it."""
    for beam in beams:
        if _reaches(beam.correct, target.correct):
            return float(target.mean_tokens / beam.mean_tokens)
    return None


def _beam_methods(points: Sequence[Point]) -> list[str]:
    """The beam searches that a user can run, in order."""
    names = dict.fromkeys(point.method for point in points)
    return [n for n in names if n.startswith("beam_") and n != "beam_oracle"]


def _reaches(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether `ours` is shown to be as right as `theirs`, `[P]` each."""
    if not theirs.any() or np.ptp(ours - theirs) < _ALIKE:
        return False
    return _difference(ours, theirs)[1][0] >= 0


def _difference(
    ours: np.ndarray, theirs: np.ndarray
) -> tuple[float, tuple[float, float]]:
    """The mean of `ours - theirs`, `[P]` each, and its 95% interval over problems.

    One problem does not say how problems differ: the interval then holds all there can
    be.
    """
    mean, interval = normal_interval(ours - theirs)
    return mean, interval or (mean - 2.0, mean + 2.0)


def _at_equal_tokens(
    beams: Sequence[Point], reference: Sequence[Point]
) -> list[tuple[Point, np.ndarray]]:
    """Each beam within the reference's range, and the reference there, `[P]`."""
    places = np.array([point.mean_tokens for point in reference])
    values = np.stack([point.correct for point in reference])
    pairs = []
    for beam in beams:
        expected = interpolate_log(beam.mean_tokens, places, values)
        if expected is not None:
            pairs.append((beam, expected))
    return pairs
