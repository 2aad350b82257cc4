"""Scalars as TensorBoard events, written without TensorFlow."""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path


class Events:
    """An event file, of one attempt at a run.

    TensorBoard reads all of a folder as one curve: of a step that was done again,
    the last attempt counts.

    Args:
      directory: gets the file; without one, nothing is written.
      first: steps done before.
    """

    def __init__(self, directory: Path | None, first: int):
        # `tensorboard.summary` itself would import TensorFlow to open a file.
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = event_pb2.Event
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        name = f"{name}.{os.getpid()}.{first}"
        self._file = (directory / name if directory else Path(os.devnull)).open("ab")
        self._records = RecordWriter(self._file)
        self._put(event_pb2.Event(file_version="brain.Event:2"))
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._put(event_pb2.Event(step=first + 1, session_log=start))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes the scalars of a step down, at once."""
        event = self._event(step=step)
        for name, value in scalars.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._put(event)

    def close(self) -> None:
        self._records.close()

    def _put(self, event) -> None:
        event.wall_time = time.time()
        self._records.write(event.SerializeToString())
        self._records.flush()
