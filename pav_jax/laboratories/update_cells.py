"""The laboratory `update`: do Theorem 3.1's terms rank provers as their gain does?"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict
from scipy.stats import spearmanr

from pav_jax import prover
from pav_jax.core import rules, seeds
from pav_jax.laboratories import summaries, update

Cell = dict[str, Any]
TERMS = ("distinguishability", "alignment", "sum")

ENTRIES = "updates"  # the section whose entries a user names
_WEIGHTS = rules.several(rules.number(-100, 100), "numbers from -100 to 100")
_FIELDS = {
    "steps": rules.POSITIVE,
    "branching": rules.whole(2),
    "wrong": rules.FRACTION,
    "spread": rules.number(0),
    "alpha": rules.number(0),
    "best_of": rules.POSITIVES,
    "near": _WEIGHTS,
    "far": _WEIGHTS,
}
_UPDATE = {
    "rule": rules.one_of(*update.RULES),
    "size": rules.number(0),
    "count": rules.POSITIVE,
}


def fields(config: ConfigDict) -> dict[str, rules.Rule]:
    """What each field of a config may hold."""
    return _FIELDS | {
        f"{ENTRIES}.{entry}.{name}": rule
        for entry in config.updates
        for name, rule in _UPDATE.items()
    }


def contradictions(config: ConfigDict) -> Iterator[str]:
    """What is wrong with a field in view of another, a sentence each."""
    responses = config.branching**config.steps
    if responses > 100_000:
        yield (
            f"config.branching={config.branching} and config.steps={config.steps} are"
            f" {responses:,} responses; at most 100,000 are kept in a table"
        )


def cells(config: ConfigDict) -> list[Cell]:
    """A cell for each kind of update, with all provers in it."""
    shared = {name: config[name] for name in ("steps", "branching", "wrong", "spread")}
    lists = {name: list(config[name]) for name in ("seeds", "best_of", "near", "far")}
    return [
        {"update": name, **one.to_dict(), "alpha": config.alpha, **shared, **lists}
        for name, one in config.updates.items()
    ]


def measure(cell: Cell) -> Cell:
    """A list for each seed, with a number for each prover, of all that is measured.

    Both terms; `variance`, `E_s Var[A^π]`; accuracies `before`, `after` the updates,
    and after as many by outcomes alone, `outcome`. The names are in `provers`.
    """
    rows = [_measure_seed(cell, seed) for seed in cell["seeds"]]
    names = [name for name, _ in rows[0]]
    found = {"provers": names}
    for key in rows[0][0][1]:
        found[key] = [[values[key] for _, values in row] for row in rows]
    return found


def _measure_seed(cell: Cell, seed: int) -> list[tuple[str, dict[str, float]]]:
    """Each prover's name and numbers, on one tree and from one policy."""
    config = FrozenConfigDict(
        {name: cell[name] for name in ("steps", "branching", "wrong", "spread")}
    )
    key = jax.random.key(seeds.derive(seed, seeds.Stream.LABORATORY))
    tree, mine, others = jax.random.split(key, 3)
    right = update.draw_right(tree, config=config)
    logits = update.draw_logits(mine, config=config)
    other = update.draw_logits(others, config=config)
    q = update.values(logits, right)
    provers = {
        f"Bo{k}(π)": [prover.best_of_k(x, k) for x in q] for k in cell["best_of"]
    }
    for name, base in (("near", logits), ("far", other)):
        for weight in cell[name]:
            tilted = update.tilted(base, right, weight)
            provers[f"{name} {weight:+g}"] = update.values(tilted, right)

    def after(q_mu, alpha):
        how = dict(rule=cell["rule"], updates=cell["count"])
        return float(update.improved(logits, right, q_mu, alpha, cell["size"], **how))

    before = float(update.accuracy(logits, right))
    outcome = after(q, 0.0)
    own = float(update.terms(logits, q, q)[1])
    rows = []
    for name, q_mu in provers.items():
        apart, aligned = map(float, update.terms(logits, q, q_mu))
        numbers = dict(
            distinguishability=apart,
            alignment=aligned,
            before=before,
            outcome=outcome,
            after=after(q_mu, cell["alpha"]),
            variance=own,
        )
        rows.append((name, numbers))
    return rows


def summary(cells: list[Cell]) -> dict[str, Any]:
    """Rank correlations of each term with the gain over outcomes alone, by seed."""
    return {"ranks": [_ranks(cell) for cell in cells]}


def _ranks(cell: Cell) -> dict[str, list[float]]:
    gain = _gain(cell)
    return {
        name: [_rank_correlation(*pair) for pair in zip(of, gain, strict=True)]
        for name, of in _terms(cell).items()
    }


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's; 0 if either is constant, so that there is no order."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)


def _gain(cell: Cell) -> np.ndarray:
    """Accuracy over that of as many updates by outcomes alone, `[seeds, provers]`.

    Rounded, so that what float32 does not tell apart has one rank.
    """
    return np.round(np.asarray(cell["after"]) - np.asarray(cell["outcome"]), 6)


def _terms(cell: Cell) -> dict[str, np.ndarray]:
    """Each of TERMS, `[seeds, provers]`."""
    apart, aligned = (np.asarray(cell[name]) for name in TERMS[:2])
    return dict(zip(TERMS, (apart, aligned, apart + aligned), strict=True))


def table(results: dict[str, Any]) -> str:
    """Rank correlations of each update; then terms and gains of each prover."""
    rows = []
    for cell, ranks in zip(results["cells"], results["ranks"], strict=True):
        found = (summaries.over_seeds(np.asarray(ranks[name])) for name in TERMS)
        words = (f"{mean:.2f} [{low:.2f}, {high:.2f}]" for mean, low, high in found)
        rows.append([cell["update"], *words])
    head = ["update", *(f"rank correlation of {name} and gain" for name in TERMS)]
    columns = _terms(results["cells"][0])  # the same in all
    columns |= {f"gain, {cell['update']}": _gain(cell) for cell in results["cells"]}
    provers = [
        [name, *(f"{of[:, place].mean():.4f}" for of in columns.values())]
        for place, name in enumerate(results["cells"][0]["provers"])
    ]
    return (
        summaries.markdown(head, rows)
        + "\nMeans over seeds; gains over outcomes alone:\n\n"
        + summaries.markdown(["prover", *columns], provers)
    )


def figure(results: dict[str, Any]) -> str:
    """Rank correlations with their intervals, of each update and term."""
    cells = results["cells"]

    def draw(drawing, axes):
        panel = axes[0, 0]
        for place, name in enumerate(TERMS):
            by_seed = np.asarray([ranks[name] for ranks in results["ranks"]])
            mean, low, high = np.asarray([summaries.over_seeds(x) for x in by_seed]).T
            at = np.arange(len(cells)) + 0.2 * (place - 1)
            error = (mean - low, high - mean)
            panel.errorbar(at, mean, error, fmt="o", ms=4, capsize=2, label=name)
        panel.axhline(0, color="0.6", lw=0.8)
        panel.set_xticks(range(len(cells)), [cell["update"] for cell in cells])
        panel.set_ylim(-1.05, 1.05)
        panel.set_ylabel("rank correlation with the gain")
        panel.legend(loc="lower right")

    return summaries.figure((8, 3.6), (1, 1), draw)
