"""The `pav` command. Each subcommand imports what it needs, so that --help is quick."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from pav_jax.core.errors import UserError
from pav_jax.distributed.signals import (
    AGAIN,
    INTERRUPTED,
    TERMINATED,
    PeerStopped,
    Terminated,
    again,
    is_unwinding,
    terminable,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one `pav` command line; returns its exit code.

    Args:
      argv: the arguments after "pav"; those of this process if not given.
    """
    parser = _make_parser()
    try:
        with terminable():
            arguments, rest = parser.parse_known_args(argv)
            if rest and not arguments.takes_changes:
                parser.error(f"{rest[0]!r} is not understood")
            code = arguments.command(arguments, rest)
    except (UserError, Terminated) as error:
        if isinstance(error, Terminated) or is_unwinding():
            _complain(again("terminated"))
            return _leave(TERMINATED, at_once=argv is None)
        _complain(str(error))
        return _leave(2, at_once=argv is None)
    except PeerStopped as error:
        _complain(again(error))
        return _leave(AGAIN, at_once=argv is None)
    except KeyboardInterrupt:
        _complain(again("interrupted"))
        return _leave(INTERRUPTED, at_once=argv is None)
    except Exception:
        if not _joined():
            raise
        traceback.print_exc()
        return _leave(1, at_once=argv is None)
    return code or 0


def _coordinator(arguments: argparse.Namespace):
    from pav_jax.distributed.processes import Coordinator

    return Coordinator.of(
        arguments.coordinator, arguments.num_processes, arguments.process_id
    )


def _run(arguments: argparse.Namespace, changes: list[str]) -> None:
    from pav_jax.core import config as config_lib
    from pav_jax.storage import buckets

    coordinator = _coordinator(arguments)
    config = config_lib.load([f"--config={arguments.config}", *changes])

    # jax keeps what it compiled, so that a rerun or a like stage need not do so again.
    compiled = buckets.local_folder(arguments.workdir) / ".compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    # After the config, so that a mistake in that is told before jax has loaded.
    from pav_jax.distributed import mesh, processes
    from pav_jax.pipeline import runner, stages

    joined = processes.join(coordinator)
    mesh.activate(config)
    runner.run_stages(
        stages.stages(config),
        config,
        arguments.workdir,
        until=arguments.until,
        processes=joined,
    )


def _plan(arguments: argparse.Namespace, changes: list[str]) -> int:
    from pav_jax.core import config as config_lib

    config = config_lib.load([f"--config={arguments.config}", *changes])
    from pav_jax.tools import plan
    from pav_jax.tools.planning import topology

    target = topology.parse(arguments.topology)
    if arguments.search:
        plans = plan.search(config, target)
    else:
        plans = [plan.make_plan(config, target)]
    if arguments.json:
        print(json.dumps([found.as_json() for found in plans]))
    else:
        print("\n\n".join(map(plan.text, plans)))
    return plans[0].code


def _devices(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.distributed import devices

    said = devices.check(
        _coordinator(arguments), expect=arguments.expect, timeout=arguments.timeout
    )
    print(said)


def _report(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.pipeline import stages
    from pav_jax.storage import buckets

    with buckets.to_read(arguments.workdir, parts=("report",)) as workdir:
        page = stages.report(workdir)
        if buckets.is_remote(arguments.workdir):
            place = f"{arguments.workdir.rstrip('/')}/report/{page.name}"
            buckets.upload(page, place)


def _score(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.distributed import mesh, processes
    from pav_jax.storage import buckets
    from pav_jax.tools import score_file, scoring

    joined = processes.join(_coordinator(arguments))
    if joined.count > 1 and buckets.is_remote(arguments.output):
        raise UserError(
            f"several processes need a place that all see, which {arguments.output} is"
            " not; give an --output there"
        )
    with scoring.fetched(arguments.verifier) as folder:
        if arguments.mesh is None:
            try:
                mesh.activate({"mesh": scoring.mesh_of(folder)})
            except UserError as error:
                said = f"{error}; or give a --mesh of these devices"
                raise UserError(said) from error
        else:
            mesh.activate({"mesh": mesh.parse(arguments.mesh)})
        verifier = scoring.Verifier.load(folder, arguments.prover_k)
    with (
        buckets.to_read(arguments.input) as source,
        buckets.to_resume(arguments.output, score_file.PARTIAL) as target,
    ):
        tally = score_file.score_file(verifier, source, target, joined)
    if tally is None:  # process 0 says it
        return
    print(f"{arguments.output}: {tally}")


def _export(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.storage import buckets
    from pav_jax.tools import export

    if buckets.exists(arguments.output):
        raise UserError(f"{arguments.output} exists; give another --output")
    with (
        buckets.to_read(arguments.stage, beside=export.BESIDE) as folder,
        buckets.to_write(arguments.output, last=export.ABOUT) as output,
    ):
        export.export_stage(folder, output)
    print(arguments.output)


def _show(arguments: argparse.Namespace, _: list[str]) -> None:
    from pav_jax.report import steps_page
    from pav_jax.storage import buckets

    name = arguments.output or f"{os.path.splitext(arguments.input)[0]}.html"
    if name == arguments.input:
        raise UserError(f"{name} is the input; give another --output")
    with buckets.to_read(arguments.input) as source, buckets.to_write(name) as target:
        steps_page.write(source, target, count=arguments.count)
    print(name)


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as all other errors of the user are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pav", description="Process advantage verifiers in JAX.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    run = commands.add_parser(
        "run",
        help="run an experiment, or what is left of it",
        description="Runs the stages of an experiment. Stages that are done already "
        "are skipped; a run that was stopped goes on where it was.",
        epilog="Any field of the config can be changed: --config.FIELD=VALUE, such as "
        "--config.seed=1.",
        allow_abbrev=False,
    )
    run.add_argument("--config", required=True, metavar="FILE[:VARIANT]")
    run.add_argument("--workdir", required=True, metavar="DIR", help="where results go")
    run.add_argument("--until", metavar="STAGE", help="the last stage to run")
    _add_coordinator(run)
    run.set_defaults(command=_run, takes_changes=True)

    report = commands.add_parser(
        "report",
        help="make the page of a finished run again",
        description="Makes the page of a finished run again.",
        allow_abbrev=False,
    )
    report.add_argument("--workdir", required=True, metavar="DIR")
    report.set_defaults(command=_report, takes_changes=False)

    score = commands.add_parser(
        "score",
        help="score the steps of your own responses",
        description="Scores every step of the responses in a file with a run's "
        "verifiers: Q, progress, and the ORM's score of the whole. A run that was "
        "stopped goes on where it was.",
        allow_abbrev=False,
    )
    score.add_argument(
        "--verifier",
        required=True,
        metavar="DIR",
        help="workdir of a run; or a verifier in it, such as runs/demo/prm; or one that"
        " pav export wrote",
    )
    score.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="a JSON object a line, with the texts prompt and response; response has a "
        "step a line",
    )
    score.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="the same lines, each with the scores as an object pav",
    )
    score.add_argument(
        "--prover_k",
        type=int,
        metavar="K",
        help="progress under the best-of-K prover; default: the run's",
    )
    score.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="how devices are shared out, such as fsdp=-1,tensor=2; default: as in the"
        " run",
    )
    _add_coordinator(score)
    score.set_defaults(command=_score, takes_changes=False)

    export = commands.add_parser(
        "export",
        help="write a trained policy or verifier for other tools",
        description="Writes what a stage has trained as a checkpoint of the gemma"
        " package, for gm.ckpts.load_params and the package's models; of a verifier"
        " also its head, for pav score.",
        allow_abbrev=False,
    )
    export.add_argument(
        "--stage", required=True, metavar="DIR", help="such as runs/demo/prm"
    )
    export.add_argument(
        "--output", required=True, metavar="DIR", help="a folder that does not exist"
    )
    export.set_defaults(command=_export, takes_changes=False)

    show = commands.add_parser(
        "show",
        help="make a page of scored responses",
        description="Makes a page that shows each step of scored responses, coloured "
        "by Q or by progress.",
        allow_abbrev=False,
    )
    show.add_argument(
        "--input", required=True, metavar="FILE", help="written by pav score"
    )
    show.add_argument(
        "--output", metavar="FILE", help="default: the input's name, with .html"
    )
    show.add_argument(
        "--count",
        type=int,
        default=200,
        metavar="N",
        help="responses to show, from the first; default: 200",
    )
    show.set_defaults(command=_show, takes_changes=False)

    plan = commands.add_parser(
        "plan",
        help="say whether an experiment fits a TPU slice, and what it takes there",
        description="Compiles the step functions of an experiment for a TPU slice, with"
        " no TPU, and says whether they fit. Times and costs are modelled. Exit code: 0"
        " if all fits, 1 if something does not, 2 if that cannot be told. Needs"
        " libtpu: pip install 'pav_jax[plan]'.",
        epilog="Any field of the config can be changed: --config.FIELD=VALUE.",
        allow_abbrev=False,
    )
    plan.add_argument("--config", required=True, metavar="FILE[:VARIANT]")
    plan.add_argument(
        "--topology", required=True, metavar="NAME", help="such as v5p:4x4x4 or v5p-128"
    )
    plan.add_argument(
        "--search", action="store_true", help="try all meshes; the best comes first"
    )
    plan.add_argument("--json", action="store_true", help="print a JSON list of plans")
    plan.set_defaults(command=_plan, takes_changes=True)

    devices = commands.add_parser(
        "devices",
        help="say what devices there are, or that they do not answer",
        description="Says what devices there are. With many processes, each must ask.",
        allow_abbrev=False,
    )
    devices.add_argument(
        "--expect", type=int, metavar="N", help="devices there must be, in all"
    )
    devices.add_argument(
        "--timeout", type=float, default=300, metavar="SECONDS", help="default: 300"
    )
    _add_coordinator(devices)
    devices.set_defaults(command=_devices, takes_changes=False)
    return parser


def _add_coordinator(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "many processes",
        "Of one run, in one workdir, or of one output, that all see. Each also reads"
        " JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.",
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0; auto: the environment tells all three (TPU, GKE,"
        " Slurm)",
    )
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I")


def _joined() -> bool:
    """Whether other processes are connected, for which jax waits at a plain exit."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _leave(code: int, *, at_once: bool) -> int:
    """Ends an interrupted process without Python's own shutdown.

    That takes down what jax's threads may still be compiling with, and crashes; and it
    waits for the other processes of the run.
    """
    if at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _complain(message: str) -> None:
    """Prints one paragraph, whatever line breaks the message has."""
    print("pav:", " ".join(message.split()), file=sys.stderr)
