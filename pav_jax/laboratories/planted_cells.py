"""The laboratory `planted`: which provers teach, and what decides that (Sec. 3.3)."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from pav_jax import metrics
from pav_jax.core import rules, seeds
from pav_jax.laboratories import planted, planted_rl, summaries

Cell = dict[str, Any]
# Fields of a cell that are not static fields of `planted_rl.run`.
_LISTED = ("variant", "gamma", "alpha", "seeds", "task")


ENTRIES = "variants"  # the section whose entries a user names
_AFTER = rules.one_of("end", "uniform")
_TASK = {
    "length": rules.POSITIVE,
    "vocabulary": rules.whole(2),
    "planted": rules.each(rules.COUNT, "tokens, whole numbers, 0 or more"),
}
_BASE = {
    "gammas": rules.several(
        rules.number(0, above=True), "numbers above 0", least=0
    ),  # without any: the outcome alone
    "outcome": rules.FLAG,
    "alpha": rules.number(0),
    "n_mc": rules.COUNT,
    "exact_q": rules.FLAG,
    "tabular": rules.FLAG,
    "prover_after": _AFTER,
    "sft_after": _AFTER,
    "train_end": rules.FLAG,
    "sft_gamma": rules.number(0, above=True),
    "sft_steps": rules.COUNT,
    "sft_learning_rate": rules.number(0, above=True),
    "optimizer": rules.one_of("adam", "sgd"),
    "learning_rate": rules.number(0, above=True),
    "batch_size": rules.POSITIVE,
    "iterations": rules.POSITIVE,
    "measured": rules.POSITIVE,
}


def fields(config: ConfigDict) -> dict[str, rules.Rule]:
    """What each field of a config may hold; a variant has any of `base`."""
    found = {f"task.{name}": rule for name, rule in _TASK.items()}
    found |= {f"base.{name}": rule for name, rule in _BASE.items()}
    for variant in config.variants:
        for name, rule in _BASE.items():
            found[f"{ENTRIES}.{variant}.{name}"] = rule.optional()
    return found


def contradictions(config: ConfigDict) -> Iterator[str]:
    """What is wrong with a field in view of another, a sentence each."""
    task = config.task
    if max(task.planted) > task.vocabulary - 2:
        yield (
            f"config.task.planted={tuple(task.planted)} must be of tokens below"
            f" {task.vocabulary - 1}, the last of config.task.vocabulary="
            f"{task.vocabulary}, which ends a response"
        )
    if len(task.planted) > task.length:
        yield (
            f"config.task.planted={tuple(task.planted)} must have at most"
            f" config.task.length={task.length} tokens"
        )
    for name, changes in config.variants.items():
        settings = config.base.to_dict() | changes.to_dict()
        if not settings["gammas"] and not settings["outcome"]:
            yield (
                f"config.variants.{name} has gammas=() and outcome=False, so nothing"
                " to measure; give it a prover or the outcome"
            )
        if settings["exact_q"] and not settings["tabular"]:
            yield (
                f"config.variants.{name} has exact_q=True, which needs tabular=True:"
                " only of a table the values are exact"
            )


def cells(config: ConfigDict) -> list[Cell]:
    """A cell for each variant and prover; γ = None is the outcome alone."""
    found = []
    for name, changes in config.variants.items():
        settings = config.base.to_dict() | changes.to_dict()
        outcome, gammas = settings.pop("outcome"), settings.pop("gammas")
        shared = {"seeds": list(config.seeds), "task": config.task.to_dict()}
        shared["task"]["planted"] = list(config.task.planted)
        for gamma in (*([None] if outcome else []), *gammas):
            found.append({"variant": name, "gamma": gamma, **settings, **shared})
    return found


def measure(cell: Cell) -> Cell:
    """The curve of each seed, and what is right before and after RL.

    Returns:
      `curve`: the fraction of training responses that is right, `[R][100]`, each a mean
      over a hundredth of the iterations; `mean`, over all iterations, `[R]`; `half`:
      iterations until an entry of the curve is at least one half, `[R]`, None if none
      is; `before` and `after`: how many of `measured` responses are right, `[R]`.
    """
    task = planted.Task(**cell["task"] | {"planted": tuple(cell["task"]["planted"])})
    static = {name: value for name, value in cell.items() if name not in _LISTED}
    gamma, alpha = cell["gamma"], cell["alpha"]
    if gamma is None:
        gamma, alpha = 1.0, 0.0
    keys = [
        jax.random.key(seeds.derive(seed, seeds.Stream.LABORATORY))
        for seed in cell["seeds"]
    ]
    right, before, after = planted_rl.run(
        jax.numpy.stack(keys),
        planted_rl.progress_of(
            task, gamma, after=cell["prover_after"], n_mc=cell["n_mc"]
        ),
        alpha,
        task=task,
        config=FrozenConfigDict(static),
    )
    parts = np.array_split(np.asarray(right, float), min(100, right.shape[1]), axis=1)
    curve = np.stack([part.mean(axis=1) for part in parts], axis=1)
    ends = np.cumsum([part.shape[1] for part in parts])
    return {
        "curve": curve.round(5).tolist(),
        "mean": np.asarray(right, float).mean(axis=1).tolist(),
        "half": [_first(line >= 0.5, ends) for line in curve],
        "before": np.asarray(before).tolist(),
        "after": np.asarray(after).tolist(),
    }


def _first(reached: np.ndarray, ends: np.ndarray) -> int | None:
    return int(ends[reached.argmax()]) if reached.any() else None


def summary(cells: list[Cell]) -> dict[str, Any]:
    """Of each variant with provers on both sides, whether there is a window."""
    variants = dict.fromkeys(cell["variant"] for cell in cells)
    found = {
        name: _window([c for c in cells if c["variant"] == name]) for name in variants
    }
    return {"windows": {name: window for name, window in found.items() if window}}


def _window(cells: list[Cell]) -> dict[str, Any] | None:
    """The rule for a window: the best γ is within [8, 15] and beats what is outside.

    The best prover by the mean, and that against γ = 5 and γ = 50, paired by seed.
    """
    means = {cell["gamma"]: np.asarray(cell["mean"]) for cell in cells}
    if not {5.0, 50.0} <= means.keys():
        return None
    best = max((g for g in means if g), key=lambda gamma: means[gamma].mean())
    weaker, stronger = (
        summaries.over_seeds(means[best] - means[other]) for other in (5.0, 50.0)
    )
    holds = 8 <= best <= 15 and weaker[1] > 0 and stronger[1] > 0
    return {"best": best, "weaker": weaker, "stronger": stronger, "holds": holds}


def table(results: dict[str, Any]) -> str:
    """A row for each cell, then one for each variant's window."""
    rows = [
        [
            cell["variant"],
            _name(cell),
            summaries.percent(summaries.over_seeds(cell["mean"])),
            _times(cell),
            _rate(cell, "before"),
            _rate(cell, "after"),
        ]
        for cell in results["cells"]
    ]
    header = ["variant", "γ", "mean accuracy", "iterations to 50%", "before", "after"]
    windows = [
        [
            name,
            f"{window['best']:g}",
            summaries.percent(window["weaker"]),
            summaries.percent(window["stronger"]),
            "yes" if window["holds"] else "no",
        ]
        for name, window in results["windows"].items()
    ]
    second = ["variant", "best γ", "over γ = 5", "over γ = 50", "window in [8, 15]"]
    return summaries.markdown(header, rows) + "\n" + summaries.markdown(second, windows)


def _name(cell: Cell) -> str:
    return "outcome alone" if cell["gamma"] is None else f"{cell['gamma']:g}"


def _times(cell: Cell) -> str:
    """Of each seed, the iterations to one half."""
    never = f">{cell['iterations']}"
    times = sorted(cell["half"], key=lambda half: half or float("inf"))
    return ", ".join(never if half is None else str(half) for half in times)


def _rate(cell: Cell, when: str) -> str:
    mean = np.mean(cell[when]) / cell["measured"]
    return f"{100 * mean:.3g}%"


def pass_at_n(cell: Cell, numbers: list[int], when: str) -> np.ndarray:
    """Pass@N of the policy of each seed, `[R, numbers]`."""
    correct = np.arange(cell["measured"])[None] < np.asarray(cell[when])[:, None]
    return np.stack([metrics.pass_at_n(correct, n) for n in numbers], axis=1)


def figure(results: dict[str, Any]) -> str:
    """Curves (Fig. 3a), γ by variant (Fig. 3b and 9), and Pass@N (Fig. 3c)."""
    cells = results["cells"]

    def draw(drawing, axes):
        from matplotlib import colormaps

        def colour(cell):
            place = np.log10(cell["gamma"] or 1) / 3
            return colormaps["viridis"](min(place, 0.95)) if cell["gamma"] else "black"

        curves, provers, passes = axes[0]
        for cell in cells:
            if cell["variant"] == "paper":
                line = np.mean(cell["curve"], axis=0)
                places = (np.arange(len(line)) + 1) * cell["iterations"] / len(line)
                curves.plot(places, line, color=colour(cell), label=_name(cell))
        curves.set(xlabel="iterations", title="accuracy, variant paper, by γ")
        names = [name for name in results["windows"] if name != "short"]
        for place, name in enumerate(names):
            known = [c for c in cells if c["variant"] == name and c["gamma"]]
            means = [np.mean(cell["mean"]) for cell in known]
            style = dict(color=colormaps["tab20"](place), marker="o", markersize=3)
            gammas = [cell["gamma"] for cell in known]
            provers.plot(gammas, means, label=name, **style)
        provers.axvspan(8, 15, color="0.9", zorder=0)
        provers.set(xscale="log", xlabel="γ", title="mean accuracy over the iterations")
        _draw_passes(passes, [c for c in cells if c["variant"] == "short"], colour)
        for panel in axes[0]:
            panel.set_ylim(-0.02, 1.02)
            if panel.lines:
                panel.legend(loc="center right")

    return summaries.figure((13, 4), (1, 3), draw)


def _draw_passes(panel: Any, cells: list[Cell], colour: Callable) -> None:
    """Pass@N of the variant `short`; nothing if the config has no such variant."""
    if not cells:
        return
    numbers = [2**i for i in range(11) if 2**i <= cells[0]["measured"]]
    for cell in cells:
        line = pass_at_n(cell, numbers, "after").mean(axis=0)
        panel.plot(numbers, line, color=colour(cell), label=_name(cell))
    line = pass_at_n(cells[0], numbers, "before").mean(axis=0)
    panel.plot(numbers, line, color="0.6", linestyle="--", label="base policy")
    title = f"Pass@N after {cells[0]['iterations']} iterations, by γ"
    panel.set(xscale="log", xlabel="N", title=title)
