"""Rows of a search: where they are on a mesh, and which of them go on together.

A batch has G problems of R rows each. What is kept of them, `search.Beams` and
`reader.Reading`, has arrays `[G, ...]` and `[G, R, ...]`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pav_jax.distributed import mesh

CHUNK = 8  # tokens that a verifier reads in one pass
_NARROWEST = 3  # rows of a problem, of which no fewer go on by themselves


def shards() -> int:
    """Into how many parts the active mesh divides problems, or their rows."""
    return mesh.row_shards(jax.sharding.get_abstract_mesh())


def specs(state: Any, groups: int, rows: int) -> Any:
    """Where `Beams` or a `Reading` are on the active mesh, as `PartitionSpec`s."""
    share = shards()
    by_group = groups % share == 0
    group = mesh.BATCH if by_group else None
    row = mesh.BATCH if not by_group and rows % share == 0 else None
    of = {
        "trunk": PartitionSpec(group, "tensor"),
        "suffix": PartitionSpec(group, row, "tensor"),
        "keys": PartitionSpec(group),
        "decoded": PartitionSpec(group),
    }
    found = {}
    for name in (field.name for field in dataclasses.fields(state)):
        spec = of.get(name, PartitionSpec(group, row))
        found[name] = jax.tree.map(lambda _, s=spec: s, getattr(state, name))
    return dataclasses.replace(state, **found)


def on_mesh(state: Any, groups: int, rows: int) -> Any:
    """`Beams` or a `Reading`, where `specs` says, within a jit."""
    if jax.sharding.get_abstract_mesh().empty or mesh.in_device_shard():
        return state
    return jax.lax.with_sharding_constraint(state, specs(state, groups, rows))


def by_problems(f: Callable, groups: int, arguments: int, results: int) -> Callable:
    """`f`, run by every device for its own problems; see `mesh.by_device_shards`.

    Where devices share out the rows of a problem the partitioner has it.

    Args:
      f: takes parameters and then `arguments` trees of `[G, ...]`; gives `results` of
        these and then a scalar, which all devices agree on.
      groups: G.
      arguments: how many.
      results: how many.
    """
    if groups % shards():
        return f
    rows, whole = PartitionSpec(mesh.BATCH), PartitionSpec()
    return mesh.by_device_shards(
        f, (whole, *[rows] * arguments), (*[rows] * results, whole)
    )


def next_width(left: int, width: int) -> int:
    """Rows of a problem that go on together, of which at most `left` have work.

    A batch waits for its longest step. Where a fourth of the rows is left, they go on
    without the others: a fourth at a time, so that there are few programs.
    """
    while _narrower(width) >= left and width > _NARROWEST:
        width = _narrower(width)
    return width


def _narrower(width: int) -> int:
    return -(-width // 4)


def goes_on(active: jax.Array, done: jax.Array, width: int) -> jax.Array:
    """Whether a batch of this width does, bool, after `done` tokens of each row.

    Moving rows costs about as much as some tokens.
    """
    most = most_left(active)
    few = most <= (_narrower(width) if width > _NARROWEST else 0)
    return (most > 0) & ((done < CHUNK) | ~few)


def most_left(active: jax.Array) -> jax.Array:
    """The most rows of a problem that have work left, int32."""
    return mesh.max_over_shards(jnp.max(jnp.sum(active, axis=1, dtype=jnp.int32)))


def pick(active: jax.Array, width: int) -> jax.Array:
    """`width` rows of each problem, those with work among them, int32 `[G, width]`."""
    return jnp.argsort(~active, axis=1, stable=True)[:, :width]


def gather(tree: Any, parents: jax.Array) -> Any:
    """Row r becomes row `parents[g, r]`, in every `[G, R, ...]` array."""

    def of(array):
        index = parents.reshape(parents.shape + (1,) * (array.ndim - 2))
        return jnp.take_along_axis(array, index, axis=1)

    return jax.tree.map(of, tree)


def put(tree: Any, rows: Any, at: jax.Array) -> Any:
    """Row `at[g, r]` becomes row r of `rows`, in every `[G, R, ...]` array."""
    group = jnp.arange(len(at))[:, None]
    return jax.tree.map(lambda old, new: old.at[group, at].set(new), tree, rows)
