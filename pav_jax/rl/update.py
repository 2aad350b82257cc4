"""The networks of RL, the REINFORCE loss, and one update of policy and baseline."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from pav_jax import verifier as verifier_lib
from pav_jax.core.types import Batch, Params
from pav_jax.distributed import sharding
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.rl.rewards import (
    Objective,
    effective_rewards,
    group_advantages,
    masked_mean,
    masked_std,
    outcome_to_go,
    step_process_reward,
)

# Of the policy and of the value baseline.
Optimizers = tuple[optax.GradientTransformation, optax.GradientTransformation]

# The networks. What they predict for token t comes from the hidden state at t - 1.


def response_log_probs(
    params: Params, batch: Batch, *, architecture: TransformerConfig
) -> jax.Array:
    """Log-probability of each token given those before it, float32 `[B, T]`.

    The first column, which nothing comes before, is 0.
    """
    tokens = batch["tokens"]
    hidden = forward.hidden_states(params, tokens, architecture=architecture)
    log_probs = forward.token_log_probs(
        params, hidden[:, :-1], tokens[:, 1:], architecture=architecture
    )
    return jnp.pad(log_probs, ((0, 0), (1, 0)))


class ValueHead(nn.Module):
    """The expected reward of a token, from one final hidden state; initialised to 0."""

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """`[..., D]` to float32 `[...]`."""
        zeros = nn.initializers.zeros
        weight = self.param("w", zeros, (hidden.shape[-1],))
        bias = self.param("b", zeros, ())
        hidden = hidden.astype(jnp.float32)
        return jnp.einsum("...d,d->...", hidden, weight) + bias


def init_value(network: Params, architecture: TransformerConfig) -> Params:
    """A value baseline that starts from a policy's weights, and predicts 0."""
    hidden = jnp.zeros((1, architecture.embed_dim))
    head = ValueHead().init(jax.random.key(0), hidden)
    return {"network": jax.tree.map(jnp.copy, network), "head": head["params"]}


def token_values(
    params: Params, batch: Batch, *, baseline: str, architecture: TransformerConfig
) -> jax.Array:
    """The expected reward of each token before it is drawn, float32 `[B, T]`.

    Args:
      params: of `init_value`; or with `baseline="verifier"` a verifier's.
      batch: has `tokens`, int32 `[B, T]`.
      baseline: "value" or "verifier".
      architecture: of the network.
    """
    hidden = forward.hidden_states(
        params["network"], batch["tokens"], architecture=architecture
    )
    if baseline == "verifier":
        values = jax.nn.sigmoid(verifier_lib.step_logits(params, hidden[:, :-1]))
    else:
        values = ValueHead().apply({"params": params["head"]}, hidden[:, :-1])
    return jnp.pad(values, ((0, 0), (1, 0)))


def policy_loss(
    log_probs: jax.Array,
    reference: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    kl: float,
) -> jax.Array:
    """A float32 scalar whose gradient is that of REINFORCE, summed over tokens (Eq. 4).

    The mean is over responses and not over tokens: dividing each response by its length
    would favour long wrong ones. The KL term is half the squared log-ratio. In
    expectation, its gradient is that of `KL(π || π_0)` at the visited states; the
    gradients of other estimators of the KL are not.

    Args:
      log_probs: of the tokens, `[B, T]`; the only argument with a gradient.
      reference: of the tokens under the initial policy, `[B, T]`.
      advantages: reward less baseline, `[B, T]`.
      mask: 1 on response tokens, `[B, T]`.
      kl: weight of the KL divergence.
    """
    gain = jax.lax.stop_gradient(advantages) * log_probs
    cost = 0.5 * jnp.square(log_probs - reference)
    return jnp.sum((kl * cost - gain) * mask) / log_probs.shape[0]


# One update.


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RLState:
    """What a checkpoint holds; random keys and problems are functions of `step`.

    Attributes:
      step: int32 scalar, iterations done.
      policy: the policy's parameters.
      policy_opt: its optimizer's state.
      value: the baseline's parameters; None without one.
      value_opt: its optimizer's state.
      verifier: the refreshed verifier; None if it is frozen, and then no part of a
        checkpoint.
    """

    step: jax.Array
    policy: Params
    policy_opt: optax.OptState
    value: Params | None
    value_opt: optax.OptState | None
    verifier: Params | None = None


def init_state(
    policy: Params,
    objective: Objective,
    optimizers: Optimizers,
    *,
    architecture: TransformerConfig,
    verifier: Params | None = None,
) -> RLState:
    """The state before the first iteration, on the mesh; copies its arguments."""
    warm = objective.baseline == "verifier"

    def init(policy: Params, verifier: Params | None) -> RLState:
        state = new_state(
            policy,
            objective,
            optimizers,
            architecture=architecture,
            value=verifier if warm else None,
        )
        kept = None if warm else jax.tree.map(jnp.copy, verifier)
        return dataclasses.replace(state, verifier=kept)

    given = (policy, verifier if objective.refresh_every or warm else None)
    # Placed as an update leaves it, so that the second one is not compiled again.
    where = sharding.shardings(jax.eval_shape(init, *given), sharding.TRAIN)
    return jax.jit(init, out_shardings=where)(*given)


def new_state(
    policy: Params,
    objective: Objective,
    optimizers: Optimizers,
    *,
    architecture: TransformerConfig,
    value: Params | None = None,
) -> RLState:
    """As `init_state`, but placed where `policy` is, and without a verifier.

    The baseline starts from `value` if it is given.
    """
    if value is not None:
        value = jax.tree.map(jnp.copy, value)
    elif objective.baseline == "value":
        value = init_value(policy, architecture)
    return RLState(
        step=jnp.zeros((), jnp.int32),
        policy=jax.tree.map(jnp.copy, policy),
        policy_opt=optimizers[0].init(policy),
        value=value,
        value_opt=None if value is None else optimizers[1].init(value),
    )


def make_update(
    objective: Objective,
    optimizers: Optimizers,
    *,
    architecture: TransformerConfig,
    group: int,
) -> Callable[[RLState, Params, Batch], tuple[RLState, dict[str, jax.Array]]]:
    """A jitted update; the state passed in is donated.

    Args:
      objective: what the policy is trained on.
      optimizers: of the policy and of the value baseline.
      architecture: of both networks.
      group: responses to each problem, side by side in a batch.

    Returns:
      `update(state, reference, batch) -> (state, metrics)`, where `reference` is the
      initial policy and `batch` is of `make_batch`. The metrics are float32 scalars:

      - `loss` of the policy, and `grad_norm` of its gradient before clipping;
      - `kl` to the initial policy and `entropy`, both in nats a token and estimated
        from the sampled tokens;
      - `log_prob_gap`, the largest difference between the sampler's log-probability of
        a token and the update's;
      - `reward`, `outcome` and `progress`, means over tokens: of `effective_rewards`,
        of Rex, and of the process reward of a token's own step;
      - `advantage_spread`, the standard deviation of reward less baseline;
      - with a value baseline, its mean squared error `value_error` and
        `value_explained`, the part of the rewards' variance that it explains.
    """

    def update(state: RLState, reference: Params, batch: Batch):
        batch = sharding.constrain_batch(batch)
        rewards = effective_rewards(batch, reward=objective.reward)
        value, value_opt, metrics = state.value, state.value_opt, {}
        if objective.baseline != "group":
            value, value_opt, values, metrics = _update_value(
                state, batch, rewards, objective, optimizers[1], architecture
            )
            advantages = rewards - values
        else:
            advantages = group_advantages(batch, rewards, group=group)
        policy, policy_opt, policy_metrics = _update_policy(
            state, reference, batch, advantages, objective, optimizers[0], architecture
        )
        metrics |= policy_metrics | _reward_metrics(batch, rewards, advantages)
        state = RLState(
            state.step + 1, policy, policy_opt, value, value_opt, state.verifier
        )
        return sharding.constrain_params(state, sharding.TRAIN), metrics

    return jax.jit(update, donate_argnums=0)


def _update_value(
    state: RLState,
    batch: Batch,
    rewards: jax.Array,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    architecture: TransformerConfig,
) -> tuple[Params, optax.OptState, jax.Array, dict[str, jax.Array]]:
    """The baseline after a step towards the rewards; and its values `[B, T]` before."""
    mask = batch["mask"]

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        values = token_values(
            params, batch, baseline=objective.baseline, architecture=architecture
        )
        return masked_mean(jnp.square(values - rewards), mask), values

    (error, values), grads = jax.value_and_grad(loss, has_aux=True)(state.value)
    updates, value_opt = optimizer.update(grads, state.value_opt, state.value)
    variance = jnp.square(masked_std(rewards, mask))
    metrics = {
        "value_error": error,
        "value_explained": 1.0 - error / jnp.maximum(variance, 1e-6),
    }
    return optax.apply_updates(state.value, updates), value_opt, values, metrics


def _update_policy(
    state: RLState,
    reference: Params,
    batch: Batch,
    advantages: jax.Array,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    architecture: TransformerConfig,
) -> tuple[Params, optax.OptState, dict[str, jax.Array]]:
    """The policy after a step along the gradient of Eq. 4."""
    mask = batch["mask"]
    initial = response_log_probs(reference, batch, architecture=architecture)

    def loss(params: Params) -> tuple[jax.Array, jax.Array]:
        log_probs = response_log_probs(params, batch, architecture=architecture)
        out = policy_loss(log_probs, initial, advantages, mask, kl=objective.kl)
        return out, log_probs

    (total, log_probs), grads = jax.value_and_grad(loss, has_aux=True)(state.policy)
    updates, policy_opt = optimizer.update(grads, state.policy_opt, state.policy)
    metrics = {
        "loss": total,
        "grad_norm": optax.tree.norm(grads),
        # `expm1(ratio) - ratio` is unbiased too and never negative. But once a policy
        # has unlearnt what the initial one did, a single rare token counts e^ratio.
        "kl": masked_mean(log_probs - initial, mask),
        "entropy": -masked_mean(log_probs, mask),
        "log_prob_gap": jnp.max(jnp.abs(log_probs - batch["sampled"]) * mask),
    }
    return optax.apply_updates(state.policy, updates), policy_opt, metrics


def _reward_metrics(
    batch: Batch, rewards: jax.Array, advantages: jax.Array
) -> dict[str, jax.Array]:
    mask = batch["mask"]
    return {
        "reward": masked_mean(rewards, mask),
        "outcome": masked_mean(outcome_to_go(batch), mask),
        "progress": masked_mean(step_process_reward(batch), mask),
        "advantage_spread": masked_std(advantages, mask),
    }
