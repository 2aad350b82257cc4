"""Keeps the parameters of the least validation loss."""

import math
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from pav_jax.distributed.collectives import all_gather, is_primary
from pav_jax.storage import checkpoints
from pav_jax.train import loop
from pav_jax.train.scalars import ScalarLog

_MEASUREMENTS = 8  # of a training, evenly spread; each may write the parameters


class BestByValidation(loop.Monitor):
    """Measures the validation loss of a training now and then, and keeps the best.

    Writes `validation.jsonl`, a line for each measurement, and `best-STEP/`, the
    parameters of the least loss so far. What is measured is a function of the state, so
    a training that was interrupted ends with the same ones. All processes that train as
    one program call the methods together.

    Args:
      measure: the loss of a training state.
      steps: steps of the training.
      directory: gets the files.
      log_every: that of `loop.fit`.
    """

    def __init__(
        self,
        measure: Callable[[Any], float],
        *,
        steps: int,
        directory: pathlib.Path,
        log_every: int = 50,
    ):
        self._measure, self._steps = measure, steps
        self._directory, self._log_every = directory, log_every
        self._log = directory / "validation.jsonl"
        self._best = math.inf
        self._kept: pathlib.Path | None = None
        self._scalars: ScalarLog | None = None

    def resume(self, state: Any, scalars: ScalarLog) -> None:
        """Drops what later steps measured: they will be done again."""
        step, self._scalars = int(state.step), scalars
        if is_primary():
            loop.forget_after(self._log, step)
        all_gather(True)  # wait for that
        # A better one, of a step to be done again, may have taken the place of the
        # best. On this machine it will be the best again; on another it need not, and
        # then the best is of what is measured from here on.
        rows = loop.read_rows(self._log)
        there = [row for row in rows if self._folder(row["step"]).exists()]
        best = min(there, key=lambda row: row["loss"], default={"step": -1})
        chosen = int(all_gather(best["step"])[0])  # as the primary sees the folders
        if chosen >= 0:
            self._best = next(row["loss"] for row in rows if row["step"] == chosen)
            self._kept = self._folder(chosen)
        if is_primary():
            for folder in self._directory.glob("best-*"):
                if folder != self._kept:  # of later steps, or half removed
                    shutil.rmtree(folder, ignore_errors=True)
        all_gather(True)

    def after(self, state: Any, metrics: Mapping[str, float]) -> str:
        step = int(state.step)
        if not self._is_measured(step):
            return ""
        loss = float(self._measure(state))
        if not math.isfinite(loss):
            return "the validation loss stopped being finite"
        if loss < self._best:
            self._keep(step, state.params)
            self._best = loss
        # Last: with it, the measurement is complete.
        loop.append_row(self._log, {"step": step, "loss": loss})
        self._scalars.scalars(step, {"validation_loss": loss})
        return ""

    def finish(self, path: pathlib.Path) -> None:
        """Moves the best parameters to `path`, which must not exist."""
        if is_primary():
            self._kept.rename(path)
        all_gather(True)

    def _is_measured(self, step: int) -> bool:
        """Whether `step`, at which metrics are logged, is the first after an eighth."""
        before = (step - 1) // self._log_every * self._log_every
        count = _MEASUREMENTS
        return step * count // self._steps > before * count // self._steps

    def _folder(self, step: int) -> pathlib.Path:
        return self._directory / f"best-{step}"

    def _keep(self, step: int, params: Any) -> None:
        new = self._folder(step)
        checkpoints.save_params(new, params)
        if is_primary() and self._kept:
            # First renamed: what a kill leaves of it must not count as whole.
            gone = self._kept.rename(f"{self._kept}-replaced")
            shutil.rmtree(gone, ignore_errors=True)
        self._kept = new
