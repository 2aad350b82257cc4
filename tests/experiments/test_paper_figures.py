"""The configs of experiments/paper/ at their smallest: each measures what it claims."""

from pathlib import Path

import numpy as np
import pytest

from pav_jax import main
from pav_jax.core import config as config_lib
from pav_jax.laboratories import planted_cells
from pav_jax.metrics import seed_interval
from pav_jax.tools import sweeps, verdicts

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "paper"
# Those with RL are measured in tests/pipeline/test_rl_comparison.py.
SEARCHED = ["fig04_search", "fig05a_verifiers", "fig05b_best_of_k"]
SEARCHED += ["fig05c_cross_provers", "fig06a_pass_at_n", "fig06b_budget"]
SEARCHED += ["fig10_prediction", "fig11_first_pit"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("paper")


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHED)
def test_smoke(name, root):
    """The first run of the sweep, with what an earlier test has of its stages."""
    config = f"{FOLDER / name}.py:smoke"
    run = sweeps.load(config)[0]
    command = ["run", f"--config={config}", f"--workdir={root / name / run.name}"]
    command += [f"--reuse={folder}" for folder in root.glob("*/*") if folder.is_dir()]
    assert main.main([*command, *run.changes]) == 0
    results = run.results(root / name)
    measured = sweeps.over_seeds(config, [(run, results)])
    assert measured and all(np.isfinite(row.mean) for row in measured)
    table = verdicts.claims_table(verdicts.of(config), measured)
    if name not in ("fig04_search", "fig05c_cross_provers", "fig11_first_pit"):
        assert "one seed" in table or "fig06b" in name


def test_planted():
    """By a stand-in for the laboratory, of which two seeds are never right."""
    cells = [
        dict(
            variant="paper",
            gamma=gamma,
            mean=[level, level + 0.1],
            half=[half, None],
            iterations=500,
            after=[8, 4],
            measured=8,
        )
        for gamma, level, half in (
            (None, 0.1, 400),
            (5.0, 0.5, 80),
            (10.0, 0.6, 50),
            (50.0, 0.6, 60),
        )
    ]
    config = str(FOLDER / "fig03_planted.py")
    found = config_lib.call(config, "measures", {"cells": cells})
    assert found["iterations to one half, outcome alone over γ = 10"] == [8.0, 1.0]
    assert found["γ = 10 over γ = 5, accuracy over the run"] == pytest.approx([10, 10])
    assert found["accuracy after the run with γ = 10"] == [100, 50]
    measured = [
        sweeps.Measured({}, name, dict(enumerate(values)), *seed_interval(values))
        for name, values in found.items()
    ]
    assert verdicts.claims_table(verdicts.of(config), measured).count("not run") == 0
    # And of its smoke run there are no claims, but no mistake either.
    smoke = config_lib.load([f"--config={config}:smoke"])
    few = [c | cells[0] | {"gamma": c["gamma"]} for c in planted_cells.cells(smoke)]
    assert config_lib.call(config, "measures", {"cells": few})
