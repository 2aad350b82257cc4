"""Claims beside what was measured: a verdict by rule, and a figure, over seeds.

A config file may define `claims()`, which returns a list of `Claim`: what its sweep is
to show, with the number that would show it, both written before it is run.
"""

import contextlib
import dataclasses
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.metrics import seed_interval
from pav_jax.tools.sweeps import Found, Measured, Point, arm_of

_SEEDS = 3  # with less there is no verdict
_TICKS = 12  # of an axis, at most; else as matplotlib sets them
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
      less: if given, the fields of another arm; the measure is then a difference, of
        the run of `arm` less that of the same seed here.
    """

    says: str
    paper: str
    measure: str
    least: float
    nothing: float = 0.0
    arm: Point = dataclasses.field(default_factory=dict)
    lower_is_opposite: bool = True
    added_later: bool = False
    less: Point | None = None


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
    shown, and the interval leaves `least` open; "few seeds": there are less than three,
    of which two may agree by chance. Intervals are of 95%, over seeds.
    """
    if found is None:
        return "not run"
    if found.interval is None or len(found.values) < _SEEDS:
        return "few seeds"
    low, high = found.interval
    if low > claim.nothing:
        return "holds" if found.mean >= claim.least else "in part"
    if high < claim.nothing and claim.lower_is_opposite:
        return "the opposite"
    return "does not hold" if high < claim.least else "not shown"


def of_claim(claim: Claim, found: Sequence[Found]) -> Measured | None:
    """What runs found of the measure of a claim; None if none has the number.

    Raises:
      UserError: the runs of an arm have no measure of that name, and the claim is not
        said to be `added_later`.
    """
    ours = _by_seed(claim, claim.arm, found)
    if claim.less is not None:
        theirs = _by_seed(claim, claim.less, found)
        ours = {seed: ours[seed] - theirs[seed] for seed in ours if seed in theirs}
    if not ours:
        return None
    mean, interval = seed_interval(list(ours.values()))
    return Measured(claim.arm, claim.measure, ours, mean, interval)


def _by_seed(claim: Claim, arm: Point, found: Sequence[Found]) -> dict[int, float]:
    """What a claim is about in the runs of an arm, by seed, of those that have it."""
    name = claim.measure
    runs = {f["seed"]: numbers for f, numbers in found if arm_of(f) == arm}
    names = dict.fromkeys(name for numbers in runs.values() for name in numbers)
    if runs and name not in names and not claim.added_later:
        raise UserError(
            f"a claim is about {name!r}, which measures() has not; it has"
            f" {', '.join(names)}"
        )
    values = {seed: numbers.get(name) for seed, numbers in runs.items()}
    return {seed: value for seed, value in values.items() if value is not None}


def claims_table(claims: Sequence[Claim], found: Sequence[Found]) -> str:
    """Each claim with the paper's number, ours and the verdict, as Markdown.

    What the measure is without an effect, and what it is if the claim holds, stand
    beside it.

    Args:
      claims: of a config.
      found: by its runs. A number that none of an arm has, all None, is not run.

    Raises:
      UserError: a claim is about a measure whose name the runs of its arm have not.
    """
    lines = ["| claim | the paper | here | no effect; it holds | seeds | verdict |"]
    lines.append("|---|---|---|---|---|---|")
    for claim in claims:
        ours = of_claim(claim, found)
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

    There is a panel for each axis and arm. A band is the 95% interval over the seeds. A
    number that not all seeds of its line have is left out: it would be the mean of
    other seeds. None if no line has two points.
    """
    panels = _panels(measured)
    if not panels:
        return None
    places: dict[str, int] = {}  # of each name of a line: its colour
    same_axis = len({axis for axis, _ in panels}) == 1
    with _drawing(len(panels), sharey=same_axis) as (drawn, grid):
        for (axis, arm), axes in zip(panels, grid, strict=True):
            for name, points in panels[axis, arm].items():
                _draw_line(axes, name, points, places.setdefault(name, len(places)))
            lines = panels[axis, arm].values()
            _scale(axes, axis, {x for points in lines for x, _ in points})
            axes.set_title(arm, fontsize="medium")
        keys = {line.get_label(): line for axes in grid for line in axes.get_lines()}
        where = dict(loc="outside lower center", fontsize="small", ncols=3)
        drawn.legend(keys.values(), keys, **where)
        return _svg(drawn)


def _panels(measured: Sequence[Measured]) -> dict[tuple[str, str], dict[str, list]]:
    """Points (x, what was measured) of lines of two or more, by axis and arm, name."""
    told_by = _telling_fields([row.arm for row in measured]) if measured else []
    found: dict[tuple[str, str], dict[str, list]] = {}
    for row in measured:
        if named := _NAMED_POINT.fullmatch(row.name):
            arm = ", ".join(f"{f.split('.')[-1]} = {row.arm.get(f)}" for f in told_by)
            lines = found.setdefault((named[2], arm), {})
            lines.setdefault(named[1], []).append((float(named[3]), row))
    for lines in found.values():
        for name, points in list(lines.items()):
            seeds = max(len(row.values) for _, row in points)
            whole = [(x, row) for x, row in points if len(row.values) == seeds]
            lines[name] = sorted(whole, key=lambda point: point[0])
            if len(whole) < 2:
                del lines[name]
    return {panel: lines for panel, lines in found.items() if lines}


@contextlib.contextmanager
def _drawing(panels: int, sharey: bool = False) -> Iterator[tuple[Any, list]]:
    """A figure, and the axes of its panels, at most three in a row."""
    import matplotlib
    from matplotlib.figure import Figure

    # Else the ids in the file differ from run to run.
    with matplotlib.rc_context({"svg.hashsalt": "figure", "svg.fonttype": "none"}):
        columns = min(panels, 3)
        rows = -(-panels // columns)
        size = ((9.0, 9.5, 12.0)[columns - 1], 1.2 + 4.0 * rows)
        drawn = Figure(figsize=size, layout="constrained")
        grid = drawn.subplots(rows, columns, squeeze=False, sharey=sharey)
        grid = grid.flatten().tolist()
        for axes in grid[panels:]:
            axes.remove()
        yield drawn, grid[:panels]


def _draw_line(axes: Any, name: str, points: list, place: int) -> None:
    """Means, and the band of their intervals; the colour by the line's place."""
    xs = [x for x, _ in points]
    colour, means = f"C{place % 10}", [row.mean for _, row in points]
    dashes = ("-", "--", ":")[place // 10 % 3]
    axes.plot(xs, means, f"o{dashes}", color=colour, ms=3.5, label=name)
    if all(row.interval for _, row in points):
        bounds = zip(*(row.interval for _, row in points), strict=True)
        axes.fill_between(xs, *bounds, color=colour, alpha=0.08)


def _svg(drawn: Any) -> bytes:
    file = io.BytesIO()
    drawn.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def claims_figure(claims: Sequence[Claim], found: Sequence[Found]) -> bytes | None:
    """Each claim's measure with its interval, an SVG, for where no measure is a line.

    Measures of different units share an axis: 0 is no effect, and 1 is where the claim
    holds. None if no measure has an interval.
    """
    rows = [(claim, of_claim(claim, found)) for claim in claims]
    rows = [(c, x) for c, x in rows if x and x.interval and c.least != c.nothing]
    if not rows:
        return None
    with _drawing(1) as (drawn, (axes,)):
        drawn.set_size_inches(9.0, 1.2 + 0.7 * len(rows))
        for place, (claim, ours) in enumerate(rows):
            mean, *bounds = (
                (value - claim.nothing) / (claim.least - claim.nothing)
                for value in (ours.mean, *ours.interval)
            )
            axes.plot(bounds, [place] * 2, color="C0")
            axes.plot([mean], [place], "o", color="C0")
        axes.axvline(0, color="grey", lw=1.0)
        axes.axvline(1, color="C2", lw=1.0, ls="--")
        says = ["\n".join(textwrap.wrap(claim.says, 44)) for claim, _ in rows]
        axes.set_yticks(range(len(rows)), says, fontsize="small")
        axes.invert_yaxis()
        axes.set_xlabel("0: no effect; 1: the effect that the claim needs")
        axes.grid(axis="x", alpha=0.25)
        return _svg(drawn)


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
    """A tick at each number, if they are few; those that lie far apart by logarithm."""
    ticks = sorted(xs)
    if name.split()[-1] in ("N", "K"):
        axes.set_xscale("log", base=2)
    elif ticks[0] > 0 and ticks[-1] > 50 * ticks[0]:
        axes.set_xscale("log")
    if len(ticks) <= _TICKS:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize="small")
        axes.minorticks_off()
    axes.set_xlabel(name)
    axes.grid(alpha=0.25)
