"""Rows of a search: where they lie on a mesh, and which of them go on together.

A batch has G problems of R rows each. A state of a search (`beam_step.Beams`, or that
of a scorer) is a dataclass of arrays `[G, ...]` and `[G, R, ...]`. The functions below
use the active mesh, if there is one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pav_jax.distributed import mesh

CHUNK = 8  # tokens that a verifier reads in one pass
_NARROWEST = 3  # the narrowest batch: rows of each problem


def device_shards() -> int:
    """The number of parts into which the active mesh divides the rows of a batch."""
    return mesh.row_shards(jax.sharding.get_abstract_mesh())


def partition_specs(state: Any, groups: int, rows: int) -> Any:
    """Where the state of a search lies on the active mesh.

    Whole problems go to each device if their number allows it, else some rows of every
    problem.

    Args:
      state: a dataclass of arrays, such as `beam_step.Beams`.
      groups: G.
      rows: R.

    Returns:
      The state with a `PartitionSpec` in place of each array.
    """
    shards = device_shards()
    by_group = groups % shards == 0
    group = mesh.BATCH if by_group else None
    row = mesh.BATCH if not by_group and rows % shards == 0 else None
    special = {
        "trunk": PartitionSpec(group, "tensor"),
        "suffix": PartitionSpec(group, row, "tensor"),
        "keys": PartitionSpec(group),
        "decoded": PartitionSpec(group),
        "tokens_read": PartitionSpec(group),
    }
    specs = {}
    for field in dataclasses.fields(state):
        spec = special.get(field.name, PartitionSpec(group, row))
        value = getattr(state, field.name)
        specs[field.name] = jax.tree.map(lambda _, spec=spec: spec, value)
    return dataclasses.replace(state, **specs)


def constrain_sharding(state: Any, groups: int, rows: int) -> Any:
    """Within a jit: the state of a search, laid out as `partition_specs` says."""
    if jax.sharding.get_abstract_mesh().empty or mesh.in_device_shard():
        return state
    specs = partition_specs(state, groups, rows)
    return jax.lax.with_sharding_constraint(state, specs)


def map_problems(f: Callable, groups: int, arguments: int, results: int) -> Callable:
    """`f`, which every device runs for its own problems; see `mesh.by_device_shards`.

    Where the mesh divides the rows of a problem, `f` is returned as it is, and XLA
    partitions it.

    Args:
      f: takes parameters and `arguments` trees of `[G, ...]` arrays; returns `results`
        such trees and a scalar that is the same on all devices.
      groups: G.
      arguments: how many trees `f` takes.
      results: how many trees `f` returns.
    """
    if groups % device_shards():
        return f
    rows, whole = PartitionSpec(mesh.BATCH), PartitionSpec()
    return mesh.by_device_shards(
        f, (whole, *[rows] * arguments), (*[rows] * results, whole)
    )


def next_width(most: int, width: int) -> int:
    """Rows of each problem that go on together.

    The longest step delays the whole batch. So once a quarter of the rows is enough,
    the batch is narrowed to the rows that are still active. Always a quarter, so that
    few programs are compiled.

    Args:
      most: the most rows of a problem that have work left.
      width: rows of each problem that went on together so far.
    """
    while _narrower(width) >= most and width > _NARROWEST:
        width = _narrower(width)
    return width


def _narrower(width: int) -> int:
    return -(-width // 4)


def should_continue(active: jax.Array, done: jax.Array) -> jax.Array:
    """Whether a batch goes on at its width, bool.

    It stops when all rows are done, or when a narrower batch is enough. Since moving
    rows costs about as much as some tokens, it goes on for `CHUNK` tokens at least.

    Args:
      active: which rows have work left, bool `[G, width]`.
      done: tokens of each row at this width, int32.
    """
    width = active.shape[1]
    most = most_active(active)
    few = most <= (_narrower(width) if width > _NARROWEST else 0)
    return (most > 0) & ((done < CHUNK) | ~few)


def most_active(active: jax.Array) -> jax.Array:
    """The most active rows of any problem on any device, int32."""
    return mesh.max_over_shards(jnp.max(jnp.sum(active, axis=1, dtype=jnp.int32)))


def active_first(active: jax.Array, width: int) -> jax.Array:
    """`width` rows of each problem, active ones first: indices, int32 `[G, width]`."""
    return jnp.argsort(~active, axis=1, stable=True)[:, :width]


def take_rows(tree: Any, index: jax.Array) -> Any:
    """Rows `index[g, r]` of every `[G, R, ...]` array, as `[G, width, ...]`."""

    def take(array):
        wide = index.reshape(index.shape + (1,) * (array.ndim - 2))
        return jnp.take_along_axis(array, wide, axis=1)

    return jax.tree.map(take, tree)


def put_rows(tree: Any, rows: Any, index: jax.Array) -> Any:
    """`tree`, where row r of `rows` replaces row `index[g, r]` of every array."""
    group = jnp.arange(len(index))[:, None]
    return jax.tree.map(lambda old, new: old.at[group, index].set(new), tree, rows)
