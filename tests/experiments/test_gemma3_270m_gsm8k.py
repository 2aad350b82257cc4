"""GSM8K with Gemma 3 270M: what the config says, and its code without the weights.

With them, `pav run --config=experiments/gemma3_270m_gsm8k.py:smoke` is for a person to
start: it takes minutes.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import abstract_mesh

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.gemma import sizes
from pav_jax.gemma.tokenizer import train_tokenizer
from pav_jax.pipeline import stages
from pav_jax.pipeline.runner import _fields_of
from pav_jax.tools.planning import steps

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "experiments" / "gemma3_270m_gsm8k.py"


@pytest.mark.parametrize("variant", ["", ":smoke"])
def test_it_is_the_real_model_through_every_stage(variant):
    config = config_lib.load([f"--config={CONFIG}{variant}"])
    values = config_lib.flatten(config)
    assert all(_fields_of(stage, values) for stage in stages.stages(config))
    # The folder that `make real-weights` makes.
    assert config.model.checkpoint == "checkpoints/gemma3_270m"
    assert config.tokenizer.path == f"{config.model.checkpoint}/tokenizer.model"
    architecture = sizes.from_config(config.model, 262_144)
    assert architecture == sizes.by_name("gemma3_270m")


def test_the_smoke_run_is_of_eight_problems():
    problems = config_lib.load([f"--config={CONFIG}:smoke"]).problems
    assert not problems.disjoint and problems.labels == problems.sft
    assert problems.sft + problems.validation + problems.test == 8
    assert "`:smoke` is eight problems in all" in (ROOT / "README.md").read_text()


def test_an_unknown_variant_is_refused():
    with pytest.raises(UserError, match="'smoke'"):
        config_lib.load([f"--config={CONFIG}:tiny"])


def test_one_accelerator_holds_it():
    config = config_lib.load([f"--config={CONFIG}"])
    (memory,) = re.findall(r"one accelerator of (\d+) GB", CONFIG.read_text())
    device = abstract_mesh(1, 1, 1)
    names = steps.names(config)
    assert {"sft", "verifier", "decode"} <= set(names)
    for name in names:
        parts = steps.build(name, config, device).parts
        assert 0 < sum(parts.values()) < int(memory) * 1e9, (name, parts)


@pytest.mark.slow
def test_without_weights_a_tiny_policy_of_the_family_is_trained(tmp_path, gsm8k_dir):
    lines = (gsm8k_dir / "train.jsonl").read_text().splitlines()[:500]
    texts = [json.loads(line)[key] for line in lines for key in ("question", "answer")]
    train_tokenizer(texts, vocab_size=1_000).save(tmp_path / "small.model")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pav_jax", "run", f"--config={CONFIG}:smoke"),
            *(f"--workdir={tmp_path / 'run'}", "--until=sft"),
            f"--config.task.path={gsm8k_dir}",
            *("--config.model.checkpoint=", "--config.model.shrunk=True"),
            f"--config.tokenizer.path={tmp_path / 'small.model'}",
            "--config.limits.max_tokens=256",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    row = json.loads((tmp_path / "run" / "sft" / "metrics.jsonl").read_text())
    assert row["step"] == 2 and 0 < row["loss"] < 10
