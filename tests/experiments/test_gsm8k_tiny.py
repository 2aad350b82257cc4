"""The GSM8K config at its smallest, through every stage, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "experiments" / "gsm8k_tiny.py"

pytestmark = pytest.mark.slow


def _run(workdir: Path, *changes: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [
            *(sys.executable, "-m", "pav_jax", "run", f"--config={CONFIG}:smoke"),
            *(f"--workdir={workdir}", *changes),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_every_stage_that_reads_an_answer(tmp_path, gsm8k_dir):
    """Search and the report know nothing of the task; other smoke runs have them."""
    done = _run(
        tmp_path / "run",
        f"--config.task.path={gsm8k_dir}",
        "--until=samples",
        "--config.limits.max_tokens=96",
        "--config.sft.steps=6",
        "--config.verifier.prm.steps=6",
        "--config.verifier.orm.steps=6",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(
        (tmp_path / "run" / "evaluation" / "evaluation.json").read_text()
    )
    assert sum(found["grades"].values()) == 12 * 2  # problems and responses to each
    (samples,) = (tmp_path / "run" / "samples").glob("shard-*.npz")
    assert np.load(samples)["correct"].shape == (12, 4)


def test_missing_files_are_named(tmp_path):
    done = _run(tmp_path / "run", "--config.task.path=nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
