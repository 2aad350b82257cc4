"""Paths in a bucket: what of them is on this machine, and copies of files and folders.

The code works on files of this machine. A command copies what it reads in a bucket to
here first, and removes the copy afterwards. What it writes is copied there at its end;
of a folder, the file that says that the rest is whole comes last. A workdir that a run
works in is another matter: `pav_jax.storage.mirror`.

Copies go through fsspec. `etils.epath` copies single files only, and its `walk` loses
the gs:// of what it finds.
"""

import contextlib
import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec

from pav_jax.core.errors import Unanswered, UserError, unwritable

# Their clients list all names under a prefix at once, and raise if they cannot.
_STORES = ("gs", "s3", "az")
# What of a file changes with its content, by the names of their clients.
_VERSIONS = ("md5Hash", "crc32c", "ETag", "etag", "generation")
# What comes of a name or a permission that is not right; the clients of the stores have
# many more kinds of errors, and tell some of these by words alone.
_MISTAKES = (
    *(FileNotFoundError, PermissionError),
    *(ImportError, NotImplementedError, TypeError, ValueError),
)
_SIGNS_OF_MISTAKES = ("credential", "denied", "forbidden", "unauthorized")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in a bucket."""
    return "://" in os.fspath(path)


def local_folder(workdir: str | os.PathLike[str]) -> Path:
    """The folder that a run works in; for one in a bucket, under `$PAV_SCRATCH`."""
    if not is_remote(workdir):
        return Path(workdir).expanduser().absolute()
    name = os.fspath(workdir).rstrip("/").replace("://", "-").replace("/", "-")
    return scratch_root() / name


def scratch_root() -> Path:
    """The folder of this machine for copies of what is in buckets."""
    scratch = os.environ.get("PAV_SCRATCH") or Path.home() / ".cache" / "pav_jax"
    return Path(scratch).expanduser().absolute()


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A folder of this machine, under `$PAV_SCRATCH`, that is removed afterwards."""
    scratch_root().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch_root(), prefix="copy-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def explained(path: str, local: Path | None = None) -> Iterator[None]:
    """Within, what goes wrong with a bucket is a UserError.

    Args:
      path: what is read or written there.
      local: where on this machine everything is, and is copied from next time.

    Raises:
      UserError: also if `path` is in a kind of store that is not known.
      Unanswered: if it may be otherwise the next time.
    """
    if is_remote(path) and path.split("://")[0] not in _STORES:
        raise UserError(
            f"cannot use {path}: give a path of this machine, or one in"
            f" {', '.join(f'{store}://' for store in _STORES)}"
        )
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # of the client of whichever store it is
        kept = f"; all is in {local}, and the same command copies it" if local else ""
        kind = UserError if _is_mistake(error) else Unanswered
        raise kind(
            f"cannot use {path}: {type(error).__name__}: {error}{kept}"
        ) from error


def _is_mistake(error: Exception) -> bool:
    """Whether the user has to mend something."""
    known = isinstance(error, _MISTAKES) or unwritable(error)
    return bool(known) or any(sign in str(error).lower() for sign in _SIGNS_OF_MISTAKES)


def connect(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The file system that `path` is in, and its name there."""
    system, name = fsspec.url_to_fs(path.rstrip("/"))
    system.invalidate_cache()  # Others write there, too.
    return system, name


def files(path: str | os.PathLike[str]) -> list[str]:
    """Names of the files below a folder, here or in a bucket; for a file, `[""]`.

    Leaves out hidden ones and what Orbax has not finished.
    """
    system, root = connect(os.fspath(path))
    try:
        found = system.find(root)
    except FileNotFoundError:  # no such bucket
        return []
    names = [name.removeprefix(root) for name in found]
    # A web console makes a "folder" as an object whose name ends in a slash.
    return [
        name.lstrip("/")
        for name in names
        if not (name.endswith("/") or "/." in name or "orbax-checkpoint-tmp" in name)
    ]


def exists(path: str) -> bool:
    """Whether there is a file or a folder at `path`, here or in a bucket.

    Raises:
      UserError: if the bucket cannot be read.
    """
    with explained(path):
        return _info(path) is not None


def _info(path: str) -> dict[str, Any] | None:
    """What the store knows of a file or a folder; None if there is none."""
    system, name = connect(path)
    try:
        return system.info(name)
    except FileNotFoundError:
        return None


def same(one: str, other: str) -> bool:
    """Whether two paths, however they are written, are one file or folder that exists;
    in a bucket, whether they are the same text."""
    if is_remote(one) or is_remote(other):
        return one.rstrip("/") == other.rstrip("/")
    here, there = Path(one), Path(other)
    return here.exists() and there.exists() and here.samefile(there)


def states(path: str, names: Sequence[str]) -> dict[str, str]:
    """What a store says of files of a folder, which changes when their content does.

    It is the size, and a hash or a number of the version where the store has one. Those
    that are not there are left out.

    Raises:
      UserError: if the bucket cannot be read.
    """
    found = {}
    with explained(path):
        for name in names:
            if info := _info(f"{path.rstrip('/')}/{name}"):
                kept = [str(info[key]) for key in _VERSIONS if info.get(key)]
                found[name] = " ".join([str(info["size"]), *kept[:1]])
    return found


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
      UserError: if the bucket cannot be read, or has nothing there.
    """
    if not is_remote(path):
        yield Path(path)
        return
    parent, _, name = path.rstrip("/").rpartition("/")
    with _scratch() as folder:
        with explained(path):
            found = [download(f"{parent}/{name}/{p}", folder / name / p) for p in parts]
            for other in beside:
                download(f"{parent}/{other}", folder / other)
        if not any(found):
            raise UserError(f"{path} does not exist")
        yield folder / name


@contextlib.contextmanager
def to_write(path: str, last: str = "") -> Iterator[Path]:
    """A name on this machine for what will be at `path`, a file or a folder.

    Args:
      path: of this machine, or such as gs://BUCKET/NAME.
      last: of a folder, the file that is copied after all others.

    Raises:
      UserError: if the bucket cannot be written.
    """
    if not is_remote(path):
        yield Path(path)
        return
    with _scratch() as folder:
        local = folder / path.rstrip("/").rpartition("/")[2]
        yield local
        upload(local, path, last)


@contextlib.contextmanager
def to_resume(path: str, unfinished: str) -> Iterator[Path]:
    """As `to_write`, for a file that an earlier attempt may have begun, or finished.

    Args:
      path: of this machine, or such as gs://BUCKET/NAME.
      unfinished: what its name ends in until it is whole. If `path` is in a bucket,
        that file is kept under `$PAV_SCRATCH`; it is copied to the bucket when the
        command ends before it is done, so that another machine may go on.

    Raises:
      UserError: if the bucket cannot be used.
    """
    if not is_remote(path):
        yield Path(path)
        return
    local = local_folder(path)
    partial = local.with_name(local.name + unfinished)
    with explained(path):
        download(path, local)
        begun = _info(path + unfinished)
        if begun and (not partial.exists() or begun["size"] > partial.stat().st_size):
            download(path + unfinished, partial)
    local.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield local
    finally:
        if local.exists():
            upload(local, path)
            local.unlink()
            if begun:
                with explained(path), contextlib.suppress(FileNotFoundError):
                    system, name = connect(path + unfinished)
                    system.rm_file(name)
        elif partial.exists():
            upload(partial, path + unfinished)


def download(path: str, local: Path) -> bool:
    """Copies a file or a folder from a bucket; returns False if there is none."""
    system, root = connect(path)
    names = files(path)
    if names:
        system.get(_below(root, names), _below(local, names))
    return bool(names)


def upload(local: Path, path: str, last: str = "") -> None:
    """Copies a file or a folder to `path` in a bucket.

    Args:
      local: the file or folder.
      path: such as gs://BUCKET/NAME.
      last: of a folder, the file that is copied after all others.

    Raises:
      UserError: if the bucket cannot be written.
    """
    with explained(path):
        system, root = connect(path)
        names = files(local)
        ending = [last] if last in names else []
        for group in ([name for name in names if name not in ending], ending):
            if group:
                system.put(_below(local, group), _below(root, group))


def _below(root: str | Path, names: Sequence[str]) -> list[str]:
    """The names as those of files below `root`; `root` itself for the name ""."""
    return [f"{root}/{name}".rstrip("/") for name in names]
