"""The paper's didactic task (Sec. 3.3, App. B): write a planted sub-sequence.

A response is T tokens of a vocabulary of V. Token V - 1 ends it, and what follows
counts for nothing. The outcome is 1 if the planted sequence `y*` of M tokens appears
without a gap before the end.

Whether it does is decided by an automaton, whose states are:

    k < M     the last k tokens are the first k of `y*`, for no greater k
    M         `y*` has appeared
    M + 1     the response ended without it

So the value of a state under a prover that sees only the automaton is exact, by
dynamic programming over position and state. Below, S is the M + 2 states.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Task:
    """The task, with the paper's numbers.

    Attributes:
      length: T, tokens of a response.
      vocabulary: V; the last token is the end of a sequence.
      planted: `y*`; it holds no end of a sequence.
    """

    length: int = 10
    vocabulary: int = 15
    planted: tuple[int, ...] = (3, 6, 0, 3, 5)

    @property
    def end(self) -> int:
        """The token that ends a response."""
        return self.vocabulary - 1

    @property
    def done(self) -> int:
        """The state in which `y*` has appeared."""
        return len(self.planted)


def transitions(task: Task) -> np.ndarray:
    """The state after each token from each state, int32 `[S, V]`."""
    planted, done = task.planted, task.done
    table = np.full((done + 2, task.vocabulary), done + 1, np.int32)
    table[done] = done
    for state in range(done):
        for token in range(task.end):
            text = (*planted[:state], token)
            table[state, token] = max(
                k for k in range(len(text) + 1) if text[len(text) - k :] == planted[:k]
            )
    return table


def states(task: Task, tokens: jax.Array) -> jax.Array:
    """The state before the first token and after each, int32 `[B, T + 1]`.

    Args:
      tokens: int32 `[B, T]`.
    """
    table = jnp.asarray(transitions(task))

    def step(state, token):
        state = table[state, token]
        return state, state

    start = jnp.zeros(len(tokens), jnp.int32)
    _, after = jax.lax.scan(step, start, tokens.T)
    return jnp.concatenate([start[:, None], after.T], axis=1)


def trained(task: Task, tokens: jax.Array, *, with_end: bool) -> jax.Array:
    """1 where a token's log-probability is trained on, else 0; float32 `[B, T]`.

    Args:
      tokens: int32 `[B, T]`.
      with_end: whether the token that ends a response is. The paper masks "it and all
        after it".
    """
    ends = (tokens == task.end).astype(jnp.int32)
    ended = jnp.cumsum(ends, axis=1) - (ends if with_end else 0)
    return (ended == 0).astype(jnp.float32)


def prover(task: Task, gamma: float, *, after: str) -> np.ndarray:
    """Probabilities of the next token under `μ_γ`, float64 `[S, V]`.

    Where the last k tokens are the first k of `y*`, its next token has weight γ, and
    every other token weight 1.

    Args:
      gamma: γ, the prover's strength; 1 is uniform.
      after: what follows `y*`: "end", the end of the response with weight γ; or
        "uniform".
    """
    weights = np.ones((task.done + 2, task.vocabulary))
    weights[np.arange(task.done), task.planted] = gamma
    if after == "end":
        weights[task.done, task.end] = gamma
    elif after != "uniform":
        raise ValueError(f"after is {after!r}; it should be 'end' or 'uniform'")
    return weights / weights.sum(axis=1, keepdims=True)


def sample_prover(
    task: Task, probabilities: np.ndarray, key: jax.Array, count: int
) -> jax.Array:
    """Responses of a prover that `prover` gives, int32 `[count, T]`."""
    table, logits = jnp.asarray(transitions(task)), jnp.log(jnp.asarray(probabilities))

    def step(state, key):
        token = jax.random.categorical(key, logits[state])
        return table[state, token], token

    start = jnp.zeros(count, jnp.int32)
    _, tokens = jax.lax.scan(step, start, jax.random.split(key, task.length))
    return tokens.T


def values(task: Task, probabilities: jax.Array) -> jax.Array:
    """The exact value of each state before each token and after the last.

    `Q(s_h, a_h)` is the value at the state and position after `a_h`.

    Args:
      probabilities: of the next token, by position and state, `[T, S, V]`.

    Returns:
      `[T + 1, S]`.
    """
    table = jnp.asarray(transitions(task))
    last = (jnp.arange(task.done + 2) == task.done).astype(probabilities.dtype)

    def back(value, now):
        value = (now * value[table]).sum(axis=1)
        return value, value

    _, before = jax.lax.scan(back, last, probabilities, reverse=True)
    return jnp.concatenate([before, last[None]])


def prover_values(task: Task, gamma: float, *, after: str) -> jax.Array:
    """The exact values of `μ_γ`, float32 `[T + 1, S]`."""
    probabilities = jnp.asarray(prover(task, gamma, after=after), jnp.float32)
    shape = (task.length, *probabilities.shape)
    return values(task, jnp.broadcast_to(probabilities, shape))
