"""What processes that train as one program exchange: rows, weights and counts.

Sampling and scoring need no lockstep: each process works by itself, on the mesh over
its own devices (`local_mesh`), on a slice of the items (`process_slice`). Training is
on the mesh over the devices of all, which is the active one. With one process, the
slice is everything and both meshes are the same.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from pav_jax.core.types import Batch
from pav_jax.distributed import mesh, sharding


def process_count() -> int:
    """How many processes the active mesh spans."""
    return jax.process_count() if mesh.spans_processes() else 1


def is_primary() -> bool:
    """Whether this process writes files for all."""
    return not mesh.spans_processes() or jax.process_index() == 0


def process_slice(items: int) -> slice:
    """Which of `items` items are this process's; the slices of all lie end to end."""
    if not mesh.spans_processes():
        return slice(0, items)
    index, processes = jax.process_index(), jax.process_count()
    return slice(items * index // processes, items * (index + 1) // processes)


def all_gather(values: int | Sequence[int] | np.ndarray) -> np.ndarray:
    """The values of each process, int32 `[processes, ...]`; waits for all of them."""
    values = np.asarray(values, np.int32)
    if not mesh.spans_processes():
        return values[None]
    return multihost_utils.process_allgather(values)


def local_mesh() -> contextlib.AbstractContextManager[Any]:
    """A context in which the active mesh is over this process's devices only."""
    if not mesh.spans_processes():
        return contextlib.nullcontext()
    return jax.set_mesh(mesh.local_mesh_of(jax.sharding.get_mesh()))


def gather_params(params: Any) -> Any:
    """Weights on the mesh of this process, sharded as sampling and scoring need them.

    They go from device to device, one leaf at a time: each device gathers along `fsdp`
    what it will hold. `params` stay usable.
    """
    if not mesh.spans_processes():
        return sharding.place(params, sharding.DECODE)
    active = jax.sharding.get_mesh()
    wide, own = mesh.by_process(active), mesh.local_mesh_of(active)

    def bring(leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
        # One at a time, since many gathers at once can block each other on CPUs.
        whole = jax.device_put(leaf, NamedSharding(wide, spec)).block_until_ready()
        parts = [shard.data for shard in whole.addressable_shards]
        there = NamedSharding(own, spec)
        return jax.make_array_from_single_device_arrays(leaf.shape, there, parts)

    with jax.set_mesh(wide):  # the same devices in another order
        return jax.tree.map(bring, params, sharding.specs(params, sharding.DECODE))


def global_batch(rows: dict[str, np.ndarray]) -> Batch:
    """A batch on the active mesh: the rows of all processes, end to end.

    Args:
      rows: arrays `[B / processes, ...]`.

    Raises:
      UserError: the mesh does not divide the rows.
    """
    if not mesh.spans_processes():
        return sharding.place_batch(rows)
    active = jax.sharding.get_mesh()
    rows_by_process = PartitionSpec((mesh.PROCESS, *mesh.BATCH))
    ours = NamedSharding(mesh.by_process(active), rows_by_process)
    wanted = NamedSharding(active, PartitionSpec(mesh.BATCH))

    def put(array: np.ndarray) -> jax.Array:
        mesh.check_rows(len(array) * process_count(), active)
        whole = jax.make_array_from_process_local_data(ours, array)
        return jax.device_put(whole, wanted).block_until_ready()

    return jax.tree.map(put, rows)


def all_gather_rows(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of all processes, end to end, in every process.

    Args:
      rows: arrays `[N, ...]`; N may differ between processes.
    """
    if not mesh.spans_processes():
        return rows
    (own,) = {len(array) for array in rows.values()}
    counts = all_gather(own)

    def gather(array: np.ndarray) -> np.ndarray:
        padded = np.zeros((counts.max(), *array.shape[1:]), array.dtype)
        padded[:own] = array
        parts = multihost_utils.process_allgather(padded)
        return np.concatenate(
            [part[:count] for part, count in zip(parts, counts, strict=True)]
        )

    return {name: gather(array) for name, array in rows.items()}
