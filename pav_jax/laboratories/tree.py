"""Beam search on a tree whose values are known exactly, scored with errors (Sec. 4.1).

Each step adds an independent standard normal draw to a sum, and a response of H steps
is right if the sum ends above zero. The chance of that is the value of a prefix,

    Q(sum after h steps) = Φ(sum / sqrt(H - h)),

a martingale, whatever step comes next being drawn at random. The search sees an
estimate of it. A kind of error is a rule for how the estimate errs (`ERRORS`):

    none          it is exact
    independent   a normal error on the logit, new at each prefix, of deviation `size`
    persistent    as that, but of a random walk along the response, so that a prefix
                  hands its error down; at the last step as large as the independent one
    rare          each step is with probability `size` one from which on the estimate
                  is at least `level`, whatever the value is

To that comes, where `noise` is not zero, an independent error of the logit. A logit is
that of a value within [0.01, 0.99], so that it is finite.
"""

import functools

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from ml_collections import ConfigDict

from pav_jax import prover

ERRORS = ("none", "independent", "persistent", "rare")
_CLIP = 0.01


def value(total: jax.Array, left: float | jax.Array) -> jax.Array:
    """The exact value of prefixes, elementwise.

    Args:
      total: the sum so far.
      left: scalar, the steps to come; at 0 the value is the outcome.
    """
    return ndtr(total / jnp.sqrt(left))


def root_totals(roots: jax.Array, steps: int) -> jax.Array:
    """The sums to start from, so that the roots have the values `roots`."""
    return ndtri(roots) * steps**0.5


def estimate(
    exact: jax.Array, error: jax.Array, over_rated: jax.Array, *, config: ConfigDict
) -> jax.Array:
    """The estimate of values, elementwise.

    Args:
      exact: the values.
      error: of the logit.
      over_rated: bool, whether a prefix is below a rare over-rated step.
      config: `error`, `level`, `noise`.
    """
    q = exact
    if config.error == "rare":
        q = jnp.where(over_rated, jnp.maximum(exact, config.level), exact)
        if not config.noise:
            return q
    clipped = q.clip(_CLIP, 1 - _CLIP)
    return jax.nn.sigmoid(jnp.log(clipped / (1 - clipped)) + error)


@functools.partial(jax.jit, static_argnames=("beams", "config"))
def search(
    key: jax.Array,
    roots: jax.Array,
    alpha: jax.Array,
    k: jax.Array,
    size: jax.Array,
    *,
    beams: int,
    config: ConfigDict,
) -> tuple[jax.Array, jax.Array]:
    """Beam search by `Q^π + αA^μ` with μ = BoK(π), on the estimates.

    The draws depend on the key alone, so searches of one key differ by what they
    select.

    Args:
      roots: the problems' values, float32 `[P]`.
      alpha: scalar, the weight of progress.
      k: scalar, K of the prover.
      size: scalar, how large or how frequent errors are.
      beams: N.
      config: frozen; `steps` (H), `candidates` (C, of each beam), `error`, `level`,
        `noise`; `ties`, whether candidates of equal reward are kept by their "order"
        or at "random".

    Returns:
      Whether the response with the highest estimate is right, and whether any of the
      last N is (Pass@N); bool `[P]` each.
    """
    count, steps = len(roots), config.steps
    wide = (count, beams * config.candidates)
    scale = {"independent": 1.0, "persistent": steps**-0.5}.get(config.error, 0.0)

    def spread(array):
        return jnp.repeat(array, config.candidates, axis=1)

    def step(carry, h):
        total, lasting, over_rated, q = carry
        move, new, rare, fresh, tie = jax.random.split(jax.random.fold_in(key, h), 5)
        total = spread(total) + jax.random.normal(move, wide)
        error = size * scale * jax.random.normal(new, wide)
        if config.error == "persistent":
            error = lasting = spread(lasting) + error
        else:
            lasting = spread(lasting)
        if config.noise:
            error = error + config.noise * jax.random.normal(fresh, wide)
        over_rated = spread(over_rated) | (jax.random.uniform(rare, wide) < size)
        exact = value(total, steps - 1.0 - h)
        after = estimate(exact, error, over_rated, config=config)
        progress = prover.advantages(
            prover.best_of_k(after, k), prover.best_of_k(spread(q), k)
        )
        reward = prover.effective_reward(after, progress, alpha)
        if config.ties == "random":
            reward = reward + 1e-5 * jax.random.uniform(tie, wide)
        _, kept = jax.lax.top_k(reward, beams)
        carry = (total, lasting, over_rated, after)
        return [jnp.take_along_axis(array, kept, axis=1) for array in carry], None

    total = jnp.broadcast_to(root_totals(roots, steps)[:, None], (count, beams))
    error, over_rated = jnp.zeros_like(total), jnp.zeros(total.shape, bool)
    q = estimate(value(total, steps), error, over_rated, config=config)
    (total, _, _, q), _ = jax.lax.scan(
        step, [total, error, over_rated, q], jnp.arange(steps)
    )
    right = total > 0
    picked = jnp.argmax(q, axis=1)[:, None]
    return jnp.take_along_axis(right, picked, axis=1)[:, 0], right.any(axis=1)
