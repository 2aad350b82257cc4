"""A run that is killed in every stage ends like one that never was, bit for bit.

`make soak` does the same with more deaths, also at any time.
"""

import itertools
import json
import os
import random

import pytest
from nursery import Nursery, differences, finished_shards, run_of

from pav_jax.distributed.signals import TERMINATED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    with Nursery.open(tmp_path_factory.mktemp("log") / "log") as nursery:
        yield nursery


@pytest.fixture(scope="module")
def whole(nursery, tmp_path_factory):
    """A run that was never killed, and the changes to the file system of each stage."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    workdir.mkdir()
    counts = workdir / "counts.json"
    assert nursery.run(run_of(workdir), counts=counts) == 0, nursery.log.read_text()
    return workdir, json.loads(counts.read_text())


def test_a_run_killed_in_every_stage(nursery, whole, tmp_path):
    """While the clock jumps by years, in each process and for the files between them;
    and one process has too little memory."""
    reference, changes = whole
    assert len(changes) > 12
    workdir, rng = tmp_path / "run", random.Random(0)
    shards = {}
    for place, (stage, count) in enumerate(changes.items()):
        # The last are of a folder that is renamed, and may be less than were counted.
        death = dict(within=workdir / stage, change=rng.randrange(count))
        name = ("SIGKILL", "SIGTERM")[place % 2]
        code = nursery.run(run_of(workdir), signal=name, clock="jumps", **death)
        assert code in (-9, TERMINATED), (stage, code, nursery.log.read_text()[-3000:])
        now = finished_shards(workdir)
        assert {shard: now.get(shard) for shard in shards} == shards  # none done again
        _set_times(workdir, rng)
        shards = finished_shards(workdir)
        if place == len(changes) // 2:
            # XLA ends a process in which it cannot allocate by SIGABRT or SIGSEGV.
            code = nursery.run(run_of(workdir), memory=128 << 20)
            assert code in (2, -6, -11), (code, nursery.log.read_text()[-3000:])
            shards = finished_shards(workdir)
    done = nursery.run(run_of(workdir), clock="jumps")
    assert done == 0, nursery.log.read_text()[-3000:]
    for manifest in workdir.glob("*/manifest.json"):
        assert 0 < json.loads(manifest.read_text())["seconds"] < 3_600
    assert not differences(reference, workdir)
    left = {path.name for path in workdir.iterdir()} - {"counts.json"}
    assert left == {path.name for path in reference.iterdir()} - {"counts.json"}


def _set_times(folder, rng):
    """Files and folders are a year old, or of a year ahead."""
    for path in [folder, *folder.rglob("*")]:
        second = path.lstat().st_mtime + rng.choice((-1, 1)) * 365 * 86_400
        os.utime(path, (second, second), follow_symlinks=False)


def _files(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _check_killed_everywhere(nursery, folder, command, *, stride=1):
    """Kills a command before every change to the file system, or before some, and runs
    it again: what it leaves is what one that was not killed leaves, and nothing else.

    Args:
      command: makes the arguments of a place for the output.
    """

    def place(name):
        (folder / name).mkdir(parents=True)
        return folder / name / "out"

    assert nursery.run(command(place("whole"))) == 0, nursery.log.read_text()[-2000:]
    expected = _files(folder / "whole")
    assert expected
    for change in itertools.count(step=stride):
        argv = command(place(str(change)))
        code = nursery.run(argv, signal="SIGKILL", within=folder, change=change)
        if code == 0:
            break  # it has made fewer changes
        assert code == -9
        assert nursery.run(argv) == 0, nursery.log.read_text()[-2000:]
        assert _files(folder / str(change)) == expected
    assert change > 0


def test_scoring(nursery, whole, tmp_path):
    workdir, _ = whole
    rows = [json.loads(line) for line in (workdir / "data" / "test.jsonl").open()]
    lines = [{"prompt": r["prompt"], "response": r["solution"]} for r in rows]
    source = tmp_path / "responses.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["score", f"--verifier={workdir}", f"--input={source}"]
    _check_killed_everywhere(
        nursery, tmp_path / "out", lambda out: [*command, f"--output={out}"], stride=4
    )


def test_labels_exported_and_imported(nursery, whole, tmp_path):
    workdir, _ = whole
    command = ["labels", "export", f"--labels={workdir}"]
    _check_killed_everywhere(
        nursery, tmp_path / "export", lambda out: [*command, f"--output={out}"]
    )
    source = tmp_path / "export" / "whole" / "out" / "responses" / "labels.jsonl"
    command = ["import", "--from=jsonl", f"--input={source}"]
    _check_killed_everywhere(
        nursery, tmp_path / "import", lambda out: [*command, f"--output={out}"]
    )
