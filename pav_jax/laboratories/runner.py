"""Runs a laboratory: its cells one by one, then the results, a table and a figure.

A cell is one setting, measured over all seeds. Each is kept as a file of the workdir
under the digest of what it depends on, so a run that was stopped goes on, and a change
to the config measures again only what it changes.
"""

from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.core.progress_bar import progress
from pav_jax.laboratories import planted_cells, tree_cells
from pav_jax.storage import artifacts, buckets

LABORATORIES: dict[str, ModuleType] = {"planted": planted_cells, "tree": tree_cells}


def run(config: ConfigDict, workdir: str | Path) -> Path:
    """Measures what is not yet measured; writes results.json, table.md, figure.svg.

    Returns:
      The path of the results.

    Raises:
      UserError: `config.laboratory` is not one, there are no two seeds, or the workdir
        is in a bucket or cannot be written.
    """
    laboratory = LABORATORIES.get(config.get("laboratory"))
    if laboratory is None:
        raise UserError(
            f"config.laboratory is {config.get('laboratory')!r}; it should be one of"
            f" {', '.join(LABORATORIES)}"
        )
    if len(config.seeds) < 2:
        raise UserError("config.seeds has no two seeds, which intervals need; add one")
    if buckets.is_remote(workdir):
        raise UserError(f"a laboratory writes to this machine only; {workdir} is not")
    workdir = Path(workdir)
    cells = laboratory.cells(config)
    measured = []
    for cell in progress(iterable=cells, desc=config.name, unit="cell"):
        path = workdir / "cells" / f"{config_lib.digest(cell)}.json"
        if not path.is_file():
            artifacts.write_json(path, cell | laboratory.measure(cell))
        measured.append(artifacts.read_json(path))
    results = {"config": config_lib.flatten(config), "cells": measured}
    results |= laboratory.summary(measured)
    artifacts.write_json(workdir / "results.json", results)
    _write_text(workdir / "table.md", laboratory.table(results))
    _write_text(workdir / "figure.svg", laboratory.figure(results))
    return workdir / "results.json"


def _write_text(path: Path, text: str) -> None:
    artifacts.write_atomically(path, lambda file: file.write(text.encode()))
