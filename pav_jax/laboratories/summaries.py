"""What laboratories say of their cells: intervals over seeds, tables, figures."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pav_jax.metrics import seed_interval

_STYLE = {
    "svg.hashsalt": "pav_jax",
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def over_seeds(values: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """`metrics.seed_interval` in a row: the mean, and both ends."""
    mean, interval = seed_interval(values, level)
    return (mean, *interval)


def percent(interval: Sequence[float]) -> str:
    """A mean and its interval, as percentages or points."""
    mean, low, high = (100 * value for value in interval)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def figure(
    size: tuple[float, float], shape: tuple[int, int], draw: Callable[[Any, Any], None]
) -> str:
    """An SVG that stands alone; the same results give the same bytes.

    Args:
      size: in inches.
      shape: rows and columns of axes.
      draw: draws, given the figure and its axes, an array of that shape.
    """
    # Here, since matplotlib takes a second to import.
    import matplotlib
    from matplotlib.figure import Figure

    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE):
        drawing = Figure(figsize=size, layout="constrained")
        draw(drawing, drawing.subplots(*shape, squeeze=False))
        drawing.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()
