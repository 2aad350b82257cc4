"""Scalars for TensorBoard, written without TensorFlow."""

import time
from collections.abc import Mapping
from pathlib import Path

from pav_jax.storage.artifacts import writing


class Events:
    """The event file of one attempt at a run.

    TensorBoard reads all event files of a folder as one run. Where a step was done
    again, it shows the last attempt.

    Args:
      directory: gets the file; None to write nothing.
      first: steps done before; what earlier attempts wrote after them is hidden.

    Raises:
      UserError: here and from all methods, if the file cannot be written.
    """

    def __init__(self, directory: Path | None, first: int):
        self._directory, self._writer = directory, None
        if directory is None:
            return
        # Imports that the other stages can do without. Not `SummaryWriter`: its thread
        # dies when the disk is full, and then what adds scalars waits for it for ever.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        # TensorBoard reads files in the order of their names, whose own time is in
        # seconds.
        suffix = f".{time.time_ns()}"
        start = SessionLog(status=SessionLog.START)
        start = Event(step=first + 1, wall_time=time.time(), session_log=start)
        with writing(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._writer = EventsWriter(str(directory / "events"), suffix)
            self._writer.write_event(start)
            self._writer.flush()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the scalars of a step; they are on disk when this returns."""
        if self._writer is None:
            return
        with writing(self._directory):
            for name, value in scalars.items():
                summary = self._scalar(name, value)
                event = self._event(step=step, wall_time=time.time(), summary=summary)
                self._writer.write_event(event)
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            with writing(self._directory):
                self._writer.close()
