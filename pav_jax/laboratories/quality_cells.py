"""The laboratory `quality`: how good a verifier must be for beams to beat selection.

The tree of `tree.py` and its errors. Of each error: how well the estimate ranks
responses that were sampled i.i.d. (AUC within a problem, as of a verifier, and the
order of siblings); and beams of N by it, less the best of M = C·N samples by it, which
is as many steps.
"""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from pav_jax import metrics
from pav_jax.core import rules, seeds
from pav_jax.laboratories import summaries, tree, tree_cells

Cell = dict[str, Any]
QUALITIES = {
    "auc_middle": "AUC, middle",
    "auc_last": "AUC, last",
    "siblings": "siblings in order",
}
_HALVES = ("auc_middle", "siblings")
_COVERAGE = 0.99  # of the intervals of cells, of which there are a hundred

_EXACT = "exact"  # the error of the cell that has none
ENTRIES = "errors"  # the section whose entries a user names
_INSIDE = rules.inside(0, 1, ": the value of a prompt")
_FIELDS = {
    "problems": rules.POSITIVE,
    "lowest": _INSIDE,
    "highest": _INSIDE,
    "steps": rules.whole(2),
    "candidates": rules.POSITIVE,
    "beams": rules.POSITIVES,
    "compared": rules.several(rules.inside(0.5, 1), "numbers above 0.5 and below 1"),
}
_ERROR = {
    "kind": rules.one_of(*(kind for kind in tree.ERRORS if kind != "none")),
    "sizes": rules.several(rules.number(0, above=True), "numbers above 0"),
    "level": rules.FRACTION,
}


def fields(config: ConfigDict) -> dict[str, rules.Rule]:
    """What each field of a config may hold."""
    return _FIELDS | {
        f"{ENTRIES}.{error}.{name}": rule
        for error in config.errors
        for name, rule in _ERROR.items()
    }


def contradictions(config: ConfigDict) -> Iterator[str]:
    """What is wrong with a field in view of another, a sentence each."""
    yield from tree_cells.contradictions_of_roots(config)
    if _EXACT in config.errors:
        yield f"config.errors.{_EXACT} is the name of exact values; give it another"
    for name, error in config.errors.items():
        where, sizes = f"config.errors.{name}", tuple(error.sizes)
        if sizes != tuple(sorted(sizes)):
            yield f"{where} has sizes={sizes}, which must rise"
        if error.kind == "rare" and max(sizes) > 1:
            yield f"{where} has sizes={sizes}; of kind='rare' they are at most 1"
        yield from tree_cells.contradictions_of_level(where, error)


def cells(config: ConfigDict) -> list[Cell]:
    """A cell for exact values, and for each size of each error; all N are in it."""
    names = ("steps", "candidates", "problems", "lowest", "highest")
    shared = {name: config[name] for name in names}
    shared |= {name: list(config[name]) for name in ("seeds", "beams", "compared")}
    exact = {"error": _EXACT, "kind": "none", "size": 0.0, "level": 0.0}
    return [exact | shared] + [
        {"error": name, "kind": one.kind, "size": size, "level": one.level, **shared}
        for name, one in config.errors.items()
        for size in one.sizes
    ]


def measure(cell: Cell) -> Cell:
    """Of each seed the qualities, `[R]` each, and accuracies of each N, `[R][N]`.

    `beam`, and `held`, its Pass@N; `selection`, the best of M = C·N samples by their
    last estimates, and `pass_at_m`, the most that any selection has.
    """
    rows = [_measure_seed(cell, seed) for seed in cell["seeds"]]
    return {name: [row[name] for row in rows] for name in rows[0]}


def _measure_seed(cell: Cell, seed: int) -> dict[str, float | list[float]]:
    key = jax.random.key(seeds.derive(seed, seeds.Stream.LABORATORY))
    draw, sampled, searched = jax.random.split(key, 3)
    roots = tree.draw_roots(draw, cell["problems"], (cell["lowest"], cell["highest"]))
    config = FrozenConfigDict(
        dict(
            steps=cell["steps"],
            candidates=cell["candidates"],
            error=cell["kind"],
            level=cell["level"],
            noise=0.0,
            # What continues an over-rated prefix has one estimate; else none is tied.
            ties="random" if cell["kind"] == "rare" else "order",
        )
    )
    search = functools.partial(tree.search, searched, roots, 0.0, 1.0, cell["size"])
    beams = [search(beams=n, config=config) for n in cell["beams"]]
    counts = [cell["candidates"] * n for n in cell["beams"]]
    exact, estimates = tree.sample(
        sampled, roots, cell["size"], responses=max(counts), config=config
    )
    return {
        **qualities(np.asarray(exact), np.asarray(estimates)),
        "beam": [float(picked.mean()) for picked, _ in beams],
        "held": [float(held.mean()) for _, held in beams],
        **selections(np.asarray(exact), np.asarray(estimates), counts),
    }


def qualities(exact: np.ndarray, estimates: np.ndarray) -> dict[str, float]:
    """How well estimates rank i.i.d. responses.

    Args:
      exact: as of `tree.sample`, `[H, P, M, 2]`.
      estimates: the same.

    Returns:
      AUC within a problem against the outcome of estimates in the middle, after
      floor(H / 2) steps, and of the last, as `metrics.outcome_auc`; and how often the
      better of two siblings in the middle is rated higher. Ties count half.
    """
    right = exact[-1, ..., 0] > 0.5
    middle = len(exact) // 2 - 1
    better, rated = (np.diff(of[middle]) for of in (exact, estimates))
    agree = 0.5 * (1 + np.sign(better) * np.sign(rated))
    return {
        "auc_middle": _auc(estimates[middle, ..., 0], right),
        "auc_last": _auc(estimates[-1, ..., 0], right),
        "siblings": float(agree[better != 0].mean()),
    }


def _auc(scores: np.ndarray, right: np.ndarray) -> float:
    found, pairs = metrics.within_problem_auc(list(scores), list(right))
    return found if pairs else float("nan")


def selections(
    exact: np.ndarray, estimates: np.ndarray, counts: list[int]
) -> dict[str, list[float]]:
    """Best-of-M by the last estimate, and Pass@M, of each M in `counts`."""
    right, last = exact[-1, ..., 0] > 0.5, estimates[-1, ..., 0]
    best = [float(metrics.best_of_n(last, right, m).mean()) for m in counts]
    most = [float(metrics.pass_at_n(right, m).mean()) for m in counts]
    return {"selection": best, "pass_at_m": most}


def summary(cells: list[Cell]) -> dict[str, Any]:
    """Gains of beams over selection, `[N][3]` of each cell; and of each error and N:

    half: of two qualities, where half of the gain by exact values is left;
    compared: the gains at AUCs in the middle that all errors are compared at;
    shown, not_shown: the last size until which the gain of each size is shown, and the
      next size; None if there is none.

    Where a curve is not measured it is a line between neighbouring sizes, of each seed;
    intervals are over seeds, and None stands for one that a seed has not.
    """
    gains = [
        [summaries.over_seeds(of, _COVERAGE) for of in _gains(cell).T] for cell in cells
    ]
    exact, thresholds = cells[0], []
    for error in dict.fromkeys(cell["error"] for cell in cells[1:]):
        places = [i for i, cell in enumerate(cells) if cell["error"] == error]
        curve = [exact, *(cells[i] for i in places)]
        sizes = [cell["size"] for cell in curve]
        for n, beams in enumerate(exact["beams"]):
            low = [gains[i][n][1] for i in (0, *places)]
            last = next((i for i, x in enumerate(low) if x <= 0), len(low))
            ends = {
                "shown": sizes[last - 1] if last else None,
                "not_shown": sizes[last] if last < len(sizes) else None,
            }
            thresholds.append(
                {"error": error, "beams": beams, **_thresholds(curve, n), **ends}
            )
    return {"gains": gains, "thresholds": thresholds}


def _gains(cell: Cell) -> np.ndarray:
    """Beam less selection, `[R, N]`."""
    return np.asarray(cell["beam"]) - np.asarray(cell["selection"])


def _thresholds(curve: list[Cell], n: int) -> dict[str, Any]:
    """`half` and `compared` of the cells of an error, from exact values on."""
    gains = np.asarray([_gains(cell)[:, n] for cell in curve])  # [sizes, R]
    of = {name: np.asarray([cell[name] for cell in curve]) for name in _HALVES}
    return {
        "half": {name: crossing(of[name], gains, gains[0] / 2) for name in _HALVES},
        "compared": [
            crossing(gains, of["auc_middle"], np.full(gains.shape[1], auc))
            for auc in curve[0]["compared"]
        ],
    }


def crossing(
    x: np.ndarray, y: np.ndarray, levels: np.ndarray
) -> tuple[float, float, float] | None:
    """Where a curve first comes down to a level: x there, with its interval over seeds.

    Args:
      x: `[sizes, R]`.
      y: `[sizes, R]`; the curve is a line from size to size.
      levels: `[R]`.

    Returns:
      None if the curve of a seed does not come down to its level.
    """
    found = []
    for xs, ys, level in zip(x.T, y.T, levels, strict=True):
        below = np.flatnonzero(ys <= level)
        if not len(below) or not below[0]:
            return None
        high, low = below[0] - 1, below[0]
        share = (ys[high] - level) / (ys[high] - ys[low])
        found.append(xs[high] + share * (xs[low] - xs[high]))
    return summaries.over_seeds(np.asarray(found))


def table(results: dict[str, Any]) -> str:
    """Thresholds of each error and N; then each cell, a row for each N."""
    cells = results["cells"]
    counts = [cells[0]["candidates"] * n for n in cells[0]["beams"]]
    rows = []
    for cell, gains in zip(cells, results["gains"], strict=True):
        quality = [f"{np.mean(cell[name]):.3f}" for name in QUALITIES]
        beam, held, best, most = (
            100 * np.mean(cell[name], axis=0)
            for name in ("beam", "held", "selection", "pass_at_m")
        )
        for i, n in enumerate(cell["beams"]):
            accuracy = (
                f"{beam[i]:.1f} ({held[i]:.1f})",
                f"{best[i]:.1f} ({most[i]:.1f})",
            )
            gain = summaries.percent(gains[i])
            row = [_label(cell), *quality, n, counts[i], *accuracy, gain]
            rows.append(row)
    head = ["error", *QUALITIES.values(), "N", "M", "beam", "best of M"]
    return (
        _threshold_table(results["thresholds"], cells)
        + "\nEvery cell:\n\n"
        + summaries.markdown([*head, "beam less selection"], rows)
    )


def _label(cell: Cell) -> str:
    return f"{cell['error']} {cell['size']:g}" if cell["size"] else cell["error"]


def _threshold_table(thresholds: list[dict[str, Any]], cells: list[Cell]) -> str:
    def end(error, size):
        if size is None:
            return "–"
        of = {(cell["error"], cell["size"]): cell for cell in cells}
        cell = of[error if size else _EXACT, size]
        return f"{np.mean(cell['auc_middle']):.3f} ({_label(cell)})"

    rows = []
    for one in thresholds:
        halves = (
            "–" if half is None else "{:.3f} [{:.3f}, {:.3f}]".format(*half)
            for half in one["half"].values()
        )
        gains = ("–" if x is None else summaries.percent(x) for x in one["compared"])
        ends = (end(one["error"], one[name]) for name in ("shown", "not_shown"))
        rows.append([one["error"], one["beams"], *halves, *gains, *ends])
    halves = (f"half of the gain: {QUALITIES[name]}" for name in _HALVES)
    gains = (f"gain at AUC, middle {auc:g}" for auc in cells[0]["compared"])
    ends = "gain shown until AUC, middle", "not shown at"
    return summaries.markdown(["error", "N", *halves, *gains, *ends], rows)


def figure(results: dict[str, Any]) -> str:
    """Gains against each quality, a column for each N and a line for each error."""
    pairs = list(zip(results["cells"], results["gains"], strict=True))
    beams = results["cells"][0]["beams"]
    errors = dict.fromkeys(cell["error"] for cell, _ in pairs[1:])

    def draw(drawing, axes):
        for (row, column), panel in np.ndenumerate(axes):
            name, title = list(QUALITIES.items())[row]
            for error in errors:
                curve = [(c, g) for c, g in pairs if c["error"] in (_EXACT, error)]
                at = [np.mean(cell[name]) for cell, _ in curve]
                gains = 100 * np.asarray([gains[column] for _, gains in curve])
                mean, low, high = gains.T
                bars = (mean - low, high - mean)
                panel.errorbar(at, mean, bars, fmt="o-", ms=3, lw=1, label=error)
            panel.axhline(0, color="0.6", lw=0.8)
            panel.set_xlabel(title)
            if not row:
                panel.set_title(f"N = {beams[column]}")
        for panel in axes[:, 0]:
            panel.set_ylabel("beam less selection, points")
        axes[0, 0].legend()

    shape = len(QUALITIES), len(beams)
    return summaries.figure((3.2 * shape[1], 2.8 * shape[0]), shape, draw)
