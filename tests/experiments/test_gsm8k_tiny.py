"""The GSM8K config at its smallest, through every stage, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

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


def test_every_stage(tmp_path, gsm8k_dir):
    done = _run(
        tmp_path / "run",
        f"--config.task.path={gsm8k_dir}",
        # The smoke run of the demo has other widths of beams, and more steps.
        "--config.search.beams=(1,)",
        "--config.search.alpha_beams=1",
        "--config.limits.max_tokens=96",
        "--config.sft.steps=6",
        "--config.verifier.prm.steps=6",
        "--config.verifier.orm.steps=6",
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "report" / "results.json").read_text())
    assert results["task"] == "gsm8k"
    methods = {row["method"] for row in results["search"]}
    assert methods >= {"greedy", "majority", "best_of_n_orm", "beam_q", "beam_pav"}


def test_missing_files_are_named(tmp_path):
    done = _run(tmp_path / "run", "--config.task.path=nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr
