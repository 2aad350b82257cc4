"""Stages `rft` and `rl-METHOD-SEED`, which improve the policy (Sec. 5, App. E).

A method is an entry of `config.rl.methods`. Each of its seeds is a stage, so a method
can be added or changed without running the others again.
"""

import functools
import shutil
from pathlib import Path

from ml_collections import ConfigDict

from pav_jax import policy
from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.seeds import run_seed
from pav_jax.core.types import Params
from pav_jax.distributed import collectives, sharding
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import write_ledger
from pav_jax.pipeline.training import run_training, together, warn_of_rounding
from pav_jax.rl.rewards import Objective
from pav_jax.rl.trainer import Trainer
from pav_jax.storage import artifacts, checkpoints, records
from pav_jax.tasks.problems import Problems
from pav_jax.verifier import load_verifier


@together
def run_rft(context: StageContext) -> None:
    """Fine-tuning of the base policy on its own correct rollouts (App. E)."""
    problems = Problems.load(context.config, context.input("data"), "labels")
    rows = policy.rft_rows(records.read_all_responses(context.input("rollouts")))
    context.log(counted(len(rows["tokens"]), "correct response"))
    params = policy.load_policy(
        context.input("sft"), problems.architecture, problems.dtype, sharding.TRAIN
    )
    loss = functools.partial(policy.sft_loss, architecture=problems.architecture)
    run_training(context, params, loss, [rows], context.config.rl.rft)


@together
def run_rl(context: StageContext, *, method: str, seed: int) -> None:
    """One RL run from the RFT policy (Sec. 5)."""
    final = context.directory / "params"
    if not collectives.all_gather(final.exists())[0]:  # else: killed after them
        _train(context, final, method=method, seed=seed)
    if context.worker.is_primary:
        shutil.rmtree(context.directory / "checkpoints", ignore_errors=True)


def _train(context: StageContext, final: Path, *, method: str, seed: int) -> None:
    """Leaves `ledger.json`, and last the policy at `final`."""
    config = context.config
    train = Problems.load(config, context.input("data"), "labels")
    objective = objective_of(config, method)
    measured, validation = _watched(train, config.rl.measured)
    trainer = Trainer(
        objective=objective,
        settings=config.rl.training,
        train=train,
        measured=measured,
        validation=validation,
        initial=policy.load_policy(
            context.input("rft"), train.architecture, train.dtype, sharding.TRAIN
        ),
        verifier=_load_verifier(
            train, context.input(prm_stage(objective.prover)), objective
        ),
        seed=run_seed(config.seed, seed),
        directory=context.directory,
        name=context.stage,
        refresh=config.rl.get("refresh"),
    )
    rates = dict(learning_rate=config.rl.training.learning_rate)
    if objective.baseline != "group":
        rates |= dict(value_learning_rate=config.rl.training.value_learning_rate)
    warn_of_rounding(context, trainer.initial, **rates)
    state = trainer.fit(open_log=context.open_log, profile=context.profile)
    if context.worker.is_primary:
        ledger = Ledger()
        for row in artifacts.read_jsonl(context.directory / "metrics.jsonl"):
            for name in ("decoded", "prefilled", "scored", "trained"):
                setattr(ledger, name, getattr(ledger, name) + row[name])
        write_ledger(context.directory, ledger)
    checkpoints.save_params(final, state.policy)


def _watched(train: Problems, split: str) -> tuple[Problems, Problems]:
    """The problems of the curves, and those of validation, which may stop a run.

    They are one object if the curves are of validation problems.

    Raises:
      UserError: there are no validation problems.
    """
    validation = train.split("validation")
    if not validation:
        raise UserError(
            "there are no validation problems, whose accuracy may stop an RL run"
            " (config.rl.training.min_accuracy); raise config.problems.validation"
        )
    return (validation if split == "validation" else train.split(split)), validation


def prm_stage(prover: str) -> str:
    """The stage of the verifier that an RL method with this `prover` follows."""
    return f"prm-{prover}" if prover else "prm"


def _load_verifier(
    problems: Problems, directory: Path, objective: Objective
) -> Params | None:
    """The verifier, placed where `Trainer` wants it; None if the method uses none."""
    load = functools.partial(
        load_verifier, directory, problems.architecture, problems.dtype
    )
    if objective.refresh_every or objective.baseline == "verifier":
        return load(sharding.TRAIN)
    if not objective.uses_verifier:
        return None
    with collectives.local_mesh():
        return load()


def objective_of(config: ConfigDict, method: str) -> Objective:
    """The objective of an entry of `config.rl.methods`.

    Raises:
      UserError: it has unknown fields, or lacks some, or its values do not go together.
    """
    try:
        return Objective(kl=config.rl.training.kl, **config.rl.methods[method])
    except UserError as error:
        raise UserError(f"config.rl.methods.{method}: {error}") from error
    except TypeError as error:
        raise UserError(
            f"config.rl.methods.{method} needs reward and baseline, may have alpha,"
            " prover_k, prover, n_mc and refresh_every, and nothing else:"
            f" {error}"
        ) from error
