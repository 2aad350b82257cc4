"""The training loop: resumes, logs, saves, and stops on NaN."""

import contextlib
import json
import math
import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from pav_jax.core.progress import progress
from pav_jax.core.types import Batch
from pav_jax.distributed import sharding, signals
from pav_jax.distributed.agreement import Agreement, Word
from pav_jax.storage import artifacts
from pav_jax.storage.checkpoints import Checkpoints
from pav_jax.train.step import TrainState

_SAVE_EVERY = 30.0  # seconds: what a kill may cost
_AHEAD = 2  # steps dispatched while one runs; a save waits for as many


def fit(
    state: TrainState,
    step_fn: Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]],
    batches: Callable[[int], dict[str, np.ndarray]],
    *,
    steps: int,
    directory: pathlib.Path,
    description: str,
    log_every: int = 50,
) -> TrainState:
    """Trains to `steps`, from the newest checkpoint in `directory` if there is one.

    Resuming gives the same bits as never having stopped: the batch is a
    function of the step, and the state holds everything else. On a mesh of several
    processes all call this; process 0 writes the metrics.

    Args:
      state: where to start if there is no checkpoint; donated.
      step_fn: from `make_train_step`.
      batches: the batch of a step.
      steps: optimizer steps in all.
      directory: gets `checkpoints/` and `metrics.jsonl`.
      description: what the progress bar says.
      log_every: steps between lines of metrics, each a mean over those steps.

    Returns:
      The state after the last step.

    Raises:
      FloatingPointError: the loss stopped being finite; names the steps.
      Terminated: on SIGTERM, once the steps done are saved.
      PeerStopped: another process got SIGTERM; likewise.
    """
    leads = jax.process_index() == 0
    checkpoints = Checkpoints(directory / "checkpoints")
    restored = checkpoints.restore(state)
    if restored is not None:
        state = restored
    first = int(state.step)
    path = directory / "metrics.jsonl" if leads else pathlib.Path(os.devnull)
    if leads:
        forget_after(path, first)
    log = path.open("a")
    window: list[dict[str, Any]] = []
    agree, word = Agreement(late=_AHEAD), Word.GO_ON
    saved = time.monotonic()
    bar = progress(
        total=steps, initial=first, unit="step", desc=description, disable=not leads
    )
    with bar, signals.deferred() as stopped:
        for step in range(first, steps):
            state, metrics = step_fn(state, sharding.place_batch(batches(step)))
            window.append(metrics)
            if len(window) > _AHEAD:
                jax.block_until_ready(window[-1 - _AHEAD])
            bar.update()
            if (step + 1) % log_every == 0 or step + 1 == steps:
                fetched = jax.device_get(window)
                means = {k: float(np.mean([m[k] for m in fetched])) for k in fetched[0]}
                if not math.isfinite(means["loss"]):
                    raise FloatingPointError(
                        f"{description}: the loss is not finite within steps"
                        f" {step + 1 - len(window)} to {step}"
                    )
                log.write(json.dumps({"step": step + 1, **means}) + "\n")
                log.flush()
                bar.set_postfix(loss=f"{means['loss']:.3f}")
                window = []
            due = time.monotonic() - saved > _SAVE_EVERY
            word = agree(Word.LEAVE if stopped() else Word.SAVE if due else Word.GO_ON)
            if word is not Word.GO_ON:
                checkpoints.save(step + 1, state)
                saved = time.monotonic()
            if word is Word.LEAVE:
                checkpoints.close()
                break
    log.close()
    if word is Word.LEAVE:
        raise signals.PeerStopped("another process was terminated; all have saved")
    checkpoints.close()
    return state


def forget_after(path: pathlib.Path, step: int) -> None:
    """Drops lines of steps that will be done again, and one that a kill cut short."""
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    artifacts.write_atomically(path, lambda file: file.write("".join(kept).encode()))
