"""Fields of a config in wrong ways, and whether a message names them."""

import math
from typing import Any


def misspelt(field: str) -> str:
    """The dotted name with its last letter twice."""
    return field + field[-1]


def wrong_types(right: Any, *, none_is_right: bool = False) -> list[Any]:
    """Values of other types than that of a right one."""
    wrong: list[Any] = [{"a": 1}.keys, b"x", 1 + 2j]  # what no config may hold
    if not none_is_right:
        wrong.append(None)
    if not isinstance(right, str):
        wrong += ["many", ""]
    if isinstance(right, bool):
        wrong += [1, 0.0]
    elif isinstance(right, int | float):
        wrong += [True, (1,), math.nan, math.inf]
    elif isinstance(right, str | tuple):
        wrong += [3, True]
    if type(right) is int:
        wrong += [2.5]
    if isinstance(right, tuple):
        wrong += [(None,), ("a", "b"), (True, True)]
    return wrong


def names(message: str, field: str) -> bool:
    """Whether a message names a field: a task's by its own name, others with dots."""
    last = field.rpartition(".")[2]
    entry = field.split(".")[-2] if "." in field else ""
    return field in message or (last in message and entry in message)
