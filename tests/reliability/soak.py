"""Kills runs many times, in every stage and at any time; `make soak` calls it.

    .venv/bin/python tests/reliability/soak.py [--deaths=100] [--seed=0]

A run is killed again and again until it ends, and then compared with one that never
was; then another starts, until there were so many deaths. Half of them are before a
change to the file system, in a stage that is drawn; half at a time that is drawn. It
prints a table, and its exit code is 1 if anything differs.
"""

import argparse
import collections
import json
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from nursery import Nursery, differences, finished_shards, run_of

from pav_jax.distributed.signals import TERMINATED


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deaths", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pav_soak_") as folder:
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{folder}/compiled")
        return _soak(Path(folder), arguments.deaths, random.Random(arguments.seed))


def _soak(folder: Path, deaths: int, rng: random.Random) -> int:
    reference = folder / "reference"
    reference.mkdir()
    died: collections.Counter[tuple[str, str]] = collections.Counter()
    runs = failures = 0
    with Nursery.open(folder / "log") as nursery:
        counts = reference / "counts.json"
        code = nursery.run(run_of(reference), counts=counts)
        assert code == 0, nursery.log.read_text()
        changes = json.loads(counts.read_text())
        start = time.monotonic()
        assert nursery.run(run_of(folder / "timed")) == 0
        seconds = time.monotonic() - start
        while died.total() < deaths:
            failures += _one_run(
                nursery, folder / "run", reference, rng, changes, seconds, died
            )
            runs += 1
            print(f"{died.total()} deaths, {runs} runs, {failures} faults", flush=True)
    print("\n| stage | SIGKILL | SIGTERM |\n|---|---|---|")
    for stage in dict.fromkeys(stage for stage, _ in died):
        kill, term = (died[stage, name] for name in ("SIGKILL", "SIGTERM"))
        print(f"| {stage.removesuffix('.new')} | {kill} | {term} |")
    return 1 if failures else 0


def _one_run(nursery, workdir, reference, rng, changes, seconds, died) -> int:
    """Kills a run until it ends; returns the number of faults, and prints them."""
    faults, shards = [], {}
    shutil.rmtree(workdir, ignore_errors=True)
    while True:
        name = rng.choice(("SIGKILL", "SIGTERM"))
        left = [stage for stage in changes if not _is_done(workdir, stage)]
        if left and rng.random() < 0.5:
            stage = rng.choice(left)
            death = dict(within=workdir / stage, change=rng.randrange(changes[stage]))
        else:
            death = dict(after=rng.uniform(0, seconds / 4))
        code = nursery.run(run_of(workdir), signal=name, **death)
        now = finished_shards(workdir)
        lost = [shard for shard in shards if now.get(shard) != shards[shard]]
        faults += [f"{shard} was done again" for shard in lost]
        shards = now
        if code == 0:
            break
        if code not in (-9, -15, TERMINATED):
            faults.append(f"exit code {code}: {nursery.log.read_text()[-3000:]}")
            break
        at_work = [path.name for path in workdir.glob("*.new")] or ["between stages"]
        died[at_work[0], name] += 1
    faults += [f"{name} differs" for name in differences(reference, workdir)]
    for fault in faults:
        print(fault)
    return len(faults)


def _is_done(workdir: Path, stage: str) -> bool:
    return (workdir / stage.removesuffix(".new")).exists()


if __name__ == "__main__":
    sys.exit(main())
