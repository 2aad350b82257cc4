"""The figures of the report, one function each, as inline SVG.

Each takes the part of the results it draws and returns an `<svg>` element, or an
empty string when there is nothing to draw. Legends are not drawn here: they are
HTML above the figure, where they wrap on a narrow screen instead of covering
the data. Numbers that are None are left out.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from pav_jax.report import methods, svg, text

Row = dict[str, Any]


def accuracy_vs_n(rows: Sequence[Row]) -> str:
    """Accuracy against the number of samples or beams, Pass@N left out."""
    shown = [row for row in rows if not methods.is_oracle(row["method"])]
    if not _drawable(shown, "n"):
        return ""
    with svg.Drawing("by-n", "Accuracy against N for each method", 340) as drawing:
        axes = drawing.axes
        spread = [row for row in shown if row["method"] != "greedy"]
        _n_axis(axes, spread or shown)
        for method in methods.ordered(row["method"] for row in shown):
            if method.key == "greedy" and spread:
                _level(drawing, method, _series(shown, method.key, "n"))
            else:
                _curve(drawing, method, _series(shown, method.key, "n"), many=True)
        _percent_axis(axes, "Accuracy")
    return drawing.svg


def accuracy_vs_tokens(rows: Sequence[Row], efficiency: Row) -> str:
    """Accuracy against tokens per problem, all that was paid for, on a log axis.

    An arrow spans the tokens that beam search by the effective reward saves (or
    costs) in reaching best-of-N's best accuracy.
    """
    shown = [row for row in rows if not methods.is_oracle(row["method"])]
    if not _drawable(shown, "tokens"):
        return ""
    label = "Accuracy against tokens per problem for each method"
    with svg.Drawing("by-tokens", label, 340) as drawing:
        axes = drawing.axes
        axes.set_xscale("log")
        for method in methods.ordered(row["method"] for row in shown):
            _curve(drawing, method, _series(shown, method.key, "tokens"), many=True)
        _token_ticks(axes)
        axes.set_xlabel("Tokens per problem, log scale →", loc="right")
        _percent_axis(axes, "Accuracy")
        _saving(drawing, shown, efficiency)
    return drawing.svg


def pass_at_n(rows: Sequence[Row], base: Row) -> str:
    """Pass@N beside what selection from the same independent samples finds."""
    selecting = ("majority", "best_of_n_orm", "best_of_n_pav")
    bounds = [row for row in rows if methods.is_oracle(row["method"])]
    if not bounds:
        known = {int(n): value for n, value in (base.get("pass_at") or {}).items()}
        bounds = [
            {"method": "pass_at_n", "n": n, "accuracy": known[n]} for n in sorted(known)
        ]
    shown = bounds + [row for row in rows if row["method"] in selecting]
    if not _drawable(bounds, "n"):
        return ""
    label = "Pass@N against N, with methods that select from the same samples"
    with svg.Drawing("pass-at-n", label, 340) as drawing:
        _n_axis(drawing.axes, shown)
        for method in methods.ordered(row["method"] for row in shown):
            _curve(drawing, method, _series(shown, method.key, "n"))
        _percent_axis(drawing.axes, "Problems solved")
    return drawing.svg


def policies_by_n(policies: dict[str, Row]) -> str:
    """Pass@N of every policy."""
    rows = [
        {"method": method, "n": int(n), **row}
        for method, policy in policies.items()
        for n, row in (policy.get("pass_at") or {}).items()
    ]
    if not _drawable(rows, "n"):
        return ""
    with svg.Drawing("policies", "Pass@N of each policy against N", 340) as drawing:
        _n_axis(drawing.axes, rows)
        for method in methods.ordered(policies):
            _curve(drawing, method, _series(rows, method.key, "n"), many=True)
        drawing.axes.set_xlabel("N, samples →", loc="right")
        _percent_axis(drawing.axes, "Problems solved")
    return drawing.svg


def learning(curves: dict[str, Row], policies: dict[str, Row], x: str) -> str:
    """Test accuracy of RL runs against `step` or `tokens`; bands span the seeds.

    Policies that are not trained by RL are level lines.
    """
    name = {"step": "iterations", "tokens": "sampled tokens"}[x]
    drawn = {
        method: [
            (place, value, bounds, _title(f"{place:,.0f} {name}", value, bounds))
            for place, value, bounds in _seed_points(curve, x)
        ]
        for method, curve in curves.items()
    }
    if not any(drawn.values()):
        return ""
    label = f"Test accuracy against {name} for each RL method"
    with svg.Drawing(f"learning-{x}", label, 340) as drawing:
        axes = drawing.axes
        for method in methods.ordered([*policies, *drawn]):
            if method.key in drawn:
                _curve(drawing, method, drawn[method.key], many=True)
            else:
                level = (policies[method.key].get("sampled") or {}).get("accuracy")
                if level is not None:
                    _level(drawing, method, [(0, level, None, "")])
        axes.set_xlabel(f"{name.capitalize()} →", loc="right")
        axes.xaxis.set_major_formatter(lambda value, _: text.short_count(value))
        axes.locator_params(axis="x", nbins=6)
        _percent_axis(axes, "Accuracy")
    return drawing.svg


def _seed_points(curve: Row, x: str) -> list[tuple]:
    """(x, mean over seeds, least and most of them) of a curve's sampled accuracy."""
    sampled = curve.get("sampled") or {}
    seeds = [list(column) for column in zip(*sampled.get("seeds") or [], strict=True)]
    points = []
    for place, mean, values in zip(
        curve.get(x) or [], sampled.get("mean") or [], seeds, strict=False
    ):
        if place is None or mean is None or None in values:
            continue
        points.append((place, mean, [min(values), max(values)]))
    return points


def alpha(grid: Sequence[Row], chosen: float | None) -> str:
    """Accuracy of beam search for each weight α of progress."""
    points = [
        (row["alpha"], row["accuracy"], row.get("ci"))
        for row in grid
        if row.get("alpha") is not None and row.get("accuracy") is not None
    ]
    points.sort(key=lambda point: point[0])
    if not points:
        return ""
    method = methods.find("beam_pav")
    label = "Accuracy against alpha, the weight of progress"
    with svg.Drawing("alpha", label, 340) as drawing:
        axes = drawing.axes
        if points[0][0] == 0:
            q = methods.find("beam_q")
            line = axes.axhline(points[0][1], color=q.colour, linestyle=":", lw=1.4)
            drawing.mark(line, "level")
        curve = [
            (weight, accuracy, bounds, _title(f"α = {weight:g}", accuracy, bounds))
            for weight, accuracy, bounds in points
        ]
        _curve(drawing, method, curve)
        for weight, accuracy, _ in points:
            if chosen is not None and math.isclose(weight, chosen, abs_tol=1e-9):
                ring = axes.plot(
                    [weight], [accuracy], "o", ms=14, mfc="none", mec=svg.INK, mew=1.3
                )
                drawing.mark(ring[0], "ring")
        ticks = _apart([point[0] for point in points])
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlabel("α, the weight of progress →", loc="right")
        _percent_axis(axes, "Accuracy")
    return drawing.svg


def auc_by_step(verifier: Row) -> str:
    """How well the score after each step tells right from wrong responses."""
    by_step = (verifier.get("auc_within_problem") or {}).get("by_step") or []
    points = [
        (step, value, None, f"Step {step}: {text.decimal(value, 3)}")
        for step, value in enumerate(by_step, 1)
        if value is not None
    ]
    if not points:
        return ""
    label = "AUC within a problem after each step"
    with svg.Drawing("auc", label, 380) as drawing:
        axes = drawing.axes
        chance = axes.axhline(0.5, color=svg.MUTED, linestyle=(0, (1, 3)), lw=1.3)
        drawing.mark(chance, "level")
        orm = (verifier.get("orm") or {}).get("auc_last")
        if orm is not None:
            method = methods.find("best_of_n_orm")
            line = axes.axhline(orm, color=method.colour, linestyle="--", lw=1.6)
            title = f"ORM at the last step: {text.decimal(orm, 3)}"
            drawing.mark(line, f"series {method.css}", title)
        _curve(drawing, methods.find("best_of_n_pav"), points)
        _step_ticks(axes, [point[0] for point in points])
        axes.set_xlabel("Step →", loc="right")
        axes.set_title("↑ AUC within a problem")
        values = [point[1] for point in points] + [0.5, orm or 0.5]
        low = min(0.45, math.floor(10 * min(values)) / 10)
        axes.set_ylim(low, min(1.02, max(values) + 0.08))
        axes.annotate(
            "chance",
            (1, 0.5),
            xycoords=("axes fraction", "data"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            color=svg.MUTED,
        )
    return drawing.svg


def calibration(bins: Sequence[Row]) -> str:
    """What the verifier predicts against what happens, and how often it does."""
    points = [
        (row["predicted"], row["observed"], row.get("count") or 0)
        for row in bins
        if row.get("predicted") is not None and row.get("observed") is not None
    ]
    if not points:
        return ""
    label = "Observed against predicted value, with the number of steps in each bin"
    with svg.Drawing("calibration", label, 380, rows=(4, 1)) as drawing:
        upper, lower = drawing.axes
        colour = methods.find("best_of_n_pav").colour
        diagonal = upper.plot([0, 1], [0, 1], color=svg.MUTED, ls=(0, (1, 3)), lw=1.3)
        drawing.mark(diagonal[0], "level")
        largest = max(total for _, _, total in points) or 1
        upper.plot(
            [point[0] for point in points],
            [point[1] for point in points],
            color=colour,
            lw=1.2,
        )
        for predicted, observed, total in points:
            title = (
                f"predicted {text.decimal(predicted, 3)}, observed "
                f"{text.decimal(observed, 3)}, {text.count(total)} steps"
            )
            size = 4 + 8 * math.sqrt(total / largest)
            dot = upper.plot([predicted], [observed], "o", ms=size, color=colour)
            drawing.mark(dot[0], "point", title)
            bar = lower.bar([predicted], [total], width=0.035, color=colour, alpha=0.55)
            drawing.mark(bar[0], "point", title)
        ticks = [0, 0.25, 0.5, 0.75, 1]
        names = [f"{tick:g}" for tick in ticks]
        upper.set_xticks(ticks, names)
        upper.set_yticks(ticks, names)
        upper.set_xlim(-0.03, 1.03)
        upper.set_ylim(-0.05, 1.05)
        upper.tick_params(axis="x", length=0)
        upper.spines["bottom"].set_visible(False)
        upper.set_title("↑ Observed: Q by Monte Carlo")
        lower.set_title("↑ Steps")
        lower.set_yticks([largest], [text.count(largest)])
        lower.set_xlabel("Predicted Q →", loc="right")
    return drawing.svg


def provers(rows: Sequence[Row]) -> str:
    """The two terms of Theorem 3.1 for each prover, and their sum."""
    terms = [
        (row["prover"], row["distinguishability"], row["alignment"])
        for row in rows
        if row.get("distinguishability") is not None
        and row.get("alignment") is not None
    ]
    if not terms:
        return ""
    label = "Distinguishability, alignment and their sum for each prover"
    digits = text.digits_for(value for _, *pair in terms for value in pair)
    with svg.Drawing("provers", label, 70 + 32 * len(terms)) as drawing:
        axes = drawing.axes
        for place, (name, apart, aligned) in enumerate(terms):
            start = apart if aligned > 0 else 0
            for left, width, colour, term in (
                (0, apart, svg.ACCENT, "distinguishability"),
                (start, aligned, svg.RISE, "alignment"),
            ):
                bar = axes.barh(
                    [place], [width], left=left, height=0.56, color=colour, alpha=0.7
                )
                drawing.mark(
                    bar[0], "point", f"{name}: {term} {text.decimal(width, digits)}"
                )
            total = apart + aligned
            dot = axes.plot([total], [place], "D", ms=7, color=svg.INK, mec=svg.PAPER)
            drawing.mark(dot[0], "point", f"{name}: sum {text.decimal(total, digits)}")
        axes.set_yticks(range(len(terms)), [_short(name) for name, _, _ in terms])
        axes.tick_params(axis="y", labelcolor=svg.INK)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        axes.axvline(0, color=svg.MUTED, lw=0.8)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel("Improvement term →", loc="right")
    return drawing.svg


def failures(shares: dict[str, float | None]) -> str:
    """What becomes of the base policy's responses."""
    rows = [(name, share) for name, share in shares.items() if share is not None]
    rows.sort(key=lambda row: (row[0] != "correct", -row[1]))
    labels = [name.replace("_", " ") for name, _ in rows]
    colours = [svg.RISE if name == "correct" else svg.FALL for name, _ in rows]
    return _bars(
        "failures",
        "Share of the base policy's responses by how they end",
        labels,
        [share for _, share in rows],
        colours,
        text.percent,
    )


def stages(seconds: dict[str, float | None]) -> str:
    """Wall time of each stage, in the order they ran."""
    rows = [(name, spent) for name, spent in seconds.items() if spent is not None]
    return _bars(
        "stages",
        "Wall time of each stage",
        [name for name, _ in rows],
        [spent for _, spent in rows],
        [svg.ACCENT] * len(rows),
        text.duration,
    )


def _bars(
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
        axes.set_yticks(range(len(labels)), [_short(name) for name in labels])
        axes.tick_params(axis="y", labelcolor=svg.INK)
        axes.set_ylim(len(labels) - 0.5, -0.5)
        # Room at the end of the longest bar for its number.
        axes.set_xlim(0, (max(values) or 1) * 1.28)
        axes.grid(visible=False)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
    return drawing.svg


def _drawable(rows: Sequence[Row], key: str) -> bool:
    return any(
        row.get(key) is not None and row.get("accuracy") is not None for row in rows
    )


def _series(rows: Sequence[Row], key: str, x: str) -> list[tuple]:
    """One method's `(x, accuracy, interval, title)`, along x."""
    found = [
        row
        for row in rows
        if row["method"] == key
        and row.get(x) is not None
        and row.get("accuracy") is not None
    ]
    found.sort(key=lambda row: row[x])
    label = methods.ordered([key])[0].label
    points = []
    for row in found:
        where = f"{label}, N = {row['n']}"
        if row.get("tokens") is not None:
            where += f", {text.count(row['tokens'])} tokens"
        bounds = row.get("ci")
        title = _title(where, row["accuracy"], bounds)
        points.append((row[x], row["accuracy"], bounds, title))
    return points


def _title(where: str, accuracy: float, bounds: Sequence[float | None] | None) -> str:
    """What a point says when it is pointed at."""
    within = f" ({text.interval(bounds)})" if text.known(bounds) else ""
    return f"{where}: {text.percent(accuracy)}{within}"


def _curve(
    drawing: svg.Drawing,
    method: methods.Method,
    points: Sequence[tuple],
    many: bool = False,
) -> None:
    """A line with its band and its markers, each marker with a title.

    Args:
      drawing: where to.
      method: gives the colour, the marker and the name.
      points: each `(x, y, interval or None, title)`.
      many: whether many bands overlap, so that each must be fainter.
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
        # One point has no band to stand in: its interval is a bar.
        if text.known(bounds) and len(banded) == 1:
            bar = axes.plot([x, x], bounds, color=method.colour, lw=1.2, alpha=0.6)
            drawing.mark(bar[0], css)


def _level(
    drawing: svg.Drawing, method: methods.Method, points: Sequence[tuple]
) -> None:
    """A method that has no N, as a level line."""
    for _, accuracy, _, _ in points[:1]:
        line = drawing.axes.axhline(
            accuracy, color=method.colour, linestyle=method.dashes, lw=1.5
        )
        title = f"{method.label}: {text.percent(accuracy)}"
        drawing.mark(line, f"series {method.css}", title)


def _saving(drawing: svg.Drawing, rows: Sequence[Row], efficiency: Row) -> None:
    """The arrow from best-of-N's best point to where the beam equals it."""
    saved = efficiency.get("beam_pav")
    best = max(
        (point for point in _series(rows, "best_of_n_orm", "tokens")),
        key=lambda point: point[1],
        default=None,
    )
    if not saved or saved <= 0 or best is None:
        return
    tokens, accuracy = best[0], best[1]
    axes = drawing.axes
    reached = tokens / saved
    # The span is drawn under the curves, where there is nothing to cover, with
    # dotted lines up to the two points that it lies between.
    low, high = axes.get_ylim()
    axes.set_ylim(low - 0.14 * (high - low), high)
    level = low - 0.03 * (high - low)
    axes.plot(
        [reached, reached, tokens, tokens],
        [level, accuracy, accuracy, level],
        color=svg.INK,
        lw=1,
        ls=(0, (1, 2.5)),
    )
    axes.annotate(
        "",
        (reached, level),
        xytext=(tokens, level),
        arrowprops={
            "arrowstyle": "->",
            "color": svg.INK,
            "linewidth": 1.1,
            "shrinkA": 0,
            "shrinkB": 0,
        },
    )
    words = axes.annotate(
        text.fewer(saved),
        (math.sqrt(reached * tokens), level),
        xytext=(0, -5),
        textcoords="offset points",
        ha="center",
        va="top",
        color=svg.INK,
    )
    drawing.mark(words, "halo")


def _n_axis(axes: Any, rows: Sequence[Row]) -> None:
    """A log axis with a tick at each N that was run."""
    counts = sorted({row["n"] for row in rows if row.get("n") is not None})
    axes.set_xscale("log", base=2)
    axes.set_xticks(counts, [str(n) for n in counts])
    axes.minorticks_off()
    axes.set_xlabel("N, samples or beams →", loc="right")


def _percent_axis(axes: Any, label: str) -> None:
    axes.set_title(f"↑ {label}")
    axes.locator_params(axis="y", nbins=6)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")


def _token_ticks(axes: Any) -> None:
    """Ticks at 1, 2 and 5 times powers of ten; at powers alone if too many."""
    low, high = axes.get_xlim()
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if len(powers) <= 4 else (1,)
    ticks = [step * 10.0**power for power in powers for step in steps]
    ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_xticks(ticks, [text.short_count(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(low, high)


def _apart(values: Sequence[float]) -> list[float]:
    """Of sorted values, those far enough apart for their labels not to touch."""
    gap = (values[-1] - values[0]) / 14
    kept = list(values[:1])
    for value in values[1:]:
        if value - kept[-1] >= gap:
            kept.append(value)
    return kept


def _short(name: str) -> str:
    """A name that leaves room for what it names."""
    return name if len(name) <= 24 else name[:23] + "…"


def _step_ticks(axes: Any, steps: Sequence[int]) -> None:
    ticks = range(min(steps), max(steps) + 1)
    ticks = ticks[:: math.ceil(len(ticks) / 12)]
    axes.set_xticks(ticks, [str(step) for step in ticks])
