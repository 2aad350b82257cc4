"""The paper's configs: what they say, and that what they say can be run."""

import json
import math
import re
from pathlib import Path

import jax
import pytest
from tiny import abstract_mesh, byte_tokenizer

from pav_jax import policy
from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.distributed import mesh
from pav_jax.gemma import forward, sizes
from pav_jax.pipeline import data, rl, stages
from pav_jax.pipeline.runner import StageContext, _fields_of
from pav_jax.tasks import make_task
from pav_jax.tasks.stored import StoredTask
from pav_jax.tools.planning import steps
from pav_jax.train.step import make_optimizer

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "experiments" / "demo.py"
PAPER = {
    # name: (peak learning rate of SFT, (RL iterations, alpha))
    "gemma2_2b": (5e-6, (10_000, 5.0)),
    "gemma2_9b": (5e-6, (5_000, 3.0)),
    "gemma2_27b": (5e-7, None),
    "gemma3_4b": (5e-6, None),
}


def _load(name, variant=""):
    file = ROOT / "experiments" / f"{name}_math.py"
    return config_lib.load([f"--config={file}{':' if variant else ''}{variant}"])


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_settings(name):
    config = _load(name)
    rate, _ = PAPER[name]
    trained = [
        (config.sft, 5_000, rate, 500),
        (config.verifier.prm, 20_000, 5e-7, 2_000),
        (config.verifier.orm, 20_000, 5e-7, 2_000),
    ]
    for section, count, peak, warmup in trained:
        assert (section.steps, section.learning_rate) == (count, peak)
        assert (section.warmup_steps, section.batch_size) == (warmup, 32)
        make_optimizer(section)
    assert config.labels.n_mc == 20 and config.verifier.prover_k == 4
    assert config.search.candidates == 3 and config.search.alpha_beams == 16
    assert max(config.search.beams) == max(config.search.ns) == 128
    assert len(config.search.alphas) == 11
    assert isinstance(make_task(config.task), StoredTask)
    assert config.problems.to_dict() == dict(
        sft=None, labels=None, validation=None, test=500, disjoint=False
    )
    _check_stages(config)
    vocab_size = 256_000 if name < "gemma3" else 262_144
    architecture = sizes.from_config(config.model, vocab_size)
    shapes = jax.eval_shape(
        lambda: policy.initial_policy(
            config_lib.ConfigDict(dict(dtype=config.model.dtype)), architecture, seed=0
        )
    )
    found = sum(math.prod(x.shape) for x in jax.tree.leaves(shapes))
    assert found == architecture.num_params


@pytest.mark.parametrize("name", PAPER)
def test_the_hardware_that_the_file_names(name):
    """There the mesh divides all that it has to, and each device holds its part."""
    config = _load(name, "rl" if PAPER[name][1] else "")
    text = (ROOT / "experiments" / f"{name}_math.py").read_text()
    count, memory = re.search(r"(\d+) accelerators of (\d+) GB", text).groups()
    shape = mesh.axis_sizes(config.mesh, int(count))
    devices = abstract_mesh(*shape)
    for step in steps.names(config):
        parts = steps.build(step, config, devices).parts
        assert 0 < sum(parts.values()) < int(memory) * 1e9, (step, parts)


def _check_stages(config):
    """Each stage finds the fields that it declares."""
    values = config_lib.flatten(config)
    assert json.loads(json.dumps(values)) == values
    for stage in stages.stages(config):
        assert _fields_of(stage, values)


@pytest.mark.parametrize("name", [name for name in PAPER if PAPER[name][1]])
def test_the_papers_rl(name):
    config = _load(name, "rl")
    _check_stages(config)
    training = config.rl.training
    steps, alpha = PAPER[name][1]
    assert (training.steps, training.warmup_steps) == (steps, steps // 10)
    assert training.problems * training.samples == 32
    assert (training.learning_rate, training.kl) == (1e-7, 0.001)
    objective = rl.objective_of(config, "pav_rl")
    # The prover is the SFT policy, by the frozen verifier of its Q; that of search Bo4.
    assert (objective.alpha, objective.prover_k) == (alpha, 1)
    assert objective.uses_verifier and not objective.refresh_every
    assert config.verifier.prover_k == 4
    assert not rl.objective_of(config, "orm_rl").uses_verifier
    assert config.rl.rft == config.sft
    # The base run's stages do not run again.
    base = {stage.name: stage.fields for stage in stages.stages(_load(name))}
    values = config_lib.flatten(_load(name))
    for stage in stages.stages(config):
        if stage.name in base and stage.name != "report":
            assert _fields_of(stage, config_lib.flatten(config)) == {
                key: value
                for key, value in values.items()
                if any(config_lib.within(key, field) for field in base[stage.name])
            }


@pytest.mark.parametrize("name", PAPER)
def test_smoke_is_of_the_same_kind(name):
    config = _load(name, "smoke")
    _check_stages(config)
    assert config.problems.sft > config.problems.labels > config.problems.validation
    published = sizes.by_name(name)
    small = sizes.from_config(config.model, 300)
    assert small.num_params < 100_000
    for field in ("qk_norm", "attn_softcap", "final_softcap", "global_rope_base"):
        assert getattr(small, field) == getattr(published, field)
    assert (
        small.num_heads // small.num_kv_heads
        == published.num_heads // published.num_kv_heads
    )
    assert set(small.layers) == {"local", "global"}
    # 27Bs scale queries by another width than the others.
    assert (small.query_scale == small.head_dim**-0.5) == (
        published.query_scale == published.head_dim**-0.5
    )
    tokens = jax.ShapeDtypeStruct((2, 40), "int32")
    params = jax.eval_shape(lambda: policy.initial_policy(config.model, small, seed=0))
    hidden = jax.eval_shape(
        lambda p, t: forward.hidden_states(p, t, architecture=small), params, tokens
    )
    assert hidden.shape == (2, 40, small.embed_dim)


def test_a_number_of_problems_can_be_given():
    file = ROOT / "experiments" / "gemma2_2b_math.py"
    config = config_lib.load([f"--config={file}", "--config.problems.labels=100"])
    assert (config.problems.labels, config.problems.sft) == (100, None)


def test_an_unknown_variant_is_refused():
    for name, known in (("gemma2_2b", "'rl'"), ("gemma2_27b", "'smoke'")):
        with pytest.raises(UserError, match=known):
            _load(name, "tiny")


# The data stage, as these configs need it.


def _data(tmp_path, **problems) -> dict[str, list[dict]]:
    """What the data stage writes, of 30 problems for training, one very long."""
    folder = tmp_path / "own"
    folder.mkdir(exist_ok=True)
    for split, count in (("train", 30), ("test", 3)):
        rows = [
            {"prompt": f"{split} {k}?" + " " * 90 * (k == 21), "answer": str(k)}
            for k in range(count)
        ]
        lines = [
            json.dumps(row | {"solution": f"# Answer: {k}"})
            for k, row in enumerate(rows)
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    byte_tokenizer().save(folder / "bytes.model")
    counts = dict(sft=None, labels=None, validation=None, test=2, disjoint=False)
    config = config_lib.ConfigDict(
        dict(
            task=dict(name="jsonl", path=str(folder), validation_fraction=0.3),
            problems=counts | problems,
            limits=dict(max_prompt_tokens=40),
            tokenizer=dict(path=str(folder / "bytes.model")),
        )
    )
    out = tmp_path / "data"
    data.run_data(StageContext("data", config, out, {}))
    return {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()]
        for path in out.glob("*.jsonl")
    }


def test_all_problems_for_both_uses(tmp_path, capsys):
    found = _data(tmp_path)
    assert len(found["sft"]) + len(found["validation"]) == 30
    assert 0 < len(found["validation"]) < 20 and len(found["test"]) == 2
    # What is too long is not labelled, and that is said.
    assert found["labels"] == [p for p in found["sft"] if len(p["prompt"]) < 90]
    assert len(found["labels"]) == len(found["sft"]) - 1
    assert (
        "1 problem longer than config.limits: not labelled" in capsys.readouterr().err
    )


def test_problems_apart(tmp_path):
    found = _data(tmp_path, sft=3, labels=2, disjoint=True)
    every = _data(tmp_path)["sft"]
    assert found["sft"] + found["labels"] == every[:5]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(disjoint=True), "must be numbers, or config.problems.disjoint=False"),
        (dict(test=4), "asked for 4 problems"),
        (dict(validation=8, test=3, labels=0), "none of 0 problems for labels fits"),
    ],
)
def test_what_cannot_be_chosen(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        _data(tmp_path, **change)


def test_a_task_without_end_needs_numbers():
    task = make_task(demo := config_lib.load([f"--config={DEMO}"]).task)
    counts = config_lib.ConfigDict(dict(sft=1, labels=1, validation=None, test=1))
    with pytest.raises(UserError, match=f"task {demo.name} has no end"):
        data._choose(task, counts)
