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
    except (UserError, Terminated) as error:
        if isinstance(error, Terminated) or is_unwinding():
            _complain(again("terminated"))
            return _leave(TERMINATED, at_once=argv is None)
        _complain(_with_way_out(error))
        code = AGAIN if isinstance(error, Unanswered) else 2
        return _leave(code, at_once=argv is None)
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
        if exhausted(error):
            _complain(_out_of_memory(error, command))
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
    add_commands(parser)
    return parser


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
    "run": "config.sampling.trunks and config.sampling.rows (a stage that samples or"
    " searches) or its batch_size (one that trains)",
    "lab": "problems (tree), or base.batch_size and base.measured (planted), of config",
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
