#!/usr/bin/env python3
"""Runs the configs of a folder, and puts what was found on one page.

    launch/evidence.py --list
    launch/evidence.py tree beams
    launch/evidence.py --configs=experiments/paper --page=docs/paper.md fig10_prediction

A name is that of a config in --configs; without one, all are run. Each has a folder
below --root. What is finished there is not done again, so the same command goes on
after a stop; nor is what is finished with the same config in runs/evidence/.

What runs have measured is kept in --tables, as NAME.json. The page has these numbers
also where the folders of the runs are gone, or are on another machine.
"""

import argparse
import ast
import dataclasses
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parent / ".venv" / "bin" / "python"
if __name__ == "__main__" and PYTHON.exists() and Path(sys.prefix) != PYTHON.parents[1]:
    # As for the other launchers, what `make setup` made comes before what is active.
    os.execv(PYTHON, [str(PYTHON), __file__, *sys.argv[1:]])
sys.path.insert(0, str(HERE.parent))  # a checkout need not be installed

from pav_jax.core import config as config_lib  # noqa: E402
from pav_jax.core.counts import counted  # noqa: E402
from pav_jax.core.errors import UserError  # noqa: E402
from pav_jax.distributed.signals import (  # noqa: E402
    AGAIN,
    INTERRUPTED,
    TERMINATED,
    Terminated,
    terminable,
)
from pav_jax.storage import artifacts, buckets  # noqa: E402
from pav_jax.tools import kept_measures, sweeps, verdicts  # noqa: E402

CONFIGS = HERE.parent / "experiments" / "evidence"
_INTRO = "page.md"  # beside the configs: the page, with {NAME} where each goes


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A config, and where its results go.

    Attributes:
      name: of its file.
      config: FILE or FILE:VARIANT.
      own_folder: where its results go.
      folder: where they are, which may be that of another config that is the same.
      is_sweep: whether it defines `sweep()`; else it is of a laboratory.
      claim: the first line of its docstring.
      paper: what it says of the paper; may be empty.
      hardware: what the docstring says of the time that it takes.
    """

    name: str
    config: str
    own_folder: str
    folder: str
    is_sweep: bool
    claim: str
    paper: str
    hardware: str

    def command(self, folder: str) -> list[str]:
        """As a user gives it, for results in a folder."""
        tool, place = ["pav", "lab"], "--workdir"
        if self.is_sweep:
            tool, place = ["launch/sweep.py"], "--root"
        return [*tool, f"--config={self.config}", f"{place}={folder}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code.

    It is 0; 1 if one could not be finished; 2 for a mistake of the user; or one of
    `pav_jax.distributed.signals`.
    """
    arguments = _parse(argv)
    try:
        with terminable():
            return _run_all(arguments)
    except UserError as error:
        print("evidence:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument(
        "--configs", metavar="DIR", type=Path, default=CONFIGS, help="of config files"
    )
    parser.add_argument(
        "--root",
        metavar="DIR",
        help="default: runs/FOLDER, or runs/FOLDER-smoke, of the folder of configs",
    )
    parser.add_argument(
        "--page", metavar="FILE", type=Path, help="default: FOLDER.md below --root"
    )
    parser.add_argument(
        "--tables",
        metavar="DIR",
        type=Path,
        help="of tables of all measures, their figures, and NAME.json of each; default:"
        " a folder beside the page, of its name",
    )
    parser.add_argument(
        "--collect", action="store_true", help="run nothing, only write the page"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="at the smallest size: only that it runs"
    )
    parser.add_argument(
        "--list", action="store_true", help="run nothing, say what there is"
    )
    return parser.parse_args(argv)


def _run_all(arguments: argparse.Namespace) -> int:
    configs, smoke = arguments.configs.resolve(), "-smoke" * arguments.smoke
    root = arguments.root or f"runs/{configs.name}{smoke}"
    if buckets.is_remote(root):
        raise UserError(f"--root={root} is in a bucket; give a folder of this machine")
    variant = ":smoke" if arguments.smoke else ""
    there = _read_all(configs, variant, root)
    names = [one.name for one in there]
    for name in arguments.names:
        if name not in names:
            raise UserError(
                f"there is no config {name!r} in {os.path.relpath(configs)}; there are:"
                f" {', '.join(names) or 'none'}"
            )
    done = [] if configs == CONFIGS else _read_all(CONFIGS, variant, "runs/evidence")
    there = [_where_it_is_done(one, done) for one in there]
    chosen = [one for one in there if one.name in (arguments.names or names)]
    codes = []
    for one in chosen:
        if arguments.collect:
            continue
        command = shlex.join(one.command(one.folder))
        said = f"{one.name}: {one.claim}\n  {one.hardware}\n  {command}"
        print(said, file=sys.stdout if arguments.list else sys.stderr)
        if not arguments.list:
            codes.append(_run(one, [*there, *done]))
    if arguments.list:
        return 0
    page = arguments.page or Path(root) / f"{configs.name}.md"
    _write_page(page, arguments.tables or page.with_suffix(""), configs, there)
    print(page)
    failed = {code for code in codes if code}
    return (AGAIN if failed == {AGAIN} else 1) if failed else 0


def _read_all(configs: Path, variant: str, root: str) -> list[Evidence]:
    return [_read(path, variant, root) for path in sorted(configs.glob("[!_]*.py"))]


def _where_it_is_done(one: Evidence, others: Sequence[Evidence]) -> Evidence:
    """The same, in the folder of another that has the same config, if it is there."""
    for other in others:
        same = config_lib.load([f"--config={one.config}"]) == config_lib.load(
            [f"--config={other.config}"]
        )
        if same and not Path(one.folder).exists() and Path(other.folder).exists():
            return dataclasses.replace(one, folder=other.folder)
    return one


def _read(path: Path, variant: str, root: str) -> Evidence:
    """A config file, by its docstring and what it defines."""
    file = os.path.relpath(path)
    folder = f"{root.rstrip('/')}/{path.stem}"
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    sentences = re.split(r"\n\n|(?<=[.?!])\s+", text)
    times = (one for one in sentences if re.search(r"\b(hour|minute)s?\b", one))
    return Evidence(
        name=path.stem,
        config=f"{file}{variant}",
        own_folder=folder,
        folder=folder,
        is_sweep=config_lib.has(file, "sweep"),
        claim=text.partition("\n")[0],
        paper=" ".join(re.findall(r"^(The paper: .*?)(?:\n\n|\Z)", text, re.M | re.S)),
        hardware=" ".join(next(times, "its time is not known").split()),
    )


def _run(one: Evidence, there: Sequence[Evidence]) -> int:
    """Runs what is left of it; returns the exit code.

    A stage that another of `there` has done with the same fields is taken from it.
    """
    # As launch/local.sh finds it.
    pav = Path(sys.executable).with_name("pav")
    tool = [os.environ.get("PAV") or (str(pav) if pav.exists() else "pav")]
    if one.is_sweep:
        tool = [sys.executable, str(HERE / "sweep.py")]
    arguments = one.command(one.folder)[1:]
    if one.is_sweep:
        others = [x.folder for x in there if x.is_sweep and x is not one]
        arguments += [f"--reuse={x}" for x in others if Path(x).is_dir()]
    process = subprocess.Popen([*tool, *arguments])
    try:
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code:
        print(f"evidence: {one.name} ended with exit code {code}", file=sys.stderr)
    return code


# The page.


def _write_page(
    page: Path, tables: Path, configs: Path, there: Sequence[Evidence]
) -> None:
    """The page; and in a folder each table of all measures, and its figure."""
    sections = {one.name: _section(one, page, tables) for one in there}
    intro = configs / _INTRO
    if intro.exists():
        text = intro.read_text()
        for name, section in sections.items():
            text = text.replace(f"{{{name}}}", section)
    else:
        text = f"# {configs.name.capitalize()}\n\nWritten by launch/evidence.py. "
        text += "Hypotheses and the rules of selection are in the head of each config"
        text += "; docs/evidence.md says what is made of the results.\n\n"
        text += "\n\n".join(sections.values()) + "\n"
    _write(page, text.encode())


def _section(one: Evidence, page: Path, tables: Path) -> str:
    """What is on the page of one config."""
    command = shlex.join(one.command(one.own_folder))
    parts = [f"## {one.name}: {one.claim}", f"    {command}", one.paper]
    parts += (_of_sweep if one.is_sweep else _of_laboratory)(one, page, tables)
    return "\n\n".join(part.strip("\n") for part in parts if part)


def _of_sweep(one: Evidence, page: Path, tables: Path) -> list[str]:
    """What is missing, and the tables over seeds of what is there."""
    runs = sweeps.load(one.config)
    results = [(run, run.results(one.folder)) for run in runs]
    done = [(run, found) for run, found in results if found is not None]
    wanted = [{**run.point, "seed": run.config["seed"]} for run in runs]
    return _shown(one, sweeps.measure(one.config, done), wanted, page, tables)


def _of_laboratory(one: Evidence, page: Path, tables: Path) -> list[str]:
    """Its table, if that is of the config as it is now; or what it measures."""
    folder, config = Path(one.folder), _config(one)
    table, path = folder / "table.md", folder / "results.json"
    done = table.exists() and (results := artifacts.read_json(path))["config"] == config
    file = one.config.partition(":")[0]
    if not config_lib.has(file, "measures"):
        return [table.read_text() if done else "Not finished."]
    by_seed = config_lib.call(file, "measures", results) if done else {}
    wanted = [{"seed": seed} for seed in range(len(config["seeds"]))]
    rows = zip(*by_seed.values(), strict=True)
    found = [
        (fields, dict(zip(by_seed, map(float, row), strict=True)))
        for fields, row in zip(wanted, rows, strict=False)
    ]
    return _shown(one, found, wanted, page, tables)


def _shown(
    one: Evidence,
    found: list[sweeps.Found],
    wanted: Sequence[sweeps.Point],
    page: Path,
    tables: Path,
) -> list[str]:
    """Claims and a figure on the page, and all measures beside it; or all on it.

    Args:
      found: by the runs that are finished here.
      wanted: the fields of all runs, with their seeds.
    """
    kept_in = tables / f"{one.name}.json"
    kept = kept_measures.read(kept_in, _config(one))
    rows = {config_lib.digest(fields): row for fields, row in (*kept.found, *found)}
    keys = [config_lib.digest(fields) for fields in wanted]
    found = [(f, rows[key]) for f, key in zip(wanted, keys, strict=True) if key in rows]
    parts = []
    if len(found) < len(wanted):
        done = f"{len(found)} of {counted(len(wanted), 'run')} done"
        parts.append(f"Not finished: {done}.")
    if kept.other:
        parts.append(f"{kept_in.name} is of another config: {kept.other}.")
    if not found:
        return parts
    if kept.other:
        parts.append("It is left as it is; remove it to keep those of this config.")
    else:
        kept_measures.write(kept_in, _config(one), found)
    measured = sweeps.over_seeds(found)
    table = sweeps.seeds_table(measured)
    _write(tables / f"{one.name}.md", f"# {one.claim}\n\n{table}".encode())
    if not (claims := verdicts.of(one.config)):
        return [*parts, table]
    parts.append(verdicts.claims_table(claims, found))
    drawing, beside = tables / f"{one.name}.svg", os.path.relpath(tables, page.parent)
    drawn = verdicts.figure(measured) or verdicts.claims_figure(claims, found)
    if drawn:
        _write(drawing, drawn)
    if drawing.exists():
        parts.append(f"![{one.claim}]({beside}/{one.name}.svg)")
    return [*parts, f"Every measure: [{one.name}.md]({beside}/{one.name}.md)."]


def _config(one: Evidence) -> dict:
    return config_lib.flatten(config_lib.load([f"--config={one.config}"]))


def _write(path: Path, content: bytes) -> None:
    artifacts.write_bytes(path, content)


if __name__ == "__main__":
    sys.exit(main())
