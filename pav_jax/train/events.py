"""Scalars for TensorBoard, written without TensorFlow."""

import time
from collections.abc import Mapping
from pathlib import Path

from pav_jax.storage.artifacts import writing

_NAMES = "events*.out.tfevents.*"


class Events:
    """The event file of one attempt at a training; a `ScalarLog`.

    TensorBoard reads all event files of a folder as one run. Where a step was done
    again, it shows the last attempt.

    Args:
      directory: gets the file.
      first: steps done before; what earlier attempts wrote after them is hidden, and
        removed if it is all of it.

    Raises:
      UserError: here and from all methods, if the file cannot be written.
    """

    def __init__(self, directory: Path, first: int):
        # Imports that other stages can do without. Not `SummaryWriter`: its thread
        # dies when the disk is full, and then what adds scalars waits for it for ever.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._directory, self._event, self._scalar = directory, Event, scalar
        # TensorBoard reads files in the order of their names. The time in these may go
        # back: a clock is set, or another machine goes on. So they are numbered.
        place = len(list(directory.glob(_NAMES))) if first else 0
        start = SessionLog(status=SessionLog.START)
        start = Event(step=first + 1, wall_time=time.time(), session_log=start)
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            for old in directory.glob(_NAMES) if not first else ():
                old.unlink()
            self._writer = EventsWriter(str(directory / f"events_{place:05d}"))
            self._writer.write_event(start)
            self._writer.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Adds scalars of a step; they are on disk when this returns."""
        with writing(self._directory):
            for name, value in values.items():
                summary = self._scalar(name, value)
                event = self._event(step=step, wall_time=time.time(), summary=summary)
                self._writer.write_event(event)
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        with writing(self._directory):
            self._writer.close()
