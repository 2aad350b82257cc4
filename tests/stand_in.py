"""A bucket on this machine: objects by name, with no locks, renames or appending."""

import itertools
import shutil
from collections.abc import Iterator, Mapping

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

from pav_jax.storage import buckets, mirror


class Lost(OSError):
    """The machine is gone, as far as the bucket is concerned."""


class Bucket(MemoryFileSystem):
    """Objects that are made whole or not at all, until it fails."""

    protocol = ("gcs", "gs")
    cachable = False
    store, pseudo_dirs = {}, [""]  # its own
    left = 10**9  # changes until it fails

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("gs://"))

    def _change(self):
        type(self).left -= 1
        if self.left < 0:
            raise Lost

    def _open(self, path, mode="rb", **kwargs):
        assert mode in ("rb", "wb"), mode
        if mode == "wb":
            self._change()
        return super()._open(path, mode=mode, **kwargs)

    def rm_file(self, path):
        self._change()
        super().rm_file(path)

    def makedirs(self, path, exist_ok=False):
        """Does nothing: there are no folders, only names with slashes."""

    def mv(self, *args, **kwargs):
        raise NotImplementedError

    rename = mv


def lose_machine() -> None:
    """The local folders are gone; the bucket works again."""
    shutil.rmtree(buckets.scratch_root(), ignore_errors=True)
    Bucket.left = 10**9


def lost_machines(start: Mapping[str, bytes], stride: int = 1) -> Iterator[int]:
    """New machines with the same bucket, each of which is lost a few changes later than
    the one before; yields after how many."""
    for moments in itertools.count(step=stride):
        Bucket.store.clear()
        lose_machine()
        for name, value in start.items():
            Bucket().pipe_file(name, value)
        Bucket.left = moments
        yield moments


def record_mirrors(monkeypatch) -> list[mirror.Mirror]:
    """The mirrors that are made from now on, the newest last."""
    mirrors, fetch = [], mirror.Mirror.fetch
    monkeypatch.setattr(
        mirror.Mirror, "fetch", lambda self: (mirrors.append(self), fetch(self))
    )
    return mirrors


def contents(monkeypatch, tmp_path):
    """A fixture: an empty bucket, and what is in gs://bucket/run, bytes by name."""
    for protocol in Bucket.protocol:
        fsspec.register_implementation(protocol, Bucket, clobber=True)
    monkeypatch.setenv("PAV_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setattr(Bucket, "left", 10**9)
    Bucket.store.clear()
    return lambda: {
        name.removeprefix("/bucket/run/"): file.getvalue()
        for name, file in Bucket.store.items()
    }
