"""`pav lab` as a user runs it, at the smallest size, and what it says of seeds."""

import json
from pathlib import Path

import numpy as np
import pytest

from pav_jax.laboratories import planted_cells, runner, tree_cells
from pav_jax.main import main

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
EVIDENCE = EXPERIMENTS / "evidence"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, config, cells",
    [
        ("tree", "evidence/tree", 1),
        ("quality", "evidence/verifier_quality", 3),
        ("planted", "evidence/planted", 3),
        ("update", "paper/theorem31_exact", 6),
    ],
)
def test_smoke(name, config, cells, tmp_path, monkeypatch):
    config = f"--config={EXPERIMENTS / config}.py:smoke"
    arguments = ["lab", config, f"--workdir={tmp_path}"]
    assert main(arguments) == 0
    written = (tmp_path / "results.json").read_bytes()
    assert len(json.loads(written)["cells"]) == cells
    assert (tmp_path / "table.md").read_text().count("\n") > cells
    assert (tmp_path / "figure.svg").read_text().endswith("</svg>\n")

    # A stopped run goes on: only what is missing is measured.
    first = min((tmp_path / "cells").iterdir())
    first.unlink()
    laboratory = runner.LABORATORIES[name]
    measured, measure = [], laboratory.measure
    monkeypatch.setattr(
        laboratory, "measure", lambda cell: measured.append(1) or measure(cell)
    )
    assert main(arguments) == 0
    assert len(measured) == 1 and first.is_file()
    assert (tmp_path / "results.json").read_bytes() == written


@pytest.mark.parametrize(
    "changes, words",
    [
        (
            ["--config.laboratory=chemistry"],
            "must be one of 'planted', 'quality', 'tree'",
        ),
        (["--config.seeds=(0,)"], "config.seeds has no two seeds"),
        (["--workdir=gs://bucket/lab"], "to this machine only"),
    ],
)
def test_what_cannot_be_run_is_refused(changes, words, tmp_path, capsys):
    config = f"--config={EVIDENCE / 'tree.py'}:smoke"
    assert main(["lab", config, f"--workdir={tmp_path}", *changes]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def _cells(means):
    return [
        {"variant": "v", "gamma": gamma, "mean": [mean - 0.01, mean, mean + 0.02]}
        for gamma, mean in means.items()
    ]


@pytest.mark.parametrize(
    "means, best, holds",
    [
        ({None: 0.99, 5.0: 0.2, 10.0: 0.9, 50.0: 0.3}, 10, True),
        ({5.0: 0.2, 10.0: 0.5, 50.0: 0.9}, 50, False),
        ({5.0: 0.9, 10.0: 0.9, 50.0: 0.3}, 5, False),
    ],
)
def test_rule_for_a_window(means, best, holds):
    window = planted_cells.summary(_cells(means))["windows"]["v"]
    assert window["best"] == best and window["holds"] == holds


def test_no_window_without_provers_on_both_sides():
    assert not planted_cells.summary(_cells({5.0: 0.2, 10.0: 0.5}))["windows"]


def test_gains_are_paired_by_seed():
    """A gain that all seeds have counts, however far apart the seeds are."""
    accuracy = np.array([[[0.1, 0.2]], [[0.5, 0.6]], [[0.9, 1.0]]])
    cell = {"alphas": [0.0, 0.5], "accuracy": accuracy.tolist()}
    (gains,) = tree_cells.summary([cell])["gains"]
    np.testing.assert_allclose(gains[0][1], [0.1] * 3, atol=1e-9)
    np.testing.assert_allclose(gains[0][0], [0.0] * 3, atol=1e-9)
