"""Stage `report`: results.json, from the artifacts of other stages, and the page."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pav_jax import prover
from pav_jax.core.config import flatten
from pav_jax.core.counts import counted
from pav_jax.core.versions import version
from pav_jax.metrics import mean_interval, pass_at_n
from pav_jax.pipeline import curves
from pav_jax.pipeline.manifest import read_manifest, renew
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.search_files import Searched
from pav_jax.pipeline.shards import read_ledger
from pav_jax.report.page import page, plain
from pav_jax.search.pick import PICKS
from pav_jax.storage import artifacts
from pav_jax.storage.records import read_labelled_rollouts, shards

_VIEWED = 12  # responses in the step viewer, at most
_PROVER_KS = (1, 2, 4, 8, 16, 32)
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "gemma", "numpy")


def run_report(context: StageContext) -> None:
    """results.json, responses.json and the page."""
    viewer = artifacts.read_json(context.input("evaluation") / "viewer.json")
    artifacts.write_json(context.directory / "responses.json", _choose(viewer))
    artifacts.write_json(context.directory / "results.json", plain(_results(context)))
    write_page(context.directory)


def write_page(directory: Path) -> Path:
    """Draws index.html from results.json and responses.json; returns its path.

    Raises:
      UserError: one of them is missing or damaged.
    """
    results = artifacts.read_json(directory / "results.json")
    responses = artifacts.read_json(directory / "responses.json")
    with artifacts.as_written(directory, "pav run"):
        html = page(results, responses)
    path = directory / "index.html"
    artifacts.write_text(path, html)
    return path


def draw_again(directory: Path) -> Path:
    """`write_page` of a finished stage, which then is finished with this page."""
    path = write_page(directory)
    renew(path)
    return path


def _results(context: StageContext) -> dict[str, Any]:
    """All that results.json holds."""
    config, search = context.config, context.config.search
    samples, answers = _read_samples(context.input("samples"))
    verifier = artifacts.read_json(context.input("evaluation") / "evaluation.json")
    ends = {name: verifier.pop(name) for name in ("failures", "grades")}
    points = curves.sample_points(samples, answers, search.ns, config.seed)
    chosen = artifacts.read_json(context.input("search") / "search.json")
    folder = context.input("search")
    points += curves.beam_points(folder, search.beams, chosen["pick"])
    manifests = {name: read_manifest(where) for name, where in context.inputs.items()}
    results = {
        "task": config.task.name,
        "description": f"Experiment {config.name}: {_describe(config)}.",
        "base": _base(samples, search.ns) | ends,
        "verifier": verifier,
        "search": [point.row() for point in points],
        "alpha": _alpha(context, chosen),
        "picks": [
            *curves.sample_pick_rows(points, samples, search.ns),
            *curves.pick_rows(folder, search.beams, chosen["pick"]),
        ],
        "compute_efficiency": curves.efficiency(
            points + curves.beside_beams(points, samples, answers, config.seed)
        ),
        "stages": {name: found["seconds"] for name, found in manifests.items()},
        "made_on": {
            name: "; ".join(found["made_on"])
            for name, found in manifests.items()
            if found.get("made_on")
        },
        "ledger": {
            name: vars(read_ledger(folder))
            for name, folder in context.inputs.items()
            if (folder / "ledger.json").exists()
        },
        "config": flatten(config),
        "seeds": {"config.seed": config.seed},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) or "not installed" for name in _PACKAGES},
        },
        "problems": len(samples["greedy"]),
    }
    if "improvement" in context.inputs:
        path = context.input("improvement") / "improvement.json"
        results["improvement"] = artifacts.read_json(path)
    if config.rollouts.n_cov > 1 and not config.labels.get("from"):
        results["theory"] = _theory(context)
    return results


def _describe(config: ConfigDict) -> str:
    """The policy and the labels of the experiment, in words."""
    model = config.model
    if "name" in model:
        policy = f"{model.name}{', shrunk for a trial' if model.get('shrunk') else ''}"
    else:
        layers = counted(model.num_layers, "layer")
        policy = f"a policy of {layers} of width {model.embed_dim}"
    if folder := config.labels.get("from"):
        return f"{policy}, step labels of {Path(folder).name}, which others made"
    number, extra = config.problems.labels, ""
    if n_mc := config.labels.get("first_pit", {}).get("n_mc"):
        extra = f", {counted(n_mc, 'continuation')} of those up to first pits"
    problems = f"each of {counted(number, 'problem')}" if number else "every problem"
    return (
        f"{policy}, {counted(config.rollouts.n_cov, 'seed rollout')} of {problems},"
        f" {counted(config.labels.n_mc, 'continuation')} of every step prefix{extra}"
    )


def _choose(viewer: list[dict]) -> list[dict]:
    """Responses for the viewer: half of them correct, if there are enough of both."""
    correct = [response for response in viewer if response["correct"]]
    wrong = [response for response in viewer if not response["correct"]]
    half = _VIEWED // 2
    return correct[:half] + wrong[: _VIEWED - min(half, len(correct))]


def _read_samples(folder: Path) -> tuple[dict[str, np.ndarray], list[list[str | None]]]:
    """The arrays of stage `samples`, problems first, and the answers `[P][M]`."""
    parts = [artifacts.read_arrays(path) for path in shards(folder)]
    merged = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    answers = []
    for path in shards(folder):
        answers += artifacts.read_json(path.with_suffix(".answers.json"))
    return merged, answers


def _base(samples: dict[str, np.ndarray], ns: tuple[int, ...]) -> dict[str, Any]:
    """Accuracies of the base policy, and its Pass@N by N."""
    correct = samples["correct"]
    accuracy, interval = mean_interval(correct.mean(axis=1))
    return {
        "accuracy": accuracy,
        "ci": interval,
        "greedy": float(samples["greedy"].mean()),
        "pass_at": {str(n): float(np.mean(pass_at_n(correct, n))) for n in ns},
    }


def _alpha(context: StageContext, chosen: dict[str, Any]) -> dict[str, Any]:
    """What was chosen on validation problems, and the accuracies it was chosen by.

    `grid` has the weights of progress, with the prover and the pick that were chosen;
    `cells` has every combination.
    """
    folder, search = context.input("search"), context.config.search
    prefix, cells = f"validation-{search.alpha_beams}", []
    for alpha in search.alphas:
        for k in search.prover_ks if alpha > 0 else (None,):
            name = f"{prefix}-q" if k is None else f"{prefix}-alpha-{alpha:g}-k-{k}"
            found = Searched.read(folder / f"{name}.json")
            for rule in PICKS:
                accuracy, interval = mean_interval(found.outcomes(rule))
                cell = {"alpha": alpha, "prover_k": k, "pick": rule}
                cells.append(cell | {"accuracy": accuracy, "ci": interval})
    rule = chosen["pick"]["beam_pav"]
    return {
        "chosen": chosen["alpha"],
        "prover_k": chosen["prover_k"],
        "pick": chosen["pick"],
        "provers": chosen.get("provers", {}),  # none before there were any
        "grid": [
            cell
            for cell in cells
            if cell["pick"] == rule and cell["prover_k"] in (None, chosen["prover_k"])
        ],
        "cells": cells,
        "problems": len(found.rows),
    }


def _theory(context: StageContext) -> dict[str, Any]:
    """Theorem 3.1's terms of BoK(π), for each K for which labels.n_mc is enough."""
    config = context.config
    responses, labels = read_labelled_rollouts(
        context.input("rollouts"), context.input("labels"), config.rollouts.n_cov
    )
    rows = []
    for k in _PROVER_KS:
        if 2 * k <= config.labels.n_mc:
            terms = prover.prover_terms(responses, labels, k=k)
            rows.append({"prover": f"Bo{k}" if k > 1 else "π", **vars(terms)})
    return {"provers": rows, "problems": len({r.problem for r in responses})}
