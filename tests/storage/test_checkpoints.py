"""Parameters on disk."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.core.errors import UserError
from pav_jax.storage import checkpoints

PARAMS = {
    "embed": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
    "layers": {"q": jnp.linspace(0, 1, 4), "count": jnp.int32(7)},
}


def _like(params):
    return jax.eval_shape(lambda: params)


def test_params_round_trip(tmp_path):
    checkpoints.save_params(tmp_path / "params", PARAMS)
    found = checkpoints.load_params(tmp_path / "params", _like(PARAMS))
    assert jax.tree.structure(found) == jax.tree.structure(PARAMS)
    for ours, theirs in zip(*map(jax.tree.leaves, (found, PARAMS)), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)


def test_params_that_are_not_there(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at .*params"):
        checkpoints.load_params(tmp_path / "params", _like(PARAMS))


# What Orbax leaves behind after a failure is not ours to tidy.
leaves_threads = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning",
    "ignore:coroutine:RuntimeWarning",
)


@leaves_threads
@pytest.mark.parametrize(
    "like",
    [
        PARAMS | {"embed": jnp.zeros((3, 3), jnp.bfloat16)},
        PARAMS | {"embed": jnp.zeros((2, 2), jnp.bfloat16)},
        PARAMS | {"embed": jnp.zeros((6,), jnp.bfloat16)},
    ],
    ids=["larger", "smaller", "flat"],
)
def test_params_of_another_shape(tmp_path, like):
    checkpoints.save_params(tmp_path / "params", PARAMS)
    with pytest.raises(UserError, match="cannot be read as the architecture"):
        checkpoints.load_params(tmp_path / "params", _like(like))


@pytest.mark.parametrize(
    "like, words",
    [
        (PARAMS | {"layers": {"q": jnp.zeros(4)}}, "params has layers/count, unlike"),
        (PARAMS | {"head": jnp.zeros(2)}, "params lacks head, unlike"),
        ({"embed": PARAMS["embed"]}, "params has layers/count, layers/q, unlike"),
        ({"head": jnp.zeros(2)}, "lacks head and has embed, layers/count, layers/q,"),
    ],
)
def test_params_of_another_architecture(tmp_path, like, words):
    checkpoints.save_params(tmp_path / "prm" / "params", PARAMS)
    with pytest.raises(UserError, match=f"{words}.* delete .*/prm and run its stage"):
        checkpoints.load_params(tmp_path / "prm" / "params", _like(like))


@leaves_threads
def test_params_that_are_damaged(tmp_path):
    checkpoints.save_params(tmp_path / "params", PARAMS)
    for path in (tmp_path / "params").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.load_params(tmp_path / "params", _like(PARAMS))
