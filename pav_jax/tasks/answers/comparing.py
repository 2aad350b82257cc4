r"""Which answers are equal: part by part, and values by exact arithmetic or algebra.

- A value equals a value that is always the same number: `2\sqrt3` and `\sqrt{12}`. No
  rounding: `0.333` is not `\frac13`. What sums and products of rational numbers do not
  settle is asked of `algebra`.
- Units of measure may be left out; two that are written must be the same (`units`).
- A list equals a list with equal parts in any order, each as often. Tuples and ratios
  are in order, and their brackets must be the same.
- All numbers of a chain count: `x = 4 = 5` equals nothing. Its end may be rounded:
  `x = \frac13 = 0.33` is `0.33`.
- A choice equals its letter, and its value: `\text{(C)} 5` is `C` and `5`.
- A name may be left out: `x = 5` equals `5`, but not `y = 5`; `a = 1, b = 2` equals
  `1, 2` in this order. Relations are equal if one is a multiple of the other.
- Sets of real numbers are equal if they have the same elements, however they are
  written: `[0,1] \cup [1,2]` is `[0,2]`.
- Words equal the same words, in any case.
"""

import functools
from collections.abc import Callable, Sequence

from pav_jax.tasks import algebra
from pav_jax.tasks.algebra import Verdict
from pav_jax.tasks.answers import trees, units
from pav_jax.tasks.answers.reading import Answer, read_letter

# Lists and matrices of more parts are not compared.
MAX_PARTS = 50

_SETS = ("union", "intersection", "minus")


@functools.lru_cache(maxsize=1 << 16)
def compare(gold: Answer, answer: Answer) -> Verdict:
    """Compares two answers that `reading.read` has read."""
    if gold == answer:
        return Verdict.EQUAL
    kinds = gold[0], answer[0]
    if answer[0] == "unreadable":
        return Verdict.UNPARSED
    if "text" in kinds or gold[0] == "unreadable":
        return Verdict.DIFFERENT
    if gold[0] == "chain":
        return compare(gold[-1], answer)
    if answer[0] == "chain":
        return _all(compare, [gold] * len(answer[1:]), answer[1:])
    if "named" in kinds:
        return _compare_named(gold, answer)
    if kinds == ("value", "value"):
        return _compare_values(gold, answer)
    if kinds == ("list", "list"):
        return _compare_lists(gold[1:], answer[1:])
    if set(kinds) == {"list", "tuple"}:
        return _compare_coordinates(gold, answer)
    if kinds[0] == kinds[1] and kinds[0] in ("tuple", "ratio"):
        verdict = _compare_tuples(gold, answer)
        if verdict is not Verdict.DIFFERENT or kinds[0] == "ratio":
            return verdict
    if gold[0] == "union" and answer[0] in ("union", "list"):
        verdict = _compare_lists(gold[1:], answer[1:])
        if verdict is not Verdict.DIFFERENT:
            return verdict
    if _are_sets(gold, answer) or _are_relations(gold, answer):
        return algebra.workers().compare(gold, answer)
    return Verdict.DIFFERENT


def _are_sets(gold: Answer, answer: Answer) -> bool:
    """Whether it takes algebra to compare two sets, one of which is put together."""
    kinds = {gold[0], answer[0]}
    if not kinds & set(_SETS) or kinds == {"union", "value"}:
        return False
    return _is_set(gold) and _is_set(answer)


def _is_set(answer: Answer) -> bool:
    if answer[0] in _SETS:
        return all(map(_is_set, answer[1:]))
    if answer[:2] == ("tuple", "relations"):
        return all(part[2][0] == part[3][0] == "value" for part in answer[3:])
    if answer[0] == "tuple":
        return len(answer) == 5 and all(part[0] == "value" for part in answer[3:])
    if answer[0] == "list":
        return all(part[0] == "value" for part in answer[1:])
    return answer[0] == "value" or (
        answer[0] == "relation" and answer[2][0] == answer[3][0] == "value"
    )


def _are_relations(gold: Answer, answer: Answer) -> bool:
    kinds = {gold[0], answer[0]}
    return "relation" in kinds and kinds <= {"relation", "tuple", *_SETS}


def _compare_named(gold: Answer, answer: Answer) -> Verdict:
    """Compares where one side or both have the name of a variable before them."""
    names = [side[1] if side[0] == "named" else "" for side in (gold, answer)]
    values = [side[2] if side[0] == "named" else side for side in (gold, answer)]
    for index, other in ((0, answer), (1, gold)):
        if names[index].startswith("(") and other[0] == "list":
            values[1 - index] = _in_order(names[index], other)
            return compare(*values)
    if names[0] == names[1]:
        return compare(*values)
    for name, value in zip(names, values[::-1], strict=True):
        if name.startswith("choice ") and (letter := read_letter(value)):
            # \\text{(C)} 5 is C by its letter, and 5 by its value alone.
            return Verdict.EQUAL if name == f"choice {letter}" else Verdict.DIFFERENT
    if "" not in names:
        return _compare_as_equations(gold, answer)
    (name,) = filter(None, names)
    other = answer if names[0] else gold
    if other[:2] == ("relation", "="):
        return _compare_as_equations(gold, answer)
    if _says_relation(other) and trees.symbols(other) != {name}:
        return Verdict.DIFFERENT
    return compare(*values)


def _in_order(name: str, parts: Answer) -> Answer:
    """y = 3, x = 2 as the tuple (2,3) that has the name (x,y); else as it is."""
    given = {part[1]: part[2] for part in parts[1:] if part[0] == "named"}
    order = name.strip("()").split(",")
    if len(order) == len(parts) - 1 and set(order) == set(given):
        return "tuple", "(", ")", *(given[each] for each in order)
    return parts


def _compare_as_equations(gold: Answer, answer: Answer) -> Verdict:
    """y = 2x and 2x - y = 0; equal where one is a multiple of the other."""
    equations = []
    for side in (gold, answer):
        if side[0] == "named":
            # x = 5 is an answer, and 2x = 10 is none.
            is_number = side[2][0] != "value" or not trees.symbols(side[2])
            if is_number or not side[1].isalnum():
                return Verdict.DIFFERENT
            side = ("relation", "=", ("value", ("sym", side[1]), ""), side[2])
        equations.append(side)
    if not trees.symbols(equations[0]) & trees.symbols(equations[1]):
        return Verdict.DIFFERENT
    return algebra.workers().compare(*equations)


def _says_relation(answer: Answer) -> bool:
    return answer[0] == "relation" or answer[:2] == ("tuple", "relations")


def _compare_values(gold: Answer, answer: Answer) -> Verdict:
    (_, tree, unit), (_, other, other_unit) = gold, answer
    if units.differ(unit, other_unit):
        return Verdict.DIFFERENT
    return compare_trees(tree, other)


def compare_trees(tree: trees.Tree, other: trees.Tree) -> Verdict:
    """Compares expressions."""
    if tree == other:
        return Verdict.EQUAL
    kinds = tree[0], other[0]
    if kinds == ("num", "num"):
        return Verdict.DIFFERENT
    if kinds == ("matrix", "matrix"):
        if [len(tree), len(tree[1])] != [len(other), len(other[1])]:
            return Verdict.DIFFERENT
        cells = [[cell for row in side[1:] for cell in row] for side in (tree, other)]
        if len(cells[0]) > MAX_PARTS:
            return Verdict.UNPARSED
        return _all(compare_trees, *cells)
    if set(kinds) <= {"sym", "num"}:
        return Verdict.DIFFERENT
    # Something that has a variable may still be the same number: x - x + 5.
    if kinds[0] == "sym" and not trees.symbols(other):
        return Verdict.DIFFERENT
    return algebra.workers().compare(("value", tree, ""), ("value", other, ""))


def _compare_tuples(gold: Answer, answer: Answer) -> Verdict:
    if gold[0] == "ratio":
        parts, others = gold[1:], answer[1:]
    else:
        if gold[1:3] != answer[1:3]:
            return Verdict.DIFFERENT
        parts, others = gold[3:], answer[3:]
    if len(parts) != len(others):
        return Verdict.DIFFERENT
    if len(parts) > MAX_PARTS:
        return Verdict.UNPARSED
    return _all(compare, parts, others)


def _compare_coordinates(gold: Answer, answer: Answer) -> Verdict:
    """x = 2, y = 3 and (2,3)."""
    parts = gold[1:] if gold[0] == "list" else answer[1:]
    others = answer if gold[0] == "list" else gold
    names = {part[1] for part in parts if part[0] == "named"}
    if others[1:3] != ("(", ")") or not len(names) == len(parts) == len(others) - 3:
        return Verdict.DIFFERENT
    if gold[0] == "list":
        return _all(compare, parts, others[3:])
    return _all(compare, others[3:], parts)


def _all(
    compare: Callable[[tuple, tuple], Verdict],
    parts: Sequence[tuple],
    others: Sequence[tuple],
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


def _compare_lists(parts: Sequence[Answer], others: Sequence[Answer]) -> Verdict:
    """Compares in any order; where one side alone has different names, in order."""
    if len(parts) != len(others):
        return Verdict.DIFFERENT
    if len(parts) > MAX_PARTS:
        return Verdict.UNPARSED
    named = [
        {part[1] for part in side if part[0] == "named"} for side in (parts, others)
    ]
    if (len(named[0]) > 1) != (len(named[1]) > 1):
        return _all(compare, parts, others)
    left, unsure = list(others), Verdict.DIFFERENT
    for part in sorted(parts, key=left.count, reverse=True):  # the same spelling first
        for other in sorted(left, key=part.__ne__):
            verdict = compare(part, other)
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
