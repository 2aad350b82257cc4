"""What watches an RL run: measurements of accuracy, and reasons to stop.

RL can go wrong in two ways that the loss does not show. The policy moves so far from
the initial one that the verifier has never seen such responses (`max_kl`), or it finds
wrong responses that the verifier scores highly, so that its accuracy falls
(`min_accuracy`). That is measured on validation problems, whatever the problems of the
curves are: a run that test problems stop is chosen by them.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.distributed.collectives import all_gather, is_primary
from pav_jax.rl.update import RLState
from pav_jax.train import loop
from pav_jax.train.loop import append_row, forget_after, read_rows
from pav_jax.train.scalars import ScalarLog

# state -> (accuracies by name, rows that show some responses)
Measure = Callable[[RLState], tuple[dict[str, float], list[dict[str, Any]]]]


class RLMonitor(loop.Monitor):
    """Measures an RL run every `measure_every` iterations, and stops it if it must.

    The primary process writes `accuracy.jsonl` and `responses.jsonl`.

    Args:
      settings: has `steps`, `measure_every`, `max_kl` and `min_accuracy`.
      directory: gets the files.
      measure: a measurement; all processes call it together. Its accuracy "validation"
        decides whether the run goes on.
    """

    advice = "Lower the learning rate or alpha, or raise kl"

    def __init__(self, settings: ConfigDict, directory: Path, measure: Measure):
        self._settings, self._measure = settings, measure
        self._directory = directory
        self._accuracy = directory / "accuracy.jsonl"
        self._responses = directory / "responses.jsonl"
        self._scalars: ScalarLog | None = None
        self._measured: list[float] = []  # the initial policy's first

    def resume(self, state: RLState, scalars: ScalarLog) -> None:
        """Drops what later iterations wrote, and does again a measurement that a kill
        interrupted. A new run first measures the initial policy.

        Raises:
          UserError: an earlier version began the run, and measured no validation.
        """
        step, self._scalars = int(state.step), scalars
        interrupted = all_gather(is_primary() and self._forget_after(step))[0]
        rows = read_rows(self._accuracy)
        if any("validation" not in row for row in rows):
            raise UserError(
                f"{self._accuracy} has no accuracies on validation problems, by which"
                " min_accuracy now stops a run: an earlier version of pav_jax began it."
                f" Remove {self._directory}, and run it again"
            )
        self._measured = [row["validation"] for row in rows]
        if interrupted:
            self._write_measurement(state)

    def check(self, metrics: Mapping[str, float]) -> str:
        most = self._settings.max_kl
        if metrics["kl"] <= most:
            return ""
        return (
            f"the KL divergence to the initial policy is {metrics['kl']:.3g} nats a"
            f" token, above max_kl={most:g},"
        )

    def after(self, state: RLState, metrics: Mapping[str, float]) -> str:
        if not self._is_measured(int(state.step)):
            return ""
        self._write_measurement(state)
        return self._fall()

    def _is_measured(self, step: int) -> bool:
        return step % self._settings.measure_every == 0 or step == self._settings.steps

    def _write_measurement(self, state: RLState) -> None:
        step = int(state.step)
        accuracies, responses = self._measure(state)
        for row in responses:
            append_row(self._responses, {"step": step, **row})
        # Last: with it, the measurement is complete.
        append_row(self._accuracy, {"step": step, **accuracies})
        self._scalars.scalars(step, accuracies)
        self._measured.append(accuracies["validation"])

    def _forget_after(self, step: int) -> bool:
        """Whether the measurement at `step` is to be done again."""
        forget_after(self._accuracy, step)
        measured = {row["step"] for row in read_rows(self._accuracy)}
        interrupted = self._is_measured(step) and step not in measured
        forget_after(self._responses, step - 1 if interrupted else step)
        return interrupted

    def _fall(self) -> str:
        """Why the run must stop, if the accuracy was too low twice in a row.

        A single low measurement of few problems may be chance.
        """
        first, *rest = self._measured
        least = self._settings.min_accuracy
        if len(rest) < 2 or max(rest[-2:]) >= least * first:
            return ""
        return (
            f"validation accuracy has fallen to {rest[-2]:.3g} and {rest[-1]:.3g},"
            f" below min_accuracy={least:g} of the initial policy's {first:.3g},"
        )
