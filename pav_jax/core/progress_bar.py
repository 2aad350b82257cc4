"""Progress bars with rate and time left, on stderr."""

import sys
from typing import Any

import tqdm


def progress_bar(**kwargs: Any) -> tqdm.tqdm:
    """A bar; where stderr is no terminal, a line every half minute instead."""
    interactive = sys.stderr.isatty()
    return tqdm.tqdm(
        file=sys.stderr,
        mininterval=0.2 if interactive else 30.0,
        maxinterval=0.2 if interactive else 30.0,
        dynamic_ncols=True,
        smoothing=0.1,
        **kwargs,
    )
