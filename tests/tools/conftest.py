"""A finished run with random verifiers, for the tests of what is done with one."""

import pytest
from tiny_run import make_run

from pav_jax.tools import scoring


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run whose verifiers are random."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    make_run(workdir)
    return workdir


@pytest.fixture(scope="module")
def trained(run):
    """The run's PRM and ORM."""
    return scoring.Verifier.load(run)
