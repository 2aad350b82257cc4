"""Workdirs in a bucket that has no locks, renames or appending, and that fails."""

import contextlib
import hashlib
import itertools
import json
import os
import threading

import numpy as np
import pytest
from full_disk import FullFor
from ml_collections import ConfigDict
from stand_in import (
    Bucket,
    Lost,
    contents,
    lose_machine,
    lost_machines,
    record_mirrors,
)

from pav_jax.core.errors import UserError
from pav_jax.pipeline.manifest import read_manifest
from pav_jax.pipeline.runner import Stage, run_stages
from pav_jax.storage import artifacts, buckets, mirror

REMOTE = "gs://bucket/run"
bucket = pytest.fixture(autouse=True)(contents)


def config(size=2):
    return ConfigDict(dict(name="demo", seed=0, size=size)).lock()


def make_stages(did, sync=lambda: None):
    """Two stages that write files in turn, each unless it is there."""

    def run(context):
        size = context.config.get("size", 2)
        for number in range(size):
            path = context.directory / f"shard-{number}.npz"
            if not path.with_suffix(".json").exists():
                did.append((context.stage, number))
                artifacts.write_arrays(path, {"size": np.full(size, size)})
                artifacts.write_json(path.with_suffix(".json"), {})
            else:
                artifacts.read_arrays(path)
            sync()

    return [
        Stage("first", run, (), ("seed",)),
        Stage("second", run, ("first",), ("size",)),
    ]


def test_the_bucket_has_what_the_folder_has(bucket):
    did = []
    run_stages(make_stages(did), config(), REMOTE)
    local = buckets.local_folder(REMOTE)
    found = bucket()
    assert found.pop("owner.txt")
    assert found == {
        path.relative_to(local).as_posix(): path.read_bytes()
        for path in local.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }
    assert {"config.json", "second/manifest.json", "second/shard-1.npz"} <= found.keys()

    before = bucket()
    run_stages(make_stages(did), config(), REMOTE)  # from the local folder
    lose_machine()
    run_stages(make_stages(did), config(), REMOTE)  # from the bucket
    assert len(did) == 4
    after = bucket()
    assert before.pop("owner.txt") != after.pop("owner.txt") and before == after


def complete(found):
    """The stages whose manifest is in the bucket; all is there as it says."""
    done = set()
    for name in found:
        folder, _, file = name.rpartition("/")
        if file == "manifest.json" and not folder.endswith(".new"):
            files = json.loads(found[name])["files"]
            for name, expected in files.items():
                content = found[f"{folder}/{name}"]
                assert hashlib.sha256(content).hexdigest() == expected["sha256"]
            done.add(folder)
    return done


@pytest.mark.parametrize("change", [False, True], ids=["new", "after a change"])
def test_a_machine_lost_at_any_moment(bucket, monkeypatch, change):
    """What a manifest in the bucket says is there, and what is there is not redone."""
    if change:
        run_stages(make_stages([]), config(), REMOTE)
    start = {name: file.getvalue() for name, file in Bucket.store.items()}
    size = 3 if change else 2
    mirrors = record_mirrors(monkeypatch)
    sync = lambda: mirrors[-1].sync()  # noqa: E731
    finished = False
    for moments in lost_machines(start):
        with contextlib.suppress(Lost, UserError):
            run_stages(make_stages([], sync), config(size), REMOTE)
            finished = True
        found, again = bucket(), []
        done = complete(found)
        assert not change or "first" in done
        lose_machine()
        run_stages(make_stages(again), config(size), REMOTE)
        for stage, number in again:
            assert f"{stage}.new/shard-{number}.json" not in found
            if change:  # its finished folder was of other terms
                assert stage == "second"
            else:
                assert stage not in done
                assert f"{stage}/shard-{number}.json" not in found
        assert complete(bucket()) == {"first", "second"}
        manifest = read_manifest(buckets.local_folder(REMOTE) / "second")
        assert len(manifest["files"]) == 2 * size
        if finished:
            assert moments > 15
            break


@pytest.mark.parametrize("clock", ["runs", "is set back"])
def test_what_is_copied_at_once_is_there_stage_by_stage(bucket, monkeypatch, clock):
    """A machine is lost while the first copying goes on, of a stage and a half."""
    mirrors, local = record_mirrors(monkeypatch), buckets.local_folder(REMOTE)

    def sync():
        if (local / "second.new" / "shard-0.json").exists():
            if clock == "is set back":
                for number, path in enumerate(sorted(local.rglob("*.*"))):
                    os.utime(path, ns=(0, 10**18 + number))
            mirrors[-1].sync()
            raise Lost

    halves = 0
    for _ in lost_machines({}):
        with contextlib.suppress(Lost, UserError):
            run_stages(make_stages([], sync), config(), REMOTE)
        found, again = bucket(), []
        lose_machine()
        run_stages(make_stages(again), config(), REMOTE)
        assert ("first", 0) not in again or "first/manifest.json" not in found
        for number in range(2):
            if f"second.new/shard-{number}.json" in found:
                assert f"second.new/shard-{number}.npz" in found
                assert {stage for stage, _ in again} <= {"second"} or clock != "runs"
                halves += 1
        assert complete(bucket()) == {"first", "second"}
        if halves > 1:
            break


def test_a_stage_begun_anew_with_other_terms(bucket, monkeypatch):
    """What is in the bucket of the stage as it was is not taken for what it is now."""
    mirrors = record_mirrors(monkeypatch)

    def stop_after(count):
        calls = itertools.count(1)

        def sync():
            mirrors[-1].sync()
            if next(calls) == count:
                raise Lost

        return sync

    with pytest.raises(Lost):  # in `second`, after a shard of it
        run_stages(make_stages([], stop_after(3)), config(2), REMOTE)
    start = {name: file.getvalue() for name, file in Bucket.store.items()}
    assert any("second.new/shard-0" in name for name in start)
    for moments in range(10):
        Bucket.store.clear()
        lose_machine()
        for name, value in start.items():
            Bucket().pipe_file(name, value)
        Bucket.left = moments
        with contextlib.suppress(Lost, UserError):
            run_stages(make_stages([], stop_after(1)), config(3), REMOTE)
        lose_machine()
        run_stages(make_stages([]), config(3), REMOTE)
        second = buckets.local_folder(REMOTE) / "second"
        for path in second.glob("*.npz"):
            assert artifacts.read_arrays(path)["size"].tolist() == [3, 3, 3]


def test_a_bucket_that_fails_at_the_end_loses_nothing(bucket):
    did = []
    Bucket.left = 1  # the token of the run
    with pytest.raises(UserError, match="Lost.*all is in .*the same command copies it"):
        run_stages(make_stages(did), config(), REMOTE)
    assert bucket().keys() == {"owner.txt"}
    Bucket.left = 10**9
    run_stages(make_stages(did), config(), REMOTE)
    assert len(did) == 4 and complete(bucket()) == {"first", "second"}


def test_a_run_that_another_took_over_writes_no_more(bucket, monkeypatch, tmp_path):
    ours = mirror.Mirror(REMOTE, tmp_path / "ours")
    (tmp_path / "ours").mkdir()
    ours.fetch()
    (tmp_path / "theirs").mkdir()
    mirror.Mirror(REMOTE, tmp_path / "theirs").fetch()
    (tmp_path / "ours" / "file").write_text("late")
    with pytest.raises(UserError, match="another process has begun to work in gs://"):
        ours.sync()
    assert bucket().keys() == {"owner.txt"}
    # The thread that follows ends the process by SIGTERM.
    killed = threading.Event()
    monkeypatch.setattr(mirror.os, "kill", lambda *_: killed.set())
    monkeypatch.setattr(mirror, "_SECONDS", 0.0)
    ours.follow(threading.Event())
    assert killed.is_set()


def test_a_full_disk_here_does_not_end_the_copying(bucket, monkeypatch, capsys):
    """The run itself will hear of it, when it writes."""
    local = buckets.local_folder(REMOTE)
    local.mkdir(parents=True)
    ours = mirror.Mirror(REMOTE, local)
    ours.fetch()
    killed, stop, turns = [], threading.Event(), []
    monkeypatch.setattr(mirror.os, "kill", lambda *arguments: killed.append(arguments))
    monkeypatch.setattr(mirror, "_SECONDS", 0.0)
    full = FullFor(monkeypatch)
    full.text = ".mirror.json"
    sync = ours.sync

    def counted():
        turns.append(1)
        if len(turns) == 3:
            full.text = ""
            stop.set()
        (local / f"{len(turns)}.txt").write_text("x")
        sync()

    monkeypatch.setattr(ours, "sync", counted)
    ours.follow(stop)
    assert len(turns) == 3 and full.failed == 2 and not killed
    assert capsys.readouterr().err.count("No space left on device; tries again") == 2
    assert bucket().keys() == {"owner.txt", "1.txt", "2.txt", "3.txt"}


def test_a_bucket_with_other_things(bucket):
    Bucket().pipe_file("gs://bucket/run/thesis.tex", b"")
    with pytest.raises(UserError, match="is not empty, and what is in it was not made"):
        run_stages(make_stages([]), config(), REMOTE)
    assert bucket().keys() == {"thesis.tex"}


def test_a_bucket_of_another_experiment(bucket):
    run_stages(make_stages([]), config(), REMOTE)
    other = ConfigDict(dict(name="other", seed=0, size=2)).lock()
    with pytest.raises(UserError, match="holds the experiment 'demo'"):
        run_stages(make_stages([]), other, REMOTE)


def test_a_store_that_there_is_no_client_for():
    with pytest.raises(UserError, match="tape://bucket/run: .* one in gs://, s3://"):
        run_stages([], config(), "tape://bucket/run")
