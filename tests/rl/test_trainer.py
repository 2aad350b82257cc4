"""The RL loop: what an iteration depends on, runs that stop and go on, and measures."""

import dataclasses
import functools
import json
import math
import os
import signal

import jax
import ml_collections
import numpy as np
import pytest

from pav_jax import draws, labels, verifier
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.distributed import signals
from pav_jax.gemma import forward
from pav_jax.pipeline import stages
from pav_jax.pipeline.runner import StageContext
from pav_jax.rl import trainer as reinforce
from pav_jax.rl import update as rl
from pav_jax.tasks import problems as experiment
from pav_jax.train.batches import pad_rows

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
OBJECTIVE = rl.Objective(
    reward="progress",
    baseline="value",
    alpha=0.5,
    prover_k=2,
    trust_outcome=True,
    kl=0.01,
)


make_update = rl.make_update
_updates = {}


def _shared_update(objective, optimizers, **kwargs):
    """One for all runs of an objective: compiling it is most of what takes time."""
    if objective not in _updates:
        _updates[objective] = make_update(objective, optimizers, **kwargs)
    return _updates[objective]


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Half of the time to compile, of which there is more than of all else."""
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl, "make_update", _shared_update)
        yield
    jax.config.update("jax_disable_most_optimizations", False)


class Parity:
    """An untrained policy is never right; let a sum of token ids say who is."""

    def are_correct(self, responses):
        return [(problem + sum(tokens)) % 3 == 0 for problem, tokens in responses]


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    """The training and the test problems."""
    data = tmp_path_factory.mktemp("data")
    stages.run_data(StageContext("data", CONFIG, data, {}))
    return [
        dataclasses.replace(experiment.Lab.load(CONFIG, data, use), grader=Parity())
        for use in ("labels", "test")
    ]


@pytest.fixture(scope="module")
def networks(labs):
    """A policy, and a verifier that says all kinds of things."""
    keys = jax.random.split(jax.random.key(0), 3)
    policy = forward.init_params(keys[0], labs[0].model)
    scores = verifier.init_verifier(keys[1], policy, labs[0].model)
    leaves, tree = jax.tree.flatten(scores["head"])
    draws = jax.random.split(keys[2], len(leaves))
    leaves = [jax.random.normal(k, x.shape) for k, x in zip(draws, leaves, strict=True)]
    return policy, scores | {"head": jax.tree.unflatten(tree, leaves)}


@pytest.fixture
def make(labs, networks, tmp_path):
    """A trainer that writes into the named folder; with changed settings."""

    def trainer(folder="run", objective=OBJECTIVE, seed=7, **changes):
        settings = SETTINGS.copy_and_resolve_references()
        settings.update(changes)
        (tmp_path / folder).mkdir(exist_ok=True)
        policy, scores = networks
        return reinforce.Trainer(
            objective=objective,
            settings=settings,
            train=labs[0],
            test=labs[1],
            initial=policy,
            verifier=scores if objective.reads_verifier else None,
            seed=seed,
            directory=tmp_path / folder,
            name="test",
            refresh=REFRESH,
        )

    return trainer


def _lines(trainer, name):
    """What was written, without what the clock says."""
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
def whole(labs, networks, tmp_path_factory):
    """A run that nothing disturbed: its trainer, and its last state."""
    policy, scores = networks
    trainer = reinforce.Trainer(
        OBJECTIVE,
        SETTINGS,
        *labs,
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
    outcome = dataclasses.replace(OBJECTIVE, reward="outcome", baseline="group")
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


def test_steps_are_paid_by_the_verifier(make):
    trainer, ledger = make(), Ledger()
    scored = trainer.roll_out(trainer.initial, 0, ledger)
    values_of = jax.jit(
        functools.partial(verifier.step_values, architecture=trainer.train.model)
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
    assert ledger.scored == sum(lengths) + sum(len(r.prompt) for r in scored.responses)


def test_steps_are_paid_by_continuations(make):
    """The policy's own, each of which depends on its own key alone."""
    objective = dataclasses.replace(OBJECTIVE, n_mc=3)
    trainer, ledger = make(objective=objective), Ledger()
    assert trainer.verifier is None
    scored = trainer.roll_out(trainer.initial, 2, ledger)
    by_verifier = make().roll_out(trainer.initial, 2, Ledger())
    assert scored.responses == by_verifier.responses
    lab, paid_for = trainer.train, Ledger()
    for response, paid, q in zip(
        scored.responses, scored.process, scored.q, strict=True
    ):
        ((_, steps),) = labels.label_steps(
            trainer.initial,
            [response],
            [lab.problems[response.problem].id],
            n_mc=3,
            seed=draws.stream(7, 105, 2),
            is_step_end=lab.is_step_end,
            are_correct=lab.grader.are_correct,
            architecture=lab.model,
            sampling=lab.sampling(1.0, branches=12),
            ledger=paid_for,
        )
        np.testing.assert_array_equal(q, steps.q)
        # Pairs of three continuations without a right one.
        wrong = steps.count - steps.correct
        fails = np.append(wrong[:-1] * (wrong[:-1] - 1) / 6, wrong[-1])
        np.testing.assert_allclose(paid, -0.5 * np.diff(fails), atol=1e-6)
    assert np.any(np.concatenate(scored.process) != 0)
    lengths = [len(r.tokens) for r in scored.responses]
    assert ledger.decoded == sum(lengths) + paid_for.decoded
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
    assert all(row.keys() == {"step", "greedy", "sampled"} for row in measured)
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

    def iterate(self, state, update, original=reinforce.Trainer._iterate):
        out = original(self, state, update)
        done.append(int(out[0].step))
        if done == list(range(1, stop + 1)):
            os.kill(os.getpid(), signal.SIGTERM)
        return out

    monkeypatch.setattr(reinforce.Trainer, "_iterate", iterate)
    with signals.terminable(), pytest.raises(signals.Terminated):
        trainer.fit()
    assert [row["step"] for row in _lines(trainer, "metrics")] == done
    _check_goes_on(trainer, whole)
    assert done == [1, 2, 3, 4, 5, 6]  # nothing was done twice


class Killed(BaseException):
    """What no clean-up hears of."""


def _kill(trainer, monkeypatch, name, step):
    """Trains until a step is written to a file; every step before it is saved."""
    append = reinforce.Trainer._append

    def die(self, file, row):
        if (file, row["step"]) == (name, step):
            raise Killed
        append(self, file, row)

    with monkeypatch.context() as patched:
        patched.setattr(reinforce.Trainer, "_append", die)
        patched.setattr(reinforce, "_SAVE_EVERY", -1.0)
        with pytest.raises(Killed):
            trainer.fit()


def test_a_refreshed_verifier_goes_on_bit_for_bit(make, monkeypatch):
    objective = dataclasses.replace(OBJECTIVE, refresh_every=2)
    whole = make("whole", objective)
    wanted = whole.fit()
    rows = _lines(whole, "metrics")
    extra = [row["decoded"] - 6 * row["response_tokens"] for row in rows]
    # Before the third iteration and the fifth: rollouts and their continuations.
    assert [x > 0 for x in extra] == [False, False, True, False, True, False]
    moved = jax.tree.map(
        lambda a, b: float(np.max(np.abs(a - b))), wanted.verifier, whole.verifier
    )
    assert max(jax.tree.leaves(moved)) > 1e-3
    # A verifier that moves is what later steps are paid by.
    frozen = make("frozen")
    frozen.fit()
    rewards = [row["progress"] for row in rows]
    theirs = [row["progress"] for row in _lines(frozen, "metrics")]
    assert rewards[:2] == theirs[:2] and rewards[2] != theirs[2]
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
    monkeypatch.setattr(reinforce, "_SAVE_EVERY", -1.0)
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
    monkeypatch.setattr(reinforce, "_SAVE_EVERY", math.inf)
    batches = []

    def make_batch(*args, original=rl.make_batch, **kwargs):
        batches.append(original(*args, **kwargs))
        if len(batches) == 3:
            batches[-1]["progress"][0] = math.nan
        return batches[-1]

    monkeypatch.setattr(rl, "make_batch", make_batch)
    trainer = make()
    words = " loss,.* stopped being finite at iteration 3; .*the initial policy. Lower"
    with pytest.raises(UserError, match=words):
        trainer.fit()
    rows = _lines(trainer, "metrics")
    assert len(rows) == 2
    assert all(np.isfinite(list(row.values())).all() for row in rows)


@pytest.mark.parametrize(
    ("correct", "stops"),
    [
        ([8, 2, 8, 3], None),  # once is chance
        ([8, 4, 4, 4], None),
        ([8, 3, 3, 8], 4),
        ([8, 8, 3, 2], 6),
        ([0, 0, 0, 0], None),
    ],
)
def test_falling_accuracy_stops_the_run(make, monkeypatch, correct, stops):
    """It is measured at 0, 2, 4 and 6, as the numbers of right samples of 12."""
    told = iter([n for pair in correct for n in (0, pair)])
    monkeypatch.setattr(reinforce, "count_correct", lambda *a, **k: next(told))
    monkeypatch.setattr(reinforce, "_SAVE_EVERY", -1.0)
    trainer = make(measure_every=2, min_accuracy=0.5)
    if stops is None:
        trainer.fit()
        return
    a, b = (f"{n / 12:.3g}" for n in correct[stops // 2 - 1 : stops // 2 + 1])
    words = f"test: accuracy has fallen to {a} and {b}, below min_accuracy=0.5 .*"
    words += rf"0.667, at iteration {stops};.*of iteration {stops - 1}, in .*run/check"
    with pytest.raises(UserError, match=words):
        trainer.fit()
    told = iter([0, correct[stops // 2]])  # and again, from the checkpoint
    with pytest.raises(UserError, match=words):
        trainer.fit()


def test_one_compilation_serves_all_runs(whole):
    """Those that start, and those that go on from a checkpoint."""
    assert _updates[OBJECTIVE]._cache_size() == 1
