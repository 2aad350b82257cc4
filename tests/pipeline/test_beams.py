"""Beam search as a config says it."""

from pathlib import Path

import pytest

from pav_jax.core import config as config_lib
from pav_jax.pipeline import beams

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.mark.parametrize(
    ("file", "changes", "most"),
    [
        ("demo.py", (), 16),
        ("demo.py", ("search.beams=(2,)",), 4),  # of validation
        ("rl_demo.py", ("search.beams=(2,)",), 32),  # of problems never solved
        ("rl_demo.py", ("search.beams=(2,)", "rl.final.beams=(1,)"), 4),
        ("evidence/on_search.py", ("search.beams=(2,)",), 8),  # for a verifier
    ],
)
def test_the_widest_search_may_be_in_another_stage(file, changes, most):
    flags = [f"--config.{change}" for change in changes]
    config = config_lib.load([f"--config={EXPERIMENTS / file}", *flags])
    assert beams.widest(config) == most
