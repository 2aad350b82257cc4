"""The laboratory `tree`: where progress pays in search, by the kind of error."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from pav_jax.core import rules, seeds
from pav_jax.laboratories import summaries, tree

Cell = dict[str, Any]
_COVERAGE = 0.99  # of the intervals of the map, which has hundreds of cells


ENTRIES = "errors"  # the section whose entries a user names
_INSIDE = rules.inside(0, 1, ": the value of a prompt")
_FIELDS = {
    "problems": rules.POSITIVE,
    "lowest": _INSIDE,
    "highest": _INSIDE,
    "steps": rules.POSITIVE,
    "candidates": rules.POSITIVE,
    "beams": rules.POSITIVES,
    "provers": rules.POSITIVES,
    "alphas": rules.several(rules.number(0), "numbers, 0 or more"),
}
_ERROR = {
    "kind": rules.one_of(*tree.ERRORS),
    "size": rules.number(0),
    "level": rules.FRACTION,
    "noise": rules.number(0),
    "ties": rules.one_of("order", "random"),
}


def fields(config: ConfigDict) -> dict[str, rules.Rule]:
    """What each field of a config may hold."""
    return _FIELDS | {
        f"{ENTRIES}.{error}.{name}": rule
        for error in config.errors
        for name, rule in _ERROR.items()
    }


def contradictions_of_roots(config: ConfigDict) -> Iterator[str]:
    """What is wrong with the values of the prompts, a sentence."""
    if config.lowest >= config.highest:
        yield (
            f"config.lowest={config.lowest:g} must be below"
            f" config.highest={config.highest:g}"
        )


def contradictions_of_level(where: str, error: ConfigDict) -> Iterator[str]:
    """What is wrong with the level of an error, whose section is `where`."""
    if error.kind != "rare" and error.level:
        yield (
            f"{where} has level={error.level:g}, which only kind='rare' has; set it"
            " to 0"
        )


def contradictions(config: ConfigDict) -> Iterator[str]:
    """What is wrong with a field in view of another, a sentence each."""
    yield from contradictions_of_roots(config)
    alphas = tuple(config.alphas)
    if 0 not in alphas or len(alphas) < 2:
        yield (
            f"config.alphas={alphas} must have 0, which gains are measured from, and a"
            " number above 0"
        )
    if max(config.beams) < 2:
        yield (
            f"config.beams={tuple(config.beams)} must have a number above 1: with one"
            " beam progress changes nothing"
        )
    labels: dict[str, str] = {}
    for name, error in config.errors.items():
        where = f"config.errors.{name}"
        if error.kind == "none" and error.size:
            yield f"{where} has kind='none' and size={error.size:g}; set it to 0"
        if error.kind == "rare" and error.size > 1:
            yield f"{where} has size={error.size:g}; of kind='rare' it is at most 1"
        yield from contradictions_of_level(where, error)
        if (other := labels.setdefault(_label(error), name)) != name:
            yield f"{where} is the same as config.errors.{other}; leave one out"


def cells(config: ConfigDict) -> list[Cell]:
    """A cell for each error and number of beams, with all K and α in it."""
    shared = {
        name: config[name]
        for name in ("steps", "candidates", "problems", "lowest", "highest")
    }
    lists = {name: list(config[name]) for name in ("seeds", "alphas", "provers")}
    return [
        {"error": _label(error), **error.to_dict(), "beams": beams, **shared, **lists}
        for error in config.errors.values()
        for beams in config.beams
    ]


def _label(error: ConfigDict) -> str:
    parts = [error.kind]
    if error.size:
        parts.append(f"{error.size:g}")
    if error.level:
        parts.append(f"to {error.level:g}")
    if error.noise:
        parts.append(f"+ noise {error.noise:g}")
    if error.ties != "order":
        parts.append(f"({error.ties} ties)")
    return " ".join(parts)


def measure(cell: Cell) -> Cell:
    """Accuracy and Pass@N of each seed, `[R][K][α]` each."""
    static = dict(
        problems=cell["problems"],
        bounds=(cell["lowest"], cell["highest"]),
        beams=cell["beams"],
        config=FrozenConfigDict(
            dict(
                steps=cell["steps"],
                candidates=cell["candidates"],
                error=cell["kind"],
                level=cell["level"],
                noise=cell["noise"],
                ties=cell["ties"],
            )
        ),
    )

    def grid(seed):
        key = jax.random.key(seeds.derive(seed, seeds.Stream.LABORATORY))
        return [
            [
                _rates(key, float(alpha), float(k), cell["size"], **static)
                for alpha in cell["alphas"]
            ]
            for k in cell["provers"]
        ]

    found = np.asarray([grid(seed) for seed in cell["seeds"]])
    return {"accuracy": found[..., 0].tolist(), "pass_at_n": found[..., 1].tolist()}


@functools.partial(jax.jit, static_argnames=("problems", "bounds", "beams", "config"))
def _rates(key, alpha, k, size, *, problems, bounds, beams, config):
    """Accuracy and Pass@N over problems whose values are log-uniform."""
    draw, key = jax.random.split(key)
    roots = tree.draw_roots(draw, problems, bounds)
    picked, held = tree.search(key, roots, alpha, k, size, beams=beams, config=config)
    return picked.mean(), held.mean()


def summary(cells: list[Cell]) -> dict[str, Any]:
    """Of each cell, the gain over `Q^π` alone with its interval, `[K][α][3]`."""
    return {"gains": [_gains(cell, "accuracy") for cell in cells]}


def _gains(cell: Cell, measure: str) -> list:
    found = np.asarray(cell[measure])
    gains = found - found[..., [cell["alphas"].index(0.0)]]
    return [
        [summaries.over_seeds(gains[:, k, a], _COVERAGE) for a in range(gains.shape[2])]
        for k in range(gains.shape[1])
    ]


def table(results: dict[str, Any]) -> str:
    """A row for each error, number of beams and K; a column for each α."""
    rows, alphas = [], results["cells"][0]["alphas"]
    for cell, gains in zip(results["cells"], results["gains"], strict=True):
        accuracy = 100 * np.asarray(cell["accuracy"]).mean(axis=0)
        pass_at_n = 100 * np.asarray(cell["pass_at_n"]).mean(axis=0)
        for place, k in enumerate(cell["provers"]):
            values = [
                f"{accuracy[place, a]:.1f}{_mark(gains[place][a])}"
                f" ({pass_at_n[place, a]:.1f})"
                for a in range(len(alphas))
            ]
            rows.append([cell["error"], cell["beams"], k, *values])
    return summaries.markdown(
        ["error", "N", "K", *(f"α = {alpha:g}" for alpha in alphas)], rows
    )


def _mark(gain: tuple[float, float, float]) -> str:
    """Whether the interval of a gain is above or below zero."""
    return " ▲" if gain[1] > 0 else " ▼" if gain[2] < 0 else ""


def figure(results: dict[str, Any]) -> str:
    """The map: a row of panels for each error, a column for each N, K against α.

    N = 1 is left out, where progress changes nothing. Numbers are points over `Q^π`
    alone, bold where their interval leaves out zero.
    """
    pairs = list(zip(results["cells"], results["gains"], strict=True))
    pairs = [(cell, gains) for cell, gains in pairs if cell["beams"] > 1]
    errors = sorted({cell["error"] for cell, _ in pairs})
    beams = sorted({cell["beams"] for cell, _ in pairs})

    def draw(drawing, axes):
        for cell, gains in pairs:
            row, column = errors.index(cell["error"]), beams.index(cell["beams"])
            image = _panel(axes[row, column], cell, gains)
            if not column:
                axes[row, column].set_title(cell["error"], fontsize=8)
        for panel in axes[-1]:
            panel.set_xlabel("α")
        for panel in axes[:, 0]:
            panel.set_ylabel("K")
        drawing.colorbar(
            image, ax=axes.ravel().tolist(), shrink=0.3, label="points over Q alone"
        )

    size = (3.4 * len(beams) + 0.8, 1.45 * len(errors))
    return summaries.figure(size, (len(errors), len(beams)), draw)


def _panel(axes: Any, cell: Cell, gains: list) -> Any:
    alphas, provers = cell["alphas"], cell["provers"]
    columns = [a for a, alpha in enumerate(alphas) if alpha]
    means = 100 * np.asarray(gains)[:, columns, 0]
    image = axes.imshow(means, cmap="RdBu", vmin=-40, vmax=40, aspect="auto")
    for (k, place), mean in np.ndenumerate(means):
        bold = "bold" if _mark(gains[k][columns[place]]) else "normal"
        style = dict(ha="center", va="center", fontsize=7, fontweight=bold)
        axes.text(place, k, f"{mean:+.0f}", **style)
    axes.set_xticks(range(len(columns)), [f"{alphas[a]:g}" for a in columns])
    axes.set_yticks(range(len(provers)), provers)
    axes.tick_params(labelsize=7)
    alone = 100 * np.asarray(cell["accuracy"])[..., alphas.index(0.0)].mean()
    title = f"N = {cell['beams']}, Q alone {alone:.0f}%"
    axes.set_title(title, loc="right", fontsize=8)
    return image
