"""Provers that are other policies: what `config.provers` may hold, and which policy."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.gemma import forward, sizes
from pav_jax.pipeline.data import run_pretraining, with_changes
from pav_jax.pipeline.other_provers import Prover
from pav_jax.pipeline.runner import StageContext, make_terms
from pav_jax.pipeline.stages import stages
from pav_jax.storage import checkpoints
from pav_jax.tasks.problems import Problems

DEMO = str(Path(__file__).resolve().parents[2] / "experiments" / "demo.py")


def _config(**provers):
    config = config_lib.call(DEMO, "get_config", "smoke")
    with config.unlocked():
        config.provers = provers
    return config


def _problems(config):
    vocabulary = type("Tokenizer", (), {"vocab_size": 32})()
    return Problems(config, Path(), None, vocabulary, None, None)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (dict(), "needs n_mc"),
        (dict(n_mc=0), "needs n_mc.*at least 1"),
        (dict(n_mc=2, nmc=3), "unknown field 'nmc'; there are n_mc, from_policy"),
        (dict(n_mc=2, from_policy=0), "labels nothing"),
        (dict(n_mc=2, from_policy=3), "at most config.rollouts.n_orm=2"),
        (dict(n_mc=2, policy="sft", sft=dict(steps=7)), "leave out either"),
        (dict(n_mc=2, model=dict(width=3)), "'width', which config.model has not"),
        (dict(n_mc=2, sft=dict(stepz=3)), "'stepz', which config.sft has not"),
    ],
)
def test_mistakes_are_told(entry, words):
    with pytest.raises(UserError, match=rf"config\.provers\.mu.*{words}"):
        stages(_config(mu=entry))


def test_a_name_is_one():
    with pytest.raises(UserError, match="config.provers.1 names stages"):
        stages(_config(**{"1": dict(n_mc=2)}))


def test_only_its_own_sections_change():
    config = _config(mu=dict(n_mc=2, task=dict(wrong_turns=0.3), sft=dict(steps=7)))
    changed = Prover.of(config, "mu").changed(config)
    assert changed.task.to_dict() == config.task.to_dict() | {"wrong_turns": 0.3}
    assert changed.sft.to_dict() == config.sft.to_dict() | {"steps": 7}
    assert changed.model == config.model
    assert "wrong_turns" not in config.task and config.sft.steps == 20


def test_stages_of_each_prover():
    config = _config(
        mu=dict(n_mc=2, task=dict(wrong_turns=0.3)),
        more=dict(n_mc=4, policy="policy-mu"),
        base=dict(n_mc=2, policy="sft"),
        other=dict(n_mc=2, policy="runs/other/sft"),
    )
    found = {stage.name: stage for stage in stages(config)}
    for stage in found.values():
        config_lib.select(config, stage.fields)
    policies = [name for name in found if name.startswith("policy-")]
    assert policies == ["policy-mu"]
    of_labels = {
        name: set(found[f"labels-{name}"].needs) - {"data", "rollouts"}
        for name in config.provers
    }
    assert of_labels == {
        "mu": {"policy-mu"},
        "more": {"policy-mu"},
        "base": {"sft"},
        "other": set(),
    }
    # More continuations are no reason to fine-tune again.
    assert not any("n_mc" in field for field in found["policy-mu"].fields)
    assert {f"prm-{name}" for name in config.provers} <= set(found["search"].needs)


def test_a_policy_that_is_not_there(tmp_path):
    config = _config(mu=dict(n_mc=2, policy=str(tmp_path)))
    prover = Prover.of(config, "mu")
    context = StageContext("labels-mu", config, tmp_path, {})
    with pytest.raises(UserError, match="neither a stage of this run .* which has pa"):
        prover.load(context, _problems(config))


def test_a_policy_of_another_run(tmp_path):
    """Its folder is given, and what differs in its architecture."""
    entry = dict(n_mc=2, policy=str(tmp_path), model=dict(embed_dim=24))
    config = _config(mu=entry)
    architecture = sizes.from_config(
        ConfigDict(config.model.to_dict() | {"embed_dim": 24}), 32
    )
    params = forward.init_params(jax.random.key(3), architecture)
    checkpoints.save_params(tmp_path / "params", params)
    context = StageContext("labels-mu", config, tmp_path, {})
    loaded, problems = Prover.of(config, "mu").load(context, _problems(config))
    assert problems.architecture == architecture
    jax.tree.map(np.testing.assert_array_equal, loaded, params)


def test_base_policies_of_several_sizes_share_a_prover():
    """What its fine-tuning depends on has none of the base policy's fields that the
    prover changes, and all others."""
    prover = dict(n_mc=2, model=dict(embed_dim=24), sft=dict(steps=7))

    def terms(**changes):
        config = _config(mu=prover)
        for name, value in changes.items():
            section, field = name.split("__")
            config[section][field] = value
        stage = {stage.name: stage for stage in stages(config)}["policy-mu"]
        return make_terms(stage, config_lib.flatten(config), {"data": "x"})

    assert terms(model__embed_dim=40, sft__steps=9) == terms()
    for other in (dict(model__mlp_dim=40), dict(sft__batch_size=3), dict(task__seed=1)):
        assert terms(**other) != terms()
    prover["sft"]["steps"] = 8
    changed = terms()
    prover["sft"]["steps"] = 7
    assert changed != terms()


def test_an_rl_method_names_a_prover_that_there_is():
    path = DEMO.replace("demo.py", "rl_demo.py")
    config = config_lib.call(path, "get_config", "smoke")
    with config.unlocked():
        config.rl.methods.pav_mu = dict(config.rl.methods.pav_rl) | dict(prover="mu")
    with pytest.raises(UserError, match="'mu' is no entry of config.provers.*none"):
        stages(config)
    with config.unlocked():
        config.provers = dict(mu=dict(n_mc=2, policy="sft"))
    found = {stage.name: stage for stage in stages(config)}
    assert "prm-mu" in found["rl-pav_mu-0"].needs
    assert "prm-mu" not in found["rl-pav_rl-0"].needs
    assert {"sft"} < set(found["provers"].needs)


def test_draws_of_provers_differ():
    made = Prover("a", n_mc=1)
    assert made.stream != dataclasses.replace(made, name="b").stream


def test_pretraining_comes_before_every_policy():
    config = _config(mu=dict(n_mc=2, task=dict(wrong_turns=0.3)))
    before = {stage.name: stage for stage in stages(config)}
    assert "pretraining" not in before
    with config.unlocked():
        config.pretraining = dict(task=dict(max_decoy=2), sft=dict(steps=7))
    found = {stage.name: stage for stage in stages(config)}
    for name in ("sft", "policy-mu"):
        assert set(found[name].needs) == {"data", "pretraining"}
        assert found[name].fields == before[name].fields
    changes = {key: config.pretraining.get(key) for key in ("task", "sft")}
    own = with_changes(config, changes, "config.pretraining")
    assert (own.task.max_decoy, own.sft.steps) == (2, 7)
    with config.unlocked():
        config.pretraining.model = dict(embed_dim=8)
    context = StageContext("pretraining", config, Path(), {})
    with pytest.raises(UserError, match="unknown field 'model'; it may have task"):
        run_pretraining(context)
