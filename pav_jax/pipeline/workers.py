"""Several processes at one experiment: process 0 leads, the others help with shards.

The leader owns the workdir: it alone takes the lock, decides which stages run, writes
manifests and runs the stages that cannot be shared out. The others wait for it, and
where a stage is `shared` they run it too: whoever claims a shard first writes it, and
training is one program of all. Who does what goes through small files in
`workdir/.worker-RUN`, so that nobody waits for anybody in between; jax only tells the
others which RUN it is.

    STAGE.open, STAGE.done    the leader began it, or found it or made it complete
    NAME.claim, NAME.done     a shard that one process took, and has dealt with
    left-I                    process I is through, or stopped; it says why

`pav score` shares out a file in the same way; its folder lies beside the output.
"""

import contextlib
import glob
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from pav_jax.core.errors import UserError
from pav_jax.distributed.processes import Processes, is_loss
from pav_jax.distributed.signals import PeerStopped, unstuck
from pav_jax.storage import artifacts
from pav_jax.storage.buckets import local_folder
from pav_jax.storage.workdir import SETTINGS, claim

T = TypeVar("T")

_POLL_SECONDS = 0.3
# How long the leader, when it fails, waits for the others to hear of that: with it ends
# the service that they are connected to, and jax would then end them in its own way.
_FAREWELL_SECONDS = 10.0


class Worker:
    """A run of one process, which has all shards to itself."""

    is_primary = True
    count = 1

    def claim(self, name: str) -> bool:
        """Whether the shard is this process's to write; no other will get it."""
        return True

    def close(self, name: str) -> None:
        """Says that a shard is on disk."""

    def closed(self, name: str) -> bool:
        """Whether a shard is on disk."""
        return True

    def pause(self) -> None:
        """Waits a moment for others."""

    def check(self) -> None:
        """Stops if another process has.

        Raises:
          PeerStopped: one has.
        """

    def lockstep(self) -> contextlib.AbstractContextManager[None]:
        """Within, all processes compute as one, and wait for each other inside of jax.

        Raises:
          PeerStopped: another process is gone.
        """
        return contextlib.nullcontext()

    def begin(self, stage: str) -> None:
        """The leader: lets others help with a stage."""

    def end(self, stage: str) -> None:
        """The leader: a stage is complete."""

    def tidy(self) -> None:
        """After `meet`: the leader removes what they went by, once all have left."""


class PeerWorker(Worker):
    """This process's view of what the processes of a run do.

    Args:
      folder: of the run; all see the same one.
      processes: which one this is.
    """

    def __init__(self, folder: Path, processes: Processes):
        self._folder = folder
        self._index = processes.index
        self._others = [i for i in range(processes.count) if i != processes.index]
        self._checked = 0.0
        self.is_primary = processes.index == 0
        self.count = processes.count

    def claim(self, name: str) -> bool:
        try:
            (self._folder / f"{name}.claim").open("x").close()
        except FileExistsError:
            return False
        return True

    def close(self, name: str) -> None:
        (self._folder / f"{name}.done").touch()

    def closed(self, name: str) -> bool:
        return (self._folder / f"{name}.done").exists()

    def pause(self) -> None:
        time.sleep(_POLL_SECONDS)
        self.check()

    def check(self) -> None:
        if time.monotonic() - self._checked < _POLL_SECONDS:
            return
        self._checked = time.monotonic()
        for other in self._others:
            left = self._left(other)
            if left.exists() and (why := left.read_text()):
                raise PeerStopped(f"process {other} stopped: {why}")

    @contextlib.contextmanager
    def lockstep(self) -> Iterator[None]:
        import jax

        try:
            with unstuck(self.check):
                yield
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            lost = is_loss(error)
            if lost or isinstance(error, jax.errors.JaxRuntimeError):
                self._checked = 0.0
                self.check()
            # On CPUs this is heard at once; elsewhere jax ends this process when the
            # lost one has been silent for a minute.
            if lost:
                raise PeerStopped("another process is gone without a word") from error
            raise

    def begin(self, stage: str) -> None:
        (self._folder / f"{stage}.open").touch()

    def end(self, stage: str) -> None:
        self.close(stage)

    def tidy(self) -> None:
        if self.is_primary:
            self._await_others()
            shutil.rmtree(self._folder, ignore_errors=True)

    def await_begin(self, stage: str) -> bool:
        """Waits until a stage is begun or complete; returns whether it is to be run."""
        while not self.closed(stage):
            if (self._folder / f"{stage}.open").exists():
                return True
            self.pause()
        return False

    def await_end(self, stage: str) -> None:
        """Waits until a stage is complete."""
        while not self.closed(stage):
            self.pause()

    def leave(self, why: str = "") -> None:
        """Says that this process does no more; for a reason if it failed."""
        with contextlib.suppress(UserError, OSError):
            text = " ".join(why.split())
            text = text if len(text) <= 300 else f"{text[:297]}..."
            left = self._left(self._index)
            artifacts.write_atomically(left, lambda file: file.write(text.encode()))
        if why and self.is_primary:
            self._await_others()

    def _await_others(self) -> None:
        end = time.monotonic() + _FAREWELL_SECONDS
        while time.monotonic() < end and not all(
            self._left(other).exists() for other in self._others
        ):
            time.sleep(_POLL_SECONDS)

    def _left(self, index: int) -> Path:
        return self._folder / f"left-{index}"


@contextlib.contextmanager
def meet(
    place: Path,
    processes: Processes,
    claim: Callable[[], contextlib.AbstractContextManager[T]],
    *,
    flag: str,
) -> Iterator[tuple[Worker, T | None]]:
    """Those who work at one thing, and what the leader holds of it meanwhile.

    All processes of the run come here at about the same time.

    Args:
      place: a path that all see; folders called so, and -RUN, are made beside it.
      processes: those of the run.
      claim: the leader's hold on the thing.
      flag: what the user gave as the place.

    Raises:
      UserError: as `claim`; or this process does not see the leader's folder.
      PeerStopped: the leader could not claim it.
    """
    if processes.count == 1:
        with claim() as held:
            yield Worker(), held
        return
    with contextlib.ExitStack() as stack:
        held, run = None, 0  # which tells the others that there is none
        if processes.index == 0:
            try:
                held = stack.enter_context(claim())
                for old in place.parent.glob(f"{glob.escape(place.name)}-*"):
                    shutil.rmtree(old)
                run = 1 + secrets.randbelow(2**31 - 1)
                _folder(place, run).mkdir()
            finally:
                _broadcast(run)
        elif not (run := _broadcast(0)):
            raise PeerStopped(f"process 0 could not claim {flag}")
        folder = _folder(place, run)
        if not folder.is_dir():
            raise UserError(
                f"{flag} is not what process 0 works at; all processes need a folder"
                " that they all see, such as an NFS mount (for a workdir in a bucket,"
                " PAV_SCRATCH has to be there)"
            )
        worker = PeerWorker(folder, processes)
        try:
            yield worker, held
        except BaseException as error:
            worker.leave(str(error) or type(error).__name__)
            raise
        worker.leave()


@contextlib.contextmanager
def open_workdir(
    workdir: str | os.PathLike[str],
    name: str,
    values: dict[str, Any],
    processes: Processes,
) -> Iterator[tuple[Path, Worker]]:
    """The claimed workdir, and who works in it; see `workdir.claim` and `meet`.

    Raises:
      UserError: as these; or this process was given another config than the leader.
    """
    root = local_folder(workdir)
    with meet(
        root / ".worker",
        processes,
        lambda: claim(workdir, name, values),
        flag=f"--workdir={workdir}",
    ) as (worker, _):
        settings = {"name": name, "config": values}
        if not worker.is_primary and artifacts.read_json(root / SETTINGS) != settings:
            raise UserError("this process was given another config than process 0")
        yield root, worker


def _folder(place: Path, run: int) -> Path:
    return place.with_name(f"{place.name}-{run:08x}")


def _broadcast(value: int) -> int:
    """The leader's value, in every process."""
    import numpy as np
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
