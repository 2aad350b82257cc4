"""The `pav` command, and its exit codes (`distributed/signals.py`)."""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from pav_jax.core.errors import DENIED, Unanswered, UserError, exhausted, unwritable
from pav_jax.distributed.signals import (
    AGAIN,
    INTERRUPTED,
    MISTAKE,
    TERMINATED,
    PeerStopped,
    Terminated,
    again,
    is_unwinding,
    terminable,
)
from pav_jax.tools import commands
from pav_jax.tools.arguments import add_commands


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one `pav` command line; returns its exit code.

    Args:
      argv: the arguments after "pav"; those of this process if not given.
    """
    parser, command = _make_parser(), ""
    try:
        with terminable():
            arguments, rest = parser.parse_known_args(argv)
            if rest and not arguments.takes_changes:
                parser.error(f"{rest[0]!r} is not understood")
            command = arguments.command
            code = getattr(commands, command)(arguments, rest)
    except (Exception, KeyboardInterrupt) as error:
        ended = _ended_by(error, command)
        if ended is None and not _joined():
            raise
        if ended is None:
            traceback.print_exc()
        else:
            _complain(ended[1])
        return _leave(ended[0] if ended else 1, at_once=argv is None)
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
    add_commands(parser)
    return parser


def _ended_by(error: BaseException, command: str) -> tuple[int, str] | None:
    """The exit code and message of what ended a command; None for a bug."""
    stop = _stop_behind(error)
    if isinstance(stop, Terminated) or is_unwinding():
        return TERMINATED, again("terminated")
    if stop is not None:
        return INTERRUPTED, again("interrupted")
    if isinstance(error, PeerStopped):
        return error.code, error.advice
    if isinstance(error, Unanswered):
        return AGAIN, _with_way_out(error)
    if isinstance(error, UserError) or unwritable(error):
        return MISTAKE, _with_way_out(error)
    if exhausted(error):
        return MISTAKE, _out_of_memory(error, command)
    return None


def _stop_behind(error: BaseException | None) -> KeyboardInterrupt | None:
    """The Ctrl-C or SIGTERM that is being handled, if there is one.

    A library that is interrupted may fail while it cleans up, as one that then joins a
    thread which it had not started yet.
    """
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error


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
    """The message of an error; of a disk that refuses also what to do about that."""
    if not (reason := unwritable(error)):
        return str(error)
    denied, message = reason in DENIED, str(error)
    if isinstance(error, OSError):
        verb = "use" if denied else "write"
        message = f"cannot {verb} {error.filename or 'a file'}: {reason}"
    way = "is permitted" if denied else "can be written"
    return f"{message}; once that {way}, the same command goes on from here"


# What takes the memory, of commands that have a config.
_SMALLER = {
    "run": "config.sampling.trunks and config.sampling.rows (of a stage that samples;"
    " rollouts and the others that sample are then made again, with what follows),"
    " batch_size (of one that trains), or config.search.candidates and the beams of"
    " what searches (search.beams, search.alpha_beams, verifier.on_search.beams,"
    " rl.final.beams; it has about 256 rows at a time: only beams x candidates above"
    " that count)",
    "lab": "problems (tree, quality), or base.batch_size and base.measured (planted),"
    " of config",
}


def _out_of_memory(error: Exception, command: str) -> str:
    """What to say where memory ran out."""
    reason = str(error).strip() or type(error).__name__
    smaller = _SMALLER.get(command)
    smaller = f"make {smaller} smaller, or " if smaller else ""
    return (
        f"out of memory ({reason.splitlines()[0][:200]}); {smaller}give it more memory;"
        " what is finished is kept, and the same command goes on from here"
    )


def _complain(message: str) -> None:
    """Prints one paragraph, whatever line breaks the message has."""
    print("pav:", " ".join(message.split()), file=sys.stderr)
