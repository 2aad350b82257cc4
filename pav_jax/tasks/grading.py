r"""Grades the final answers of MATH: which text is the answer, and what equals what.

The answer is the last balanced `\boxed{...}` or `# Answer` line. Most pairs are
decided by their spelling and by exact arithmetic on plain numbers; what is left, such
as `2\sqrt{3}` and `\sqrt{12}`, goes to `pav_jax.tasks.algebra`. What was decided:

- A unit may be left out or added: `10`, `10\%`, `\$10`, `10^\circ`, `10\text{ cm}^2`
  are the same, as in the grader that MATH was published with. `0.1` is not `10\%`.
- `(3,4)` is ordered; `3,4` and `\{3,4\}` are not, and equal each other; neither of
  them equals `(3,4)`. Brackets tell intervals apart: `(3,4)` is not `(3,4]`.
- `3,400` is a number; with a space, `3, 400`, it is a list, and so it is in brackets.
- `x = 5` equals `5`, and `x \in [0,1]` equals `[0,1]`; `x = 5` is not `y = 5`.
- A number in a base, `52_8`, has no other spelling. Words match whole, in any case.
- Numbers are exact: `0.333` is not `\frac{1}{3}`.
- Nothing equals an empty answer, not even another one.
"""

import concurrent.futures
import functools
import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from pav_jax.core.types import Grade
from pav_jax.tasks import algebra
from pav_jax.tasks.algebra import Verdict

# Characters of a response, from its end, in which its answer is looked for, and of an
# answer; the longest in MATH has about 200. More brackets within each other than
# `MAX_DEPTH`, or more elements than `MAX_ELEMENTS`, are not an answer either.
MAX_TAIL = 20_000
MAX_ANSWER = 1_000
MAX_DEPTH = 30
MAX_ELEMENTS = 50

_BRACE = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.S
)
_BARE_BOX = re.compile(r"\\boxed\s+(?P<content>[^\s\\{}$]+)")
_ANSWER_LINE = re.compile(
    r"^#+[ \t]*Answer\b[ \t]*:?[ \t]*(?:\n\s*)?(?P<content>[^\n]*)$", re.M | re.I
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")


def last_answer(response: str) -> str | None:
    r"""The last final answer that a response states, as it is written.

    Args:
      response: untrusted text of any length.

    Returns:
      The content of the last balanced `\boxed{...}`, or of an `# Answer` line (or of
      the line after it) where that comes later. None where there is none, or where it
      is empty, holds control characters or is longer than `MAX_ANSWER`.
    """
    response = response[-MAX_TAIL:]
    found = [
        (match.start(), match["content"]) for match in _ANSWER_LINE.finditer(response)
    ]
    found += [
        (match.start(), match["content"]) for match in _BARE_BOX.finditer(response)
    ]
    stack = []
    for match in _BRACE.finditer(response):
        if match["box"] or match["open"]:
            stack.append(match)
        elif match["close"] and stack:
            opened = stack.pop()
            if opened["box"]:
                content = response[opened.end() : match.start()]
                # Where it ends counts: after the line that it is on, and an outer box
                # after the one inside.
                found.append((match.start(), content))
    if not found:
        return None
    answer = max(found)[1].strip()
    if not answer or len(answer) > MAX_ANSWER or _CONTROL.search(answer):
        return None
    return answer


# What is taken away or spelt in one way, in this order.
_SPELLINGS: list[tuple[re.Pattern, str]] = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:boxed|fbox)\s*\{(.*)\}$", r"\1"),
        (r",\\!\s*|\{,\}", "\0"),  # between digits of one number; see _number
        (
            r"(?<!\\)\\[!,;: ]|~|\\q?quad\b|\\displaystyle\b|\\(?:left|right)(?![a-z])",
            " ",
        ),
        (r"\\[tdc]frac", r"\\frac"),
        (r"−", "-"),
        (r"\\(?:mbox|textbf|textit|textrm|textnormal|mathrm|mathbf|rm)\b", r"\\text"),
        (r"\\text\s*\{\s*(?:and|or)\s*\}", ","),
        (r"\\(?:\$|%)|\$|%|\^\s*\{?\s*\\circ\s*\}?|\\degree\b|°", ""),
        (r"\\l(?:brace|cbrace)\b", r"\\{"),
        (r"\\r(?:brace|cbrace)\b", r"\\}"),
        (r"\\(leq|geq|neq)\b", lambda m: m[0][:-1]),
        (r"\[[ \t]*\dpt\]", ""),
    )
]
_UNIT = re.compile(r"(?<=[^\s,(\[{=])\s*\\text\s*\{[^{}]*\}(?:\s*\^\s*\{?\d\}?)?\s*$")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])|\s+")
_SHORT_FRAC = re.compile(
    r"\\frac\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))"
)
_SHORT_SQRT = re.compile(r"\\sqrt\s*([0-9A-Za-z])")
_ONE_BRACED = re.compile(r"([_^])\{([0-9A-Za-z]+)\}")
_LETTER = re.compile(r"\(([A-Za-z])\)")


def normal(answer: str) -> str:
    """An answer in a normal spelling, for voting; "" where nothing is left of it."""
    return _spell(answer)[0]


@functools.lru_cache(maxsize=1 << 14)
def _spell(answer: str) -> tuple[str, bool]:
    r"""(normal spelling, whether it is words from a `\text{...}`)."""
    text = answer.strip().rstrip(".")
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = _UNIT.sub("", text).strip()
    bare = _TEXT.sub(r"\1", text)
    words, text = bare != text, bare
    text = _SHORT_FRAC.sub(
        lambda m: rf"\frac{{{m[1] or m[2] or ''}}}{{{m[3] or m[4] or ''}}}", text
    )
    text = _SHORT_SQRT.sub(r"\\sqrt{\1}", text)
    text = _ONE_BRACED.sub(
        lambda m: m[1] + m[2] if len(m[2]) == 1 or m[1] == "_" else m[0], text
    )
    spaced = text.strip()
    text = _SPACE.sub(lambda m: m[1] + " " if m[1] else "", text).rstrip(".,;:")
    if "," in text and re.search(r",\s", spaced):
        text = re.sub(r",(?=\d{3}(?!\d))", ", ", text)  # a list, not thousands
    number = _number(text)
    if number is not None:
        return str(number), False
    text = text.replace("\0", "")
    if letter := _LETTER.fullmatch(text):
        text = letter[1]
    words = words and not re.search(r"[\\\d=+^]", text)
    words = words or re.fullmatch(r"[A-Za-z]{3,}", text) is not None
    return (text.casefold() if words else text), words


_NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?P<whole>\d{1,3}(?:[,\0]\d{3})+|\d*)(?P<part>\.\d*)?"
)
_RATIO = re.compile(
    r"(?P<sign>[-+]?)(?P<whole>\d*)\\frac\{(?P<minus>-?)(?P<top>\d+)\}\{(?P<bottom>\d+)\}"
)
_SLASH = re.compile(r"([-+]?\d+)/(\d+)")


def _number(text: str) -> Fraction | None:
    """An integer, decimal, fraction or mixed number; None where it is none."""
    if len(text) > 200:
        return None
    if match := _NUMBER.fullmatch(text):
        digits = re.sub(r"[,\0]", "", match["whole"]) + (match["part"] or "")
        if not any(c.isdigit() for c in digits) or not digits.isascii():
            return None
        value = Fraction(digits)
    elif match := _RATIO.fullmatch(text):
        if not text.isascii() or int(match["bottom"]) == 0:
            return None
        if match["whole"] and match["minus"]:
            return None
        value = Fraction(int(match["minus"] + match["top"]), int(match["bottom"]))
        value += int(match["whole"] or 0)
    elif match := _SLASH.fullmatch(text):
        if not text.isascii() or int(match[2]) == 0:
            return None
        return Fraction(int(match[1]), int(match[2]))
    else:
        return None
    return -value if match["sign"] == "-" else value


_TOKEN = re.compile(
    r"(?P<open>\\begin\{\w+\}|\\\{|[(\[{])|(?P<close>\\end\{\w+\}|\\\}|[)\]}])"
    r"|\\\\|\\[A-Za-z]+|\\.|.",
    re.S,
)


def _split(text: str, separator: str) -> list[str] | None:
    """Cuts where `separator` is in no brackets; None where brackets do not match."""
    parts, depth, start = [], 0, 0
    for match in _TOKEN.finditer(text):
        if match["open"]:
            depth += 1
        elif match["close"]:
            depth -= 1
        elif not depth and match[0] == separator:
            parts.append(text[start : match.start()])
            start = match.end()
        if not 0 <= depth <= MAX_DEPTH:
            return None
    return None if depth else [*parts, text[start:]]


_MATRIX = re.compile(r"\\begin\{([pbB]?)matrix\}(.*)\\end\{\1matrix\}")
_BRACKETS = re.compile(r"(?P<open>\\\{|[(\[])(?P<inside>.*)(?P<close>\\\}|[)\]])")
# An answer in a normal spelling, and the same as (kind, parts): a part of a "set" may
# stand anywhere. A leaf has no parts.
_Shape = tuple[str, list[str]]


def _shape(text: str) -> _Shape | None:
    """How an answer is put together; None where its brackets do not match."""
    if _number(text) is not None:
        return "leaf", []
    parts = _split(text, r"\cup")
    if parts is None:
        return None
    if len(parts) > 1:
        return "union", parts
    if len(parts := _split(text, ",")) > 1:
        return "set", _without_signs(parts)
    if matrix := _MATRIX.fullmatch(text):
        rows = _split(matrix[2].removesuffix(r"\\"), r"\\")
        cells = [_split(row, "&") for row in rows] if rows else [None]
        if None in cells or len({len(row) for row in cells}) > 1:
            return None
        return f"matrix {len(cells)}", [cell for row in cells for cell in row]
    if match := _BRACKETS.fullmatch(text):
        inside = _split(match["inside"], ",")  # None in (a+1)(b+2)
        if match["open"] == r"\{" and match["close"] == r"\}" and inside is not None:
            return "set", _without_signs(inside)
        if inside is not None and len(inside) > 1:
            return match["open"] + match["close"], inside
    if r"\pm" in text:
        return "set", _without_signs([text])
    return "leaf", []


def _without_signs(parts: list[str]) -> list[str]:
    r"""Each `\pm` as two answers."""
    both = []
    for part in parts:
        signs = ["+", "-"] if r"\pm" in part else [""]
        both += [part.replace(r"\pm", sign).removeprefix("+") for sign in signs]
    return both


_NAME = re.compile(r"(?P<name>[A-Za-z](?:\([a-z]\))?)(?:=|\\in(?![a-z]) ?)")
_BASE = re.compile(r"-?[0-9A-Z]+_\d+")
_RELATION = re.compile(r"[<>]|\\[lg]e(?![a-z])")


def grade(gold: str, response: str) -> Grade:
    """Grades a response by its last answer.

    Args:
      gold: the reference answer.
      response: untrusted text; never evaluated as code.

    Returns:
      UNPARSED where there is no answer, or it cannot be read; TIMED_OUT where
      comparing it went beyond the bounds of time and memory in `algebra`.
    """
    answer = last_answer(response)
    return Grade.UNPARSED if answer is None else compare(gold, answer)


def grade_all(pairs: Sequence[tuple[str, str]]) -> list[Grade]:
    """Grades (reference answer, response) pairs; as many at once as there are workers.

    Those that their spelling decides wait for none that needs algebra.
    """
    with concurrent.futures.ThreadPoolExecutor(algebra.workers().count) as threads:
        return list(threads.map(lambda pair: grade(*pair), pairs))


@functools.lru_cache(maxsize=1 << 16)
def compare(gold: str, answer: str) -> Grade:
    """Grades an answer that stands alone, of at most `MAX_ANSWER` characters."""
    if not (normal(gold) and normal(answer)):
        return Grade.UNPARSED
    (gold, words), (answer, _) = _spell(gold), _spell(answer)
    if words:
        return Grade.CORRECT if gold == answer.casefold() else Grade.WRONG
    if gold == answer:
        return Grade.CORRECT
    named = [_NAME.match(text) for text in (gold, answer)]
    if named[0] and "=" not in answer:
        gold = _spell(gold[named[0].end() :])[0]
    elif named[1] and "=" not in gold:
        answer = _spell(answer[named[1].end() :])[0]
    elif named[0] and named[1] and named[0][0] == named[1][0]:
        gold = _spell(gold[named[0].end() :])[0]
        answer = _spell(answer[named[1].end() :])[0]
    verdict = _compare(gold, answer)
    return {
        Verdict.EQUAL: Grade.CORRECT,
        Verdict.DIFFERENT: Grade.WRONG,
        Verdict.UNPARSED: Grade.UNPARSED,
        Verdict.EXHAUSTED: Grade.TIMED_OUT,
    }[verdict]


@functools.lru_cache(maxsize=1 << 16)
def _compare(gold: str, answer: str) -> Verdict:
    """Compares normal spellings."""
    if gold == answer:
        return Verdict.EQUAL if gold else Verdict.UNPARSED
    values = _number(gold), _number(answer)
    if None not in values:
        return Verdict.EQUAL if values[0] == values[1] else Verdict.DIFFERENT
    shapes = _shape(gold), _shape(answer)
    if shapes[1] is None:
        return Verdict.UNPARSED
    if shapes[0] is None:
        return Verdict.DIFFERENT
    (kind, parts), (other_kind, others) = shapes
    if kind != other_kind or kind == "leaf":
        leaves = "leaf" in (kind, other_kind)
        sides = [bool(_RELATION.search(text)) for text in (gold, answer)]
        if (kind == other_kind and not _literal(gold, answer)) or (
            leaves and sides[0] != sides[1]
        ):
            return algebra.workers().compare(gold, answer)
        return Verdict.DIFFERENT
    if len(parts) != len(others):
        return Verdict.DIFFERENT
    if len(parts) > MAX_ELEMENTS:
        return Verdict.UNPARSED
    parts, others = ([_spell(p)[0] for p in side] for side in (parts, others))
    if kind in ("set", "union"):
        return _match(parts, others)
    return _all(_compare, parts, others)


def _literal(gold: str, answer: str) -> bool:
    """Whether only its spelling says what an answer is: words, and other bases."""
    return any(
        _BASE.fullmatch(text) or re.fullmatch("[A-Za-z]{3,}", text)
        for text in (gold, answer)
    )


def _all(
    compare: Callable[[str, str], Verdict], parts: Sequence[str], others: Sequence[str]
) -> Verdict:
    """EQUAL where all are; where not, the surest reason."""
    worst = Verdict.EQUAL
    for part, other in zip(parts, others, strict=True):
        verdict = compare(part, other)
        if verdict is Verdict.DIFFERENT:
            return verdict
        if verdict is not Verdict.EQUAL:
            worst = verdict
    return worst


def _match(parts: list[str], others: list[str]) -> Verdict:
    """Compares as multisets."""
    left, unsure = list(others), Verdict.DIFFERENT
    for part in sorted(parts, key=left.count, reverse=True):  # the same spelling first
        for other in sorted(left, key=part.__ne__):
            verdict = _compare(part, other)
            if verdict is Verdict.EQUAL:
                left.remove(other)
                break
            if verdict is Verdict.EXHAUSTED:
                return verdict
            if verdict is Verdict.UNPARSED:
                unsure = verdict
        else:
            return unsure
    return Verdict.EQUAL
