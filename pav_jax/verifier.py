"""Verifiers: ORM, and the PRM from which a PAV's advantages are derived.

A verifier is a policy's network with a head that reads, at the last token of a
step, the probability that the base policy goes on from there to a correct
answer: `Q^π(s_h, a_h)`. Trained on outcomes at the last step alone it is an ORM.
The prover's value comes from it in closed form: `Q^BoK = 1 - (1 - Q^π)^K`, and
progress is the difference of consecutive values, `A^μ` (Sec. 3).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from pav_jax.core.types import Batch, Params, Response, StepLabels
from pav_jax.distributed import sharding
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.policy import language_loss
from pav_jax.storage import checkpoints
from pav_jax.train.batches import pad_rows


class SumHead(nn.Module):
    """What each token says of Q: the logit at a token is its own value term plus the
    evidence of all tokens up to it.

    A mistake spoils all later steps. Attention would have to find it again at each of
    them; a sum remembers it, so that each token reports only its own error. On the
    built-in task this is the difference between a verifier that detects that a
    response is finished and one that detects that it is right (docs/decisions.md).

    One hidden layer of the network's width. It starts at Q = 0.5 everywhere.

    Attributes:
      hidden_init: makes the hidden layer's matrix, of a key and a shape.
    """

    hidden_init: nn.initializers.Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Value and evidence terms, float32 `[...]` each, of final hidden states
        `[..., D]`."""
        width, zeros = hidden.shape[-1], nn.initializers.zeros
        matrix = self.param("hidden", self.hidden_init, (width, width))
        bias = self.param("hidden_bias", zeros, (width,))
        value = self.param("value", zeros, (width,))
        value_bias = self.param("value_bias", zeros, ())
        evidence = self.param("evidence", zeros, (width,))

        hidden = hidden.astype(jnp.float32)
        bias = bias.reshape((1,) * (hidden.ndim - 1) + (-1,))
        inner = jax.nn.gelu(jnp.einsum("...d,de->...e", hidden, matrix) + bias)
        value = jnp.einsum("...e,e->...", inner, value) + value_bias
        return value, jnp.einsum("...e,e->...", inner, evidence)


class PlainHead(nn.Module):
    """The logit at a token is linear in its own final hidden state: a value term
    without evidence, a bias or a hidden layer.

    What other programs call a classifier of sequences or of tokens with one label, and
    can serve (docs/hugging_face.md). It starts at Q = 0.5 everywhere.
    """

    @nn.compact
    def __call__(self, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
        """As of `SumHead`; the evidence is zero."""
        value = self.param("value", nn.initializers.zeros, (hidden.shape[-1],))
        value = jnp.einsum("...d,d->...", hidden.astype(jnp.float32), value)
        return value, jnp.zeros_like(value)


HEADS: dict[str, type[nn.Module]] = {"sum": SumHead, "plain": PlainHead}


def init_verifier(
    key: jax.Array,
    network: Params,
    architecture: TransformerConfig,
    head: str = "sum",
) -> Params:
    """A verifier that starts from a policy's weights; the key is consumed.

    Args:
      key: of the head's hidden layer.
      network: the policy's parameters, kept as they are.
      architecture: of the policy.
      head: a name of `HEADS`.

    Returns:
      `{"network": ..., "head": ...}`.
    """

    def from_key(_, shape, dtype=None):  # importing gemma makes flax pass a dtype
        # Of this key itself, and not of one that flax derives from it, so that a run's
        # numbers do not depend on how flax does that.
        return jax.random.normal(key, shape, dtype) * shape[0] ** -0.5

    hidden = jnp.zeros((1, architecture.embed_dim))
    module = SumHead(from_key) if head == "sum" else HEADS[head]()
    params = module.init(jax.random.key(0), hidden)
    return {"network": network, "head": params["params"]}


def head_of(names: Iterable[str]) -> str:
    """The name in `HEADS` of a verifier's head, by the names of its parameters, such as
    value or head/value."""
    own = {name.split("/")[-1] for name in names}
    return "sum" if "evidence" in own else "plain"


def head_terms(params: Params, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Value and evidence terms of a verifier, float32 `[...]` each, of final hidden
    states `[..., D]`; see `SumHead` and `PlainHead`."""
    head = HEADS[head_of(params["head"])]
    return head().apply({"params": params["head"]}, hidden)


def value_and_total(params: Params, hidden: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Value terms, and the evidence of all tokens so far, float32 `[..., T]` each."""
    value, evidence = head_terms(params, hidden)
    return value, jnp.cumsum(evidence, axis=-1)


def step_logits(params: Params, hidden: jax.Array) -> jax.Array:
    """Logits of Q at every token, float32 `[B, T]`, of whole rows `[B, T, D]`."""
    value, total = value_and_total(params, hidden)
    return value + total


def step_values(
    params: Params, tokens: jax.Array, *, architecture: TransformerConfig
) -> jax.Array:
    """Predicted Q, float32 `[B, T]`, as read at every token of `tokens [B, T]`.

    One pass over whole responses; a caller reads it at the last token of each
    step, and at the prompt's last token for the value of the bare problem.
    """
    hidden = forward.hidden_states(params["network"], tokens, architecture=architecture)
    return jax.nn.sigmoid(step_logits(params, hidden))


def labelled_steps(labels: StepLabels) -> list[tuple[int, float]]:
    """(response tokens in the prefix, `Q_mc`) of each prefix, as `verifier_rows` has
    them."""
    return list(zip(labels.ends.tolist(), labels.q.tolist(), strict=True))


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
      balance: give values below and above one half the same total weight (App. D's
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
    params: Params,
    batch: Batch,
    *,
    architecture: TransformerConfig,
    language_weight: float,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Cross-entropy on soft labels at step ends (App. D), plus a language loss.

    All steps of a response are scored in one row, so a response is read once and not
    once a prefix. The language loss keeps the features that predict a step, which also
    show whether it is right.

    Args:
      params: the verifier.
      batch: `tokens` int32 `[B, T]`; `mask` float32 `[B, T]`, 1 on response
        tokens; `value` float32 `[B, T]`, the label at each step's last token;
        `weight` float32 `[B, T]`, 0 where there is no label.
      architecture: of the network.
      language_weight: weight of the language loss.

    Returns:
      The float32 scalar loss and its parts.
    """
    hidden = forward.hidden_states(
        params["network"], batch["tokens"], architecture=architecture
    )
    total, weight = _scoring_sums(params, hidden, batch)
    scoring = total / jnp.maximum(weight, 1e-6)
    language = language_loss(
        params["network"], hidden, batch, architecture=architecture
    )
    loss = scoring + language_weight * language
    return loss, {"scoring": scoring, "language": language}


def scoring_loss(
    params: Params, batch: Batch, *, architecture: TransformerConfig
) -> tuple[jax.Array, jax.Array]:
    """The sum of the cross-entropy of `verifier_loss` over labels, and of weights."""
    hidden = forward.hidden_states(
        params["network"], batch["tokens"], architecture=architecture
    )
    return _scoring_sums(params, hidden, batch)


def _scoring_sums(
    params: Params, hidden: jax.Array, batch: Batch
) -> tuple[jax.Array, jax.Array]:
    logits = step_logits(params, hidden)
    value, weight = batch["value"], batch["weight"]
    # Binary cross-entropy with soft labels: stable for logits of any size.
    cross_entropy = jnp.logaddexp(0.0, logits) - value * logits
    return jnp.sum(cross_entropy * weight), jnp.sum(weight)


def load_verifier(
    directory: Path,
    architecture: TransformerConfig,
    dtype: jnp.dtype,
    rules: sharding.Rules = sharding.DECODE,
) -> Params:
    """The verifier that a stage trained, with the head that it has; arguments as of
    `policy.load_policy`."""
    path = directory / "params"
    head = head_of(checkpoints.stored_names(path))

    def init() -> Params:
        key = jax.random.key(0)
        network = forward.init_params(key, architecture, dtype)
        return init_verifier(key, network, architecture, head)

    return checkpoints.load_params(path, jax.eval_shape(init), rules)
