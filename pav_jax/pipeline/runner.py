"""Runs the stages of an experiment, and skips those that are done.

A stage works in `workdir/<name>.new`. When it is complete, the folder is renamed to
`workdir/<name>`, so a run that fails or is killed loses nothing that was finished
before. A stage that another run has finished, with equal terms, can be taken from there
(`reuse.py`). Two files describe a folder:

- `started.json`, in an unfinished folder: the terms of the stage, which are its config
  fields, the fingerprints of its inputs and prints of files that no stage made
  (`external_files.py`), and the seconds and devices so far. The same stage resumes from
  the files in the folder if its terms are the same, and otherwise starts from an empty
  folder (`attempts.py`).
- `manifest.json`, written last: the terms, the size and hash of every file, and a
  fingerprint of all this, which is part of the terms of later stages.
"""

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from tqdm import tqdm

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError, unwritable
from pav_jax.core.profile import Profile
from pav_jax.distributed import devices, mesh
from pav_jax.distributed.processes import Part, Processes
from pav_jax.pipeline import reuse
from pav_jax.pipeline.attempts import Attempt, Earlier, resumable
from pav_jax.pipeline.manifest import (
    MANIFEST,
    STARTED,
    damage,
    difference,
    make_manifest,
    read_manifest,
)
from pav_jax.pipeline.watch import Watch
from pav_jax.pipeline.workers import Worker, open_workdir
from pav_jax.storage import artifacts
from pav_jax.train.scalars import OpenLog, open_none


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of an experiment, with all that its result depends on.

    Attributes:
      name: the name of its folder.
      run: writes its files into `context.directory`, where it may find files of its
        own from an attempt that was stopped; returns seconds of work that was done
        elsewhere and is part of it, if any.
      needs: the earlier stages whose folders it reads.
      fields: the config fields that it reads: a name ("seed"), a section ("sft"), a
        dotted name ("sft.steps"), or all of them ("").
      collective: True if every process runs it: training that is `@together`.
        Otherwise the primary process runs it, and the others wait.
      in_shards: True if every process runs it, since all its work is `in_shards`; a
        part of the experiment may then do some of them alone.
      outside: of the config fields that name files which no stage made, functions that
        tell whether these have changed; see `external_files.py`.
      computes: False if it computes nothing on devices, which need not be free then.
      revision: raised by a change of the program, such as a fix, that changes what the
        stage makes; results of before it are then made again.
      check: given its finished folder, made now or before, and the names of the stages
        that the run goes on to; raises UserError if one of these would fail.
      batches: rows of the batches that it trains on, by where the config says so.
    """

    name: str
    run: Callable[["StageContext"], float | None]
    needs: tuple[str, ...]
    fields: tuple[str, ...]
    collective: bool = False
    in_shards: bool = False
    outside: Mapping[str, Callable[[], Mapping[str, str]]] = dataclasses.field(
        default_factory=dict
    )
    computes: bool = True
    revision: int = 0
    check: Callable[[Path, Sequence[str]], None] = lambda folder, later: None
    batches: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class StageContext:
    """What a stage is given to work with.

    Attributes:
      stage: the name of the stage.
      config: only the fields that the stage declared: when one of them changes, the
        stage runs again, and so the result may depend on no other.
      directory: the folder to write into; renamed when the stage is complete.
      inputs: the folders of the stages that this one needs.
      worker: this process among those of the run.
      part: of the shards, which is all that the stage does.
      profile: runs the steps of the stage's hot loop, and may trace some.
      open_log: opens the log of a training's scalars.
      batches: as of `Stage`.
    """

    stage: str
    config: ConfigDict
    directory: Path
    inputs: Mapping[str, Path]
    worker: Worker = Worker()
    part: Part = Part()
    profile: Profile = Profile()
    open_log: OpenLog = open_none
    batches: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def input(self, stage: str) -> Path:
        """The finished folder of a stage that this one needs."""
        return self.inputs[stage]

    def log(self, message: str) -> None:
        """Prints a line about this stage, from the primary process."""
        if self.worker.is_primary:
            log(f"{self.stage}: {message}")


def log(message: str) -> None:
    """Prints a line to stderr, above a progress bar if there is one."""
    tqdm.write(message, file=sys.stderr)


def run_stages(
    stages: Sequence[Stage],
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    until: str | None = None,
    processes: Processes = Processes(),  # noqa: B008
    reuse_from: Collection[str | os.PathLike[str]] = (),
    watch: Watch = Watch(),  # noqa: B008
) -> None:
    """Runs the stages in order, except those whose results are there.

    Args:
      stages: each after the ones it needs.
      config: has the experiment's `name`, to which the folder then belongs.
      workdir: the folder of the experiment; made if it is not there.
      until: the last stage to run; None runs all.
      processes: those of the run; all call this with the same arguments.
      reuse_from: workdirs, and folders of workdirs, of which finished stages with equal
        terms are taken.
      watch: what is shown of the loops of stages.

    Raises:
      UserError: the folder belongs to another experiment or is in use, or the config
        lacks a field, or there is no stage `until`, or no folder in `reuse_from`, or
        `watch` asks for what cannot be, or the mesh does not divide a batch.
      PeerStopped: another process of the run failed or was stopped.
    """
    _check(stages)
    names = [stage.name for stage in stages]
    if until is not None and until not in names:
        raise UserError(f"there is no stage {until!r}; there are: {', '.join(names)}")
    values = config_lib.flatten(config)
    for stage in stages:
        _fields_of(stage, values)  # raises before anything runs

    with open_workdir(workdir, config.name, values, processes) as (root, worker):
        fingerprints: dict[str, str] = {}
        last = names.index(until) if until else len(stages) - 1
        if worker.is_primary:
            reuse.check(reuse_from)
            watch.check()
            _check_batches(stages[: last + 1], values, root, reuse_from)
        for number, stage in enumerate(stages[: last + 1], 1):
            context = make_context(stage, config, root, watch, worker)
            if worker.is_primary:
                terms = make_terms(stage, values, fingerprints)
                fingerprints[stage.name] = bring_up_to_date(
                    stage, terms, context, reuse_from
                )
                stage.check(root / stage.name, names[number : last + 1])
                worker.finish(stage.name)
            else:
                all_run = stage.collective or stage.in_shards
                if worker.wait_for_start(stage.name) and all_run:
                    stage.run(context)
                worker.wait_for_end(stage.name)


def _check(stages: Sequence[Stage]) -> None:
    """Raises ValueError if the stages cannot be run in this order, which is a bug."""
    before: set[str] = set()
    for stage in stages:
        if stage.name in before:
            raise ValueError(f"two stages are called {stage.name!r}")
        if missing := set(stage.needs) - before:
            raise ValueError(f"{stage.name} comes before {missing}, which it needs")
        before.add(stage.name)


def _check_batches(
    stages: Sequence[Stage],
    values: Mapping[str, Any],
    root: Path,
    reuse_from: Collection[str | os.PathLike[str]],
) -> None:
    """Raises UserError if the mesh does not divide a batch of a stage not yet done."""
    shards = mesh.training_shards()
    for stage in stages:
        uneven = [pair for pair in stage.batches.items() if pair[1] % shards]
        folder, fields = root / stage.name, _fields_of(stage, values)
        _settle(folder)
        if not uneven or reuse.is_made(folder, fields, stage.revision, reuse_from):
            continue
        what, rows = uneven[0]
        raise UserError(
            f"{what}={rows}, rows of a batch of stage {stage.name}, has to be a"
            f" multiple of data x fsdp = {shards}, the axes of config.mesh that rows"
            " are sharded over"
        )


def make_context(
    stage: Stage,
    config: ConfigDict,
    root: Path,
    watch: Watch = Watch(),  # noqa: B008
    worker: Worker = Worker(),  # noqa: B008
) -> StageContext:
    """What a stage is given that works in the folder `root`, with its inputs."""
    shown = {}
    if worker.is_primary:
        shown = dict(
            profile=watch.profile_of(
                stage.name, root, lambda text: log(f"{stage.name}: {text}")
            ),
            open_log=watch.log_of(stage.name, root, config),
        )
    return StageContext(
        stage=stage.name,
        config=config_lib.select(config, stage.fields),
        directory=_new(root / stage.name),
        inputs={need: root / need for need in stage.needs},
        worker=worker,
        batches=stage.batches,
        **shown,
    )


def make_terms(
    stage: Stage, values: Mapping[str, Any], fingerprints: Mapping[str, str]
) -> dict[str, Any]:
    """All that the result of a stage depends on.

    Args:
      stage: the stage.
      values: the config, flattened.
      fingerprints: of the stages that it needs, and others.

    Raises:
      UserError: the config lacks a field that the stage reads.
    """
    terms: dict[str, Any] = {
        "fields": _fields_of(stage, values),
        "needs": {need: fingerprints[need] for need in stage.needs},
    }
    outside = {field: dict(look()) for field, look in stage.outside.items()}
    # Nothing is said of what is not here: a finished stage may outlive its sources.
    if outside := {field: found for field, found in outside.items() if found}:
        terms["outside"] = outside
    if stage.revision:  # else as before there was one
        terms["revision"] = stage.revision
    return terms


def _fields_of(stage: Stage, values: Mapping[str, Any]) -> dict[str, Any]:
    for prefix in stage.fields:
        if not any(config_lib.within(name, prefix) for name in values):
            raise UserError(
                f"the config has no field {prefix!r}, which stage {stage.name} reads"
            )
    return {
        name: value
        for name, value in values.items()
        if any(config_lib.within(name, prefix) for prefix in stage.fields)
    }


# One stage.


def bring_up_to_date(
    stage: Stage,
    terms: dict,
    context: StageContext,
    reuse_from: Collection[str | os.PathLike[str]] = (),
    made_on: Sequence[str] | None = None,
) -> str:
    """Takes or runs the stage unless its result is there; returns the fingerprint.

    Args:
      stage: it.
      terms: its own; see `make_terms`.
      context: what it is given.
      reuse_from: as of `run_stages`.
      made_on: for the manifest, the devices of others that did the work; None for ours.
    """
    new = context.directory
    folder = new.with_name(stage.name)
    why = why_not_done(folder, terms)
    unprofiled = "; it is not run again for a profile" * context.profile.is_on
    if not why:
        manifest = read_manifest(folder)
        context.log(f"done already ({_duration(manifest['seconds'])}){unprofiled}")
        return manifest["fingerprint"]
    if found := reuse.find(folder, terms, reuse_from):
        source, manifest = found
        if new.exists():
            _discard(new)
        if reuse.take(source, manifest, new):
            _settle(folder)
            seconds = _duration(manifest["seconds"])
            context.log(f"taken from {source} ({seconds}){unprofiled}")
            return manifest["fingerprint"]

    earlier, obstacle = resumable(new, terms)
    if earlier:
        start = f"resumes after {_duration(earlier.seconds)}"
    elif folder.exists():
        start = "runs again"
    else:
        start = "starts over" if obstacle else "runs"
    since = why if folder.exists() else obstacle
    context.log(f"{start}, since {since}" if since else start)
    if obstacle:
        _discard(new)

    here = made_on
    if here is None:
        here = [devices.here()] if stage.computes else []
    with Attempt(new / STARTED, terms, earlier or Earlier(), here) as attempt:
        context.worker.open_stage(stage.name)
        with contextlib.closing(context.profile):
            elsewhere = stage.run(context) or 0.0
    seconds = round(attempt.seconds + elsewhere, 3)
    manifest = make_manifest(stage.name, terms, new, seconds, attempt.made_on)
    artifacts.write_json(new / MANIFEST, manifest)
    _settle(folder)
    context.log(f"done ({_duration(seconds)})")
    return manifest["fingerprint"]


def why_not_done(folder: Path, terms: dict) -> str:
    """Why the stage has to run, for "since ..."; empty if its result is there.

    Completes what a kill has left of the end of an earlier attempt.
    """
    _settle(folder)
    if not (folder / MANIFEST).exists():
        return f"its {MANIFEST} is missing"
    try:
        manifest = read_manifest(folder)
    except UserError as error:
        if unwritable(error):  # this user may not read it
            raise
        return f"its {MANIFEST} is damaged"
    return difference(manifest, terms) or damage(folder, manifest["files"])


# Folders. These two may be killed at any point; the next run completes them.


def _new(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.new")


def _settle(folder: Path) -> None:
    """Renames a new folder if it is complete."""
    new = _new(folder)
    if (new / MANIFEST).exists():
        with artifacts.writing(folder):
            (new / STARTED).unlink(missing_ok=True)
            if folder.exists():
                shutil.rmtree(folder)
            new.rename(folder)


def _discard(new: Path) -> None:
    """Removes an unfinished folder; first the file that would let a run resume it."""
    with artifacts.writing(new):
        (new / STARTED).unlink(missing_ok=True)
        shutil.rmtree(new)


# Small things.


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
