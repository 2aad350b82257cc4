"""What a run shows of its loops: beside its stages, without a trace in its results."""

import functools
import json
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.pipeline import runner
from pav_jax.pipeline.manifest import read_manifest
from pav_jax.pipeline.runner import Stage, run_stages
from pav_jax.pipeline.training import HeldOut, run_training
from pav_jax.pipeline.watch import Watch
from pav_jax.storage import artifacts

CONFIG = ConfigDict(
    dict(
        name="demo",
        seed=0,
        sft=dict(
            steps=6,
            batch_size=2,
            warmup_steps=1,
            learning_rate=0.1,
            final_learning_rate=0.1,
            weight_decay=0.0,
            clip_norm=1.0,
        ),
    )
).lock()
ROWS = {"tokens": np.arange(8, dtype=np.int32)[:, None]}


def _loss(params, batch):
    """A regression whose weights are the rows' numbers."""
    error = jnp.square(params["w"] - batch["tokens"].astype(jnp.float32))
    return jnp.mean(error), {"w": jnp.mean(params["w"])}


def _held_out_loss(params, batch):
    loss, _ = _loss(params, batch)
    return loss, jnp.float32(1)


def _train(context):
    held_out = HeldOut(ROWS, _held_out_loss, batch_size=8)
    params = {"w": jnp.zeros(())}
    run_training(context, params, _loss, [ROWS], context.config.sft, held_out=held_out)


def _use(context):
    artifacts.write_json(context.directory / "used.json", 1)


STAGES = [
    Stage("sft", _train, (), ("seed", "sft"), collective=True),
    Stage("used", _use, ("sft",), ()),
]


def _run(workdir, **watch):
    """The hashes of what the training leaves, but for Orbax's, which has times."""
    run_stages(STAGES, CONFIG, workdir, watch=Watch(**watch))
    files = read_manifest(workdir / "sft")["files"]
    return {name: files[name] for name in files if not name.startswith("params/")}


READ = """
import json, sys
sys.modules["tensorflow"] = None  # its import fails
from tensorboard.backend.event_processing import event_accumulator
found = event_accumulator.EventAccumulator(sys.argv[1])
found.Reload()
rows = {tag: found.Scalars(tag) for tag in found.Tags()["scalars"]}
print(json.dumps({tag: [(e.step, e.value) for e in rows[tag]] for tag in rows}))
"""


def test_equal_runs_are_equal_whatever_they_show(tmp_path, capsys):
    plain = _run(tmp_path / "plain")
    assert plain.keys() == {"metrics.jsonl", "validation.jsonl", "ledger.json"}
    for other in (
        _run(tmp_path / "again"),
        _run(tmp_path / "none", log_to="none"),
        _run(tmp_path / "traced", profile=3),
    ):
        assert other == plain
    assert (tmp_path / "plain" / "events" / "sft").is_dir()
    assert not (tmp_path / "none" / "events").exists()
    folder = tmp_path / "traced" / "profiles"
    assert [path.name for path in folder.iterdir()] == ["sft"]
    assert len(list(folder.glob("sft/plugins/profile/*/*.xplane.pb"))) == 1
    assert not (tmp_path / "plain" / "profiles").exists()
    said = capsys.readouterr().err
    assert "sft: a profile of steps 3 to 5 of its loop is in" in said
    # What is done is not done again for a profile.
    manifest = read_manifest(tmp_path / "again" / "sft")
    _run(tmp_path / "again", profile=2)
    assert read_manifest(tmp_path / "again" / "sft") == manifest
    assert not (tmp_path / "again" / "profiles").exists()
    said = capsys.readouterr().err
    assert said.count("s); it is not run again for a profile") == 2


def test_tensorboard_shows_what_the_files_have(tmp_path):
    _run(tmp_path)
    (line,) = artifacts.read_jsonl(tmp_path / "sft" / "metrics.jsonl")
    measured = artifacts.read_jsonl(tmp_path / "sft" / "validation.jsonl")
    expected = {name: [[line["step"], line[name]]] for name in line if name != "step"}
    expected["validation_loss"] = [[row["step"], row["loss"]] for row in measured]
    read = [sys.executable, "-c", READ, tmp_path / "events" / "sft"]
    done = subprocess.run(read, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found.keys() == expected.keys()
    for name, rows in expected.items():
        np.testing.assert_allclose(found[name], rows, rtol=1e-6)


def test_only_the_primary_process_shows_anything(tmp_path):
    helper = types.SimpleNamespace(is_primary=False)
    watch = Watch(profile=3)
    context = runner.make_context(STAGES[0], CONFIG, tmp_path, watch, helper)
    assert not context.profile.is_on
    context.open_log(0).scalars(1, {"loss": 0.5})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rate", "share"), [(1e-6, "0.0%"), (0.1, "100.0%")])
def test_a_training_that_rounds_says_so(tmp_path, capsys, rate, share):
    """Weights of 1 in bfloat16, which are 0.004 from the number below."""
    config = CONFIG.copy_and_resolve_references()
    config.sft.learning_rate = rate

    def train(context, dtype):
        params = {"w": jnp.ones((), dtype)}
        run_training(context, params, _loss, [ROWS], context.config.sft)

    def run(dtype):
        body = functools.partial(train, dtype=dtype)
        stages = [Stage("sft", body, (), ("seed", "sft"), collective=True)]
        run_stages(stages, config, tmp_path / dtype)
        return capsys.readouterr().err

    said = run("bfloat16")
    assert 'sft: WARNING: with model.dtype="bfloat16"' in said
    assert f"learning_rate={rate:g}, the largest, changes only {share} of them" in said
    assert 'set config.model.dtype="float32"' in said
    assert "WARNING" not in run("float32")


def test_what_cannot_be_shown(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--profile=-1 must be at least 1"):
        _run(tmp_path, profile=-1)
    monkeypatch.setitem(sys.modules, "wandb", None)  # its import fails
    with pytest.raises(UserError, match="--log_to=wandb needs the package"):
        _run(tmp_path, log_to="wandb")
    assert not (tmp_path / "sft.new").exists()
