"""Says what is being compiled and for how long, on standard error."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TextIO

_EVERY = 10.0  # seconds between two lines, if nothing else happens


class Progress:
    """Lines that begin with the time since this was made.

    Used by several threads at once.

    Args:
      out: where lines go.
      clock: seconds.
    """

    def __init__(
        self,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._out, self._clock = out or sys.stderr, clock
        self._start, self._running = clock(), {}
        self._lock = threading.Lock()

    def say(self, line: str) -> None:
        """A line."""
        with self._lock:
            print(f"{self._since(self._start)}  {line}", file=self._out, flush=True)

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator[Callable[[str], None]]:
        """Says that `name` begins; within, what it is given is said of its end."""
        words = "stopped"

        def ends(said: str) -> None:
            nonlocal words
            words = said

        started = self._running[name] = self._clock()
        self.say(f"{name}: begins")
        try:
            yield ends
        finally:
            del self._running[name]
            self.say(f"{name}: {words} after {self._since(started)}")

    @contextlib.contextmanager
    def ticking(self) -> Iterator[None]:
        """Within, says every few seconds what has not ended."""
        over = threading.Event()

        def tick():
            while not over.wait(_EVERY):
                self.tick()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def tick(self) -> None:
        """Says what has not ended."""
        items = list(self._running.items())
        if items:
            each = (f"{name} for {self._since(start)}" for name, start in items)
            self.say(f"compiling {', '.join(each)}")

    def _since(self, start: float) -> str:
        seconds = int(self._clock() - start)
        return f"{seconds // 60}:{seconds % 60:02d}"
