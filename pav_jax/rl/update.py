"""RL with process rewards: effective reward, policy gradient, baselines, KL (Sec. 5).

The gradient of Eq. 4 is `Σ_h ∇log π(a_h|s_h) (Q^π(s_h, a_h) + α A^μ(s_h, a_h))`, an
expectation over responses of π. REINFORCE puts Rex for `Q^π`, of which it is an
unbiased sample. So two kinds of reward reach a token in two ways:

- the outcome, given at the end, reaches every token before it (reward-to-go);
- progress, given at a step's last token, reaches the tokens of that step alone. Eq. 4
  takes the states as the previous iterate visits them, so no step is paid for the
  progress of later ones. (Paid so, progress would telescope into the outcome less a
  baseline, and change nothing but the scale.)

With μ = π the gradient is `1 + α` times that of the outcome alone. Hence the control
`reward="matched"`: what a mere change of scale does.

Shape letters: B responses, T tokens of prompt and response, H steps of a response.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from pav_jax.core.errors import UserError
from pav_jax.core.types import Batch, Params, Response, StepLabels
from pav_jax.distributed import sharding
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.prover import advantages, best_of_k, effective_reward, failure_power
from pav_jax.train.batches import pad_rows

REWARDS = ("outcome", "progress", "value", "matched")
BASELINES = ("value", "group")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a policy is trained on.

    Attributes:
      reward: "outcome" is Rex alone (ORM-RL); "progress" adds `αA^μ` (PAV-RL); "value"
        adds `αQ^μ`, the known bad one; "matched" is Rex, scaled in each batch to the
        spread that "progress" has.
      baseline: "value" is learnt for each token; "group" is the mean outcome of a
        problem's responses, and divides by their standard deviation (GRPO).
      kl: weight of the KL divergence to the initial policy, per token.
      alpha: weight of the process reward.
      prover_k: the prover is BoK(π), with this K; 1 is μ = π.
      trust_outcome: let the outcome be the value of a whole response, as it is
        by definition, in place of the verifier's prediction.
      n_mc: continuations of every step prefix, by the policy as it is, whose outcomes
        stand in place of a verifier; at least `prover_k`. 0 asks the verifier.
      refresh_every: iterations after which the verifier is trained on, on rollouts of
        the policy as it is then; 0 leaves it frozen.
    """

    reward: str
    baseline: str
    kl: float
    alpha: float = 0.0
    prover_k: int = 1
    trust_outcome: bool = True
    n_mc: int = 0
    refresh_every: int = 0

    def __post_init__(self):
        for name, known in (("reward", REWARDS), ("baseline", BASELINES)):
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name} {getattr(self, name)!r} of an RL method is unknown;"
                    f" there are {', '.join(known)}"
                )
        if 0 < self.n_mc < self.prover_k:
            raise UserError(
                f"n_mc={self.n_mc} of an RL method is too few: the value of"
                f" Bo{self.prover_k} cannot be told without bias from fewer than"
                f" {self.prover_k} continuations; raise n_mc, or lower prover_k"
            )
        if self.refresh_every and not self.reads_verifier:
            raise UserError(
                f"refresh_every={self.refresh_every} of an RL method that reads no"
                " verifier: its reward is the outcome, or it has n_mc continuations"
            )

    @property
    def is_paid_by_step(self) -> bool:
        """Whether steps have rewards of their own."""
        return self.reward != "outcome"

    @property
    def reads_verifier(self) -> bool:
        """Whether a verifier says what steps are worth."""
        return self.is_paid_by_step and not self.n_mc


def predicted_values(q: np.ndarray, correct: bool, objective: Objective) -> np.ndarray:
    """The prover's value of each prefix by a verifier, `Q^μ`, float32 `[H + 1]`.

    Args:
      q: predicted `Q^π` of a response's prefixes, `[H + 1]`, the bare prompt first.
      correct: Rex.
      objective: what the prover is.
    """
    q = np.array(q, np.float32)
    if objective.trust_outcome:
        q[-1] = correct
    return best_of_k(q, objective.prover_k)


def sampled_values(labels: StepLabels, objective: Objective) -> np.ndarray:
    """The prover's value of each prefix by continuations, float32 `[H + 1]`.

    Without bias, and with it the gradient: what is not linear in `Q^π` is not
    computed from its estimate.
    """
    return (1.0 - failure_power(labels, objective.prover_k)).astype(np.float32)


def process_rewards(value: np.ndarray, objective: Objective) -> np.ndarray:
    """The process reward of each step, float32 `[H]` (Eq. 5 without its `Q^π`).

    Args:
      value: `Q^μ` of a response's prefixes, `[H + 1]`, the bare prompt first.
      objective: what the reward is.
    """
    paid = value[1:] if objective.reward == "value" else advantages(value)
    return np.float32(objective.alpha) * paid


def make_batch(
    responses: Sequence[Response],
    ends: Sequence[np.ndarray],
    process: Sequence[np.ndarray],
    *,
    length: int,
) -> Batch:
    """Arrays of a batch of responses.

    Args:
      responses: those to one problem side by side.
      ends: response tokens up to the end of each step, int `[H]` for each.
      process: reward of each step, float32 `[H]` for each.
      length: T, at least the longest prompt and response together.

    Returns:
      `tokens` int32; `mask` float32, 1 on response tokens; `step_end` bool, at the
      last token of each step; `progress` float32, the process reward there; `outcome`
      float32, Rex at the response's last token; `sampled` float32, the sampler's
      log-probabilities of response tokens; all `[B, T]`.
    """
    shape = (len(responses), length)
    floats = {
        name: np.zeros(shape, np.float32)
        for name in ("mask", "progress", "outcome", "sampled")
    }
    step_end = np.zeros(shape, bool)
    for i, (response, stops, paid) in enumerate(
        zip(responses, ends, process, strict=True)
    ):
        first, last = len(response.prompt), len(response.prompt + response.tokens)
        floats["mask"][i, first:last] = 1.0
        floats["sampled"][i, first:last] = response.log_probs
        floats["outcome"][i, last - 1] = response.correct
        step_end[i, first + stops - 1] = True
        floats["progress"][i, first + stops - 1] = paid
    rows = [response.prompt + response.tokens for response in responses]
    return {"tokens": pad_rows(rows, length), "step_end": step_end, **floats}


def outcome_to_go(batch: Batch) -> jax.Array:
    """Outcome from each token on, float32 `[B, T]`; 0 outside the response."""
    to_go = jnp.cumsum(batch["outcome"][:, ::-1], axis=1)[:, ::-1]
    return to_go * batch["mask"]


def own_progress(batch: Batch) -> jax.Array:
    """Process reward of the step that a token is in, float32 `[B, T]`."""
    length = batch["tokens"].shape[1]
    places = jnp.where(batch["step_end"], jnp.arange(length)[None], length)
    # The first end at or after a token; padding has none, and reads no reward.
    end = jax.lax.cummin(places, axis=1, reverse=True)
    paid = jnp.take_along_axis(batch["progress"], jnp.minimum(end, length - 1), axis=1)
    return jnp.where(end < length, paid, 0.0) * batch["mask"]


def effective_rewards(batch: Batch, *, reward: str) -> jax.Array:
    """What each token is paid, float32 `[B, T]`: `Rex + αA^μ` of its step (Eq. 5)."""
    outcome = outcome_to_go(batch)
    if reward == "outcome":
        return outcome
    # The batch carries the process reward, αA^μ.
    both = effective_reward(outcome, own_progress(batch), 1.0)
    if reward != "matched":
        return both
    spread, wanted = _spread(outcome, batch["mask"]), _spread(both, batch["mask"])
    return outcome * jnp.where(spread > 0, wanted / jnp.maximum(spread, 1e-6), 1.0)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def _spread(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Standard deviation over the tokens of the mask, float32 scalar."""
    centred = values - _mean(values, mask)
    return jnp.sqrt(_mean(jnp.square(centred), mask))


def group_advantages(batch: Batch, rewards: jax.Array, *, group: int) -> jax.Array:
    """Rewards less the mean outcome of a problem's responses, over its spread (GRPO).

    Args:
      batch: B responses, `group` to a problem side by side.
      rewards: `effective_rewards`, `[B, T]`.
      group: responses to a problem.

    Returns:
      Float32 `[B, T]`. Only the outcome is centred and divided: progress has its own
      baseline, the value of the state before.
    """
    outcome = jnp.sum(batch["outcome"], axis=1).reshape(-1, group)
    mean = jnp.mean(outcome, axis=1, keepdims=True)
    spread = jnp.std(outcome, axis=1, keepdims=True)
    relative = ((outcome - mean) / (spread + 1e-4)).reshape(-1, 1)
    return (relative + rewards - outcome_to_go(batch)) * batch["mask"]


# The networks. What is said of the token at t is read at t - 1.


def response_log_probs(
    params: Params, batch: Batch, *, architecture: TransformerConfig
) -> jax.Array:
    """Float32 log-probability of each token given those before, `[B, T]`; 0 first."""
    tokens = batch["tokens"]
    hidden = forward.hidden_states(params, tokens, architecture=architecture)
    log_probs = forward.token_log_probs(
        params, hidden[:, :-1], tokens[:, 1:], architecture=architecture
    )
    return jnp.pad(log_probs, ((0, 0), (1, 0)))


class ValueHead(nn.Module):
    """The reward expected at a token, from one final hidden state; zero at first."""

    @nn.compact
    def __call__(self, hidden: jax.Array) -> jax.Array:
        """Float32 `[...]`, of `[..., D]`."""
        zeros = nn.initializers.zeros
        weight = self.param("w", zeros, (hidden.shape[-1],))
        bias = self.param("b", zeros, ())
        hidden = hidden.astype(jnp.float32)
        return jnp.einsum("...d,d->...", hidden, weight) + bias


def init_value(network: Params, architecture: TransformerConfig) -> Params:
    """A value baseline that starts from a policy's weights; zero everywhere."""
    hidden = jnp.zeros((1, architecture.embed_dim))
    head = ValueHead().init(jax.random.key(0), hidden)
    return {"network": jax.tree.map(jnp.copy, network), "head": head["params"]}


def token_values(
    params: Params, batch: Batch, *, architecture: TransformerConfig
) -> jax.Array:
    """The reward expected at each token before it is drawn, float32 `[B, T]`."""
    hidden = forward.hidden_states(
        params["network"], batch["tokens"], architecture=architecture
    )
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
    """A float32 scalar whose gradient is that of REINFORCE, summed over tokens.

    The mean is over responses and not over tokens, as in Eq. 4: dividing each
    response by its length would favour long wrong ones. The KL term is half the
    squared log-ratio: its gradient is in expectation that of `KL(π || π_0)` at the
    states visited, which that of other estimators of the KL is not.

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
    """What a checkpoint holds; keys and problems are functions of `step`.

    Attributes:
      step: int32 scalar, iterations done.
      policy: the policy's parameters.
      policy_opt: its optimizer's state.
      value: the baseline's parameters; None without one.
      value_opt: its optimizer's state.
      verifier: as refreshed; None where it is frozen, and no part of a checkpoint.
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
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    *,
    architecture: TransformerConfig,
    verifier: Params | None = None,
) -> RLState:
    """The state before the first iteration; copies what it is given."""

    def init(policy: Params, verifier: Params | None) -> RLState:
        state = new_state(policy, objective, optimizers, architecture=architecture)
        return dataclasses.replace(state, verifier=jax.tree.map(jnp.copy, verifier))

    given = (policy, verifier if objective.refresh_every else None)
    # Placed as an update leaves it, so that the second one is not compiled anew.
    where = sharding.shardings(jax.eval_shape(init, *given), sharding.TRAIN)
    return jax.jit(init, out_shardings=where)(*given)


def new_state(
    policy: Params,
    objective: Objective,
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    *,
    architecture: TransformerConfig,
) -> RLState:
    """As `init_state`, wherever `policy` is."""
    value = init_value(policy, architecture) if objective.baseline == "value" else None
    return RLState(
        step=jnp.zeros((), jnp.int32),
        policy=jax.tree.map(jnp.copy, policy),
        policy_opt=optimizers[0].init(policy),
        value=value,
        value_opt=None if value is None else optimizers[1].init(value),
    )


def make_update(
    objective: Objective,
    optimizers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    *,
    architecture: TransformerConfig,
    group: int,
) -> Callable[[RLState, Params, Batch], tuple[RLState, dict[str, jax.Array]]]:
    """A jitted update; the state passed in is donated.

    Args:
      objective: what the policy is trained on.
      optimizers: of the policy and of the value baseline.
      architecture: the architecture of both.
      group: responses to a problem, side by side in a batch.

    Returns:
      `update(state, reference, batch) -> (state, metrics)`, where `reference` is the
      initial policy, and metrics are float32 scalars: `loss`; `grad_norm`; `kl` to the
      initial policy and `entropy`, nats a token, estimated from the sampled tokens;
      `log_prob_gap`, the largest difference between the sampler's log-probabilities
      and these; `reward`, `outcome` and `progress`, means over tokens; and with a value
      baseline its squared error `value_error` and `value_explained`, the share of the
      rewards' variance that it accounts for.
    """

    def update(state: RLState, reference: Params, batch: Batch):
        batch = sharding.constrain_batch(batch)
        mask = batch["mask"]
        rewards = effective_rewards(batch, reward=objective.reward)
        metrics: dict[str, jax.Array] = {}
        value, value_opt = state.value, state.value_opt
        if objective.baseline == "value":

            def value_loss(params):
                values = token_values(params, batch, architecture=architecture)
                return _mean(jnp.square(values - rewards), mask), values

            (error, values), grads = jax.value_and_grad(value_loss, has_aux=True)(value)
            updates, value_opt = optimizers[1].update(grads, value_opt, value)
            value = optax.apply_updates(value, updates)
            advantages = rewards - values
            variance = jnp.square(_spread(rewards, mask))
            metrics |= {
                "value_error": error,
                "value_explained": 1.0 - error / jnp.maximum(variance, 1e-6),
            }
        else:
            advantages = group_advantages(batch, rewards, group=group)

        initial = response_log_probs(reference, batch, architecture=architecture)

        def loss(params):
            log_probs = response_log_probs(params, batch, architecture=architecture)
            out = policy_loss(log_probs, initial, advantages, mask, kl=objective.kl)
            return out, log_probs

        (total, log_probs), grads = jax.value_and_grad(loss, has_aux=True)(state.policy)
        updates, policy_opt = optimizers[0].update(
            grads, state.policy_opt, state.policy
        )
        policy = optax.apply_updates(state.policy, updates)
        metrics |= {
            "loss": total,
            "grad_norm": optax.tree.norm(grads),
            # Not `expm1(ratio) - ratio`, which is as unbiased and never negative: once
            # a policy has unlearnt what the initial one did, one rare token is e^ratio.
            "kl": _mean(log_probs - initial, mask),
            "entropy": -_mean(log_probs, mask),
            "log_prob_gap": jnp.max(jnp.abs(log_probs - batch["sampled"]) * mask),
            "reward": _mean(rewards, mask),
            "outcome": _mean(outcome_to_go(batch), mask),
            "progress": _mean(own_progress(batch), mask),
            "advantage_spread": _spread(advantages, mask),
        }
        state = RLState(
            state.step + 1, policy, policy_opt, value, value_opt, state.verifier
        )
        return sharding.constrain_params(state, sharding.TRAIN), metrics

    return jax.jit(update, donate_argnums=0)
