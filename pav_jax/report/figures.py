"""The figures of the report, one function each, as inline SVG.

Each takes the part of the results that it draws and returns an `<svg>` element, or an
empty string if there is nothing to draw. Numbers that are None are left out. Legends
are not part of the drawing: they are HTML above it (`parts.legend`), where they wrap
on a narrow screen and never cover the data.
"""

import math
from collections.abc import Sequence
from typing import Any

from pav_jax.core.counts import counted
from pav_jax.report import methods, plots, svg, text

Row = dict[str, Any]

# Methods that select one of independent samples.
SELECTIONS = ("majority", "best_of_n_orm", "best_of_n_pav", "vote_orm", "vote_pav")


def accuracy_vs_n(rows: Sequence[Row]) -> str:
    """Accuracy against the number of samples or beams, without Pass@N."""
    shown = [row for row in rows if not methods.is_oracle(row["method"])]
    if not plots.drawable(shown, "n"):
        return ""
    with svg.Drawing("by-n", "Accuracy against N for each method", 340) as drawing:
        axes = drawing.axes
        spread = [row for row in shown if row["method"] != "greedy"]
        plots.n_axis(axes, spread or shown)
        for method in methods.ordered(row["method"] for row in shown):
            points = plots.series(shown, method.key, "n")
            if method.key == "greedy" and spread:
                plots.level(drawing, method, points)
            else:
                plots.curve(drawing, method, points, many=True)
        plots.percent_axis(axes, "Accuracy")
    return drawing.svg


def accuracy_vs_tokens(rows: Sequence[Row], efficiency: Row) -> str:
    """Accuracy against all tokens spent per problem, on a log axis.

    An arrow spans the tokens that beam search by the effective reward saves, or costs,
    to reach best-of-N's best accuracy.
    """
    shown = [row for row in rows if not methods.is_oracle(row["method"])]
    if not plots.drawable(shown, "tokens"):
        return ""
    label = "Accuracy against tokens per problem for each method"
    with svg.Drawing("by-tokens", label, 340) as drawing:
        axes = drawing.axes
        axes.set_xscale("log")
        for method in methods.ordered(row["method"] for row in shown):
            points = plots.series(shown, method.key, "tokens")
            plots.curve(drawing, method, points, many=True)
        plots.token_ticks(axes)
        axes.set_xlabel("Tokens per problem, log scale →", loc="right")
        plots.percent_axis(axes, "Accuracy")
        _saving(drawing, efficiency)
    return drawing.svg


def pass_at_n(rows: Sequence[Row], base: Row) -> str:
    """Pass@N beside methods that select one of the same independent samples."""
    bounds = [row for row in rows if methods.is_oracle(row["method"])]
    if not bounds:
        known = {int(n): value for n, value in (base.get("pass_at") or {}).items()}
        bounds = [
            {"method": "pass_at_n", "n": n, "accuracy": known[n]} for n in sorted(known)
        ]
    shown = bounds + [row for row in rows if row["method"] in SELECTIONS]
    if not plots.drawable(bounds, "n"):
        return ""
    label = "Pass@N against N, with methods that select from the same samples"
    with svg.Drawing("pass-at-n", label, 340) as drawing:
        plots.n_axis(drawing.axes, shown)
        for method in methods.ordered(row["method"] for row in shown):
            plots.curve(drawing, method, plots.series(shown, method.key, "n"))
        plots.percent_axis(drawing.axes, "Problems solved")
    return drawing.svg


def policies_by_n(policies: dict[str, Row]) -> str:
    """Pass@N of every policy; bands are intervals over seeds."""
    rows = [
        {"method": method, "n": int(n), **row, "ci": _possible(row)}
        for method, policy in policies.items()
        for n, row in (policy.get("pass_at") or {}).items()
    ]
    if not plots.drawable(rows, "n"):
        return ""
    with svg.Drawing("policies", "Pass@N of each policy against N", 340) as drawing:
        plots.n_axis(drawing.axes, rows)
        for method in methods.ordered(policies):
            plots.curve(drawing, method, plots.series(rows, method.key, "n"), many=True)
        drawing.axes.set_xlabel("N, samples →", loc="right")
        plots.percent_axis(drawing.axes, "Problems solved")
    return drawing.svg


def _possible(row: Row) -> list[float] | None:
    """The interval over seeds, as far as it is of accuracies: with few seeds it is so
    wide that it would go below 0 or above 1."""
    bounds = row.get("seed_interval")
    if not text.known(bounds):
        return None
    return [min(max(bound, 0.0), 1.0) for bound in bounds]


def learning(curves: dict[str, Row], policies: dict[str, Row], x: str) -> str:
    """Accuracy of RL runs against `step` or `tokens`; bands span the seeds.

    Policies that RL did not train are level lines.
    """
    noun = {"step": "iteration", "tokens": "sampled token"}[x]
    name = noun + "s"
    drawn = {
        method: [
            (place, value, bounds, plots.tooltip(counted(place, noun), value, bounds))
            for place, value, bounds in _seed_points(curve, x)
        ]
        for method, curve in curves.items()
    }
    if not any(drawn.values()):
        return ""
    label = f"Accuracy against {name} for each RL method"
    with svg.Drawing(f"learning-{x}", label, 340) as drawing:
        axes = drawing.axes
        for method in methods.ordered([*policies, *drawn]):
            if method.key in drawn:
                plots.curve(drawing, method, drawn[method.key], many=True)
            else:
                level = (policies[method.key].get("sampled") or {}).get("accuracy")
                if level is not None:
                    plots.level(drawing, method, [(0, level, None, "")])
        axes.set_xlabel(f"{name.capitalize()} →", loc="right")
        axes.xaxis.set_major_formatter(lambda value, _: text.short_count(value))
        axes.locator_params(axis="x", nbins=6)
        plots.percent_axis(axes, "Accuracy")
    return drawing.svg


def _seed_points(curve: Row, x: str) -> list[tuple]:
    """A curve's sampled accuracy: `(x, mean over seeds, [lowest, highest seed])`."""
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
            (weight, value, bounds, plots.tooltip(f"α = {weight:g}", value, bounds))
            for weight, value, bounds in points
        ]
        plots.curve(drawing, method, curve)
        for weight, accuracy, _ in points:
            if chosen is not None and math.isclose(weight, chosen, abs_tol=1e-9):
                ring = axes.plot(
                    [weight], [accuracy], "o", ms=14, mfc="none", mec=svg.INK, mew=1.3
                )
                drawing.mark(ring[0], "ring")
        ticks = plots.apart([point[0] for point in points])
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xlabel("α, the weight of progress →", loc="right")
        plots.percent_axis(axes, "Accuracy")
    return drawing.svg


def auc_by_step(verifier: Row) -> str:
    """How well the score after each step separates correct from wrong responses."""
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
        plots.curve(drawing, methods.find("best_of_n_pav"), points)
        plots.step_ticks(axes, [point[0] for point in points])
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
    """Observed against predicted Q, above the number of steps in each bin."""
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
                f"{text.decimal(observed, 3)}, {counted(total, 'step')}"
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
        axes.set_yticks(range(len(terms)), [plots.short(name) for name, _, _ in terms])
        axes.tick_params(axis="y", labelcolor=svg.INK)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", visible=True)
        axes.axvline(0, color=svg.MUTED, lw=0.8)
        axes.locator_params(axis="x", nbins=6)
        axes.set_xlabel("Improvement term →", loc="right")
    return drawing.svg


def failures(fractions: dict[str, float | None]) -> str:
    """How the base policy's responses end."""
    rows = [(name, part) for name, part in fractions.items() if part is not None]
    rows.sort(key=lambda row: (row[0] != "correct", -row[1]))
    labels = [name.replace("_", " ") for name, _ in rows]
    colours = [svg.RISE if name == "correct" else svg.FALL for name, _ in rows]
    return plots.bars(
        "failures",
        "Fraction of the base policy's responses by how they end",
        labels,
        [part for _, part in rows],
        colours,
        text.percent,
    )


def stages(seconds: dict[str, float | None]) -> str:
    """Wall time of each stage, in the order they ran."""
    rows = [(name, spent) for name, spent in seconds.items() if spent is not None]
    return plots.bars(
        "stages",
        "Wall time of each stage",
        [name for name, _ in rows],
        [spent for _, spent in rows],
        [svg.ACCENT] * len(rows),
        text.duration,
    )


def _saving(drawing: svg.Drawing, efficiency: Row) -> None:
    """The arrow from the reference's best point to where beam search equals it."""
    saved = efficiency.get("beam_pav")
    tokens, accuracy = efficiency.get("tokens"), efficiency.get("accuracy")
    if not saved or saved <= 0 or not tokens or accuracy is None:
        return
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
