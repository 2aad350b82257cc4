"""The parameters that are kept are those of the least validation loss."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.core.errors import UserError
from pav_jax.storage import checkpoints
from pav_jax.train import loop
from pav_jax.train.step import TrainState
from pav_jax.train.validation import BestByValidation

STEPS, EVERY = 16, 2  # measured at 2, 4, ..., 16
LOSSES = {2: 5.0, 4: 3.0, 6: 4.0, 8: 2.0, 10: 2.5, 12: 2.0, 14: 9.0, 16: 3.0}


def _step(state, step):
    state = TrainState(state.step + 1, {"w": state.params["w"] + 1.0}, ())
    return state, {"loss": jnp.float32(1.0)}


def _fit(directory, *, losses=LOSSES, step=_step):
    monitor = BestByValidation(
        lambda state: losses[int(state.step)],
        steps=STEPS,
        directory=directory,
        log_every=EVERY,
    )
    loop.fit(
        TrainState(jnp.int32(0), {"w": jnp.zeros(3)}, ()),
        step,
        steps=STEPS,
        directory=directory,
        description="a test",
        log_every=EVERY,
        monitor=monitor,
    )
    return monitor


def _kept(directory, monitor):
    monitor.finish(directory / "params")
    assert not list(directory.glob("best-*"))
    like = {"w": jnp.zeros(3)}
    return np.asarray(checkpoints.load_params(directory / "params", like)["w"])


def test_the_first_of_the_least_is_kept(tmp_path):
    monitor = _fit(tmp_path)
    rows = map(json.loads, (tmp_path / "validation.jsonl").read_text().splitlines())
    assert {row["step"]: row["loss"] for row in rows} == LOSSES
    np.testing.assert_array_equal(_kept(tmp_path, monitor), [8.0] * 3)


def _killed_after_the_best(tmp_path, before_step=lambda step: None):
    def killed(state, step):
        before_step(step)
        if step == 9:
            raise KeyboardInterrupt
        return _step(state, step)

    with pytest.raises(KeyboardInterrupt):
        _fit(tmp_path, step=killed)
    assert [path.name for path in tmp_path.glob("best-*")] == ["best-8"]


def test_a_training_that_was_stopped_ends_with_the_same(tmp_path):
    _killed_after_the_best(tmp_path)
    # No checkpoint was saved: all is done again, over what the attempt has left.
    np.testing.assert_array_equal(_kept(tmp_path, _fit(tmp_path)), [8.0] * 3)


@pytest.mark.parametrize(
    ("elsewhere", "expected"),
    [
        (LOSSES, 8.0),
        (LOSSES | {8: 3.1, 10: 3.2, 12: 3.3}, 16.0),  # another device: 4 were better
        (LOSSES | {8: 2.9, 10: 3.2, 12: 3.3, 16: 3.1}, 8.0),
    ],
)
def test_the_best_so_far_may_be_gone_at_the_checkpoint(
    tmp_path, monkeypatch, elsewhere, expected
):
    """That of step 8 has taken the place of that of 4; the checkpoint is between."""

    def save_up_to_the_sixth(step):
        monkeypatch.setattr(loop, "_SAVE_EVERY", -1.0 if step < 6 else 1e9)

    _killed_after_the_best(tmp_path, save_up_to_the_sixth)
    saved = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert 4 < max(saved) < 8
    (tmp_path / "best-4-replaced").mkdir()  # half removed
    monitor = _fit(tmp_path, losses=elsewhere)
    np.testing.assert_array_equal(_kept(tmp_path, monitor), [expected] * 3)


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    with pytest.raises(UserError, match="validation loss stopped being finite"):
        _fit(tmp_path, losses=LOSSES | {6: float("nan")})
