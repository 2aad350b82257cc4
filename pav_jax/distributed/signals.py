"""Being stopped: SIGTERM unwinds the program, training saves first, and exit codes.

Clusters send SIGTERM and, half a minute later, SIGKILL. What the exit code says:

    0         done
    2         the user can mend it (`UserError`, a full disk), and must, before the same
              command can go on
    75, 143   stopped from outside; the same command goes on from there
    other     a bug, or killed
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

AGAIN = 75  # EX_TEMPFAIL of sysexits.h: another process of the run stopped.
TERMINATED = 128 + signal.SIGTERM  # 143, as shells call it
INTERRUPTED = 128 + signal.SIGINT

# How long a deferred SIGTERM may wait; clusters allow 30 s in all.
_GRACE_SECONDS = 20.0
_CHECK_SECONDS = 2.0

_deferring = False
_asked = False
_unwinding = False


class Terminated(KeyboardInterrupt):
    """SIGTERM: to be treated like Ctrl-C by whatever cleans up after that."""


class PeerStopped(Exception):
    """Another process of the run stopped, so this one cannot go on."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Lets SIGTERM unwind the program as Ctrl-C does, so that files get closed.

    Python drops what is raised while it calls back (a weak reference's callback, say),
    so it is raised again each second for as long as nothing unwinds.
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
    """Whether SIGTERM has come, so that what fails may fail for that: a library that is
    interrupted while it reads a file says that the file cannot be read."""
    return _unwinding


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Within, SIGTERM waits for a good moment, though not for long.

    Yields:
      Whether it came. At the next good moment, save and leave the block: `Terminated`
      is raised there. It is raised anywhere if that takes longer than clusters wait.
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
    """Within, the process ends if it waits for ever for one that has stopped.

    A computation of several processes, one of which is gone, cannot be interrupted; so
    the process is ended from beside it, as `AGAIN`.

    Args:
      check: raises PeerStopped if another process has stopped; is called from a thread.
    """
    left = threading.Event()

    def watch() -> None:
        while not left.wait(_CHECK_SECONDS):
            try:
                check()
            except PeerStopped as error:
                if not left.wait(_GRACE_SECONDS):
                    print(f"pav: {again(error)}", file=sys.stderr, flush=True)
                    os._exit(AGAIN)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        left.set()


def again(error: BaseException | str) -> str:
    """What to say of a stop from outside."""
    return f"{error}; the same command goes on from here"
