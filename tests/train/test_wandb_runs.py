"""Weights & Biases, by a module that stands in for its package."""

import json
import sys
import types

import pytest

from pav_jax.core.errors import UserError
from pav_jax.train.wandb_runs import WandbRun, check

ABOUT = dict(experiment="demo", stage="sft", config={"seed": 3, "sft": {"steps": 9}})


class _Error(Exception):
    """As `wandb.errors.Error`, which all of the package's derive from."""


@pytest.fixture
def wandb(monkeypatch):
    """The package; `runs` are the arguments and the rows of each run."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    fake = types.ModuleType("wandb")
    fake.errors = types.SimpleNamespace(Error=_Error)
    fake.runs, fake.logins = [], []
    fake.login = lambda: fake.logins.append(True)

    def init(**settings):
        rows = []
        fake.runs.append((settings, rows))
        return types.SimpleNamespace(
            log=lambda values, step: rows.append((step, values)),
            finish=lambda: rows.append("finished"),
        )

    fake.init = init
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_a_run_has_name_config_and_scalars(wandb, tmp_path):
    run = WandbRun(tmp_path / "sft", 0, **ABOUT)
    run.scalars(50, {"loss": 0.5})
    run.close()
    ((settings, rows),) = wandb.runs
    assert rows == [(50, {"loss": 0.5}), "finished"]
    named = json.loads((tmp_path / "sft" / "wandb.json").read_text())
    assert settings == dict(
        project="pav_jax",
        group="demo",
        name="demo sft",
        job_type="sft",
        config={"seed": 3, "sft": {"steps": 9}},
        id=named["id"],
        resume="allow",
        dir=str(tmp_path / "sft"),
    )


def test_a_training_goes_on_with_its_run(wandb, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    for first in (0, 30, 60, 0):  # the last one starts over
        WandbRun(tmp_path, first, **ABOUT).close()
    ids = [settings["id"] for settings, _ in wandb.runs]
    assert ids[0] == ids[1] == ids[2] != ids[3]
    assert {settings["project"] for settings, _ in wandb.runs} == {"ours"}


def test_it_is_checked_before_a_run(wandb, monkeypatch):
    check()
    assert wandb.logins == [True]
    monkeypatch.setenv("WANDB_MODE", "offline")  # needs no account
    check()
    assert wandb.logins == [True]


def test_nobody_is_logged_in(wandb, tmp_path):
    def refuse(**settings):
        raise _Error("api_key not configured (no-tty)")

    wandb.login = wandb.init = refuse
    for start in (check, lambda: WandbRun(tmp_path, 0, **ABOUT)):
        with pytest.raises(UserError, match="api_key not configured.*run wandb login"):
            start()


def test_it_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # its import fails
    with pytest.raises(UserError, match="--log_to=wandb needs .* pip install wandb"):
        check()
