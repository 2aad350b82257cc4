r"""Decides by algebra whether two answers are equal; runs in `algebra_worker` alone.

Numbers are equal if their difference is 0: exactly if it is rational, and else to 1000
certain digits of each (`enclosures`). So `\frac{1}{2004!}` is not its negative, and
`1-\frac{1}{2010!}` is not `1-\frac{1}{2011!}`. Where terms cancel to more digits than
are worked out, as in `\cosh(5000)-\sinh(5000)`, the number equals nothing, unless
algebra shows it.

Expressions with variables are equal if they have equal values at random points: where
both are real, or, if they have i in them or are real nowhere, where they have values.
What is counted (`n!`) or divided (`\gcd`) is tried at whole numbers. Some points are
far away, as `|x-10|` is `10-x` near by. At rational points rational functions
are compared exactly, so that a difference cannot be too small to be seen.

SymPy gets objects that are built here, never text.
"""

import contextlib
import random
from fractions import Fraction

import sympy
from sympy import S

from pav_jax.tasks.answers import enclosures
from pav_jax.tasks.answers.trees import Tree, symbols

# Precision, in digits, to which numbers must agree where algebra does not decide.
DIGITS = 1000  # and more where there are large numbers in them
# Enough for most wrong answers.
_FEW_DIGITS = 15
# The same at each of the points where expressions with variables are compared.
_POINT_DIGITS = 60
# How many points are tried, and how many of them must have values.
_TRIES, _NEEDED = 12, 3
# How far points are away; with variables in exponents, the nearest alone.
_FAR = (331, 10_007, 1_000_003)
_LARGEST_EXPONENT = 10_000
_LARGEST_SERIES = 1_000


class _Divisor(sympy.Function):
    """Of whole numbers; SymPy's own take a variable for a polynomial."""

    @classmethod
    def eval(cls, *arguments):
        if all(argument.is_Integer for argument in arguments):
            return sympy.Integer(cls.work_out(*arguments))
        if all(argument.is_number for argument in arguments):
            raise ValueError(f"{cls.__name__} of what is not whole")
        return None


class _Gcd(_Divisor):
    work_out = staticmethod(sympy.igcd)


class _Lcm(_Divisor):
    work_out = staticmethod(sympy.ilcm)


_CONSTANTS = {
    "pi": S.Pi,
    "e": S.Exp1,
    "i": S.ImaginaryUnit,
    "oo": S.Infinity,
    "degree": S.One,
}
_FUNCTIONS = {
    "sin": sympy.sin,
    "cos": sympy.cos,
    "tan": sympy.tan,
    "cot": sympy.cot,
    "sec": sympy.sec,
    "csc": sympy.csc,
    "arcsin": sympy.asin,
    "arccos": sympy.acos,
    "arctan": sympy.atan,
    "sinh": sympy.sinh,
    "cosh": sympy.cosh,
    "tanh": sympy.tanh,
    "log": sympy.log,
    "abs": sympy.Abs,
    "floor": sympy.floor,
    "ceiling": sympy.ceiling,
    "factorial": sympy.factorial,
    "binomial": sympy.binomial,
    "gcd": _Gcd,
    "lcm": _Lcm,
    "max": sympy.Max,
    "min": sympy.Min,
    "conjugate": sympy.conjugate,
}
_OF_WHOLE = sympy.factorial, sympy.binomial, _Gcd, _Lcm
_RELATIONS = {"=": sympy.Eq, "<": sympy.Lt, r"\le": sympy.Le, r"\ne": sympy.Ne}


def are_equal(gold, answer) -> bool:
    """Whether two answers, as `reading.read` gives them, are equal.

    Raises:
      enclosures.Undecided: it takes more digits than are worked out.
      ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError: where
        SymPy cannot tell.
    """
    kinds = gold[0], answer[0]
    if kinds == ("value", "value"):
        return _equal_values(build(gold[1]), build(answer[1]))
    if kinds == ("relation", "relation") and _proportional(gold, answer):
        return True
    names = symbols(_as_tuples(gold)) | symbols(_as_tuples(answer))
    if len(names) > 1 or "=" in (gold[1], answer[1]):
        return False
    return _equal_sets(_real_set(gold), _real_set(answer))


def _as_tuples(answer):
    if isinstance(answer, (list, tuple)):
        return tuple(map(_as_tuples, answer))
    return answer


def build(tree: Tree) -> sympy.Basic:
    """The SymPy object of a tree; raises ValueError if there is none."""
    kind, *parts = tree
    if kind == "num":
        value = Fraction(parts[0])
        return sympy.Rational(value.numerator, value.denominator)
    if kind == "sym":
        return sympy.Symbol(parts[0], real=True)
    if kind == "const":
        return _CONSTANTS[parts[0]]
    if kind == "matrix":
        return sympy.ImmutableMatrix([[build(cell) for cell in row] for row in parts])
    if kind == "call":
        return sympy.Function(parts[0], real=True)(*map(build, parts[1:]))
    if kind == "fun":
        return _function(parts[0], [build(part) for part in parts[1:]])
    if kind in ("sum", "prod"):
        return _series(kind, *parts)
    operands = [build(part) for part in parts]
    total = operands[0]
    for operand in operands[1:]:
        if kind == "add":
            total = total + operand
        elif kind == "mul":
            total = total * operand
        else:
            total = _power(total, operand)
    return total


def _power(base, exponent):
    if base.is_Matrix and exponent == sympy.Symbol("T", real=True):
        return base.T
    return base**exponent


def _function(name: str, arguments: list):
    if name == "det":
        return arguments[0].det()
    if any(argument.is_Matrix for argument in arguments):
        raise ValueError(f"{name} of a matrix")
    # Variables are taken for real, but not where a conjugate is asked for.
    if name in _FUNCTIONS and not (name == "conjugate" and arguments[0].free_symbols):
        return _FUNCTIONS[name](*arguments)
    return sympy.Function(name, real=True)(*arguments)


def _series(kind: str, variable, first, last, body):
    if any("_" in name and variable[1] in name for name in symbols(_as_tuples(body))):
        raise ValueError("a term that depends on the index by its name alone")
    index, first, last = (build(part) for part in (variable, first, last))
    body = build(body)
    finite = first.is_Integer and last.is_Integer
    if finite and last - first > _LARGEST_SERIES:
        raise ValueError("a long sum")
    make = sympy.Sum if kind == "sum" else sympy.Product
    return make(body, (index, first, last)).doit()


def _equal_values(first, second) -> bool:
    if first.is_Matrix or second.is_Matrix:
        if not (first.is_Matrix and second.is_Matrix) or first.shape != second.shape:
            return False
        return all(map(_equal_values, first, second))
    if first == second:
        return True
    if not (first.is_finite is not False and second.is_finite is not False):
        return False
    difference = first - second
    if difference.is_Rational:
        return difference.is_zero
    names = sorted(first.free_symbols | second.free_symbols, key=str)
    functions = difference.atoms(sympy.core.function.AppliedUndef)
    if functions:
        names += [sympy.Dummy() for _ in functions]
        swap = dict(
            zip(sorted(functions, key=str), names[-len(functions) :], strict=True)
        )
        first, second = first.xreplace(swap), second.xreplace(swap)
    if not (first - second).free_symbols:
        return _equal_numbers(first, second)
    return _equal_at_points(first, second, names)


def _equal_numbers(first, second) -> bool:
    """Whether two numbers are the same.

    Raises:
      Undecided: one of them has too few certain digits, and algebra shows nothing.
      ValueError: one of them is no number, or of a kind that is not enclosed.
    """
    with contextlib.suppress(enclosures.Undecided):
        if not enclosures.same(first, second, _FEW_DIGITS):
            return False
    difference = sympy.expand(first - second)
    if difference.is_Rational:
        return difference == 0
    with contextlib.suppress(enclosures.Undecided):  # e^-10000 is not 0
        if not enclosures.same(difference, S.Zero, DIGITS):
            return False
    try:  # 1/2010! is far smaller than 1
        return enclosures.same(first, second, DIGITS + _size(difference))
    except enclosures.Undecided:
        if sympy.simplify(difference) == 0:
            return True
        raise


def _size(expression) -> int:
    """Digits by which numbers may differ in size: those of all numbers in it."""
    bits = sum(
        int(part).bit_length()
        for number in expression.atoms(sympy.Rational)
        for part in (number.p, number.q)
    )
    return min(bits, 20 * DIGITS)


def _points(names, draw: random.Random, whole: bool = False):
    """Points to compare at: positive and negative, none of them 0, 1 or alike."""
    if whole:
        for index in range(_TRIES + 2):
            most = 40 if index < _TRIES else _FAR[0]
            yield {name: sympy.Integer(draw.randint(2, most)) for name in names}
        return
    for index in range(_TRIES):
        least, most = ((302, 2000), (20, 300))[index % 4 // 2]  # above 1, below 1
        signs = [1 if index % 2 == 0 or draw.random() < 0.4 else -1 for _ in names]
        yield {
            name: sympy.Rational(
                sign * draw.randint(least, most), draw.choice((301, 307))
            )
            for name, sign in zip(names, signs, strict=True)
        }
    for _ in range(2):  # where exponents are whole
        yield {name: sympy.Integer(draw.randint(2, 9)) for name in names}


def _far_points(names, draw: random.Random, sides):
    """Points beyond all numbers in two expressions, with all signs."""
    sizes = _FAR[:1]
    if not any(map(_has_exponents, sides)):
        numbers = set().union(*(side.atoms(sympy.Rational) for side in sides))
        largest = max((max(abs(n.p), n.q) for n in numbers), default=1)
        sizes = [*_FAR, *([1009 * int(largest)] if largest < 10**100 else [])]
    for size in sizes:
        for sign in (1, -1):
            signs = [sign, *(draw.choice((1, -1)) for _ in names[1:])]
            yield {
                name: sympy.Rational(sign * draw.randint(301 * size, 602 * size), 301)
                for name, sign in zip(names, signs, strict=True)
            }


def _has_exponents(expression) -> bool:
    """Whether variables are in exponents, so that values are far larger than points."""
    grows = sympy.exp, sympy.cosh, sympy.sinh, sympy.tanh
    return any(
        part.exp.free_symbols if part.is_Pow else part.has(*grows)
        for part in expression.atoms(sympy.Pow, *grows)
    )


def _equal_at_points(first, second, names) -> bool:
    is_complex = any(side.has(S.ImaginaryUnit) for side in (first, second))
    # What is counted is whole.
    counts = any(side.has(*_OF_WHOLE) for side in (first, second))
    digits = _POINT_DIGITS + _size(first - second)
    agreed = agreed_complex = 0
    points = [*_points(names, random.Random(0), counts)]
    if not counts:
        points += _far_points(names, random.Random(2), (first, second))
    for point in points:
        values = [_value(side, point) for side in (first, second)]
        if None in values:
            continue
        try:
            real = [enclosures.is_real(value) for value in values]
            if not is_complex and any(real) and not all(real):
                continue
            same = enclosures.same(*values, digits)
        except ValueError:  # of a kind that is not enclosed
            continue
        except enclosures.Undecided:
            if enclosures.is_certain(values[1]):
                continue  # the reference's own digits cancel here
            if sympy.simplify(first - second) == 0:
                return True
            raise
        if is_complex or all(real):
            if not same:
                return False
            agreed += 1
        else:
            agreed_complex += same
    return agreed >= _NEEDED or agreed + agreed_complex >= _TRIES


def _value(expression, point):
    """The number that an expression is at a point; None where it has none."""
    with contextlib.suppress(ArithmeticError, TypeError, ValueError):
        if any(abs(number) > _FAR[0] for number in point.values()) and any(
            not power.exp.is_Rational
            and abs(power.exp.xreplace(point)) > _LARGEST_EXPONENT
            for power in expression.atoms(sympy.Pow)
        ):
            return None  # 2^{x^5} far away
        value = expression.xreplace(point)
        if value.has(S.ComplexInfinity, S.NaN, S.Infinity, S.NegativeInfinity):
            return None
        return value
    return None


def _proportional(gold, answer) -> bool:
    """Whether one relation is a multiple of the other, by a positive number if < ."""
    if gold[1] != answer[1]:
        return False
    sides = [build(r[2][1]) - build(r[3][1]) for r in (gold, answer)]
    if any(side.is_Matrix for side in sides):
        return False
    names = sorted(sides[0].free_symbols | sides[1].free_symbols, key=str)
    for point in _points(names, random.Random(1)):
        values = [_value(side, point) for side in sides]
        if None in values or values[0].is_zero or values[1].is_zero:
            continue
        ratio = values[0] / values[1]
        if not enclosures.is_real(ratio):
            return False
        if gold[1] in ("<", r"\le") and enclosures.sign(ratio) < 0:
            return False
        return _equal_values(sides[0], ratio * sides[1])
    return False


def _real_set(answer) -> sympy.Set:
    """The set of real numbers that an answer says."""
    kind, *parts = answer
    if kind == "union":
        return sympy.Union(*map(_real_set, parts))
    if kind == "intersection":
        return sympy.Intersection(*map(_real_set, parts))
    if kind == "minus":
        return sympy.Complement(
            _real_set(parts[0]), sympy.Union(*map(_real_set, parts[1:]))
        )
    if kind == "list":
        return sympy.FiniteSet(*(build(part[1]) for part in parts))
    if kind == "value":
        return sympy.FiniteSet(build(parts[0]))
    if kind == "relation":
        relation = _RELATIONS[parts[0]](build(parts[1][1]), build(parts[2][1]))
        return relation.as_set()
    opening, closing, *inside = parts
    if opening == "relations":
        return sympy.Intersection(*map(_real_set, inside))
    low, high = (build(part[1]) for part in inside)
    if (low.is_infinite and opening != "(") or (high.is_infinite and closing != ")"):
        raise ValueError("infinity in a set")
    return sympy.Interval(low, high, opening == "(", closing == ")")


def _equal_sets(first: sympy.Set, second: sympy.Set) -> bool:
    rest = sympy.SymmetricDifference(first, second).simplify()
    return rest == S.EmptySet
