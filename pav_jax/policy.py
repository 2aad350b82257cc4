"""The policy: how problems become token rows, and supervised fine-tuning."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.core.errors import UserError
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.forward import Params
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.tasks.base import Problem
from pav_jax.train.batches import pad_rows
from pav_jax.train.step import Batch


def encode_prompt(
    tokenizer: Tokenizer, problem: Problem, *, max_tokens: int
) -> list[int]:
    """Token ids of a prompt, the beginning-of-sequence token first.

    Raises:
      UserError: the prompt is empty, or longer than `max_tokens`.
    """
    if not problem.prompt.strip():
        raise UserError("a problem has an empty prompt; every problem needs a question")
    tokens = [tokenizer.bos_id, *tokenizer.encode(problem.prompt)]
    if len(tokens) > max_tokens:
        raise UserError(
            f"a prompt has {len(tokens)} tokens, more than the {max_tokens} that"
            f" task.max_prompt_tokens allows: {problem.prompt[:80]!r}..."
        )
    return tokens


def fits(tokenizer: Tokenizer, problem: Problem, max_tokens: int) -> bool:
    """Whether `encode_prompt` takes it."""
    try:
        encode_prompt(tokenizer, problem, max_tokens=max_tokens)
    except UserError:
        return False
    return True


def demonstrations(
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    max_prompt_tokens: int,
    max_tokens: int,
) -> tuple[dict[str, np.ndarray], int]:
    """Rows for fine-tuning; problems whose solution is too long are left out.

    Args:
      tokenizer: the policy's.
      problems: each with a solution.
      max_prompt_tokens: longest prompt.
      max_tokens: longest solution, its end token included.

    Returns:
      `tokens` int32 `[N, T]` and `mask` float32 `[N, T]`, 1 on the tokens of
      the solution; and how many problems were left out.
    """
    rows, masks, dropped = [], [], 0
    for problem in problems:
        try:
            prompt = encode_prompt(tokenizer, problem, max_tokens=max_prompt_tokens)
        except UserError:
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
            f"none of {len(problems)} demonstrations fits {max_prompt_tokens} prompt"
            f" and {max_tokens} response tokens; raise task.max_prompt_tokens or"
            " task.max_tokens"
        )
    length = max(map(len, rows))
    arrays = {
        "tokens": pad_rows(rows, length),
        "mask": pad_rows(masks, length, np.float32),
    }
    return arrays, dropped


def language_loss(
    params: Params, hidden: jax.Array, batch: Batch, *, config: TransformerConfig
) -> jax.Array:
    """Mean negative log-probability of the masked tokens, float32 scalar."""
    log_probs = forward.token_log_probs(
        params, hidden[:, :-1], batch["tokens"][:, 1:], config=config
    )
    mask = batch["mask"][:, 1:]
    return -jnp.sum(log_probs * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def sft_loss(
    params: Params, batch: Batch, *, config: TransformerConfig
) -> tuple[jax.Array, dict[str, Any]]:
    """Cross-entropy of the demonstrations' responses (App. C)."""
    hidden = forward.hidden_states(params, batch["tokens"], config=config)
    return language_loss(params, hidden, batch, config=config), {}
