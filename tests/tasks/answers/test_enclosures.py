"""An interval holds its number, and what is not certain is not said."""

import random

import pytest
import sympy
from mpmath import iv, libmp
from sympy import I, Rational, cosh, exp, pi, sinh, sqrt

from pav_jax.tasks.answers import enclosures

TINY = cosh(5000) - sinh(5000)
FUNCTIONS = [sympy.exp, sympy.log, sympy.cos, sympy.sin, sympy.tan, sympy.cosh]
FUNCTIONS += [sympy.sinh, sympy.tanh, sympy.Abs, sympy.cot, sympy.sec, sympy.csc]
FUNCTIONS += [sympy.asin, sympy.acos, sympy.atan, sympy.floor]


def _number(draw: random.Random, depth: int) -> sympy.Expr:
    if not depth:
        small = Rational(draw.randint(-30, 30), draw.randint(1, 9))
        return draw.choice([small, small, pi, sympy.E, I])
    part, kind = _number(draw, depth - 1), draw.randrange(10)
    if kind < 3:
        return part + _number(draw, depth - 1)
    if kind < 6:
        return part * _number(draw, depth - 1)
    if kind == 6:
        return part ** Rational(draw.randint(-3, 3), draw.randint(1, 3))
    return draw.choice(FUNCTIONS)(part)


def _holds(interval, value: sympy.Expr) -> bool:
    low, high = (Rational(*libmp.to_rational(end)) for end in interval._mpi_)
    slack = Rational(1, 10**25) * (1 + abs(Rational(value)))
    return low - slack <= Rational(value) <= high + slack


def test_numbers_are_where_sympy_finds_them():
    draw, seen = random.Random(0), 0
    for _ in range(400):
        number = _number(draw, draw.randint(1, 2))
        if number.has(sympy.zoo, sympy.nan, sympy.oo):
            continue
        iv.prec = 70
        try:
            box = enclosures._enclose(number)
        except (enclosures.Uncertain, ValueError):
            continue
        parts = number.evalf(30).as_real_imag()
        for interval, part in zip(box, parts, strict=True):
            assert _holds(iv.zero if interval is None else interval, part), number
        seen += 1
    assert seen > 250


@pytest.mark.parametrize(
    ("first", "second", "are_same"),
    [
        (sqrt(2), (2 + 2 * pi) / sqrt(2) / (1 + pi), True),
        (exp(pi) ** sqrt(163), exp(pi * sqrt(163)), True),
        (I ** Rational(1, 3), exp(I * pi / 6), True),
        (sympy.atan(2), sympy.asin(2 / sqrt(5)), True),
        (exp(pi * sqrt(163)), sympy.Integer(262537412640768744), False),
        (sqrt(2), sqrt(2) + exp(-2000), False),
        (exp(-5000), exp(-5001), False),
        (exp(-5000), 2 * exp(-5000) / 2, True),
    ],
)
def test_same(first, second, are_same):
    assert enclosures.same(first, second, 1000) is are_same


@pytest.mark.parametrize(
    "number",
    [TINY, 5 + TINY, 5 + exp(5000) * TINY, 1 / TINY, sqrt(TINY), sympy.floor(TINY)],
)
def test_what_is_not_certain_is_not_decided(number):
    with pytest.raises(enclosures.Undecided):
        enclosures.same(sympy.Integer(5), number, 1000)
    with pytest.raises(ValueError, match="zeta"):
        enclosures.same(sympy.Integer(5), sympy.zeta(3), 10)


def test_real_and_signs():
    assert enclosures.is_real(sqrt(2)) and not enclosures.is_real(sqrt(2) * I)
    assert enclosures.sign(-sqrt(2)) == -1 and enclosures.sign(1 - sqrt(2) / 2) == 1
    assert enclosures.is_certain(sqrt(2)) and not enclosures.is_certain(TINY)
