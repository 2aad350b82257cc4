"""Parts of the stages of an experiment, beside what one process makes of them."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from parts_worker import contents
from tiny import random_params
from toy_problems import ARCHITECTURE, ToyProblems

from pav_jax.core import config as config_lib
from pav_jax.distributed.processes import Part
from pav_jax.pipeline import labelling, other_provers, parts, search
from pav_jax.pipeline.runner import run_stages
from pav_jax.pipeline.stages import stages
from pav_jax.storage import artifacts
from pav_jax.tasks.problems import Problems

DEMO = str(Path(__file__).resolve().parents[2] / "experiments" / "demo.py")
pytestmark = pytest.mark.slow
FIRST_PIT = dict(threshold=0.5, n_mc=2, responses=3)


def make_config(**labels):
    """Five problems in shards of two; and a prover that is the policy again."""
    config = config_lib.call(DEMO, "get_config", "smoke")
    config.limits.update(dict(max_prompt_tokens=8, max_tokens=10, max_steps=8))
    config.rollouts.update(dict(n_cov=2, n_orm=3))
    config.labels.update(dict(n_mc=2, shard=2) | labels)
    config.search.update(dict(samples=2, ns=(1, 2)))
    config.sampling = dict(trunks=4, rows=1)  # one grid for all, compiled once
    config.provers = dict(mu=dict(n_mc=1, policy="sft"))
    return config.lock()


def of_little_cost(stage):
    """The stage, with a body that only writes a file unless it is in shards."""

    def run(context):
        artifacts.write_json(context.directory / "file.json", context.stage)

    return stage if stage.in_shards else dataclasses.replace(stage, run=run)


def make_stages(config):
    return [of_little_cost(stage) for stage in stages(config)]


@pytest.fixture(scope="module")
def toy_problems():
    """The bodies of stages get an untrained policy, and scores of no verifier."""
    params = random_params(ARCHITECTURE)

    def score(_, responses, ends, *, architecture, ledger):
        ledger.scored += len(responses)
        return [
            np.array([np.sin(sum(r.tokens[:end]) + len(r.prompt)) for end in steps])
            for r, steps in zip(responses, ends, strict=True)
        ]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Problems, "load", lambda config, *_: ToyProblems(config))
        for module in (labelling, search):
            patch.setattr(module, "load_policy", lambda *_: params)
        patch.setattr(other_provers.Prover, "load", lambda *found: (params, found[2]))
        patch.setattr(search, "load_verifier", lambda *_: None)
        patch.setattr(search, "score_responses", score)
        patch.setattr(search, "_SHARD", 1)
        yield


@pytest.fixture(scope="module")
def alone(toy_problems, tmp_path_factory):
    """All stages by one process, with labels up to first pits and without."""
    workdirs = tmp_path_factory.mktemp("alone")
    for name, labels in (("plain", {}), ("pits", dict(first_pit=FIRST_PIT))):
        config = make_config(**labels)
        until = "samples" if name == "plain" else "labels"
        run_stages(make_stages(config), config, workdirs / name, until=until)
    return workdirs


def in_parts(workdir, config, until, count):
    run = (make_stages(config), config, workdir)
    for index in reversed(range(count)):
        parts.run_part(*run, until=until, part=Part(index, count))
    parts.merge(*run, until=until, count=count)


def test_bytes_are_those_of_one_process(alone, tmp_path):
    """In two rounds, as verifiers are trained on labels; a prover's labels by the way.

    Of five parts two have no shard of rollouts.
    """
    config = make_config()
    stages_of_all = make_stages(config)
    run_stages(stages_of_all, config, tmp_path, until="sft")
    in_parts(tmp_path, config, "labels", 5)
    in_parts(tmp_path, config, "labels-mu", 5)
    run_stages(stages_of_all, config, tmp_path, until="orm")
    in_parts(tmp_path, config, "samples", 2)
    names = ("rollouts", "labels", "labels-mu", "samples")
    expected = contents(alone / "plain", *names)
    assert contents(tmp_path, *names) == expected
    # Each with its ledger, and samples with answers.
    assert len([name for name in expected if "/shard-" in name]) == 2 * 11 + 3 * 5
    before = contents(tmp_path, *names)
    run_stages(stages_of_all, config, tmp_path, until="samples")
    assert contents(tmp_path, *names) == before


def test_labels_up_to_first_pits(alone, tmp_path):
    config = make_config(first_pit=FIRST_PIT)
    run_stages(make_stages(config), config, tmp_path, until="sft")
    in_parts(tmp_path, config, "labels", 2)
    expected = contents(alone / "pits", "rollouts", "labels")
    assert any("pit-labels-" in name for name in expected)
    assert contents(tmp_path, "rollouts", "labels") == expected
