"""A stage that trains: it resumes, and writes parameters, metrics and its ledger."""

import functools
import shutil
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from pav_jax.core.ledger import Ledger
from pav_jax.distributed import mesh, sharding
from pav_jax.distributed.collectives import all_gather
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import write_ledger
from pav_jax.storage import checkpoints
from pav_jax.train import loop
from pav_jax.train.batches import Batches, ShortFirst
from pav_jax.train.step import Loss, init_state, make_optimizer, make_train_step


def together(run: Callable[..., None]) -> Callable[..., None]:
    """Lets all processes run a stage that trains at once, as one program.

    Without a mesh of all their devices the primary process trains alone, as in a run of
    one process. The stage has to be `collective`.
    """

    @functools.wraps(run)
    def run_together(context: StageContext, **settings: Any) -> None:
        worker, global_mesh = context.worker, mesh.global_mesh()
        if worker.count == 1:
            run(context, **settings)
        elif global_mesh:
            with jax.set_mesh(global_mesh), worker.lockstep():
                run(context, **settings)
        elif worker.is_primary:
            context.log("process 0 trains alone, since the config has no mesh")
            run(context, **settings)

    return run_together


def run_training(
    context: StageContext,
    params: Any,
    loss: Loss,
    rows: dict[str, np.ndarray],
    config: ConfigDict,
) -> None:
    """Trains, and writes `params/`, `metrics.jsonl` and `ledger.json`.

    On a mesh of several processes all call it with the same arguments.

    Args:
      context: of the stage.
      params: where to start; donated.
      loss: of a batch of `rows`.
      rows: the training rows; has `tokens` `[N, T]`.
      config: the optimizer's, with `batch_size`; may have `short_first`, the `steps`
        and the `share` of the rows, the shortest, that training begins with.
    """
    optimizer = make_optimizer(config)
    train_step = make_train_step(loss, optimizer)
    settings = dict(batch_size=config.batch_size, seed=context.config.seed)
    if short := config.get("short_first"):
        batches = ShortFirst(rows, **settings, **short)
    else:
        batches = Batches(rows, **settings)
    final = context.directory / "params"
    if not all_gather(final.exists())[0]:
        state = loop.fit(
            init_state(params, optimizer),
            lambda state, step: train_step(state, sharding.place_batch(batches(step))),
            steps=config.steps,
            directory=context.directory,
            description=context.stage,
        )
        if context.worker.is_primary:
            trained = batches.tokens_in(config.steps)
            write_ledger(context.directory, Ledger(trained=int(trained)))
        checkpoints.save_params(final, state.params)
    if context.worker.is_primary:
        shutil.rmtree(context.directory / "checkpoints", ignore_errors=True)
