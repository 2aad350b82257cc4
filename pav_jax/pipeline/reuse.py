"""Takes a stage that another run has finished, in place of computing it once more.

Runs of a sweep differ in few fields, so that most of their early stages have equal
terms, and equal terms give the same files. Both runs then hold them by hard links,
where the file system has these. That is safe, since a finished file is never written in
place: what changes later, such as a page that is drawn again, is a new file that takes
the name. So no run sees a change in another, and each can be removed.
"""

import contextlib
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pav_jax.core.errors import UserError
from pav_jax.pipeline.manifest import MANIFEST, damage, difference, read_manifest
from pav_jax.storage import artifacts, buckets
from pav_jax.storage.workdir import PARTS


def check(places: Collection[str | os.PathLike[str]]) -> None:
    """Raises UserError if a place to take stages from is no folder of this machine, or
    has parts of stages."""
    for place in places:
        if buckets.is_remote(place) or not Path(place).is_dir():
            raise UserError(
                f"--reuse={place} is not a folder of this machine; give the workdir of"
                " another run, or a folder of workdirs"
            )
        if PARTS in Path(place).absolute().parts:
            raise UserError(
                f"--reuse={place} has parts of stages, which are not whole; pav merge"
                " makes them whole"
            )


def find(
    folder: Path, terms: dict, places: Collection[str | os.PathLike[str]]
) -> tuple[Path, dict[str, Any]] | None:
    """The stage as another run has finished it, and its manifest; None if none has.

    Args:
      folder: of the stage in this run.
      terms: what the other's have to equal.
      places: workdirs, and folders of workdirs.
    """
    for source in _candidates(folder, places):
        try:
            manifest = read_manifest(source)
            same = manifest["stage"] == folder.name and not difference(manifest, terms)
            if same and not damage(source, manifest["files"]):
                return source, manifest
        except (UserError, FileNotFoundError):
            continue  # Damaged, or that run is at work on it.
    return None


def is_made(
    folder: Path,
    fields: Mapping[str, Any],
    revision: int,
    places: Collection[str | os.PathLike[str]],
) -> bool:
    """Whether a stage is finished with these fields, here or as of `find`, by this
    version of it; of its inputs and its files nothing is asked."""
    for source in (folder, *_candidates(folder, places)):
        with contextlib.suppress(UserError, FileNotFoundError):
            found = read_manifest(source)
            if (found["fields"], found.get("revision", 0)) == (fields, revision):
                return True
    return False


def take(source: Path, manifest: Mapping[str, Any], new: Path) -> bool:
    """Fills a folder with the files of a finished stage; its manifest comes last.

    Args:
      source: the folder of the stage.
      manifest: what was found there.
      new: a folder that is not there yet.

    Returns:
      False if the other run has replaced its folder since; then `new` has no manifest.
    """
    try:
        for name in manifest["files"]:
            target = new / name
            target.parent.mkdir(parents=True, exist_ok=True)
            link(source / name, target)
        unchanged = read_manifest(source)["fingerprint"] == manifest["fingerprint"]
    except (UserError, FileNotFoundError):
        return False
    if unchanged:
        artifacts.write_json(new / MANIFEST, manifest)
    return unchanged


def _candidates(
    folder: Path, places: Collection[str | os.PathLike[str]]
) -> Iterator[Path]:
    """Finished folders of the same name, but for this one."""
    here = folder.parent.resolve()
    for place in map(Path, places):
        for workdir in [place, *sorted(place.iterdir())]:
            source = workdir / folder.name
            if (source / MANIFEST).is_file() and workdir.resolve() != here:
                yield source


def link(source: Path, target: Path) -> None:
    """Gives a finished file a second name; copies it where there are no links."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # The file system has no links, or the other run is on another.
        shutil.copy2(source, target)
