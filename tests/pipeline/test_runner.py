"""Stages: what is skipped, what runs again and why, and that a kill loses nothing."""

import dataclasses
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from kills import dies_at, run_here
from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.distributed import devices, mesh
from pav_jax.pipeline import attempts
from pav_jax.pipeline.manifest import MANIFEST, read_manifest
from pav_jax.pipeline.runner import Stage, run_stages
from pav_jax.storage import artifacts

ROOT = Path(__file__).resolve().parents[2]
SHARDS = 4
FINISHED = {"policy", "rollouts", "labels"}


# A pipeline of three stages, where the seconds that a shard takes are not a field.


def _run_policy(context):
    weights = np.arange(10.0) * context.config.seed
    artifacts.write_arrays(context.directory / "policy.npz", {"weights": weights})


def _make_rollouts(pause):
    def run(context):
        weights = artifacts.read_arrays(context.input("policy") / "policy.npz")
        for shard in range(SHARDS):
            path = context.directory / "shards" / f"{shard}.jsonl"
            if not path.exists():
                time.sleep(pause)
                total = float(weights["weights"].sum()) + shard
                artifacts.write_jsonl(path, [total] * context.config.rollouts.n)

    return run


def _run_labels(context):
    shards = sorted((context.input("rollouts") / "shards").iterdir())
    totals = np.array([sum(artifacts.read_jsonl(shard)) for shard in shards])
    labels = {"labels": totals * context.config.labels.n_mc}
    artifacts.write_arrays(context.directory / "labels.npz", labels)


def make_stages(pause=0.0, computes=False, **replaced):
    """The pipeline, with the `run` of the stages named in `replaced` exchanged."""
    runs = dict(policy=_run_policy, rollouts=_make_rollouts(pause), labels=_run_labels)
    runs |= replaced
    inputs = dict(policy=(), rollouts=("policy",), labels=("rollouts",))
    fields = dict(policy=("seed",), rollouts=("rollouts.n",), labels=("labels",))
    return [
        Stage(name, runs[name], inputs[name], fields[name], computes=computes)
        for name in runs
    ]


def make_config(seed=1, n=3, n_mc=4, name="demo"):
    config = ConfigDict(dict(name=name, seed=seed, rollouts=dict(n=n, other=0)))
    config.labels = dict(n_mc=n_mc)
    return config.lock()


def finals(workdir):
    """All that an experiment leaves, but for the seconds it took."""
    found = {}
    for name in FINISHED:
        for path in (workdir / name).rglob("*"):
            if path.name == MANIFEST:
                manifest = read_manifest(path.parent)
                del manifest["seconds"]
                found[name] = manifest
            elif path.is_file():
                found[path.relative_to(workdir).as_posix()] = path.read_bytes()
    return found


class Killed(Exception):
    """What stops a stage in these tests."""


def stop(context):
    """A stage that writes two files, and then fails."""
    artifacts.write_json(context.directory / "half.json", 1)
    artifacts.write_json(context.directory / "other.json", 1)
    raise Killed


@pytest.fixture
def workdir(tmp_path):
    """An experiment that was run."""
    run_stages(make_stages(), make_config(), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def lines(workdir, capsys):
    """Runs the pipeline again; returns the lines it logs, without times."""
    capsys.readouterr()

    def run(config, **options):
        run_stages(make_stages(**options), config, workdir)
        text = re.sub(r"[\d.]+ s\b", "_ s", capsys.readouterr().err)
        return text.splitlines()

    return run


# What is left on disk.


def test_first_run(tmp_path, capsys):
    workdir = tmp_path / "a" / "b"
    run_stages(make_stages(), make_config(), workdir)
    assert {p.name for p in workdir.iterdir()} == FINISHED | {
        "config.json",
        ".pav.lock",
    }
    settings = artifacts.read_json(workdir / "config.json")
    assert settings["name"] == "demo" and settings["config"]["labels.n_mc"] == 4
    logged = capsys.readouterr().err.splitlines()
    assert logged[0] == "policy: runs"
    assert re.fullmatch(r"policy: done \([\d.]+ s\)", logged[1])


def test_manifest(workdir):
    manifest = read_manifest(workdir / "labels")
    assert manifest["stage"] == "labels"
    assert manifest["fields"] == {"labels.n_mc": 4}
    rollouts = read_manifest(workdir / "rollouts")
    assert manifest["needs"] == {"rollouts": rollouts["fingerprint"]}
    assert rollouts["files"].keys() == {f"shards/{i}.jsonl" for i in range(SHARDS)}
    assert manifest["seconds"] >= 0
    assert manifest["version"]


def test_the_same_run_elsewhere_has_the_same_fingerprints(workdir, tmp_path):
    run_stages(make_stages(), make_config(), tmp_path / "other")
    assert finals(workdir) == finals(tmp_path / "other")


# What runs again, and the reason that is given.


def test_what_is_done_is_skipped(lines, workdir):
    before = finals(workdir)
    assert lines(make_config(), policy=stop, rollouts=stop, labels=stop) == [
        "policy: done already (_ s)",
        "rollouts: done already (_ s)",
        "labels: done already (_ s)",
    ]
    assert finals(workdir) == before


def test_changed_field(lines):
    again = lines(make_config(n_mc=8))
    assert again[1:] == [
        "rollouts: done already (_ s)",
        "labels: runs again, since labels.n_mc changed from 4 to 8",
        "labels: done (_ s)",
    ]


def test_stage_that_ran_again_makes_others_run_again(lines):
    again = lines(make_config(seed=2))
    assert again[0] == "policy: runs again, since seed changed from 1 to 2"
    assert again[2] == "rollouts: runs again, since policy ran again"
    assert again[4] == "labels: runs again, since rollouts ran again"


def test_field_that_no_stage_reads_changes_nothing(lines):
    config = make_config().unlock()
    config.rollouts.other = 5
    assert all("done already" in line for line in lines(config.lock()))


def test_stage_that_reads_the_whole_config(tmp_path, capsys):
    whole = [Stage("page", _run_policy, needs=(), fields=("",))]
    run_stages(whole, make_config(), tmp_path)
    run_stages(whole, make_config(n=5), tmp_path)
    again = "page: runs again, since rollouts.n changed from 3 to 5"
    assert again in capsys.readouterr().err


def test_what_an_older_version_of_a_stage_made(tmp_path, capsys):
    """Is made again, and so is what it had begun; later stages only if it differs."""

    def run(revision, places=(), **replaced):
        found = make_stages(**replaced)
        found[1] = dataclasses.replace(found[1], revision=revision)
        capsys.readouterr()
        run_stages(found, make_config(), tmp_path / "run", reuse_from=places)
        return re.sub(r"[\d.]+ s\b", "_ s", capsys.readouterr().err).splitlines()

    run(0)
    assert "revision" not in read_manifest(tmp_path / "run" / "rollouts")
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    with pytest.raises(Killed):
        run(1, rollouts=stop)
    again = run(2, places=[tmp_path / "other"])
    assert again[1:] == [
        "rollouts: runs again, since it was made by an older version of this stage",
        "rollouts: done (_ s)",
        "labels: done already (_ s)",
    ]
    assert not (tmp_path / "run" / "rollouts" / "half.json").exists()
    assert all("done already" in line for line in run(2))
    assert run(1)[1].endswith("since it was made by a newer version of this stage")


def test_new_and_lost_fields(lines):
    config = make_config().unlock()
    config.labels.soft = True
    again = lines(config)[-2]
    assert again == "labels: runs again, since labels.soft is new"
    config.labels = dict(n_mc=5)
    again = lines(config)[-2]
    assert again == (
        "labels: runs again, since labels.n_mc changed from 4 to 5 (and 1 more)"
    )


def _cut(path):
    path.write_bytes(path.read_bytes()[:10])


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "damage, words",
    [
        (_cut, r"policy.npz is damaged \(size 10, expected \d+\)"),
        (_flip, r"policy.npz is damaged \(its content changed\)"),
        (Path.unlink, r"policy.npz is missing"),
    ],
)
def test_damaged_file_is_made_again(lines, workdir, damage, words):
    before = finals(workdir)
    damage(workdir / "policy" / "policy.npz")
    again = lines(make_config())
    assert re.fullmatch(f"policy: runs again, since {words}", again[0])
    # The same bytes came out, so what was made from them is still good.
    assert again[2:] == ["rollouts: done already (_ s)", "labels: done already (_ s)"]
    assert finals(workdir) == before


@pytest.mark.parametrize(
    "damage, word", [(_cut, "damaged"), (_flip, "damaged"), (Path.unlink, "missing")]
)
def test_damaged_manifest(lines, workdir, damage, word):
    before = finals(workdir)
    damage(workdir / "labels" / MANIFEST)
    assert lines(make_config())[-2] == (
        f"labels: runs again, since its manifest.json is {word}"
    )
    assert finals(workdir) == before


def test_until(tmp_path):
    run_stages(make_stages(), make_config(), tmp_path, until="rollouts")
    assert not (tmp_path / "labels").exists()
    with pytest.raises(UserError, match="'lables'.*policy, rollouts, labels"):
        run_stages(make_stages(), make_config(), tmp_path, until="lables")


# Stages that were stopped.


def test_stopped_stage_goes_on_with_its_files(lines, workdir):
    with pytest.raises(Killed):
        lines(make_config(n_mc=8), labels=stop)

    def finish(context):
        assert (context.directory / "half.json").exists()
        _run_labels(context)

    again = lines(make_config(n_mc=8), labels=finish)
    assert re.match("labels: resumes after _ s, since labels.n_mc changed", again[-2])
    assert (workdir / "labels" / "half.json").exists()


def test_first_attempt_that_was_stopped(tmp_path, capsys):
    with pytest.raises(Killed):
        run_stages(make_stages(labels=stop), make_config(), tmp_path)
    run_stages(make_stages(), make_config(), tmp_path)
    assert "labels: resumes after" in capsys.readouterr().err


def test_files_of_another_config_are_not_gone_on_from(tmp_path, capsys):
    with pytest.raises(Killed):
        run_stages(make_stages(labels=stop), make_config(), tmp_path)
    run_stages(make_stages(), make_config(n_mc=9), tmp_path)
    logged = capsys.readouterr().err
    assert "labels: starts over, since labels.n_mc changed from 4 to 9" in logged
    assert not (tmp_path / "labels" / "half.json").exists()


def test_failed_rerun_loses_nothing(lines, workdir):
    before = finals(workdir)
    with pytest.raises(Killed):
        lines(make_config(n_mc=8), labels=stop)
    assert finals(workdir) == before
    # And the old config still finds its result, the half-made one notwithstanding.
    assert lines(make_config(), labels=stop)[-1] == "labels: done already (_ s)"


def test_unfinished_folder_without_its_terms_is_not_trusted(tmp_path, capsys):
    with pytest.raises(Killed):
        run_stages(make_stages(labels=stop), make_config(), tmp_path)
    for text in ("", "[]", '{"fields": 1, "needs": 2, "seconds": 3}'):
        (tmp_path / "labels.new" / "started.json").write_text(text)
        with pytest.raises(Killed):
            run_stages(make_stages(labels=stop), make_config(), tmp_path)
        assert "starts over, since its started.json is" in capsys.readouterr().err


def test_seconds_add_up_over_attempts(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "_TICK_SECONDS", 0.02)

    def stop_late(context):
        time.sleep(0.3)
        raise Killed

    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(Killed):
            run_stages(make_stages(policy=stop_late), make_config(), tmp_path)
    run_stages(make_stages(), make_config(), tmp_path)
    seconds = read_manifest(tmp_path / "policy")["seconds"]
    assert 0.6 <= seconds <= time.monotonic() - start


def test_seconds_are_written_down_as_they_pass(tmp_path, monkeypatch):
    monkeypatch.setattr(attempts, "_TICK_SECONDS", 0.02)

    def look(context):
        path = context.directory / "started.json"
        for _ in range(10_000):
            if artifacts.read_json(path)["seconds"] >= 0.1:
                return
            time.sleep(0.02)
        raise AssertionError("the seconds stand still")

    run_stages(make_stages(policy=look)[:1], make_config(), tmp_path)


def test_devices_of_every_attempt_are_noted(tmp_path, monkeypatch):
    for here in ("8 TPU devices, jax 1", "8 TPU devices, jax 1", "1 GPU device, jax 2"):
        monkeypatch.setattr(devices, "here", lambda here=here: here)
        with pytest.raises(Killed):
            stages = make_stages(computes=True, labels=stop)
            run_stages(stages, make_config(), tmp_path)
    monkeypatch.setattr(devices, "here", lambda: "1 cpu device, jax 2")
    run_stages(make_stages(computes=True), make_config(), tmp_path)
    # A stage that is done keeps its own, and that is no part of what it depends on.
    noted = {x.parent.name: read_manifest(x.parent) for x in tmp_path.glob("*/manif*")}
    assert noted["policy"]["made_on"] == ["8 TPU devices, jax 1"]
    assert noted["labels"]["made_on"] == [
        "8 TPU devices, jax 1",
        "1 GPU device, jax 2",
        "1 cpu device, jax 2",
    ]


def test_a_stage_that_does_not_compute_asks_for_no_devices(tmp_path, monkeypatch):
    """Another process may hold them, and jax would wait without end."""

    def held():
        raise AssertionError("asked for devices")

    monkeypatch.setattr(devices, "here", held)
    run_stages(make_stages(), make_config(), tmp_path)
    assert read_manifest(tmp_path / "policy")["made_on"] == []
    with pytest.raises(AssertionError):
        run_stages(make_stages(computes=True), make_config(seed=2), tmp_path)


def test_an_attempt_of_before_devices_were_noted_goes_on(tmp_path, capsys):
    with pytest.raises(Killed):
        run_stages(make_stages(labels=stop), make_config(), tmp_path)
    path = tmp_path / "labels.new" / "started.json"
    started = artifacts.read_json(path)
    del started["made_on"]
    artifacts.write_json(path, started)
    run_stages(make_stages(computes=True), make_config(), tmp_path)
    assert "labels: resumes after" in capsys.readouterr().err
    assert read_manifest(tmp_path / "labels")["made_on"] == [devices.here()]


# What a stage may read.


def test_stage_sees_only_what_it_declared(tmp_path):
    def look(context):
        assert context.config.to_dict() == {"seed": 1}
        with pytest.raises(KeyError):
            context.input("labels")

    run_stages(make_stages(policy=look)[:1], make_config(), tmp_path)


def test_field_that_the_config_lacks(tmp_path):
    lacking = [Stage("policy", _run_policy, needs=(), fields=("sft.lr",))]
    with pytest.raises(UserError, match="no field 'sft.lr', which stage policy"):
        run_stages(lacking, make_config(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_impossible_orders(tmp_path):
    first, second, _ = make_stages()
    for wrong in ([second, first], [first, first]):
        with pytest.raises(ValueError):
            run_stages(wrong, make_config(), tmp_path)


# Whose the folder is.


def contents(folder):
    return {p: p.is_file() and p.read_bytes() for p in folder.rglob("*")}


def test_folder_of_another_experiment(workdir):
    before = contents(workdir)
    with pytest.raises(UserError, match="'demo'.*'gsm8k'.*another --workdir"):
        run_stages(make_stages(), make_config(name="gsm8k"), workdir)
    assert contents(workdir) == before


@pytest.mark.parametrize("name", ["notes.txt", "config.json"])
def test_folder_of_somebody_else(tmp_path, name):
    (tmp_path / name).write_text('{"name": "demo"}')
    before = contents(tmp_path)
    with pytest.raises(UserError, match="not empty.*another --workdir"):
        run_stages(make_stages(), make_config(), tmp_path)
    assert contents(tmp_path) == before


def test_damaged_settings(workdir):
    (workdir / "config.json").write_text("{")
    with pytest.raises(UserError, match="config.json is damaged.*delete it and run"):
        run_stages(make_stages(), make_config(), workdir)
    (workdir / "config.json").unlink()
    run_stages(make_stages(policy=stop, rollouts=stop), make_config(), workdir)


def test_not_a_folder(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="--workdir"):
            run_stages(make_stages(), make_config(), path)


def test_two_at_once(workdir):
    def run_another(context):
        who = rf"\(process {os.getpid()} on {socket.gethostname()}\)"
        with pytest.raises(UserError, match=f"another process is at work in .* {who}"):
            run_stages(make_stages(), make_config(), workdir)

    run_stages(make_stages(policy=run_another)[:1], make_config(seed=2), workdir)


# Kills. The programs below run in processes of their own, by `run_here`.


def run_slowly(workdir):
    print("ready", flush=True)
    run_stages(make_stages(pause=0.2), make_config(), workdir)


@pytest.mark.slow
def test_killed_at_random_until_done(workdir, tmp_path):
    target = tmp_path / "killed"
    rng = random.Random(0)
    kills = 0
    while True:
        with run_here(__file__, "run_slowly", target) as process:
            assert process.stdout.readline() == "ready\n"
            try:
                # The first three are too short for the three pauses of 0.2 s.
                code = process.wait(timeout=rng.uniform(0.0, 0.1 + 0.03 * kills))
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
                assert kills < 40
                continue
        assert code == 0
        break
    assert kills >= 3
    assert finals(target) == finals(workdir)
    assert {p.name for p in target.iterdir()} == {p.name for p in workdir.iterdir()}


def fork_off_and_die(workdir):
    def fork_and_die(context):
        alive, tell = os.pipe()
        if not os.fork():
            os.write(tell, b"!")
            time.sleep(20)
            os._exit(0)
        os.read(alive, 1)  # the worker is on its own before its parent dies
        print(os.getpid(), flush=True)
        os.kill(os.getpid(), 9)

    run_stages(make_stages(policy=fork_and_die), make_config(), workdir)


def test_lock_of_a_killed_process_is_free_though_its_worker_lives(tmp_path):
    process = run_here(__file__, "fork_off_and_die", tmp_path)
    process.stdout.readline()
    process.wait()
    run_stages(make_stages(), make_config(), tmp_path)


def kill_everywhere(finished, scratch):
    """Changes a finished run, dying at each change to the file system in turn."""
    finished, scratch = Path(finished), Path(scratch)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.fsync = lambda _: None  # Slow, and for power cuts: a kill does not notice.
    configs = dict(old=make_config(), new=make_config(seed=2, n_mc=8))

    changed = scratch / "changed"
    shutil.copytree(finished, changed)
    run_stages(make_stages(), configs["new"], changed)
    expected = {"old": finals(finished), "new": finals(changed)}

    point = 0
    while True:
        workdir = scratch / str(point)
        shutil.copytree(finished, workdir)
        _half_finish(workdir)
        if not dies_at(point, run_stages, make_stages(), configs["new"], workdir):
            break
        for name in FINISHED:
            folders = workdir / name, workdir / f"{name}.new"
            assert any(map(_is_whole, folders)), (point, name)
        for order in ["new"], ["old", "new"]:
            copy = scratch / "copy"
            shutil.copytree(workdir, copy)
            for name in order:
                run_stages(make_stages(), configs[name], copy)
                assert finals(copy) == expected[name], (point, order, name)
            assert {p.name for p in copy.iterdir()} == (
                FINISHED | {"config.json", ".pav.lock"}
            ), (point, order)
            shutil.rmtree(copy)
        _half_finish(workdir)
        shutil.rmtree(workdir)
        point += 1
    print(point)


def _is_whole(folder):
    try:
        files = read_manifest(folder)["files"]
        sizes = {name: (folder / name).stat().st_size for name in files}
    except (UserError, OSError):
        return False
    return all(sizes[name] == files[name]["bytes"] for name in files)


def _half_finish(workdir):
    """Leaves a stage half done under a third config; all or none of it may be there."""

    def look_and_stop(context):
        names = {path.name for path in context.directory.iterdir()}
        assert names in ({"started.json"}, {"started.json", "half.json", "other.json"})
        stop(context)

    with pytest.raises(Killed):
        run_stages(make_stages(labels=look_and_stop), make_config(n_mc=6), workdir)


@pytest.mark.slow
def test_killed_at_every_change_to_the_file_system(workdir, tmp_path):
    (tmp_path / "scratch").mkdir()
    with run_here(
        __file__, "kill_everywhere", workdir, tmp_path / "scratch"
    ) as process:
        points = process.stdout.read()
    assert process.returncode == 0
    assert int(points) > 40


# Batches that a mesh does not divide.


def _trains(context):
    artifacts.write_json(context.directory / "done.json", 1)


TRAIN = [
    Stage("data", _trains, (), ("seed",)),
    Stage("sft", _trains, ("data",), ("sft",), batches={"config.sft.batch_size": 6}),
    Stage("prm", _trains, ("sft",), ("prm",), batches={"config.prm.batch_size": 8}),
]
TRAINED = ConfigDict(
    dict(name="demo", seed=0, sft=dict(batch_size=6), prm=dict(batch_size=8))
)


def test_a_batch_that_the_mesh_does_not_divide_is_told_before_any_stage(
    tmp_path, monkeypatch
):
    words = r"config.sft.batch_size=6, .* of stage sft, .* data x fsdp = 4, .*mesh"
    monkeypatch.setattr(mesh, "training_shards", lambda: 4)
    with pytest.raises(UserError, match=words):
        run_stages(TRAIN, TRAINED, tmp_path / "run")
    assert not [path for path in (tmp_path / "run").iterdir() if path.is_dir()]
    run_stages(TRAIN, TRAINED, tmp_path / "run", until="data")  # which does not train

    monkeypatch.setattr(mesh, "training_shards", lambda: 2)
    run_stages(TRAIN, TRAINED, tmp_path / "run", until="sft")
    # What is trained already, here or in another run, needs no such mesh.
    monkeypatch.setattr(mesh, "training_shards", lambda: 4)
    run_stages(TRAIN, TRAINED, tmp_path / "run")
    run_stages(TRAIN, TRAINED, tmp_path / "other", reuse_from=[tmp_path / "run"])
    changed = ConfigDict(TRAINED.to_dict() | dict(sft=dict(batch_size=6, steps=2)))
    for places in ([], [tmp_path / "other"]):
        with pytest.raises(UserError, match=words):
            run_stages(TRAIN, changed, tmp_path / "run", reuse_from=places)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="has one core")
def test_a_run_on_a_mesh_of_two(tmp_path):
    demo = ROOT / "experiments" / "demo.py"
    text = f"""
import runpy
def get_config(variant=""):
    config = runpy.run_path({str(demo)!r})["get_config"]("smoke")
    with config.unlocked():
        config.mesh = dict(data=2)
    config.verifier.orm.batch_size = 15
    return config
"""
    (tmp_path / "made.py").write_text(text)
    command = [sys.executable, "-m", "pav_jax", "run", f"--config={tmp_path}/made.py"]
    done = subprocess.run(
        [*command, f"--workdir={tmp_path / 'run'}"],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
    )
    words = "pav: config.verifier.orm.batch_size=15, rows of a batch of stage orm, has"
    assert done.returncode == 2 and done.stderr.startswith(words), done.stderr
    assert not (tmp_path / "run" / "data").exists()
