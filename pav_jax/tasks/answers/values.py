"""Reads values: expressions with their units, numbers in a base, ratios, and words."""

from collections.abc import Sequence

from pav_jax.tasks.answers import trees, units
from pav_jax.tasks.answers.expressions import read_expression
from pav_jax.tasks.answers.latex import (
    Group,
    Item,
    Token,
    Unreadable,
    is_token,
    kind_of,
    spell,
)
from pav_jax.tasks.answers.trees import Tree

# An answer that was read; its kinds are in `reading`.
Answer = tuple

EMPTY: Answer = ("list",)
MINUS_INFINITY: Answer = ("value", trees.negative(trees.INFINITY), "")
INFINITY: Answer = ("value", trees.INFINITY, "")
REALS: Answer = ("tuple", "(", ")", MINUS_INFINITY, INFINITY)
_REALS_IN_WORDS = {"all real numbers", "all reals", "real numbers", "the real numbers"}


def read_ratio(parts: list[list[Item]]) -> Answer:
    """3:4, or a time of day, whose unit is "am" or "pm"."""
    answers = [read_value(part) for part in parts]
    if any(answer[0] != "value" for answer in answers) or any(
        unit for _, _, unit in answers[:-1]
    ):
        raise Unreadable("units or words in a ratio")
    return "ratio", *answers


def read_value(items: Sequence[Item]) -> Answer:
    """An expression with or without units, or a number in a base."""
    based = _based(items)
    if based is not None:
        return "value", based, ""
    number, words = _cut_units(items)
    if not number:
        return read_text(items)
    unit, factor = "", trees.ONE
    if isinstance(number[0], Token) and number[0].kind == "unit":
        unit, number = number[0].text, number[1:]
    elif len(number) > 1 and is_token(number[0], "-") and kind_of(number[1]) == "unit":
        unit, number = number[1].text, [number[0], *number[2:]]
    if words:
        phrase = units.read_phrase(words)
        if phrase is None:
            raise Unreadable("words")
        factor = trees.num(phrase[0])
        read_unit = phrase[1]
        if unit and read_unit and unit + "^1" != read_unit:
            raise Unreadable("two units")
        unit = read_unit or (unit and unit + "^1")
    elif unit:
        unit += "^1"
    tree = trees.mul(factor, read_expression(number))
    if any(part == trees.DEGREE for part in trees.flat(tree)):
        tree, unit = trees.replace(tree, trees.DEGREE, trees.ONE), unit or "degree^1"
    return "value", tree, unit


def _cut_units(items: Sequence[Item]) -> tuple[list[Item], list[str]]:
    """The items before the unit at the end, and the unit's words."""
    end = len(items)
    while end and _may_be_unit(items, end - 1):
        end -= 1
    # A unit begins with a word; a letter is one only if it stands apart.
    while end < len(items) and not _begins_unit(items, end):
        end += 1
    return list(items[:end]), _words(items[end:])


def _may_be_unit(items: Sequence[Item], index: int) -> bool:
    item = items[index]
    if isinstance(item, Group):
        before = items[index - 1] if index else None
        return item.open == "{" and before is not None and is_token(before, "^")
    if item.kind in ("word", "unit"):
        return True
    if item.kind == "letter":
        per = (
            index > 1
            and is_token(items[index - 1], "/")
            and kind_of(items[index - 2]) == "word"
        )
        return item.upright or (per and item.text in units.LETTERS)
    if item.kind == "name":
        return item.text.lower() in ("am", "pm", "mph", "kg", "km", "cm", "usd")
    if item.kind == "number":
        return index > 0 and is_token(items[index - 1], "^") and item.text in ("2", "3")
    return item.text in ("^", "/", ".", "*", "-")


def _begins_unit(items: Sequence[Item], index: int) -> bool:
    item = items[index]
    if kind_of(item) == "letter":
        apart = item.spaced or is_token(items[index - 1], r"\degree")
        return index > 0 and item.upright and (apart or item.text in units.LETTERS)
    return kind_of(item) in ("word", "unit") or (kind_of(item) == "name" and index > 0)


def _words(items: Sequence[Item]) -> list[str]:
    words = []
    for item in items:
        words.append(spell([item]).removeprefix("{").removesuffix("}"))
    return words


def _based(items: Sequence[Item]) -> Tree | None:
    """A number in a base, `2516_8`, `(2516)_8` or `-1A_{16}`; None for others."""
    if len(items) < 3 or not is_token(items[-2], "_"):
        return None
    digits = items[:-2]
    minus = is_token(digits[0], "-")
    if minus:
        digits = digits[1:]
    if len(digits) == 1 and isinstance(digits[0], Group) and digits[0].open in "({":
        digits = digits[0].items
    if not digits or any(digit.spaced for digit in digits[1:]):
        return None
    text = "".join(i.text if isinstance(i, Token) else "?" for i in digits)
    base = spell(items[-1:]).strip("{}")
    if not (text.isalnum() and text.upper() == text and base.isdigit()):
        return None
    if not text[0].isdigit() and not any(map(str.isdigit, text)):
        return None  # x_2
    if base == "10":
        return read_expression(items[:-2])
    value: Tree = ("sym", f"{text.lstrip('0') or '0'}_{base}")
    return trees.negative(value) if minus else value


def read_text(items: Sequence[Item]) -> Answer:
    items = [item for item in items if kind_of(item) != "unit"]
    words = spell(items).lower().strip(".! ")
    return REALS if words in _REALS_IN_WORDS else ("text", words)
