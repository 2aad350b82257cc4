"""`pav` commands that are killed while they run, and what they leave, compared."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

_HERE = Path(__file__).resolve().parent
ROOT = _HERE.parent
CONFIG = _HERE / "reliability" / "small.py"  # of a run that is small enough to kill


class Nursery:
    """Starts commands in forks of a process that has already imported what they need.

    Attributes:
      log: the file that all that they print is added to.
    """

    def __init__(self, process: subprocess.Popen, log: Path):
        self._process, self.log = process, log

    @classmethod
    @contextlib.contextmanager
    def open(cls, log: Path) -> Iterator["Nursery"]:
        """Yields one, and ends its process."""
        with subprocess.Popen(
            [sys.executable, str(_HERE / "reliability" / "victim.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            # What is compiled with few optimisations is as deterministic.
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        ) as process:
            assert process.stdout.readline() == "ready\n"
            yield cls(process, log)
            process.stdin.close()

    def run(self, argv: Sequence[Any], **death: Any) -> int:
        """Runs a command to its end; returns its exit code, or minus the signal.

        Args:
          argv: the arguments after "pav".
          death: `signal` and `within`, `change` or `after`; `clock`, `memory`; or
            `counts`: see `reliability/victim.py`.
        """
        job = {"argv": [*map(str, argv)], "log": str(self.log)}
        job |= {k: str(v) if isinstance(v, Path) else v for k, v in death.items()}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


def run_of(workdir: Path) -> list[str]:
    """The command that runs the small experiment."""
    return ["run", f"--config={CONFIG}", f"--workdir={workdir}"]


def differences(ours: Path, theirs: Path) -> list[str]:
    """Files of two finished runs that are not the same, of all but times.

    Parameters are compared as numbers, bit for bit, since the files of Orbax hold the
    time; results.json without the seconds of stages; and the page not at all, since it
    is made of results.json. Of the log of a training only the steps are compared: a
    line that spans a kill is a mean over the steps since, and RL's have seconds.
    """
    names = {_relative(path, root) for root in (ours, theirs) for path in _files(root)}
    return sorted(name for name in names if not _same(ours / name, theirs / name))


def _files(root: Path) -> Iterator[Path]:
    for stage in root.iterdir():
        if (stage / "manifest.json").exists():
            for path in stage.iterdir():
                if path.name not in ("manifest.json", "index.html"):
                    yield path


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _same(ours: Path, theirs: Path) -> bool:
    if not ours.exists() or not theirs.exists():
        return False
    if ours.name == "params":
        one, other = params_of(ours), params_of(theirs)
        return one.keys() == other.keys() and all(
            one[name].tobytes() == other[name].tobytes() for name in one
        )
    if ours.name == "metrics.jsonl":
        one, other = (
            [json.loads(line)["step"] for line in path.read_text().splitlines()]
            for path in (ours, theirs)
        )
        return one == other
    if ours.name == "results.json":
        one, other = (json.loads(path.read_text()) for path in (ours, theirs))
        for found in (one, other):
            del found["stages"], found["made_on"]
        return one == other
    return ours.read_bytes() == theirs.read_bytes()


def params_of(path: Path) -> dict[str, np.ndarray]:
    """The arrays that Orbax wrote at `path`, by their places."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(path)
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in leaves}


def finished_shards(workdir: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each finished shard, by stage and name; the stage may be at
    work. A shard is finished once its ledger is there, which is written last."""
    found = {}
    for path in workdir.glob("*/shard-*[0-9].json"):
        stage = path.parent.name.removesuffix(".new")
        stat = path.stat()
        found[f"{stage}/{path.name}"] = (stat.st_ino, stat.st_mtime_ns)
    return found
