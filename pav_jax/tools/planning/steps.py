"""The step functions of an experiment, with the shapes that its config gives them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from pav_jax import policy, rollout, verifier
from pav_jax.core.errors import UserError
from pav_jax.distributed import mesh as mesh_lib
from pav_jax.distributed import sharding
from pav_jax.distributed.mesh import BATCH
from pav_jax.distributed.sharding import DECODE, TRAIN
from pav_jax.gemma import forward, sizes
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.rl import update as rl
from pav_jax.rl.rewards import Objective
from pav_jax.search import beam as search
from pav_jax.search import rows as candidates
from pav_jax.search import verifier_scorer
from pav_jax.train.step import TrainState, make_optimizer, make_train_step

_ALIGNED = 16  # what the engine rounds trunks and suffixes up to


@dataclasses.dataclass(frozen=True)
class Step:
    """A jitted function and what it is called with.

    Attributes:
      function: takes `arguments`, and then `static` by name.
      arguments: trees of shapes with shardings.
      static: its static arguments.
      parts: bytes of each device by what they hold: weights, optimizer, cache, data.
      tokens: trained on, or sampled one in every row, by all devices.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    static: dict[str, Any]
    parts: dict[str, int]
    tokens: int


def names(config: ConfigDict) -> list[str]:
    """The step functions that an experiment runs."""
    found = ["sft", "verifier", "decode", "search"]
    return [*found, "rl"] if "rl" in config else found


def architecture(config: ConfigDict) -> TransformerConfig:
    """The architecture, of which no tokenizer is needed."""
    is_published = "name" in config.model
    vocab_size = None if is_published else config.tokenizer.vocab_size
    return sizes.from_config(config.model, vocab_size)


def rows(name: str, config: ConfigDict) -> int | None:
    """Rows of the batch of a step function: of training, or trunks of the engine.

    None of search, which takes as many problems at once as go with the mesh.
    """
    if name == "sft":
        return config.sft.batch_size
    if name == "verifier":
        return config.verifier.prm.batch_size
    if name == "rl":
        return config.rl.training.problems * config.rl.training.samples
    return config.sampling.trunks if name == "decode" else None


def length(config: ConfigDict) -> int:
    """Tokens of a training row: the longest prompt and response."""
    return config.limits.max_prompt_tokens + config.limits.max_tokens


def build(name: str, config: ConfigDict, mesh: jax.sharding.Mesh) -> Step:
    """One of `names(config)`, on a mesh of any devices.

    Raises:
      UserError: the mesh does not divide the batch or a parameter.
    """
    share = mesh_lib.row_shards(mesh)
    count = rows(name, config)
    what, of = "the batch size", "data x fsdp"
    if name == "decode":
        what, of = "sampling.trunks", f"{of} x sampling.trunks_per_group"
        share *= config.sampling.get("trunks_per_group", 1)
    if count is not None and count % share:
        raise UserError(
            f"{name}: {what} {count} has to be a multiple of {of} = {share};"
            " data x fsdp devices share out its rows"
        )
    model = architecture(config)
    dtype = jnp.dtype(config.model.get("dtype", "float32"))
    params = jax.eval_shape(
        functools.partial(forward.init_params, architecture=model, dtype=dtype),
        jax.random.key(0),
    )
    if name == "decode":
        return _decode(params, config, model, mesh)
    if name == "search":
        return _search(params, config, model, mesh)
    batch = _batch(count, length(config), mesh)
    if name == "rl":
        return _rl(params, batch, config, model, mesh)
    if name == "verifier":
        params = _verifier(params, model)
        loss = functools.partial(
            verifier.verifier_loss,
            architecture=model,
            language_weight=config.verifier.language_weight,
        )
        optimizer = make_optimizer(config.verifier.prm)
    else:
        loss = functools.partial(policy.sft_loss, architecture=model)
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
    step = make_train_step(loss, optimizer)
    return Step(step, (state, batch), {}, parts, batch["tokens"].size)


def _verifier(params, model):
    return jax.eval_shape(
        functools.partial(verifier.init_verifier, architecture=model),
        jax.random.key(0),
        params,
    )


def _rl(params, batch, config, model, mesh) -> Step:
    settings = config.rl.training
    method = next(iter(config.rl.methods.values()))
    objective = Objective(kl=settings.kl, **method)
    optimizers = (make_optimizer(settings), make_optimizer(settings))
    update = rl.make_update(
        objective, optimizers, architecture=model, group=settings.samples
    )
    state = jax.eval_shape(
        lambda p: rl.new_state(p, objective, optimizers, architecture=model), params
    )
    state, reference = _placed(state, TRAIN, mesh), _placed(params, TRAIN, mesh)
    parts = {
        "weights": _bytes((state.policy, state.value, reference)),
        "optimizer": _bytes((state.policy_opt, state.value_opt)),
        "data": _bytes(batch),
    }
    arguments = (state, reference, batch)
    return Step(update, arguments, {}, parts, batch["tokens"].size)


def _decode(params, config, model, mesh) -> Step:
    """The engine's loop while it labels: trunks hold a prompt and a response."""
    limits, grid = config.limits, config.sampling
    sampling = rollout.SamplingConfig(
        max_tokens=limits.max_tokens,
        end_ids=(1,),
        temperature=config.rollouts.temperature,
        trunks=grid.trunks,
        rows=grid.rows,
        trunks_per_group=grid.get("trunks_per_group", 1),
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
    arguments = (params, grid, patience)
    rows = sampling.trunks * sampling.rows
    return Step(rollout.run_segment, arguments, static, parts, rows)


@functools.partial(
    jax.jit,
    static_argnames=("config", "beam"),
    donate_argnames=("beams", "reading"),
)
def _search_step(params, prm, beams, reading, alpha, *, config, beam):
    """What `search.beam_search` does at a step, as one program.

    There it is several, of which each leaves what only the others need where it is; so
    the memory of this one is that of the stage, but for a fourth of the rows at most,
    of which there is a second copy while they go on without the others.
    """
    width = beams.done.shape[1]
    beams, keys = search.start_steps(beams)
    beams, left, _ = search.decode_steps(
        params, beams, keys, ~beams.done, architecture=config, beam=beam, width=width
    )
    reading, q, read, _ = verifier_scorer.read_steps(
        prm, reading, beams.q, beams.start, beams, architecture=config, width=width
    )
    beams, parents, used, done = search.select(beams, q, alpha, beam=beam)
    return beams, verifier_scorer.keep_rows(reading, parents, used), left, read, done


def _search(params, config, model, mesh) -> Step:
    """A step of the widest beams, the policy and the verifier side by side."""
    limits = config.limits
    beam = search.BeamConfig(
        beams=max(config.search.beams),
        candidates=config.search.candidates,
        max_tokens=limits.max_tokens,
        max_steps=limits.max_steps,
        end_ids=(1,),
        step_end_ids=(2,),
        temperature=config.search.temperature,
        prover_k=config.verifier.prover_k,
    )
    prm = _placed(_verifier(params, model), DECODE, mesh)
    params = _placed(params, DECODE, mesh)
    static = dict(config=model, beam=beam)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        groups, rows = search.groups_at_once(beam), beam.beams * beam.candidates
        width = -(-limits.max_prompt_tokens // _ALIGNED) * _ALIGNED
        prompts = jax.ShapeDtypeStruct((groups, width), jnp.int32)
        lengths = jax.ShapeDtypeStruct((groups,), jnp.int32)
        reading, bare = jax.eval_shape(
            functools.partial(
                verifier_scorer.read_prompts,
                rows=rows,
                max_tokens=limits.max_tokens,
                architecture=model,
            ),
            prm,
            prompts,
            lengths,
        )
        beams = jax.eval_shape(
            functools.partial(search.begin, **static),
            params,
            prompts,
            lengths,
            jax.ShapeDtypeStruct((groups, 2), jnp.uint32),
            bare,
        )
        beams, reading = (
            jax.tree.map(
                lambda leaf, spec: _at(leaf, NamedSharding(mesh, spec)),
                state,
                candidates.specs(state, groups, rows),
            )
            for state in (beams, reading)
        )
    cache = (beams.trunk, beams.suffix, reading.trunk, reading.suffix)
    parts = {
        "weights": _bytes((params, prm)),
        "cache": _bytes(cache),
        "data": _bytes((beams, reading)) - _bytes(cache),
    }
    arguments = (params, prm, beams, reading, jax.ShapeDtypeStruct((), jnp.float32))
    return Step(_search_step, arguments, static, parts, groups * rows)


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
    return jax.tree.map(_at, tree, sharding.shardings(tree, use, mesh))


def _at(leaf: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _bytes(tree: Any) -> int:
    """Bytes of each device."""

    def of(leaf):
        shard = leaf.sharding.shard_shape(leaf.shape)
        return leaf.dtype.itemsize * functools.reduce(int.__mul__, shard, 1)

    return sum(map(of, jax.tree.leaves(tree)))
