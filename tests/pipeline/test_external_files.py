"""Files that no stage made: a stage that read them runs again when they change."""

import json
import os
import shutil
from pathlib import Path

import pytest
from ml_collections import ConfigDict
from stand_in import Bucket
from stand_in import contents as contents_of_bucket

from pav_jax.core import config as config_lib
from pav_jax.pipeline import external_files
from pav_jax.pipeline.manifest import MANIFEST, make_manifest, read_manifest
from pav_jax.pipeline.runner import Stage, run_stages
from pav_jax.pipeline.stages import stages
from pav_jax.storage import artifacts

DEMO = Path(__file__).resolve().parents[2] / "experiments" / "demo.py"
bucket = pytest.fixture(contents_of_bucket)


class Killed(Exception):
    """What stops a stage in these tests."""


@pytest.fixture
def source(tmp_path):
    """A user's problems."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "notes.txt").write_text("not read")
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text(f'{{"prompt": "{split}"}}\n')
    return folder


@pytest.fixture
def run(tmp_path, source, capsys):
    """Runs `data`, the first line of train.jsonl, and `sft`, which needs it; returns
    the stages that ran, and what was said of `data` first."""

    def run(workdir="run", places=(), stop=False, **changes):
        config = ConfigDict(dict(name="demo", task=dict(name="jsonl")))
        config.task.path = str(source)
        ran = []

        def data(context):
            ran.append("data")
            lines = (source / "train.jsonl").read_text().splitlines()
            found = context.directory / "begun.json"
            artifacts.write_json(found, 1 + found.exists())
            if stop:
                raise Killed
            artifacts.write_json(context.directory / "data.json", lines[0])

        def sft(context):
            ran.append("sft")
            shutil.copy(context.input("data") / "data.json", context.directory)

        look = external_files.of_task(config.task)
        found = [
            Stage("data", data, (), ("task",), outside=look, computes=False),
            Stage("sft", sft, ("data",), (), computes=False),
        ]
        capsys.readouterr()
        if stop:
            with pytest.raises(Killed):
                run_stages(found, config.lock(), tmp_path / workdir)
        else:
            where = [tmp_path / place for place in places]
            run_stages(found, config.lock(), tmp_path / workdir, reuse_from=where)
        return ran, capsys.readouterr().err.splitlines()[0]

    return run


def _forget(workdir):
    """Makes the manifest of `data` one of before prints were in it."""
    manifest = read_manifest(workdir / "data")
    del manifest["outside"]
    artifacts.write_json(workdir / "data" / MANIFEST, manifest)


def test_a_file_that_is_rewritten(run, source):
    assert run()[0] == ["data", "sft"]
    os.utime(source / "train.jsonl", (1, 1))
    (source / "notes.txt").write_text("other")
    assert run()[0] == []
    (source / "train.jsonl").write_text('{"prompt": "newer"}\n')
    ran, said = run()
    assert ran == ["data", "sft"]
    assert said == "data: runs again, since train.jsonl in config.task.path changed"
    (source / "test.jsonl").unlink()
    assert run()[1] == (
        "data: runs again, since test.jsonl in config.task.path is gone"
    )


def test_what_comes_out_the_same_changes_nothing_later(run, source):
    run()
    with (source / "train.jsonl").open("a") as file:
        file.write('{"prompt": "not chosen"}\n')
    assert run()[0] == ["data"]
    assert run()[0] == []


def test_a_stage_of_before_there_were_prints_stays(run, source, tmp_path):
    """Nothing is known of what it read; nor do later stages see a difference."""
    run()
    _forget(tmp_path / "run")
    (source / "train.jsonl").write_text('{"prompt": "newer"}\n')
    assert run()[0] == []
    assert run("second", places=["run"])[0] == []
    (tmp_path / "run" / "data" / "data.json").unlink()
    (source / "train.jsonl").write_text('{"prompt": "train"}\n')
    assert run()[0] == ["data"]  # and sft is still of the same data


def test_other_content_is_not_taken_from_another_run(run, source):
    run()
    assert run("second", places=["run"])[0] == []
    (source / "train.jsonl").write_text('{"prompt": "newer"}\n')
    assert run("third", places=["run", "second"])[0] == ["data", "sft"]


def test_a_stage_outlives_its_sources(run, source):
    run()
    shutil.rmtree(source)
    assert run()[0] == []


def test_an_attempt_at_other_content_is_not_gone_on_from(run, source, tmp_path):
    run(stop=True)
    (source / "train.jsonl").write_text('{"prompt": "newer"}\n')
    assert run(stop=True)[1] == (
        "data: starts over, since train.jsonl in config.task.path changed"
    )
    assert artifacts.read_json(tmp_path / "run" / "data.new" / "begun.json") == 1
    run()
    assert artifacts.read_json(tmp_path / "run" / "data" / "begun.json") == 2


def _look(found):
    (look,) = found.values()
    return dict(look())


def test_weights_are_not_read_whole(tmp_path):
    """Only some places of a large file, and its size."""
    model = ConfigDict(dict(checkpoint=str(tmp_path)))
    assert _look(external_files.of_model(model)) == {}
    large = tmp_path / "d" / "large"
    large.parent.mkdir()
    with large.open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "_METADATA").write_text("{}")
    before = _look(external_files.of_model(model))
    assert before.keys() == {"d/large", "_METADATA"}
    with large.open("r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"new")
    after = _look(external_files.of_model(model))
    assert after["d/large"] != before["d/large"]
    assert after["_METADATA"] == before["_METADATA"]
    for i in range(200):
        (tmp_path / "d" / f"{i}").write_text(f"{i}")
    many = _look(external_files.of_model(model))
    assert many.keys() == {"d", "_METADATA"}
    (tmp_path / "d" / "7").write_text("8")
    assert _look(external_files.of_model(model))["d"] != many["d"]


def test_of_a_hugging_face_folder_what_is_read(tmp_path):
    for name in ("model.safetensors", "config.json", "README.md", "other.bin"):
        (tmp_path / name).write_text(name)
    found = _look(external_files.of_model(ConfigDict(dict(checkpoint=str(tmp_path)))))
    assert found.keys() == {"model.safetensors", "config.json"}


def test_a_policy_of_another_run_is_known_by_its_manifest(tmp_path):
    weights = tmp_path / "params" / "weights"
    weights.parent.mkdir()
    weights.write_text("a")
    assert _look(external_files.of_policy("mu", str(tmp_path))).keys() == {
        "params/weights"
    }
    manifest = make_manifest("sft", {"fields": {}, "needs": {}}, tmp_path, 1.0)
    artifacts.write_json(tmp_path / MANIFEST, manifest)
    found = _look(external_files.of_policy("mu", str(tmp_path)))
    assert found == {MANIFEST: manifest["fingerprint"]}


def test_labels_in_a_bucket_are_not_downloaded(bucket, monkeypatch):
    source = "gs://bucket/labels"
    assert _look(external_files.of_labels(source)) == {}
    Bucket().pipe_file(f"{source}/labels.jsonl", b"{}\n")
    Bucket().pipe_file(f"{source}/about.json", b"{}")

    def refuse(*_, **__):
        raise AssertionError("read")

    info = Bucket.info
    monkeypatch.setattr(Bucket, "_open", refuse)
    monkeypatch.setattr(Bucket, "get_file", refuse)
    assert _look(external_files.of_labels(source)) == {
        "labels.jsonl": "3",
        "about.json": "2",
    }
    for key in ("md5Hash", "ETag"):
        monkeypatch.setattr(Bucket, "info", lambda *x, k=key: info(*x) | {k: "a1"})
        assert _look(external_files.of_labels(source))["labels.jsonl"] == "3 a1"

    def fail(*_, **__):
        raise OSError("the bucket does not answer")

    monkeypatch.setattr(Bucket, "info", fail)
    assert _look(external_files.of_labels(source)) == {}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("gsm8k", ["test.jsonl", "train.jsonl"]),
        ("math", ["math500.jsonl", "train.jsonl"]),
        ("math", ["math500.jsonl", "test/algebra/1.json", "train/number/2.json"]),
    ],
)
def test_the_files_of_a_task(tmp_path, name, files):
    for file in [*files, "models/big.bin", "notes.json"]:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(json.dumps(file))
    task = ConfigDict(dict(name=name, path=str(tmp_path)))
    assert sorted(_look(external_files.of_task(task))) == files
    assert external_files.of_task(ConfigDict(dict(name=name))) == {}


def test_stages_whose_results_of_before_are_not_taken():
    """Mistakes were mended in these; all others keep what they have made."""

    def found(name, **verifier):
        path = str(DEMO.with_name(name))
        config = config_lib.call(path, "get_config", "smoke")
        with config.unlocked():
            config.verifier.update(verifier)
        return {x.name: x.revision for x in stages(config) if x.revision}

    assert found("demo.py") == {"report": 3}
    assert found("rl_demo.py") == {"provers": 1, "improvement": 1, "report": 3}
    assert found("sparse_rl.py") == found("rl_demo.py") | {"pretraining": 1}
    search = dict(rounds=2, problems=20, beams=2, labelled=1, n_mc=1, steps=2)
    ones = ("prm-0", "orm-0", "beams-1", "beams-2")
    later = ("prm-1", "prm", "orm-1", "orm")
    wanted = dict.fromkeys(ones, 1) | dict.fromkeys(later, 2) | {"report": 3}
    assert found("demo.py", on_search=search) == wanted


def test_which_stages_read_them(tmp_path):
    """Those that open the files, and no others: a stage that reads stage `data`, or
    starts from `pretraining`, depends on these."""
    config = config_lib.call(str(DEMO), "get_config", "smoke")

    def found():
        return {x.name: set(x.outside) for x in stages(config) if x.outside}

    assert found() == {}
    with config.unlocked():
        config.task = dict(name="jsonl", path=str(tmp_path))
        config.tokenizer = dict(path="tokenizer.model")
        config.model.checkpoint = "weights"
        config.provers = dict(
            mu=dict(n_mc=2, policy="other/sft"),
            nu=dict(n_mc=2, task=dict(path=str(tmp_path / "nu"))),
            own=dict(n_mc=2, policy="sft"),
        )
        config.labels["from"] = "imported"
    before = {"task.path", "tokenizer.path"}
    others = {"labels": {"labels.from"}, "labels-mu": {"provers.mu.policy"}}
    own = {"sft": {"model.checkpoint"}, "policy-nu": {"model.checkpoint", "task.path"}}
    assert found() == {"data": before} | others | own
    with config.unlocked():
        config.pretraining = dict(sft=dict(steps=7))
    own = {"pretraining": {"model.checkpoint"}, "policy-nu": {"task.path"}}
    assert found() == {"data": before} | others | own
