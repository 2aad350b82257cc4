"""Claims beside what was measured: a verdict by rule, and a figure, over seeds.

A config file may define `claims()`, which returns a list of `Claim`: what its sweep is
to show, with the number that would show it, both written before it is run.
"""

import dataclasses
import io
import re
from collections.abc import Sequence
from typing import Any

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.tools.sweeps import Found, Measured, Point, arm_of, over_seeds

_NAMED_POINT = re.compile(r"(.+), ([^,=]+) = (-?[\d.]+)")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper, and the measure that it is about. More is better.

    Attributes:
      says: the claim, a sentence.
      paper: the paper's number, in words.
      measure: one of the names in `measures()`.
      least: what the measure is if the claim holds: the paper's number, or the low end
        of it; where there is none, what would be an effect of that kind.
      nothing: what it is if there is no effect; 1 for a ratio.
      arm: the fields that its runs set, without the seed.
      lower_is_opposite: False if a lower measure is no effect the other way: it is a
        code, or the least of several numbers.
      added_later: True if runs that are kept may lack the measure, since `measures()`
        did not have it then: with these alone it is not run, and no mistake.
    """

    says: str
    paper: str
    measure: str
    least: float
    nothing: float = 0.0
    arm: Point = dataclasses.field(default_factory=dict)
    lower_is_opposite: bool = True
    added_later: bool = False


def of(config: str) -> list[Claim]:
    """The claims of a config file; none if it has no `claims()`.

    Args:
      config: FILE or FILE:VARIANT.
    """
    path = config.partition(":")[0]
    return config_lib.call(path, "claims") if config_lib.has(path, "claims") else []


def verdict(claim: Claim, found: Measured | None) -> str:
    """What a measure says of a claim.

    "holds": an effect is shown, and its mean is `least` or more; "in part": an effect
    is shown, of less; "the opposite": an effect the other way is shown; "does not
    hold": none is shown, and `least` is outside of the interval; "not shown": none is
    shown, and the interval leaves `least` open. Intervals are of 95%, over seeds.
    """
    if found is None:
        return "not run"
    if found.interval is None:
        return "one seed"
    low, high = found.interval
    if low > claim.nothing:
        return "holds" if found.mean >= claim.least else "in part"
    if high < claim.nothing and claim.lower_is_opposite:
        return "the opposite"
    return "does not hold" if high < claim.least else "not shown"


def claims_table(claims: Sequence[Claim], found: Sequence[Found]) -> str:
    """Each claim with the paper's number, ours and the verdict, as Markdown.

    What the measure is without an effect, and what it is if the claim holds, stand
    beside it.

    Args:
      claims: of a config.
      found: by its runs. A number that none of an arm has, all None, is not run.

    Raises:
      UserError: a claim is about a measure whose name the runs of its arm have not,
        and is not said to be `added_later`.
    """
    measured = over_seeds(found)
    lines = ["| claim | the paper | here | no effect; it holds | seeds | verdict |"]
    lines.append("|---|---|---|---|---|---|")
    for claim in claims:
        runs = [numbers for fields, numbers in found if arm_of(fields) == claim.arm]
        names = dict.fromkeys(name for numbers in runs for name in numbers)
        if runs and claim.measure not in names and not claim.added_later:
            raise UserError(
                f"a claim is about {claim.measure!r}, which measures() has not; it has"
                f" {', '.join(names)}"
            )
        rows = [row for row in measured if row.arm == claim.arm]
        ours = next((row for row in rows if row.name == claim.measure), None)
        number, seeds = "", ""
        if ours:
            number, seeds = f"{ours.mean:.3g}", str(len(ours.values))
            if ours.interval:
                number += " [{:.3g}, {:.3g}]".format(*ours.interval)
        rule = f"{claim.nothing:g}; {claim.least:g}"
        cells = [claim.says, claim.paper, number, rule, seeds, verdict(claim, ours)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def figure(measured: Sequence[Measured]) -> bytes | None:
    """The measures whose names are "LINE, AXIS = NUMBER" as lines, an SVG.

    Each axis has a panel. A band is the 95% interval over the seeds. A number that not
    all seeds of its line have is left out: it would be the mean of other seeds. None if
    no line has two points.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if not measured:
        return None
    panels = _panels(measured)
    if not panels:
        return None
    names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
    # Else the ids in the file differ from run to run.
    with matplotlib.rc_context({"svg.hashsalt": "figure", "svg.fonttype": "none"}):
        size = (9.0, 1.5 + 4.0 * len(panels))
        drawn = Figure(figsize=size, layout="constrained")
        legend: dict[str, Any] = {}
        for axes, (axis, lines) in zip(
            drawn.subplots(len(panels), squeeze=False)[:, 0],
            panels.items(),
            strict=True,
        ):
            for name, points in lines.items():
                handle = _line(axes, points, names.index(name), name)
                legend.setdefault(name, handle)
            _scale(axes, axis, {x for points in lines.values() for x, _ in points})
        drawn.legend(
            legend.values(),
            legend.keys(),
            fontsize="small",
            loc="outside lower center",
            ncols=3,
        )
        file = io.BytesIO()
        drawn.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


Points = list[tuple[float, Measured]]  # of one line


def _panels(measured: Sequence[Measured]) -> dict[str, dict[str, Points]]:
    """Lines of two points or more, by their axis and their name."""
    panels: dict[str, dict[str, Points]] = {}
    told_by = _telling_fields([row.arm for row in measured])
    for row in measured:
        if found := _NAMED_POINT.fullmatch(row.name):
            parts = [
                f"{field.split('.')[-1]} = {row.arm.get(field)}" for field in told_by
            ]
            name = f"{found[1]} ({', '.join(parts)})" if parts else found[1]
            lines = panels.setdefault(found[2], {})
            lines.setdefault(name, []).append((float(found[3]), row))
    for lines in panels.values():
        for name, points in list(lines.items()):
            most = max(len(row.values) for _, row in points)
            lines[name] = [point for point in points if len(point[1].values) == most]
            if len(lines[name]) < 2:
                del lines[name]
    return {axis: lines for axis, lines in panels.items() if lines}


def _line(axes: Any, points: Points, place: int, name: str) -> Any:
    """Draws a line and its band; returns what the legend shows."""
    points = sorted(points, key=lambda point: point[0])
    xs = [x for x, _ in points]
    colour, means = f"C{place % 10}", [row.mean for _, row in points]
    dashes = ("-", "--", ":")[place // 10 % 3]
    [drawn] = axes.plot(xs, means, f"o{dashes}", color=colour, ms=3.5, label=name)
    if all(row.interval for _, row in points):
        bounds = zip(*(row.interval for _, row in points), strict=True)
        axes.fill_between(xs, *bounds, color=colour, alpha=0.08)
    return drawn


def _telling_fields(arms: Sequence[Point]) -> list[str]:
    """The first field that has another value in each arm; else all that differ."""
    different = list({repr(arm): arm for arm in arms}.values())
    values = {
        field: {repr(arm.get(field)) for arm in different} for field in different[0]
    }
    telling = [field for field, found in values.items() if len(found) > 1]
    alone = [f for f in telling if len(values[f]) == len(different)]
    return alone[:1] or telling


def _scale(axes: Any, name: str, xs: set[float]) -> None:
    """Numbers of samples or beams by their logarithm, with a tick at each."""
    ticks = sorted(xs)
    if name.split()[-1] in ("N", "K"):
        axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(name)
    axes.grid(alpha=0.25)
