"""A stage that trains: it resumes, and leaves its parameters, metrics and ledger."""

import shutil
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pav_jax.ledger import Ledger
from pav_jax.shards import write_ledger
from pav_jax.stages import StageContext
from pav_jax.train import checkpoint, loop
from pav_jax.train.data import Batches
from pav_jax.train.state import Loss, init_state, make_optimizer, make_train_step


def run_training(
    context: StageContext,
    params: Any,
    loss: Loss,
    rows: dict[str, np.ndarray],
    config: ConfigDict,
) -> None:
    """Trains, and leaves `params/`, `metrics.jsonl` and `ledger.json`.

    Args:
      context: of the stage.
      params: where to start; donated.
      loss: of a batch of `rows`.
      rows: the training rows; has `tokens` `[N, T]`.
      config: the optimizer's, with `batch_size`.
    """
    optimizer = make_optimizer(config)
    final = context.directory / "params"
    if final.exists():  # killed between this and the manifest
        return
    batches = Batches(rows, batch_size=config.batch_size, seed=context.config.seed)
    state = loop.fit(
        init_state(params, optimizer),
        make_train_step(loss, optimizer),
        batches,
        steps=config.steps,
        directory=context.directory,
        description=context.stage,
    )
    lengths = np.count_nonzero(rows["tokens"], axis=1)
    trained = int(lengths.mean() * config.batch_size * config.steps)
    write_ledger(context.directory, Ledger(trained=trained))
    checkpoint.save_params(final, state.params)
    shutil.rmtree(context.directory / "checkpoints")
