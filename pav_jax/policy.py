"""The policy: its parameters, demonstrations, and supervised fine-tuning (App. C)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.types import Batch, Params, Problem, Response
from pav_jax.distributed import sharding
from pav_jax.gemma import checkpoint as published
from pav_jax.gemma import forward, sizes
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.storage import checkpoints
from pav_jax.tasks.problems import TooLong, encode_prompt
from pav_jax.train.batches import pad_rows


def initial_policy(
    model: ConfigDict, architecture: TransformerConfig, *, seed: int
) -> Params:
    """The parameters that fine-tuning starts from, placed for training.

    Args:
      model: `config.model`; may have a `checkpoint`, the folder of a published one, in
        place of random parameters; and a `dtype`, float32 if it has none.
      architecture: of the policy.
      seed: of random parameters.

    Raises:
      UserError: the checkpoint cannot be read as that architecture.
    """
    dtype = sizes.dtype_of(model)
    if not model.get("checkpoint"):
        return forward.init_params(jax.random.key(seed), architecture, dtype)
    shapes = forward.param_shapes(architecture, dtype)
    return published.read(
        Path(model.checkpoint),
        architecture=architecture,
        dtype=dtype,
        shardings=sharding.shardings(shapes, sharding.TRAIN),
    )


def load_policy(
    directory: Path,
    architecture: TransformerConfig,
    dtype: jnp.dtype,
    rules: sharding.Rules = sharding.DECODE,
) -> Params:
    """The parameters that a stage trained, placed by `rules`.

    Args:
      directory: the stage's folder.
      architecture: of the policy.
      dtype: of its parameters.
      rules: `DECODE` to sample and score, `TRAIN` to train on.

    Raises:
      UserError: they are missing, damaged, or of another architecture.
    """
    like = forward.param_shapes(architecture, dtype)
    return checkpoints.load_params(directory / "params", like, rules)


def demonstrations(
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    max_prompt_tokens: int,
    max_tokens: int,
) -> tuple[dict[str, np.ndarray], int]:
    """Rows for fine-tuning; problems whose prompt or solution is too long are left out.

    Args:
      tokenizer: the policy's.
      problems: each with a solution.
      max_prompt_tokens: longest prompt.
      max_tokens: longest solution, its end token included.

    Returns:
      `tokens` int32 `[N, T]` and `mask` float32 `[N, T]`, 1 on the tokens of
      the solution; and how many problems were left out.

    Raises:
      UserError: none is left, or one is empty or a text that the tokenizer refuses.
    """
    rows, masks, dropped = [], [], 0
    for problem in problems:
        try:
            prompt = encode_prompt(tokenizer, problem, max_tokens=max_prompt_tokens)
        except TooLong:
            dropped += 1
            continue
        solution = [*tokenizer.encode(problem.solution), tokenizer.eos_id]
        if len(solution) > max_tokens:
            dropped += 1
            continue
        rows.append(prompt + solution)
        masks.append([0] * len(prompt) + [1] * len(solution))
    if not rows:
        raise UserError(
            f"none of {counted(len(problems), 'demonstration')} fits"
            f" {max_prompt_tokens} prompt and {max_tokens} response tokens; raise"
            " config.limits.max_prompt_tokens or config.limits.max_tokens"
        )
    length = max(map(len, rows))
    arrays = {
        "tokens": pad_rows(rows, length),
        "mask": pad_rows(masks, length, np.float32),
    }
    return arrays, dropped


def rft_rows(responses: list[Response]) -> dict[str, np.ndarray]:
    """Fine-tuning rows of the correct ones, each distinct response once.

    Returns:
      `tokens` int32 `[N, T]`, and `mask` float32 `[N, T]`, 1 on response tokens.

    Raises:
      UserError: none is correct.
    """
    kept = sorted({(r.prompt, r.tokens) for r in responses if r.correct})
    if not kept:
        raise UserError(
            f"none of {len(responses)} seed rollouts is correct, so there is nothing to"
            " fine-tune on; train the base policy longer, or sample more (rollouts)"
        )
    width = max(len(prompt) + len(tokens) for prompt, tokens in kept)
    masks = [[0] * len(prompt) + [1] * len(tokens) for prompt, tokens in kept]
    return {
        "tokens": pad_rows([prompt + tokens for prompt, tokens in kept], width),
        "mask": pad_rows(masks, width, np.float32),
    }


def language_loss(
    params: Params, hidden: jax.Array, batch: Batch, *, architecture: TransformerConfig
) -> jax.Array:
    """Mean negative log-probability of the masked tokens, float32 scalar."""
    log_probs = forward.token_log_probs(
        params, hidden[:, :-1], batch["tokens"][:, 1:], architecture=architecture
    )
    mask = batch["mask"][:, 1:]
    return -jnp.sum(log_probs * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def sft_loss(
    params: Params, batch: Batch, *, architecture: TransformerConfig
) -> tuple[jax.Array, dict[str, Any]]:
    """Cross-entropy of the demonstrations' responses (App. C)."""
    hidden = forward.hidden_states(params, batch["tokens"], architecture=architecture)
    return language_loss(params, hidden, batch, architecture=architecture), {}
