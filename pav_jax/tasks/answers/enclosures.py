r"""Encloses numbers in intervals, so that no cancellation can hide what they are.

SymPy's own digits are counted from the largest term: `\cosh(5000)-\sinh(5000)` is
e^-5000, of which it sees nothing in 1000 digits. Here a function of an interval is an
interval in which the value is for certain. What has too few certain digits is worked
out again with more bits, and in the end left undecided.
"""

import operator
from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import sympy
from mpmath import iv, libmp
from sympy import S

# Bits of the first try; they tell most wrong answers from right ones.
_FIRST = 64
# No exponent, angle or whole part with more bits than this before its point.
_LARGEST = 4096


class Uncertain(ArithmeticError):
    """Nothing is certain with so few bits."""


class Undecided(ArithmeticError):
    """Nothing is certain with all the bits that are spent on a number."""


class Box(NamedTuple):
    """Where a number is for certain; `im` is None where it is exactly real."""

    re: iv.mpf
    im: iv.mpf | None = None


def same(first: sympy.Expr, second: sympy.Expr, digits: int) -> bool:
    """Whether two numbers agree to so many digits of each.

    Raises:
      Undecided: one of them has too few certain digits.
      ValueError: one of them is of a kind that is not enclosed here.
    """
    wanted = int(digits * 3.33)
    for boxes in _tries((first, second), wanted + _FIRST):
        if _apart(*boxes):
            return False
        if all(_is_certain(box, wanted) for box in boxes):
            return True
    raise Undecided


def is_real(number: sympy.Expr) -> bool:
    """Whether a number is real, or as good as that; raises as `same` does."""
    for ((re, im),) in _tries((number,), 4 * _FIRST):
        if im is None or _high(abs(im)) * 2**40 < _low(abs(re)):
            return True
        if _low(abs(im)) > 0:
            return False
    raise Undecided


def sign(number: sympy.Expr) -> int:
    """1 or -1 of a real number that is not 0; raises as `same` does."""
    for ((re, im),) in _tries((number,), 4 * _FIRST):
        if im is None and (found := _sign(re)):
            return found
    raise Undecided


def is_certain(number: sympy.Expr) -> bool:
    """Whether a number has certain digits at all; raises ValueError as `same` does."""
    tries = _tries((number,), 4 * _FIRST)
    return any(_is_certain(box, _FIRST // 2) for (box,) in tries)


def _tries(numbers: tuple, wanted: int) -> Iterator[list[Box]]:
    """The numbers enclosed with more and more bits; `wanted` should be enough."""
    levels = [_FIRST << shift for shift in (0, 2, 4) if _FIRST << shift < wanted]
    levels += [wanted, 2 * wanted]
    if wanted < 16 * _FIRST:
        levels.append(16 * wanted)
    for bits in levels:
        iv.prec = bits
        try:
            boxes = [_enclose(number) for number in numbers]
        except Uncertain:
            continue
        yield boxes


def _low(x):
    return iv.make_mpf((x._mpi_[0],) * 2)


def _high(x):
    return iv.make_mpf((x._mpi_[1],) * 2)


def _sign(x) -> int:
    """1 or -1; 0 for an interval with 0 in it."""
    return 1 if _low(x) > 0 else -1 if _high(x) < 0 else 0


def _apart(first: Box, second: Box) -> bool:
    for x, y in zip(first, second, strict=True):
        x, y = (iv.zero if part is None else part for part in (x, y))
        if _high(x) < _low(y) or _high(y) < _low(x):
            return True
    return False


def _is_certain(box: Box, bits: int) -> bool:
    """Whether an interval is narrower than its number by so many bits."""
    parts = [part for part in box if part is not None]
    narrow = iv.make_mpf((libmp.from_man_exp(1, -bits),) * 2)
    least = [_low(abs(part)) * narrow for part in parts]
    return all(any(_high(x.delta) <= _low(y) for y in least) for x in parts)


def _checked(x):
    """An interval without infinities."""
    if libmp.finf in x._mpi_ or libmp.fninf in x._mpi_:
        raise Uncertain
    return x


def _about(x):
    """An interval a little wider, as the library's functions may be off by a bit."""
    one, slack = libmp.fone, libmp.from_man_exp(1, 8 - iv.prec)
    wider = libmp.mpf_sub(one, slack), libmp.mpf_add(one, slack)
    return _checked(x * iv.make_mpf(wider))


# Real functions.


def _whole_bits(x) -> int:
    """Bits before the point."""
    if _high(abs(x)) == 0:
        return 0
    return max(0, iv.mag(x))


def _bounded(x):
    if _whole_bits(x) > _LARGEST:
        raise ValueError("a very large number")
    return x


def _exp_real(x):
    return _about(iv.exp(_bounded(x)))


def _log_real(x):
    if _sign(x) != 1:
        raise Uncertain
    # The nearer it is to 1, the fewer bits say what it is.
    return _about(iv.log(x))


def _atan_real(x):
    return _about(iv.make_mpf(libmp.libmpi.mpi_atan(x._mpi_, iv.prec)))


def _inverse_real(x):
    if not _sign(x):
        raise Uncertain
    return _checked(1 / x)


def _sqrt_real(x):
    if x == 0:
        return x
    if _sign(x) != 1:
        raise Uncertain
    return _about(iv.sqrt(x))


def _floor_real(x):
    if _whole_bits(x) > iv.prec:
        raise Uncertain
    low, high = (libmp.to_int(end, libmp.round_floor) for end in x._mpi_)
    if low != high:
        raise Uncertain
    return iv.mpf(low)


def _extreme(parts, pick):
    ends = zip(*(part._mpi_ for part in parts), strict=True)
    return iv.make_mpf(tuple(libmp.mpf_min_max(list(end))[pick] for end in ends))


# Complex ones.


def _add(x: Box, y: Box) -> Box:
    ims = [part for part in (x.im, y.im) if part is not None]
    return Box(_checked(x.re + y.re), reduce(operator.add, ims) if ims else None)


def _multiply(x: Box, y: Box) -> Box:
    if x.im is None and y.im is None:
        return Box(_checked(x.re * y.re))
    if y.im is None:
        return Box(_checked(x.re * y.re), _checked(x.im * y.re))
    if x.im is None:
        return _multiply(y, x)
    re, im = x.re * y.re - x.im * y.im, x.re * y.im + x.im * y.re
    return Box(_checked(re), _checked(im))


def _inverse(x: Box) -> Box:
    if x.im is None:
        return Box(_inverse_real(x.re))
    scale = _inverse_real(x.re**2 + x.im**2)
    return Box(_checked(x.re * scale), _checked(-x.im * scale))


def _divide(x: Box, y: Box) -> Box:
    return _multiply(x, _inverse(y))


def _negative(x: Box) -> Box:
    return Box(-x.re, None if x.im is None else -x.im)


def _real(x: Box):
    if x.im is not None:
        raise ValueError("not enclosed for complex numbers")
    return x.re


def _abs(x: Box):
    if x.im is None:
        return abs(x.re)
    return _sqrt_real(x.re**2 + x.im**2)


def _arg(x: Box):
    if x.im is None:
        if not _sign(x.re):
            raise Uncertain
        return iv.zero if _sign(x.re) == 1 else _about(iv.mpf(iv.pi))
    if _sign(x.re) == 1:
        return _atan_real(x.im / x.re)
    if not _sign(x.im):
        raise Uncertain  # where the argument jumps
    return _sign(x.im) * _about(iv.pi / 2) - _atan_real(x.re / x.im)


def _exp(x: Box) -> Box:
    size = _exp_real(x.re)
    if x.im is None:
        return Box(size)
    angle = _bounded(x.im)
    return Box(_checked(size * iv.cos(angle)), _checked(size * iv.sin(angle)))


def _log(x: Box) -> Box:
    angle = _arg(x)
    return Box(_log_real(_abs(x)), None if angle == 0 else angle)


_I = Box(iv.zero, iv.one)
_ONE = Box(iv.one)
_HALF = Box(iv.one / 2)


def _cos(x: Box) -> Box:
    if x.im is None:
        return Box(iv.cos(_bounded(x.re)))
    turn = _exp(_multiply(_I, x))
    return _multiply(_HALF, _add(turn, _inverse(turn)))


def _sin(x: Box) -> Box:
    if x.im is None:
        return Box(iv.sin(_bounded(x.re)))
    turn = _exp(_multiply(_I, x))
    half = _multiply(_HALF, _add(turn, _negative(_inverse(turn))))
    return _multiply(_negative(_I), half)


def _tan(x: Box) -> Box:
    return _divide(_sin(x), _cos(x))


def _cosh(x: Box) -> Box:
    grown = _exp(x)
    return _multiply(_HALF, _add(grown, _inverse(grown)))


def _sinh(x: Box) -> Box:
    grown = _exp(x)
    return _multiply(_HALF, _add(grown, _negative(_inverse(grown))))


def _tanh(x: Box) -> Box:
    shrunk = _exp(_multiply(Box(iv.mpf(-2)), x))
    return _divide(_add(_ONE, _negative(shrunk)), _add(_ONE, shrunk))


def _asin(x: Box) -> Box:
    x = _real(x)
    rest = 1 - x**2
    if _sign(rest) == -1:
        raise ValueError("not enclosed beyond 1")
    return Box(_atan_real(x * _inverse_real(_sqrt_real(rest))))


def _acos(x: Box) -> Box:
    return _add(Box(_about(iv.pi / 2)), _negative(_asin(x)))


def _whole_power(base: Box, exponent: int) -> Box:
    if exponent < 0:
        return _inverse(_whole_power(base, -exponent))
    result = _ONE
    for bit in bin(exponent)[2:]:
        result = _multiply(result, result)
        if bit == "1":
            result = _multiply(result, base)
    return result


def _power(base: sympy.Expr, exponent: sympy.Expr) -> Box:
    box = _enclose(base)
    if exponent.is_Integer and abs(int(exponent)).bit_length() <= _LARGEST:
        return _whole_power(box, int(exponent))
    if exponent.is_Rational and exponent.q == 2 and exponent.p.bit_length() < 64:
        root = None
        if box.im is None and _sign(box.re) == -1:
            root = Box(iv.zero, _sqrt_real(-box.re))
        elif box.im is None:
            root = Box(_sqrt_real(box.re))
        if root is not None:
            return _whole_power(root, int(exponent.p))
    return _exp(_multiply(_enclose(exponent), _log(box)))


_OF_ONE = {
    sympy.exp: _exp,
    sympy.log: _log,
    sympy.cos: _cos,
    sympy.sin: _sin,
    sympy.tan: _tan,
    sympy.cot: lambda x: _divide(_cos(x), _sin(x)),
    sympy.sec: lambda x: _inverse(_cos(x)),
    sympy.csc: lambda x: _inverse(_sin(x)),
    sympy.cosh: _cosh,
    sympy.sinh: _sinh,
    sympy.tanh: _tanh,
    sympy.coth: lambda x: _inverse(_tanh(x)),
    sympy.asin: _asin,
    sympy.acos: _acos,
    sympy.atan: lambda x: Box(_atan_real(_real(x))),
    sympy.Abs: lambda x: Box(_abs(x)),
    sympy.re: lambda x: Box(x.re),
    sympy.im: lambda x: Box(iv.zero if x.im is None else x.im),
    sympy.arg: lambda x: Box(_arg(x)),
    sympy.conjugate: lambda x: Box(x.re, None if x.im is None else -x.im),
    sympy.floor: lambda x: Box(_floor_real(_real(x))),
    sympy.ceiling: lambda x: Box(-_floor_real(-_real(x))),
}


def _enclose(number: sympy.Expr) -> Box:
    """Where a number is; raises Uncertain, and ValueError for kinds not known here."""
    if number.is_Rational:
        return Box(iv._mpq((int(number.p), int(number.q))))
    if number is S.Pi:
        return Box(_about(iv.mpf(iv.pi)))
    if number is S.Exp1:
        return Box(_about(iv.mpf(iv.e)))
    if number is S.ImaginaryUnit:
        return _I
    if number.is_Add:
        return reduce(_add, map(_enclose, number.args))
    if number.is_Mul:
        return reduce(_multiply, map(_enclose, number.args))
    if number.is_Pow:
        return _power(*number.args)
    if isinstance(number, sympy.Max | sympy.Min):
        parts = [_real(_enclose(part)) for part in number.args]
        return Box(_extreme(parts, 1 if isinstance(number, sympy.Max) else 0))
    if isinstance(number, sympy.Sum | sympy.Product):
        done = number.doit()
        if done != number:
            return _enclose(done)
    if number.func in _OF_ONE and len(number.args) == 1:
        return _OF_ONE[number.func](_enclose(number.args[0]))
    raise ValueError(f"{number.func.__name__} is not enclosed")
