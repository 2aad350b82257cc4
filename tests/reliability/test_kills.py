"""A run that is killed in every stage ends like one that never was, bit for bit.

`make soak` does the same with more deaths, also at any time.
"""

import json
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
    reference, changes = whole
    assert len(changes) > 12
    workdir, rng = tmp_path / "run", random.Random(0)
    deaths, shards = 0, {}
    for place, (stage, count) in enumerate(changes.items()):
        # The last are of a folder that is renamed, and may be less than were counted.
        death = dict(within=workdir / stage, change=rng.randrange(count))
        name = ("SIGKILL", "SIGTERM")[place % 2]
        code = nursery.run(run_of(workdir), signal=name, **death)
        assert code in (-9, TERMINATED), (stage, code, nursery.log.read_text()[-3000:])
        deaths += 1
        now = finished_shards(workdir)
        assert {shard: now.get(shard) for shard in shards} == shards  # none done again
        shards = now
    assert deaths == len(changes)
    assert nursery.run(run_of(workdir)) == 0, nursery.log.read_text()[-3000:]
    assert not differences(reference, workdir)
    left = {path.name for path in workdir.iterdir()} - {"counts.json"}
    assert left == {path.name for path in reference.iterdir()} - {"counts.json"}
