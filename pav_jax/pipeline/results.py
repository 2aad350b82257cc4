"""The figures behind every curve, from the artifacts of the stages."""

import importlib.metadata
import platform
from pathlib import Path

import numpy as np

from pav_jax import prover
from pav_jax.core.config import flatten
from pav_jax.metrics import best_of_n, majority_of_n, mean_interval, pass_at_n
from pav_jax.pipeline.runner import StageContext, read_manifest
from pav_jax.pipeline.shards import read_ledger
from pav_jax.report.page import write_report
from pav_jax.storage import artifacts
from pav_jax.storage.records import read_all_labels, read_seed_rollouts, shards

_DRAWN = 12  # responses in the step viewer
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "gemma", "numpy")


def run_report(context: StageContext) -> None:
    """results.json and the page."""
    samples, answers = _read_samples(context.input("samples"))
    verifier = artifacts.read_json(context.input("evaluation") / "evaluation.json")
    ends = {name: verifier.pop(name) for name in ("failures", "grades")}
    curves = _sample_curves(samples, answers, context.config)
    curves += _beam_curves(context)
    accuracy, interval = mean_interval(samples["correct"].mean(axis=1))
    ns = context.config.search.ns
    results = {
        "task": context.config.task.name,
        "description": f"Experiment {context.config.name}: {_shape(context.config)}.",
        "base": {
            "accuracy": accuracy,
            "ci": interval,
            "greedy": float(samples["greedy"].mean()),
            "pass_at": {str(n): _mean(pass_at_n(samples["correct"], n)) for n in ns},
            **ends,
        },
        "verifier": verifier,
        "search": [_row(*curve) for curve in curves],
        "alpha": _alpha(context),
        "compute_efficiency": _efficiency(curves),
        "stages": {
            name: read_manifest(folder)["seconds"]
            for name, folder in context.inputs.items()
        },
        "ledger": {
            name: vars(read_ledger(folder))
            for name, folder in context.inputs.items()
            if (folder / "ledger.json").exists()
        },
        "config": flatten(context.config),
        "seeds": {"config.seed": context.config.seed},
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
        },
        "problems": len(samples["greedy"]),
    }
    if "improvement" in context.inputs:
        path = context.input("improvement") / "improvement.json"
        results["improvement"] = artifacts.read_json(path)
    if context.config.rollouts.n_cov > 1:
        results["theory"] = _theory(context)
    viewer = artifacts.read_json(context.input("evaluation") / "viewer.json")
    artifacts.write_json(context.directory / "responses.json", _choose(viewer))
    artifacts.write_json(context.directory / "results.json", results)
    write_page(context.directory)


def write_page(directory: Path) -> Path:
    """Draws the page from `results.json` and `responses.json` beside it."""
    results = artifacts.read_json(directory / "results.json")
    responses = artifacts.read_json(directory / "responses.json")
    return write_report(results, responses, directory)


def _shape(config) -> str:
    model = config.model
    if "name" in model:
        policy = f"{model.name}{', shrunk for a trial' if model.get('shrunk') else ''}"
    else:
        policy = f"a policy of {model.num_layers} layers of width {model.embed_dim}"
    problems = config.problems.labels or "all"
    seeds = config.rollouts.n_cov
    return (
        f"{policy}, {seeds} seed rollout{'s' if seeds > 1 else ''} of each of"
        f" {problems} problems, {config.labels.n_mc} continuations of every step prefix"
    )


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values))


def _choose(viewer: list[dict]) -> list[dict]:
    """Right and wrong responses in turn, as far as there are both."""
    right = [x for x in viewer if x["correct"]]
    wrong = [x for x in viewer if not x["correct"]]
    half = _DRAWN // 2
    return right[:half] + wrong[: _DRAWN - min(half, len(right))]


def _read_samples(directory: Path) -> tuple[dict[str, np.ndarray], list]:
    parts = [artifacts.read_arrays(path) for path in shards(directory)]
    merged = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    answers = []
    for path in shards(directory):
        answers += artifacts.read_json(path.with_suffix(".answers.json"))
    return merged, answers


# A curve's point: method, N, accuracy of each problem [P], tokens of each [P, 3].


def _sample_curves(samples, answers, config) -> list[tuple]:
    correct, prompt = samples["correct"], samples["prompt_length"]
    length = samples["length"].mean(axis=1)
    nothing = np.zeros(len(prompt))
    points = [
        (
            "greedy",
            1,
            samples["greedy"].astype(float),
            np.stack([samples["greedy_length"], prompt, nothing], axis=1),
        )
    ]
    for n in config.search.ns:
        unscored = np.stack([n * length, prompt, nothing], axis=1)
        scored = np.stack([n * length, prompt, n * (prompt + length)], axis=1)
        seed = config.seed
        points += [
            ("majority", n, majority_of_n(answers, correct, n, seed=seed), unscored),
            ("best_of_n_orm", n, best_of_n(samples["orm"], correct, n), scored),
            ("best_of_n_pav", n, best_of_n(samples["prm"], correct, n), scored),
            ("pass_at_n", n, pass_at_n(correct, n), unscored),
        ]
    return points


def _beam_rows(path: Path) -> tuple[np.ndarray, np.ndarray]:
    rows = np.array(artifacts.read_json(path), float)
    return rows[:, 0], rows[:, 1:]


def _beam_curves(context: StageContext) -> list[tuple]:
    directory = context.input("search")
    points = []
    for method in ("beam_q", "beam_pav", "beam_oracle"):
        for n in context.config.search.beams:
            path = directory / f"{method}-{n}.json"
            if path.exists():
                points.append((method, n, *_beam_rows(path)))
    return points


def _row(method: str, n: int, values: np.ndarray, tokens: np.ndarray) -> dict:
    accuracy, interval = mean_interval(values)
    decoded, prefilled, scored = tokens.mean(axis=0).tolist()
    return {
        "method": method,
        "n": n,
        "accuracy": accuracy,
        "ci": interval,
        "tokens": decoded + prefilled + scored,
        "decoded": decoded,
        "prefilled": prefilled,
        "scored": scored,
    }


def _theory(context: StageContext) -> dict:
    """Theorem 3.1's terms of BoK(π), for each K that the labels can tell of."""
    config = context.config
    responses = read_seed_rollouts(context.input("rollouts"), config.rollouts.n_cov)
    found = read_all_labels(context.input("labels"))
    rows = []
    for k in (1, 2, 4, 8, 16, 32):
        if 2 * k <= config.labels.n_mc:
            terms = prover.prover_terms(responses, found, k=k)
            rows.append({"prover": f"Bo{k}" if k > 1 else "π", **vars(terms)})
    return {"provers": rows, "problems": len({r.problem for r in responses})}


def _alpha(context: StageContext) -> dict:
    directory, search = context.input("search"), context.config.search
    grid = []
    for alpha in search.alphas:
        name = f"validation-{search.alpha_beams}-alpha-{alpha:g}.json"
        values, _ = _beam_rows(directory / name)
        accuracy, interval = mean_interval(values)
        grid.append({"alpha": alpha, "accuracy": accuracy, "ci": interval})
    chosen = artifacts.read_json(directory / "search.json")["alpha"]
    return {"chosen": chosen, "grid": grid, "problems": len(values)}


def _efficiency(curves: list[tuple]) -> dict:
    """Beam search against best-of-N by ORM: points at equal tokens, and tokens
    at equal accuracy.

    Best-of-N between its measured N is taken to be linear in log tokens. The
    headline difference is the mean over all beam points within its range; the
    interval is over problems, paired.
    """
    peer = [(v, t.sum(axis=1).mean()) for m, _, v, t in curves if m == "best_of_n_orm"]
    place = np.log([tokens for _, tokens in peer])
    values = np.stack([v for v, _ in peer])  # [N, P]
    best = int(np.argmax(values.mean(axis=1)))
    reference, reference_tokens = values[best].mean(), peer[best][1]
    out = {
        "reference": "best_of_n_orm best accuracy",
        "accuracy": float(reference),
        "tokens": float(reference_tokens),
        "points_at_equal_tokens": {},
        "points_ci": {},
        "by_point": [],
    }
    for method in ("beam_q", "beam_pav"):
        differences = []
        reached = None
        for name, n, v, tokens in curves:
            if name != method:
                continue
            paid = tokens.sum(axis=1).mean()
            if reached is None and v.mean() >= reference:
                reached = paid
            if not place[0] <= np.log(paid) <= place[-1]:
                continue
            high = min(int(np.searchsorted(place, np.log(paid))), len(place) - 1)
            low = max(high - 1, 0)
            span = place[high] - place[low]
            share = (np.log(paid) - place[low]) / span if span else 0.0
            difference = v - ((1 - share) * values[low] + share * values[high])
            differences.append(difference)
            mean, interval = mean_interval(difference)
            out["by_point"].append(
                {"method": method, "n": n, "tokens": float(paid)}
                | {"points": mean, "ci": interval}
            )
        out[method] = float(reference_tokens / reached) if reached else None
        if differences:
            mean, interval = mean_interval(np.mean(differences, axis=0))
            out["points_at_equal_tokens"][method] = mean
            out["points_ci"][method] = interval
    return out
