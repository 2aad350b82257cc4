"""Progress bars with rate and time left, on stderr."""

import sys
import time
from typing import Any

import tqdm


def progress(**kwargs: Any) -> tqdm.tqdm:
    """A bar; where stderr is no terminal, a line every half minute instead."""
    interactive = sys.stderr.isatty()
    bar = tqdm.tqdm(
        file=sys.stderr,
        mininterval=0.2 if interactive else 30.0,
        maxinterval=0.2 if interactive else 30.0,
        dynamic_ncols=True,
        miniters=1,
        smoothing=0.1,
        **kwargs,
    )
    # By the usual clock a bar stands still for as long as that is set back.
    bar._time = time.monotonic
    bar.unpause()  # starts it again, by this clock
    return bar
