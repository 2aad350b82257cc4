"""The `pav` command: its arguments, and its exit codes (`distributed/signals.py`)."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from pav_jax.core.errors import UserError, unwritable
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
from pav_jax.tools import commands


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
            code = getattr(commands, arguments.command)(arguments, rest)
    except (UserError, Terminated) as error:
        if isinstance(error, Terminated) or is_unwinding():
            _complain(again("terminated"))
            return _leave(TERMINATED, at_once=argv is None)
        _complain(_with_way_out(error))
        return _leave(2, at_once=argv is None)
    except PeerStopped as error:
        _complain(again(error))
        return _leave(AGAIN, at_once=argv is None)
    except KeyboardInterrupt:
        _complain(again("interrupted"))
        return _leave(INTERRUPTED, at_once=argv is None)
    except Exception as error:
        if unwritable(error):
            _complain(_with_way_out(error))
            return _leave(2, at_once=argv is None)
        if not _joined():
            raise
        traceback.print_exc()
        return _leave(1, at_once=argv is None)
    return code or 0


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as all other errors of the user are."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


_START = """\
Start here:
  pav run --config=experiments/demo.py:smoke --workdir=runs/smoke
      runs every stage at the smallest size, in two minutes on two CPU cores
  pav run --config=experiments/demo.py --workdir=runs/demo
      runs the demo, and writes its page to runs/demo/report/index.html
  pav score --verifier=runs/demo --input=responses.jsonl --output=scored.jsonl
      scores responses of your own by the verifiers of that run
"""


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pav",
        description="Process advantage verifiers in JAX: label the steps of responses,"
        " train verifiers\non the labels, search with them, and run RL with them.",
        epilog=_START,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        _add_run,
        _add_report,
        _add_score,
        _add_show,
        _add_import,
        _add_labels,
        _add_export,
        _add_lab,
        _add_plan,
        _add_devices,
    ):
        add(commands)
    return parser


def _add_run(commands) -> None:
    parser = commands.add_parser(
        "run",
        help="run an experiment, or what is left of it",
        description="Runs the stages of an experiment. Finished stages are skipped; a"
        " run that was stopped goes on where it was.",
        epilog="Any field of the config can be changed: --config.FIELD=VALUE, such as"
        " --config.seed=1.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]")
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="where results go"
    )
    parser.add_argument("--until", metavar="STAGE", help="the last stage to run")
    parser.add_argument(
        "--reuse",
        action="append",
        default=[],
        metavar="DIR",
        help="take stages that another run has finished with equal fields and inputs;"
        " its workdir, or a folder of workdirs; may be given several times",
    )
    _add_coordinator(parser)
    parser.set_defaults(command="run", takes_changes=True)


def _add_report(commands) -> None:
    parser = commands.add_parser(
        "report",
        help="make the page of a finished run again",
        description="Makes the page of a finished run again.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, metavar="DIR")
    parser.set_defaults(command="report", takes_changes=False)


def _add_score(commands) -> None:
    parser = commands.add_parser(
        "score",
        help="score the steps of your own responses",
        description="Scores every step of the responses in a file with a run's"
        " verifiers: Q, progress, and the ORM's score of the whole. A run that was"
        " stopped goes on where it was.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--verifier",
        required=True,
        metavar="DIR",
        help="workdir of a run; or a verifier in it, such as runs/demo/prm; or one that"
        " pav export wrote",
    )
    parser.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="a JSON object a line, with the texts prompt and response; response has a"
        " step a line; may be gzipped",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="the same lines, each with the scores as an object pav",
    )
    parser.add_argument(
        "--prover_k",
        type=int,
        metavar="K",
        help="progress under the best-of-K prover; default: the run's",
    )
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="the mesh of devices, such as fsdp=-1,tensor=2; default: the run's",
    )
    _add_coordinator(parser)
    parser.set_defaults(command="score", takes_changes=False)


def _add_import(commands) -> None:
    parser = commands.add_parser(
        "import",
        help="take step labels that others have published",
        description="Reads a published file of step labels into a folder of which"
        " verifiers are trained: pav run --config.labels.from=DIR. Bad lines are named"
        " and left out.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--from",
        dest="format",
        required=True,
        choices=("prm800k", "math_shepherd", "trl", "processbench", "jsonl"),
        help="the format of the file; jsonl is our own: prompt, steps, and correct and"
        " count of each step",
    )
    parser.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="as published: a JSON object a line, or a JSON list; may be gzipped",
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="a folder that does not exist"
    )
    parser.add_argument(
        "--meaning",
        metavar="WHAT",
        help="of the labels, where the format does not say: monte_carlo (k of n"
        " continuations are right; default of jsonl), any_of_n (one of several is),"
        " prefix (nothing is wrong so far), or step (the step is right; default of"
        " trl)",
    )
    parser.set_defaults(command="import_labels", takes_changes=False)


def _add_labels(commands) -> None:
    parser = commands.add_parser("labels", help="write a run's step labels for others")
    parser = parser.add_subparsers(metavar="COMMAND", required=True).add_parser(
        "export",
        help="as Parquet and JSONL, with a data card",
        description="Writes the step labels of a run as Parquet and JSONL, with a data"
        " card, for pandas and datasets.load_dataset.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--labels", required=True, metavar="RUN", help="the workdir of a run"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="a folder that does not exist"
    )
    parser.set_defaults(command="export_labels", takes_changes=False)


def _add_export(commands) -> None:
    parser = commands.add_parser(
        "export",
        help="write a trained policy or verifier for other tools",
        description="Writes what a stage has trained as a checkpoint of the gemma"
        " package, for gm.ckpts.load_params and the package's models; of a verifier"
        " also its head, for pav score.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--stage", required=True, metavar="DIR", help="such as runs/demo/prm"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="a folder that does not exist"
    )
    parser.set_defaults(command="export", takes_changes=False)


def _add_show(commands) -> None:
    parser = commands.add_parser(
        "show",
        help="make a page of scored responses",
        description="Makes a page that shows each step of scored responses, coloured"
        " by Q or by progress.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="written by pav score"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="default: the input's name, with .html"
    )
    parser.add_argument(
        "--count",
        type=int,
        default=200,
        metavar="N",
        help="responses to show, from the first; default: 200",
    )
    parser.set_defaults(command="show", takes_changes=False)


def _add_lab(commands) -> None:
    parser = commands.add_parser(
        "lab",
        help="run a laboratory: a claim of the paper where values are exact",
        description="Runs a laboratory, a small task whose values are known exactly:"
        " those of experiments/evidence. Cells that are measured are kept; a run that"
        " was stopped goes on where it was.",
        epilog="Any field of the config can be changed: --config.FIELD=VALUE.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]")
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="where results.json, table.md and figure.svg go",
    )
    parser.set_defaults(command="lab", takes_changes=True)


def _add_plan(commands) -> None:
    parser = commands.add_parser(
        "plan",
        help="say whether an experiment fits a TPU slice, and what it takes there",
        description="Compiles the step functions of an experiment for a TPU slice,"
        " without a TPU, and says whether they fit. Times and costs are modelled. Exit"
        " code: 0 if all fits, 1 if something does not, 2 if that is not known. Needs"
        " libtpu: pip install 'pav_jax[plan]'.",
        epilog="Any field of the config can be changed: --config.FIELD=VALUE.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE[:VARIANT]")
    parser.add_argument(
        "--topology", required=True, metavar="NAME", help="such as v5p:4x4x4 or v5p-128"
    )
    parser.add_argument(
        "--search", action="store_true", help="try all meshes; the best comes first"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list of plans"
    )
    parser.set_defaults(command="plan", takes_changes=True)


def _add_devices(commands) -> None:
    parser = commands.add_parser(
        "devices",
        help="say what devices there are, or that they do not answer",
        description="Says what devices there are. With many processes, each must ask.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--expect", type=int, metavar="N", help="devices there must be, in all"
    )
    parser.add_argument(
        "--timeout", type=float, default=300, metavar="SECONDS", help="default: 300"
    )
    _add_coordinator(parser)
    parser.set_defaults(command="devices", takes_changes=False)


def _add_coordinator(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "many processes",
        "Processes of one run work in one folder that all of them see. They also read"
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


def _with_way_out(error: Exception) -> str:
    """The message of an error; for a full disk also what to do about that."""
    if not (reason := unwritable(error)):
        return str(error)
    message = str(error)
    if isinstance(error, OSError):
        message = f"cannot write {error.filename or 'a file'}: {reason}"
    return f"{message}; once that can be written, the same command goes on from here"


def _complain(message: str) -> None:
    """Prints one paragraph, whatever line breaks the message has."""
    print("pav:", " ".join(message.split()), file=sys.stderr)
