"""The folder of one experiment: claimed by its name, and by one process at a time."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TextIO

from pav_jax.core.errors import UserError
from pav_jax.storage import artifacts, buckets, mirror

SETTINGS = "config.json"
# Workdirs of parts of a run (`pipeline/parts.py`); hidden, so that no mirror of the
# workdir that they are in copies them.
PARTS = ".parts"
_LOCK = ".pav.lock"

# The locks of this process. A lock lives as long as any copy of its file is open, and
# fork makes copies: without this, a worker that outlives a killed run would keep it.
_held: list[TextIO] = []
os.register_at_fork(after_in_child=lambda: [lock.close() for lock in _held])


@contextlib.contextmanager
def claim(
    workdir: str | os.PathLike[str], name: str, values: dict[str, Any]
) -> Iterator[Path]:
    """The folder, absolute, made if need be, for this process alone.

    Args:
      workdir: a folder that is new, empty, or of the experiment called `name`. If it
        is in a bucket, a folder of this machine is yielded, which is mirrored there.
      name: the experiment's name.
      values: its config, flattened, which is written to `config.json` in the folder.

    Raises:
      UserError: if the folder holds something else, or is in use; it is left as it
        was.
    """
    root = buckets.local_folder(workdir)
    remote = buckets.is_remote(workdir)
    try:
        if not remote:
            _check_owner(root, name)
        root.mkdir(parents=True, exist_ok=True)
        lock = (root / _LOCK).open("a+")
    except OSError as error:
        raise UserError(f"cannot use --workdir={workdir}: {error.strerror}") from error
    with (
        _locked(lock, root),
        mirror.mirrored(os.fspath(workdir), root) if remote else nullcontext(),
    ):
        _check_owner(root, name)  # Another process may have claimed it since.
        artifacts.remove_partials(root)
        artifacts.write_json(root / SETTINGS, {"name": name, "config": values})
        yield root


def _check_owner(root: Path, name: str) -> None:
    """Raises UserError if a folder holds anything but this experiment."""
    if not root.exists():
        return
    ours = (root / _LOCK).exists()
    owner = None
    if (root / SETTINGS).exists():
        try:
            settings = artifacts.read_json(root / SETTINGS)
        except UserError:
            if ours:
                raise
        else:
            if isinstance(settings, dict) and settings.keys() == {"name", "config"}:
                owner = settings["name"]
    if owner is None and not ours and any(root.iterdir()):
        raise UserError(
            f"{root} is not empty, and what is in it was not made by pav run; give "
            "another --workdir"
        )
    if owner not in (None, name):
        raise UserError(
            f"{root} holds the experiment {owner!r}, and this config is of {name!r}; "
            "give another --workdir"
        )


@contextlib.contextmanager
def _locked(lock: TextIO, root: Path) -> Iterator[None]:
    """Locks a file, and closes it afterwards; the lock ends even with a kill -9.

    The file says who has locked it, or had: it is the kernel's lock that counts.
    """
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            who = lock.read(200).strip() or "unknown"  # it may be about to write it
            raise UserError(
                f"another process is at work in {root} ({who}); wait until it ends, or"
                " give another --workdir"
            ) from None
        except OSError as error:
            raise UserError(f"cannot lock {lock.name}: {error.strerror}") from error
        _held.append(lock)
        with contextlib.suppress(OSError):  # a full disk; it is for people to read
            os.ftruncate(lock.fileno(), 0)
            who = f"process {os.getpid()} on {socket.gethostname()}"
            os.write(lock.fileno(), who.encode())
        try:
            yield
        finally:
            _held.remove(lock)
