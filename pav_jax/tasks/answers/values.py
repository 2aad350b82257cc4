"""Reads values: expressions with their units, numbers in a base, ratios, and words."""

import math
import re
from collections.abc import Sequence
from fractions import Fraction

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
_SAID = dict.fromkeys(
    ("all real numbers", "all reals", "real numbers", "the real numbers"), REALS
) | {"infinity": INFINITY, "empty set": EMPTY, "the empty set": EMPTY}
_ORDINALS = {"{th}", "{st}", "{nd}", "{rd}"}


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
    number, money = _cut_money(number)
    factor, unit = units.read_phrase(words) or (None, "")
    if factor is None or (money and unit not in ("", money) and not _is_rate(words)):
        raise Unreadable("words that are no unit")
    if money:
        unit = f"{money} {unit}" if _is_rate(words) else money
    tree = trees.mul(trees.num(factor), read_expression(number))
    if any(part == trees.DEGREE for part in trees.flat(tree)):
        tree, unit = trees.replace(tree, trees.DEGREE, trees.ONE), unit or "degree^1"
    return "value", tree, unit


def _cut_money(items: list[Item]) -> tuple[list[Item], str]:
    """The items without a sign such as $ before the number, and its unit or ""."""
    place = 1 if is_token(items[0], "-") else 0
    if len(items) > place + 1 and kind_of(items[place]) == "unit":
        return items[:place] + items[place + 1 :], items[place].text + "^1"
    return items, ""


def _is_rate(words: list[str]) -> bool:
    return words[:1] in (["/"], ["per"])


def _cut_units(items: Sequence[Item]) -> tuple[list[Item], list[str]]:
    """The items before the unit at the end, and the unit's words."""
    end = len(items)
    if end > 2 and is_token(items[-2], "^") and spell(items[-1:]) in _ORDINALS:
        return list(items[:-2]), []  # 5^{\text{th}}
    if end > 3 and _is_bare_rate(items[-4:]):
        return list(items[:-3]), _words(items[-3:])
    while end and _may_be_unit(items, end - 1):
        end -= 1
    # It begins with a word, and not with what may only stand inside of it.
    while end < len(items) and not _begins_unit(items, end):
        end += 1
    return list(items[:end]), _words(items[end:])


def _is_bare_rate(items: Sequence[Item]) -> bool:
    """Whether four items are the end of a number and a rate, as in `5 m/s`."""
    number, unit, per, other = items
    return (
        kind_of(number) == "number"
        and kind_of(unit) == kind_of(other) == "letter"
        and is_token(per, "/")
        and unit.spaced
        and {unit.text, other.text} <= units.LETTERS
    )


def _may_be_unit(items: Sequence[Item], index: int) -> bool:
    item = items[index]
    before = items[index - 1] if index else Token("sign", "")
    if isinstance(item, Group):
        return item.open == "{" and is_token(before, "^")
    if item.kind == "letter":
        # km/h, 25^\circ C
        per = (
            index > 1 and is_token(before, "/") and kind_of(items[index - 2]) == "word"
        )
        return item.upright or per or is_token(before, r"\degree")
    if item.kind == "name":
        return units.is_unit(item.text)
    if item.kind == "number":
        return is_token(before, "^") and item.text in ("2", "3")
    return item.kind in ("word", "unit") or item.text in ("^", "/", ".", "*", "-")


def _begins_unit(items: Sequence[Item], index: int) -> bool:
    item = items[index]
    kind = kind_of(item)
    if kind == "letter":
        if is_token(items[index - 1], r"\degree"):
            return index > 0 and item.text in "CF"
        return index > 0 and item.upright and item.text in units.LETTERS
    if is_token(item, "/") and index + 1 < len(items):
        return kind_of(items[index + 1]) == "word"
    return kind in ("word", "unit") or (kind == "name" and index > 0)


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
    base = str(units.cardinal([base]) or base)
    if not (text.isalnum() and text.upper() == text and base.isdigit()):
        return None
    if not text[0].isdigit() and not any(map(str.isdigit, text)):
        return None  # x_2
    if base == "10":
        return read_expression(items[:-2])
    value: Tree = ("sym", f"{text.lstrip('0') or '0'}_{base}")
    return trees.negative(value) if minus else value


def read_text(items: Sequence[Item]) -> Answer:
    """Words; those that say a number or a set are that."""
    items = [item for item in items if kind_of(item) != "unit"]
    words = spell(items).lower().strip(".! ")
    if words in _SAID:
        return _SAID[words]
    parts = re.findall("[a-z]+", words)
    number = units.cardinal(parts[:1])
    phrase = units.read_phrase(parts[1:]) if number is not None else None
    if phrase is None or " ".join(parts) != words:
        return "text", words
    return "value", trees.num(number * phrase[0]), phrase[1]


def count_decimals(items: Sequence[Item], answer: Answer) -> int:
    """How many decimals a number is written with; 0 if it is no plain decimal."""
    if answer[0] != "value" or answer[1][0] != "num":
        return 0
    for item in items:
        if not isinstance(item, Group) and item.kind == "number":
            whole, _, decimals = item.text.partition(".")
            plain = (whole + decimals).isdecimal() and len(decimals) <= _MOST_DECIMALS
            if plain and abs(answer[1][1]) == Fraction(item.text):  # not 1.5 million
                return len(decimals)
            return 0
    return 0


def round_tree(tree: Tree, decimals: int) -> Tree:
    """A number to so many decimals, halves away from zero."""
    scale = 10**decimals
    if tree[0] == "num":
        size = math.floor(abs(tree[1]) * scale + Fraction(1, 2))
        return trees.num(Fraction(size if tree[1] > 0 else -size, scale))
    shifted = trees.add(trees.mul(trees.num(scale), tree), trees.HALF)
    whole = trees.function("floor", shifted)
    return trees.mul(trees.num(Fraction(1, scale)), whole)


# Nobody rounds to more.
_MOST_DECIMALS = 20
