"""Stage `improvement`: curves and Pass@N of every policy that RL made.

Intervals are over the seeds of `config.rl.seeds`. All these start from one SFT policy,
one verifier and one RFT policy, so an interval says what another RL seed would give
from there, and nothing of another SFT policy or verifier. SFT and RFT have one policy,
and no interval.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pav_jax import labels
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.progress_bar import progress_bar
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Params, Response
from pav_jax.metrics import best_of_n, pass_at_n, seed_interval
from pav_jax.pipeline import unsolved
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import write_ledger
from pav_jax.policy import load_policy
from pav_jax.scores import score_outcomes
from pav_jax.storage import artifacts
from pav_jax.tasks.problems import Problems
from pav_jax.verifier import load_verifier

_LEDGER = "ledger_"  # begins the names of counts among a policy's arrays
_CHOICE = "unsolved"  # beside the names of policies: draws of SFT; see `_draw_choice`
_PAID = ("decoded", "prefilled", "scored", "trained")  # by an iteration of RL
Samples = dict[str, np.ndarray]  # of one policy: see `_draw`
Found = TypeVar("Found")


def run_improvement(context: StageContext) -> None:
    """Curves and final Pass@N of all policies: `improvement.json`."""
    config = context.config
    runs = {
        f"rl-{method}-{seed}": method
        for method in config.rl.methods
        for seed in config.rl.seeds
    }
    policies = {"sft": "sft", "rft": "rft", **runs}
    measured = Problems.load(config, context.input("data"), config.rl.measured)
    problems = measured.first(config.rl.final.get("problems"))
    samples = _sample_all(context, problems, list(policies))
    hard = unsolved.never_solved(samples[_CHOICE]["correct"])
    beams = unsolved.search_all(context, problems, list(policies), hard)
    total = unsolved.ledger_of(beams)
    for arrays in samples.values():
        total += _ledger_of(arrays)
    write_ledger(context.directory, total)
    curves = {name: _curve(context.input(name)) for name in runs}
    methods: dict[str, list[str]] = {}
    for name, method in policies.items():
        methods.setdefault(method, []).append(name)
    results = {
        "problems": len(problems),
        "curve_problems": len(measured),
        "samples": config.rl.final.samples,
        "seeds": list(config.rl.seeds),
        **_compared(samples, curves, methods, config.rl.final),
        "unsolved": unsolved.compared(
            samples[_CHOICE],
            _by_method(samples, methods),
            _by_method(beams, methods) if beams else {},
            np.array([len(prompt) for prompt in problems.prompts]),
            config.rl.final.ns,
        ),
        "config": config.rl.to_dict(),
    }
    if "provers" in context.inputs:
        path = context.input("provers") / "provers.json"
        results["provers"] = artifacts.read_json(path)["provers"]
    artifacts.write_json(context.directory / "improvement.json", results)


def _sample_all(
    context: StageContext, problems: Problems, policies: Sequence[str]
) -> dict[str, Samples]:
    """Responses of every policy, and those of `_CHOICE`."""
    prm = load_verifier(context.input("prm"), problems.architecture, problems.dtype)
    samples: dict[str, Samples] = {}
    names = [_CHOICE, *policies]
    for name in progress_bar(iterable=names, unit="policy", desc=context.stage):
        path = context.directory / f"{name}.npz"
        if not path.exists():
            if name == _CHOICE:
                arrays = _draw_choice(context, problems)
            else:
                arrays = _draw(context, problems, prm, name)
            artifacts.write_arrays(path, arrays)
        samples[name] = artifacts.read_arrays(path)
    return samples


def _draw_choice(context: StageContext, problems: Problems) -> Samples:
    """Responses of the SFT policy, of which problems without a right one are chosen.

    No policy is measured on these draws. A policy near SFT answers them as SFT does:
    on the same draws it would be wrong by the choice alone.

    Returns:
      `correct` `[problems, unsolved]`, and the counts of the ledger as `_draw` has.
    """
    count, ledger = context.config.rl.final.unsolved, Ledger()
    draw = _sampler(context, problems, "sft", Stream.RL_UNSOLVED, ledger)
    responses = draw(
        count=count, sampling=labels.sampling_for(problems, 1.0, branches=count)
    )
    correct = np.array([r.correct for r in responses]).reshape(-1, count)
    return {"correct": correct} | _counts(ledger)


def _draw(context: StageContext, problems: Problems, prm: Params, name: str) -> Samples:
    """Responses of one policy to all problems, and greedy ones.

    Returns:
      `correct`, `length` and `prm` `[problems, samples]`; `greedy` `[problems]`; and
      the counts of the ledger, each under its name.
    """
    final, ledger = context.config.rl.final, Ledger()
    draw = _sampler(context, problems, name, Stream.RL_FINAL, ledger)
    sampling = functools.partial(labels.sampling_for, problems)
    # As many of SFT as choose problems: what has been published of it is of so many.
    count = final.unsolved if name == "sft" else final.samples
    responses = draw(count=count, sampling=sampling(1.0, branches=count))
    greedy = draw(count=1, sampling=sampling(0.0, branches=1))
    arrays = {
        "correct": np.array([r.correct for r in responses]),
        "length": np.array([len(r.tokens) for r in responses]),
        "prm": score_outcomes(
            prm, responses, architecture=problems.architecture, ledger=ledger
        ),
    }
    arrays = {key: array.reshape(-1, count) for key, array in arrays.items()}
    arrays["greedy"] = np.array([r.correct for r in greedy])
    return arrays | _counts(ledger)


def _sampler(
    context: StageContext,
    problems: Problems,
    name: str,
    stream: Stream,
    ledger: Ledger,
) -> Callable[..., list[Response]]:
    """Draws from a policy for all problems, given `count` and `sampling`."""
    return functools.partial(
        labels.sample_responses,
        load_policy(context.input(name), problems.architecture, problems.dtype),
        problems,
        range(len(problems)),
        seed=derive(context.config.seed, stream),
        ledger=ledger,
        profile=context.profile,
    )


def _counts(ledger: Ledger) -> Samples:
    """What a ledger has, among arrays."""
    return {f"{_LEDGER}{key}": np.array(value) for key, value in vars(ledger).items()}


def _ledger_of(arrays: Samples) -> Ledger:
    """What `_counts` put among arrays."""
    return Ledger(
        **{
            key.removeprefix(_LEDGER): int(count)
            for key, count in arrays.items()
            if key.startswith(_LEDGER)
        }
    )


def _by_method(
    found: Mapping[str, Found], methods: dict[str, list[str]]
) -> dict[str, list[Found]]:
    """What policies have: of each method, a list entry a seed."""
    return {
        method: [found[name] for name in names] for method, names in methods.items()
    }


def _compared(
    samples: dict[str, Samples],
    curves: dict[str, dict],
    methods: dict[str, list[str]],
    final: Any,
) -> dict[str, Any]:
    """Methods side by side, each the mean of its seeds' policies."""
    mean_curves = {
        method: _mean_curve([curves[name] for name in names])
        for method, names in methods.items()
        if names[0] in curves
    }
    return {
        "policies": {
            method: _summary(found, final.ns)
            for method, found in _by_method(samples, methods).items()
        },
        "curves": mean_curves,
        "against": _against(final.reference, mean_curves, samples, methods),
    }


def _curve(folder: Path) -> dict[str, list[float]]:
    """Accuracy of one run against iterations and tokens.

    `tokens` are those sampled for training. `paid` are all that iterations pay: these,
    those of prompts, those that a verifier reads, and those that are trained on.
    """
    spent = artifacts.read_jsonl(folder / "metrics.jsonl")
    rows = artifacts.read_jsonl(folder / "accuracy.jsonl")
    tokens = {
        key: np.cumsum([0, *(sum(row[kind] for kind in kinds) for row in spent)])
        for key, kinds in (("tokens", _PAID[:1]), ("paid", _PAID))
    }
    return {
        "step": [row["step"] for row in rows],
        **{key: [int(x[row["step"]]) for row in rows] for key, x in tokens.items()},
        "greedy": [row["greedy"] for row in rows],
        "sampled": [row["sampled"] for row in rows],
    }


def _mean_curve(curves: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Means over seeds, and each seed's own accuracies."""
    return {
        "step": curves[0]["step"],
        **{
            key: np.mean([c[key] for c in curves], axis=0).tolist()
            for key in ("tokens", "paid")
        },
        **{
            key: {
                "mean": np.mean([c[key] for c in curves], axis=0).tolist(),
                "seeds": [c[key] for c in curves],
            }
            for key in ("greedy", "sampled")
        },
    }


def _over_seeds(values: list[np.ndarray]) -> dict[str, Any]:
    """Mean over seeds and problems; values are `[P]` for each seed."""
    by_seed = [float(np.mean(value)) for value in values]
    mean, interval = seed_interval(by_seed)
    return {"accuracy": mean, "seed_interval": interval, "seeds": by_seed}


def _summary(samples: list[dict[str, np.ndarray]], ns: tuple[int, ...]) -> dict:
    """Accuracies of one method, a list entry a seed."""
    return {
        "sampled": _over_seeds([s["correct"].mean(axis=1) for s in samples]),
        "greedy": _over_seeds([s["greedy"].astype(float) for s in samples]),
        "pass_at": {
            str(n): _over_seeds([pass_at_n(s["correct"], n) for s in samples])
            for n in ns
        },
        "best_of": {
            str(n): _over_seeds([best_of_n(s["prm"], s["correct"], n) for s in samples])
            for n in ns
        },
        "length": float(np.mean([s["length"].mean() for s in samples])),
    }


def _against(
    reference: str, curves: dict, samples: dict, methods: dict[str, list[str]]
) -> dict[str, Any]:
    """Each method's gain over the reference, and how soon it equals it.

    `gain` is in final sampled accuracy, with its interval over seeds: a method less the
    reference of the same seed, the one policy of SFT or RFT less that of every seed.
    `sooner` is how many times fewer iterations, and `cheaper` how many times fewer
    sampled tokens, the mean curve takes than the reference's own to first be at the
    reference's final accuracy. None where it never is, and where one of the two is
    there before RL, which takes nothing.
    """
    if reference not in curves:
        raise UserError(
            f"config.rl.final.reference={reference!r} is none of config.rl.methods:"
            f" {', '.join(curves)}"
        )
    theirs = _by_seed(samples, methods[reference])
    goal = curves[reference]["sampled"]["mean"][-1]
    out: dict[str, Any] = {"reference": reference, "accuracy": goal, "methods": {}}
    for method, names in methods.items():
        gains = _by_seed(samples, names) - theirs
        mean, interval = seed_interval(gains)
        if method == reference:  # no width, and nothing was measured
            interval = None
        row: dict[str, Any] = {
            "gain": mean,
            "seed_interval": interval,
            "seeds": gains.tolist(),
        }
        if method in curves:
            for key, by in (("sooner", "step"), ("cheaper", "tokens")):
                its = _spent(curves[reference], by, goal)
                spent = _spent(curves[method], by, goal)
                row[key] = its / spent if its and spent else None
        out["methods"][method] = row
    return out


def _spent(curve: dict, by: str, goal: float) -> float | None:
    """What a mean curve takes to its first measurement at `goal`; None if never.

    Args:
      curve: of `_mean_curve`.
      by: "step" or "tokens".
      goal: a sampled accuracy.
    """
    there = np.flatnonzero(np.array(curve["sampled"]["mean"]) >= goal)
    return curve[by][there[0]] if len(there) else None


def _by_seed(samples: dict[str, Samples], names: list[str]) -> np.ndarray:
    """Sampled accuracy of each of some policies, float `[S]`."""
    return np.array([samples[name]["correct"].mean() for name in names])
