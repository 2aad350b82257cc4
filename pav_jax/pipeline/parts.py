"""Parts of an experiment: jobs that know nothing of each other, and their merge.

`--part=I/N` does every N-th shard of a stage, and of the stages in shards that it is
made of: of `labels` with those of `rollouts`. Which shards these are follows from I and
N alone. A part works in a workdir of its own, `WORKDIR/.parts/I-of-N`, which may be in
a bucket (`storage/mirror.py`), and runs stages as ever: what it has finished is not
done again. Other stages that it needs must be finished in `WORKDIR`. It reads a copy of
them, since it may take days, and they may change.

`merge` makes the stage in `WORKDIR` of the files of all parts. They are those that one
process writes; so is the manifest, but for the seconds, which are those of all parts
together, and the version, which is that of the merge.
"""

import dataclasses
import functools
import os
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.distributed.processes import Part
from pav_jax.pipeline import reuse
from pav_jax.pipeline.manifest import MANIFEST, damage, difference, read_manifest
from pav_jax.pipeline.runner import (
    Stage,
    StageContext,
    bring_up_to_date,
    log,
    make_context,
    make_terms,
    why_not_done,
)
from pav_jax.pipeline.shards import LEDGER, is_ledger, read_ledger, write_ledger
from pav_jax.pipeline.watch import Watch
from pav_jax.storage import buckets
from pav_jax.storage.workdir import PARTS, claim

T = TypeVar("T")
PathLike = str | os.PathLike[str]
Manifest = Mapping[str, Any]

_INPUTS = ".inputs"  # of a part; hidden, so that no mirror of a workdir copies them
_CONNECTIONS = 16  # to a bucket at a time
_NAMED = 10  # parts that a message names


def run_part(
    stages: Sequence[Stage],
    config: ConfigDict,
    workdir: PathLike,
    *,
    until: str,
    part: Part,
    watch: Watch = Watch(),  # noqa: B008
) -> None:
    """Does a part's shards of a stage, and of the stages in shards that it is made of.

    Args:
      stages: of the experiment, each after the ones it needs.
      config: of the experiment.
      workdir: where the other stages are finished; a folder, or in a bucket.
      until: the stage.
      part: which shards.
      watch: what is shown of the loops of stages.

    Raises:
      UserError: the stage is not done in shards; or one that it needs is not finished,
        or is of another config; or another process is at work on the part.
    """
    needed, in_parts = _plan(stages, until)
    watch.check()
    values = config_lib.flatten(config)
    finished = _finished(needed, in_parts, values, workdir)
    fingerprints = {name: found["fingerprint"] for name, found in finished.items()}
    here: set[str] = set()
    with claim(_place(workdir, part), config.name, values) as root:
        for stage in needed:
            begun = any((root / f"{stage.name}{end}").exists() for end in ("", ".new"))
            if stage.name not in in_parts or (stage.name in finished and not begun):
                continue
            terms = make_terms(stage, values, fingerprints)
            runs = why_not_done(root / stage.name, terms)
            inputs = {
                need: root / need
                if need in here
                else _copy(finished[need], workdir, root / _INPUTS / need)
                for need in stage.needs
                if runs  # else they may be gigabytes for nothing
            }
            here.add(stage.name)
            context = make_context(stage, config, root, watch)
            context = dataclasses.replace(context, inputs=inputs, part=part)
            fingerprints[stage.name] = bring_up_to_date(stage, terms, context)
    if until not in here:
        log(f"{until}: done already, in {workdir}")


def merge(
    stages: Sequence[Stage],
    config: ConfigDict,
    workdir: PathLike,
    *,
    until: str,
    count: int,
) -> None:
    """Makes a stage of what all parts did, and before it those that it is made of.

    A stage that is done is left as it is.

    Args:
      stages: of the experiment.
      config: that of the parts.
      workdir: that of the parts.
      until: the stage.
      count: of the parts.

    Raises:
      UserError: parts are missing, or of another config, policy or version; or a file
        of theirs is damaged; or a stage that they need is not finished in the workdir.
    """
    if count < 1:
        raise UserError(f"--parts={count} must be at least 1")
    needed, in_parts = _plan(stages, until)
    values = config_lib.flatten(config)
    _finished(needed, in_parts, values, workdir)  # before `claim` would make a workdir
    fingerprints: dict[str, str] = {}
    terms_of: dict[str, Manifest] = {}
    made: dict[str, Manifest] = {}
    with claim(workdir, config.name, values) as root:
        for stage in needed:
            terms = terms_of[stage.name] = make_terms(stage, values, fingerprints)
            made_on: set[str] = set()
            if why := why_not_done(root / stage.name, terms):
                if stage.name not in in_parts:
                    raise UserError(f"stage {stage.name} in {workdir}: {why}")
                parts = _check_parts(stage, terms_of, made, in_parts, workdir, count)
                run = functools.partial(_gather, workdir=workdir, parts=parts)
                stage = dataclasses.replace(stage, run=run)
                made_on = {
                    devices
                    for manifest in parts.values()
                    for devices in manifest.get("made_on", ())
                }
            context = make_context(stage, config, root)
            fingerprints[stage.name] = bring_up_to_date(
                stage, terms, context, made_on=sorted(made_on)
            )
            made[stage.name] = read_manifest(root / stage.name)


# What is to be done, and where.


def _plan(stages: Sequence[Stage], until: str) -> tuple[list[Stage], set[str]]:
    """The stages that `until` depends on, in order; and which of them parts do."""
    by_name = {stage.name: stage for stage in stages}
    able = [stage.name for stage in stages if stage.in_shards]
    if until not in able:
        what = f"stage {until} is not" if until in by_name else f"no stage {until!r} is"
        raise UserError(
            f"--until={until}: {what} done in shards, so parts cannot do it; those are:"
            f" {', '.join(able)}"
        )

    def reached(name: str, through: Collection[str]) -> set[str]:
        needs = [need for need in by_name[name].needs if need in through]
        return {name}.union(*(reached(need, through) for need in needs))

    every = reached(until, by_name)
    return [stage for stage in stages if stage.name in every], reached(until, able)


def _below(workdir: PathLike, name: str) -> str:
    if not buckets.is_remote(workdir):
        workdir = buckets.local_folder(workdir)
    return f"{os.fspath(workdir).rstrip('/')}/{name}"


def _place(workdir: PathLike, part: Part, stage: str = "") -> str:
    """The workdir of a part, or the folder of a stage there."""
    name = f"{PARTS}/{part.index}-of-{part.count}/{stage}"
    return _below(workdir, name.rstrip("/"))


def _read_manifest(path: str) -> Manifest | None:
    """That of the finished stage at a path; None if there is none."""
    if not buckets.exists(f"{path}/{MANIFEST}"):
        return None
    with buckets.to_read(path, parts=(MANIFEST,)) as folder:
        return read_manifest(folder)


# What a part needs of the workdir.


def _finished(
    needed: Sequence[Stage],
    in_parts: Collection[str],
    values: Mapping[str, Any],
    workdir: PathLike,
) -> dict[str, Manifest]:
    """The manifests of the stages that are finished in the workdir.

    Raises:
      UserError: one is not that parts cannot do.
    """
    finished: dict[str, Manifest] = {}
    others = [stage.name for stage in needed if stage.name not in in_parts]
    for stage in needed:
        manifest = _read_manifest(_below(workdir, stage.name))
        why = "it is not there"
        if manifest and finished.keys() >= set(stage.needs):
            known = {name: found["fingerprint"] for name, found in finished.items()}
            why = difference(manifest, make_terms(stage, values, known))
        if not why:
            finished[stage.name] = manifest
        elif stage.name in others:
            by_parts = " (or pav merge, if parts did it)" * stage.in_shards
            raise UserError(
                f"parts need stage {stage.name} finished in {workdir}; {why}. First"
                f" run this config with --until={others[-1]} and no --part{by_parts}"
            )
    return finished


def _copy(manifest: Manifest, workdir: PathLike, folder: Path) -> Path:
    """The files of a finished stage, as they are now; in `folder`, which is returned.

    Raises:
      UserError: they are not as its manifest says.
    """
    if _fault(folder, manifest):
        source = _below(workdir, manifest["stage"])
        shutil.rmtree(folder, ignore_errors=True)
        if buckets.is_remote(workdir):
            with buckets.explained(source):
                buckets.download(source, folder)
        else:
            reuse.take(Path(source), manifest, folder)
        if why := _fault(folder, manifest):
            raise UserError(f"{source}: {why}; run again what makes it")
    return folder


def _fault(folder: Path, manifest: Manifest) -> str:
    """In what a folder differs from a manifest's; empty if it does not."""
    try:
        same = read_manifest(folder)["fingerprint"] == manifest["fingerprint"]
    except UserError as error:
        return str(error)
    return damage(folder, manifest["files"]) if same else "it was made again meanwhile"


# What a merge needs of the parts.


def _check_parts(
    stage: Stage,
    terms_of: Mapping[str, Manifest],
    made: Mapping[str, Manifest],
    in_parts: Collection[str],
    workdir: PathLike,
    count: int,
) -> dict[Part, Manifest]:
    """The manifests of a stage of all parts.

    Args:
      stage: to be merged.
      terms_of: the terms in the workdir of the stage, and of those that it needs.
      made: the manifests there of those that it needs.
      in_parts: the stages that parts do.
      workdir: that the parts are of.
      count: of the parts.

    Raises:
      UserError: some are missing, or were made with other terms or by another version,
        or of other shards of an earlier stage than the workdir has.
    """

    def fault(part: Part, name: str, manifest: Manifest) -> str:
        terms = terms_of[name]
        needs = dict(terms["needs"])
        for need in in_parts & needs.keys():
            # Shards of an earlier stage may be its own, if they are right themselves.
            if manifest["needs"].get(need) != needs[need]:
                own = _read_manifest(_place(workdir, part, need))
                if own and not fault(part, need, own):
                    needs[need] = own["fingerprint"]
                    _check_shards(part, name, own, made[need], workdir)
        return difference(manifest, {**terms, "needs": needs})

    def read(part: Part) -> Manifest | None:
        manifest = _read_manifest(_place(workdir, part, stage.name))
        if manifest is None:
            return None
        if why := fault(part, stage.name, manifest):
            raise UserError(
                f"part {part} of stage {stage.name} is not of this config and policy:"
                f" {why}; run that part again"
            )
        return manifest

    found = dict(_for_each(count, read))
    missing = [str(part) for part, manifest in found.items() if manifest is None]
    if missing:
        more = f" and {len(missing) - _NAMED} more" * (len(missing) > _NAMED)
        raise UserError(
            f"stage {stage.name} lacks part {', '.join(missing[:_NAMED])}{more}; run"
            f" with --until={stage.name} and --part"
        )
    _check_versions(stage.name, found)
    return found


def _check_versions(stage: str, found: Mapping[Part, Manifest]) -> None:
    """Raises UserError if the parts of a stage are of several versions."""
    first = found[Part(0, len(found))]
    for part, manifest in found.items():
        if manifest["version"] != first["version"]:
            raise UserError(
                f"part {part} of stage {stage} was made by version"
                f" {manifest['version']} of pav_jax, and part 0/{len(found)} by"
                f" {first['version']}; remove one of them and run it again"
            )


def _check_shards(
    part: Part, stage: str, own: Manifest, whole: Manifest, workdir: PathLike
) -> None:
    """Raises UserError if a stage of a part is of other shards than the workdir has.

    Args:
      part: which.
      stage: of the part.
      own: an earlier stage, as the part made it.
      whole: that stage in the workdir.
      workdir: that the part is of.
    """
    need = own["stage"]
    for name, file in own["files"].items():
        is_shard = name != LEDGER and not is_ledger(name)
        if is_shard and whole["files"].get(name) != file:
            raise UserError(
                f"part {part} of stage {stage} is of {need} of its own, whose {name} is"
                f" not that of {need} in {workdir} (devices of another kind may draw"
                f" other samples); remove {_place(workdir, part)} and run that part"
                f" again, which then reads the {need} in {workdir}"
            )


def _gather(
    context: StageContext, *, workdir: PathLike, parts: Mapping[Part, Manifest]
) -> float:
    """Takes the files of all parts of a stage; returns the seconds of all together."""

    def take(part: Part) -> Ledger:
        place = _place(workdir, part, context.stage)
        with buckets.to_read(place) as folder:
            if why := damage(folder, parts[part]["files"]):
                raise UserError(
                    f"part {part} of stage {context.stage}: {why}; remove"
                    f" {_place(workdir, part)} and run that part again"
                )
            # As the stage itself writes them: a shard with its ledger is complete.
            for name in sorted(parts[part]["files"], key=is_ledger):
                if name != LEDGER:
                    target = context.directory / name
                    target.unlink(missing_ok=True)
                    reuse.link(folder / name, target)
            return read_ledger(folder)

    for ledger in filter(is_ledger, context.directory.iterdir()):
        ledger.unlink()  # of an attempt before: its shard may be replaced
    total = Ledger()
    for _, ledger in _for_each(len(parts), take):
        total += ledger
    write_ledger(context.directory, total)
    return sum(manifest["seconds"] for manifest in parts.values())


def _for_each(count: int, function: Callable[[Part], T]) -> list[tuple[Part, T]]:
    """Each part, and what a function of it returns; several at a time."""
    every = [Part(index, count) for index in range(count)]
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return list(zip(every, pool.map(function, every), strict=True))
