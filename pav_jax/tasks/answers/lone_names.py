"""Reads the lone names that may stand before an answer, as in `x = 5`."""

from collections.abc import Sequence

from pav_jax.tasks.answers.expressions import read_expression
from pav_jax.tasks.answers.latex import (
    Group,
    Item,
    Token,
    Unreadable,
    cut,
    is_token,
    kind_of,
    spell,
    split_list,
)


def read_name(items: Sequence[Item]) -> str | None:
    """The normal spelling of a lone name: `x`, `a_1`, `f(x)`, `AB`, `(x,y)`, `|AB|`.

    None if the items are anything else.
    """
    if len(items) == 3 and is_token(items[0], "|") and is_token(items[2], "|"):
        return items[1].text if kind_of(items[1]) == "name" else None
    parts, colons = cut(items, {":"})
    if colons:
        names = [read_name(part) for part in parts]
        return None if None in names else ":".join(names)
    if not items or kind_of(items[0]) == "number":
        return None
    first = items[0]
    if isinstance(first, Group):
        if first.open == "(" and len(items) == 1:
            parts, _ = split_list(first.items)
            names = [read_name(part) for part in parts]
            return None if None in names else f"({','.join(names)})"
        return None
    if all(isinstance(item, Token) and item.kind == "word" for item in items):
        return spell(items).lower()
    rest = list(items[1:])
    if first.kind not in ("letter", "name") or (rest and is_token(rest[0], r"\angle")):
        return _read_compound_name(items)
    while len(rest) > 1 and is_token(rest[0], "_"):
        rest = rest[2:]
    while rest and is_token(rest[0], "'"):
        rest = rest[1:]
    if rest and isinstance(rest[0], Group) and rest[0].open == "(" and len(rest) == 1:
        inside = rest[0].items
        simple = len(inside) == 1 and isinstance(inside[0], Token)
        rest = [] if simple or read_name([rest[0]]) else rest
    return None if rest else spell(items).replace("{", "").replace("}", "")


def _read_compound_name(items: Sequence[Item]) -> str | None:
    r"""\angle A and \theta_1, or a ratio of segments, `\frac{NO}{BO}`."""
    if is_token(items[0], r"\frac") and len(items) == 3:
        parts = [item.items for item in items[1:] if isinstance(item, Group)]
        if len(parts) == 2 and all(
            len(part) == 1 and kind_of(part[0]) == "name" for part in parts
        ):
            return "/".join(part[0].text for part in parts)
        return None
    if len(items) > 2 and is_token(items[0], "m") and is_token(items[1], r"\angle"):
        items = items[1:]
    try:
        tree = read_expression(items)
    except Unreadable:
        return None
    return tree[1] if tree[0] == "sym" else None
