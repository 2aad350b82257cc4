"""The training loop of SFT, verifiers and RL: it logs, saves, resumes, and stops.

`fit` has one rule for each:

- It logs a line of metrics every `log_every` steps, and stops before it writes one that
  is not finite.
- It saves between steps: every 30 seconds, and on SIGTERM. Processes
  that train as one program do both after the same step (`distributed/agreement.py`).
  A state whose metrics are not finite is never saved, since no step could mend it.
- It resumes from the newest checkpoint, and drops the lines of steps that it will do
  again. What a step does is a function of the state and of its number, so a run that
  was interrupted ends with the same bits.

What else a training does, such as measuring accuracy, is a `Monitor`. `run_steps` is
the bare loop, for a training that is part of another one's step.
"""

import collections
import contextlib
import json
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
import tqdm

from pav_jax.core.errors import UserError
from pav_jax.core.progress_bar import progress_bar
from pav_jax.distributed import signals
from pav_jax.distributed.agreement import Agreement, Decision
from pav_jax.distributed.collectives import is_primary
from pav_jax.storage import artifacts
from pav_jax.storage.checkpoints import Checkpoints
from pav_jax.train.scalars import OpenLog, ScalarLog, open_none

_SAVE_EVERY = 30.0  # seconds: what a kill may cost

State = TypeVar("State")  # has `step`, an int32 scalar: the steps done
# (state, number of the step, from 0) -> (state, scalars to log); donates the state
StepFn = Callable[[State, int], tuple[State, Mapping[str, Any]]]


class Monitor:
    """Watches a training, and may stop it; this one never does.

    Processes that train as one program call its methods after the same steps, and must
    get the same answers.
    """

    advice = "Lower the learning rate"  # what the user can do if training was stopped

    def resume(self, state: Any, scalars: ScalarLog) -> None:
        """Before the first step of an attempt, from a checkpoint or from the start.

        Args:
          state: that of the checkpoint.
          scalars: gets what the monitor measures; the loop closes it.
        """

    def check(self, metrics: Mapping[str, float]) -> str:
        """Why training must stop, before metrics are logged; "" if it need not."""
        return ""

    def after(self, state: Any, metrics: Mapping[str, float]) -> str:
        """Why training must stop, once metrics are logged; "" if it need not."""
        return ""


def fit(
    state: State,
    step_fn: StepFn,
    *,
    steps: int,
    directory: pathlib.Path,
    description: str,
    unit: str = "step",
    ahead: int = 2,
    log_every: int = 50,
    shown: str = "loss",
    monitor: Monitor = Monitor(),  # noqa: B008
    open_log: OpenLog = open_none,
) -> State:
    """Trains to `steps`, from the newest checkpoint in `directory` if there is one.

    Args:
      state: where to start if there is no checkpoint; donated.
      step_fn: one step; all processes that train as one program call it.
      steps: steps in all.
      directory: gets `checkpoints/` and, from the primary process, `metrics.jsonl`.
      description: names the training, in messages and on the progress bar.
      unit: what a step is called there.
      ahead: steps that are dispatched while one runs; a save waits for as many.
      log_every: steps between lines of metrics, each a mean over the steps since the
        last one; the first of an attempt is over those since its checkpoint.
      shown: the metric on the progress bar.
      monitor: what else to do.
      open_log: opens the log that, in this process, gets the same metrics.

    Raises:
      UserError: a metric is not finite, or the monitor stopped the training.
      Terminated, PeerStopped: on SIGTERM, here or elsewhere; all steps are saved.
    """
    with Checkpoints(directory / "checkpoints") as checkpoints:
        state = checkpoints.restore(state) or state
        log = _Log(directory / "metrics.jsonl", int(state.step), open_log, shown)
        monitor.resume(state, log.scalars)
        saver = _Saver(checkpoints, log.done, ahead)
        quiet = not is_primary()
        bar = progress_bar(
            total=steps, initial=log.done, unit=unit, desc=description, disable=quiet
        )

        def after(state: State, metrics: Mapping[str, Any]) -> bool:
            bar.update()
            log.add(metrics)
            due = log.done % log_every == 0 or log.done == steps
            trouble = log.write(state, monitor, bar) if due else ""
            if trouble := trouble or saver.save_if_due(log, state, asked=stopped()):
                trouble += f" {log.where(unit)}; {saver.newest(unit, directory)}"
                raise UserError(f"{description}: {trouble}. {monitor.advice}")
            return saver.has_left

        with bar, contextlib.closing(log.scalars), signals.deferred() as stopped:
            state = run_steps(state, step_fn, steps=steps, ahead=ahead, after=after)
        if saver.has_left:  # for another process: else `deferred` raised Terminated
            raise signals.PeerStopped("another process was terminated; all have saved")
    return state


def run_steps(
    state: State,
    step_fn: StepFn,
    *,
    steps: int,
    ahead: int = 0,
    after: Callable[[State, Mapping[str, Any]], bool] = lambda state, metrics: False,
) -> State:
    """The state after the last step; saves and logs nothing.

    Args:
      state: where to start, at its own `step`; donated.
      step_fn: one step.
      steps: steps in all.
      ahead: steps that are dispatched while one runs; 0 waits for each, since many
        collectives at once can block each other on CPUs.
      after: called with state and metrics after each step; whether to leave.
    """
    running: collections.deque[Any] = collections.deque()
    for step in range(int(state.step), steps):
        state, metrics = step_fn(state, step)
        # With steps ahead, only the metrics: the next step is given the state.
        running.append(metrics if ahead else (state, metrics))
        if len(running) > ahead:
            jax.block_until_ready(running.popleft())
        if after(state, metrics):
            break
    return state


class _Saver:
    """Decides when to save and when to leave, alike in every process."""

    def __init__(self, checkpoints: Checkpoints, first: int, ahead: int):
        self._checkpoints, self._saved = checkpoints, first
        self._agree = Agreement(late=ahead)
        self._at = time.monotonic()
        self.has_left = False  # all is saved, since a process was asked to leave

    def save_if_due(self, log: "_Log", state: Any, *, asked: bool) -> str:
        """Saves the state after a step if all agree to, and then may leave.

        Returns:
          Why it must not be saved, and training must stop; "" if it need not.
        """
        due = time.monotonic() - self._at > _SAVE_EVERY
        word = self._agree(
            Decision.LEAVE if asked else Decision.SAVE if due else Decision.GO_ON
        )
        if word is Decision.GO_ON:
            return ""
        if trouble := log.trouble():
            return trouble
        self._checkpoints.save(log.done, state)
        self._saved, self._at = log.done, time.monotonic()
        if word is Decision.LEAVE:
            self._checkpoints.close()  # while SIGTERM still waits
            self.has_left = True
        return ""

    def newest(self, unit: str, directory: pathlib.Path) -> str:
        """Which checkpoint is the newest, for messages."""
        if not self._saved:
            return "no checkpoint has been saved yet"
        return (
            f"the last checkpoint is of {unit} {self._saved}, in"
            f" {directory / 'checkpoints'}"
        )


class _Log:
    """`metrics.jsonl`, a log of the same, and metrics since their last line."""

    def __init__(self, path: pathlib.Path, first: int, open_log: OpenLog, shown: str):
        self._path, self._shown, self._window, self._covered = path, shown, [], 0
        self.done, self.scalars = first, open_log(first)
        if is_primary():
            forget_after(path, first)

    def add(self, metrics: Mapping[str, Any]) -> None:
        self._window.append(metrics)
        self.done += 1

    def trouble(self) -> str:
        """What is not finite since the last line, in words; "" if all is. Waits for the
        steps, so for a save alone, which does too."""
        return _not_finite(self._read()) if self._window else ""

    def _read(self) -> dict[str, float]:
        """Means over the steps since the last line."""
        rows = jax.device_get([list(metrics.values()) for metrics in self._window])
        columns = dict(zip(self._window[0], zip(*rows, strict=True), strict=True))
        self._covered = len(rows)
        if len(rows) == 1:  # integers stay integers
            return {name: np.asarray(x).item() for name, (x,) in columns.items()}
        return {name: float(np.mean(column)) for name, column in columns.items()}

    def write(self, state: Any, monitor: Monitor, bar: tqdm.tqdm) -> str:
        """Writes the line, and returns why training must stop; "" if it need not.

        Nothing is written if a metric is not finite or the monitor's `check` says why
        training must stop.
        """
        means = self._read()
        self._window = []
        bar.set_postfix({self._shown: f"{means[self._shown]:.3f}"})
        if trouble := _not_finite(means) or monitor.check(means):
            return trouble
        append_row(self._path, {"step": self.done, **means})
        self.scalars.scalars(self.done, means)
        return monitor.after(state, means)

    def where(self, unit: str) -> str:
        """The steps of the last means, counted from 1, for messages."""
        if self._covered == 1:
            return f"at {unit} {self.done}"
        return f"within {unit}s {self.done - self._covered + 1} to {self.done}"


def _not_finite(means: Mapping[str, float]) -> str:
    """Which metrics are not finite, in words; "" if all are."""
    bad = [name for name, value in means.items() if not math.isfinite(value)]
    return f"{', '.join(bad)} stopped being finite" if bad else ""


def append_row(path: pathlib.Path, row: Mapping[str, Any]) -> None:
    """Adds a line of JSON to a file, from the primary process.

    Raises:
      UserError: if it cannot be written.
      ValueError: a number is not finite.
    """
    if is_primary():
        artifacts.append_line(path, row)


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The rows that `append_row` wrote; a line that a kill cut short is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            rows.append(json.loads(line))
    return rows


def forget_after(path: pathlib.Path, step: int) -> None:
    """Drops the rows of steps that will be done again."""
    kept = [row for row in read_rows(path) if row["step"] <= step]
    text = "".join(json.dumps(row) + "\n" for row in kept)
    artifacts.write_atomically(path, lambda file: file.write(text.encode()))
