"""`pav export` of the policy of a prover, which may be of another architecture."""

import functools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from tiny import byte_tokenizer
from tiny_run import write_data

from pav_jax import policy
from pav_jax.core import config as config_lib
from pav_jax.gemma import checkpoint, sizes
from pav_jax.main import main
from pav_jax.pipeline.other_provers import Prover
from pav_jax.pipeline.runner import Stage, run_stages
from pav_jax.storage import checkpoints

DEMO = str(Path(__file__).resolve().parents[2] / "experiments" / "demo.py")
MODELS = {
    "narrow": dict(window=16),  # parameters of the same shapes
    "wide": dict(embed_dim=48, mlp_dim=56),
    "other": dict(num_layers=1, embed_dim=8, num_heads=1, mlp_dim=8, window=4),
    "half": dict(dtype="bfloat16"),
}


def _write(context, model):
    architecture = sizes.from_config(model, byte_tokenizer().vocab_size)
    params = policy.initial_policy(model, architecture, seed=0)
    checkpoints.save_params(context.directory / "params", params)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir and the config of a run with the policies of provers."""
    config = config_lib.call(DEMO, "get_config", "smoke")
    with config.unlocked():
        config.provers = {
            name: dict(n_mc=2, model=model, sft=dict(steps=7))
            for name, model in MODELS.items()
        }
    stages = [Stage("data", write_data, (), ("limits",))]
    for name in MODELS:
        prover = Prover.of(config, name)

        write = functools.partial(_write, model=prover.changed(config).model)
        fields = ("limits", *prover.fields(config))
        stages.append(Stage(f"policy-{name}", write, ("data",), fields))
    workdir = tmp_path_factory.mktemp("runs") / "demo"
    run_stages(stages, config, workdir)
    return workdir, config


@pytest.mark.parametrize("name", MODELS)
def test_the_policy_of_a_prover_has_its_own_architecture(run, tmp_path, name):
    workdir, config = run
    model = Prover.of(config, name).changed(config).model
    architecture = sizes.from_config(model, byte_tokenizer().vocab_size)
    dtype = sizes.dtype_of(model)
    expected = policy.load_policy(workdir / f"policy-{name}", architecture, dtype)
    for form, inside in (("gemma", "policy"), ("hf", "")):
        output = tmp_path / form
        where = [f"--stage={workdir / f'policy-{name}'}", f"--output={output}"]
        assert main(["export", *where, f"--format={form}"]) == 0
        found = checkpoint.read(output / inside, architecture=architecture, dtype=dtype)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        about = json.loads((output / "about.json").read_text())
        about = config_lib.unflatten(about["fields"])
        assert about.to_dict() == {
            "model": model.to_dict(),
            "limits": config.limits.to_dict(),
        }
    stated = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert stated["sliding_window"] == architecture.window
    assert stated["torch_dtype"] == str(dtype)
