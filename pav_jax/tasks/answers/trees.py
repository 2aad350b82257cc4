r"""Expressions as trees, put together so that equal ones are often the same tree.

A tree is a tuple whose first entry says what it is:

    ("num", Fraction)           an exact rational number
    ("sym", name)               a variable, or a named thing such as a segment `AB`
    ("const", name)             "pi", "e", "i", "oo" (infinity), "degree"
    ("add", tree, ...)          a sum, in one order
    ("mul", tree, ...)          a product, in one order unless there are matrices in it
    ("pow", base, exponent)
    ("fun", name, tree, ...)    a function of trees
    ("call", name, tree, ...)   a value of a function that is not known, such as f(2)
    ("matrix", row, ...)        each row a tuple of trees
    ("sum" or "prod", variable, first, last, body)

Sums and products of rational numbers are worked out, exactly. Numbers of more than
`MAX_BITS` bits are left to `symbolic`, which can be stopped.
"""

import math
from fractions import Fraction

Tree = tuple

MAX_BITS = 4096
ZERO: Tree = ("num", Fraction(0))
ONE: Tree = ("num", Fraction(1))
MINUS_ONE: Tree = ("num", Fraction(-1))
HALF: Tree = ("num", Fraction(1, 2))
PI: Tree = ("const", "pi")
DEGREE: Tree = ("const", "degree")
INFINITY: Tree = ("const", "oo")
_ANGLES = {"sin", "cos", "tan", "cot", "sec", "csc"}


def num(value: Fraction | int | str) -> Tree:
    """A rational number."""
    return "num", Fraction(value)


def _small(value: Fraction) -> bool:
    return value.numerator.bit_length() + value.denominator.bit_length() <= MAX_BITS


def add(*terms: Tree) -> Tree:
    """The sum; numbers are added up."""
    total, rest = Fraction(0), []
    for term in terms:
        for part in term[1:] if term[0] == "add" else (term,):
            if part[0] == "num" and _small(total + part[1]):
                total += part[1]
            else:
                rest.append(part)
    if total or not rest:
        rest.append(("num", total))
    if len(rest) == 1:
        return rest[0]
    return "add", *sorted(rest, key=repr)


def mul(*factors: Tree) -> Tree:
    """The product; numbers are multiplied, and factors sorted if none is a matrix."""
    total, rest = Fraction(1), []
    for factor in factors:
        for part in factor[1:] if factor[0] == "mul" else (factor,):
            if part[0] == "num" and _small(total * part[1]):
                total *= part[1]
            else:
                rest.append(part)
    matrices = any(map(has_matrix, rest))
    if not matrices:
        rest.sort(key=repr)
    if not total and not matrices and not any(INFINITY in flat(tree) for tree in rest):
        return ZERO
    if total != 1 or not rest:
        rest.insert(0, ("num", total))
    return rest[0] if len(rest) == 1 else ("mul", *rest)


def flat(tree: Tree):
    """All trees within a tree, itself included."""
    yield tree
    for part in tree:
        if isinstance(part, tuple):
            yield from flat(part)


def has_matrix(tree: Tree) -> bool:
    """Whether there is a matrix in a tree."""
    return any(part[0] == "matrix" for part in flat(tree))


def negative(tree: Tree) -> Tree:
    """-tree."""
    return mul(MINUS_ONE, tree)


def power(base: Tree, exponent: Tree) -> Tree:
    """base^exponent; a number where both are, and it is rational and not large.

    Raises:
      ZeroDivisionError: 0 to a negative power.
    """
    if exponent == ONE:
        return base
    if base[0] == exponent[0] == "num":
        if base == ZERO and exponent[1] < 0:
            raise ZeroDivisionError
        bits = max(base[1].numerator.bit_length(), base[1].denominator.bit_length())
        if exponent[1].denominator == 1 and bits * abs(exponent[1]) <= MAX_BITS // 2:
            return num(base[1] ** exponent[1].numerator)
        if exponent[1] == Fraction(1, 2) and base[1] >= 0 and _small(base[1]):
            root = Fraction(
                math.isqrt(base[1].numerator), math.isqrt(base[1].denominator)
            )
            if root**2 == base[1]:
                return num(root)
    return "pow", base, exponent


def divide(top: Tree, bottom: Tree) -> Tree:
    """top / bottom; raises ZeroDivisionError if bottom is 0."""
    return mul(top, power(bottom, MINUS_ONE))


def function(name: str, *arguments: Tree) -> Tree:
    """A function; factorials and binomials of small numbers are worked out."""
    if name in _ANGLES:
        arguments = tuple(_in_radians(tree) for tree in arguments)
    whole = [
        int(tree[1])
        for tree in arguments
        if tree[0] == "num" and tree[1].denominator == 1 and 0 <= tree[1] <= 300
    ]
    if len(whole) == len(arguments):
        if name == "factorial":
            return num(math.factorial(whole[0]))
        if name == "binomial":
            return num(math.comb(*whole))
    if name == "abs" and arguments[0][0] == "num":
        return num(abs(arguments[0][1]))
    return "fun", name, *arguments


def apply(name: str, base: Tree | None, arguments: list[Tree]) -> Tree:
    r"""A function by its LaTeX name, with a base if it is a logarithm.

    Raises:
      ValueError: the function takes no such arguments.
    """
    if len(arguments) > 1:
        if name not in ("gcd", "lcm", "max", "min") or base is not None:
            raise ValueError(f"arguments of {name}")
        return function(name, *sorted(arguments, key=repr))
    (argument,) = arguments
    if name in ("log", "lg", "ln"):
        if base is None:
            base = ("const", "e") if name == "ln" else num(10)
        if base == ("const", "e"):
            return function("log", argument)
        return function("log", argument, base)
    if base is not None:
        raise ValueError(f"a subscript of {name}")
    if name == "exp":
        return power(("const", "e"), argument)
    return function(name, argument)


def _in_radians(tree: Tree) -> Tree:
    """The tree with every degree as pi / 180."""
    return replace(tree, DEGREE, divide(PI, num(180)))


def replace(tree: Tree, old: Tree, new: Tree) -> Tree:
    """The tree with `new` wherever `old` stands."""
    if tree == old:
        return new
    if tree[0] == "add":
        return add(*(replace(part, old, new) for part in tree[1:]))
    if tree[0] == "mul":
        return mul(*(replace(part, old, new) for part in tree[1:]))
    if tree[0] == "pow":
        return power(*(replace(part, old, new) for part in tree[1:]))
    if tree[0] == "fun":
        return function(tree[1], *(replace(part, old, new) for part in tree[2:]))
    return tree


def symbols(tree: Tree) -> set[str]:
    """The names of the variables and of the unknown functions in a tree."""
    return {part[1] for part in flat(tree) if part[0] in ("sym", "call")}


def show(tree: Tree) -> str:
    """A tree as a short text; different trees have different texts."""
    kind, *parts = tree
    if kind in ("num", "sym", "const"):
        return str(parts[0])
    if kind == "pow":
        return f"({show(parts[0])})^({show(parts[1])})"
    if kind in ("add", "mul"):
        return "(" + {"add": " + ", "mul": " "}[kind].join(map(show, parts)) + ")"
    if kind in ("fun", "call"):
        return f"{parts[0]}({', '.join(map(show, parts[1:]))})"
    if kind == "matrix":
        return "[" + "; ".join(", ".join(map(show, row)) for row in parts) + "]"
    return f"{kind}({', '.join([str(parts[0]), *map(show, parts[1:])])})"
