"""Where a policy's parameters come from, and the rows of fine-tuning."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax import policy
from pav_jax.core.errors import UserError
from pav_jax.gemma import checkpoint, forward, sizes

TINY = dict(num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24)
VOCABULARY = 40


def model(**fields) -> ConfigDict:
    return ConfigDict(fields).lock()


def test_the_policy_starts_from_a_checkpoint(tmp_path):
    architecture = sizes.from_config(model(**TINY), VOCABULARY)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(lambda: forward.init_params(jax.random.key(0), architecture)),
    )
    checkpoint.write(tmp_path / "it", params, architecture=architecture)

    said = model(**TINY, checkpoint=str(tmp_path / "it"), dtype="bfloat16")
    assert sizes.from_config(said, VOCABULARY) == architecture
    read = policy.initial_policy(said, architecture, seed=0)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)),
        read,
        params,
    )
    assert read["embed"].dtype == jnp.bfloat16

    with pytest.raises(UserError, match="there is no checkpoint folder"):
        absent = model(**TINY, checkpoint=str(tmp_path / "absent"))
        policy.initial_policy(absent, architecture, seed=0)
    with pytest.raises(UserError, match="dtype is 'float8'"):
        policy.initial_policy(model(dtype="float8"), architecture, seed=0)
