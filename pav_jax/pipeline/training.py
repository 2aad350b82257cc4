"""A stage that trains: it resumes, and writes parameters, metrics and its ledger."""

import functools
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Batch
from pav_jax.distributed import mesh, sharding
from pav_jax.distributed.collectives import all_gather
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import write_ledger
from pav_jax.storage import checkpoints
from pav_jax.train import loop
from pav_jax.train.batches import Batches, ShortFirst, mixed
from pav_jax.train.step import (
    Loss,
    TrainState,
    init_state,
    make_optimizer,
    make_train_step,
    moved_share,
)
from pav_jax.train.validation import BestByValidation


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


class HeldOut:
    """Rows that a training does not see, and the loss on them.

    Args:
      rows: name -> array `[N, ...]`.
      loss: (params, batch) -> the sum of losses and the sum of their weights, float32
        scalars; rows of zeros weigh nothing.
      batch_size: rows that are read at once.
    """

    def __init__(
        self,
        rows: dict[str, np.ndarray],
        loss: Callable[[Any, Batch], tuple[jax.Array, jax.Array]],
        *,
        batch_size: int,
    ):
        self._batches = [
            {
                name: _padded(a[i : i + batch_size], batch_size)
                for name, a in rows.items()
            }
            for i in range(0, len(rows["tokens"]), batch_size)
        ]
        self._loss = jax.jit(lambda p, batch: loss(p, sharding.constrain_batch(batch)))

    def loss(self, state: TrainState) -> float:
        """The mean loss by weight."""
        sums = [
            jax.device_get(self._loss(state.params, sharding.place_batch(batch)))
            for batch in self._batches
        ]
        total, weight = np.sum(np.array(sums, float), axis=0)
        return float(total / weight)


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    return np.pad(rows, [(0, count - len(rows))] + [(0, 0)] * (rows.ndim - 1))


def warn_of_rounding(context: StageContext, params: Any, **rates: float) -> None:
    """Says how little of a bfloat16 network is trained; nothing of float32.

    Args:
      context: of the stage.
      params: where training starts; in any place.
      rates: the peaks of learning rates, by the names of their fields.
    """
    for field, rate in rates.items():
        share = moved_share(params, rate)
        if share is not None:
            context.log(
                f'WARNING: with model.dtype="bfloat16" parameters are rounded after'
                f" each step; even one of {field}={rate:g}, the largest, changes only"
                f" {share:.1%} of them, and the others stay as they are. To train, set"
                ' config.model.dtype="float32" (and model.dtype of config.provers,'
                " where it is given)"
            )


def run_training(
    context: StageContext,
    params: Any,
    loss: Loss,
    rows: Sequence[dict[str, np.ndarray]],
    config: ConfigDict,
    *,
    held_out: HeldOut | None = None,
) -> None:
    """Trains, and writes `params/`, `metrics.jsonl` and `ledger.json`.

    With `held_out` the parameters are those of the least loss on it, which
    `validation.jsonl` has; otherwise the last ones.
    On a mesh of several processes all call it with the same arguments.

    Args:
      context: of the stage.
      params: where to start; donated.
      loss: of a batch of `rows`.
      rows: one or several sets of training rows, of which each batch has equal parts;
        they have `tokens` `[N, T]`.
      config: the optimizer's, with `batch_size`; may have `short_first`, the `steps`
        and the `fraction` of the rows, the shortest, that training begins with.
      held_out: rows that are not trained on.

    Raises:
      UserError: a set has fewer rows than its part of a batch; or as `loop.fit`.
    """
    optimizer = make_optimizer(config)
    train_step = make_train_step(loss, optimizer)
    batches = _batches(context, rows, config)
    final = context.directory / "params"
    if not all_gather(final.exists())[0]:
        monitor = held_out and BestByValidation(
            held_out.loss, steps=config.steps, directory=context.directory
        )

        def step_fn(state, step):
            return train_step(state, sharding.place_batch(mixed(batches, step)))

        warn_of_rounding(context, params, learning_rate=config.learning_rate)
        state = loop.fit(
            init_state(params, optimizer),
            functools.partial(context.profile.step, step_fn),
            steps=config.steps,
            directory=context.directory,
            description=context.stage,
            monitor=monitor or loop.Monitor(),
            open_log=context.open_log,
        )
        if context.worker.is_primary:
            trained = sum(some.tokens_in(config.steps) for some in batches)
            write_ledger(context.directory, Ledger(trained=int(trained)))
        if monitor:
            monitor.finish(final)
        else:
            checkpoints.save_params(final, state.params)
    if context.worker.is_primary:
        shutil.rmtree(context.directory / "checkpoints", ignore_errors=True)


def _batches(
    context: StageContext, rows: Sequence[dict[str, np.ndarray]], config: ConfigDict
) -> list[Batches] | list[ShortFirst]:
    """Batches of each set of rows; arguments are those of `run_training`.

    Raises:
      UserError: a set has too few rows; names the field of the batch's size.
    """
    settings = dict(batch_size=config.batch_size // len(rows), seed=context.config.seed)
    try:
        if short := config.get("short_first"):
            return [ShortFirst(some, **settings, **short) for some in rows]
        return [Batches(some, **settings) for some in rows]
    except UserError as error:
        field = next(iter(context.batches), "batch_size")
        half = "half of " if len(rows) == 2 else ""
        raise UserError(
            f"stage {context.stage}: {error}, which is {half}{field}"
            f"={config.batch_size}; lower that, or give it more to train on"
        ) from error
