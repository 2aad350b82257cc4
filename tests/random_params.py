"""Weights of small networks, for tests that need no trained ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.core.types import Params
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig


def random_params(architecture: TransformerConfig, seed: int = 0) -> Params:
    """Random parameters, norm scales included; numpy's, which compile nothing."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(
        functools.partial(forward.init_params, architecture=architecture),
        jax.random.key(0),
    )
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), shapes
    )
