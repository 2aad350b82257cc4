"""The harder demo: what its config promises, and its own stages at their smallest."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from limits import check_limits

from pav_jax.core import config as config_lib
from pav_jax.tasks.problems import Problems

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "experiments" / "hard_demo.py"


def test_the_verifiers_are_trained_alike():
    verifier = config_lib.load([f"--config={CONFIG}"]).verifier
    assert verifier.orm == verifier.prm


def test_the_limits_hold_every_problem():
    config = config_lib.load([f"--config={CONFIG}"])
    check_limits(config, config.task)


@pytest.mark.slow
def test_its_own_stages(tmp_path):
    """Short problems first, and answers with the way; the rest is as in the demo."""
    workdir = tmp_path / "run"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pav_jax", "run", f"--config={CONFIG}:smoke"),
            *(f"--workdir={workdir}", "--until=rollouts"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    config = config_lib.load([f"--config={CONFIG}:smoke"])
    problems = Problems.load(config, workdir / "data", "sft")
    # Whole prompts, and solutions with their end token.
    read = [
        len(prompt) + len(problems.tokenizer.encode(problem.solution)) + 1
        for prompt, problem in zip(problems.prompts, problems, strict=True)
    ]
    short = sorted(read)[: math.ceil(config.sft.short_first.fraction * len(read))]
    steps, first = config.sft.steps, config.sft.short_first.steps
    expected = first * np.mean(short) + (steps - first) * np.mean(read)
    ledger = json.loads((workdir / "sft" / "ledger.json").read_text())
    assert ledger["trained"] == pytest.approx(
        expected * config.sft.batch_size, rel=1e-4
    )
