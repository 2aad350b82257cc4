"""Full disks: a real small one, and one that is full for some files only."""

import contextlib
import errno
import os
import subprocess
from pathlib import Path

import pytest


class Disk:
    """A file system of a few megabytes, mounted in a folder.

    Args:
      root: the folder.
    """

    def __init__(self, root: Path):
        self.root = root
        self._ballast = root / "ballast"

    def fill(self, leave: int = 0) -> None:
        """Leaves so many bytes, to the page, and no more."""
        with (
            contextlib.suppress(OSError),
            self._ballast.open("wb", buffering=0) as file,
        ):
            while file.write(bytes(1 << 16)):
                pass
        size = self._ballast.stat().st_size
        os.truncate(self._ballast, max(0, size - leave))

    def make_room(self) -> None:
        self._ballast.unlink()


def small_disk(tmp_path):
    """A fixture: an empty `Disk`; the test is skipped if this user cannot mount one."""
    root = tmp_path / "disk"
    root.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(root)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        pytest.skip(f"cannot mount a small disk: {error}")
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield Disk(root)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


class FullFor:
    """Makes `os.fsync` fail for files whose path contains some text.

    Args:
      monkeypatch: pytest's.
    """

    def __init__(self, monkeypatch):
        self.text = ""  # for no file
        self.failed = 0
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, descriptor: int) -> None:
        if self.text and self.text in os.readlink(f"/proc/self/fd/{descriptor}"):
            self.failed += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._fsync(descriptor)


def check_message(err: str, name: str) -> None:
    """Checks what was printed: one paragraph on what is full, and no traceback."""
    message = err.splitlines()[-1]
    assert message.startswith("pav: cannot "), err
    assert name in message
    assert f"{os.strerror(errno.ENOSPC)}; once that can be written" in message
    assert message.endswith("the same command goes on from here")
    assert err.count("pav: ") == 1 and "Traceback" not in err and "ERROR" not in err
