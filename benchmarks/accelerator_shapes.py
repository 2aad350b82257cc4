"""The shapes that `benchmarks.accelerator` measures, and a row of its table."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.roofline import Ceilings, Cost
from benchmarks.scoring import random_verifier
from pav_jax.core.types import Params
from pav_jax.gemma import forward, sizes
from pav_jax.gemma.architecture import TransformerConfig


@dataclasses.dataclass(frozen=True)
class Shapes:
    """What is measured.

    Attributes:
      architecture: of policy and verifier.
      dtype: of the weights.
      copy: megabytes of the copied array; `width` of the multiplied matrices.
      prompt: tokens of a prompt; `response`, of a response.
      branches: of decoding, in all; 16 for each trunk.
      seeds: rollouts that are labelled; `rows` of the engine for each.
      train: rows and tokens of a training batch.
      repeats: calls that are timed.
    """

    architecture: TransformerConfig
    dtype: Any
    copy: int
    width: int
    prompt: int
    response: int
    branches: tuple[int, ...]
    seeds: int
    rows: int
    train: tuple[int, int]
    repeats: int


def full() -> Shapes:
    """Gemma 2 2B, in bfloat16."""
    return Shapes(
        architecture=sizes.by_name("gemma2_2b"),
        dtype=jnp.bfloat16,
        copy=4096,
        width=8192,
        prompt=512,
        response=128,
        branches=(256, 1024),
        seeds=16,
        rows=32,
        train=(16, 1024),
        repeats=5,
    )


def tiny() -> Shapes:
    """Shapes of a laptop, which show that everything runs."""
    small = sizes.shrunk(sizes.by_name("gemma2_2b"))
    return Shapes(
        architecture=dataclasses.replace(small, vocab_size=512),
        dtype=jnp.bfloat16,
        copy=16,
        width=256,
        prompt=16,
        response=8,
        branches=(32,),
        seeds=2,
        rows=4,
        train=(2, 32),
        repeats=1,
    )


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
      name: what was measured.
      rate: units a second; `unit` names them.
      seconds: of one call, the median; `floor` is the least it could take.
      limit: what sets the floor, "bytes" or "operations".
      compile: seconds until the program was compiled; None if not taken apart.
      note: anything else that was seen.
    """

    name: str
    rate: float
    unit: str
    seconds: float
    floor: float | None = None
    limit: str = ""
    compile: float | None = None
    note: str = ""


def row_of(
    name: str,
    work: float,
    unit: str,
    seconds: float,
    cost: Cost,
    ceilings: Ceilings,
    *,
    compile: float | None = None,
    note: str = "",
) -> Row:
    floor, limit = cost.floor(ceilings)
    return Row(name, work / seconds, unit, seconds, floor, limit, compile, note)


def random_policy(shapes: Shapes) -> Params:
    init = jax.jit(forward.init_params, static_argnums=(1, 2))
    return init(jax.random.key(0), shapes.architecture, shapes.dtype)


def random_prm(shapes: Shapes) -> Params:
    return random_verifier(shapes.architecture, shapes.dtype)


def batch_of(shapes: Shapes) -> dict[str, jax.Array]:
    tokens = jax.random.randint(
        jax.random.key(3), shapes.train, 3, shapes.architecture.vocab_size
    )
    mask = jnp.broadcast_to(jnp.arange(shapes.train[1]) >= 8, shapes.train)
    return {"tokens": tokens, "mask": mask.astype(jnp.float32)}
