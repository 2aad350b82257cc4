"""Files and folders in a bucket, for commands that read some and write one.

They work on files of this machine as ever. What a command reads of a bucket is copied
here first and is gone afterwards; what it writes is copied there at its end, and of a
folder last the file that says that the rest is whole. A workdir that a run works in is
another matter: `pav_jax.storage.mirror`.
"""

import contextlib
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from etils import epath

from pav_jax.core.errors import UserError
from pav_jax.storage import mirror


@contextlib.contextmanager
def to_read(
    path: str, parts: Collection[str] = ("",), beside: Collection[str] = ()
) -> Iterator[Path]:
    """A file or folder of this machine with what is at `path`.

    Args:
      path: of this machine, or such as gs://BUCKET/NAME.
      parts: of a folder in a bucket, names of the files and folders that will be read;
        those that are not there are left out.
      beside: of the folder that `path` is in, what will be read too.

    Raises:
      UserError: the bucket cannot be read, or has nothing there.
    """
    if not mirror.is_remote(path):
        yield Path(path)
        return
    with mirror.scratch() as folder:
        with mirror.explained(path):
            source = epath.Path(path.rstrip("/"))
            local = folder / source.name
            found = [_fetch(source / part, local / part) for part in parts]
            for name in beside:
                _fetch(source.parent / name, folder / name)
        if not any(found):
            raise UserError(f"{path} does not exist")
        yield local


@contextlib.contextmanager
def to_write(path: str, last: str = "") -> Iterator[Path]:
    """A name of this machine for what will be at `path`, a file or a folder.

    Args:
      path: of this machine, or such as gs://BUCKET/NAME.
      last: of a folder, the file that is copied after all others.

    Raises:
      UserError: the bucket cannot be written.
    """
    if not mirror.is_remote(path):
        yield Path(path)
        return
    with mirror.scratch() as folder:
        local = folder / path.rstrip("/").rpartition("/")[2]
        yield local
        store(local, path, last)


@contextlib.contextmanager
def to_resume(path: str, unfinished: str) -> Iterator[Path]:
    """As `to_write`, of a file that an earlier attempt may have begun, or finished.

    Args:
      path: of this machine, or such as gs://BUCKET/NAME.
      unfinished: what its name ends in until it is whole. Of a bucket that file is kept
        under `$PAV_SCRATCH`; it is copied there when the command ends without being
        done, so that another machine may go on.

    Raises:
      UserError: the bucket cannot be used.
    """
    if not mirror.is_remote(path):
        yield Path(path)
        return
    local = mirror.local_folder(path)
    partial = local.with_name(local.name + unfinished)
    local.parent.mkdir(parents=True, exist_ok=True)
    with mirror.explained(path):
        begun = epath.Path(path + unfinished)
        _fetch(epath.Path(path), local)
        if begun.exists() and (
            not partial.exists() or begun.stat().length > partial.stat().st_size
        ):
            _fetch(begun, partial)
    try:
        yield local
    finally:
        if local.exists():
            store(local, path)
            local.unlink()
            with mirror.explained(path):
                begun.unlink(missing_ok=True)
        elif partial.exists():
            store(partial, path + unfinished)


def store(local: Path, path: str, last: str = "") -> None:
    """Copies a file or folder to where `path` is in a bucket; see `to_write`.

    Raises:
      UserError: the bucket cannot be written.
    """
    with mirror.explained(path):
        target = epath.Path(path.rstrip("/"))
        names = list(mirror.files(local)) if local.is_dir() else [""]
        for name in sorted(names, key=lambda name: (name == last, name)):
            _copy(local / name, target / name if name else target)


def exists(path: str) -> bool:
    """Whether there is a file or a folder at `path`, in a bucket or not."""
    with mirror.explained(path):
        return epath.Path(path).exists()


def _fetch(source: Any, target: Path) -> bool:
    """Copies a file or a folder from a bucket; False if there is none."""
    names = [""] if source.is_file() else list(mirror.files(source))
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        _copy(source / name if name else source, target / name)
    return bool(names)


def _copy(source: Any, target: Any) -> None:
    with source.open("rb") as file, target.open("wb") as copy:
        shutil.copyfileobj(file, copy, 2**20)
