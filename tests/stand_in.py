"""A bucket on this machine: objects by name, with no locks, renames or appending."""

import fsspec
from fsspec.implementations.memory import MemoryFileSystem


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
