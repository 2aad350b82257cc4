r"""Words after a number: units, which may be left out, and words that are numbers.

- A unit, and any noun that is counted (`12\text{ ways}`), may be left out or added.
- Two units of measure that are both written must be the same: `5\text{ cm}` is `5` and
  `5\text{ centimeters}`, but not `5\text{ m}`. Other nouns are not compared.
- `million`, `dozen` and so on are factors: `2\text{ million}` is 2000000.
- A word that changes what a number says is no unit: `5\text{ or more}` is not 5.
"""

import itertools
import re
from collections.abc import Sequence
from fractions import Fraction

_SPELLINGS = """
unit
cm centimeter centimetre
mm millimeter millimetre
km kilometer kilometre
m meter metre
inch in
foot feet ft
yard yd
mile mi
g gram gm
kg kilogram
mg milligram
pound lb lbs
ounce oz
ton tonne
l liter litre
ml milliliter millilitre
gallon gal
s second sec
minute min
h hour hr
day
week wk
month
year yr
dollar usd
cent
euro
degree deg
celsius centigrade c
fahrenheit f
radian rad
percent pct percentage percents
am
pm
th st nd rd
mph
kph kmh
mps
n newton
j joule
w watt
v volt
k kelvin
hz hertz
"""
_CANONICAL = {
    spelling: line.split()[0]
    for line in _SPELLINGS.strip().splitlines()
    for spelling in line.split()
}
_CANONICAL |= {
    spelling + ending: name
    for spelling, name in _CANONICAL.items()
    if len(spelling) > 2
    for ending in ("s", "es")
}
_WHOLES = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
PARTS = {
    word: Fraction(1, value)
    for word, value in {
        "half": 2,
        "tenth": 10,
        "hundredth": 100,
        "thousandth": 1000,
        "third": 3,
        "fourth": 4,
        "fifth": 5,
        "sixth": 6,
        "seventh": 7,
        "eighth": 8,
        "ninth": 9,
        "millionth": 10**6,
    }.items()
}
_FACTORS = (
    {"tens": 10, "halves": PARTS["half"]}
    | _WHOLES
    | {word + "s": value for word, value in (_WHOLES | PARTS).items()}
)
_CARDINALS = {
    word: value
    for value, word in enumerate(
        """zero one two three four five six seven eight nine ten eleven twelve thirteen
        fourteen fifteen sixteen seventeen eighteen nineteen twenty""".split()
    )
}
_TENS = set("thirty forty fifty sixty seventy eighty ninety".split())
_SAID = _CARDINALS, _TENS, _FACTORS, PARTS
_SCALES = "celsius", "fahrenheit"
_POWERS = {"square": 2, "sq": 2, "squared": 2, "cubic": 3, "cu": 3, "cubed": 3}
# The units of one letter, as they are spelt; other letters are variables.
LETTERS = set("mghslLNJWV")
# These say more than what is counted.
_NOT_UNITS = set(
    """or and more less fewer greater smaller larger than least most not no non minus
    plus negative positive infinite infinity mod modulo base if when where for
    unless except but about approximately roughly nearly almost over under above below
    between from to through is are divided multiplied twice double triple factorial
    choose sin cos tan log ln pi doubled tripled quadrupled halved raised inverted
    negated""".split()
)


def is_unit(word: str) -> bool:
    """Whether a word of two letters or more is a unit or a number."""
    word = word.lower()
    return len(word) > 1 and (word in _CANONICAL or word in _FACTORS or word in _POWERS)


def cardinal(words: Sequence[str]) -> int | None:
    """The number up to 20 that one word says; None if it is none."""
    return _CARDINALS.get(words[0].lower()) if len(words) == 1 else None


def are_units(text: str) -> bool:
    """Whether all letters of a text are those of units, as in `m/s`."""
    runs = re.findall("[A-Za-z]+", text)
    return bool(runs) and all(run in LETTERS or is_unit(run) for run in runs)


def read_phrase(words: Sequence[str]) -> tuple[Fraction, str] | None:
    """What the words after a number say.

    Args:
      words: words, digits that are exponents after "^", and "/", as they are spelt.

    Returns:
      (factor, unit): what the number is multiplied by, and the units of measure in a
      normal spelling, "" if there are none, or not only such. None if the words are
      more than a unit.
    """
    words = [word.lower().strip(".") for word in words]
    words = [word for word in words if word]
    if words and (words[0] in ("squared", "cubed") or words[-1] in "/-*^"):
        return None
    factor, words = cut_factor(words)
    if set(words) & (_NOT_UNITS | set(_FACTORS)):
        return None
    for word, following in itertools.pairwise(words):
        if word == "times" and following != "as":  # 5 times two, but 5 times as many
            return None
    return factor, _canonical(words)


def cut_factor(words: Sequence[str]) -> tuple[Fraction, list[str]]:
    """The factor that words in lower case begin with, and the words after it."""
    factor, words = Fraction(1), list(words)
    if len(words) == 1 and words[0] in PARTS:  # one third, but not 5 third graders
        return PARTS[words[0]], []
    while words and words[0] in _FACTORS:
        factor *= _FACTORS[words.pop(0)]
        if words[:1] == ["of"]:
            words.pop(0)
    return factor, words


def says_number(word: str) -> bool:
    """Whether a word in lower case, or the end of `twenty-five`, is a number.

    Neither `one` nor an adjective such as `two-bedroom` is, but `30-minutes` is.
    """
    *first, last = re.split(r"[\W_]+", word) if word[-1:].isalnum() else [word]
    if any(map(str.isnumeric, last)) or any(last in each for each in _SAID):
        return last != "one" or bool(first)
    return bool(first) and last.endswith("s") and last in _CANONICAL


def _canonical(words: list[str]) -> str:
    units: list[list] = []  # [name, exponent]
    sign, power, exponent_next = 1, 1, False
    for word in words:
        if exponent_next:
            if not word.isdigit() or not units:
                return ""
            units[-1][1] *= int(word[:2])
            exponent_next = False
        elif word == "^":
            exponent_next = True
        elif word in ("/", "per", "an", "a", "*", "-"):
            sign = -1 if word in ("/", "per") else sign
        elif word in _POWERS:
            if word.endswith("ed") and units:
                units[-1][1] *= _POWERS[word]
            else:
                power = _POWERS[word]
        elif word in _CANONICAL:
            if _CANONICAL[word] in _SCALES and units and units[-1][0] == "degree":
                units.pop()
            units.append([_CANONICAL[word], sign * power])
            power = 1
        else:
            break  # 5 cm of rope
    return " ".join(f"{name}^{power}" for name, power in units)


def differ(unit: str, other: str) -> bool:
    """Whether two units of measure are both known and not the same.

    Of `square units` nothing but the exponent is known, and of degrees no scale.
    """
    if "degree^1" in (unit, other) and {unit, other} & {f"{s}^1" for s in _SCALES}:
        return False
    if "unit^" in unit + other:
        unit, other = (re.sub("[a-z]+", "unit", each) for each in (unit, other))
    return bool(unit and other and unit != other)
