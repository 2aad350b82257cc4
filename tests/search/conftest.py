"""Searches compile many small programs."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Most of the time here is compilation; this halves it."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    # jax 0.10 has the flag but no attribute to read it by; it is off by default.
    jax.config.update("jax_disable_most_optimizations", False)
