"""Configs of the tests of planning."""

import runpy
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[3] / "experiments"


@pytest.fixture(scope="session")
def config():
    """The paper's experiment with Gemma 2 2B, and its RL."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXPERIMENTS)
        found = runpy.run_path(str(EXPERIMENTS / "gemma2_2b_math.py"))
        return found["get_config"]("rl").lock()


@pytest.fixture(scope="session")
def smoke():
    """The demo's, with a policy of laptop size."""
    found = runpy.run_path(str(EXPERIMENTS / "demo.py"))
    return found["get_config"]("smoke").lock()


@pytest.fixture(scope="session")
def deep(smoke):
    """The same with 10 layers."""
    found = smoke.copy_and_resolve_references()
    with found.unlocked():
        found.model.num_layers = 10
    return found
