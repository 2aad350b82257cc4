"""The parts that figures are drawn from: curves, level lines, bars, axes, ticks.

A point of a curve is `(x, y, interval or None, title)`; the title is what the point
shows when it is pointed at.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from pav_jax.core.counts import counted
from pav_jax.report import methods, svg, text

Row = dict[str, Any]
Point = tuple[float, float, Sequence[float] | None, str]


def bars(
    name: str,
    label: str,
    labels: Sequence[str],
    values: Sequence[float],
    colours: Sequence[str],
    written: Callable[[float], str],
) -> str:
    """Horizontal bars, each with its value written at its end."""
    if not values:
        return ""
    with svg.Drawing(name, label, 24 + 27 * len(values)) as drawing:
        axes = drawing.axes
        for place, (value, colour) in enumerate(zip(values, colours, strict=True)):
            axes.barh([place], [value], height=0.6, color=colour, alpha=0.75)
            axes.annotate(
                written(value),
                (value, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(range(len(labels)), [short(name) for name in labels])
        axes.tick_params(axis="y", labelcolor=svg.INK)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        # Room at the end of the longest bar for its number.
        axes.set_xlim(0, (max(values) or 1) * 1.28)
        axes.grid(visible=False)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
    return drawing.svg


def drawable(rows: Sequence[Row], key: str) -> bool:
    """Whether any row has both `key` and an accuracy."""
    return any(
        row.get(key) is not None and row.get("accuracy") is not None for row in rows
    )


def series(rows: Sequence[Row], key: str, x: str) -> list[Point]:
    """The points of the method `key`: accuracy against `x`, in ascending order."""
    of_method = [
        row
        for row in rows
        if row["method"] == key
        and row.get(x) is not None
        and row.get("accuracy") is not None
    ]
    of_method.sort(key=lambda row: row[x])
    label = methods.ordered([key])[0].label
    points = []
    for row in of_method:
        where = f"{label}, N = {row['n']}"
        if row.get("tokens") is not None:
            where += f", {counted(row['tokens'], 'token')}"
        bounds = row.get("ci")
        title = tooltip(where, row["accuracy"], bounds)
        points.append((row[x], row["accuracy"], bounds, title))
    return points


def tooltip(where: str, accuracy: float, bounds: Sequence[float | None] | None) -> str:
    """The text that a point shows when it is pointed at."""
    within = f" ({text.interval(bounds)})" if text.known(bounds) else ""
    return f"{where}: {text.percent(accuracy)}{within}"


def curve(
    drawing: svg.Drawing,
    method: methods.Method,
    points: Sequence[Point],
    many: bool = False,
) -> None:
    """A line with its band and its markers, each marker with a title.

    Args:
      drawing: what to draw on.
      method: gives the colour, the marker and the name.
      points: in ascending order of x.
      many: whether many bands overlap, so that each is drawn fainter.
    """
    axes = drawing.axes
    css = f"series {method.css}"
    banded = [point for point in points if text.known(point[2])]
    if len(banded) > 1:
        band = axes.fill_between(
            [point[0] for point in banded],
            [point[2][0] for point in banded],
            [point[2][1] for point in banded],
            color=method.colour,
            alpha=0.065 if many else 0.11,
            linewidth=0,
        )
        drawing.mark(band, css + " band")
    line = axes.plot(
        [point[0] for point in points],
        [point[1] for point in points],
        color=method.colour,
        linestyle=method.dashes,
    )
    drawing.mark(line[0], css)
    for x, y, bounds, title in points:
        dot = axes.plot(
            [x],
            [y],
            method.marker,
            ms=6.5 if method.marker in "oDs" else 7.5,
            color=method.colour,
            mec=svg.PAPER,
            mew=0.9,
        )
        drawing.mark(dot[0], css + " point", title)
        # A single point has no band, so its interval is a bar.
        if text.known(bounds) and len(banded) == 1:
            bar = axes.plot([x, x], bounds, color=method.colour, lw=1.2, alpha=0.6)
            drawing.mark(bar[0], css)


def level(
    drawing: svg.Drawing, method: methods.Method, points: Sequence[Point]
) -> None:
    """A level line through the first point: a method that has no N."""
    for _, accuracy, _, _ in points[:1]:
        line = drawing.axes.axhline(
            accuracy, color=method.colour, linestyle=method.dashes, lw=1.5
        )
        title = f"{method.label}: {text.percent(accuracy)}"
        drawing.mark(line, f"series {method.css}", title)


def n_axis(axes: Any, rows: Sequence[Row]) -> None:
    """A log axis with a tick at each N of the rows."""
    counts = sorted({row["n"] for row in rows if row.get("n") is not None})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.minorticks_off()
    axes.set_xlabel("N, samples or beams →", loc="right")


def percent_axis(axes: Any, label: str) -> None:
    """Percentages up the y axis, and its label above it."""
    axes.set_title(f"↑ {label}")
    axes.locator_params(axis="y", nbins=6)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")


def token_ticks(axes: Any) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten; only at powers if these are many."""
    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) <= 4 else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [text.short_count(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, high)


def apart(values: Sequence[float]) -> list[float]:
    """Those of the sorted values that are so far apart that labels do not touch."""
    gap = (values[-1] - values[0]) / 14
    kept = list(values[:1])
    for value in values[1:]:
        if value - kept[-1] >= gap:
            kept.append(value)
    return kept


def short(name: str) -> str:
    """A name, cut so that it leaves room for its bar."""
    return name if len(name) <= 24 else name[:23] + "…"


def step_ticks(axes: Any, steps: Sequence[int]) -> None:
    """Ticks at whole steps, twelve at most."""
    ticks = range(min(steps), max(steps) + 1)
    ticks = ticks[:: math.ceil(len(ticks) / 12)]
    axes.set_xticks(ticks, [str(step) for step in ticks])
