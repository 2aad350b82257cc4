"""Weights of tiny networks, and a tiny tokenizer, where no trained ones are needed."""

import functools
import io
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import sentencepiece
from ml_collections import ConfigDict

from pav_jax import verifier
from pav_jax.core.types import Params
from pav_jax.distributed.mesh import AXES
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


def abstract_mesh(*sizes: int) -> jax.sharding.AbstractMesh:
    """A mesh of no devices, whose axes are as those of `make_mesh`; jax's default for
    axes differs between its versions."""
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    return jax.sharding.AbstractMesh(sizes, AXES, axis_types=kinds)


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, one for the space and one for the newline."""
    return train_tokenizer([" "], vocab_size=4 + 2 + 256)


def gemma_like_tokenizer(
    symbols: Sequence[str],
    texts: Sequence[str] = ("the answer is 42",),
    vocab_size: int | None = None,
    **changes: Any,
) -> Tokenizer:
    """Learnt by SentencePiece with Gemma's settings, and pieces that are added to it.

    Args:
      symbols: pieces like those of a text, such as the names of Gemma's marks of turns.
      texts: lines to learn from.
      vocab_size: of all; by default little more than what there has to be.
      changes: other arguments of SentencePiece's trainer.
    """
    model = io.BytesIO()
    settings = dict(
        model_type="bpe",
        vocab_size=vocab_size or 4 + len(symbols) + 256 + 12,
        hard_vocab_limit=False,
        user_defined_symbols=list(symbols),
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        minloglevel=3,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
    )
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, **settings | changes
    )
    return Tokenizer(model.getvalue())


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
