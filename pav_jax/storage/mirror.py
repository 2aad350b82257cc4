"""A workdir in a bucket: the run works in a folder of this machine, and copies that.

An object store makes an object whole or not at all, and no more than that: it has no
locks, no renaming of folders, no appending. So the stages work in a local folder as
ever, and every half minute what changed is copied, in an order in which every moment is
one that a kill could have left on disk:

- files in the order in which they were written, and manifests last, so that an object
  is never there before what it vouches for;
- a manifest is removed before anything of its folder changes;
- what is gone here is removed there last, when all that took its place is there.

So a machine may be lost at any time, and the run goes on from the bucket on another, at
most half a minute back.
"""

import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath
from tqdm import tqdm

from pav_jax.core.errors import UserError
from pav_jax.storage import artifacts

_OWNER = "owner.txt"  # in the bucket: the token of the run that writes there
_INDEX = ".mirror.json"  # beside the files: what of them is in the bucket
_MANIFEST = "manifest.json"
_STORES = ("gs", "s3", "az")  # those of etils.epath
_SECONDS = 30.0  # what the loss of a machine may cost


def is_remote(workdir: str | os.PathLike[str]) -> bool:
    """Whether a path is in a bucket."""
    return "://" in os.fspath(workdir)


def local_folder(workdir: str | os.PathLike[str]) -> Path:
    """The folder that a run works in; of one in a bucket, under `$PAV_SCRATCH`."""
    if not is_remote(workdir):
        return Path(workdir).expanduser().absolute()
    name = os.fspath(workdir).rstrip("/").replace("://", "-").replace("/", "-")
    return scratch_root() / name


def scratch_root() -> Path:
    """The folder of this machine for what is of buckets."""
    scratch = os.environ.get("PAV_SCRATCH") or Path.home() / ".cache" / "pav_jax"
    return Path(scratch).expanduser().absolute()


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder of this machine, under `$PAV_SCRATCH`, that is gone afterwards."""
    scratch_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch_root(), prefix="copy-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def mirrored(remote: str, local: Path) -> Iterator[None]:
    """Fills `local` from the bucket, and within copies its changes back.

    Args:
      remote: the workdir, such as gs://BUCKET/NAME.
      local: its `local_folder`, which this process has locked.

    Raises:
      UserError: the bucket cannot be reached, or holds other things.
    """
    with explained(remote):
        mirror = Mirror(remote, local)
        mirror.fetch()
    stop = threading.Event()
    thread = threading.Thread(target=mirror.follow, args=(stop,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        failed = sys.exc_info()[0] is not None
        stop.set()
        thread.join()
        with contextlib.suppress(Exception) if failed else explained(remote, local):
            mirror.sync()


@contextlib.contextmanager
def explained(remote: str, local: Path | None = None) -> Iterator[None]:
    """Within, what goes wrong with a bucket is a UserError.

    Args:
      remote: what is read or written there.
      local: where on this machine everything is, and is copied from next time.

    Raises:
      UserError: also where `remote` is of a kind of store that is not known.
    """
    if is_remote(remote) and remote.split("://")[0] not in _STORES:
        raise UserError(
            f"cannot use {remote}: give a path of this machine, or one in"
            f" {', '.join(f'{store}://' for store in _STORES)}"
        )
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of the client of whichever store it is
        kept = f"; all is in {local}, and the same command copies it" if local else ""
        raise UserError(
            f"cannot use {remote}: {type(error).__name__}: {error}{kept}"
        ) from error


class Mirror:
    """Copies between a local folder and a bucket; one run at a time writes there.

    Args:
      remote: the bucket's folder.
      local: the folder of this machine.
    """

    def __init__(self, remote: str, local: Path):
        self._remote = epath.Path(remote)
        self._local = local
        self._token = secrets.token_hex(8)
        self._there: dict[str, list[int]] = {}  # size and time of what was copied
        self._seen: set[str] = set()

    def fetch(self) -> None:
        """Makes `local` what the bucket has, and the bucket this run's.

        Files that this machine was the last to copy stay, since they may be newer.

        Raises:
          UserError: the bucket's folder was not made by `pav run`.
        """
        try:
            owner = (self._remote / _OWNER).read_text()
        except FileNotFoundError:
            owner = ""
            if self._remote.exists() and any(self._remote.iterdir()):
                raise UserError(
                    f"{self._remote} is not empty, and what is in it was not made by"
                    " pav run; give another --workdir"
                ) from None
        index: dict[str, Any] = {}
        with contextlib.suppress(UserError):
            index = artifacts.read_json(self._local / _INDEX)
        if owner and owner == index.get("token"):
            self._there = index["files"]
        else:
            self._fetch_all()
        (self._remote / _OWNER).write_text(self._token)
        self._write_index()

    def _fetch_all(self) -> None:
        (self._local / _INDEX).unlink(missing_ok=True)
        for name in files(self._local):
            (self._local / name).unlink()
        for name in files(self._remote):
            if name != _OWNER:
                with (self._remote / name).open("rb") as source:
                    artifacts.write_atomically(
                        self._local / name, lambda f, s=source: shutil.copyfileobj(s, f)
                    )
        self._there = self._stamps()

    def follow(self, stop: threading.Event) -> None:
        """Copies every half minute; ends the run if another took the bucket over."""
        while not stop.wait(_SECONDS):
            try:
                self.sync()
            except UserError as error:
                tqdm.write(f"pav: {error}", file=sys.stderr)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            except Exception as error:  # the next time may be better
                tqdm.write(f"{self._remote}: {error}; tries again", file=sys.stderr)

    def sync(self) -> None:
        """Copies what changed since the last time; see the head of this file.

        Raises:
          UserError: another run writes there now. Nothing is copied.
        """
        if (self._remote / _OWNER).read_text() != self._token:
            raise UserError(f"another process has begun to work in {self._remote}")
        here = self._stamps()
        changed = [name for name in here if self._there.get(name) != here[name]]
        # Twice not seen: a folder may be renamed while it is being listed.
        gone = sorted(self._there.keys() - here.keys() - self._seen)
        self._seen = set(here)
        touched = {Path(name).parts[0] for name in [*changed, *gone]}
        for name in list(self._there):
            path = Path(name)
            if path.parts[1:] == (_MANIFEST,) and path.parts[0] in touched:
                self._remove(name)
                changed += [name] if name in here and name not in changed else []
        for name in sorted(changed, key=lambda name: _order(name, here[name])):
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                with (
                    (self._local / name).open("rb") as source,
                    (self._remote / name).open("wb") as target,
                ):
                    shutil.copyfileobj(source, target, 2**20)
                self._there[name] = here[name]
        for name in gone:
            self._remove(name)
        self._write_index()

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self._remote / name).unlink()
        self._there.pop(name, None)

    def _stamps(self) -> dict[str, list[int]]:
        found = {}
        for name in files(self._local):
            with contextlib.suppress(FileNotFoundError):
                stat = (self._local / name).stat()
                found[name] = [stat.st_size, stat.st_mtime_ns]
        return found

    def _write_index(self) -> None:
        index = {"token": self._token, "files": self._there}
        text = json.dumps(index).encode()
        artifacts.write_atomically(self._local / _INDEX, lambda file: file.write(text))


def _order(name: str, stamp: list[int]) -> tuple[bool, int, bool, str]:
    """By time; where that ties, a shard comes before the ledger that vouches for it."""
    return Path(name).name == _MANIFEST, stamp[1], name.endswith(".json"), name


def files(folder: Any, prefix: str = "") -> Iterator[str]:
    """Names of the files below, but for hidden ones and what Orbax has not finished."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for child in list(folder.iterdir()):
            if child.name.startswith(".") or "orbax-checkpoint-tmp" in child.name:
                continue
            if child.is_dir():
                yield from files(child, f"{prefix}{child.name}/")
            else:
                yield prefix + child.name
