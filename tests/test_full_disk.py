"""Full disks: `pav` says which file it cannot write, and goes on once there is room.

Those of `pav score`, `pav export` and prepared datasets are tested beside these.
"""

import json
import os
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from full_disk import FullFor, check_message, small_disk
from tiny import byte_tokenizer

import pav_jax.pipeline
from pav_jax.core.errors import UserError, unwritable
from pav_jax.core.ledger import Ledger
from pav_jax.main import main
from pav_jax.pipeline import attempts, shards
from pav_jax.pipeline.manifest import read_manifest
from pav_jax.pipeline.runner import Stage
from pav_jax.storage import artifacts, checkpoints
from pav_jax.train.events import Events

CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict(dict(name="demo", seed=0))
"""
disk = pytest.fixture(small_disk)


@pytest.fixture
def pav_run(monkeypatch, tmp_path):
    """`pav run` of a pipeline with one stage, in a workdir."""
    fake = types.ModuleType("pav_jax.pipeline.stages")
    monkeypatch.setitem(sys.modules, "pav_jax.pipeline.stages", fake)
    monkeypatch.setattr(pav_jax.pipeline, "stages", fake, raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    config = tmp_path / "demo.py"
    config.write_text(CONFIG)

    def run(work, workdir) -> int:
        fake.stages = lambda config, *_: [Stage("one", work, (), ("seed",))]
        return main(["run", f"--config={config}", f"--workdir={workdir}"])

    return run


def _append_lines(folder):
    for step in range(1000):
        artifacts.append_line(folder / "metrics.jsonl", {"step": step, "x": "y" * 100})


def _write_events(folder):
    events = Events(folder, 0)
    for step in range(1000):
        events.scalars(step, {"a" * 40: 1.0, "b" * 40: 2.0})
    events.close()


# What a stage may write -> (how, the bytes left for it, the name in the message).
WRITERS = {
    "arrays": (
        lambda folder: artifacts.write_arrays(folder / "x.npz", {"x": np.ones(50_000)}),
        100_000,
        "x.npz",
    ),
    "records": (
        lambda folder: artifacts.write_jsonl(folder / "x.jsonl", ["y" * 99] * 999),
        20_000,
        "x.jsonl",
    ),
    "lines": (_append_lines, 20_000, "metrics.jsonl"),
    "events": (_write_events, 20_000, "one.new"),
    "ledger": (lambda folder: shards.write_ledger(folder, Ledger()), 0, "ledger.json"),
    "tokenizer": (
        lambda folder: byte_tokenizer().save(folder / "tokenizer.model"),
        0,
        "tokenizer.model",
    ),
    "params": (
        lambda folder: checkpoints.save_params(
            folder / "params", {"x": jax.random.normal(jax.random.key(0), (100_000,))}
        ),
        200_000,
        "params",
    ),
    "manifest": (lambda folder: None, 0, "manifest.json"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_stage_on_a_full_disk(disk, pav_run, capfd, name):
    write, left, words = WRITERS[name]

    def work(context):
        if is_full:
            disk.fill(left)
        write(context.directory)

    is_full = True
    assert pav_run(work, disk.root / "out") == 2
    check_message(capfd.readouterr().err, words)
    disk.make_room()
    is_full = False
    assert pav_run(work, disk.root / "out") == 0
    assert "one: resumes after" in capfd.readouterr().err
    files = read_manifest(disk.root / "out" / "one")["files"]
    # Nothing is left of what was cut short.
    assert not [name for name in files if "tmp" in name or "partial" in name]


def test_a_run_that_begins_on_a_full_disk(disk, pav_run, capfd):
    disk.fill()
    assert pav_run(lambda context: None, disk.root / "out") == 2
    check_message(capfd.readouterr().err, "config.json")
    disk.make_room()
    assert pav_run(lambda context: None, disk.root / "out") == 0


def test_checkpoints_on_a_full_disk(disk, pav_run, capfd):
    """The error of an asynchronous save comes later; the last one whole is kept."""
    seen = []

    def state(step):
        key = jax.random.key(step)
        return {"step": jnp.int32(step), "x": jax.random.normal(key, (100_000,))}

    def work(context):
        folder = context.directory / "checkpoints"
        with checkpoints.Checkpoints(folder) as kept:
            found = kept.restore(state(0))
            first = 0 if found is None else int(found["step"])
            if first:
                np.testing.assert_array_equal(found["x"], state(first)["x"])
            seen.append(first)
            for step in range(first + 1, 5):
                if step == 3 and is_full:
                    kept._manager.wait_until_finished()
                    disk.fill(200_000)
                kept.save(step, state(step))

    is_full = True
    for _ in range(2):
        assert pav_run(work, disk.root / "out") == 2
        check_message(capfd.readouterr().err, "one.new/checkpoints")
        disk.make_room()
    is_full = False
    assert pav_run(work, disk.root / "out") == 0
    assert seen == [0, 2, 2]


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "started.json",
        "x.npz",
        "ledger.json",
        "/events_",
        "manifest.json",
    ],
)
def test_each_file_in_turn(tmp_path, pav_run, monkeypatch, capsys, name):
    """Without a small disk: the last thing that a writer does fails."""

    def work(context):
        artifacts.write_arrays(context.directory / "x.npz", {"x": np.ones(3)})
        shards.write_ledger(context.directory, Ledger())
        _write_events(context.directory)

    full = FullFor(monkeypatch)
    full.text = name
    assert pav_run(work, tmp_path / "out") == 2
    check_message(capsys.readouterr().err, "one.new" if "events" in name else name)
    assert full.failed
    full.text = ""
    assert pav_run(work, tmp_path / "out") == 0


def test_appending_to_what_is_full(tmp_path, pav_run, capsys):
    """Without a small disk: Linux has a file that is always full."""

    def work(context):
        path = context.directory / "metrics.jsonl"
        if is_full:
            path.symlink_to("/dev/full")
        else:
            path.unlink()
        artifacts.append_line(path, {"step": 1})

    is_full = True
    assert pav_run(work, tmp_path / "out") == 2
    check_message(capsys.readouterr().err, "metrics.jsonl")
    is_full = False
    assert pav_run(work, tmp_path / "out") == 0
    assert (tmp_path / "out/one/metrics.jsonl").read_text() == '{"step": 1}\n'


def test_lines_that_are_appended(tmp_path):
    path = tmp_path / "x.jsonl"
    for record in ({"a": "ö"}, 2):
        artifacts.append_line(path, record)
    assert [*map(json.loads, path.read_text().splitlines())] == [{"a": "ö"}, 2]
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.append_line(path, float("nan"))
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(UserError, match=r"cannot write .*absent/x: No such file"):
        artifacts.append_line(tmp_path / "absent" / "x", 1)


def test_the_clock_goes_on_when_there_is_room_again(tmp_path, pav_run, monkeypatch):
    monkeypatch.setattr(attempts, "_TICK_SECONDS", 0.01)
    full = FullFor(monkeypatch)

    def work(context):
        def wait_for(what):
            end = time.monotonic() + 30
            while not what():
                assert time.monotonic() < end
                time.sleep(0.01)

        started = context.directory / "started.json"
        full.text = "started.json"
        wait_for(lambda: full.failed > 2)
        full.text = ""
        before = artifacts.read_json(started)["seconds"]
        wait_for(lambda: artifacts.read_json(started)["seconds"] > before)

    assert pav_run(work, tmp_path / "out") == 0


def _chained(error, cause):
    try:
        try:
            raise cause
        except type(cause):
            raise error  # noqa: B904
    except type(error) as raised:
        return raised


FULL = OSError(28, "No space left on device", "x")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FULL, "No space left on device"),
        (OSError(122, "Disk quota exceeded"), "Disk quota exceeded"),
        (OSError(30, "Read-only file system"), "Read-only file system"),
        (OSError(2, "No such file or directory"), ""),
        (ValueError("x: No space left on device [os_error_code='28']"), FULL.strerror),
        (_chained(RuntimeError("the archive is not closed"), FULL), FULL.strerror),
        (_chained(RuntimeError("the archive is not closed"), KeyError("x")), ""),
        (None, ""),
    ],
)
def test_what_a_full_disk_is(error, reason):
    assert unwritable(error) == reason


def test_what_no_writer_of_ours_wrote_is_named_too(tmp_path, pav_run, capsys):
    def work(context):
        raise OSError(28, os.strerror(28), "/some/file")

    assert pav_run(work, tmp_path / "out") == 2
    check_message(capsys.readouterr().err, "cannot write /some/file")

    def buggy(context):
        raise FileNotFoundError(2, os.strerror(2), "/some/file")

    with pytest.raises(FileNotFoundError):  # a bug of ours
        pav_run(buggy, tmp_path / "out")
