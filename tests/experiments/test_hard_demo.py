"""The harder demo: what its config promises, and every stage at its smallest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pav_jax.core import config as config_lib
from pav_jax.gemma import tokenizer as tokenizers
from pav_jax.labels import step_ends
from pav_jax.tasks import make_task
from pav_jax.tasks.problems import encode_prompt

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "experiments" / "hard_demo.py"


def test_the_verifiers_are_trained_alike():
    verifier = config_lib.load([f"--config={CONFIG}"]).verifier
    assert verifier.orm == verifier.prm


def test_the_limits_hold_every_problem():
    config = config_lib.load([f"--config={CONFIG}"])
    task, limits = make_task(config.task), config.limits
    problems = task.problems("train", 400)
    texts = [problem.prompt + problem.solution for problem in problems]
    tokenizer = tokenizers.from_config(config.tokenizer, texts, task.vocabulary())
    is_step_end = tokenizer.step_end_mask()
    for problem in problems:
        # One that were longer would raise.
        encode_prompt(tokenizer, problem, max_tokens=limits.max_prompt_tokens)
        solution = tokenizer.encode(problem.solution)
        assert len(solution) < limits.max_tokens  # the end token comes after it
        assert len(step_ends(solution, is_step_end)) <= limits.max_steps


@pytest.mark.slow
def test_every_stage(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pav_jax", "run", f"--config={CONFIG}:smoke"),
            f"--workdir={tmp_path / 'run'}",
            "--config.search.beams=(1,)",
            "--config.search.alpha_beams=1",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "report" / "results.json").read_text())
    methods = {row["method"] for row in results["search"]}
    assert methods >= {"greedy", "best_of_n_orm", "beam_pav", "beam_oracle"}
