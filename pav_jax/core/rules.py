"""What a field of a config may hold, and what is said of one that holds anything else.

A table of rules has the dotted names of all fields there are: one that nobody knows is
told as well, since it may be a misspelt one.
"""

import dataclasses
import difflib
from collections.abc import Callable, Mapping
from typing import Any

from pav_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field may hold.

    Attributes:
      words: the same for a person, after "it must be".
      accepts: whether a value is right.
      needed: whether a config must have the field, if it has the field's section.
    """

    words: str
    accepts: Callable[[Any], bool]
    needed: bool = True

    def optional(self) -> "Rule":
        """The same rule of a field that a config may do without."""
        return dataclasses.replace(self, needed=False)

    def or_none(self, meaning: str) -> "Rule":
        """A rule that also accepts None, which has a meaning of its own."""
        accepts = self.accepts
        return Rule(
            f"{self.words}, or None, {meaning}",
            lambda value: value is None or accepts(value),
            self.needed,
        )


def whole(low: int) -> Rule:
    """A whole number that is at least `low`, and fits 32 bits."""
    return Rule(
        f"a whole number, {low} or more",
        lambda value: type(value) is int and low <= value < 1 << 31,
    )


def number(low: float, high: float | None = None, *, above: bool = False) -> Rule:
    """A number from `low`, or with `above` one above it, up to `high`."""
    words = f"a number above {low:g}" if above else f"a number, {low:g} or more"
    if high is not None:
        words += f" and at most {high:g}"

    def accepts(value: Any) -> bool:
        return (
            type(value) in (int, float)
            and (value > low if above else value >= low)
            and (high is None or value <= high)
        )

    return Rule(words, accepts)


def inside(low: float, high: float, why: str = "") -> Rule:
    """A number with a point, above `low` and below `high`."""
    return Rule(
        f"a number above {low:g} and below {high:g}{why}",
        lambda value: type(value) is float and low < value < high,
    )


def each(rule: Rule, what: str, least: int = 1) -> Rule:
    """A tuple of at least so many, of which each is what `rule` accepts."""
    return Rule(
        f"a tuple of {what}" + (", at least one" if least else ""),
        lambda value: (
            isinstance(value, list | tuple)
            and len(value) >= least
            and all(map(rule.accepts, value))
        ),
    )


def several(rule: Rule, what: str, least: int = 1) -> Rule:
    """As `each`, and all different."""
    alike = each(rule, what, least)
    return Rule(
        f"{alike.words}{' and' if least else ','} each once",
        lambda value: alike.accepts(value) and len(set(value)) == len(value),
    )


def one_of(*names: str) -> Rule:
    """One of some texts."""
    return Rule(
        f"one of {', '.join(map(repr, names))}",
        lambda value: isinstance(value, str) and value in names,
    )


POSITIVE, COUNT = whole(1), whole(0)
FLAG = Rule("True or False", lambda value: type(value) is bool)
TEXT = Rule("a text", lambda value: isinstance(value, str))
FRACTION = number(0, 1)
POSITIVES = several(POSITIVE, "whole numbers, 1 or more")


def check(
    name: str,
    value: Any,
    rules: Mapping[str, Rule],
    general: Callable[[str], str] = lambda name: name,
) -> None:
    """Checks one field.

    Args:
      name: its dotted name.
      value: what it holds; not a section.
      rules: of all fields there are.
      general: what `rules` calls a dotted name.

    Raises:
      UserError: there is no such field, or it may not hold the value.
    """
    holder = name.rpartition(".")[0]
    if rule := rules.get(general(name)):
        if not rule.accepts(value):
            shown = tuple(value) if isinstance(value, list) else value
            raise UserError(f"config.{name} is {shown!r}; it must be {rule.words}")
    elif above := rules.get(general(holder)):
        raise UserError(f"config.{holder} is a section; it must be {above.words}")
    else:
        raise UserError(_unknown(name, rules))


def missing(name: str, rules: Mapping[str, Rule]) -> str:
    """What is said of a field that is needed and not there."""
    return f"the config has no field {name!r}; it is {rules[name].words}"


def _unknown(name: str, rules: Mapping[str, Rule]) -> str:
    section = name.rpartition(".")[0]
    if below := [known for known in rules if known.startswith(f"{name}.")]:
        return f"config.{name} must be a section, with {', '.join(below)}"
    inside = [known for known in rules if known.rpartition(".")[0] == section]
    near = difflib.get_close_matches(name, inside, n=1)
    near = near or difflib.get_close_matches(name, rules, n=1)
    if near:
        return f"there is no config field {name!r}; did you mean {near[0]!r}?"
    there = inside if section else sorted({known.split(".")[0] for known in rules})
    return f"there is no config field {name!r}; there are: {', '.join(there)}"
