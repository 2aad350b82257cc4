"""The stages that improve the policy: RFT, RL by each method and seed, and what came.

A method is an entry of `config.rl.methods`; each of its seeds is a stage of its own,
so that a method can be added or changed without running the others again.
"""

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pav_jax import draws, evaluation, policy
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.progress import progress
from pav_jax.distributed import collectives, mesh
from pav_jax.distributed.agreement import gather
from pav_jax.labels import Response
from pav_jax.metrics import best_of_n, mean_interval, pass_at_n
from pav_jax.pipeline.provers import run_provers
from pav_jax.pipeline.runner import Stage, StageContext
from pav_jax.pipeline.shards import write_ledger
from pav_jax.pipeline.training import run_training, together
from pav_jax.rl import trainer as reinforce
from pav_jax.rl.update import Objective
from pav_jax.storage import artifacts, checkpoints, records
from pav_jax.tasks import problems
from pav_jax.train.batches import pad_rows
from pav_jax.verifier import VerifierParams

_STREAM_FINAL = 104  # of draws; reinforce has the others


def stages(config: ConfigDict) -> list[Stage]:
    """RFT, the choice of a prover if the config has one, a stage `rl-METHOD-SEED` for
    each run, and their comparison."""
    model = ("task", "model", "limits", "seed")
    sampled = (*model, "sampling")
    refresh = ("rl.refresh",) if "refresh" in config.rl else ()
    runs = [
        Stage(
            f"rl-{method}-{seed}",
            functools.partial(run_rl, method=method, seed=seed),
            ("data", "rft", "prm"),
            (*sampled, "rl.training", "rl.measured", f"rl.methods.{method}")
            + (refresh if config.rl.methods[method].get("refresh_every") else ()),
            shared=True,
        )
        for method in config.rl.methods
        for seed in config.rl.seeds
    ]
    before = [
        Stage(
            "rft",
            run_rft,
            ("data", "sft", "rollouts"),
            (*model, "rl.rft"),
            shared=True,
        )
    ]
    if "provers" in config.rl:
        needs, fields = ("data", "sft", "rft"), (*sampled, "rl.provers")
        before.append(Stage("provers", run_provers, needs, fields))
    names = tuple(stage.name for stage in [*before, *runs])
    return [
        *before,
        *runs,
        Stage(
            "improvement",
            run_improvement,
            ("data", "sft", "prm", *names),
            (*sampled, "rl.final", "rl.measured", "rl.seeds", "rl.methods"),
        ),
    ]


def rft_rows(responses: list[Response]) -> dict[str, np.ndarray]:
    """Fine-tuning rows of the correct ones, each distinct response once.

    Returns:
      `tokens` int32 `[N, T]`, and `mask` float32 `[N, T]`, 1 on response tokens.

    Raises:
      UserError: none is correct.
    """
    kept = sorted({(r.prompt, r.tokens) for r in responses if r.correct})
    if not kept:
        raise UserError(
            f"none of {len(responses)} seed rollouts is correct, so there is nothing to"
            " fine-tune on; train the base policy longer, or sample more (rollouts)"
        )
    width = max(len(prompt) + len(tokens) for prompt, tokens in kept)
    masks = [[0] * len(prompt) + [1] * len(tokens) for prompt, tokens in kept]
    return {
        "tokens": pad_rows([prompt + tokens for prompt, tokens in kept], width),
        "mask": pad_rows(masks, width, np.float32),
    }


@together
def run_rft(context: StageContext) -> None:
    """Fine-tuning of the base policy on its own correct rollouts (App. E)."""
    lab = problems.Lab.load(context.config, context.input("data"), "labels")
    rows = rft_rows(records.read_all_responses(context.input("rollouts")))
    context.log(f"{len(rows['tokens']):,} correct responses")
    params = lab.load_policy(context.input("sft"), mesh.TRAIN)
    loss = functools.partial(policy.sft_loss, config=lab.model)
    run_training(context, params, loss, rows, context.config.rl.rft)


@together
def run_rl(context: StageContext, *, method: str, seed: int) -> None:
    """One RL run from the RFT policy, with a frozen verifier (Sec. 5)."""
    final = context.directory / "params"
    if gather(final.exists())[0]:  # killed between this and the manifest
        return
    config, data = context.config, context.input("data")
    train = problems.Lab.load(config, data, "labels")
    objective = _objective(config, method)
    trainer = reinforce.Trainer(
        objective=objective,
        settings=config.rl.training,
        train=train,
        test=problems.Lab.load(config, data, config.rl.measured),
        initial=train.load_policy(context.input("rft"), mesh.TRAIN),
        verifier=_load_verifier(train, context.input("prm"), objective),
        seed=draws.stream(config.seed, seed),
        directory=context.directory,
        name=context.stage,
        refresh=config.rl.get("refresh"),
    )
    state = trainer.fit()
    if context.crew.leads:
        ledger = Ledger()
        for row in _lines(context.directory / "metrics.jsonl"):
            for name in ("decoded", "prefilled", "scored", "trained"):
                setattr(ledger, name, getattr(ledger, name) + row[name])
        write_ledger(context.directory, ledger)
    checkpoints.save_params(final, state.policy)
    if context.crew.leads:
        shutil.rmtree(context.directory / "checkpoints")


def _load_verifier(
    lab: problems.Lab, directory: Path, objective: Objective
) -> VerifierParams | None:
    """Where `Trainer` wants it, if it does."""
    if objective.refresh_every:
        return lab.load_verifier(directory, mesh.TRAIN)
    if not objective.reads_verifier:
        return None
    with collectives.apart():
        return lab.load_verifier(directory)


def _objective(config: ConfigDict, method: str) -> Objective:
    try:
        return Objective(kl=config.rl.training.kl, **config.rl.methods[method])
    except TypeError as error:
        raise UserError(
            f"rl.methods.{method} needs reward and baseline, may have alpha, prover_k,"
            f" trust_outcome, n_mc and refresh_every, and nothing else: {error}"
        ) from error


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# What came of it.


def run_improvement(context: StageContext) -> None:
    """Curves and final Pass@N of all policies: `improvement.json`."""
    config = context.config
    runs = {
        f"rl-{method}-{seed}": (method, seed)
        for method in config.rl.methods
        for seed in config.rl.seeds
    }
    policies = {"sft": ("sft", 0), "rft": ("rft", 0), **runs}
    lab = problems.Lab.load(config, context.input("data"), config.rl.measured)
    of_curves = len(lab.problems)
    lab = lab.first(config.rl.final.get("problems"))
    prm = lab.load_verifier(context.input("prm"))
    for name in progress(iterable=policies, unit="policy", desc=context.stage):
        path = context.directory / f"{name}.npz"
        if not path.exists():
            artifacts.write_arrays(path, _final(context, lab, prm, name))
    samples = {
        name: artifacts.read_arrays(context.directory / f"{name}.npz")
        for name in policies
    }
    total = Ledger()
    for arrays in samples.values():
        total += Ledger(*(int(x) for x in arrays["ledger"]))
    write_ledger(context.directory, total)
    curves = {name: _curve(context.input(name)) for name in runs}
    ns = config.rl.final.ns
    methods = {}
    for name, (method, _) in policies.items():
        methods.setdefault(method, []).append(name)
    results = {
        "problems": len(lab.problems),
        "curve_problems": of_curves,
        "samples": config.rl.final.samples,
        "seeds": list(config.rl.seeds),
        "policies": {
            method: _summary([samples[name] for name in names], ns)
            for method, names in methods.items()
        },
        "curves": {
            method: _mean_curve([curves[name] for name in names])
            for method, names in methods.items()
            if names[0] in curves
        },
        "unsolved": _unsolved(
            samples["sft"],
            {m: [samples[name] for name in names] for m, names in methods.items()},
            ns,
        ),
        "config": config.rl.to_dict(),
    }
    if "provers" in context.inputs:
        path = context.input("provers") / "provers.json"
        results["provers"] = artifacts.read_json(path)["provers"]
    reference = config.rl.final.reference
    results["against"] = _against(reference, results["curves"], samples, methods)
    artifacts.write_json(context.directory / "improvement.json", results)


def _final(context, lab, prm, name: str) -> dict[str, np.ndarray]:
    """Responses of one policy to all test problems, and greedy ones."""
    config = context.config
    params = lab.load_policy(context.input(name))
    ledger = Ledger()
    draw = functools.partial(
        draws.sample,
        params,
        lab,
        range(len(lab.problems)),
        seed=draws.stream(config.seed, _STREAM_FINAL),
        ledger=ledger,
    )
    final = config.rl.final
    count = final.unsolved if name == "sft" else final.samples
    responses = draw(count=count, sampling=lab.sampling(1.0, branches=count))
    greedy = draw(count=1, sampling=lab.sampling(0.0, branches=1))
    scores = evaluation.score_responses(
        prm,
        responses,
        [np.array([len(r.tokens)]) for r in responses],
        config=lab.model,
        ledger=ledger,
    )
    arrays = {
        "correct": np.array([r.correct for r in responses]),
        "length": np.array([len(r.tokens) for r in responses]),
        "prm": np.concatenate(scores),
    }
    arrays = {key: array.reshape(-1, count) for key, array in arrays.items()}
    arrays["greedy"] = np.array([r.correct for r in greedy])
    arrays["ledger"] = np.array(list(vars(ledger).values()))
    return arrays


def _curve(folder: Path) -> dict[str, list[float]]:
    """Test accuracy of one run against iterations and tokens sampled for training."""
    decoded = np.cumsum([0] + [x["decoded"] for x in _lines(folder / "metrics.jsonl")])
    rows = _lines(folder / "accuracy.jsonl")
    return {
        "step": [row["step"] for row in rows],
        "tokens": [int(decoded[row["step"]]) for row in rows],
        "greedy": [row["greedy"] for row in rows],
        "sampled": [row["sampled"] for row in rows],
    }


def _mean_curve(curves: list[dict[str, list[float]]]) -> dict[str, Any]:
    """Means over seeds, and each seed's own accuracies."""
    return {
        "step": curves[0]["step"],
        "tokens": np.mean([c["tokens"] for c in curves], axis=0).tolist(),
        **{
            key: {
                "mean": np.mean([c[key] for c in curves], axis=0).tolist(),
                "seeds": [c[key] for c in curves],
            }
            for key in ("greedy", "sampled")
        },
    }


def _over_seeds(values: list[np.ndarray]) -> dict[str, Any]:
    """Mean over seeds and problems; the interval is over problems, seeds averaged."""
    mean, interval = mean_interval(np.mean(values, axis=0))
    by_seed = [float(np.mean(value)) for value in values]
    return {"accuracy": mean, "ci": interval, "seeds": by_seed}


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


def _unsolved(sft, methods: dict[str, list], ns: tuple[int, ...]) -> dict:
    """The problems that no response of the SFT policy solves, and who solves them."""
    hard = ~sft["correct"].any(axis=1)
    if not hard.any():
        return {"problems": 0}
    cut = {
        method: [
            {k: a[hard] for k, a in s.items() if k in ("correct", "prm")}
            for s in samples
        ]
        for method, samples in methods.items()
    }
    return {
        "problems": int(hard.sum()),
        "best_of": {
            method: {
                str(n): float(
                    np.mean([best_of_n(s["prm"], s["correct"], n) for s in samples])
                )
                for n in ns
            }
            for method, samples in cut.items()
        },
    }


def _against(
    reference: str, curves: dict, samples: dict, methods: dict[str, list[str]]
) -> dict[str, Any]:
    """Each method's gain over the reference, and how soon it equals it.

    `gain` is in final sampled accuracy, with its interval over problems, paired;
    `sooner` is how many times fewer iterations, and `cheaper` how many times fewer
    sampled tokens, the mean curve takes to the reference's final accuracy. None where
    it does not get there.
    """
    if reference not in curves:
        raise UserError(
            f"rl.final.reference={reference!r} is none of rl.methods:"
            f" {', '.join(curves)}"
        )
    theirs = _per_problem(samples, methods[reference])
    goal = curves[reference]["sampled"]["mean"][-1]
    out: dict[str, Any] = {"reference": reference, "accuracy": goal, "methods": {}}
    for method, names in methods.items():
        # The reference to itself has no interval: zeros would pass for outcomes.
        mean, interval = 0.0, (0.0, 0.0)
        if method != reference:
            mean, interval = mean_interval(_per_problem(samples, names) - theirs)
        row: dict[str, Any] = {"gain": mean, "ci": interval}
        if method in curves:
            curve, last = curves[method], curves[reference]
            there = np.flatnonzero(np.array(curve["sampled"]["mean"]) >= goal)
            for key, by in (("sooner", "step"), ("cheaper", "tokens")):
                spent = curve[by][there[0]] if len(there) else 0
                row[key] = last[by][-1] / spent if spent else None
        out["methods"][method] = row
    return out


def _per_problem(samples: dict, names: list[str]) -> np.ndarray:
    return np.mean([samples[name]["correct"].mean(axis=1) for name in names], axis=0)
