"""Grade-school word problems: GSM8K."""

import os
import pathlib
import re
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

from pav_jax.core.types import Grade, Problem
from pav_jax.tasks.answers import units
from pav_jax.tasks.stored import StoredTask, read_lines

_LAYOUT = (
    "expected a folder with train.jsonl and test.jsonl, one JSON object a line "
    "with the text fields 'question' and 'answer'"
)
_FIELDS = ("question", "answer")
_FILES = ("train.jsonl", "test.jsonl")
_MARK = "####"
# Four, and no more; a response may state its answer in the middle of a line.
_MARKED = re.compile(r"(?<!#)####(?!#)(?P<line>[^\n]*)")
_ANNOTATION = re.compile(r"<<[^>\n]*>>")
# Far above any real answer, and small enough that parsing is never a cost.
_LONGEST_NUMBER = 64
_NUMBER = re.compile(
    r"(?P<sign>-\$|\$-|-|\$|)"
    r"(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+)"
)
_WRAPPED = re.compile(r"\\boxed\s*\{([^{}]*)\}|\*\*([^*]*)\*\*|\$([^$]*)\$")
# What may follow the number: nothing, or words. Not more digits or an operation, which
# would make it another number, nor a letter without a space, as in 1e5.
_NUMBER_THEN_WORDS = re.compile(
    r"\+?(?P<number>[-$]*[0-9.,]*[0-9]\.?)(?:%|,?\s|,?$)\s*(?P<words>.*)"
)
_NOT_WORDS = re.compile(r"[-+*/^=<>:×÷−#.]")
_SQUARE = re.compile(r"\b((?:[ckm]?m|ft|in|yd|feet|inches|meters)\s?)\^?[23²³](?!\w)")
# These words make another number of it, or say that there are two.
_CHANGES = re.compile(
    r"\b(?:or|plus|minus|not|divided|multiplied|modulo|mod|squared|cubed|doubled|tripled"
    r"|quadrupled|halved|factorial|choose|times(?! as\b| more\b|[.!]?$)"
    r"|and (?:an?|one|quarter))\b"
)
# How it came about: `72 (48 + 24)`. But not `72 (73)`, `5 (million)` or `72 (or 73)`.
_ASIDE = re.compile(
    rf"\((?!\s*(?:(?:[a-z]+|[$\d.,]+)\s*\)|and\b|{_CHANGES.pattern}))[^()]*\)"
)
_TOKEN = re.compile(r"\w+(?:-\w+|[.,/:]\d+)*|[^\w\s$]")
# After these a number is about something else: `120 pages in 7 days`. Not so if they
# belong to a word that changes it: `5 increased by 2`, `5 and a half`.
_PREPOSITIONS = set(
    """in on per of for by from after every each at with a an within during among
    between""".split()
)
_BETWEEN = set(
    """the these those his her their its my our all next last first past other only
    just about""".split()
)
_OPERATIONS = set(
    """and or plus minus to then times but less increased decreased reduced raised
    lowered scaled subtracted deducted taken removed away power""".split()
)


class Gsm8k(StoredTask):
    """GSM8K as a `Task`.

    Args:
      path: the folder that holds train.jsonl and test.jsonl; None to download them.
      validation_fraction: the share of the training problems, in [0, 1), to hold out.
      data_dir: where the prepared dataset is kept; see `datasets.load`.

    Raises:
      UserError: from `problems`, where a file is missing or a line is not a problem;
        the message names the file and the line.
    """

    name = "gsm8k"

    def __init__(
        self,
        path: str | os.PathLike | None = None,
        validation_fraction: float = 0.05,
        data_dir: str | os.PathLike | None = None,
    ):
        super().__init__(validation_fraction)
        self._path = None if path is None else pathlib.Path(path)
        self._data_dir = data_dir

    def _read(self) -> tuple[list[Problem], list[Problem]]:
        # TFDS takes two seconds to import, which grading does without.
        from pav_jax.tasks import datasets

        rows = datasets.load(
            datasets.PavGsm8k, _read_rows, path=self._path, data_dir=self._data_dir
        )
        train, test = ([*map(_problem, rows[split])] for split in ("train", "test"))
        return train, test

    def files(self) -> Sequence[pathlib.Path]:
        return [self._path / name for name in _FILES] if self._path else ()

    def grade(self, problem: Problem, response: str) -> Grade:
        """Compares the number after the response's last `####`, exactly.

        Words may follow it, as in `#### 72 clips`; `million` and the like are factors.
        No second number, as in `#### 3 hours 30 minutes`, and nothing that changes it;
        one in brackets or after a preposition is none: `#### 120 pages in 7 days`.

        Args:
          problem: the problem that was asked.
          response: untrusted text.

        Returns:
          UNPARSED where there is no `####`, or no plain number after the last one.
        """
        value = _last_number(response)
        if value is None:
            return Grade.UNPARSED
        return Grade.CORRECT if value == parse_number(problem.answer) else Grade.WRONG

    def answer(self, response: str) -> str | None:
        """The number after the last `####` in a normal form, or None."""
        value = _last_number(response)
        return None if value is None else format(value.normalize(), "f")


def _last_number(response: str) -> Decimal | None:
    marked = _MARKED.findall(response)
    if not marked:
        return None
    line = marked[-1].replace("\\$", "$").replace("\\%", "%").strip()
    line = _WRAPPED.sub(lambda m: m[1] or m[2] or m[3] or "", line)
    match = _NUMBER_THEN_WORDS.fullmatch(line.strip())
    if match is None or _NOT_WORDS.match(match["words"]):
        return None
    value = parse_number(match["number"].rstrip("."))
    factor = _factor(match["words"].lower())
    if value is None or factor is None:
        return None
    with localcontext(prec=2 * _LONGEST_NUMBER):
        return value * factor.numerator / factor.denominator


def _factor(words: str) -> Fraction | None:
    """What the words after a number multiply it by; None if they say more."""
    plain = _ASIDE.sub("", _SQUARE.sub(r"\1", words)).strip(" .!")
    if _CHANGES.search(plain):
        return None
    factor, rest = units.cut_factor(_TOKEN.findall(plain))
    if rest and rest[0] in units.PARTS and rest[1:2] != ["of"]:
        rest = rest[1:]  # fifth graders
    numbers = [i for i, word in enumerate(rest) if units.says_number(word)]
    return factor if all(_is_aside(rest[max(0, i - 6) : i]) for i in numbers) else None


def _is_aside(before: list[str]) -> bool:
    """Whether a number after these words does not change the one before them."""
    before = [""] + before
    while before[-1] in _BETWEEN:
        before.pop()
    return before.pop() in _PREPOSITIONS and before[-1] not in _OPERATIONS


def parse_number(text: str) -> Decimal | None:
    """Reads a plain decimal number such as 72, -3, $1,000 or 72.00.

    Args:
      text: untrusted text; white space around the number is ignored.

    Returns:
      The exact value, or None where the text is anything else: no exponents,
      no NaN or infinity, no misplaced commas, at most 64 characters.
    """
    text = text.strip()
    match = _NUMBER.fullmatch(text) if len(text) <= _LONGEST_NUMBER else None
    if match is None:
        return None
    minus = "-" if "-" in match["sign"] else ""
    return Decimal(minus + match["digits"].replace(",", ""))


def _read_rows(folder: pathlib.Path) -> dict[str, list[dict[str, str]]]:
    """The published rows, each of which is a problem."""

    def parse(row):
        _problem(row)
        return {field: row[field] for field in _FIELDS}

    return {
        split: list(read_lines(folder / f"{split}.jsonl", parse, _FIELDS, _LAYOUT))
        for split in ("train", "test")
    }


def _problem(row: dict[str, str]) -> Problem:
    """Turns a row of the published file into a problem, or raises ValueError."""
    question = re.sub(r"\s*\n\s*", " ", row["question"].strip())
    lines = _ANNOTATION.sub("", row["answer"]).split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    marked = [line for line in lines if line.startswith(_MARK)]
    answer = marked[0].removeprefix(_MARK).strip() if marked else ""
    if marked != lines[-1:] or parse_number(answer) is None:
        raise ValueError(f"'answer' must end with its only line '{_MARK} <number>'")
    return Problem(
        prompt=question + "\n",
        answer=answer,
        solution="\n".join([*lines[:-1], f"{_MARK} {answer}"]),
    )
