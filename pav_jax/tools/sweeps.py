"""Sweeps: many runs of one config file, which differ in some fields.

A config file that has one defines `sweep()`, which returns the points, each the fields
that it sets, by their dotted names:

    from pav_jax.tools.sweeps import product, zipped

    def sweep():
        sizes = zipped({"model.num_layers": (2, 4), "model.embed_dim": (32, 64)})
        return product({"seed": range(3)}, sizes)  # six runs

It may take the variant, as `get_config` does, and return others for a smoke run.
It may define `measures(results)` too, the numbers that the sweep is about, by name, of
what is in results.json. They are then given with their intervals over seeds. A number
that is None is one that the run has not, such as an AUC without any pair to compare.
"""

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.metrics import seed_interval
from pav_jax.storage import artifacts, buckets

Point = dict[str, Any]
# Of one run: the fields that it sets, with its seed; and its numbers, by name, None for
# one that it has not.
Found = tuple[Point, dict[str, float | None]]
_NAME_LENGTH = 120  # file systems allow 255 bytes


def product(*parts: Mapping[str, Iterable] | Sequence[Point]) -> list[Point]:
    """Every combination: of the values of each field, and of lists of points.

    Raises:
      ValueError: two parts set the same field.
    """
    axes: list[list[Point]] = []
    for part in parts:
        if isinstance(part, Mapping):
            axes += [[{name: v} for v in values] for name, values in part.items()]
        else:
            axes.append(list(part))
    points = []
    for chosen in itertools.product(*axes):
        point = {name: value for one in chosen for name, value in one.items()}
        if len(point) < sum(map(len, chosen)):
            raise ValueError(f"two parts of a product set the same field: {chosen}")
        points.append(point)
    return points


def zipped(fields: Mapping[str, Iterable]) -> list[Point]:
    """The first values together, then the second ones, and so on.

    Raises:
      ValueError: the fields have unlike numbers of values.
    """
    rows = zip(*fields.values(), strict=True)
    return [dict(zip(fields, row, strict=True)) for row in rows]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Attributes:
      name: of its folder; says what it sets.
      point: the fields that it sets.
      changes: the same, as arguments of `pav run`.
      config: all fields that it has, flattened.
    """

    name: str
    point: Point
    changes: tuple[str, ...]
    config: dict[str, Any]

    @property
    def short_name(self) -> str:
        """A name for clouds: letters, digits and dashes, the same for the same run."""
        experiment = re.sub(r"[^a-z0-9]+", "-", self.config["name"].lower()).strip("-")
        return f"{experiment[:20]}-{config_lib.digest(self.config)[:10]}"

    def results(self, root: str) -> dict[str, Any] | None:
        """What the finished run found; None if it is not finished, or was another.

        Args:
          root: where the runs' folders are; may be in a bucket.
        """
        path = f"{os.fspath(root).rstrip('/')}/{self.name}/report/results.json"
        if not buckets.exists(path):
            return None
        with buckets.to_read(path) as file:
            results = artifacts.read_json(file)
        return results if results["config"] == self.config else None


def load(config: str) -> list[Run]:
    """The runs that `sweep()` of a config file asks for.

    Args:
      config: FILE or FILE:VARIANT.

    Raises:
      UserError: there is no usable `sweep()`, or a point does not fit the config.
    """
    path, _, variant = config.partition(":")
    if variant and not config_lib.takes_argument(path, "sweep"):
        variant = ""
    points = config_lib.call(path, "sweep", variant)
    if not isinstance(points, Sequence) or not points:
        raise UserError(f"sweep() in {path} returns no points; it should return a list")
    runs = [_make_run(config, point) for point in points]
    names = [run.name for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"sweep() in {path} has the same point twice: {min(twice)}")
    return runs


@dataclasses.dataclass(frozen=True)
class Measured:
    """One number of the runs that differ in `seed` alone.

    Attributes:
      arm: the other fields that these runs set.
      name: of the number.
      values: by seed.
      mean: over the seeds.
      interval: 95%, by Student's t; None with one seed.
    """

    arm: Point
    name: str
    values: dict[int, float]
    mean: float
    interval: tuple[float, float] | None


def measure(config: str, done: Sequence[tuple[Run, dict[str, Any]]]) -> list[Found]:
    """What `measures()` of a config file finds in each finished run.

    Args:
      config: FILE or FILE:VARIANT.
      done: the runs, and what they found.

    Returns:
      Nothing if the file has no `measures()`.

    Raises:
      UserError: it fails.
    """
    path = config.partition(":")[0]
    if not config_lib.has(path, "measures"):
        return []
    found = []
    for run, results in done:
        measures = config_lib.call(path, "measures", results)
        found.append(({**run.point, "seed": run.config["seed"]}, dict(measures)))
    return found


def arm_of(fields: Point) -> Point:
    """The fields that runs which differ in the seed alone have in common."""
    return {name: value for name, value in fields.items() if name != "seed"}


def over_seeds(found: Sequence[Found]) -> list[Measured]:
    """The numbers of runs, over the seeds of those that differ in the seed alone.

    A number that not every seed has is over those that have it, and left out if none
    has it.
    """
    arms: dict[str, tuple[Point, dict[int, dict[str, float]]]] = {}
    for fields, numbers in found:
        measures = {name: value for name, value in numbers.items() if value is not None}
        arm = arm_of(fields)
        _, by_seed = arms.setdefault(repr(arm), (arm, {}))
        by_seed[fields["seed"]] = measures
    rows = []
    for arm, by_seed in arms.values():
        for name in dict.fromkeys(name for found in by_seed.values() for name in found):
            values = {s: found[name] for s, found in by_seed.items() if name in found}
            rows.append(
                Measured(arm, name, values, *seed_interval(list(values.values())))
            )
    return rows


def seeds_table(measured: Sequence[Measured]) -> str:
    """What `over_seeds` found, as Markdown."""
    lines = ["| arm | measure | mean | 95% interval over seeds | by seed |"]
    lines.append("|---|---|---|---|---|")
    for row in measured:
        arm = ", ".join(f"{field}={value}" for field, value in row.arm.items())
        interval = "–"
        if row.interval:
            interval = "[{:.4g}, {:.4g}]".format(*row.interval)
        by_seed = ", ".join(f"{value:.4g}" for _, value in sorted(row.values.items()))
        cells = [arm or "all", row.name, f"{row.mean:.4g}", interval, by_seed]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _make_run(config: str, point: Any) -> Run:
    if not isinstance(point, Mapping):
        raise UserError(f"sweep() of {config} has the point {point!r}, not fields")
    changes = tuple(f"--config.{name}={value}" for name, value in point.items())
    loaded = config_lib.flatten(config_lib.load([f"--config={config}", *changes]))
    for name, value in point.items():
        wanted = list(value) if isinstance(value, tuple) else value
        if loaded[name] != wanted:
            raise UserError(
                f"sweep() of {config}: {name}={value!r} arrives as {loaded[name]!r}"
            )
    name = ",".join(f"{field}={value}" for field, value in point.items()) or "base"
    plain = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", name)
    if plain != name or len(plain) > _NAME_LENGTH:
        plain = f"{plain[:_NAME_LENGTH]}-{config_lib.digest(name)[:8]}"
    return Run(plain, dict(point), changes, loaded)
