"""What each `pav` command does with its arguments.

Each imports what it needs when it runs, so that `pav --help` is quick. They return an
exit code, or None for 0; `main.py` reports what they raise.
"""

import argparse
import functools
import json
import os

from pav_jax.core.errors import UserError


def _coordinator(arguments: argparse.Namespace):
    from pav_jax.distributed.processes import Coordinator

    return Coordinator.of(
        arguments.coordinator, arguments.num_processes, arguments.process_id
    )


def run(arguments: argparse.Namespace, changes: list[str]) -> None:
    from pav_jax.core import config as config_lib
    from pav_jax.storage import buckets

    coordinator = _coordinator(arguments)
    part = _part(arguments, coordinator) if arguments.part is not None else None
    config = config_lib.load([f"--config={arguments.config}", *changes])

    # jax keeps what it compiled, so that a rerun or a like stage need not do so again.
    compiled = buckets.local_folder(arguments.workdir) / ".compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    # After the config, so that a mistake in it is reported before jax loads.
    from pav_jax.distributed import mesh, processes
    from pav_jax.pipeline import parts, runner, stages
    from pav_jax.pipeline.watch import Watch

    # It raises if the config cannot be run.
    planned = stages.stages(config, arguments.until)
    joined = processes.join(coordinator)
    mesh.activate(config)
    run = (planned, config, arguments.workdir)
    how = dict(until=arguments.until, watch=Watch(arguments.profile, arguments.log_to))
    if part:
        parts.run_part(*run, part=part, **how)
    else:
        runner.run_stages(*run, processes=joined, reuse_from=arguments.reuse, **how)


def _part(arguments: argparse.Namespace, coordinator):
    """Of `--part`, if the other arguments go with it."""
    from pav_jax.distributed.processes import Part

    part = Part.parse(arguments.part)
    if not arguments.until:
        raise UserError(
            f"--part={part} needs --until=STAGE, such as labels: the stage of which it"
            " does a part"
        )
    if arguments.reuse:
        raise UserError(
            f"--part={part} and --reuse do not go together: a part takes finished"
            " stages from --workdir"
        )
    if coordinator.address is not None:
        raise UserError(
            f"--part={part} is for one process, and --coordinator for several that"
            " work together; give each process a part of its own"
        )
    return part


def merge(arguments: argparse.Namespace, changes: list[str]) -> None:
    from pav_jax.core import config as config_lib

    config = config_lib.load([f"--config={arguments.config}", *changes])
    from pav_jax.pipeline import parts, stages

    parts.merge(
        stages.stages(config, arguments.until),
        config,
        arguments.workdir,
        until=arguments.until,
        count=arguments.parts,
    )


def lab(arguments: argparse.Namespace, changes: list[str]) -> None:
    from pav_jax.core import config as config_lib

    config = config_lib.load([f"--config={arguments.config}", *changes])
    from pav_jax.laboratories import runner

    print(runner.run(config, arguments.workdir))


def plan(arguments: argparse.Namespace, changes: list[str]) -> int:
    from pav_jax.core import config as config_lib
    from pav_jax.pipeline import config_rules
    from pav_jax.tools.planning import topology
    from pav_jax.tools.planning.progress import Progress

    config = config_lib.load([f"--config={arguments.config}", *changes])
    config_rules.check(config)
    target = topology.parse(arguments.topology)
    progress = Progress()
    # A mistake in the config is told alone.
    progress.say(f"{arguments.config} on {target.name}")
    from pav_jax.tools import plan

    if arguments.search:
        plans = plan.search(config, target, progress=progress)
        if not arguments.json:
            print("\n\n".join(map(plan.text, plans)))
    else:
        how = {} if arguments.json else {"say": functools.partial(print, flush=True)}
        plans = [plan.make_plan(config, target, progress=progress, **how)]
    if arguments.json:
        print(json.dumps([found.as_json() for found in plans]))
    return plans[0].code


def devices(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.distributed import devices

    found = devices.check(
        _coordinator(arguments), expect=arguments.expect, timeout=arguments.timeout
    )
    print(found)


def report(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.pipeline import stages
    from pav_jax.pipeline.manifest import MANIFEST
    from pav_jax.storage import buckets

    with buckets.to_read(arguments.workdir, parts=("report",)) as workdir:
        page = stages.report(workdir)
        if buckets.is_remote(arguments.workdir):
            place = f"{arguments.workdir.rstrip('/')}/report"
            for path in (page, page.with_name(MANIFEST)):
                if path.exists():
                    buckets.upload(path, f"{place}/{path.name}")


def _verifier(arguments: argparse.Namespace, prover_k: int | None = None):
    """The verifier of `--verifier`, on the mesh of `--mesh`, which becomes active."""
    from pav_jax.distributed import mesh
    from pav_jax.tools import scoring

    with scoring.fetched(arguments.verifier) as folder:
        if arguments.mesh is None:
            try:
                mesh.activate({"mesh": scoring.mesh_of(folder)})
            except UserError as error:
                raise UserError(
                    f"{error}; or give a --mesh of these devices"
                ) from error
        else:
            mesh.activate({"mesh": mesh.parse(arguments.mesh)})
        return scoring.Verifier.load(folder, prover_k)


def score(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.distributed import processes
    from pav_jax.storage import buckets
    from pav_jax.tools import score_file

    joined = processes.join(_coordinator(arguments))
    if joined.count > 1 and buckets.is_remote(arguments.output):
        raise UserError(
            f"several processes need a place that all see, which {arguments.output} is"
            " not; give an --output there"
        )
    verifier = _verifier(arguments, arguments.prover_k)
    with (
        buckets.to_read(arguments.input) as source,
        buckets.to_resume(arguments.output, score_file.PARTIAL) as target,
    ):
        tally = score_file.score_file(verifier, source, target, joined)
    if tally is None:  # the primary process reports
        return
    if not tally.scored:
        raise UserError(f"{arguments.output}: {tally}")
    print(f"{arguments.output}: {tally}")


def judge(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.storage import artifacts, buckets
    from pav_jax.tools import judge
    from pav_jax.tools.judging.sources import RUN, SUFFIXES

    source, output = arguments.input, arguments.output
    if output and buckets.same(output, source):
        raise UserError(f"{output} is the input; give another --output")
    if (
        arguments.on == "processbench"
        and (output or "").endswith(SUFFIXES)
        and buckets.same(os.path.dirname(output) or ".", source)
    ):
        raise UserError(
            f"{output} is in the folder of --input, whose files are read as subsets;"
            " give another --output"
        )
    if arguments.threshold_on and arguments.on != "processbench":
        raise UserError(
            f"--threshold_on={arguments.threshold_on} names a file of"
            f" --on=processbench; leave it out for --on={arguments.on}"
        )
    load = functools.partial(_verifier, arguments) if arguments.verifier else None
    in_bucket = buckets.is_remote(source)
    is_run = in_bucket and buckets.exists(f"{source.rstrip('/')}/{RUN[0]}")
    parts = RUN if is_run else ("",)
    with buckets.to_read(source, parts) as folder:
        found = judge.judge(arguments.on, folder, load, arguments.threshold_on)
    if output:
        with buckets.to_write(output) as target:
            artifacts.write_json(target, found)
    print(judge.text(found))


def import_labels(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.storage import buckets, imports
    from pav_jax.tools import importing

    if buckets.exists(arguments.output):
        raise UserError(f"{arguments.output} exists; give another --output")
    with (
        buckets.to_read(arguments.input) as source,
        buckets.to_write(arguments.output, last=imports.ABOUT) as target,
    ):
        said = importing.import_labels(
            arguments.format, source, target, arguments.meaning
        )
    print(f"{arguments.output}: {said}")


def export_labels(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.storage import buckets, workdir
    from pav_jax.tools import label_export

    if buckets.exists(arguments.output):
        raise UserError(f"{arguments.output} exists; give another --output")
    parts = {workdir.SETTINGS}
    if buckets.is_remote(arguments.labels):
        with buckets.explained(arguments.labels):
            stages = {name.split("/")[0] for name in buckets.files(arguments.labels)}
        parts |= {"data", "rollouts", *(x for x in stages if x.startswith("labels"))}
        # What the labels were made with is known by its manifest.
        parts |= {f"{stage}/manifest.json" for stage in stages}
    with (
        buckets.to_read(arguments.labels, parts=parts) as root,
        buckets.to_write(arguments.output, last=label_export.CARD) as output,
    ):
        said = label_export.export_labels(root, output)
    print(f"{arguments.output}: {said}")


def export(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.storage import buckets
    from pav_jax.tools import export

    if buckets.exists(arguments.output):
        raise UserError(f"{arguments.output} exists; give another --output")
    with (
        buckets.to_read(arguments.stage, beside=export.BESIDE) as folder,
        buckets.to_write(arguments.output, last=export.ABOUT) as output,
    ):
        export.export_stage(folder, output, arguments.format)
    print(arguments.output)


def show(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.report import steps_page
    from pav_jax.storage import buckets

    name = arguments.output or f"{os.path.splitext(arguments.input)[0]}.html"
    if buckets.same(name, arguments.input):
        raise UserError(f"{name} is the input; give another --output")
    with buckets.to_read(arguments.input) as source, buckets.to_write(name) as target:
        steps_page.write(source, target, count=arguments.count)
    print(name)


def advise(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.tools import advise

    if arguments.tokens is not None and not 0 < arguments.tokens < float("inf"):
        raise UserError(
            f"--tokens={arguments.tokens:g} must be a number above 0: tokens that a"
            " problem may cost"
        )
    found = advise.advise(arguments.labels, arguments.verifier, arguments.tokens)
    if arguments.json:
        print(json.dumps(found.as_json(), allow_nan=False))
    else:
        print(found.text())
