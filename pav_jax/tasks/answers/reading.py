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
    ("chain", part, ...)            all numbers of `x = \sqrt4 = 2`, after its name
    ("unreadable", spelling)        anything else; equals its own spelling alone

What has several spellings has one reading: `x > 5` is `x \in (5,\infty)`; `x<2` or
`x>3` is a union; `\mathbb{R}` is `(-\infty,\infty)`; `\emptyset` is an empty list;
`1 \pm 2` is `1+2, 1-2`; a list with one part is that part.
"""

import functools
from collections.abc import Sequence

from pav_jax.tasks.answers import trees
from pav_jax.tasks.answers.latex import (
    CONNECTORS,
    Group,
    Item,
    Token,
    Unreadable,
    cut,
    is_token,
    kind_of,
    read_items,
    spell,
    split_list,
)
from pav_jax.tasks.answers.lone_names import read_name
from pav_jax.tasks.answers.values import (
    EMPTY,
    INFINITY,
    MINUS_INFINITY,
    REALS,
    Answer,
    count_decimals,
    read_ratio,
    read_text,
    read_value,
    round_tree,
)

_RELATIONS = {"=", "<", ">", r"\le", r"\ge", r"\ne", r"\in", r"\approx", r"\equiv"}
_FLIPPED = {">": "<", r"\ge": r"\le", "<": ">", r"\le": r"\ge"}
_SETS = {r"\cup": "union", r"\cap": "intersection", r"\setminus": "minus"}


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
    while items and is_token(items[-1], ".", ",", ";", ":", r"\\"):
        items.pop()
    while items and is_token(items[0], "=", ":", "&", r"\approx"):
        items.pop(0)
    if len(items) == 1 and isinstance(items[0], Group) and items[0].open == "{":
        return _trim(items[0].items)
    return items


def _read_list(items: Sequence[Item]) -> Answer:
    if not items:
        return "text", ""
    groups, signs = cut(items, {";"})
    if signs and any(is_token(item, ",") for item in items):
        return "list", *map(_read_list, groups)  # p = 5, q = 2; p = 7, q = 2
    parts, found = split_list(items)
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
    if name.startswith("choice ") and set().union(*map(_letters, parts)) > {name[-1]}:
        return "list", *parts
    values = [part[2] if part[0] == "named" else part for part in parts]
    if found <= CONNECTORS and name[0] != "(" and all(map(_is_interval, values)):
        kind = "intersection" if "and" in found else "union"
        return "named", name, (kind, *values)
    return "named", name, ("list", *values)


def _is_interval(answer: Answer) -> bool:
    return answer[0] == "union" or (answer[0] == "tuple" and len(answer) == 5)


def _without_signs(items: Sequence[Item]) -> list[Sequence[Item]]:
    r"""Each `\pm` as two answers; `\mp` has the other sign."""
    in_set = len(items) == 1 and kind_of(items[0]) == "group" and items[0].open == "{"
    if in_set or not _has_sign(items):
        return [items]
    return [_with_sign(items, "+", "-"), _with_sign(items, "-", "+")]


def _has_sign(items: Sequence[Item]) -> bool:
    return any(
        item.open != r"\{" and _has_sign(item.items)  # a set has its own versions
        if isinstance(item, Group)
        else is_token(item, r"\pm", r"\mp")
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
    if len(items) > 1 and _is_choice(items[0]):
        letter, value = items[0].items[0].text, _read_part(items[1:])
        if _letters(value) - {letter}:
            raise Unreadable("two choices")
        return "named", f"choice {letter}", value
    try:
        sides, signs = cut(items, _RELATIONS)
        if signs:
            return _relation(sides, signs)
        return read_side(items)
    except Unreadable:
        if any(kind_of(item) == "word" for item in items):
            return read_text(items)
        return "unreadable", spell(items)


def _is_choice(item: Item) -> bool:
    r"""Whether an item is a letter such as \text{(C)}, before the value of a choice."""
    if not isinstance(item, Group) or len(item.items) != 1 or item.open != "(":
        return False
    (letter,) = item.items
    return kind_of(letter) == "letter" and letter.upright and letter.text.isupper()


def read_letter(answer: Answer) -> str:
    """The capital letter that an answer is, and that may be a choice; "" for others."""
    if answer[0] != "value" or answer[1][0] != "sym":
        return ""
    name = answer[1][1]
    return name if len(name) == 1 and name.isupper() else ""


def _letters(answer: Answer) -> set[str]:
    """The letters of choices that an answer or its parts are."""
    if answer[0] == "named" and answer[1].startswith("choice "):
        return {answer[1].removeprefix("choice ")} | _letters(answer[2])
    if letter := read_letter(answer):
        return {letter}
    parts = [part for part in answer[1:] if isinstance(part, tuple)]
    return set().union(*map(_letters, parts)) if answer[0] != "value" else set()


def _relation(sides: list[list[Item]], signs: list[str]) -> Answer:
    if not all(sides):
        raise Unreadable("one side of a relation is missing")
    if signs[-1] == r"\approx":  # the exact value stands before
        if len(signs) > 1:
            return _relation(sides[:-1], signs[:-1])
        if read_name(sides[0]) is None:
            return read_side(sides[0])
        signs = ["="]
    if r"\in" in signs:
        return _element(sides)
    name = read_name(sides[0])
    if set(signs) == {"="}:
        if name is None and len(sides) == 2 and (name := read_name(sides[1])):
            sides = sides[::-1]
        name = name or read_name(sides[-2])  # 2 + 3 = x = 5
        if name is not None:
            return "named", name, _chain(sides)
    if set(signs) <= {">", r"\ge"}:
        sides, signs = sides[::-1], [_FLIPPED[sign] for sign in signs[::-1]]
    parts = [read_side(side) for side in sides]
    if set(signs) == {"="} and len(set(parts)) == 1:
        return parts[0]  # 3/4 = 0.75
    if any(sign in (r"\approx", r"\equiv") for sign in signs):
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


def _element(sides: list[list[Item]]) -> Answer:
    r"""x \in [0,1]; nothing is in a number, and no number is a name."""
    name = read_name(sides[0])
    found = read_side(sides[-1])
    in_braces = isinstance(sides[-1][0], Group) and sides[-1][0].open == r"\{"
    if len(sides) > 2 or name is None or (found[0] == "value" and not in_braces):
        raise Unreadable("elements")
    return "named", name, found


def _chain(sides: list[list[Item]]) -> Answer:
    """The last side of x = 3+2 = 5, with the other numbers if they are spelt otherwise.

    Formulas and words between are not compared, nor numbers in another unit. The others
    may be rounded to the decimals of the last side: x = 1/3 = 0.33.
    """
    last = read_side(sides[-1])
    decimals = count_decimals(_trim(sides[-1]), last)
    parts = [last]
    for side in sides[:-1]:
        try:
            part = read_side(side)
        except Unreadable:
            continue
        if part == last or trees.symbols(part) or part[0] != last[0]:
            continue
        if part[0] in ("tuple", "list"):
            parts.insert(0, part)
        elif part[0] == "value" and part[1] != last[1]:
            unlike = last[2] in _CHANGE_NUMBERS if not part[2] else part[2] != last[2]
            if decimals:
                part = "value", round_tree(part[1], decimals), part[2]
            parts[:0] = [] if unlike or part[1] == last[1] else [part]
    return last if len(parts) == 1 else ("chain", *parts)


# What is 0.5 is 50 of these, and pi/3 may be 60.
_CHANGE_NUMBERS = ("percent^1", "degree^1")


def _interval(sides, parts, signs) -> Answer | None:
    r"""x > 5, 2 < x \le 3 and x \ne 5 as the set of what x may be; None for others."""
    middle = 1 if len(parts) == 3 else 0
    name = read_name(sides[middle])
    if len(parts) == 2 and name is None:
        middle, name = 1, read_name(sides[1])
    bounds = [part for index, part in enumerate(parts) if index != middle]
    if name is None or any(bound[0] != "value" for bound in bounds):
        return None
    unknown = set().union(*(trees.symbols(bound[1]) for bound in bounds))
    if unknown and (len(parts) == 2 or name[0] in unknown):
        return None  # x > a could be an interval for a
    if len(parts) == 3 and set(signs) <= {"<", r"\le"}:
        low, high = bounds
        opening, closing = ("(" if s == "<" else "[" for s in signs)
        return "named", name, ("tuple", opening, _CLOSED[closing], low, high)
    if len(parts) != 2 or signs[0] == "=":
        return None
    (bound,) = bounds
    if signs[0] == r"\ne":
        below = ("tuple", "(", ")", MINUS_INFINITY, bound)
        above = ("tuple", "(", ")", bound, INFINITY)
        return "named", name, ("union", below, above)
    sign = signs[0] if middle == 0 else _FLIPPED[signs[0]]
    opening = "(" if sign in "<>" else "["
    if sign in ("<", r"\le"):
        value = ("tuple", "(", _CLOSED[opening], MINUS_INFINITY, bound)
    else:
        value = ("tuple", opening, ")", bound, INFINITY)
    return "named", name, value


_CLOSED = {"(": ")", "[": "]"}


def read_side(items: Sequence[Item]) -> Answer:
    """An answer without relations; raises Unreadable."""
    parts, signs = cut(items, set(_SETS))
    if signs:
        if len(set(signs)) > 1 or not all(parts):
            raise Unreadable("sets")
        return _SETS[signs[0]], *(read_side(part) for part in parts)
    if len(items) == 3 and is_token(items[0], r"\R") and is_token(items[1], "-"):
        return "minus", REALS, read_side(items[2:])
    parts, colons = cut(items, {":"})
    if colons and all(parts):
        return read_ratio(parts)
    if len(items) == 1:
        (item,) = items
        if is_token(item, r"\R"):
            return REALS
        if is_token(item, r"\emptyset"):
            return EMPTY
        if isinstance(item, Group):
            return _bracketed(item)
    return read_value(items)


def _bracketed(group: Group) -> Answer:
    if group.open == "{":
        return _read_list(_trim(group.items))
    if group.open == r"\{":
        inside = _trim(group.items)
        if not inside:
            return EMPTY
        (builds, *rest), bars = cut(inside, {":", "|"})
        named = len(bars) == 1 and builds and read_name(builds[:1])
        if named and (len(builds) == 1 or is_token(builds[-1], r"\R")):
            inside = rest[0]  # \{x : x > 5\}
        found = _read_list(inside)
        return found if found[0] != "unreadable" else ("list", found)
    if group.open in ("(", "[", r"\langle"):
        parts, found = split_list(group.items)
        if len(parts) > 1 and not found & CONNECTORS:
            if not all(parts):
                raise Unreadable("an empty place")
            versions = [_read_part(part) for part in parts]
            return "tuple", group.open, group.close, *versions
        inner = group.items[0] if len(group.items) == 1 else None
        if isinstance(inner, Group) and inner.open in ("(", "[", r"\{", "{"):
            return _bracketed(inner)
        words = all(isinstance(i, Token) and i.kind == "word" for i in group.items)
        if words and group.items:
            return read_text(group.items)
    return read_value([group])


def show(answer: Answer) -> str:
    """An answer as a short text, without units and names; for voting."""
    kind, *parts = answer
    if kind == "value":
        return trees.show(parts[0])
    if kind in ("named", "chain"):
        return show(parts[-1])
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
