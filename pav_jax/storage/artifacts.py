"""Files on disk: written whole or not at all, and read with an error if damaged."""

import contextlib
import fcntl
import glob
import json
import os
import secrets
import shutil
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from pav_jax.core.errors import Unanswered, UserError, unwritable

PathLike = str | os.PathLike[str]
T = TypeVar("T")

_PARTIAL = ".partial"  # Ends the name of a file while it is being written.
_NEW = ".new"  # Ends the name of a folder while it is being filled.


@contextlib.contextmanager
def writing(path: PathLike) -> Iterator[None]:
    """Within, what cannot be written is a UserError that names `path`.

    An OSError is that, and so is what libraries raise because of a full disk. Others
    pass. If a library has waited in vain, it is `Unanswered`: Orbax does so for a slow
    disk, or when the clock is set ahead while it saves.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if isinstance(error, TimeoutError):
            raise Unanswered(f"cannot write {path} now: {error}") from error
        reason = unwritable(error)
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        if not reason:
            raise
        raise UserError(f"cannot write {path}: {reason}") from error


def write_atomically(path: PathLike, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file such that nobody ever sees half of it.

    What was at `path` stays until the new file is complete and on the disk.

    Args:
      path: of the file; its folder is made if need be.
      write: writes the content to an open file.

    Raises:
      UserError: if the disk is full, or the path cannot be written.
    """
    path = Path(path)
    partial = path.parent / f".{path.name}.{secrets.token_hex(4)}{_PARTIAL}"
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def write_bytes(path: PathLike, content: bytes) -> None:
    """Writes a file of some bytes, as `write_atomically` does."""
    write_atomically(path, lambda file: file.write(content))


def write_text(path: PathLike, text: str) -> None:
    """Writes a file of UTF-8 text, as `write_atomically` does."""
    write_bytes(path, text.encode())


@contextlib.contextmanager
def making(target: PathLike) -> Iterator[Path]:
    """Within, a folder to fill, which is called `target` when it is whole.

    Until then it is a hidden folder beside `target` that nobody else has, and it is
    removed if something is raised. If the process is killed it stays, and the next call
    for the same `target` removes it: who fills a folder has it locked, so one without a
    lock is abandoned. Where folders cannot be locked, as on NFS, none is removed.

    Args:
      target: a name at which there is nothing.

    Raises:
      UserError: there is something, be it at the end; or nothing can be written there.
    """
    target = Path(target)
    _check_free(target)
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target)
        new, lock = _new_beside(target)
    try:
        yield new
        _check_free(target)
        with writing(target):
            new.rename(target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        os.close(lock)


def _check_free(target: Path) -> None:
    if target.exists():
        raise UserError(f"{target} exists; give another --output")


def _new_beside(target: Path) -> tuple[Path, int]:
    """A new folder, and the open file that has it locked, if folders can be."""
    while True:
        new = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_NEW}")
        new.mkdir()  # whose permissions are a plain folder's, unlike mkdtemp's
        # Until it is locked, another process may take it for abandoned.
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(new, os.O_RDONLY)
            if _locked(lock) is not False and new.exists():
                return new, lock
            os.close(lock)


def _remove_abandoned(target: Path) -> None:
    """Removes what killed processes have left of `target`."""
    name = f".{glob.escape(target.name)}.{'[0-9a-f]' * 8}{_NEW}"
    for path in list(target.parent.glob(name)):
        with contextlib.suppress(OSError):  # it is in nobody's way
            lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if _locked(lock):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)


def _locked(file: int) -> bool | None:
    """Locks an open folder; False if another has it locked, None if it cannot be."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def as_written(path: PathLike, again: str) -> Iterator[None]:
    """Within, what is not in a file as it should be is a UserError that names it.

    Args:
      path: what is read.
      again: what would make it anew, for the message.
    """
    try:
        yield
    except UserError:
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as e:
        raise UserError(
            f"{path} is not as this version writes it ({type(e).__name__}: {e}); run"
            f" again what makes it: {again}"
        ) from e


def remove_partials(folder: Path) -> None:
    """Removes the unfinished files under `folder` that a killed process left; not
    those in hidden folders, where others may be at work."""
    for partial in folder.rglob(f".*{_PARTIAL}"):
        within = partial.relative_to(folder).parts[:-1]
        if not any(part.startswith(".") for part in within):
            partial.unlink()


def write_json(path: PathLike, value: Any) -> None:
    """Writes a JSON value, indented; raises ValueError for NaN, which JSON lacks."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_text(path, text)


def read_json(path: PathLike) -> Any:
    """The value that `write_json` wrote.

    Raises:
      UserError: if the file is missing or damaged.
    """
    return _read(path, lambda file: json.loads(file.read()))


def write_jsonl(path: PathLike, records: Iterable[Any]) -> None:
    """Writes one JSON value a line; raises ValueError for NaN."""

    def write(file: BinaryIO) -> None:
        for record in records:
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
        if not file.tell():
            file.write(b"\n")  # No records is a blank line; no bytes is a damaged file.

    write_atomically(path, write)


def append_line(path: PathLike, record: Any) -> None:
    """Appends a JSON value, on a line of its own, to a file that is made if need be.

    Raises:
      UserError: if it cannot be written; the file may then end in half a line.
      ValueError: for NaN; nothing is written.
    """
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with writing(path), Path(path).open("ab") as file:
        file.write(line)


def read_jsonl(path: PathLike) -> list[Any]:
    """The values that `write_jsonl` wrote.

    Raises:
      UserError: if the file is missing or damaged. If it was cut exactly between two
        lines it looks whole; the manifest of its stage has its size.
    """

    def decode(file: BinaryIO) -> list[Any]:
        text = file.read().decode()
        if not text.endswith("\n"):
            raise ValueError("its last line has no end")
        return [json.loads(line) for line in text.split("\n") if line]

    return _read(path, decode)


def write_arrays(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes named arrays as an uncompressed .npz, the same bytes for the same arrays.

    Raises:
      TypeError: if an array has a dtype that .npz does not keep, such as bfloat16.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in "biufcSU":
            raise TypeError(f"array {name!r}: .npz does not keep {array.dtype}")

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array))
            archive.comment = _count(arrays)

    write_atomically(path, write)


def read_arrays(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays that `write_arrays` wrote.

    Raises:
      UserError: if the file is missing or damaged.
    """

    def decode(file: BinaryIO) -> dict[str, np.ndarray]:
        arrays, size = {}, os.fstat(file.fileno()).st_size
        with zipfile.ZipFile(file) as archive:
            if archive.comment != _count(archive.namelist()):
                raise ValueError("its list of arrays is not whole")
            for member_name in archive.namelist():
                with archive.open(member_name) as member:
                    try:
                        array = np.lib.format.read_array(member, allow_pickle=False)
                    except MemoryError as error:
                        bytearray(size)  # raises it again if there is none, or little
                        raise ValueError(
                            f"{member_name} asks for more than it is"
                        ) from error
                    if member.read():  # Also what makes zipfile compare the checksum.
                        raise ValueError(f"{member_name} is longer than its array")
                arrays[member_name.removesuffix(".npy")] = array
        return arrays

    return _read(path, decode)


def _count(arrays: Collection[str]) -> bytes:
    """The comment in an .npz, without which a damaged list of arrays could look like a
    shorter one."""
    return b"%d arrays" % len(arrays)


def _read(path: PathLike, decode: Callable[[BinaryIO], T]) -> T:
    path = Path(path)
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run again what makes it") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    with file:
        try:
            return decode(file)
        except MemoryError:
            raise
        # Damage can make a decoder raise anything: zlib, struct, Unicode.
        except Exception as error:
            raise UserError(
                f"{path} is damaged ({type(error).__name__}: {error}); "
                "delete it and run again"
            ) from error
