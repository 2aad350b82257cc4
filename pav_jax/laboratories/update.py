"""One update of a policy on a tree whose values are known exactly (Theorem 3.1).

A response is a path of H steps through a complete tree, of B steps from each state.
Some steps are wrong, at least one from each state is not, and a response is right if
none of its steps is wrong. A policy is a table of logits, so its values, those of any
prover and the policy gradient are exact, by dynamic programming.

Arrays are lists with one for each depth h, from the root: of states `[B^h]`, of the
steps from them `[B^h, B]`. All is float32.
"""

import functools

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from pav_jax import prover

RULES = ("natural", "gradient", "adam")
Steps = list[jax.Array]


def draw_right(key: jax.Array, *, config: ConfigDict) -> Steps:
    """Which steps are right, and all before them: 1 or 0, `[B^h, B]`.

    Args:
      config: `steps` (H), `branching` (B), `wrong`, the chance that a step is wrong.
    """
    right, so_far = [], jnp.ones(1)
    for u in _draw(jax.random.uniform, key, config):
        steps = (u >= config.wrong) | (u == u.max(axis=1, keepdims=True))
        right.append(so_far[:, None] * steps)
        so_far = right[-1].ravel()
    return right


def draw_logits(key: jax.Array, *, config: ConfigDict) -> Steps:
    """A policy: normal logits of deviation `config.spread`, `[B^h, B]`."""
    return [config.spread * z for z in _draw(jax.random.normal, key, config)]


def _draw(draw, key: jax.Array, config: ConfigDict) -> Steps:
    keys = jax.random.split(key, config.steps)
    b = config.branching
    return [draw(key, (b**h, b)) for h, key in enumerate(keys)]


def tilted(logits: Steps, right: Steps, weight: float | jax.Array) -> Steps:
    """A policy that likes right steps more, by `weight` of their logits."""
    return [x + weight * r for x, r in zip(logits, right, strict=True)]


def values(logits: Steps, right: Steps) -> Steps:
    """`Q(s, a)`, the chance that the response is right: `[B^h, B]`."""
    after = jnp.ones(right[-1].size)  # the values of the states after a step
    q: Steps = []
    for x, r in zip(reversed(logits), reversed(right), strict=True):
        q.insert(0, after.reshape(r.shape) * r)
        after = (jax.nn.softmax(x) * q[0]).sum(axis=1)
    return q


def accuracy(logits: Steps, right: Steps) -> jax.Array:
    """The chance that a response of the policy is right; a scalar."""
    return (jax.nn.softmax(logits[0]) * values(logits, right)[0]).sum()


def visits(logits: Steps) -> Steps:
    """How often the policy comes to each state: `[B^h]`, of sum 1 at each depth."""
    found = [jnp.ones(1)]
    for x in logits[:-1]:
        found.append((found[-1][:, None] * jax.nn.softmax(x)).ravel())
    return found


def terms(logits: Steps, q: Steps, q_mu: Steps) -> tuple[jax.Array, jax.Array]:
    """Distinguishability and alignment (Theorem 3.1), means over the visited states.

    Args:
      logits: of π.
      q: `Q^π`.
      q_mu: `Q^μ`.

    Returns:
      Two scalars. With `q` for `q_mu` both are the mean variance of `A^π`.
    """
    pairs = [
        (d @ _covariance(x, m, m), d @ _covariance(x, v, m))
        for d, x, v, m in zip(visits(logits), logits, q, q_mu, strict=True)
    ]
    apart, aligned = jnp.asarray(pairs).mean(axis=0)
    return apart, aligned


def _covariance(logits: jax.Array, one: jax.Array, other: jax.Array) -> jax.Array:
    """Over the steps from each state, `[B^h]`."""
    p = jax.nn.softmax(logits)
    return (p * _centred(p, one) * other).sum(axis=1)


def _centred(p: jax.Array, value: jax.Array) -> jax.Array:
    return value - (p * value).sum(axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnames=("rule", "updates"))
def improved(
    logits: Steps,
    right: Steps,
    q_mu: Steps,
    alpha: float | jax.Array,
    size: float | jax.Array,
    *,
    rule: str,
    updates: int,
) -> jax.Array:
    """The accuracy after updates by the advantages `A^π + αA^μ` (Eq. 5).

    `Q^π` is that of the policy as it is at each update; the prover stays.

    Args:
      logits: of π before.
      right: which steps are.
      q_mu: `Q^μ`.
      alpha: scalar, the weight of progress; 0 is by outcomes alone.
      size: scalar, the learning rate.
      rule: "natural", the natural policy gradient, which adds `size` times the
        advantages to the logits; "gradient", the policy gradient; "adam", the policy
        gradient through Adam.
      updates: how many.

    Returns:
      A scalar.
    """
    optimizer = optax.adam(size) if rule == "adam" else optax.sgd(size)

    def update(_, carry):
        logits, state = carry
        rewards = [
            prover.effective_reward(v, m, alpha)
            for v, m in zip(values(logits, right), q_mu, strict=True)
        ]
        probabilities = [jax.nn.softmax(x) for x in logits]
        step = [
            _centred(p, reward)
            for p, reward in zip(probabilities, rewards, strict=True)
        ]
        if rule != "natural":
            step = [
                d[:, None] * p * a
                for d, p, a in zip(visits(logits), probabilities, step, strict=True)
            ]
        change, state = optimizer.update([-x for x in step], state)
        return optax.apply_updates(logits, change), state

    start = logits, optimizer.init(logits)
    return accuracy(jax.lax.fori_loop(0, updates, update, start)[0], right)
