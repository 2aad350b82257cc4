"""Whether two answers are equal by algebra, asked of processes that can be killed.

The algebra is SymPy's (`answers.symbolic`). It runs in processes of its own, since
an expression such as 9^{9^{9^9}} keeps SymPy busy for ever inside C code, which no
exception interrupts, and since a bound on time needs a process to end.
"""

import atexit
import contextlib
import enum
import functools
import json
import os
import queue
import shlex
import signal
import subprocess
import sys
from typing import Any

from pav_jax.tasks import algebra_worker

# Processor time for one pair; the slowest ordinary one takes a tenth of it.
SECONDS = 2.0
_PROGRAM = ("-m", algebra_worker.__name__)


class Verdict(enum.Enum):
    """What is known of two expressions."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNPARSED = "unparsed"  # the answer is not an expression
    EXHAUSTED = "exhausted"  # it took too much time or memory


class Workers:
    """Processes that compare expressions; usable from any thread.

    Args:
      count: at most so many; each starts when it is first needed, which takes seconds.
      seconds: of processor time for one pair. The wall-clock bound is ten times it.
    """

    def __init__(self, count: int, seconds: float = SECONDS):
        self.count = count
        self.asked = 0  # pairs so far
        self._seconds = seconds
        # Last in, first out: a single caller keeps one process busy and warm.
        self._idle: queue.LifoQueue = queue.LifoQueue()
        for _ in range(count):
            self._idle.put(None)

    def compare(self, gold: Any, answer: Any) -> Verdict:
        """Compares two answers, or whatever `symbolic.are_equal` takes as JSON.

        `answer` is untrusted, but of bounded length. Fractions are sent as texts.

        Raises:
          RuntimeError: the process cannot be started.
          MemoryError: it is killed while it starts.
        """
        process = self._idle.get()
        self.asked += 1
        try:
            question = json.dumps([gold, answer], default=str) + "\n"
            for _ in range(2):
                process = process or self._start()
                if reply := _ask(process, question):
                    return Verdict(reply)
                _stop(process)
                code, process = process.returncode, None
                # The kernel kills whom it likes when the whole machine lacks memory, so
                # that says nothing of this answer the first time.
                if code != -signal.SIGKILL:
                    break
            # By its timers, or killed twice; otherwise it crashed.
            costly = (-signal.SIGPROF, -signal.SIGALRM, -signal.SIGKILL)
            return Verdict.EXHAUSTED if code in costly else Verdict.UNPARSED
        except BaseException:
            # Interrupted between question and answer: the next caller would read
            # the answer to this one.
            if process is not None:
                process.kill()
                _stop(process)
                process = None
            raise
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """Ends the idle processes; a later call starts new ones."""
        idle = []
        while not self._idle.empty():
            idle.append(self._idle.get())
        for process in idle:
            if process is not None:
                _stop(process)
            self._idle.put(None)

    def _start(self) -> subprocess.Popen:
        # A new interpreter and not a fork: jax has threads. And not multiprocessing's
        # "spawn": that runs the user's main module once more.
        process = subprocess.Popen(
            [sys.executable, *_PROGRAM, str(self._seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if process.stdout.readline() != "ready\n":
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)  # it ends by itself; how is what counts
            process.kill()
            _stop(process)
            if process.returncode == -signal.SIGKILL:
                raise MemoryError("the grading process was killed before it was ready")
            raise RuntimeError(
                f"the grading process ended with {process.returncode} before it was "
                f"ready; `{shlex.join([sys.executable, *_PROGRAM, '1'])}` shows why"
            )
        return process


def _ask(process: subprocess.Popen, question: str) -> str:
    """The reply to a question, or "" if the process has ended."""
    try:
        process.stdin.write(question)
        process.stdin.flush()
        return process.stdout.readline().strip()
    except BrokenPipeError:
        return ""


def _stop(process: subprocess.Popen) -> None:
    process.stdout.close()
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    process.wait()


@functools.cache
def workers() -> Workers:
    """The workers of this process, as many as it has processors."""
    found = Workers(os.cpu_count() or 1)
    atexit.register(found.close)
    return found
