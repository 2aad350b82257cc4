"""Scalars for Weights & Biases, whose package is imported only when it is asked for."""

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from pav_jax.core.errors import UserError
from pav_jax.storage import artifacts

_PROJECT = "pav_jax"  # if WANDB_PROJECT does not name another
_UNCONNECTED = ("offline", "disabled")  # values of WANDB_MODE that need no account


def check() -> None:
    """Whether scalars can be logged, before anything is computed.

    Raises:
      UserError: the package is not installed, or nobody is logged in.
    """
    wandb = _package()
    if os.environ.get("WANDB_MODE") not in _UNCONNECTED:
        with _explained(wandb):
            wandb.login()


class WandbRun:
    """A training as one run of Weights & Biases; a `ScalarLog`.

    The training that goes on from a checkpoint goes on with its run there, which
    `wandb.json` names. Of steps that it has already, Weights & Biases takes no further
    scalars; those of a step that is done again are the same.

    Args:
      directory: gets `wandb.json`, and what the package keeps.
      first: steps done before; a new run begins if there are none.
      experiment: its name, by which the runs of its stages are grouped.
      stage: which of them this is.
      config: the experiment's.

    Raises:
      UserError: as `check`; or Weights & Biases refuses the run.
    """

    def __init__(
        self,
        directory: Path,
        first: int,
        *,
        experiment: str,
        stage: str,
        config: Mapping[str, Any],
    ):
        wandb = _package()
        directory.mkdir(parents=True, exist_ok=True)
        named = directory / "wandb.json"
        if not first or not named.exists():
            artifacts.write_json(named, {"id": secrets.token_hex(8)})
        with _explained(wandb):
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                group=experiment,
                name=f"{experiment} {stage}",
                job_type=stage,
                config=dict(config),
                id=artifacts.read_json(named)["id"],
                resume="allow",
                dir=os.fspath(directory),
            )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars of a step; the package sends them while training goes on."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Waits until all is sent."""
        self._run.finish()


def _package() -> ModuleType:
    try:
        import wandb
    except ImportError as error:
        raise UserError(
            "--log_to=wandb needs the package wandb, which is not installed: pip"
            " install wandb; or give --log_to=tensorboard"
        ) from error
    return wandb


@contextlib.contextmanager
def _explained(wandb: ModuleType) -> Iterator[None]:
    try:
        yield
    except wandb.errors.Error as error:
        raise UserError(
            f"--log_to=wandb: {str(error).rstrip('.')}; run wandb login, or set"
            " WANDB_API_KEY, or set WANDB_MODE=offline and run wandb sync later"
        ) from error
