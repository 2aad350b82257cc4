r"""Reads an answer: its kind, its parts, and which of its words say nothing.

An answer becomes one of these tuples (a part is such a tuple itself):

    ("value", tree, unit)           an expression, and its units of measure or ""
    ("text", words)                 words in lower case
    ("list", part, ...)             in any order: `3, 4`, `3 and 4`, `\{3,4\}`
    ("tuple", open, close, part, ...)   in this order, and so are intervals: `(3,4]`
    ("ratio", part, ...)            `3:4`, `12:30`
    ("union" | "intersection" | "minus", part, ...)
    ("relation", sign, part, ...)   `2x = 5`, `f(1) < f(2)`; signs =, <, \le, \ne
    ("named", name, part)           `x = 5`, `x \in [0,1]`: a lone name on the left
    ("unreadable", spelling)        anything else; equals its own spelling alone

What has several spellings has one reading: `x > 5` is `x \in (5,\infty)`; `x<2` or
`x>3` is a union; `\mathbb{R}` is `(-\infty,\infty)`; `\emptyset` is an empty list;
`1 \pm 2` is `1+2, 1-2`; a list with one part is that part.
"""

import functools
from collections.abc import Sequence

from pav_jax.tasks import trees, units
from pav_jax.tasks.expressions import read_expression
from pav_jax.tasks.latex import Group, Item, Token, Unreadable, read_items, spell
from pav_jax.tasks.trees import Tree

Answer = tuple

_RELATIONS = {"=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx", r"\equiv"}
_FLIPPED = {">": "<", r"\ge": r"\le", "<": ">", r"\le": r"\ge"}
_SETS = {r"\cup": "union", r"\cap": "intersection", r"\setminus": "minus"}
_CONNECTORS = {"and", "or"}
EMPTY: Answer = ("list",)
_MINUS_INFINITY: Answer = ("value", trees.negative(trees.INFINITY), "")
_INFINITY: Answer = ("value", trees.INFINITY, "")
REALS: Answer = ("tuple", "(", ")", _MINUS_INFINITY, _INFINITY)
_REALS_IN_WORDS = {"all real numbers", "all reals", "real numbers", "the real numbers"}


@functools.lru_cache(maxsize=1 << 14)
def read(text: str) -> Answer:
    """Reads an answer.

    Args:
      text: untrusted text of bounded length.

    Returns:
      The answer; ("text", "") if there is nothing in it.

    Raises:
      Unreadable: its brackets do not match, or it has characters that no answer has.
    """
    try:
        return _read_list(_trim(read_items(text.strip())))
    except RecursionError as error:
        raise Unreadable("too deep") from error


def _trim(items: Sequence[Item]) -> Sequence[Item]:
    """Without punctuation at the end, an equals sign before all, and `{...}` around."""
    items = list(items)
    while items and _is(items[-1], ".", ",", ";", ":", r"\\"):
        items.pop()
    while items and _is(items[0], "=", ":", "&", r"\approx"):
        items.pop(0)
    if len(items) == 1 and isinstance(items[0], Group) and items[0].open == "{":
        return _trim(items[0].items)
    return items


def _is(item: Item, *texts: str) -> bool:
    return isinstance(item, Token) and item.kind != "word" and item.text in texts


def _connects(item: Item) -> bool:
    is_word = isinstance(item, Token) and item.kind == "word"
    return is_word and item.text.lower() in _CONNECTORS


def _split(items: Sequence[Item]) -> tuple[list[list[Item]], set[str]]:
    """Cuts at commas, semicolons, "and" and "or"; and which of these there are."""
    parts: list[list[Item]] = [[]]
    found = set()
    after_comma = False
    for item in items:
        if _is(item, ",", ";") or _connects(item):
            found.add(item.text.lower())
            if not (after_comma and _connects(item) and not parts[-1]):
                parts.append([])
            after_comma = not _connects(item)
        else:
            parts[-1].append(item)
    return parts, found


def _read_list(items: Sequence[Item]) -> Answer:
    if not items:
        return "text", ""
    groups, signs = _cut(items, {";"})
    if signs and any(_is(item, ",") for item in items):
        return "list", *map(_read_list, groups)  # p = 5, q = 2; p = 7, q = 2
    parts, found = _split(items)
    if len(parts) == 1:
        return _listed([_read_part(part) for part in _without_signs(items)])
    if not all(parts):
        return "unreadable", spell(items)
    read_parts = [
        _read_part(version) for part in parts for version in _without_signs(part)
    ]
    return _join(read_parts, found)


def _listed(parts: Sequence[Answer]) -> Answer:
    return parts[0] if len(parts) == 1 else ("list", *parts)


def _join(parts: list[Answer], found: set[str]) -> Answer:
    """Parts between commas, "and" and "or", as one answer."""
    names = {part[1] for part in parts if part[0] == "named"}
    if len(names) != 1 or parts[0][0] != "named":
        return "list", *parts
    # n = 2, 3, 4 names them all.
    (name,) = names
    values = [part[2] if part[0] == "named" else part for part in parts]
    if found <= _CONNECTORS and name[0] != "(" and all(map(_is_interval, values)):
        kind = "intersection" if "and" in found else "union"
        return "named", name, (kind, *values)
    return "named", name, ("list", *values)


def _is_interval(answer: Answer) -> bool:
    return answer[0] == "union" or (answer[0] == "tuple" and len(answer) == 5)


def _without_signs(items: Sequence[Item]) -> list[Sequence[Item]]:
    r"""Each `\pm` as two answers; `\mp` has the other sign."""
    in_set = len(items) == 1 and _kind(items[0]) == "group" and items[0].open == "{"
    if in_set or not _has_sign(items):
        return [items]
    return [_with_sign(items, "+", "-"), _with_sign(items, "-", "+")]


def _has_sign(items: Sequence[Item]) -> bool:
    return any(
        item.open != r"\{" and _has_sign(item.items)  # a set has its own versions
        if isinstance(item, Group)
        else _is(item, r"\pm", r"\mp")
        for item in items
    )


def _with_sign(items: Sequence[Item], sign: str, other: str) -> tuple[Item, ...]:
    changed = {r"\pm": sign, r"\mp": other}
    return tuple(
        item._replace(items=_with_sign(item.items, sign, other))
        if isinstance(item, Group)
        else item._replace(kind="sign", text=changed.get(item.text, item.text))
        if item.text in changed
        else item
        for item in items
    )


def _read_part(items: Sequence[Item]) -> Answer:
    """One part of a list: a relation, a set, a tuple, an expression or words."""
    items = _trim(items)
    try:
        sides, signs = _cut(items, _RELATIONS)
        if signs:
            return _relation(sides, signs)
        return read_side(items)
    except Unreadable:
        if any(_kind(item) == "word" for item in items):
            return _text(items)
        return "unreadable", spell(items)


def _cut(items, signs) -> tuple[list[list[Item]], list[str]]:
    parts: list[list[Item]] = [[]]
    found = []
    for item in items:
        if _is(item, *signs):
            found.append(item.text)
            parts.append([])
        else:
            parts[-1].append(item)
    return parts, found


def _relation(sides: list[list[Item]], signs: list[str]) -> Answer:
    if not all(sides):
        raise Unreadable("one side of a relation is missing")
    if signs[-1] == r"\approx":  # the exact value stands before
        if len(signs) > 1:
            return _relation(sides[:-1], signs[:-1])
        if read_name(sides[0]) is None:
            return read_side(sides[0])
        signs = ["="]
    if signs[0] == r"\in":
        signs = ["=", *signs[1:]]
    name = read_name(sides[0])
    if set(signs) == {"="}:
        if name is None and len(sides) == 2 and (name := read_name(sides[1])):
            sides = sides[::-1]
        if name is not None:
            return "named", name, read_side(sides[-1])
    if set(signs) <= {">", r"\ge"}:
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
    parts = [read_side(side) for side in sides]
    if any(sign in (r"\approx", r"\equiv", r"\in") for sign in signs):
        raise Unreadable("relations")
    interval = _interval(sides, parts, signs)
    if interval is not None:
        return interval
    relations = [
        ("relation", sign, left, right)
        for sign, left, right in zip(signs, parts, parts[1:], strict=False)
    ]
    if len(relations) == 1:
        return relations[0]
    return "tuple", "relations", "", *relations


def _interval(sides, parts, signs) -> Answer | None:
    r"""x > 5, 2 < x \le 3 and x \ne 5 as the set of what x may be; None for others."""
    middle = 1 if len(parts) == 3 else 0
    name = read_name(sides[middle])
    if len(parts) == 2 and name is None:
        middle, name = 1, read_name(sides[1])
    bounds = [part for index, part in enumerate(parts) if index != middle]
    if name is None or any(
        bound[0] != "value" or trees.symbols(bound[1]) for bound in bounds
    ):
        return None
    if len(parts) == 3 and set(signs) <= {"<", r"\le"}:
        low, high = bounds
        opening, closing = ("(" if s == "<" else "[" for s in signs)
        return "named", name, ("tuple", opening, _CLOSED[closing], low, high)
    if len(parts) != 2 or signs[0] == "=":
        return None
    (bound,) = bounds
    if signs[0] == r"\ne":
        below = ("tuple", "(", ")", _MINUS_INFINITY, bound)
        above = ("tuple", "(", ")", bound, _INFINITY)
        return "named", name, ("union", below, above)
    sign = signs[0] if middle == 0 else _FLIPPED[signs[0]]
    opening = "(" if sign in "<>" else "["
    if sign in ("<", r"\le"):
        value = ("tuple", "(", _CLOSED[opening], _MINUS_INFINITY, bound)
    else:
        value = ("tuple", opening, ")", bound, _INFINITY)
    return "named", name, value


_CLOSED = {"(": ")", "[": "]"}


def read_name(items: Sequence[Item]) -> str | None:
    """The normal spelling of a lone name: `x`, `a_1`, `f(x)`, `AB`, `(x,y)`, `|AB|`.

    None if the items are anything else.
    """
    if len(items) == 3 and _is(items[0], "|") and _is(items[2], "|"):
        return items[1].text if _kind(items[1]) == "name" else None
    parts, colons = _cut(items, {":"})
    if colons:
        names = [read_name(part) for part in parts]
        return None if None in names else ":".join(names)
    if not items or _kind(items[0]) == "number":
        return None
    first = items[0]
    if isinstance(first, Group):
        if first.open == "(" and len(items) == 1:
            parts, _ = _split(first.items)
            names = [read_name(part) for part in parts]
            return None if None in names else f"({','.join(names)})"
        return None
    if all(isinstance(item, Token) and item.kind == "word" for item in items):
        return spell(items).lower()
    rest = list(items[1:])
    if first.kind not in ("letter", "name") or (rest and _is(rest[0], r"\angle")):
        return _read_compound_name(items)
    while len(rest) > 1 and _is(rest[0], "_"):
        rest = rest[2:]
    while rest and _is(rest[0], "'"):
        rest = rest[1:]
    if rest and isinstance(rest[0], Group) and rest[0].open == "(" and len(rest) == 1:
        inside = rest[0].items
        simple = len(inside) == 1 and isinstance(inside[0], Token)
        rest = [] if simple or read_name([rest[0]]) else rest
    return None if rest else spell(items).replace("{", "").replace("}", "")


def _read_compound_name(items: Sequence[Item]) -> str | None:
    r"""\angle A and \theta_1, or a ratio of segments, `\frac{NO}{BO}`."""
    if _is(items[0], r"\frac") and len(items) == 3:
        parts = [item.items for item in items[1:] if isinstance(item, Group)]
        if len(parts) == 2 and all(
            len(part) == 1 and _kind(part[0]) == "name" for part in parts
        ):
            return "/".join(part[0].text for part in parts)
        return None
    if len(items) > 2 and _is(items[0], "m") and _is(items[1], r"\angle"):
        items = items[1:]
    try:
        tree = read_expression(items)
    except Unreadable:
        return None
    return tree[1] if tree[0] == "sym" else None


def read_side(items: Sequence[Item]) -> Answer:
    """An answer without relations; raises Unreadable."""
    parts, signs = _cut(items, set(_SETS))
    if signs:
        if len(set(signs)) > 1 or not all(parts):
            raise Unreadable("sets")
        return _SETS[signs[0]], *(read_side(part) for part in parts)
    parts, colons = _cut(items, {":"})
    if colons and all(parts):
        return _ratio(parts)
    if len(items) == 1:
        (item,) = items
        if _is(item, r"\R"):
            return REALS
        if _is(item, r"\emptyset"):
            return EMPTY
        if isinstance(item, Group):
            return _bracketed(item)
    return _value(items)


def _ratio(parts: list[list[Item]]) -> Answer:
    """3:4, or a time of day, whose unit is "am" or "pm"."""
    answers = [_value(part) for part in parts]
    if any(answer[0] != "value" for answer in answers) or any(
        unit for _, _, unit in answers[:-1]
    ):
        raise Unreadable("units or words in a ratio")
    return "ratio", *answers


def _bracketed(group: Group) -> Answer:
    if group.open == "{":
        return _read_list(_trim(group.items))
    if group.open == r"\{":
        inside = _trim(group.items)
        if not inside:
            return EMPTY
        if len(inside) > 2 and _is(inside[1], ":", "|") and read_name(inside[:1]):
            inside = inside[2:]  # \\{x : x > 5\\}
        found = _read_list(inside)
        return found if found[0] != "unreadable" else ("list", found)
    if group.open in ("(", "[", r"\langle"):
        parts, found = _split(group.items)
        if len(parts) > 1 and not found & _CONNECTORS:
            if not all(parts):
                raise Unreadable("an empty place")
            versions = [_read_part(part) for part in parts]
            return "tuple", group.open, group.close, *versions
        if len(parts) == 1 and len(parts[0]) == 1 and isinstance(parts[0][0], Group):
            if parts[0][0].open in ("(", "[", r"\{", "{") and group.open == "(":
                return _bracketed(parts[0][0])
        words = all(isinstance(i, Token) and i.kind == "word" for i in group.items)
        if words and group.items:
            return _text(group.items)
    return _value([group])


def _value(items: Sequence[Item]) -> Answer:
    """An expression with or without units, or a number in a base."""
    based = _based(items)
    if based is not None:
        return "value", based, ""
    number, words = _cut_units(items)
    if not number:
        return _text(items)
    unit, factor = "", trees.ONE
    if isinstance(number[0], Token) and number[0].kind == "unit":
        unit, number = number[0].text, number[1:]
    elif len(number) > 1 and _is(number[0], "-") and _kind(number[1]) == "unit":
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


def _kind(item: Item) -> str:
    return item.kind if isinstance(item, Token) else "group"


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
        return item.open == "{" and before is not None and _is(before, "^")
    if item.kind in ("word", "unit"):
        return True
    if item.kind == "letter":
        per = (
            index > 1
            and _is(items[index - 1], "/")
            and _kind(items[index - 2]) == "word"
        )
        return item.upright or (per and item.text in units.LETTERS)
    if item.kind == "name":
        return item.text.lower() in ("am", "pm", "mph", "kg", "km", "cm", "usd")
    if item.kind == "number":
        return index > 0 and _is(items[index - 1], "^") and item.text in ("2", "3")
    return item.text in ("^", "/", ".", "*", "-")


def _begins_unit(items: Sequence[Item], index: int) -> bool:
    item = items[index]
    if _kind(item) == "letter":
        apart = item.spaced or _is(items[index - 1], r"\degree")
        return index > 0 and item.upright and (apart or item.text in units.LETTERS)
    return _kind(item) in ("word", "unit") or (_kind(item) == "name" and index > 0)


def _words(items: Sequence[Item]) -> list[str]:
    words = []
    for item in items:
        words.append(spell([item]).removeprefix("{").removesuffix("}"))
    return words


def _based(items: Sequence[Item]) -> Tree | None:
    """A number in a base, `2516_8`, `(2516)_8` or `-1A_{16}`; None for others."""
    if len(items) < 3 or not _is(items[-2], "_"):
        return None
    digits = items[:-2]
    minus = _is(digits[0], "-")
    if minus:
        digits = digits[1:]
    if len(digits) == 1 and isinstance(digits[0], Group) and digits[0].open == "(":
        digits = digits[0].items
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


def _text(items: Sequence[Item]) -> Answer:
    items = [item for item in items if _kind(item) != "unit"]
    words = spell(items).lower().strip(".! ")
    return REALS if words in _REALS_IN_WORDS else ("text", words)


def show(answer: Answer) -> str:
    """An answer as a short text, without units and names; for voting."""
    kind, *parts = answer
    if kind == "value":
        return trees.show(parts[0])
    if kind == "named":
        return show(parts[1])
    if kind in ("text", "unreadable"):
        return parts[0]
    shown = [part if isinstance(part, str) else show(part) for part in parts]
    if kind == "tuple":
        return f"{shown[0]}{','.join(shown[2:])}{shown[1]}"
    if kind == "relation":
        return f"{shown[1]} {shown[0]} {shown[2]}"
    if kind == "list":
        return f"{{{','.join(sorted(shown))}}}"
    return {"ratio": ":", "union": " or "}.get(kind, f" {kind} ").join(shown)
