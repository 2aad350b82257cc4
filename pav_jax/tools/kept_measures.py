"""What runs have measured, kept in a file, for when their folders are gone.

A page of many runs takes days to make. With this file beside it, a clone that has none
of the runs can write the same page, and add to it what it has run itself.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pav_jax.core.errors import UserError
from pav_jax.storage import artifacts
from pav_jax.tools.sweeps import Found

_HAS_NOT = "none"  # a number that the run has not; null is one that is not finite


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a file holds.

    Attributes:
      found: of each run.
      other: where its config is another than the one asked for: in which field, in
        words, and `found` is empty then; else "".
    """

    found: list[Found]
    other: str = ""


def read(path: Path, config: Mapping[str, Any]) -> Kept:
    """Reads what was kept for a config; nothing if there is no file.

    The config is the same if each field that both have holds the same; a field that
    came or went later says nothing.

    Args:
      config: all fields as they are now, flattened.

    Raises:
      UserError: the file is damaged, or is not one of these.
    """
    if not path.exists():
        return Kept([])
    content = artifacts.read_json(path)
    try:
        old = dict(content["config"])
        found = [
            (dict(run["fields"]), {k: _number(v) for k, v in run["measures"].items()})
            for run in content["runs"]
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not hold what runs have measured; remove it, or take it from"
            " the repository again"
        ) from error
    for name in sorted(old.keys() & config.keys()):
        if old[name] != config[name]:
            return Kept([], f"{name} is {old[name]!r} there, and {config[name]!r} now")
    return Kept(found)


def write(path: Path, config: Mapping[str, Any], found: Sequence[Found]) -> None:
    """Keeps what runs have measured."""
    runs = [
        {
            "fields": fields,
            "measures": {name: _kept(value) for name, value in measures.items()},
        }
        for fields, measures in found
    ]
    artifacts.write_json(path, {"config": dict(config), "runs": runs})


def _kept(value: float | None) -> float | str | None:
    if value is None:
        return _HAS_NOT
    return value if math.isfinite(value) else None


def _number(value: Any) -> float | None:
    if value == _HAS_NOT:
        return None
    return math.nan if value is None else float(value)
