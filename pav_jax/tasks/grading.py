r"""Grades the final answers of MATH: which text is the answer, and is it right?

The answer is the last balanced `\boxed{...}` or `# Answer` line. `answers.reading` says
what it says (units, words and spellings that say nothing aside), `answers.comparing`
what equals what. Nothing equals an empty answer, not even another one.
"""

import concurrent.futures
import functools
import re
from collections.abc import Sequence

from pav_jax.core.types import Grade
from pav_jax.tasks import algebra
from pav_jax.tasks.algebra import Verdict
from pav_jax.tasks.answers import comparing, reading
from pav_jax.tasks.answers.latex import Unreadable

# Characters of a response, from its end, in which its answer is looked for, and of an
# answer; the longest in MATH has about 200.
MAX_TAIL = 20_000
MAX_ANSWER = 1_000

_BRACE = re.compile(
    r"(?P<box>\\{1,3}(?:boxed|fbox)\s*\{)|\\.|(?P<open>\{)|(?P<close>\})", re.S
)
_BARE_BOX = re.compile(r"\\boxed\s+(?P<content>[^\s\\{}$]+)")
_ANSWER_LINE = re.compile(
    r"^#+[ \t]*Answer\b[ \t]*:?[ \t]*(?:\n\s*)?(?P<content>[^\n]*)$", re.M | re.I
)
_BOLD = re.compile(r"\*\*([^*]+)\*\*[.]?")
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
    if bold := _BOLD.fullmatch(answer):
        answer = bold[1].strip()
    if not answer or len(answer) > MAX_ANSWER or _CONTROL.search(answer):
        return None
    return answer


def normal(answer: str) -> str:
    """An answer in a normal spelling, for voting; "" where nothing is left of it."""
    try:
        return reading.show(reading.read(answer))
    except Unreadable:
        return " ".join(answer.split())


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
    if _plain(gold) == _plain(answer):
        return Grade.CORRECT
    try:
        read = reading.read(answer)
    except Unreadable:
        return Grade.UNPARSED
    try:
        wanted = reading.read(gold)
    except Unreadable:
        return Grade.WRONG
    if wanted == ("text", _plain(answer).lower()):  # EAST, which could be a name
        return Grade.CORRECT
    verdict = comparing.compare(wanted, read)
    return {
        Verdict.EQUAL: Grade.CORRECT,
        Verdict.DIFFERENT: Grade.WRONG,
        Verdict.UNPARSED: Grade.UNPARSED,
        Verdict.EXHAUSTED: Grade.TIMED_OUT,
    }[verdict]


_WORDED = re.compile(r"\\(?:text|mbox|textbf|textrm|textnormal)\s*\{([^{}]*)\}")


def _plain(text: str) -> str:
    r"""A text without dollars and `\text{...}`, each white space as one space."""
    return " ".join(_WORDED.sub(r"\1", text.replace("$", "")).split())
