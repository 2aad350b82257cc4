"""Profiles: traces of a few steps of a hot loop, for xprof.

Only a trace imports jax, without which the runner of stages starts.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# Steps before the trace. The first one compiles, and so may the second: it is the first
# that is given what a step has returned.
LEFT_OUT = 2


class Profile:
    """Runs the steps of a hot loop; this one traces none of them.

    Attributes:
      is_on: whether it traces any.
    """

    is_on = False

    def step(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """What a step of the loop returns: `function(*args, **kwargs)`."""
        return function(*args, **kwargs)

    def close(self) -> None:
        """After the last step."""


class Trace(Profile):
    """Traces some steps, after the first `LEFT_OUT`.

    What the host does between them is in the trace too, and Python's own calls are not:
    there are so many that they hide the rest.

    Args:
      folder: gets the trace, under `plugins/profile/`, where xprof looks for it.
      name: of a step, on the timeline.
      steps: how many to trace.
      say: prints a line.
    """

    is_on = True

    def __init__(self, folder: Path, name: str, steps: int, say: Callable[[str], None]):
        self._folder, self._name, self._steps, self._say = folder, name, steps, say
        self._begun, self._is_open = 0, False

    def step(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        self._begun += 1
        if not LEFT_OUT < self._begun <= LEFT_OUT + self._steps:
            return function(*args, **kwargs)
        import jax

        if not self._is_open:
            jax.block_until_ready((args, kwargs))  # what earlier steps have dispatched
            self._start()
        with jax.profiler.StepTraceAnnotation(self._name, step_num=self._begun):
            result = function(*args, **kwargs)
        if self._begun == LEFT_OUT + self._steps:
            jax.block_until_ready(result)
            self._stop()
        return result

    def close(self) -> None:
        """Ends a trace of a loop that had fewer steps, or that failed."""
        if self._is_open:
            self._stop()
        elif 0 < self._begun <= LEFT_OUT:
            self._say(
                f"no profile, since its loop had no more than {LEFT_OUT} steps, and in"
                " these it compiles"
            )

    def _start(self) -> None:
        import jax

        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        jax.profiler.start_trace(self._folder, profiler_options=options)
        self._is_open = True

    def _stop(self) -> None:
        import jax

        self._is_open = False
        jax.profiler.stop_trace()
        self._say(
            f"a profile of steps {LEFT_OUT + 1} to {self._begun} of its loop is in"
            f" {self._folder}; pip install xprof, and xprof --logdir={self._folder}"
            " shows it in a browser"
        )
