"""What is compared has been trained alike: the outcome verifier as long as the PRM."""

from pathlib import Path

import pytest

from pav_jax.core import config as config_lib

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
FILES = sorted(EXPERIMENTS.glob("**/[!_]*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("variant", ["", ":smoke"])
def test_both_verifiers_have_the_same_budget(path, variant):
    try:
        config = config_lib.load([f"--config={path}{variant}"])
    except config_lib.UserError as error:
        assert path.stem == "math_paper", error  # what the paper's configs share
        return
    if "verifier" not in config:  # a laboratory
        return
    prm, orm = config.verifier.prm.to_dict(), config.verifier.orm.to_dict()
    assert orm == prm
    assert 0 < config.verifier.held_out < 0.5
