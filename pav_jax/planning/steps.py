"""The step functions of an experiment, with the shapes that its config gives them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from pav_jax import mesh as mesh_lib
from pav_jax import policy, rl, rollout, verifier
from pav_jax.errors import UserError
from pav_jax.gemma import forward, sizes
from pav_jax.gemma.config import TransformerConfig, tiny_gemma2
from pav_jax.mesh import BATCH, DECODE, TRAIN
from pav_jax.train.state import TrainState, make_optimizer, make_train_step

_ALIGNED = 16  # what the engine rounds trunks and suffixes up to


@dataclasses.dataclass(frozen=True)
class Step:
    """A jitted function and what it is called with.

    Attributes:
      function: takes `arguments`, and then `static` by name.
      arguments: trees of shapes with shardings.
      static: its static arguments.
      parts: bytes of each device by what they hold: weights, optimizer, cache, data.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    static: dict[str, Any]
    parts: dict[str, int]


def names(config: ConfigDict) -> list[str]:
    """The step functions that an experiment runs."""
    found = ["sft", "verifier", "decode"]
    return [*found, "rl"] if "rl" in config else found


def architecture(config: ConfigDict) -> TransformerConfig:
    """The architecture, of which no tokenizer is needed."""
    fields = dict(config.model)
    for other in ("checkpoint", "dtype"):
        fields.pop(other, None)
    if "name" in fields:
        return sizes.by_name(fields["name"])
    return tiny_gemma2(config.tokenizer.vocab_size, **fields)


def rows(name: str, config: ConfigDict) -> int:
    """Rows of the batch of a step function: of training, or trunks of the engine."""
    if name == "sft":
        return config.sft.batch_size
    if name == "verifier":
        return config.verifier.prm.batch_size
    if name == "rl":
        return config.rl.training.problems * config.rl.training.samples
    return config.sampling.trunks


def length(config: ConfigDict) -> int:
    """Tokens of a training row: the longest prompt and response."""
    return config.limits.max_prompt_tokens + config.limits.max_tokens


def build(name: str, config: ConfigDict, mesh: jax.sharding.Mesh) -> Step:
    """One of `names(config)`, on a mesh of any devices.

    Raises:
      UserError: the mesh does not divide the batch or a parameter.
    """
    share = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows(name, config) % share:
        what = "sampling.trunks" if name == "decode" else "the batch size"
        raise UserError(
            f"{name}: {what} {rows(name, config)} has to be a multiple of data x fsdp"
            f" = {share}, the devices that share out its rows"
        )
    model = architecture(config)
    dtype = jnp.dtype(config.model.get("dtype", "float32"))
    params = jax.eval_shape(
        functools.partial(forward.init_params, config=model, dtype=dtype),
        jax.random.key(0),
    )
    if name == "decode":
        return _decode(params, config, model, mesh)
    batch = _batch(rows(name, config), length(config), mesh)
    if name == "rl":
        return _rl(params, batch, config, model, mesh)
    if name == "verifier":
        params = jax.eval_shape(
            functools.partial(verifier.init_verifier, config=model),
            jax.random.key(0),
            params,
        )
        loss = functools.partial(
            verifier.verifier_loss,
            config=model,
            language_weight=config.verifier.language_weight,
        )
        optimizer = make_optimizer(config.verifier.prm)
    else:
        loss = functools.partial(policy.sft_loss, config=model)
        optimizer = make_optimizer(config.sft)
    state = jax.eval_shape(
        lambda p: TrainState(jnp.zeros((), jnp.int32), p, optimizer.init(p)), params
    )
    state = _placed(state, TRAIN, mesh)
    parts = {
        "weights": _bytes(state.params),
        "optimizer": _bytes(state.opt_state),
        "data": _bytes(batch),
    }
    return Step(make_train_step(loss, optimizer), (state, batch), {}, parts)


def _rl(params, batch, config, model, mesh) -> Step:
    settings = config.rl.training
    method = next(iter(config.rl.methods.values()))
    objective = rl.Objective(kl=settings.kl, **method)
    optimizers = (make_optimizer(settings), make_optimizer(settings))
    update = rl.make_update(objective, optimizers, config=model, group=settings.samples)
    state = jax.eval_shape(
        lambda p: rl.new_state(p, objective, optimizers, config=model), params
    )
    state, reference = _placed(state, TRAIN, mesh), _placed(params, DECODE, mesh)
    parts = {
        "weights": _bytes((state.policy, state.value, reference)),
        "optimizer": _bytes((state.policy_opt, state.value_opt)),
        "data": _bytes(batch),
    }
    return Step(update, (state, reference, batch), {}, parts)


def _decode(params, config, model, mesh) -> Step:
    """The engine's loop while it labels: trunks hold a prompt and a response."""
    limits, grid = config.limits, config.sampling
    sampling = rollout.SamplingConfig(
        max_tokens=limits.max_tokens,
        end_ids=(1,),
        temperature=config.rollouts.temperature,
        trunks=grid.trunks,
        rows=grid.rows,
    )
    static = dict(config=model, sampling=sampling)
    queue = limits.max_steps * config.labels.n_mc
    empty = functools.partial(
        rollout.empty_grid,
        -(-length(config) // _ALIGNED) * _ALIGNED,
        -(-limits.max_tokens // _ALIGNED) * _ALIGNED,
        queue,
        dtype=params["embed"].dtype,
        **static,
    )
    shapes = jax.eval_shape(empty)
    grid = jax.tree.map(
        lambda leaf, spec: _at(leaf, NamedSharding(mesh, spec)),
        shapes,
        rollout.grid_specs(shapes),
    )
    params = _placed(params, DECODE, mesh)
    patience = jax.ShapeDtypeStruct((), jnp.int32)
    cache = _bytes((grid.trunk, grid.suffix))
    parts = {
        "weights": _bytes(params),
        "cache": cache,
        "data": _bytes(grid) - cache,
    }
    return Step(rollout.run_segment, (params, grid, patience), static, parts)


def _batch(rows: int, length: int, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """What any of the training steps may read."""
    floats = ("mask", "value", "weight", "progress", "outcome", "sampled")
    dtypes = {"tokens": jnp.int32, "step_end": jnp.bool_}
    dtypes |= dict.fromkeys(floats, jnp.float32)
    sharding = NamedSharding(mesh, PartitionSpec(BATCH))
    return {
        name: jax.ShapeDtypeStruct((rows, length), dtype, sharding=sharding)
        for name, dtype in dtypes.items()
    }


def _placed(tree: Any, use: dict[str, str | None], mesh: jax.sharding.Mesh) -> Any:
    return jax.tree.map(_at, tree, mesh_lib.shardings(tree, use, mesh))


def _at(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _bytes(tree: Any) -> int:
    """Bytes of each device."""

    def of(leaf):
        shard = leaf.sharding.shard_shape(leaf.shape)
        return leaf.dtype.itemsize * functools.reduce(int.__mul__, shard, 1)

    return sum(map(of, jax.tree.leaves(tree)))
