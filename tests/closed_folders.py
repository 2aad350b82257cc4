"""Folders that cannot be written: a mount that is read-only, or files of others."""

import contextlib
import ctypes
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

KINDS = {"mount": errno.EROFS, "permissions": errno.EACCES}
# CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH and CAP_FOWNER, by which root may all.
_ABOVE_PERMISSIONS = 0b1110


@contextlib.contextmanager
def closed(folder: Path, kind: str) -> Iterator[None]:
    """Within, nothing below a folder can be changed by this thread.

    The test is skipped if this user cannot mount; and fails if anything has changed.
    """
    before = _contents(folder)
    with _read_only_mount(folder) if kind == "mount" else _forbidden(folder):
        with pytest.raises(OSError):
            (folder / "probe").touch()
        yield
    assert _contents(folder) == before


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@contextlib.contextmanager
def _read_only_mount(folder: Path) -> Iterator[None]:
    def mount(*arguments: str) -> None:
        try:
            command = ["mount", *arguments, str(folder)]
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"cannot mount: {error}")
        if done.returncode:
            pytest.skip(f"cannot mount: {done.stderr.strip()}")

    mount("--bind", str(folder))
    try:
        mount("-o", "remount,ro,bind")
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextlib.contextmanager
def _forbidden(folder: Path) -> Iterator[None]:
    paths = [folder, *folder.rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode & 0o555)
    try:
        with _as_any_user():
            yield
    finally:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


@contextlib.contextmanager
def _as_any_user() -> Iterator[None]:
    """Within, permissions hold for this thread, and for those that it starts."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3, of this thread
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice
    libc = ctypes.CDLL(None, use_errno=True)
    assert not libc.capget(header, sets)
    before = sets[0]
    sets[0] = before & ~_ABOVE_PERMISSIONS
    assert not libc.capset(header, sets)
    try:
        yield
    finally:
        sets[0] = before
        assert not libc.capset(header, sets)


def check_refused(err: str, path: Path, kind: str) -> None:
    """Checks what was printed: one paragraph that names a path, and no traceback."""
    message = err[err.find("pav: ") :].splitlines()[0]  # a bar may end after it
    assert message.startswith("pav: cannot ") and str(path) in message, err
    way = "can be written" if kind == "mount" else "is permitted"
    assert f"{os.strerror(KINDS[kind])}; once that {way}, the same command" in message
    assert err.count("pav: ") == 1 and "Traceback" not in err and "ERROR" not in err
