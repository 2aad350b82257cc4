"""Files that a stage reads and no stage has made, and prints of what is in them.

The config names them: problems of a task, a tokenizer, published weights, labels and
policies of others. Other content may come to be under the same name, and then the
stage that reads it has to run again. A print tells, and is part of the stage's terms.

Texts are read whole up to a size. Of weights and of larger files it is the size and a
few places of each, for they may be gigabytes, and every run looks.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.gemma.hugging_face import INDEX
from pav_jax.pipeline.manifest import MANIFEST, read_manifest
from pav_jax.storage import buckets, imports
from pav_jax.tasks import make_task

Prints = Mapping[str, str]  # by the name of a file, or of a folder of many
# By the config field: prints of what is there now, none if it cannot be read.
Outside = Mapping[str, Callable[[], Prints]]

_WHOLE_TEXT, _WHOLE_WEIGHTS = 1 << 28, 1 << 16  # bytes
_PLACES, _BLOCK = 16, 1 << 12  # of a larger file; bytes of each
_NAMED = 100  # of more files a folder has one print, so that a manifest stays short


def of_task(task: ConfigDict) -> Outside:
    """The files of `config.task`, if its problems are in some of the user's."""
    return {"task.path": functools.partial(_of_task, task)} if task.get("path") else {}


def of_problems(config: ConfigDict) -> Outside:
    """Those of `config.task` and `config.tokenizer`."""
    return {**of_task(config.task), **of_tokenizer(config.tokenizer)}


def of_tokenizer(tokenizer: ConfigDict) -> Outside:
    """The model of `config.tokenizer`, if it is not learnt."""
    path = tokenizer.get("path")
    return {"tokenizer.path": functools.partial(_texts, [path])} if path else {}


def of_model(model: ConfigDict) -> Outside:
    """The weights that `config.model` starts from, if they are published ones."""
    path = model.get("checkpoint")
    return {"model.checkpoint": functools.partial(_of_weights, path)} if path else {}


def of_labels(source: str) -> Outside:
    """What `pav import` wrote, here or in a bucket."""
    return {"labels.from": functools.partial(_of_labels, source)}


def of_policy(name: str, policy: str) -> Outside:
    """The policy of `config.provers.NAME`, a folder of another run."""
    return {f"provers.{name}.policy": functools.partial(_of_stage, policy)}


def _if_readable(look: Callable[..., Prints]) -> Callable[..., Prints]:
    """Says nothing where something cannot be read; a stage that has to run will."""

    @functools.wraps(look)
    def prints(*arguments) -> Prints:
        try:
            return look(*arguments)
        except (OSError, UserError):
            return {}

    return prints


@_if_readable
def _of_task(task: ConfigDict) -> Prints:
    return _texts(make_task(task).files())


@_if_readable
def _of_labels(source: str) -> Prints:
    if buckets.is_remote(source):  # downloads nothing
        return buckets.states(source, imports.FILES)
    return _texts([Path(source) / name for name in imports.FILES])


@_if_readable
def _of_stage(path: str) -> Prints:
    try:
        return {MANIFEST: read_manifest(Path(path))["fingerprint"]}
    except UserError:  # a copy of params/ alone
        return _prints(Path(path), (Path(path) / "params").rglob("*"), _WHOLE_WEIGHTS)


@_if_readable
def _of_weights(path: str) -> Prints:
    folder = Path(path)
    files = folder.rglob("*")
    if tensors := list(folder.glob("*.safetensors")):
        # Of Hugging Face, which leaves files beside them that are not read.
        files = [*tensors, folder / "config.json", folder / INDEX]
    return _prints(folder, files, _WHOLE_WEIGHTS)


@_if_readable
def _texts(paths: Iterable[str | os.PathLike[str]]) -> Prints:
    """Of those that are there, by their names below the folder that all are in."""
    files = [Path(path) for path in paths]
    folders = {file.parent for file in files}
    folder = Path(os.path.commonpath(folders)) if folders else Path()
    return _prints(folder, files, _WHOLE_TEXT)


def _prints(folder: Path, files: Iterable[Path], whole: int) -> Prints:
    found = {
        file.relative_to(folder).as_posix(): _print(file, whole)
        for file in sorted(files)
        if file.is_file()
    }
    if len(found) <= _NAMED:
        return found
    groups: dict[str, list[str]] = {}
    for name, value in found.items():
        groups.setdefault(name.split("/")[0], []).append(f"{name}\0{value}\n")
    return {name: _short("".join(rows).encode()) for name, rows in groups.items()}


def _print(file: Path, whole: int) -> str:
    size = file.stat().st_size
    with file.open("rb") as opened:
        if size <= whole:
            return hashlib.file_digest(opened, "sha256").hexdigest()[:16]
        content = [str(size).encode()]
        for place in range(_PLACES):
            opened.seek((size - _BLOCK) * place // (_PLACES - 1))
            content.append(opened.read(_BLOCK))
    return _short(b"\0".join(content))


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
