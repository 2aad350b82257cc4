"""The RL loop: what an iteration depends on, runs that stop and go on, and measures."""

import dataclasses
import functools
import json
import math
import os
import signal

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from pav_jax import labels, verifier
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.seeds import Stream, derive
from pav_jax.distributed import signals
from pav_jax.gemma import forward
from pav_jax.pipeline import rl as rl_stages
from pav_jax.pipeline.data import run_data
from pav_jax.pipeline.provers import run_provers
from pav_jax.pipeline.runner import StageContext
from pav_jax.rl import monitor, rewards
from pav_jax.rl import trainer as trainers
from pav_jax.rl import update as rl
from pav_jax.tasks.problems import Problems
from pav_jax.train import loop
from pav_jax.train.batches import pad_rows
from pav_jax.train.scalars import NoLog

CONFIG = ml_collections.ConfigDict(
    dict(
        seed=0,
        task=dict(
            name="relations",
            seed=0,
            min_depth=1,
            max_depth=1,
            num_people=3,
            max_decoy=1,
        ),
        problems=dict(sft=8, labels=10, validation=2, test=6),
        limits=dict(max_prompt_tokens=24, max_tokens=12, max_steps=4),
        tokenizer=dict(vocab_size=64),
        model=dict(num_layers=1, embed_dim=16, num_heads=1, mlp_dim=16),
        sampling=dict(trunks=3, rows=2),
    )
)
SETTINGS = ml_collections.ConfigDict(
    dict(
        steps=6,
        warmup_steps=1,
        learning_rate=1e-3,
        value_learning_rate=1e-2,
        final_learning_rate=0.1,
        weight_decay=0.0,
        clip_norm=1.0,
        problems=3,
        samples=2,
        max_kl=5.0,
        min_accuracy=0.0,
        measure_every=3,
        measure_samples=2,
    )
)
REFRESH = ml_collections.ConfigDict(
    dict(
        problems=4,
        n_mc=2,
        language_weight=0.1,
        steps=3,
        batch_size=2,
        warmup_steps=1,
        learning_rate=1e-2,
        final_learning_rate=0.1,
        weight_decay=0.0,
        clip_norm=1.0,
    )
)
OBJECTIVE = rewards.Objective(
    reward="progress",
    baseline="value",
    alpha=0.5,
    prover_k=2,
    kl=0.01,
)


# Compiled once for all runs of an objective: that is most of what takes time.
_updates, _states, _refreshers = {}, {}, {}


def _shared_update(objective, optimizers, original=rl.make_update, **kwargs):
    if objective not in _updates:
        _updates[objective] = original(objective, optimizers, **kwargs)
    return _updates[objective]


def _shared_state(policy, objective, *args, original=rl.init_state, **kwargs):
    if objective not in _states:
        _states[objective] = original(policy, objective, *args, **kwargs)
    return jax.tree.map(jnp.copy, _states[objective])


def _shared_refresher(problems, settings, original=trainers.Refresher):
    assert settings is REFRESH
    return _refreshers.setdefault(problems, original(problems, settings))


@pytest.fixture(autouse=True, scope="module")
def shared_compilation():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl, "make_update", _shared_update)
        patch.setattr(rl, "init_state", _shared_state)
        patch.setattr(trainers, "Refresher", _shared_refresher)
        yield


class ParityProblems(Problems):
    """An untrained policy is never right; here the sum of token ids decides."""

    def are_correct(self, responses):
        return [(problem + sum(tokens)) % 3 == 0 for problem, tokens in responses]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """The problems to train on, those of the curves, and those that may stop a run."""
    data = tmp_path_factory.mktemp("data")
    run_data(StageContext("data", CONFIG, data, {}))
    train = ParityProblems.load(CONFIG, data, "labels")
    return [train, *rl_stages._watched(train, "test")]


@pytest.fixture(scope="module")
def networks(problems):
    """A policy, and a verifier whose values differ from step to step."""
    architecture = problems[0].architecture
    keys = jax.random.split(jax.random.key(0), 3)
    policy = forward.init_params(keys[0], architecture)
    scores = verifier.init_verifier(keys[1], policy, architecture)
    leaves, tree = jax.tree.flatten(scores["head"])
    draws = jax.random.split(keys[2], len(leaves))
    leaves = [jax.random.normal(k, x.shape) for k, x in zip(draws, leaves, strict=True)]
    return policy, scores | {"head": jax.tree.unflatten(tree, leaves)}


@pytest.fixture
def make(problems, networks, tmp_path):
    """A trainer that writes into the named folder; with changed settings."""

    def trainer(folder="run", objective=OBJECTIVE, seed=7, **changes):
        settings = SETTINGS.copy_and_resolve_references()
        settings.update(changes)
        (tmp_path / folder).mkdir(exist_ok=True)
        policy, scores = networks
        return trainers.Trainer(
            objective=objective,
            settings=settings,
            train=problems[0],
            measured=problems[1],
            validation=problems[2],
            initial=policy,
            verifier=scores if objective.uses_verifier else None,
            seed=seed,
            directory=tmp_path / folder,
            name="test",
            refresh=REFRESH,
        )

    return trainer


def _lines(trainer, name):
    """What was written, without times."""
    text = (trainer.directory / f"{name}.jsonl").read_text()
    rows = [json.loads(line) for line in text.splitlines()]
    for row in rows:
        row.pop("seconds", None)
        row.pop("tokens_per_second", None)
    return rows


def _check_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def whole(problems, networks, tmp_path_factory):
    """A run that nothing disturbed: its trainer, and its last state."""
    policy, scores = networks
    trainer = trainers.Trainer(
        OBJECTIVE,
        SETTINGS,
        *problems,
        policy,
        scores,
        seed=7,
        directory=tmp_path_factory.mktemp("whole"),
        name="test",
    )
    return trainer, trainer.fit()


# An iteration.


def test_what_is_sampled_is_a_function_of_seed_and_step(make):
    policy = make().initial
    one, again = (make().roll_out(policy, 3, Ledger()) for _ in range(2))
    assert one.responses == again.responses
    for name, other in (
        ("step", make().roll_out(policy, 4, Ledger())),
        ("seed", make(seed=8).roll_out(policy, 3, Ledger())),
    ):
        assert one.responses != other.responses, name
    # Methods of one seed see the same problems and the same draws.
    outcome = rewards.Objective(reward="outcome", baseline="group", kl=0.01)
    theirs = make(objective=outcome).roll_out(policy, 3, Ledger())
    assert theirs.responses == one.responses
    assert theirs.q is None and not np.any(np.concatenate(theirs.process))
    problems = [r.problem for r in one.responses]
    assert problems[::2] == problems[1::2] and len(set(problems)) == 3


def test_an_epoch_has_each_problem_once(make):
    """9 of 10 in the first three iterations; the tenth is in the fourth."""
    trainer, seen = make(), []
    for step in range(4):
        found = trainer.roll_out(trainer.initial, step, Ledger())
        seen += [r.problem for r in found.responses[::2]]
    assert len(set(seen[:10])) == 10


def test_a_problem_that_is_twice_in_a_batch_has_other_draws(make):
    """Of 10 problems, 8 in an iteration: the second reaches into the next epoch."""
    trainer = make(problems=8)
    roll_out = functools.partial(trainer.roll_out, trainer.initial, 1, Ledger())
    batch = roll_out().responses
    groups = [batch[i : i + 2] for i in range(0, 16, 2)]
    seen = {}
    for group in groups:
        seen.setdefault(group[0].problem, []).append(group)
    twice = [both for both in seen.values() if len(both) == 2]
    assert twice and len(seen) + len(twice) == 8
    for both in twice:
        # Draws number 0 to 3 of this problem, two for each of its places.
        four = _draw(trainer, both[0][0].problem, 4)
        assert [*both[0], *both[1]] == four
        assert both[0] != both[1]
    # Processes with a half each draw the same.
    halves = [roll_out(own=own).responses for own in (slice(0, 4), slice(4, 8))]
    assert [*halves[0], *halves[1]] == batch


def _draw(trainer, problem, count):
    return labels.sample_responses(
        trainer.initial,
        trainer.train,
        [problem],
        count=count,
        seed=derive(7, Stream.RL_RESPONSES, 1),
        sampling=labels.sampling_for(trainer.train, 1.0, branches=2),
        ledger=Ledger(),
    )


def test_steps_are_paid_by_the_verifier(make):
    trainer, ledger = make(), Ledger()
    scored = trainer.roll_out(trainer.initial, 0, ledger)
    values_of = jax.jit(
        functools.partial(verifier.step_values, architecture=trainer.train.architecture)
    )
    for response, ends, paid, q in zip(
        scored.responses, scored.ends, scored.process, scored.q, strict=True
    ):
        tokens = pad_rows([response.prompt + response.tokens], 36)
        values = values_of(trainer.verifier, tokens)
        places = len(response.prompt) - 1 + np.append(0, ends)
        np.testing.assert_allclose(q, values[0, places], atol=1e-5)
        expected = 1 - (1 - np.append(q[:-1], response.correct)) ** 2
        np.testing.assert_allclose(paid, 0.5 * np.diff(expected), atol=1e-6)
    lengths = [len(r.tokens) for r in scored.responses]
    assert ledger.decoded == sum(lengths)
    prompts = {r.prompt for r in scored.responses}  # each is read once
    assert len(prompts) < len(lengths)
    assert ledger.scored == sum(lengths) + sum(map(len, prompts))


def test_steps_are_paid_by_continuations(make):
    """Those of the policy; each depends on its own key only."""
    objective = dataclasses.replace(OBJECTIVE, n_mc=3)
    trainer, ledger = make(objective=objective), Ledger()
    assert trainer.verifier is None
    scored = trainer.roll_out(trainer.initial, 2, ledger)
    by_verifier = make().roll_out(trainer.initial, 2, Ledger())
    assert scored.responses == by_verifier.responses
    label = functools.partial(
        labels.label_steps,
        trainer.initial,
        trainer.train,
        n_mc=3,
        seed=derive(7, Stream.RL_LABELS, 2),
        sampling=labels.sampling_for(trainer.train, 1.0, branches=12),
    )
    for response, paid, q in zip(
        scored.responses, scored.process, scored.q, strict=True
    ):
        (steps,) = label([response], ledger=Ledger())
        np.testing.assert_array_equal(q, steps.q)
        # Pairs of three continuations without a right one.
        wrong = steps.count - steps.correct
        fails = np.append(wrong[:-1] * (wrong[:-1] - 1) / 6, wrong[-1])
        np.testing.assert_allclose(paid, -0.5 * np.diff(fails), atol=1e-6)
    assert np.any(np.concatenate(scored.process) != 0)
    lengths = [len(r.tokens) for r in scored.responses]
    ours = Ledger()
    label(scored.responses, ledger=ours)  # what they share is drawn once
    assert ledger.decoded == sum(lengths) + ours.decoded
    assert ledger.scored == 0


# A run.


def test_a_run_and_what_it_writes(whole):
    trainer, state = whole
    assert state.step == 6
    rows = _lines(trainer, "metrics")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row in rows:
        # The target: sampler and trainer agree on what the policy is.
        assert row["log_prob_gap"] < 1e-4
        assert row["trained"] == row["decoded"] == 6 * row["response_tokens"]
    assert rows[0]["kl"] == pytest.approx(0.0, abs=1e-6) and abs(rows[-1]["kl"]) > 1e-6
    assert 0 < np.mean([row["accuracy"] for row in rows]) < 1
    measured = _lines(trainer, "accuracy")
    assert [row["step"] for row in measured] == [0, 3, 6]
    names = {"step", "greedy", "sampled", "validation"}
    assert all(row.keys() == names for row in measured)
    shown = _lines(trainer, "responses")
    assert {row["step"] for row in shown} == {0, 3, 6}
    assert all({"text", "reward", "q"} == step.keys() for step in shown[0]["steps"])
    # The initial policy is still there to be compared with.
    moved = jax.tree.map(
        lambda a, b: float(np.max(np.abs(a - b))), state.policy, trainer.initial
    )
    assert max(jax.tree.leaves(moved)) > 1e-4


def _check_goes_on(trainer, whole):
    state = trainer.fit()
    _check_same(state, whole[1])
    for name in ("metrics", "accuracy", "responses"):
        assert _lines(trainer, name) == _lines(whole[0], name), name


@pytest.mark.parametrize("stop", [2, 3])
def test_terminated_saves_and_goes_on_bit_for_bit(make, monkeypatch, whole, stop):
    trainer, done = make(), []

    def iterate(self, update, state, step, original=trainers.Trainer._iterate):
        out = original(self, update, state, step)
        done.append(int(out[0].step))
        if done == list(range(1, stop + 1)):
            os.kill(os.getpid(), signal.SIGTERM)
        return out

    monkeypatch.setattr(trainers.Trainer, "_iterate", iterate)
    with signals.terminable(), pytest.raises(signals.Terminated):
        trainer.fit()
    assert [row["step"] for row in _lines(trainer, "metrics")] == done
    _check_goes_on(trainer, whole)
    assert done == [1, 2, 3, 4, 5, 6]  # nothing was done twice


class Killed(BaseException):
    """What no clean-up hears of."""


def _kill(trainer, monkeypatch, name, step):
    """Trains until a step is written to a file; every step before it is saved."""

    def die(path, row, original=loop.append_row):
        if (path.stem, row["step"]) == (name, step):
            raise Killed
        original(path, row)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "append_row", die)
        patched.setattr(monitor, "append_row", die)
        patched.setattr(loop, "_SAVE_EVERY", -1.0)
        with pytest.raises(Killed):
            trainer.fit()


def test_a_refreshed_verifier_goes_on_bit_for_bit(make, monkeypatch, whole):
    objective = dataclasses.replace(OBJECTIVE, refresh_every=2)
    refreshed = make("refreshed", objective)
    wanted = refreshed.fit()
    rows = _lines(refreshed, "metrics")
    extra = [row["decoded"] - 6 * row["response_tokens"] for row in rows]
    # Before the third iteration and the fifth: rollouts and their continuations.
    assert [x > 0 for x in extra] == [False, False, True, False, True, False]
    moved = jax.tree.map(
        lambda a, b: float(np.max(np.abs(a - b))), wanted.verifier, refreshed.verifier
    )
    assert max(jax.tree.leaves(moved)) > 1e-3
    # A verifier that moves is what later steps are paid by.
    ours, frozen = (
        [row["progress"] for row in lines]
        for lines in (rows, _lines(whole[0], "metrics"))
    )
    assert ours[:2] == frozen[:2] and ours[2] != frozen[2]
    # Killed after the fourth iteration, with what came before on disk.
    trainer = make("killed", objective)
    _kill(trainer, monkeypatch, "metrics", 4)
    _check_same(trainer.fit(), wanted)
    assert _lines(trainer, "metrics") == rows


def test_killed_in_the_middle_of_a_measurement(make, monkeypatch, whole):
    """A checkpoint is behind what was written by then."""
    trainer = make()
    _kill(trainer, monkeypatch, "accuracy", 3)
    assert {row["step"] for row in _lines(trainer, "responses")} == {0, 3}
    _check_goes_on(trainer, whole)


# Trouble.


def test_exploding_kl_stops_the_run(make, monkeypatch):
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    trainer = make(max_kl=1e-6)
    # The first update has a learning rate of 0, so the third iteration is the first
    # that has moved; of its few tokens the mean log-ratio is below zero.
    words = r"test: the KL.*max_kl=1e-06.*iteration 4;.*of iteration 3, in .*run/check"
    with pytest.raises(UserError, match=words):
        trainer.fit()
    first, second, third = (row["kl"] for row in _lines(trainer, "metrics"))
    assert abs(first) < 1e-6 and abs(second) < 1e-6 and third < -1e-6
    with pytest.raises(UserError, match=words):  # and again, from the checkpoint
        trainer.fit()


def test_nan_stops_the_run(make, monkeypatch):
    monkeypatch.setattr(loop, "_SAVE_EVERY", math.inf)
    batches = []

    def make_batch(*args, original=rewards.make_batch, **kwargs):
        batches.append(original(*args, **kwargs))
        if len(batches) == 3:
            batches[-1]["process_reward"][0] = math.nan
        return batches[-1]

    monkeypatch.setattr(rewards, "make_batch", make_batch)
    trainer = make()
    words = "test: .*loss,.* stopped being finite at iteration 3; no checkpoint.*alpha"
    with pytest.raises(UserError, match=words):
        trainer.fit()
    rows = _lines(trainer, "metrics")
    assert len(rows) == 2
    assert all(np.isfinite(list(row.values())).all() for row in rows)


@pytest.mark.parametrize(
    ("correct", "stops"),
    [
        ([4, 1, 2, 1], None),  # once is chance
        ([4, 2, 2, 2], None),
        ([4, 1, 1, 4], 4),
        ([4, 4, 1, 0], 6),
        ([0, 0, 0, 0], None),
    ],
)
def test_falling_accuracy_stops_the_run(make, monkeypatch, correct, stops):
    """Measured at 0, 2, 4 and 6: right samples of 4, of the 2 validation problems.

    What is measured on the test problems does the opposite, and changes nothing.
    """
    monkeypatch.setattr(trainers, "count_correct", _counts(validation=correct))
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    trainer = make(measure_every=2, min_accuracy=0.5)
    if stops is None:
        trainer.fit()
        return
    a, b = (f"{n / 4:.3g}" for n in correct[stops // 2 - 1 : stops // 2 + 1])
    words = f"test: validation accuracy has fallen to {a} and {b}, below min_accuracy="
    words += rf"0.5 .*s 1, at iteration {stops};.*of iteration {stops - 1}, in .*run/ch"
    with pytest.raises(UserError, match=words):
        trainer.fit()
    # And again, from the checkpoint.
    again = _counts(validation=correct[stops // 2 :])
    monkeypatch.setattr(trainers, "count_correct", again)
    with pytest.raises(UserError, match=words):
        trainer.fit()


def _counts(validation):
    """A `count_correct` that gives these on validation problems; on the 6 test problems
    the accuracy rises as that of validation falls."""
    left, last = iter(validation), [0]

    def count_correct(policy, problems, indices, **kwargs):
        if len(problems) == 2:
            return next(left)
        last[0] += 1
        return last[0]

    return count_correct


def test_falling_accuracy_on_test_problems_stops_nothing(make, monkeypatch):
    def count_correct(policy, problems, indices, *, count, **kwargs):
        fallen = len(problems) == 6 and calls.append(0) is None and len(calls) > 2
        return 0 if fallen else count * len(problems)

    calls = []  # on test problems, greedy and sampled: the first two right, then none
    monkeypatch.setattr(trainers, "count_correct", count_correct)
    trainer = make(measure_every=2, min_accuracy=1.0)
    trainer.fit()
    rows = _lines(trainer, "accuracy")
    assert [row["sampled"] for row in rows] == [1.0, 0.0, 0.0, 0.0]
    assert [row["validation"] for row in rows] == [1.0] * 4


def test_what_is_measured(make, whole, problems):
    """Each accuracy is of its own problems; those of validation are sampled once."""
    trainer, state = whole
    rows = _lines(trainer, "accuracy")
    accuracies, _ = trainer.measure(state)
    for name, where, temperature, count in (
        ("greedy", problems[1], 0.0, 1),
        ("sampled", problems[1], 1.0, 2),
        ("validation", problems[2], 1.0, 2),
    ):
        right = trainers.count_correct(
            state.policy,
            where,
            range(len(where)),
            temperature=temperature,
            count=count,
            seed=derive(7, Stream.RL_MEASURE),
        )
        expected = right / (count * len(where))
        assert accuracies[name] == rows[-1][name] == expected
    both = dataclasses.replace(trainer, measured=problems[2])
    found, _ = both.measure(state)
    assert found["sampled"] == found["validation"] == accuracies["validation"]


def test_the_problems_that_are_watched(problems):
    train, test, validation = problems
    assert (len(test), len(validation)) == (6, 2)
    measured, same = rl_stages._watched(train, "validation")
    assert measured is same and list(same) == list(validation)
    assert not set(map(str, test)) & set(map(str, validation))


def test_no_validation_problems(problems, tmp_path):
    (tmp_path / "validation.jsonl").write_text("\n")
    train = dataclasses.replace(problems[0], data=tmp_path)
    with pytest.raises(UserError, match=r"raise config\.problems\.validation"):
        rl_stages._watched(train, "test")


def test_more_problems_than_there_are(make, problems):
    """Where the config does not say how many, the stage says it before it samples."""
    words = "must be at most 10: so many problems for labels"
    with pytest.raises(UserError, match=rf"config\.rl\.training\.problems=11 {words}"):
        make(problems=11).fit()
    refreshed = make(objective=dataclasses.replace(OBJECTIVE, refresh_every=2))
    many = ml_collections.ConfigDict(REFRESH.to_dict() | {"problems": 11})
    with pytest.raises(UserError, match=rf"config\.rl\.refresh\.problems=11 {words}"):
        dataclasses.replace(refreshed, refresh=many).fit()
    config = ml_collections.ConfigDict(CONFIG.to_dict() | {"rl": {}})
    config.rl.provers = dict(problems=11, responses=2, n_mc=4, ks=(1,))
    context = StageContext("provers", config, refreshed.directory, {})
    context.inputs["data"] = problems[0].data
    with pytest.raises(UserError, match=rf"config\.rl\.provers\.problems=11 {words}"):
        run_provers(context)


def test_a_run_of_a_version_that_watched_test_problems(make, whole):
    trainer = make()
    row = {"step": 0, "greedy": 0.5, "sampled": 0.5}
    (trainer.directory / "accuracy.jsonl").write_text(json.dumps(row) + "\n")
    watch = monitor.RLMonitor(SETTINGS, trainer.directory, trainer.measure)
    with pytest.raises(UserError, match=r"no accuracies on validation .* Remove .*run"):
        watch.resume(whole[1], NoLog())


def test_one_compilation_serves_all_runs(whole):
    """Those that start, and those that go on from a checkpoint."""
    assert _updates[OBJECTIVE]._cache_size() == 1


def test_a_stage_that_was_killed_while_it_tidied_up(tmp_path):
    """Its policy is whole; checkpoints are as large as several, and are not left."""
    for name in ("params", "checkpoints/4"):
        (tmp_path / name).mkdir(parents=True)
    context = StageContext("rl-pav_rl-0", CONFIG, tmp_path, {})
    rl_stages.run_rl(context, method="pav_rl", seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["params"]
