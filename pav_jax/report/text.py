"""How numbers and untrusted text are written on the page.

Every string that reaches the page passes through `escape` (or `markup`, which calls
it), and every number through one formatter, so that a quantity is written the same way
in a sentence, a table and a tooltip.
"""

import html
import math
import re
from collections.abc import Iterable, Sequence

from pav_jax.core.counts import counted

MISSING = "–"
_MINUS = "−"
# C0 and C1 controls other than tab and newline. HTML forbids some of them and shows
# none of them; their Unicode pictures let the reader see that they are there.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Embeddings and overrides could reorder text outside the element that they are in.
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")


def escape(value: object) -> str:
    """`value` as HTML text, safe in element content and quoted attributes."""
    text = str(value).replace("\r\n", "\n")
    # A byte-level tokenizer can emit a lone surrogate, which UTF-8 cannot encode.
    text = text.encode("utf-8", "replace").decode("utf-8")
    text = _BIDI.sub("\ufffd", _CONTROLS.sub(_picture, text))
    return html.escape(text, quote=True)


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


def markup(label: str) -> str:
    """Text with our notation as HTML: `Q^π` becomes Q with a superscript π."""
    return re.sub(r"\^([πμ])", r"<sup>\1</sup>", escape(label))


def decimal(value: float | None, digits: int = 2, signed: bool = False) -> str:
    """`value` with fixed digits and a true minus sign; a dash if it is None."""
    if value is None:
        return MISSING
    text = f"{abs(value):.{digits}f}"
    if float(text) == 0:  # neither "−0.00" nor "+0.00"
        return text
    if value < 0:
        return _MINUS + text
    return "+" + text if signed else text


def digits_for(values: Iterable[float]) -> int:
    """How many digits to show after the point, for values in one table.

    Four, or more if three significant digits of the largest value need more.
    """
    largest = max((abs(value) for value in values), default=0.0)
    return 4 if largest == 0 else max(4, 2 - math.floor(math.log10(largest)))


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction as a percentage."""
    if value is None:
        return MISSING
    return decimal(100 * value, digits) + "%"


def points(difference: float | None) -> str:
    """A difference of two fractions in signed percentage points, without the unit."""
    if difference is None:
        return MISSING
    return decimal(100 * difference, 1, signed=True)


def interval(bounds: Sequence[float | None] | None) -> str:
    """A pair of fractions as `41.0–51.3%`; empty if an end is unknown."""
    if not known(bounds):
        return ""
    low, high = bounds
    return f"{decimal(100 * low, 1)}–{percent(high)}"


def points_interval(bounds: Sequence[float | None] | None) -> str:
    """A pair of differences as `+1.2 to +9.8`; empty if an end is unknown."""
    if not known(bounds):
        return ""
    return f"{points(bounds[0])} to {points(bounds[1])}"


def known(bounds: Sequence[float | None] | None) -> bool:
    """Whether an interval is there, with both ends."""
    return bounds is not None and len(bounds) == 2 and None not in bounds


def count(value: float | None) -> str:
    """A count, or a mean of counts, to the nearest whole number."""
    return MISSING if value is None else f"{value:,.0f}"


def problems(number: float | None, kind: str) -> str:
    """How many problems of a kind: "320 test problems", or "the test problems"."""
    return counted(number, f"{kind} problem") if number else f"the {kind} problems"


def short_count(value: float) -> str:
    """A count for an axis: 250, 2k, 1.5M."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def ratio(value: float | None) -> str:
    """A factor as `5.4×`; without a decimal from 100 on."""
    if value is None:
        return MISSING
    return f"{value:.1f}×" if value < 99.5 else f"{value:,.0f}×"


def fewer(value: float) -> str:
    """A positive ratio of tokens, the reference's over the method's, in words."""
    if 0.95 < value < 1.05:
        return f"{ratio(value)} as many"
    if value >= 1:
        return f"{ratio(value)} fewer"
    return f"{ratio(1 / value)} more"


def duration(seconds: float | None) -> str:
    """Seconds as `9.8 s`, `3 min 05 s` or `1 h 02 min`."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
