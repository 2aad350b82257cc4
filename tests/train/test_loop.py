"""Training: batches by step, runs that are killed and go on, NaN."""

import dataclasses
import json
import math
import os
import shutil
import signal
import threading
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
import pytest

from pav_jax.core.errors import UserError
from pav_jax.distributed import sharding, signals
from pav_jax.storage import checkpoints
from pav_jax.train import loop
from pav_jax.train.batches import Batches, ShortFirst, pad_rows
from pav_jax.train.step import (
    init_state,
    make_optimizer,
    make_train_step,
    moved_share,
)

# Batches.


def _rows(count):
    return {"tokens": np.arange(count), "pairs": np.arange(2 * count).reshape(-1, 2)}


def test_a_batch_is_a_function_of_the_step():
    # 10 rows by 4: steps 2, 7 and 12 straddle two epochs.
    make = lambda: Batches(_rows(10), batch_size=4, seed=3)  # noqa: E731
    in_order, steps = make(), list(range(20))
    expected = {step: in_order(step) for step in steps}
    jumping, again = make(), np.random.default_rng(0).permutation(steps * 2)
    for step in again.tolist():
        alone = make()(step)
        for other in (jumping(step), alone):
            assert other.keys() == expected[step].keys()
            for name, rows in expected[step].items():
                np.testing.assert_array_equal(other[name], rows)


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (7, 7), (5, 1)])
def test_each_epoch_is_a_permutation(count, batch_size):
    batches = Batches(_rows(count), batch_size=batch_size, seed=0)
    steps = [batches(step) for step in range(4 * count)]
    assert all(len(b["tokens"]) == batch_size for b in steps)
    rows = np.concatenate([b["tokens"] for b in steps])
    epochs = rows[: len(rows) // count * count].reshape(-1, count)
    for epoch in epochs:
        assert sorted(epoch) == list(range(count))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) > 1
    for batch in steps:  # columns stay together
        np.testing.assert_array_equal(batch["pairs"][:, 0], 2 * batch["tokens"])
        np.testing.assert_array_equal(batch["pairs"][:, 1], 2 * batch["tokens"] + 1)


def test_the_seed_names_the_permutations():
    one, other = (Batches(_rows(30), batch_size=30, seed=s)(0) for s in (0, 1))
    assert one["tokens"].tolist() != other["tokens"].tolist()


def test_too_few_rows():
    with pytest.raises(UserError, match="3 training rows.*a batch of 4"):
        Batches(_rows(3), batch_size=4, seed=0)


def _by_length(lengths):
    """Rows of ones; in `which`, the number of each."""
    tokens = pad_rows([[1] * n for n in lengths], max(lengths))
    which = np.arange(len(lengths))[:, None] * np.ones_like(tokens)
    return {"tokens": tokens, "which": which}


def test_short_rows_come_first_and_are_cut_to_their_width():
    lengths = [9, 2, 7, 3, 8, 3, 1, 9]
    rows = _by_length(lengths)
    batches = ShortFirst(rows, batch_size=2, seed=0, steps=6, fraction=0.4)
    assert {batches(step)["tokens"].shape for step in range(6)} == {(2, 3)}
    drawn = [batches(step)["which"][:, 0].tolist() for step in range(6)]
    # The shortest 0.4 of 8 are 4 rows, whose epoch is two steps.
    for step in (0, 2, 4):
        assert sorted(drawn[step] + drawn[step + 1]) == [1, 3, 5, 6]
    # Then all rows, from the first epoch on.
    everything = Batches(rows, batch_size=2, seed=0)
    for step in range(6, 20):
        np.testing.assert_equal(batches(step), everything(step - 6))


def test_tokens_are_counted_as_they_are_read():
    rows = _by_length([9, 2, 7, 3, 8, 3, 1, 9])
    for batches in (
        Batches(rows, batch_size=2, seed=0),
        ShortFirst(rows, batch_size=2, seed=0, steps=6, fraction=0.4),
    ):
        # Whole epochs of both: 6 steps of the 4 short rows, 8 of all.
        for steps in (4, 14) if isinstance(batches, ShortFirst) else (4, 16):
            read = sum(np.count_nonzero(batches(i)["tokens"]) for i in range(steps))
            assert batches.tokens_in(steps) == pytest.approx(read)


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_a_fraction_of_rows_is_one(fraction):
    with pytest.raises(
        UserError, match="short_first.fraction=.* above 0 and at most 1"
    ):
        ShortFirst(_by_length([1, 2]), batch_size=1, seed=0, steps=1, fraction=fraction)


def test_short_rows_fill_a_batch():
    words = "shortest 1 of 2 .*short_first.fraction=0.5. are fewer than a batch of 2"
    with pytest.raises(UserError, match=words):
        ShortFirst(_by_length([1, 2]), batch_size=2, seed=0, steps=1, fraction=0.5)


def test_pad_rows():
    rows = pad_rows([[1, 2, 3], [], [4]], 4)
    assert rows.tolist() == [[1, 2, 3, 0], [0] * 4, [4, 0, 0, 0]]
    assert rows.dtype == np.int32
    assert pad_rows([[0.5]], 2, np.float32).tolist() == [[0.5, 0.0]]


# The optimizer and one step.


def _optimizer_config(**changes):
    return ml_collections.ConfigDict(
        dict(
            steps=20,
            warmup_steps=4,
            learning_rate=0.1,
            final_learning_rate=0.1,
            weight_decay=0.0,
            clip_norm=1.0,
        )
        | changes
    )


def test_warm_up_cosine_and_clipping():
    """Adam moves by the learning rate while gradients have one sign."""
    optimizer = make_optimizer(_optimizer_config())
    params = jnp.zeros(())
    state, moved = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for _ in range(20):
        updates, state = update(jnp.float32(1e6), state, params)
        moved.append(-float(updates))
    decay = [0.5 * (1 + math.cos(math.pi * t / 16)) for t in range(16)]
    expected = [0.1 * t / 4 for t in range(4)]
    expected += [0.1 * (0.1 + 0.9 * part) for part in decay]
    np.testing.assert_allclose(moved, expected, rtol=1e-3, atol=1e-7)


def test_moments_are_float32_whatever_the_parameters_are():
    """After n equal gradients g the second moment is (1 - 0.98^n) g²."""
    optimizer = make_optimizer(_optimizer_config(clip_norm=1e9))
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    grads = {"w": jnp.array([1.0, -2.0, 3.0], jnp.bfloat16)}
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(100):
        updates, state = update(grads, state, params)
    (moments,) = [s for s in jax.tree.leaves(state, is_leaf=_is_adam) if _is_adam(s)]
    for found, decay, power in ((moments.mu, 0.9, 1), (moments.nu, 0.98, 2)):
        expected = (1 - decay**100) * np.array([1.0, -2.0, 3.0]) ** power
        assert found["w"].dtype == jnp.float32
        np.testing.assert_allclose(found["w"], expected, rtol=1e-5)
    assert optax.apply_updates(params, updates)["w"].dtype == jnp.bfloat16


def _is_adam(state):
    return isinstance(state, optax.ScaleByAdamState)


@pytest.mark.parametrize("rate", [1e-6, 1e-4, 1e-2])
def test_the_share_of_bfloat16_parameters_that_a_step_changes(rate):
    """Held to steps of Adam whose gradients are of one sign, so of the rate's size."""
    rng = np.random.default_rng(0)
    shapes = {"a": (400, 300), "b": (200,)}
    params = {k: jnp.array(0.05 * rng.normal(size=n)) for k, n in shapes.items()}
    assert moved_share(params, rate) is None
    params = {k: x.astype(jnp.bfloat16) for k, x in params.items()}
    settings = dict(learning_rate=rate, final_learning_rate=1.0, warmup_steps=1)
    optimizer = make_optimizer(_optimizer_config(**settings, clip_norm=1e9))
    state, now = optimizer.init(params), params
    grads = jax.tree.map(lambda x: jnp.full_like(x, -1.0), params)
    for _ in range(2):  # the first has rate 0
        updates, state = optimizer.update(grads, state, now)
        now = optax.apply_updates(now, updates)
    pairs = zip(jax.tree.leaves(now), jax.tree.leaves(params), strict=True)
    changed = sum(int(np.sum(np.array(a != b))) for a, b in pairs)
    count = sum(x.size for x in jax.tree.leaves(params))
    # Adam's step is the rate but for rounding, which matters to few.
    assert moved_share(params, rate) == pytest.approx(changed / count, rel=0.02)
    mixed = params | {"head": jnp.ones(9)}  # as of a verifier
    assert moved_share(mixed, rate) == moved_share(params, rate)


def test_a_warm_up_longer_than_the_training():
    with pytest.raises(UserError, match="warmup_steps=20.*steps=20"):
        make_optimizer(_optimizer_config(warmup_steps=20))


def _loss(params, batch):
    """A regression on rows; its gradient depends on which rows are in the batch."""
    out = jnp.einsum("bi,i->b", batch["x"], params["w"]) + params["b"]
    error = jnp.mean(jnp.square(out - batch["y"]))
    return error, {"bias": params["b"]}


_RNG = np.random.default_rng(0)
DATA = {
    "x": _RNG.normal(size=(10, 3)).astype(np.float32),
    "y": _RNG.normal(size=10).astype(np.float32),
}
STEPS = 12
OPTIMIZER = make_optimizer(_optimizer_config(steps=STEPS))
STEP = make_train_step(_loss, OPTIMIZER)
BATCHES = Batches(DATA, batch_size=4, seed=0)


START = init_state({"w": jnp.zeros(3), "b": jnp.ones(())}, OPTIMIZER)


def _state():
    """A copy, since it will be donated; a new one would be compiled again."""
    return jax.tree.map(jnp.copy, START)


def _step(state, step):
    return STEP(state, sharding.place_batch(BATCHES(step)))


def _fit(directory, *, steps=STEPS, step_fn=_step, **kwargs):
    directory.mkdir(exist_ok=True)
    return loop.fit(
        _state(),
        step_fn,
        steps=steps,
        directory=directory,
        description="test",
        **kwargs,
    )


def test_one_step():
    state, metrics = STEP(_state(), BATCHES(0))
    batch = {name: np.asarray(rows, np.float64) for name, rows in BATCHES(0).items()}
    error = 1.0 - batch["y"]
    gradient = np.r_[2 * (error @ batch["x"]) / 4, 2 * error.mean()]
    assert metrics["loss"] == pytest.approx((error**2).mean(), rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(np.linalg.norm(gradient), rel=1e-5)
    assert metrics["bias"] == 1 and state.step == 1


# Runs that stop and go on.


# What Orbax leaves behind after a failure is not ours to tidy.
leaves_threads = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine:RuntimeWarning",
)


def _check_same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def _metrics(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_an_undisturbed_run(tmp_path):
    ours = _fit(tmp_path / "run", log_every=5)
    state, losses = _state(), []
    for step in range(STEPS):
        state, metrics = _step(state, step)
        losses.append(float(metrics["loss"]))
    _check_same(ours, state)
    assert ours.step == STEPS
    lines = _metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [5, 10, 12]
    means = [np.mean(losses[a:b]) for a, b in ((0, 5), (5, 10), (10, 12))]
    np.testing.assert_allclose([line["loss"] for line in lines], means, rtol=1e-6)
    assert {"loss", "grad_norm", "bias", "step"} == lines[0].keys()


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path, monkeypatch, stop):
    expected = _fit(tmp_path / "whole")
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)  # a checkpoint after every step
    part = _fit(tmp_path / "run", steps=stop)
    assert part.step == stop
    started = []

    def step_fn(state, step):
        assert step == state.step
        started.append(step)
        return _step(state, step)

    resumed = _fit(tmp_path / "run", step_fn=step_fn)
    assert started == list(range(stop, STEPS))  # it went on, and did not start over
    _check_same(resumed, expected)


class Killed(BaseException):
    """What no clean-up hears of."""


def test_a_run_killed_again_and_again(tmp_path, monkeypatch):
    """Between checkpoints, so that steps are done again."""
    expected = _fit(tmp_path / "whole", log_every=3)
    attempts, done = 0, []
    kills = [2, 6, 10, 13]  # steps done by then, the ones done again included
    clock = types.SimpleNamespace(monotonic=iter(range(1000)).__next__)

    def step_fn(state, step):
        if kills and len(done) == kills[0]:
            raise Killed
        done.append(step)
        return _step(state, step)

    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "_SAVE_EVERY", 2)  # a save every third look at it
    ours = None
    while ours is None:
        attempts += 1
        try:
            ours = _fit(tmp_path / "run", step_fn=step_fn, log_every=3)
        except Killed:
            kills.pop(0)
            with (tmp_path / "run" / "metrics.jsonl").open("a") as log:
                log.write('{"step": 1')  # and a line that it cut short
    assert attempts == 5
    # Two steps before there was a checkpoint, and then one each were lost.
    again = [0, 1, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11]
    assert done == again
    _check_same(ours, expected)
    # The curve has each point once.
    lines = _metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [3, 6, 9, 12]


def test_what_is_saved_is_the_state_of_that_step(tmp_path, monkeypatch):
    """Steps go on, and reuse the memory, while a save is still being written."""
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    state, wanted = _state(), {}
    for step in range(STEPS):
        state, _ = _step(state, step)
        wanted[step + 1] = jax.device_get(state)
    for stop in (7, STEPS):
        _fit(tmp_path / "run", steps=stop)
        saved = checkpoints.Checkpoints(tmp_path / "run" / "checkpoints")
        _check_same(saved.restore(_state()), wanted[stop])
        saved.close()


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    first = _fit(tmp_path / "run")

    def step_fn(state, step):
        raise AssertionError("nothing is left to do")

    _check_same(_fit(tmp_path / "run", step_fn=step_fn), first)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("bad", "steps", "lines"), [(0, "1 to 4", 0), (5, "5 to 8", 1), (9, "9 to 10", 2)]
)
def test_nan_stops_the_run(tmp_path, bad, steps, lines, value):
    def step_fn(state, step):
        loss = {"loss": jnp.where(step == bad, value, 0.5), "other": 1.0}
        return dataclasses.replace(state, step=state.step + 1), loss

    words = (
        f"test: loss stopped being finite within steps {steps}; no checkpoint.*Lower"
    )
    with pytest.raises(UserError, match=words):
        _fit(tmp_path / "run", steps=10, step_fn=step_fn, log_every=4)
    # What was finite is kept.
    found = _metrics(tmp_path / "run")
    assert found == [
        {"step": 4 * n, "loss": 0.5, "other": 1.0} for n in range(1, lines + 1)
    ]


def _bad_from(bad, name="loss"):
    """Steps whose state and metric are NaN from step `bad` on."""

    def step_fn(state, step):
        state, metrics = _step(state, step)
        if step >= bad:
            spoil = lambda x: jnp.full_like(x, math.nan)  # noqa: E731
            state = dataclasses.replace(state, params=jax.tree.map(spoil, state.params))
            metrics = metrics | {name: jnp.float32(math.nan)}
        return state, metrics

    return step_fn


def _saved(directory):
    """The steps that are saved, each with whether its state is finite."""
    found = {}
    for path in (directory / "checkpoints").iterdir():
        if path.name.isdigit():
            with checkpoints._orbax().StandardCheckpointer() as checkpointer:
                tree = checkpointer.restore(path / "default")
            leaves = jax.tree.leaves(tree["state"]["params"])
            found[int(path.name)] = all(np.isfinite(leaf).all() for leaf in leaves)
    return found


@leaves_threads
def test_a_state_that_is_nan_is_not_saved(tmp_path, monkeypatch):
    """Due between two lines of metrics; the run then goes on from a finite state."""
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    words = (
        "test: loss stopped being finite within steps 5 to 6; the last checkpoint is of"
        " step 5, in .*/checkpoints. Lower"
    )
    with pytest.raises(UserError, match=words):
        _fit(tmp_path / "run", step_fn=_bad_from(5), log_every=4)
    assert _saved(tmp_path / "run") == {4: True, 5: True}
    assert [line["step"] for line in _metrics(tmp_path / "run")] == [4]
    with pytest.raises(UserError, match="within steps 6 to 7; .* step 6,"):
        _fit(tmp_path / "run", step_fn=_bad_from(6), log_every=4)
    monkeypatch.setattr(loop, "_SAVE_EVERY", math.inf)
    resumed = _fit(tmp_path / "run")  # what was bad is mended
    _check_same(resumed, _fit(tmp_path / "whole"))


@leaves_threads
def test_sigterm_saves_no_state_that_is_nan(tmp_path):
    bad = _bad_from(3)

    def step_fn(state, step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return bad(state, step)

    words = "loss stopped being finite within steps 1 to 5; no checkpoint"
    with pytest.raises(UserError, match=words), signals.terminable():
        _fit(tmp_path / "run", step_fn=step_fn)
    assert _saved(tmp_path / "run") == {}


def test_metrics_are_read_for_a_line_or_a_save_only(tmp_path, monkeypatch):
    """To read them is to wait for the steps that are dispatched ahead."""
    clock = types.SimpleNamespace(monotonic=iter(range(1000)).__next__)
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(loop, "_SAVE_EVERY", 4)
    reads, real = [], loop._Log._read
    monkeypatch.setattr(
        loop._Log, "_read", lambda log: reads.append(log.done) or real(log)
    )
    _fit(tmp_path / "run", log_every=6)
    lines, saves = {6, 12}, set(_saved(tmp_path / "run"))
    assert saves == {5, 10}
    assert sorted(reads) == sorted(lines | saves)


class _Monitor(loop.Monitor):
    """Writes down how it is called, and stops a training at a step."""

    advice = "Rest"

    def __init__(self, stop=None):
        self.calls, self._stop = [], stop

    def resume(self, state, scalars):
        self.calls.append(("resume", int(state.step)))

    def check(self, metrics):
        self.calls.append(("check", metrics["loss"]))
        return "it looks bad" if self._stop == ("check", len(self.calls)) else ""

    def after(self, state, metrics):
        self.calls.append(("after", int(state.step), metrics["loss"]))
        return "it has fallen" if self._stop == ("after", len(self.calls)) else ""


class _Scalars:
    """Writes down what is logged."""

    def __init__(self, first):
        self.first, self.rows, self.is_open = first, [], True

    def scalars(self, step, values):
        assert self.is_open
        self.rows.append({"step": step, **values})

    def close(self):
        self.is_open = False


def test_a_log_gets_every_line_and_goes_on_with_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    logs = []

    def open_log(first):
        logs.append(_Scalars(first))
        return logs[-1]

    for steps in (5, STEPS):
        _fit(tmp_path / "run", steps=steps, log_every=2, open_log=open_log)
    assert [log.first for log in logs] == [0, 5]
    assert [row["step"] for row in logs[0].rows] == [2, 4, 5]
    assert logs[0].rows + logs[1].rows == _metrics(tmp_path / "run")
    assert not any(log.is_open for log in logs)


def test_a_log_is_closed_when_a_training_fails(tmp_path):
    log = _Scalars(0)
    with pytest.raises(UserError, match="it looks bad"):
        _fit(tmp_path, monitor=_Monitor(("check", 2)), open_log=lambda first: log)
    assert not log.is_open and not log.rows


def test_a_monitor_sees_every_line(tmp_path):
    monitor = _Monitor()
    _fit(tmp_path / "run", steps=5, log_every=2, monitor=monitor)
    lines = _metrics(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4, 5]
    wanted = [("resume", 0)]
    for line in lines:
        wanted += [("check", line["loss"]), ("after", line["step"], line["loss"])]
    assert monitor.calls == wanted


@pytest.mark.parametrize(
    ("stop", "words", "lines"),
    [
        (("check", 6), "it looks bad at round 3", 2),
        (("after", 7), "it has fallen at round 3", 3),
    ],
)
def test_a_monitor_stops_the_run(tmp_path, monkeypatch, stop, words, lines):
    """`check` before the line is written, and `after` when it is."""
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    words = f"test: {words}; the last checkpoint is of round 2, in .*/checkpoints. Rest"
    settings = dict(log_every=1, ahead=0, unit="round")
    with pytest.raises(UserError, match=words):
        _fit(tmp_path / "run", monitor=_Monitor(stop), **settings)
    assert len(_metrics(tmp_path / "run")) == lines
    monitor = _Monitor()
    _fit(tmp_path / "run", monitor=monitor, **settings)
    assert monitor.calls[0] == ("resume", 2)


def test_metrics_of_a_single_step_stay_what_they_are(tmp_path):
    def step_fn(state, step):
        metrics = {"loss": jnp.float32(0.1), "accuracy": 0.1, "decoded": 2**40 + step}
        return dataclasses.replace(state, step=state.step + 1), metrics

    _fit(tmp_path / "run", steps=2, step_fn=step_fn, log_every=1)
    text = (tmp_path / "run" / "metrics.jsonl").read_text()
    loss = float(np.float32(0.1))
    line = f'{{"step": 2, "loss": {loss}, "accuracy": 0.1, "decoded": {2**40 + 1}}}'
    assert text.splitlines()[1] == line


@pytest.mark.parametrize("ahead", [0, 2])
def test_steps_that_run_ahead(monkeypatch, ahead):
    """A step is waited for once as many are dispatched after it."""
    waited, done = [], []
    monkeypatch.setattr(
        loop.jax, "block_until_ready", lambda x: waited.append((len(done), x))
    )

    def step_fn(state, step):
        done.append(step)
        return dataclasses.replace(state, step=step + 1), {"loss": step}

    state = loop.run_steps(_state(), step_fn, steps=5, ahead=ahead)
    assert state.step == 5 and done == list(range(5))
    assert [count for count, _ in waited] == list(range(ahead + 1, 6))
    if ahead:
        assert [x["loss"] for _, x in waited] == [0, 1, 2]
    else:  # the state too: the next step is not there yet to be given it
        assert [(x.step, metrics["loss"]) for _, (x, metrics) in waited] == [
            (step + 1, step) for step in range(5)
        ]


# Stopped from outside, and checkpoints that cannot be read.


def _terminate_after(steps):
    """A step function that is sent SIGTERM once it has done so many."""
    done = []

    def step_fn(state, step):
        done.append(step)
        if len(done) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return _step(state, step)

    return step_fn, done


def test_sigterm_saves_the_step_that_is_done(tmp_path):
    expected = _fit(tmp_path / "whole")
    step_fn, done = _terminate_after(5)
    with pytest.raises(signals.Terminated), signals.terminable():
        _fit(tmp_path / "run", step_fn=step_fn)
    assert done == [0, 1, 2, 3, 4]
    step_fn, done = _terminate_after(99)
    _check_same(_fit(tmp_path / "run", step_fn=step_fn), expected)
    assert done == list(range(5, STEPS))


def test_sigterm_does_not_wait_for_a_step_that_hangs(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "_GRACE_SECONDS", 0.2)
    never = threading.Event()

    def step_fn(state, step):
        os.kill(os.getpid(), signal.SIGTERM)
        never.wait(600)
        raise AssertionError("the step was waited for")

    with pytest.raises(signals.Terminated), signals.terminable():
        _fit(tmp_path / "run", step_fn=step_fn)


def _cut(checkpoint_dir):
    files = [path for path in checkpoint_dir.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-7])


def _flip(checkpoint_dir):
    """One byte of an array, as a bad disk or cable would."""
    ocp = checkpoints._orbax()
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(checkpoint_dir / "default")
        w = np.array(tree["state"]["params"]["w"])
        w.view(np.uint8)[5] ^= 1
        tree["state"]["params"]["w"] = w
        checkpointer.save(checkpoint_dir / "default", tree, force=True)


def _lose(checkpoint_dir):
    shutil.rmtree(checkpoint_dir / "default" / "d")


def _leave_half_written(checkpoint_dir):
    """As a kill leaves what Orbax was writing."""
    checkpoint_dir.rename(f"{checkpoint_dir}.orbax-checkpoint-tmp")


@leaves_threads
@pytest.mark.parametrize("damage", [_cut, _flip, _lose, _leave_half_written])
def test_a_torn_checkpoint_is_passed_over(tmp_path, monkeypatch, capsys, damage):
    expected = _fit(tmp_path / "whole")
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    _fit(tmp_path / "run", steps=6)  # keeps 5 and 6
    damage(tmp_path / "run" / "checkpoints" / "6")
    capsys.readouterr()
    step_fn, done = _terminate_after(99)
    _check_same(_fit(tmp_path / "run", step_fn=step_fn), expected)
    assert done == list(range(5, STEPS))
    if damage is not _leave_half_written:
        assert "checkpoints/6 cannot be read; it is now corrupt-6" in (
            capsys.readouterr().err
        )
        assert (tmp_path / "run" / "checkpoints" / "corrupt-6").is_dir()


@leaves_threads
def test_without_a_whole_checkpoint_training_starts_over(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0)
    first = _fit(tmp_path / "run", steps=6)
    for step in (5, 6):
        _cut(tmp_path / "run" / "checkpoints" / str(step))
    step_fn, done = _terminate_after(99)
    _check_same(_fit(tmp_path / "run", steps=6, step_fn=step_fn), first)
    assert done == list(range(6))
    assert capsys.readouterr().err.count("cannot be read") == 2
