"""Several processes at one experiment: process 0 is the primary, the others help.

The primary process owns the workdir. It alone takes the lock, decides which stages run,
writes manifests, and runs the stages that are not collective. The others wait for it.
They run collective stages too: a shard is written by the worker that claims it first,
and training is one program of all. They coordinate by small files in
`workdir/.workers-RUN`, so that no process waits for another between shards; only RUN
itself goes through jax.

    STAGE.open, STAGE.done    the primary began the stage; it is complete
    NAME.claim, NAME.done     a worker took the shard; it is on disk
    left-I                    process I has ended; why, if it failed or was stopped

`pav score` splits a file among its processes in the same way, with a folder beside its
output.
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

from pav_jax.core.errors import UserError, is_mistake
from pav_jax.distributed.processes import Processes, is_loss
from pav_jax.distributed.signals import AGAIN, MISTAKE, PeerStopped, unstuck
from pav_jax.storage import artifacts
from pav_jax.storage.buckets import local_folder
from pav_jax.storage.workdir import SETTINGS, claim

T = TypeVar("T")

_POLL_SECONDS = 0.3
# How long a primary process that failed waits for the others to see that. When it ends,
# so does the service that they are connected to, and jax would abort them.
_FAREWELL_SECONDS = 10.0


class Worker:
    """The only process of a run, which does everything."""

    is_primary = True
    count = 1

    def claim(self, name: str) -> bool:
        """Whether the shard is this process's to write; only one process gets it."""
        return True

    def finish(self, name: str) -> None:
        """Tells the others that a shard is on disk, or a stage complete."""

    def is_finished(self, name: str) -> bool:
        """Whether a shard is on disk, or a stage complete."""
        return True

    def wait(self) -> None:
        """Waits a moment for others; raises PeerStopped as `check`."""

    def check(self) -> None:
        """Returns if all processes are at work.

        Raises:
          PeerStopped: another one failed or was stopped.
        """

    def lockstep(self) -> contextlib.AbstractContextManager[None]:
        """A block in which all processes compute as one program, and wait in jax.

        Raises:
          PeerStopped: another process is gone.
        """
        return contextlib.nullcontext()

    def open_stage(self, stage: str) -> None:
        """From the primary process: lets the others start with a stage."""

    def remove_folder(self) -> None:
        """After `join_workers`: removes the folder of the run, once all have left."""


class PeerWorker(Worker):
    """One of several processes of a run.

    Args:
      folder: of the run; all processes see it.
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

    def finish(self, name: str) -> None:
        (self._folder / f"{name}.done").touch()

    def is_finished(self, name: str) -> bool:
        return (self._folder / f"{name}.done").exists()

    def wait(self) -> None:
        time.sleep(_POLL_SECONDS)
        self.check()

    def check(self) -> None:
        if time.monotonic() - self._checked < _POLL_SECONDS:
            return
        self._checked = time.monotonic()
        for other in self._others:
            left = self._left(other)
            if left.exists() and (text := left.read_text()):
                code, _, why = text.partition(" ")
                raise PeerStopped(f"process {other} stopped: {why}", int(code))

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
            # CPUs report the loss at once. On other devices jax ends this process when
            # the lost one has been silent for a minute.
            if lost:
                raise PeerStopped(
                    "another process is gone, and left no message"
                ) from error
            raise

    def open_stage(self, stage: str) -> None:
        (self._folder / f"{stage}.open").touch()

    def remove_folder(self) -> None:
        if self.is_primary:
            self._wait_for_others()
            shutil.rmtree(self._folder, ignore_errors=True)

    def wait_for_start(self, stage: str) -> bool:
        """Waits until a stage is open or complete; returns whether it is to be run."""
        while not self.is_finished(stage):
            if (self._folder / f"{stage}.open").exists():
                return True
            self.wait()
        return False

    def wait_for_end(self, stage: str) -> None:
        """Waits until a stage is complete."""
        while not self.is_finished(stage):
            self.wait()

    def leave(self, error: BaseException | None = None) -> None:
        """Tells the others that this process ends; and by what, if it failed."""
        with contextlib.suppress(UserError, OSError):
            text = ""
            if error is not None:
                why = " ".join(str(error).split()) or type(error).__name__
                why = why if len(why) <= 300 else f"{why[:297]}..."
                text = f"{_code_for_others(error)} {why}"
            left = self._left(self._index)
            artifacts.write_text(left, text)
        if error is not None and self.is_primary:
            self._wait_for_others()

    def _wait_for_others(self) -> None:
        end = time.monotonic() + _FAREWELL_SECONDS
        while time.monotonic() < end and not all(
            self._left(other).exists() for other in self._others
        ):
            time.sleep(_POLL_SECONDS)

    def _left(self, index: int) -> Path:
        return self._folder / f"left-{index}"


@contextlib.contextmanager
def join_workers(
    place: Path,
    processes: Processes,
    claim: Callable[[], contextlib.AbstractContextManager[T]],
    *,
    flag: str,
) -> Iterator[tuple[Worker, T | None]]:
    """Joins the run at a place; yields this worker and, in the primary, its lock.

    All processes of the run call it at about the same time.

    Args:
      place: a path that all processes see; the folder of the run is PLACE-RUN.
      processes: those of the run.
      claim: keeps other runs away from the place; the primary process holds it.
      flag: how the user gave the place, for messages.

    Raises:
      UserError: as `claim`; or this process does not see the primary's folder.
      PeerStopped: the primary process could not claim the place.
    """
    if processes.count == 1:
        with claim() as held:
            yield Worker(), held
        return
    with contextlib.ExitStack() as stack:
        held = None
        if processes.index == 0:
            held, run = _start_run(place, claim, stack)
        elif (run := _broadcast(0)) <= 0:
            raise PeerStopped(f"process 0 could not claim {flag}", -run)
        folder = _folder(place, run)
        if not folder.is_dir():
            raise UserError(
                f"{flag} is not the folder that process 0 works in; all processes need"
                " a folder that they all see, such as an NFS mount (for a workdir in a"
                " bucket, PAV_SCRATCH has to be there)"
            )
        worker = PeerWorker(folder, processes)
        try:
            yield worker, held
        except BaseException as error:
            worker.leave(error)
            raise
        worker.leave()


def _start_run(
    place: Path,
    claim: Callable[[], contextlib.AbstractContextManager[T]],
    stack: contextlib.ExitStack,
) -> tuple[T, int]:
    """Claims the place and makes the run's folder; the claim, and the run's number."""
    run = -AGAIN  # tells the others that there is no run, and what to end with
    try:
        held = stack.enter_context(claim())
        for old in place.parent.glob(f"{glob.escape(place.name)}-*"):
            shutil.rmtree(old)
        number = 1 + secrets.randbelow(2**31 - 1)
        _folder(place, number).mkdir()
        run = number
        return held, run
    except BaseException as error:
        run = -_code_for_others(error)
        raise
    finally:
        _broadcast(run)


@contextlib.contextmanager
def open_workdir(
    workdir: str | os.PathLike[str],
    name: str,
    values: dict[str, Any],
    processes: Processes,
) -> Iterator[tuple[Path, Worker]]:
    """The claimed workdir, and this process as a worker in it.

    Args:
      workdir: as `workdir.claim`.
      name: the experiment's name.
      values: its config, flattened.
      processes: those of the run.

    Raises:
      UserError: as `claim` and `join_workers`; or this process was given another config
        than the primary.
      PeerStopped: as `join_workers`.
    """
    root = local_folder(workdir)
    with join_workers(
        root / ".workers",
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


def _code_for_others(error: BaseException) -> int:
    """What the other processes end with, of the error that ended this one."""
    if isinstance(error, PeerStopped):
        return error.code
    return MISTAKE if is_mistake(error) else AGAIN


def _broadcast(value: int) -> int:
    """The primary's value, in every process."""
    import numpy as np
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
