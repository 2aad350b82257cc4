"""Verifiers: ORM, and the PRM from which a PAV's advantages are derived.

A verifier is a policy's network with a head that reads, at the last token of a
step, the probability that the base policy goes on from there to a correct
answer: `Q^π(s_h, a_h)`. Trained on outcomes at the last step alone it is an ORM.
The prover's value comes from it in closed form: `Q^BoK = 1 - (1 - Q^π)^K`, and
progress is the difference of consecutive values, `A^μ` (Sec. 3).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.labels import Response
from pav_jax.policy import language_loss
from pav_jax.train.batches import pad_rows
from pav_jax.train.step import Batch

VerifierParams = dict[str, Any]  # {"model": forward.Params, "head": ...}


def init_verifier(
    key: jax.Array, model: forward.Params, config: TransformerConfig
) -> VerifierParams:
    """A verifier that starts from a policy's weights; the key is consumed.

    The head has one hidden layer of the model's width, and starts at Q = 0.5.
    """
    width = config.embed_dim
    head = {
        "hidden": jax.random.normal(key, (width, width)) * width**-0.5,
        "hidden_bias": jnp.zeros((width,)),
        "value": jnp.zeros((width,)),
        "value_bias": jnp.zeros(()),
        "evidence": jnp.zeros((width,)),
    }
    return {"model": model, "head": head}


def head_terms(
    head: dict[str, jax.Array], hidden: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """What each token says of Q: the logit at a token is its own value term plus
    the evidence of all tokens up to it.

    A mistake stays made. Left to attention, every later step would have to find it
    again; a sum keeps it, and asks of each token only whether something is wrong
    there. On the built-in task this is the difference between a verifier that knows
    a finished response and one that knows a right one (WORKSPACE.md).

    Args:
      head: of `init_verifier`.
      hidden: final hidden states `[..., D]`.

    Returns:
      Value and evidence terms, float32 `[...]` each.
    """
    hidden = hidden.astype(jnp.float32)
    bias = head["hidden_bias"].reshape((1,) * (hidden.ndim - 1) + (-1,))
    inner = jax.nn.gelu(jnp.einsum("...d,de->...e", hidden, head["hidden"]) + bias)
    value = jnp.einsum("...e,e->...", inner, head["value"]) + head["value_bias"]
    return value, jnp.einsum("...e,e->...", inner, head["evidence"])


def step_logits(head: dict[str, jax.Array], hidden: jax.Array) -> jax.Array:
    """Logits of Q at every token, float32 `[B, T]`, of whole rows `[B, T, D]`."""
    value, evidence = head_terms(head, hidden)
    return value + jnp.cumsum(evidence, axis=-1)


def step_values(
    params: VerifierParams, tokens: jax.Array, *, config: TransformerConfig
) -> jax.Array:
    """Predicted Q, float32 `[B, T]`, as read at every token of `tokens [B, T]`.

    One pass over whole responses; a caller reads it at the last token of each
    step, and at the prompt's last token for the value of the bare problem.
    """
    hidden = forward.hidden_states(params["model"], tokens, config=config)
    return jax.nn.sigmoid(step_logits(params["head"], hidden))


def verifier_rows(
    responses: Sequence[Response],
    steps: Sequence[Sequence[tuple[int, float]]],
    *,
    balance: bool,
) -> dict[str, np.ndarray]:
    """Training rows for `verifier_loss`.

    Args:
      responses: whole responses.
      steps: for each, (response tokens in the prefix, value) of labelled ones.
      balance: let values below and above one half weigh alike in sum (App. D's
        two buckets); ranks rare values better, but is no longer calibrated.

    Returns:
      `tokens` int32, `mask`, `value` and `weight` float32, all `[N, T]`.
    """
    values = [value for row in steps for _, value in row]
    high = np.mean([value >= 0.5 for value in values])
    buckets = [0.5 / max(1 - high, 1e-6), 0.5 / max(high, 1e-6)] if balance else [1, 1]
    width = max(len(r.prompt) + len(r.tokens) for r in responses)
    shape = (len(responses), width)
    value, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for i, (response, row) in enumerate(zip(responses, steps, strict=True)):
        for end, q in row:
            place = len(response.prompt) + end - 1
            value[i, place] = q
            weight[i, place] = buckets[q >= 0.5]
    return {
        "tokens": pad_rows([r.prompt + r.tokens for r in responses], width),
        "mask": pad_rows(
            [[0] * len(r.prompt) + [1] * len(r.tokens) for r in responses],
            width,
            np.float32,
        ),
        "value": value,
        "weight": weight,
    }


def verifier_loss(
    params: VerifierParams,
    batch: Batch,
    *,
    config: TransformerConfig,
    language_weight: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy on soft labels at step ends (App. D), plus a language loss.

    All steps of a response are scored in one row, so a response is read once
    and not once a prefix. The language loss keeps the features that predict a
    step, which are those that tell whether it was right.

    Args:
      params: the verifier.
      batch: `tokens` int32 `[B, T]`; `mask` float32 `[B, T]`, 1 on response
        tokens; `value` float32 `[B, T]`, the label at each step's last token;
        `weight` float32 `[B, T]`, 0 where there is no label.
      config: the architecture.
      language_weight: weight of the language loss.

    Returns:
      The float32 scalar loss and its parts.
    """
    hidden = forward.hidden_states(params["model"], batch["tokens"], config=config)
    logits = step_logits(params["head"], hidden)
    value, weight = batch["value"], batch["weight"]
    # Binary cross-entropy with soft labels: stable for logits of any size.
    cross_entropy = jnp.logaddexp(0.0, logits) - value * logits
    scoring = jnp.sum(cross_entropy * weight) / jnp.maximum(jnp.sum(weight), 1e-6)
    language = language_loss(params["model"], hidden, batch, config=config)
    loss = scoring + language_weight * language
    return loss, {"scoring": scoring, "language": language}


def best_of_k(q: jax.Array, k: int) -> jax.Array:
    """`Q^BoK(s, a) = 1 - (1 - Q^π(s, a))^K`, elementwise."""
    return 1.0 - (1.0 - q) ** k


def advantages(q: jax.Array, previous: jax.Array, k: int) -> jax.Array:
    """Progress under BoK(π): `A^μ(s_h, a_h) = Q^μ(s_h, a_h) - Q^μ(s_{h-1}, a_{h-1})`.

    Args:
      q: `Q^π` after the step.
      previous: `Q^π` before it; for the first step, of the bare problem.
      k: the prover's K.
    """
    return best_of_k(q, k) - best_of_k(previous, k)
