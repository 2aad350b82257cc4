"""What laboratories say of their cells: intervals over seeds, tables, figures."""

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.special

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


def over_seeds(values: Sequence[float], level: float = 0.95) -> tuple[float, ...]:
    """The mean over seeds and the ends of its interval by Student's t.

    Args:
      values: one a seed, at least two.
      level: the interval's coverage.
    """
    values = np.asarray(values, float)
    degrees = len(values) - 1
    t = scipy.special.stdtrit(degrees, (1 + level) / 2)
    half = t * values.std(ddof=1) / len(values) ** 0.5
    return (
        float(values.mean()),
        float(values.mean() - half),
        float(values.mean() + half),
    )


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
