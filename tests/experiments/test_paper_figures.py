"""The configs of experiments/paper/: fields that go together, measures, verdicts.

Their stages are run, at their smallest, in tests/pipeline: in test_stages.py those of
search, the first run of a sweep for each set of stages, and in test_rl_comparison.py
those of RL. `launch/evidence.py --configs=experiments/paper --smoke` runs each config.
"""

import math
from pathlib import Path

import pytest

from pav_jax.core import config as config_lib
from pav_jax.laboratories import planted_cells, runner
from pav_jax.pipeline import stages
from pav_jax.storage import artifacts
from pav_jax.tools import sweeps, verdicts

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "paper"
FIGURES = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


@pytest.mark.parametrize("name", FIGURES)
def test_stages_of_every_run(name):
    """The fields of each point of the sweep go together."""
    config = f"{FOLDER / name}.py"
    if not config_lib.has(config, "sweep"):
        assert name in ("fig03_planted", "theorem31_exact")
        return
    for variant in ("", ":smoke"):
        for run in {
            repr(run.point): run for run in sweeps.load(config + variant)
        }.values():
            made = config_lib.load([f"--config={config}{variant}", *run.changes])
            assert stages.stages(made)[-1].name == "report"


@pytest.mark.parametrize("folder", ["paper", "evidence"])
def test_every_run_of_a_smoke_sweep_is_small(folder):
    for path in (FOLDER.parent / folder).glob("[!_]*.py"):
        if config_lib.has(str(path), "sweep"):
            for run in sweeps.load(f"{path}:smoke"):
                assert run.config["model.embed_dim"] <= 32, run.name
                assert run.config["problems.labels"] <= 64, run.name
                assert run.config["sft.steps"] <= 600, run.name


def test_cross_provers():
    """At the largest N, by the best search of each prover."""
    by = dict(beam_q=0.1, beam_pav=0.2, small=0.3, middle=0.5, large=0.4)
    by["beam_oracle"] = 0.6
    rows = [
        dict(method=f"beam_pav_{m}" if m.isalpha() else m, n=n, accuracy=a * n / 16)
        for m, a in by.items()
        for n in (4, 16)
    ]
    results = {"search": rows, "config": {"search.beams": [4, 16]}}
    found = config_lib.call(
        str(FOLDER / "fig05c_cross_provers.py"), "measures", results
    )
    assert found["by the middle prover"] == pytest.approx(50)
    assert found["by Q^π alone"] == pytest.approx(10)
    assert found["by near-exact values"] == pytest.approx(60)
    assert found["middle over small prover"] == pytest.approx(20)
    assert found["large over middle prover"] == pytest.approx(-10)


def test_planted():
    """By a stand-in for the laboratory, of which two seeds are never right."""
    cells = [
        dict(
            variant=variant,
            gamma=gamma,
            mean=[level, level + 0.1],
            curve=[[i / 100 for i in range(100)], [level] * 100],
            half=[half, None],
            iterations=500,
            after=[8, 4] if gamma else [2, 0],
            measured=8,
        )
        for variant in ("paper", "short")
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
    # Of a hundred entries the 70th is of iterations 346 to 350.
    assert found["progress, γ = 10, iteration = 350"] == pytest.approx([69, 60])
    # Of 8 responses 2 are right, or it is counted as if one were: 3/4 and 7/8 are not.
    assert found["Pass@N, outcome alone, N = 4"] == pytest.approx(
        [100 * (1 - 0.75**4), 0]
    )
    samples = [math.log(0.5) / math.log(share) for share in (0.75, 0.875)]
    fewer = found["times fewer samples to Pass@N of one half after 100 iterations"]
    assert fewer == pytest.approx(samples)  # by the other every first one is enough
    runs = [
        ({"seed": seed}, dict(zip(found, row, strict=True)))
        for seed, row in enumerate(zip(*found.values(), strict=True))
    ]
    assert verdicts.claims_table(verdicts.of(config), runs).count("not run") == 0
    # And of its smoke run there are no claims, but no mistake either.
    smoke = config_lib.load([f"--config={config}:smoke"])
    few = [c | cells[0] | {"gamma": c["gamma"]} for c in planted_cells.cells(smoke)]
    assert config_lib.call(config, "measures", {"cells": few})


def test_prediction():
    """Of runs with near-exact values, and of those before there were any."""
    alphas = {0.0: 0.2, 0.2: 0.3, 0.5: 0.25, 1.0: 0.1}
    rows = [
        dict(alpha=alpha, error=[error] * 3 + [None] * 7)
        for alpha, error in alphas.items()
    ]
    file = str(FOLDER / "fig10_prediction.py")
    first = config_lib.call(file, "measures", {"verifier": {"prediction": rows}})
    assert first["error by Q + 0.5A, step = 3"] == pytest.approx(25)
    assert first["less error by Q + 0.5A, mean of steps"] == pytest.approx(-5)
    assert first["less error by Q + 1A, at step 2"] == pytest.approx(10)
    exact = [
        dict(alpha=r["alpha"], by_verifier=r["error"], near_exact=[0.5 * r["alpha"]])
        for r in rows
    ]
    both = {"prediction": rows, "prediction_where_exact": exact}
    found = config_lib.call(file, "measures", {"verifier": both})
    assert found.items() >= first.items()
    assert found["where exact, error by Q, step = 2"] == pytest.approx(20)
    less = "near-exact, less error by Q + 0.5A, mean of steps"
    assert found[less] == pytest.approx(-25)
    less = "less error by near-exact Q than by the verifier's, mean of steps"
    assert found[less] == pytest.approx(20)


@pytest.mark.parametrize("name", ["theorem31_terms", "theorem31_policies"])
def test_terms_of_provers_and_what_rl_gains_with_them(name):
    """Gains are means of iterations 20 and 50; the first and the last do not count."""
    k = {"K = 1": 1, "K = 4": 4, "K = 16": 16}
    rows = [dict(prover_k=x, distinguishability=x / 1000) for x in k.values()]
    rows += [
        dict(prover=other, prover_k=1, distinguishability=x / 1000)
        for other, x in (("mid", 40), ("mu", 30))
    ]
    for row in rows:
        row["alignment"] = -row["distinguishability"] / 2
    ends = dict(orm_rl=0.1, sft_prover=0.2, pav_rl=0.3, prover_16=0.4)
    ends |= dict(pav_mid=0.5, pav_mu=0.6)
    curves = {
        method: dict(
            step=[0, 20, 50, 60], sampled=dict(seeds=[[0.0, end - 0.1, end + 0.1, 1]])
        )
        for method, end in ends.items()
    }
    results = {"improvement": dict(provers=rows, curves=curves)}
    found = config_lib.call(str(FOLDER / f"{name}.py"), "measures", results)
    gains = {"K = 1": 10, "K = 4": 20, "K = 16": 30}
    ranks = 1.0
    if name == "theorem31_policies":
        gains |= {"mid": 40, "mu": 50}
        ranks = 0.9  # of two the order is another
        assert found["mu over K = 16, points"] == pytest.approx(20)
    for prover, gain in gains.items():
        assert found[f"gain over ORM-RL, {prover}"] == pytest.approx(gain)
    assert found["distinguishability x 1000, K = 4"] == pytest.approx(4)
    assert found["rank correlation of distinguishability and gain"] == pytest.approx(
        ranks
    )
    assert found["rank correlation of alignment and gain"] == pytest.approx(-ranks)
    assert found["rank correlation of their sum and gain"] == pytest.approx(ranks)


def test_theorem_where_values_are_exact(tmp_path):
    config = f"{FOLDER / 'theorem31_exact.py'}"
    made = config_lib.load([f"--config={config}:smoke"])
    results = artifacts.read_json(runner.run(made, tmp_path))
    found = config_lib.call(config, "measures", results)
    assert {claim.measure for claim in verdicts.of(config)} <= found.keys()
    # A small natural step gains what the performance difference lemma says.
    order = found["gain over its first order, mean of provers"]
    assert order == pytest.approx([1.0] * len(made.seeds), abs=0.1)
