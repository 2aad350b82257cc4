"""One optimizer step, as a pure function of state and batch."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pav_jax.core.errors import UserError
from pav_jax.core.types import Batch
from pav_jax.distributed import sharding

# (params, batch) -> (scalar float32 loss, float32 scalars to log)
Loss = Callable[[Any, Batch], tuple[jax.Array, dict[str, jax.Array]]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a checkpoint holds; the batch of a step is a function of `step`.

    Attributes:
      step: int32 scalar, optimizer steps done.
      params: the parameters.
      opt_state: the optimizer's state.
    """

    step: jax.Array
    params: Any
    opt_state: optax.OptState


def make_optimizer(config: Any) -> optax.GradientTransformation:
    """Adam with linear warm-up, cosine decay and clipping (App. C, D, E).

    Args:
      config: has `steps`, `warmup_steps`, `learning_rate` (the peak),
        `final_learning_rate` (as a fraction of the peak), `weight_decay` and
        `clip_norm`.

    Raises:
      UserError: the warm-up is as long as the training, or longer.
    """
    if config.warmup_steps >= config.steps:
        raise UserError(
            f"warmup_steps={config.warmup_steps} must be fewer than"
            f" steps={config.steps}"
        )
    schedule = optax.warmup_cosine_decay_schedule(
        0.0,
        config.learning_rate,
        config.warmup_steps,
        config.steps,
        config.learning_rate * config.final_learning_rate,
    )
    adam = optax.adamw(schedule, b2=0.98, weight_decay=config.weight_decay)
    return optax.chain(_clip(config.clip_norm), _in_float32(adam))


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner` with state and updates in float32, for parameters of any dtype.

    A step moves the second moment by 1/50 of its distance to the squared gradient
    (`b2 = 0.98`). In bfloat16, which has 8 bits, such a small change rounds to none
    while the moment is still a tenth away.
    """

    def init(params: Any) -> optax.OptState:
        return inner.init(optax.tree.cast(params, jnp.float32))

    def update(grads: Any, state: optax.OptState, params: Any) -> tuple[Any, Any]:
        grads, params = optax.tree.cast((grads, params), jnp.float32)
        return inner.update(grads, state, params)

    return optax.GradientTransformation(init, update)


def _clip(most: float) -> optax.GradientTransformation:
    """Scales gradients down to norm `most` if theirs is larger.

    It multiplies by one factor, which XLA fuses into the update. Optax's own clipping
    divides, and XLA then keeps the quotient: a second copy of all gradients.
    """

    def update(grads: Any, _: Any) -> Any:
        factor = jnp.minimum(1.0, most / optax.tree.norm(grads))
        return jax.tree.map(lambda g: (g * factor).astype(g.dtype), grads)

    return optax.stateless(update)


def moved_share(params: Any, learning_rate: float) -> float | None:
    """The share of bfloat16 parameters that a step of the learning rate's size changes.

    That is the size of Adam's steps while gradients have one sign, and most are
    smaller. Parameters are rounded after each step, so one that moves by less than half
    of the distance to the next bfloat16 number, 1/512 to 1/256 of itself, stays where
    it is, however many steps there are. None if no parameter is bfloat16.
    """
    leaves = [x for x in jax.tree.leaves(params) if x.dtype == jnp.bfloat16]
    if not leaves:
        return None

    def moved(leaf: jax.Array) -> jax.Array:
        before = leaf.astype(jnp.float32)
        # A cast there and back may be left out by XLA.
        after = jax.lax.reduce_precision(before + learning_rate, 8, 7)
        return jnp.mean(after != before, dtype=jnp.float32)

    shares = jax.device_get(jax.jit(lambda x: [moved(leaf) for leaf in x])(leaves))
    count = sum(leaf.size for leaf in leaves)
    moves = (s * x.size for s, x in zip(shares, leaves, strict=True))
    return float(sum(moves)) / count


def init_state(params: Any, optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, on the mesh or on the first device.

    `params` are donated.
    """

    def init(params: Any) -> TrainState:
        return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    params = sharding.place(params, sharding.TRAIN)
    # Placed as a step leaves it, so that the second step is not compiled again.
    where = sharding.shardings(jax.eval_shape(init, params), sharding.TRAIN)
    return jax.jit(init, out_shardings=where, donate_argnums=0)(params)


def make_train_step(
    loss: Loss, optimizer: optax.GradientTransformation
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """A jitted step; the state passed in is donated.

    Returns:
      `step(state, batch) -> (state, metrics)`, with float32 scalar metrics:
      what the loss logs, `loss`, and `grad_norm` before clipping.
    """

    def step(state: TrainState, batch: Batch):
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(
            state.params, sharding.constrain_batch(batch)
        )
        grads = sharding.constrain_params(grads, sharding.TRAIN)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = metrics | {"loss": value, "grad_norm": optax.tree.norm(grads)}
        state = TrainState(state.step + 1, params, opt_state)
        return sharding.constrain_params(state, sharding.TRAIN), metrics

    return jax.jit(step, donate_argnums=0)
