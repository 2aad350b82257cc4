"""Attempts at a stage: what earlier ones have left, and the time and devices of all.

`started.json`, in an unfinished folder, holds the terms of the stage, the seconds that
attempts have taken, and the devices that they were made on.
"""

import contextlib
import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pav_jax.core.errors import UserError
from pav_jax.pipeline.manifest import STARTED, difference
from pav_jax.storage import artifacts

_TICK_SECONDS = 5.0  # A kill loses at most so much of the time that is recorded.


@dataclasses.dataclass(frozen=True)
class Earlier:
    """Attempts at a stage that were stopped.

    Attributes:
      seconds: of all together.
      made_on: the devices and jax's version of each that noted them, once.
    """

    seconds: float = 0.0
    made_on: tuple[str, ...] = ()


def resumable(new: Path, terms: Mapping[str, Any]) -> tuple[Earlier | None, str]:
    """The attempts that a folder is of, if it can be resumed; else None, and why not.

    Args:
      new: the unfinished folder, which may not be there.
      terms: of the stage; see `runner.make_terms`.
    """
    if not new.exists() or not any(new.iterdir()):
        return None, ""
    try:
        started = artifacts.read_json(new / STARTED)
        if obstacle := difference(started, terms):
            return None, obstacle
        made_on = tuple(map(str, started.get("made_on", ())))
        return Earlier(float(started["seconds"]), made_on), ""
    except (AttributeError, KeyError, TypeError, ValueError):
        return None, f"its {STARTED} is missing or damaged"


class Attempt:
    """Notes the seconds and devices of a stage, over all attempts, while it runs.

    Args:
      path: of its `started.json`.
      terms: of the stage.
      earlier: attempts before this one.
      here: the devices of this one.
    """

    def __init__(
        self,
        path: Path,
        terms: Mapping[str, Any],
        earlier: Earlier,
        here: Sequence[str],
    ):
        self.made_on = list(dict.fromkeys([*earlier.made_on, *here]))
        self._path = path
        self._terms = terms
        self._before = earlier.seconds
        self._start = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._tick, daemon=True)

    @property
    def seconds(self) -> float:
        """Of all attempts up to now."""
        return round(self._before + time.monotonic() - self._start, 3)

    def __enter__(self) -> "Attempt":
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(UserError):  # it must not hide an error of the stage
            self._write()

    def _tick(self) -> None:
        while not self._stop.wait(_TICK_SECONDS):
            with contextlib.suppress(UserError):
                self._write()

    def _write(self) -> None:
        noted = {"seconds": self.seconds, "made_on": self.made_on}
        artifacts.write_json(self._path, {**self._terms, **noted})
