"""RL from sparse success: what the config's head promises by arithmetic."""

from pathlib import Path

import numpy as np
import pytest
from limits import check_limits
from ml_collections import ConfigDict

from pav_jax.core import config as config_lib
from pav_jax.pipeline.data import with_changes
from pav_jax.tasks import make_task
from pav_jax.tasks.puzzle import Puzzle

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def _load(file: str = "sparse_rl.py"):
    return config_lib.load([f"--config={EXPERIMENTS / file}"])


def _tasks() -> dict[str, ConfigDict]:
    """Of the base policy, of the policy before it, and of the prover."""
    config = _load("evidence/provers.py")
    sections = {
        "base": {},
        "pretraining": config.pretraining,
        "prover": config.provers.mu,
    }
    return {
        name: with_changes(config, {"task": changes.get("task")}, name).task
        for name, changes in sections.items()
    }


def _chance(problems, wrong_turns: float) -> np.ndarray:
    """Of each problem to be right, for a policy that turns as its demonstrations."""
    chances = []
    for problem in problems:
        puzzle = Puzzle.parse(problem.prompt)
        path = [puzzle.root, *puzzle.path()]
        off = {
            start for name, (_, start) in puzzle.relations.items() if name not in path
        }
        chances.append((1 - wrong_turns) ** len(off))
    return np.array(chances)


def test_base_and_prover_differ_in_demonstrations_alone():
    base, prover = (
        make_task(_tasks()[name]).problems("validation", 400)
        for name in ("base", "prover")
    )
    assert [p.prompt for p in base] == [p.prompt for p in prover]
    assert [p.answer for p in base] == [p.answer for p in prover]
    assert [p.solution for p in base] != [p.solution for p in prover]


def test_success_is_sparse_on_all_problems_and_the_prover_has_it():
    base, prover = _tasks()["base"], _tasks()["prover"]
    problems = make_task(base).problems("train", 2_000)
    chance = np.sort(_chance(problems, base.wrong_turns))
    assert 0.001 < chance.mean() < 0.01
    assert np.array_split(chance, 10)[-1].mean() < 0.05
    assert 0.2 < _chance(problems, prover.wrong_turns).mean() < 0.6


@pytest.mark.parametrize("name", ["base", "pretraining", "prover"])
def test_the_limits_hold_every_problem(name):
    check_limits(_load(), _tasks()[name])
