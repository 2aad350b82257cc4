#!/usr/bin/env python3
"""Runs what docs/evidence.md rests on, and puts what was found on one page.

    launch/evidence.py --list
    launch/evidence.py tree beams

A name is that of a config in experiments/evidence/; without one, all are run. Each has
a folder below --root. What is finished there is not done again, so the same command
goes on after a stop. The page is evidence.md below --root.
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
from pav_jax.tools import sweeps  # noqa: E402

CONFIGS = HERE.parent / "experiments" / "evidence"
_PAGE = "evidence.md"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A config of experiments/evidence/, and where its results go.

    Attributes:
      name: of its file.
      config: FILE or FILE:VARIANT.
      folder: of its results.
      is_sweep: whether it defines `sweep()`; else it is of a laboratory.
      claim: the first line of its docstring.
      hardware: what the docstring says of the time that it takes.
    """

    name: str
    config: str
    folder: str
    is_sweep: bool
    claim: str
    hardware: str

    @property
    def command(self) -> list[str]:
        """As a user gives it."""
        tool, place = ["pav", "lab"], "--workdir"
        if self.is_sweep:
            tool, place = ["launch/sweep.py"], "--root"
        return [*tool, f"--config={self.config}", f"{place}={self.folder}"]


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
        "--root", metavar="DIR", help="default: runs/evidence, or runs/evidence-smoke"
    )
    parser.add_argument(
        "--smoke", action="store_true", help="at the smallest size: only that it runs"
    )
    parser.add_argument(
        "--list", action="store_true", help="run nothing, say what there is"
    )
    return parser.parse_args(argv)


def _run_all(arguments: argparse.Namespace) -> int:
    root = arguments.root or f"runs/evidence{'-smoke' * arguments.smoke}"
    if buckets.is_remote(root):
        raise UserError(f"--root={root} is in a bucket; give a folder of this machine")
    variant = ":smoke" if arguments.smoke else ""
    there = [_read(path, variant, root) for path in sorted(CONFIGS.glob("*.py"))]
    names = [one.name for one in there]
    for name in arguments.names:
        if name not in names:
            raise UserError(
                f"there is no evidence {name!r}; there are: {', '.join(names)}"
            )
    chosen = [one for one in there if one.name in (arguments.names or names)]
    codes = []
    for one in chosen:
        said = f"{one.name}: {one.claim}\n  {one.hardware}\n  {shlex.join(one.command)}"
        print(said, file=sys.stdout if arguments.list else sys.stderr)
        if not arguments.list:
            codes.append(_run(one, there))
    if arguments.list:
        return 0
    page = Path(root) / _PAGE
    text = _page(there).encode()
    artifacts.write_atomically(page, lambda file: file.write(text))
    print(page)
    failed = {code for code in codes if code}
    return (AGAIN if failed == {AGAIN} else 1) if failed else 0


def _read(path: Path, variant: str, root: str) -> Evidence:
    """A config file, by its docstring and what it defines."""
    file = os.path.relpath(path)
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    sentences = re.split(r"\n\n|(?<=[.?!])\s+", text)
    times = (one for one in sentences if re.search(r"\b(hour|minute)s?\b", one))
    return Evidence(
        name=path.stem,
        config=f"{file}{variant}",
        folder=f"{root.rstrip('/')}/{path.stem}",
        is_sweep=config_lib.has(file, "sweep"),
        claim=text.partition("\n")[0],
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
    arguments = one.command[1:]
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


def _page(there: Sequence[Evidence]) -> str:
    parts = [
        "# Evidence",
        "Written by launch/evidence.py. Hypotheses and the rules of selection are in"
        " the head of each config; docs/evidence.md says what is made of the results.",
    ]
    for one in there:
        parts += [f"## {one.name}: {one.claim}", f"    {shlex.join(one.command)}"]
        parts += _of_sweep(one) if one.is_sweep else _of_laboratory(one)
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _of_sweep(one: Evidence) -> list[str]:
    """What is missing, and the table over seeds of what is there."""
    runs = sweeps.load(one.config)
    found = [(run, run.results(one.folder)) for run in runs]
    done = [(run, results) for run, results in found if results is not None]
    parts = []
    if len(done) < len(runs):
        parts.append(f"Not finished: {len(done)} of {counted(len(runs), 'run')} done.")
    if measured := sweeps.over_seeds(one.config, done):
        parts.append(sweeps.seeds_table(measured))
    return parts


def _of_laboratory(one: Evidence) -> list[str]:
    """Its table, if that is of the config as it is now."""
    folder = Path(one.folder)
    config = config_lib.flatten(config_lib.load([f"--config={one.config}"]))
    table, results = folder / "table.md", folder / "results.json"
    if table.exists() and artifacts.read_json(results)["config"] == config:
        return [table.read_text()]
    return ["Not finished."]


if __name__ == "__main__":
    sys.exit(main())
