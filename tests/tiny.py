"""Weights of tiny networks, and a tiny tokenizer, where no trained ones are needed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.core.types import Params
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.tokenizer import Tokenizer, train_tokenizer


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


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, one for the space and one for the newline."""
    return train_tokenizer([" "], vocab_size=4 + 2 + 256)
