"""From a matplotlib figure to inline SVG that belongs to the page.

The SVG has no colours and no fonts of its own: drawing colours become CSS variables, so
that the figure follows the page from light to dark, and text stays text in the page's
font. It has no dates and no random ids either, so the same results give the same bytes.
"""

import io
import re
from types import TracebackType
from typing import Any

from pav_jax.report import methods, text

# Drawing colours that are not a method's. They too are only names.
INK = "#1d2129"
MUTED = "#626872"
RULE = "#dfe2e7"
PAPER = "#fefefd"
ACCENT = "#2f6cad"
RISE = "#0a7f70"
FALL = "#b0620f"

_VARIABLES = methods.VARIABLES | {
    INK: "--ink",
    MUTED: "--muted",
    RULE: "--rule",
    PAPER: "--paper",
    ACCENT: "--accent",
    RISE: "--rise",
    FALL: "--fall",
}
# Of every figure, in CSS pixels at full size. With 12-pixel text it is legible both
# with two figures side by side and on a telephone.
_WIDTH = 440
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pav_jax",
    "text.parse_math": False,
    "font.size": 12,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 12,
    "axes.titlecolor": MUTED,
    "axes.titlesize": 12,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": RULE,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 12,
    "ytick.labelsize": 12,
    "xtick.major.size": 4,
    "ytick.major.size": 0,
    "lines.linewidth": 1.9,
    "lines.solid_capstyle": "round",
}


class Drawing:
    """One figure that is being drawn; `svg` is complete when the `with` block ends.

    Attributes:
      axes: the matplotlib axes, one or (with `rows`) a list from the top down.
      svg: the finished `<svg>` element.
    """

    def __init__(
        self,
        name: str,
        label: str,
        height: int,
        rows: tuple[int, ...] = (1,),
    ) -> None:
        """Sets up an empty figure.

        Args:
          name: a prefix that makes the ids unique on the page.
          label: what the figure shows, for screen readers.
          height: in CSS pixels at full size.
          rows: the relative heights of the axes.
        """
        self._name = name
        self._label = label
        self._size = (_WIDTH / 72, height / 72)
        self._rows = rows
        self._marks: dict[str, tuple[str, str]] = {}
        self.axes: Any = None
        self.svg = ""

    def __enter__(self) -> "Drawing":
        # Not at the head of the module: matplotlib takes a second to import, and
        # commands that never draw import this package.
        import matplotlib
        from matplotlib.figure import Figure

        self._context = matplotlib.rc_context(_STYLE)
        self._context.__enter__()
        self._figure = Figure(figsize=self._size, dpi=72, layout="constrained")
        self._figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02)
        axes = self._figure.subplots(
            len(self._rows), sharex=True, height_ratios=self._rows
        )
        self.axes = axes if len(self._rows) == 1 else list(axes)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if error is None:
                self.svg = self._render()
        finally:
            self._context.__exit__(kind, error, trace)

    def mark(self, artist: Any, css: str, title: str = "") -> Any:
        """Gives an artist CSS classes and, on hover, a title."""
        key = f"mark-{len(self._marks)}"
        artist.set_gid(key)
        self._marks[key] = (css, title)
        return artist

    def _render(self) -> str:
        buffer = io.StringIO()
        self._figure.savefig(buffer, format="svg", metadata={"Date": None})
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :]
        svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
        # matplotlib's own style element (join and cap of every line) would apply to
        # the whole page; style.css has these rules for figures alone.
        svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.S)
        svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
        view = re.search(r'viewBox="[^"]*"', svg).group()
        label = text.escape(self._label)
        head = f'<svg class="plot" {view} role="img" aria-label="{label}">'
        svg = head + svg[svg.index(">") + 1 :]
        svg = svg.replace("xlink:href", "href")
        svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
        # Older matplotlib (3.9, for example) writes the same in this form.
        svg = re.sub(r'font: (?:\w+ )?([\d.]+px) [^;"]*', r"font-size: \1", svg)
        for colour, variable in _VARIABLES.items():
            svg = svg.replace(colour, f"var({variable})")
        for key, (css, title) in self._marks.items():
            inner = f"<title>{text.escape(title)}</title>" if title else ""
            svg = svg.replace(f'<g id="{key}">', f'<g class="{css}">{inner}')
        return self._rename(svg).strip()

    def _rename(self, svg: str) -> str:
        """Drops ids that nothing refers to; prefixes the others with `name`."""
        used = set(re.findall(r'(?:href="|url\()#([^")]+)', svg))
        svg = re.sub(
            r' id="([^"]*)"',
            lambda m: f' id="{self._name}-{m[1]}"' if m[1] in used else "",
            svg,
        )
        return re.sub(r'(href="|url\()#', rf"\1#{self._name}-", svg)
