"""Splits: one without problems is refused where a stage of the run needs some, and
no policy is trained on problems of validation or test."""

import json
from pathlib import Path

import pytest

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.pipeline import data
from pav_jax.pipeline import stages as pipeline
from pav_jax.pipeline.runner import run_stages
from pav_jax.storage import records
from pav_jax.tasks.problems import Problems

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def _prepare(tmp_path, *, fraction, tests=2, name="demo"):
    """A config whose problems are a few of a user's own, and its workdir."""
    for split, count in (("train", 12), ("test", tests)):
        rows = [
            {"prompt": f"{split} {i}?", "answer": i, "solution": rf"\boxed{{{i}}}"}
            for i in range(count)
        ]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(text)
    config = config_lib.call(str(EXPERIMENTS / f"{name}.py"), "get_config", "smoke")
    with config.unlocked():
        config.task = dict(
            name="jsonl", path=str(tmp_path), validation_fraction=fraction
        )
        config.problems = dict.fromkeys(("sft", "labels", "validation", "test"))
        config.problems.disjoint = False
        config.tokenizer.vocab_size = 290
    return config, tmp_path / "run"


def _run(config, workdir, until):
    run_stages(pipeline.stages(config), config, workdir, until=until)


@pytest.mark.parametrize("fraction", [0.0, 0.01])
@pytest.mark.parametrize("until", ["evaluation", "search", None])
def test_no_validation_problems(tmp_path, fraction, until):
    config, workdir = _prepare(tmp_path, fraction=fraction)
    words = (
        r"problems\.validation=None .* has none, and stage evaluation needs some; raise"
        r" config\.task\.validation_fraction,.* \(--until\)"
    )
    with pytest.raises(UserError, match=words):
        _run(config, workdir, until)
    assert [path.name for path in workdir.iterdir() if path.is_dir()] == ["data"]
    with pytest.raises(UserError, match=words):  # what is done is looked at, too
        _run(config, workdir, until)


def test_no_test_problems(tmp_path):
    config, workdir = _prepare(tmp_path, fraction=0.3, tests=0)
    with pytest.raises(UserError, match=r"problems\.test=None .* stage samples needs"):
        _run(config, workdir, None)


def test_runs_that_need_none(tmp_path):
    """Labels, and verifiers."""
    config, workdir = _prepare(tmp_path, fraction=0.0, tests=0)
    _run(config, workdir, "data")
    planned = {stage.name: stage for stage in pipeline.stages(config)}
    later = [name for name in planned if name in ("sft", "rollouts", "labels", "prm")]
    assert len(later) == 4
    planned["data"].check(workdir / "data", [*later, "orm"])


def test_rl_needs_validation_problems(tmp_path):
    config, workdir = _prepare(tmp_path, fraction=0.0, name="rl_demo")
    first = f"rl-{next(iter(config.rl.methods))}-{config.rl.seeds[0]}"
    with pytest.raises(UserError, match=f"problems.validation=None .* stage {first} n"):
        _run(config, workdir, first)


LONG = "a " * 500


def _problems(tmp_path, prompts):
    """As `_prepare`, with these problems to train on."""
    config, workdir = _prepare(tmp_path, fraction=0.0)
    config.tokenizer.vocab_size = 275
    rows = [{"prompt": p, "answer": 1, "solution": r"\boxed{1}"} for p in prompts]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "train.jsonl").write_text(text)
    return config, workdir


def test_a_problem_for_labels_that_is_no_text_is_not_a_long_one(tmp_path, capsys):
    config, workdir = _problems(tmp_path, ["a 1?", LONG, "a 2?", f"{LONG}b"])
    _run(config, workdir, "data")
    words = "data: 2 problems longer than config.limits: not labelled"
    assert words in capsys.readouterr().err
    config, workdir = _problems(tmp_path, ["a 1?", "a\u2581?", "a 2?"])
    with pytest.raises(UserError, match="cannot represent '\u2581' in the text 'a"):
        _run(config, workdir, "data")


def test_a_demonstration_that_is_too_long_is_not_measured(tmp_path):
    """Fine-tuning leaves it out, and so do curves of `rl.measured="sft"`."""
    config, workdir = _problems(tmp_path, ["a 1?", LONG, "a 2?", f"{LONG}b"])
    _run(config, workdir, "data")
    for problems in (
        Problems.load(config, workdir / "data", "sft"),
        Problems.load(config, workdir / "data", "labels").split("sft"),
    ):
        assert [problem.prompt for problem in problems] == ["a 1?\n", "a 2?\n"]
        assert len(problems.prompts) == 2
    demonstrations = records.read_problems(workdir / "data" / "sft.jsonl")
    assert len(demonstrations) == 4  # as stage sft reads them


@pytest.mark.parametrize(
    ("changes", "until", "words"),
    [
        (
            {},
            "sft",
            "12 training rows are fewer than a batch of 13, which is config.sft",
        ),
        (
            {"pretraining": dict(sft=dict(batch_size=14))},
            "pretraining",
            "12 training rows .* of 14, which is config.pretraining.sft.batch_size=14",
        ),
        (
            {"provers": dict(mu=dict(n_mc=1))},
            "policy-mu",
            "12 training rows are .* of 13, which is config.sft.batch_size=13",
        ),
        (
            {"provers": dict(mu=dict(n_mc=1, sft=dict(batch_size=15)))},
            "policy-mu",
            "12 training rows .* of 15, which is config.provers.mu.sft.batch_size=15",
        ),
        (
            {"sft": dict(batch_size=7, short_first=dict(steps=2, fraction=0.5))},
            "sft",
            r"the shortest 6 of 12 training rows \(short_first.fraction=0.5\) are fewer"
            " than a batch of 7, which is config.sft.batch_size=7",
        ),
    ],
)
def test_a_batch_that_cannot_be_filled_is_told_by_its_field(
    tmp_path, changes, until, words
):
    """How many problems there are is not known before stage `data`."""
    config, workdir = _prepare(tmp_path, fraction=0.0)
    with config.unlocked():
        config.sft.batch_size = 13
        config.update(changes)
    stages = {stage.name: stage for stage in pipeline.stages(config)}
    needs = [stages["data"], stages[until]]
    with pytest.raises(UserError, match=f"stage {until}: {words}"):
        run_stages(needs, config, workdir)


@pytest.mark.parametrize("section", ["pretraining", "provers"])
def test_other_policies_do_not_train_on_what_is_held_out(
    tmp_path, monkeypatch, capsys, section
):
    """Another fraction, and another folder with a problem of the test."""
    config, workdir = _prepare(tmp_path, fraction=0.3)
    other = tmp_path / "other"
    other.mkdir()
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").open()]
    rows += [{"prompt": " test\n0? ", "answer": 0, "solution": r"\boxed{0}"}]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (other / "train.jsonl").write_text(text)
    (other / "test.jsonl").write_text("")
    changes = dict(task=dict(path=str(other), validation_fraction=0.0))
    with config.unlocked():
        if section == "pretraining":
            config.pretraining, until = changes, "pretraining"
        else:
            config.provers = dict(mu=dict(n_mc=1, **changes))
            until = "policy-mu"
    trained = []
    real = data.policy.demonstrations

    def watched(tokenizer, problems, **limits):
        trained.append([problem.prompt for problem in problems])
        return real(tokenizer, problems, **limits)

    monkeypatch.setattr(data.policy, "demonstrations", watched)
    monkeypatch.setattr(data, "run_training", lambda *args: None)
    stages = {stage.name: stage for stage in pipeline.stages(config)}
    run_stages([stages["data"], stages[until]], config, workdir)
    held_out = {
        json.loads(line)["prompt"]
        for split in ("validation", "test")
        for line in (workdir / "data" / f"{split}.jsonl").open()
    }
    assert len(held_out) > 2
    # All others, in their order.
    kept = [f"{row['prompt']}\n" for row in rows[:12]]
    assert trained == [[prompt for prompt in kept if prompt not in held_out]]
    left_out = len(rows) - len(trained[0])
    words = f"{until}: {left_out} problems of the validation or test split: left out"
    assert words in capsys.readouterr().err
    (other / "train.jsonl").write_text((tmp_path / "test.jsonl").read_text())
    with pytest.raises(UserError, match="all of 2 problems to train on are in the val"):
        run_stages([stages["data"], stages[until]], config, tmp_path / "again")
