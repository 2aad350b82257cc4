"""What a run shows of its loops while it runs: profiles, and scalars of trainings.

Both are files of times, which belong to no result. So they are beside the stages, in
`profiles/` and `events/`, and not within: the files of a finished stage are hashed in
its manifest, and what later stages depend on.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.core.profile import Profile, Trace
from pav_jax.train import wandb_runs
from pav_jax.train.events import Events
from pav_jax.train.scalars import OpenLog, open_none


@dataclasses.dataclass(frozen=True)
class Watch:
    """What the primary process shows; the others show nothing.

    Attributes:
      profile: steps to trace of the loop of each stage that runs; 0 traces none.
      log_to: where the scalars of trainings go: "tensorboard", "wandb" or "none".
    """

    profile: int = 0
    log_to: str = "tensorboard"

    def check(self) -> None:
        """Raises UserError if that cannot be done."""
        if self.profile < 0:
            raise UserError(f"--profile={self.profile} must be at least 1 step")
        if self.log_to == "wandb":
            wandb_runs.check()

    def profile_of(self, stage: str, root: Path, say: Callable[[str], None]) -> Profile:
        """The profile of a stage, in `root/profiles/STAGE`."""
        if not self.profile:
            return Profile()
        return Trace(root / "profiles" / stage, stage, self.profile, say)

    def log_of(self, stage: str, root: Path, config: ConfigDict) -> OpenLog:
        """What opens the log of a stage that trains, in `root/events/STAGE`."""
        folder = root / "events" / stage
        if self.log_to == "tensorboard":
            return functools.partial(Events, folder)
        if self.log_to == "none":
            return open_none
        return functools.partial(
            wandb_runs.WandbRun,
            folder,
            experiment=config.name,
            stage=stage,
            config=config.to_dict(),
        )
