"""Scalars for TensorBoard, written without TensorFlow."""

import os
from collections.abc import Mapping
from pathlib import Path


class Events:
    """The event file of one attempt at a run.

    TensorBoard reads all event files of a folder as one run. Where a step was done
    again, it shows the last attempt.

    Args:
      directory: gets the file; None to write nothing.
      first: steps done before; what earlier attempts wrote after them is hidden.
    """

    def __init__(self, directory: Path | None, first: int):
        self._writer = None
        if directory is not None:
            # Seconds of import, which the other stages can do without.
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(
                str(directory),
                purge_step=first + 1,
                flush_secs=1,  # what a kill may cost
                # Else two attempts in one second would have the same file.
                filename_suffix=f".{os.getpid()}.{first}",
            )

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds the scalars of a step; they are on disk within about a second."""
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
