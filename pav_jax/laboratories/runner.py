"""Runs a laboratory: its cells one by one, then the results, a table and a figure.

A cell is one setting, measured over all seeds. Each is kept as a file of the workdir
under the digest of what it depends on, so a run that was stopped goes on, and a change
to the config measures again only what it changes.
"""

from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from pav_jax.core import config as config_lib
from pav_jax.core import rules
from pav_jax.core.errors import UserError
from pav_jax.core.progress_bar import progress_bar
from pav_jax.laboratories import (
    planted_cells,
    quality_cells,
    tree_cells,
    update_cells,
)
from pav_jax.storage import artifacts, buckets

LABORATORIES: dict[str, ModuleType] = {
    "planted": planted_cells,
    "quality": quality_cells,
    "tree": tree_cells,
    "update": update_cells,
}


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Measures what is not yet measured; writes results.json, table.md, figure.svg.

    Returns:
      The path of the results.

    Raises:
      UserError: a field of the config is wrong, there are no two seeds, or the workdir
        is in a bucket or cannot be written.
    """
    laboratory = check(config)
    if buckets.is_remote(workdir):
        raise UserError(f"a laboratory writes to this machine only; {workdir} is not")
    workdir = Path(workdir)
    cells = laboratory.cells(config)
    measured = []
    for cell in progress_bar(iterable=cells, desc=config.name, unit="cell"):
        path = workdir / "cells" / f"{config_lib.digest(cell)}.json"
        if not path.is_file():
            artifacts.write_json(path, cell | laboratory.measure(cell))
        measured.append(artifacts.read_json(path))
    results = {"config": config_lib.flatten(config), "cells": measured}
    results |= laboratory.summary(measured)
    artifacts.write_json(workdir / "results.json", results)
    artifacts.write_text(workdir / "table.md", laboratory.table(results))
    artifacts.write_text(workdir / "figure.svg", laboratory.figure(results))
    return workdir / "results.json"


def check(config: ConfigDict) -> ModuleType:
    """The laboratory of a config.

    Raises:
      UserError: a field is misspelt, missing, of a wrong type or out of range, or two
        do not go together; it names them, and what is allowed.
    """
    known = {"laboratory": rules.one_of(*LABORATORIES)}
    if (name := config.get("laboratory")) is None:
        raise UserError(rules.missing("laboratory", known))
    rules.check("laboratory", name, known)
    laboratory = LABORATORIES[name]
    _check_entries(config, laboratory.ENTRIES)
    fields = known | {
        "name": rules.TEXT,
        "seeds": rules.several(rules.COUNT, "whole numbers, 0 or more"),
        **laboratory.fields(config),
    }
    values = config_lib.flatten(config)
    for field, value in values.items():
        rules.check(field, value, fields)
    for field, rule in fields.items():
        if rule.needed and field not in values:
            raise UserError(rules.missing(field, fields))
    if len(config.seeds) < 2:
        raise UserError("config.seeds has no two seeds, which intervals need; add one")
    if found := next(laboratory.contradictions(config), None):
        raise UserError(found)
    return laboratory


def _check_entries(config: ConfigDict, holder: str) -> None:
    """Raises UserError unless `holder` is a section of at least one section."""
    entries = config.get(holder)
    if not isinstance(entries, ConfigDict) or not len(entries):
        raise UserError(
            f"config.{holder} must be a section, with a section for each entry and at"
            " least one"
        )
    for name in entries:
        if not isinstance(entries[name], ConfigDict):
            raise UserError(
                f"config.{holder}.{name} is {entries[name]!r}; it must be a section"
            )
