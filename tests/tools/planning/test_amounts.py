"""What an estimate counts, against what the stages really run."""

import types
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.pipeline import search as search_lib
from pav_jax.pipeline import stages as pipeline
from pav_jax.search.pick import PICKS
from pav_jax.tools.planning import amounts, estimate, topology

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
CONFIGS = (
    "demo.py",
    "gemma2_2b_math.py:rl",
    "gsm8k_tiny.py",
    "rl_demo.py:controls",
    "evidence/diverse.py",
    "evidence/first_pit.py",
    "evidence/on_search.py",
    "evidence/provers.py",
    "evidence/provers.py:smoke",
    "paper/fig05b_best_of_k.py",
    "paper/fig05c_cross_provers.py",
)


def load(name, **fields):
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    return config_lib.load([f"--config={EXPERIMENTS / name}", *given])


def planned(config):
    """The stages by name, where every step function takes a second."""
    answers = {
        name: {
            "parts": {"weights": 0},
            "temporaries": 0,
            "flops": 197e12,
            "collectives": {},
            "tokens": 100,
        }
        for name in ("sft", "verifier", "decode", "search", "rl")
    }
    found = estimate.stages(config, answers, topology.parse("v5e:1x1"))
    assert len({stage.name for stage in found}) == len(found)
    return {stage.name: stage for stage in found}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_stage_is_counted_or_named(name):
    config = load(name)
    counted = {stage.partition(":")[0] for stage in planned(config)}
    left_out = {words.partition(":")[0] for words in amounts.not_counted(config)}
    for stage in pipeline.stages(config):
        if stage.computes:
            part = "rl" if stage.name.startswith("rl-") else stage.name
            assert part in counted | left_out, stage.name


class Split:
    """Problems of a split, of which only the number is known."""

    def __init__(self, config, split):
        self._config, self._split = config, split

    def __len__(self):
        return amounts.problems(self._config, self._split)

    def split(self, name):
        return Split(self._config, name)


@pytest.mark.parametrize("name", CONFIGS)
def test_candidate_beams_are_those_of_stage_search(name, monkeypatch, tmp_path):
    """Of all searches that it asks for, once for each file."""
    config, found = load(name), {}

    def run(problems, name, *, beams=None, **_):
        beams = beams or config.search.alpha_beams
        assert found.setdefault(name, len(problems) * beams) == len(problems) * beams
        return types.SimpleNamespace(outcomes=dict.fromkeys(PICKS, np.ones(1)).get)

    made = {stage.name: stage for stage in pipeline.stages(config)}["search"]
    context = types.SimpleNamespace(
        config=config, inputs=dict.fromkeys(made.needs), directory=tmp_path
    )
    searcher = types.SimpleNamespace(
        context=context,
        test=Split(config, "test"),
        run=run,
        read_verifier=lambda stage: stage,
    )
    monkeypatch.setattr(search_lib._Searcher, "load", lambda context: searcher)
    # It is made of labelled rollouts, by a task that tells what a prefix is worth.
    exact = config.task.name == "relations"
    monkeypatch.setattr(search_lib, "_fit_oracle", lambda *_: exact or None)
    search_lib.run_search(context)
    assert amounts.searched(config) == sum(found.values()) * config.search.candidates


def test_the_choice_of_the_prover_multiplies_validation():
    """Each α above 0 with each K, and `Q^π` alone once."""
    one = amounts.searched(load("gemma2_2b_math.py"))
    two = load("gemma2_2b_math.py", **{"search.prover_ks": "(2, 4)"})
    assert amounts.searched(two) - one == 480 * 10 * 16 * 3


def test_rl_of_the_paper():
    """MATH-500, two methods, one seed, 10,000 iterations of 32 responses."""
    found = planned(load("gemma2_2b_math.py:rl"))
    # SFT 256 that choose and 256 that are measured, RFT and two runs 256 each; and a
    # greedy one of each of the four policies.
    assert found["improvement"].work.startswith(f"{500 * (5 * 256 + 4):,} responses")
    # 16 and 32 beams by each of the four, if nothing is ever solved; else fewer.
    beams = found["improvement: unsolved"]
    assert beams.work.startswith(f"{500 * 4 * (16 + 32) * 3:,} candidate beams")
    assert beams.hours[0] == 0 < beams.hours[1]
    assert found["rl: sampling"].work.startswith("640,000 responses")
    # 21 times in a run: a sample and a greedy one, and a sample of 480 for validation.
    assert found["rl: measuring"].work.startswith(f"{2 * 21 * 1_480:,} responses")
    assert found["rft"].work == "5,000 steps"
    assert found["evaluation"].work.startswith(
        "3,840 responses, 409,600 continuations of 6,400 prefixes"
    )
    assert found["samples"].work.startswith("64,500 responses")


def test_provers_that_are_other_policies():
    config = load("evidence/provers.py")
    found = planned(config)
    assert found["pretraining"].work == f"{config.pretraining.sft.steps:,} steps"
    assert found["policy-mu"].work == "1,000 steps"
    assert "policy-both" not in found  # it is that of `mu`
    prefixes = 3_000 * config.limits.max_steps
    mu = f"{4 * prefixes:,} continuations of {prefixes:,} prefixes"
    assert found["labels-mu"].work.startswith(mu)
    both = f"3,000 responses, {8 * prefixes:,} continuations of {2 * prefixes:,} "
    assert found["labels-both"].work.startswith(both)
    assert found["prm-mu"].work == found["prm"].work == found["prm-both"].work
    assert not amounts.not_counted(config)


def test_terms_labels_and_refreshes_of_rl():
    config = load("evidence/provers.py:smoke")
    found, rl = planned(config), config.rl
    terms = rl.provers.problems * rl.provers.responses
    prefixes = 4 * terms * config.limits.max_steps  # of π, its start, mu and both
    assert f"{prefixes:,} prefixes" in found["provers"].work
    batch = rl.training.problems * rl.training.samples * rl.training.steps
    prefixes = batch * config.limits.max_steps
    assert f"of {prefixes:,} prefixes" in found["rl: labels of pav_mc"].work
    # Every second of four iterations, but not before the first.
    steps = f"{rl.refresh.steps:,} steps"
    assert rl.training.steps == 4 and found["rl: refreshed"].work == steps


def test_rounds_on_what_searches_find():
    config = load("evidence/on_search.py")
    found, prefixes = planned(config), 2_400 * config.limits.max_steps
    assert found["prm-0"].work == found["prm"].work == found["orm"].work == "400 steps"
    assert found["beams-1"].work.startswith(f"{1_200 * 8 * 3:,} candidate beams")
    assert f"of {prefixes:,} prefixes" in found["beams-1: labels"].work
    names = list(found)
    assert names.index("prm-0") < names.index("beams-1") < names.index("prm")


def test_batches_of_other_sizes_take_as_much_longer():
    config = load("demo.py")
    same = planned(config)["orm"].hours
    with config.verifier.orm.unlocked():
        config.verifier.orm.batch_size *= 2
    assert planned(config)["orm"].hours == pytest.approx([2 * h for h in same])


def test_models_of_other_sizes_are_named():
    config = load("paper/fig05c_cross_provers.py")
    others = ["policy-large", "labels-large", "policy-small", "labels-small"]
    assert amounts.not_counted(config) == others
    found = planned(config)
    assert {"policy-middle", "labels-middle", "prm-small", "prm-large"} <= found.keys()
    assert not found.keys() & set(others)


def test_problems_of_published_tasks():
    config = load("gemma2_2b_math.py").copy_and_resolve_references().unlock()
    config.problems.test = None
    splits = ("sft", "labels", "validation", "test")
    found = [amounts.problems(config, split) for split in splits]
    assert found == [11_520, 11_520, 480, 500]
    for name, held_out in (("math", 480), ("gsm8k", 373)):
        config.task = ConfigDict(dict(name=name))  # with the task's own fraction
        assert amounts.problems(config, "validation") == held_out
    config.task.name = "jsonl"
    with pytest.raises(UserError, match=r"config\.problems\.test is None"):
        amounts.problems(config, "test")
