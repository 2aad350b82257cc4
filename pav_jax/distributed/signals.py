"""SIGTERM, which lets training save before it unwinds the program; and exit codes.

Clusters send SIGTERM and, half a minute later, SIGKILL. The exit codes are:

    0         done
    2         an error that the user can fix (`UserError`, a full disk, too little
              memory), and must fix before the same command can go on
    75, 143   stopped from outside, or a bucket or disk did not answer; the same
              command resumes
    other     a bug, or killed
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

MISTAKE = 2
AGAIN = 75  # EX_TEMPFAIL of sysexits.h: another process stopped, or no answer.
TERMINATED = 128 + signal.SIGTERM  # 143, as shells call it
INTERRUPTED = 128 + signal.SIGINT

# How long SIGTERM may be deferred; clusters allow 30 s in all.
_GRACE_SECONDS = 20.0
_CHECK_SECONDS = 2.0

_deferring = False
_asked = False
_unwinding = False


class Terminated(KeyboardInterrupt):
    """SIGTERM; a KeyboardInterrupt, so that libraries clean up as after Ctrl-C."""


class PeerStopped(Exception):
    """Another process of the run failed or was stopped, so this one cannot go on.

    Args:
      message: which one, and why.
      code: that this process ends with: `AGAIN`, or `MISTAKE` if the other one did.
    """

    def __init__(self, message: str, code: int = AGAIN):
        super().__init__(message)
        self.code = code

    @property
    def advice(self) -> str:
        """The message, and whether the same command can go on."""
        return again(self) if self.code == AGAIN else str(self)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Within, SIGTERM unwinds the program as Ctrl-C does, so that files are closed.

    Python drops an exception that is raised in a callback, such as that of a weak
    reference. So `Terminated` is raised again every second until one unwinds.
    """
    global _unwinding
    _unwinding = False

    def stop(number: int, _) -> None:
        global _asked, _unwinding
        if _deferring and number == signal.SIGTERM:
            if not _asked:
                _asked = True
                signal.setitimer(signal.ITIMER_REAL, _GRACE_SECONDS)
            return
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        _unwinding = True
        error = sys.exc_info()[1]
        while error is not None:
            if isinstance(error, Terminated):
                return
            error = error.__context__
        raise Terminated

    numbers = (signal.SIGTERM, signal.SIGALRM)
    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def is_unwinding() -> bool:
    """Whether SIGTERM is unwinding the program.

    Errors may then come from that: a library that is interrupted while it reads a file
    reports that the file cannot be read.
    """
    return _unwinding


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM does not raise `Terminated` at once.

    Yields:
      A function that returns whether the signal came. The block should then save and
      end soon: `Terminated` is raised at its end, or after 20 s wherever it is.
    """
    global _deferring, _asked
    _deferring, _asked = True, False
    try:
        yield lambda: _asked
    finally:
        _deferring = False
    if _asked:
        raise Terminated


@contextlib.contextmanager
def unstuck(check: Callable[[], None]) -> Iterator[None]:
    """Within, the process exits if it waits forever for one that has stopped.

    A computation of several processes cannot be interrupted when one of them is gone.
    So a thread ends this process, with exit code `AGAIN`.

    Args:
      check: raises PeerStopped if another process has stopped; called from the thread.
    """
    left = threading.Event()

    def watch() -> None:
        while not left.wait(_CHECK_SECONDS):
            try:
                check()
            except PeerStopped as error:
                if not left.wait(_GRACE_SECONDS):
                    print(f"pav: {error.advice}", file=sys.stderr, flush=True)
                    os._exit(error.code)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        left.set()


def again(error: BaseException | str) -> str:
    """The message of a stop from outside."""
    return f"{error}; the same command goes on from here"
