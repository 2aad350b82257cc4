"""A workdir in a bucket: the run works in a folder of this machine, and copies that.

An object store makes an object whole or not at all, and no more than that: it has no
locks, no renaming of folders, no appending. So the stages work in a local folder as
ever, and every half minute what changed is copied, in an order in which every moment is
one that a kill could have left on disk:

- files in the order in which they were written, and a manifest after its folder, so
  that an object is never there before what it vouches for;
- a manifest is removed before anything in its folder changes;
- of an unfinished stage, `started.json` comes first; if it has other terms than the one
  there, the stage was begun anew, and what is there is removed before;
- what is gone here is removed there last, when all that took its place is there.

So a machine may be lost at any time, and the run goes on from the bucket on another, at
most half a minute back. This order is why the copying is not left to a tool that makes
two folders alike, such as `fsspec.generic.rsync`: those copy in any order, and tell a
change by its size.
"""

import contextlib
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from pav_jax.core.errors import UserError, unwritable
from pav_jax.storage import artifacts, buckets

_OWNER = "owner.txt"  # in the bucket: the token of the run that writes there
_INDEX = ".mirror.json"  # beside the files: what of them is in the bucket
_MANIFEST = "manifest.json"
_STARTED = "started.json"  # of an unfinished stage: its terms, and notes of attempts
_NOTES = ("seconds", "made_on")
_SECONDS = 30.0  # what the loss of a machine may cost


@contextlib.contextmanager
def mirrored(remote: str, local: Path) -> Iterator[None]:
    """Fills `local` from the bucket, and within copies its changes back.

    Args:
      remote: the workdir, such as gs://BUCKET/NAME.
      local: its `buckets.local_folder`, which this process has locked.

    Raises:
      UserError: if the bucket cannot be reached, or holds other things.
    """
    with buckets.explained(remote):
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
        quiet = contextlib.suppress(Exception)
        with quiet if failed else buckets.explained(remote, local):
            mirror.sync()


class Mirror:
    """Copies between a local folder and a bucket; one run at a time writes there.

    Args:
      remote: the bucket's folder.
      local: the folder of this machine.
    """

    def __init__(self, remote: str, local: Path):
        self._remote, self._local = remote, local
        self._bucket, self._root = buckets.connect(remote)
        self._token = secrets.token_hex(8)
        self._copied: dict[str, list[int]] = {}  # size and time of what is there
        self._terms: dict[str, str] = {}  # of what is there of unfinished stages
        self._seen: set[str] = set()

    def fetch(self) -> None:
        """Makes `local` what the bucket has, and the bucket this run's.

        Files that this machine was the last to copy stay, since they may be newer.

        Raises:
          UserError: if the bucket's folder was not made by `pav run`.
        """
        owner = self._owner()
        if not owner and buckets.files(self._remote):
            raise UserError(
                f"{self._remote} is not empty, and what is in it was not made by"
                " pav run; give another --workdir"
            )
        index = {}
        with contextlib.suppress(UserError):
            index = artifacts.read_json(self._local / _INDEX)
        if owner and owner == index.get("token"):
            self._copied, self._terms = index["files"], index.get("terms", {})
        else:
            (self._local / _INDEX).unlink(missing_ok=True)
            for name in buckets.files(self._local):
                (self._local / name).unlink()
            buckets.download(self._remote, self._local)
            (self._local / _OWNER).unlink(missing_ok=True)
            self._copied = self._stamps()
            started = [name for name in self._copied if _is(_STARTED, name)]
            self._terms = {name: self._terms_of(name) for name in started}
        self._bucket.pipe_file(f"{self._root}/{_OWNER}", self._token.encode())
        self._write_index()

    def follow(self, stop: threading.Event) -> None:
        """Copies every half minute; ends the run if another took the bucket over."""
        while not stop.wait(_SECONDS):
            try:
                self.sync()
            except Exception as error:
                if isinstance(error, UserError) and not unwritable(error):
                    tqdm.write(f"pav: {error}", file=sys.stderr)
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
                # The next time may be better.
                tqdm.write(f"{self._remote}: {error}; tries again", file=sys.stderr)

    def sync(self) -> None:
        """Copies what changed since the last time; see the head of this file.

        Raises:
          UserError: if another run writes there now; nothing is copied.
        """
        if self._owner() != self._token:
            raise UserError(f"another process has begun to work in {self._remote}")
        here = self._stamps()
        self._remove_other_terms(here)
        changed = [name for name in here if self._copied.get(name) != here[name]]
        # Twice not seen: a folder may be renamed while it is being listed.
        gone = sorted(self._copied.keys() - here.keys() - self._seen)
        self._seen = set(here)
        touched = {Path(name).parts[0] for name in [*changed, *gone]}
        for name in list(self._copied):
            if _is(_MANIFEST, name) and Path(name).parts[0] in touched:
                self._remove(name)
                changed += [name] if name in here and name not in changed else []
        for name in _in_order({name: here[name][1] for name in changed}):
            with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                self._bucket.put_file(str(self._local / name), f"{self._root}/{name}")
                self._copied[name] = here[name]
        for name in gone:
            self._remove(name)
        self._write_index()

    def _remove_other_terms(self, here: dict[str, list[int]]) -> None:
        """Removes what is there of stages that were begun anew with other terms."""
        for name in here:
            if _is(_STARTED, name) and self._copied.get(name) != here[name]:
                terms = self._terms_of(name)
                if terms != self._terms.get(name):
                    folder = Path(name).parts[0]
                    for other in [*self._copied]:
                        if Path(other).parts[0] == folder:
                            self._remove(other)
                    self._terms[name] = terms

    def _terms_of(self, name: str) -> str:
        """What a `started.json` here says but for its notes; empty if it is gone."""
        with contextlib.suppress(UserError, AttributeError):
            value = artifacts.read_json(self._local / name)
            return json.dumps({k: v for k, v in value.items() if k not in _NOTES})
        return ""

    def _owner(self) -> str:
        """The token of the run that the bucket is of; empty if it is of none."""
        try:
            return self._bucket.cat_file(f"{self._root}/{_OWNER}").decode()
        except FileNotFoundError:
            return ""

    def _remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._bucket.rm_file(f"{self._root}/{name}")
        self._copied.pop(name, None)

    def _stamps(self) -> dict[str, list[int]]:
        """Size in bytes and time of change in ns of all local files."""
        found = {}
        for name in buckets.files(self._local):
            with contextlib.suppress(FileNotFoundError):
                stat = (self._local / name).stat()
                found[name] = [stat.st_size, stat.st_mtime_ns]
        return found

    def _write_index(self) -> None:
        index = {"token": self._token, "files": self._copied, "terms": self._terms}
        text = json.dumps(index).encode()
        artifacts.write_bytes(self._local / _INDEX, text)


def _is(kind: str, name: str) -> bool:
    return Path(name).parts[1:] == (kind,)


def _in_order(times: dict[str, int]) -> list[str]:
    """As they were written, what vouches for others after them.

    A clock may have been set back in between, so times alone do not say this.

    Args:
      times: of change, by name.
    """
    latest: dict[str, int] = {}  # of a shard and its ledger; of a stage
    for name, time in times.items():
        for group in (_shard(name), Path(name).parts[0]):
            latest[group] = max(latest.get(group, time), time)

    def key(name: str) -> tuple[bool, int, bool, bool, str]:
        group = _shard(name) if name.endswith(".json") else ""
        group = Path(name).parts[0] if _is(_MANIFEST, name) else group
        time = latest.get(group, times[name])
        is_ledger = name.endswith(".json")  # where times tie
        return not _is(_STARTED, name), time, _is(_MANIFEST, name), is_ledger, name

    return sorted(times, key=key)


def _shard(name: str) -> str:
    return name.rpartition(".")[0]
