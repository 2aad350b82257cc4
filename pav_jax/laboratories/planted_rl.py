"""Policies for the planted task, and RL of them as one compiled function.

A run is SFT on responses of `μ_5` and then RL by the gradient of Eq. 4, where the
outcome stands for `Q^π` unless the exact value is asked for. All iterations are one
`lax.scan`; seeds are a `vmap`. The shapes are those of `planted`: B responses of T
tokens from a vocabulary of V.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from flax import linen as nn
from ml_collections import ConfigDict

from pav_jax import prover
from pav_jax.laboratories import planted
from pav_jax.laboratories.planted import Task

Params = Any
Choose = Callable[[jax.Array, jax.Array], jax.Array]


class Made(nn.Module):
    """An autoregressive MLP in the manner of MADE: masked layers, one pass.

    Each layer has `units` hidden units for each position, T * `units` in all; those of
    a position depend on the tokens before it, through units of positions up to it.
    What the mask of MADE takes away is here not yet computed, hence zero. So to sample
    T tokens costs what it costs to score them.
    """

    task: Task
    units: int = 13  # a position's, so that a layer has 130: the paper's are 128 wide
    layers: int = 3

    @nn.compact
    def __call__(
        self, batch: int, choose: Choose, given: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Tokens int32 `[B, T]` and their log-probabilities `[B, T]`.

        Args:
          batch: B.
          choose: of logits `[B, V]` and a position's entry of `given`, tokens `[B]`.
          given: an entry for each position.
        """
        length, vocabulary, units = self.task.length, self.task.vocabulary, self.units
        width = length * units
        dense = nn.initializers.variance_scaling(
            1.0, "fan_in", "normal", in_axis=1, batch_axis=(0,)
        )
        # Dense layers, laid out by the position of their outputs; the first, which
        # reads T one-hot tokens, by the position of its inputs.
        first = self.param(
            "first", nn.initializers.normal(length**-0.5), (length, vocabulary, width)
        )
        shape = (length, width, units)
        inner = [self.param(f"inner_{i}", dense, shape) for i in range(self.layers - 1)]
        last = self.param("last", dense, (length, width, vocabulary))
        zeros = nn.initializers.zeros
        biases = self.param("biases", zeros, (length, self.layers, units))
        last_bias = self.param("last_bias", zeros, (length, vocabulary))

        def step(carry, here):
            read, hidden = carry
            t, entry, first, inner, last, biases, last_bias = here
            fresh = read[:, t]
            for i in range(self.layers):
                if i:
                    fresh = hidden[i - 1].reshape(batch, width) @ inner[i - 1]
                fresh = jax.nn.relu(fresh + biases[i][None])
                hidden[i] = hidden[i].at[:, t].set(fresh)
            logits = hidden[-1].reshape(batch, width) @ last + last_bias[None]
            token = choose(logits, entry)
            read = read + first[token].reshape(read.shape)
            return (read, hidden), (token, _log_prob(logits, token))

        empty = jnp.zeros((batch, length, units))
        positions = jnp.arange(length)
        here = (positions, given, first, inner, last, biases, last_bias)
        _, (tokens, log_probs) = jax.lax.scan(
            step, (empty, [empty] * self.layers), here
        )
        return tokens.T, log_probs.T


class Table(nn.Module):
    """Free logits for each position and state of the automaton."""

    task: Task

    @nn.compact
    def __call__(
        self, batch: int, choose: Choose, given: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """As `Made`."""
        task, table = self.task, jnp.asarray(planted.transitions(self.task))
        shape = (task.length, len(table), task.vocabulary)
        logits = self.param("logits", nn.initializers.zeros, shape)

        def step(state, here):
            entry, logits = here
            logits = logits[state]
            token = choose(logits, entry)
            return table[state, token], (token, _log_prob(logits, token))

        start = jnp.zeros(batch, jnp.int32)
        _, (tokens, log_probs) = jax.lax.scan(step, start, (given, logits))
        return tokens.T, log_probs.T


def _log_prob(logits: jax.Array, token: jax.Array) -> jax.Array:
    chosen = jnp.take_along_axis(logits, token[:, None], axis=1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=1)


def sample(
    policy: nn.Module, params: Params, key: jax.Array, batch: int
) -> tuple[jax.Array, jax.Array]:
    """Responses `[B, T]` of a policy and the log-probabilities of their tokens."""
    keys = jax.random.split(key, policy.task.length)
    return policy.apply(params, batch, _draw, keys)


def _draw(logits: jax.Array, key: jax.Array) -> jax.Array:
    return jax.random.categorical(key, logits)


def log_probs(policy: nn.Module, params: Params, tokens: jax.Array) -> jax.Array:
    """Log-probabilities of given tokens, `[B, T]`."""
    return policy.apply(params, len(tokens), lambda _, token: token, tokens.T)[1]


def policy_loss(
    policy: nn.Module,
    params: Params,
    key: jax.Array,
    progress: tuple[jax.Array, jax.Array],
    alpha: jax.Array,
    *,
    config: ConfigDict,
) -> tuple[jax.Array, jax.Array]:
    """A loss whose gradient is that of Eq. 4, estimated from a batch of responses.

    `Σ_h ∇log π(a_h|s_h) · (Q^π(s_h, a_h) + αA^μ(s_h, a_h))`, its mean over responses.

    Args:
      progress: the prover's values `[T + 1, S]`, and what `estimate` needs of them.
      alpha: scalar; 0 is the outcome alone.
      config: `batch_size`; `n_mc`, of the estimate of `Q^μ`, or 0 for exact values;
        `exact_q`, of a `Table`: whether `Q^π` is exact, in place of the outcome;
        `train_end`.

    Returns:
      The loss, and the fraction of responses that are right.
    """
    choice_key, value_key = jax.random.split(key)
    tokens, given = sample(policy, params, choice_key, config.batch_size)
    states = planted.states(policy.task, tokens)
    right = (states[:, -1] == policy.task.done).astype(jnp.float32)
    if config.exact_q:
        probabilities = jax.nn.softmax(params["params"]["logits"])
        exact = planted.values(policy.task, probabilities)
        q = exact[jnp.arange(1, policy.task.length + 1)[None], states[:, 1:]]
    else:
        q = jnp.broadcast_to(right[:, None], given.shape)
    at_prefixes = estimate(value_key, states, progress, n_mc=config.n_mc)
    rewards = prover.effective_reward(q, prover.advantages(at_prefixes), alpha)
    rewards = jax.lax.stop_gradient(rewards)
    mask = planted.trained(policy.task, tokens, with_end=config.train_end)
    return -(rewards * given * mask).sum(axis=1).mean(), right.mean()


def estimate(
    key: jax.Array,
    states: jax.Array,
    progress: tuple[jax.Array, jax.Array],
    *,
    n_mc: int,
) -> jax.Array:
    """`Q^μ` of every prefix, `[B, T + 1]`: exact, or from `n_mc` continuations.

    The number of continuations that are right is binomial, so it is drawn without
    them.

    Args:
      states: int32 `[B, T + 1]`.
      progress: exact values `[T + 1, S]`; and of the number that are right, the
        chance that it is at most 0, 1, ... `[T + 1, S, n_mc]`.
    """
    exact, at_most = progress
    place = jnp.arange(states.shape[1])[None]
    if not n_mc:
        return exact[place, states]
    uniform = jax.random.uniform(key, (*states.shape, 1))
    return (uniform > at_most[place, states]).mean(axis=2)


def progress_of(
    task: Task, gamma: float, *, after: str, n_mc: int
) -> tuple[np.ndarray, np.ndarray]:
    """What `estimate` needs of the prover `μ_γ`."""
    exact = np.asarray(planted.prover_values(task, gamma, after=after), np.float64)
    exact = exact.clip(0.0, 1.0)
    at_most = scipy.stats.binom.cdf(np.arange(n_mc), n_mc, exact[..., None])
    return exact.astype(np.float32), at_most.astype(np.float32)


def _optimizer(name: str, learning_rate: float) -> optax.GradientTransformation:
    return {"adam": optax.adam, "sgd": optax.sgd}[name](learning_rate)


def _sft(
    policy: nn.Module, params: Params, key: jax.Array, *, config: ConfigDict
) -> Params:
    """Params after SFT: `sft_steps` batches of fresh responses of `μ_γ`."""
    prover_of = planted.prover(policy.task, config.sft_gamma, after=config.sft_after)
    optimizer = optax.adam(config.sft_learning_rate)

    def loss(params, key):
        tokens = planted.sample_prover(policy.task, prover_of, key, config.batch_size)
        mask = planted.trained(policy.task, tokens, with_end=config.train_end)
        return -(log_probs(policy, params, tokens) * mask).sum() / mask.sum()

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(key, config.sft_steps)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


def _initial(policy: nn.Module, key: jax.Array, *, config: ConfigDict) -> Params:
    """The base policy: a network after SFT, or a table that is `μ_γ` itself."""
    init_key, sft_key = jax.random.split(key)
    no_tokens = jnp.zeros((policy.task.length, 1), jnp.int32)
    params = policy.init(init_key, 1, lambda _, token: token, no_tokens)
    if not config.tabular:
        return _sft(policy, params, sft_key, config=config)
    base = planted.prover(policy.task, config.sft_gamma, after=config.sft_after)
    logits = jnp.log(jnp.asarray(base, jnp.float32))
    shape = params["params"]["logits"].shape
    return {"params": {"logits": jnp.broadcast_to(logits, shape)}}


@functools.partial(jax.jit, static_argnames=("task", "config"))
def run(
    keys: jax.Array,
    progress: tuple[jax.Array, jax.Array],
    alpha: jax.Array,
    *,
    task: Task,
    config: ConfigDict,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """SFT and RL of several seeds.

    Args:
      keys: a key for each of R seeds.
      progress: of `progress_of`.
      alpha: scalar.
      config: frozen; what `policy_loss` reads, and `tabular`, `sft_after`, `sft_gamma`,
        `sft_steps`, `sft_learning_rate`, `optimizer`, `learning_rate`, `iterations`,
        `measured` (responses in the measurements).

    Returns:
      The fraction that is right in the batch of each iteration, `[R, iterations]`;
      and how many of the `measured` responses are, before RL and after it, `[R]` each.
    """
    policy = Table(task) if config.tabular else Made(task)
    optimizer = _optimizer(config.optimizer, config.learning_rate)
    loss = functools.partial(policy_loss, policy, config=config)

    def measure(params, key):
        tokens, _ = sample(policy, params, key, config.measured)
        return (planted.states(task, tokens)[:, -1] == task.done).sum()

    def step(carry, key):
        params, state = carry
        gradient = jax.grad(loss, has_aux=True)
        updates, right = gradient(params, key, progress, alpha)
        updates, state = optimizer.update(updates, state)
        return (optax.apply_updates(params, updates), state), right

    def one(key):
        first, iterations, before, after = jax.random.split(key, 4)
        params = _initial(policy, first, config=config)
        start = measure(params, before)
        (params, _), right = jax.lax.scan(
            step,
            (params, optimizer.init(params)),
            jax.random.split(iterations, config.iterations),
        )
        return right, start, measure(params, after)

    return jax.vmap(one)(keys)
