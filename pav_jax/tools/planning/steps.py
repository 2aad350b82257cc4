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
from pav_jax.core import config as config_lib
from pav_jax.core.counts import bucket, round_up
from pav_jax.core.errors import UserError
from pav_jax.distributed import mesh as mesh_lib
from pav_jax.distributed import sharding
from pav_jax.distributed.mesh import BATCH
from pav_jax.distributed.sharding import DECODE, TRAIN
from pav_jax.gemma import decode_loop as grid_lib
from pav_jax.gemma import forward, sizes
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.pipeline.beams import beam_config, widest
from pav_jax.rl import update as rl
from pav_jax.rl.rewards import Objective
from pav_jax.search import beam_step as search_step
from pav_jax.search import rows as rows_lib
from pav_jax.search.beam import groups_per_batch
from pav_jax.search.verifier_scorer import keep_rows, read_prompts, read_steps
from pav_jax.train.step import TrainState, make_optimizer, make_train_step

_SHALLOW = (1, 2)  # layers of each kind, of programs that stand for all layers


# What each step function depends on of a config, beside `model` and `limits`.
_READ = {
    "sft": ("sft",),
    "verifier": ("verifier",),
    "decode": ("sampling", "rollouts.temperature", "labels.n_mc"),
    "search": (
        "search.beams",
        "search.alpha_beams",
        "search.candidates",
        "search.temperature",
        "verifier",
    ),
    "rl": ("rl.training", "rl.methods"),
}
# Each layer has a cache of its own there, and a place of its own in the program.
# Training scans over layers, which are once in the program.
_UNROLLED = ("decode", "search")


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


def read_by(name: str, config: ConfigDict) -> ConfigDict:
    """What one of `names(config)` depends on of a config, and no more of it."""
    # Where weights are does not change the program.
    model = [f"model.{field}" for field in config.model if field != "checkpoint"]
    fields = ["limits", *_READ[name], *model]
    if "name" not in config.model:
        fields.append("tokenizer.vocab_size")
    if name == "search" and "rl" in config and "beams" in config.rl.final:
        fields.append("rl.final.beams")
    return config_lib.select(config, fields)


def shallow(name: str, config: ConfigDict) -> tuple[TransformerConfig, ...]:
    """Two networks of few layers, as many of each kind, that tell of all layers.

    Empty if the step function is as fast to compile with all layers.
    """
    model = architecture(config)
    kinds = tuple(dict.fromkeys(model.layers))
    if name not in _UNROLLED or model.num_layers <= 2 * _SHALLOW[1] * len(kinds):
        return ()
    return tuple(dataclasses.replace(model, layers=kinds * n) for n in _SHALLOW)


def architecture(config: ConfigDict) -> TransformerConfig:
    """The architecture; no tokenizer is needed for its shapes."""
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


def build(
    name: str,
    config: ConfigDict,
    mesh: jax.sharding.Mesh,
    model: TransformerConfig | None = None,
) -> Step:
    """One of `names(config)`, on a mesh of any devices.

    Args:
      name: of the step function.
      config: the experiment's, or what `read_by` gives of it.
      mesh: of any devices.
      model: the architecture, if it is not the config's: one of `shallow`.

    Raises:
      UserError: the mesh does not divide the batch or a parameter.
    """
    _check_rows(name, config, mesh)
    model = model or architecture(config)
    params = forward.param_shapes(model, sizes.dtype_of(config.model))
    if name == "decode":
        return _decode(params, config, model, mesh)
    if name == "search":
        return _search(params, config, model, mesh)
    batch = _batch(rows(name, config), length(config), mesh)
    if name == "rl":
        return _rl(params, batch, config, model, mesh)
    if name == "verifier":
        params = _verifier(params, model, config)
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


def _check_rows(name: str, config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    shards = mesh_lib.row_shards(mesh)
    count = rows(name, config)
    what, of = "the batch size", "data x fsdp"
    if name == "decode":
        what, of = "sampling.trunks", f"{of} x sampling.trunks_per_group"
        shards *= config.sampling.get("trunks_per_group", 1)
    if count is not None and count % shards:
        raise UserError(
            f"{name}: {what} {count} has to be a multiple of {of} = {shards};"
            " data x fsdp devices share out its rows"
        )


def _verifier(params, model, config):
    head = config.verifier.get("head", "sum")
    return jax.eval_shape(
        functools.partial(verifier.init_verifier, architecture=model, head=head),
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
    sampling = SamplingConfig(
        max_tokens=limits.max_tokens,
        end_ids=(1,),
        temperature=config.rollouts.temperature,
        trunks=grid.trunks,
        rows=grid.rows,
        trunks_per_group=grid.get("trunks_per_group", 1),
    )
    static = dict(architecture=model, sampling=sampling)
    queue = limits.max_steps * config.labels.n_mc
    empty = functools.partial(
        grid_lib.empty_grid,
        bucket(length(config), rollout.ALIGNED),
        round_up(limits.max_tokens, rollout.ALIGNED),
        bucket(queue, 8),
        dtype=params["embed"].dtype,
        **static,
    )
    shapes = jax.eval_shape(empty)
    grid = jax.tree.map(
        lambda leaf, spec: _at(leaf, NamedSharding(mesh, spec)),
        shapes,
        grid_lib.grid_specs(shapes),
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
    return Step(grid_lib.run_segment, arguments, static, parts, rows)


@functools.partial(
    jax.jit,
    static_argnames=("architecture", "beam"),
    donate_argnames=("beams", "state"),
)
def _search_step(params, prm, beams, state, alpha, *, architecture, beam):
    """One step of `search.beam.beam_search` with a `VerifierScorer`, as one program.

    The search itself runs several programs. Each leaves the arrays that only the others
    need in place, so this one needs the memory of the stage, but for a copy of a
    quarter of the rows at most: those that go on without the others.
    """
    width = beams.done.shape[1]
    static = dict(architecture=architecture, width=width)
    beams, keys = search_step.start_steps(beams)
    beams, active, _ = search_step.decode_steps(
        params, beams, keys, ~beams.done, beam=beam, **static
    )
    state, q, read, _ = read_steps(prm, state, beams.q, beams.start, beams, **static)
    beams, parents, used, done = search_step.select(
        beams, q, q, alpha, prover_k=4, beam=beam
    )
    return beams, keep_rows(state, parents, used), active, read, done


def _search(params, config, model, mesh) -> Step:
    """A step of the widest beams, the policy and the verifier side by side."""
    # No tokenizer is loaded here; which tokens end a step does not change the program.
    beam = beam_config(config, widest(config), end_ids=(1,), step_end_ids=(2,))
    prm = _placed(_verifier(params, model, config), DECODE, mesh)
    params = _placed(params, DECODE, mesh)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        groups, rows = groups_per_batch(beam), beam.beams * beam.candidates
        beams, state = (
            jax.tree.map(
                lambda leaf, spec: _at(leaf, NamedSharding(mesh, spec)),
                shapes,
                rows_lib.partition_specs(shapes, groups, rows),
            )
            for shapes in _search_shapes(params, prm, config, model, beam, groups)
        )
    cache = (beams.trunk, beams.suffix, state.trunk, state.suffix)
    parts = {
        "weights": _bytes((params, prm)),
        "cache": _bytes(cache),
        "data": _bytes((beams, state)) - _bytes(cache),
    }
    arguments = (params, prm, beams, state, jax.ShapeDtypeStruct((), jnp.float32))
    static = dict(architecture=model, beam=beam)
    return Step(_search_step, arguments, static, parts, groups * rows)


def _search_shapes(params, prm, config, model, beam, groups):
    """Shapes of the beams and of the verifier's state before the first step."""
    width = round_up(config.limits.max_prompt_tokens, rollout.ALIGNED)
    prompts = jax.ShapeDtypeStruct((groups, width), jnp.int32)
    lengths = jax.ShapeDtypeStruct((groups,), jnp.int32)
    read = functools.partial(
        read_prompts,
        rows=beam.beams * beam.candidates,
        max_tokens=beam.max_tokens,
        architecture=model,
    )
    state, q = jax.eval_shape(read, prm, prompts, lengths)
    init = functools.partial(search_step.init_beams, architecture=model, beam=beam)
    keys = jax.ShapeDtypeStruct((groups, 2), jnp.uint32)
    return jax.eval_shape(init, params, prompts, lengths, keys, q, q), state


def _batch(rows: int, length: int, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """What any of the training steps may read."""
    floats = ("mask", "value", "weight", "process_reward", "outcome", "sampled")
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
