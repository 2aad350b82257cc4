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
that of a value within [1e-6, 1 - 1e-6], so that it is finite.
"""

import functools

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr, ndtri
from ml_collections import ConfigDict

from pav_jax import prover

ERRORS = ("none", "independent", "persistent", "rare")
_CLIP = 1e-6


def value(total: jax.Array, left: float | jax.Array) -> jax.Array:
    """The exact value of prefixes, elementwise.

    Args:
      total: the sum so far.
      left: scalar, the steps to come; at 0 the value is the outcome.
    """
    return ndtr(total / jnp.sqrt(left))


def draw_roots(key: jax.Array, problems: int, bounds: tuple[float, float]) -> jax.Array:
    """Values of bare problems, log-uniform between two; float32 `[P]`."""
    lowest, highest = jnp.log(jnp.asarray(bounds))
    return jnp.exp(jax.random.uniform(key, (problems,), minval=lowest, maxval=highest))


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
    if config.error in ("none", "rare") and not config.noise:
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
    steps = config.steps

    def step(beam, h):
        candidates, tie = _candidates(
            beam,
            jax.random.fold_in(key, h),
            size,
            steps - 1.0 - h,
            each=config.candidates,
            config=config,
        )
        before = jnp.repeat(beam[-1], config.candidates, axis=1)
        after = candidates[-1]
        progress = prover.advantages(
            prover.best_of_k(after, k), prover.best_of_k(before, k)
        )
        reward = prover.effective_reward(after, progress, alpha)
        if config.ties == "random":
            reward = reward + 1e-5 * jax.random.uniform(tie, reward.shape)
        _, kept = jax.lax.top_k(reward, beams)
        return [jnp.take_along_axis(a, kept, axis=1) for a in candidates], None

    start = _start(roots, beams, config=config)
    (total, _, _, q), _ = jax.lax.scan(step, start, jnp.arange(steps))
    right = total > 0
    picked = jnp.argmax(q, axis=1)[:, None]
    return jnp.take_along_axis(right, picked, axis=1)[:, 0], right.any(axis=1)


@functools.partial(jax.jit, static_argnames=("responses", "config"))
def sample(
    key: jax.Array,
    roots: jax.Array,
    size: jax.Array,
    *,
    responses: int,
    config: ConfigDict,
) -> tuple[jax.Array, jax.Array]:
    """I.i.d. responses with their values, and of each prefix a sibling.

    Args:
      roots: the problems' values, float32 `[P]`.
      size: scalar, how large or how frequent errors are.
      responses: M, of each problem.
      config: as of `search`, but for `candidates` and `ties`.

    Returns:
      Exact values and estimates after each step, float32 `[H, P, M, 2]` each: of the
      response's prefix, then of a sibling, another step from the same parent.
    """

    def step(prefixes, h):
        pairs, _ = _candidates(
            prefixes,
            jax.random.fold_in(key, h),
            size,
            config.steps - 1.0 - h,
            each=2,
            config=config,
        )
        total, *_, q = pairs = [a.reshape(len(roots), responses, 2) for a in pairs]
        exact = value(total, config.steps - 1.0 - h)
        return [a[..., 0] for a in pairs], (exact, q)

    start = _start(roots, responses, config=config)
    return jax.lax.scan(step, start, jnp.arange(config.steps))[1]


def _start(roots: jax.Array, count: int, *, config: ConfigDict) -> list[jax.Array]:
    """The bare prompt so often, as `_candidates` takes it."""
    total = root_totals(roots, config.steps)[:, None]
    total = jnp.broadcast_to(total, (len(roots), count))
    error, over_rated = jnp.zeros_like(total), jnp.zeros(total.shape, bool)
    q = estimate(value(total, config.steps), error, over_rated, config=config)
    return [total, error, over_rated, q]


def _candidates(
    beam: list[jax.Array],
    key: jax.Array,
    size: jax.Array,
    left: jax.Array,
    *,
    each: int,
    config: ConfigDict,
) -> tuple[list[jax.Array], jax.Array]:
    """The next steps of a beam, and a key to break ties by.

    Args:
      beam: of each prefix the sum, the error that persists, whether it is over-rated,
        and the estimate, `[P, N]` each.
      left: scalar, the steps to come after these.
      each: C, candidates of a prefix.

    Returns:
      The same of each candidate, `[P, N * C]` each; and the key.
    """
    total, lasting, over_rated, _ = (jnp.repeat(array, each, axis=1) for array in beam)
    move, new, rare, fresh, tie = jax.random.split(key, 5)
    scale = {"independent": 1.0, "persistent": config.steps**-0.5}
    total = total + jax.random.normal(move, total.shape)
    drawn = jax.random.normal(new, total.shape)
    error = size * scale.get(config.error, 0.0) * drawn
    if config.error == "persistent":
        error = lasting = lasting + error
    if config.noise:
        error = error + config.noise * jax.random.normal(fresh, total.shape)
    over_rated = over_rated | (jax.random.uniform(rare, total.shape) < size)
    after = estimate(value(total, left), error, over_rated, config=config)
    return [total, lasting, over_rated, after], tie
