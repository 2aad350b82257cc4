"""Weights of tiny networks, and a tiny tokenizer, where no trained ones are needed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pav_jax import verifier
from pav_jax.core.types import Params
from pav_jax.gemma import forward, sizes
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.tokenizer import Tokenizer, train_tokenizer
from pav_jax.tools.scoring import Verifier


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


def random_verifier(max_tokens: int = 100) -> Verifier:
    """A verifier whose values differ from text to text, on bytes; without an ORM."""
    tokenizer = byte_tokenizer()
    model = dict(num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24, window=8)
    architecture = sizes.from_config(ConfigDict(model), tokenizer.vocab_size)
    key, rng = jax.random.key(0), np.random.default_rng(0)
    shapes = jax.eval_shape(
        lambda: verifier.init_verifier(
            key, forward.init_params(key, architecture), architecture
        )
    )
    return Verifier(
        prm=jax.tree.map(
            lambda leaf: jnp.asarray(0.25 * rng.normal(size=leaf.shape), leaf.dtype),
            shapes,
        ),
        orm=None,
        architecture=architecture,
        tokenizer=tokenizer,
        is_step_end=tokenizer.step_end_mask(),
        max_tokens=max_tokens,
        prover_k=2,
        fingerprint="",
    )
