"""Between processes that train as one: rows in, weights out.

What needs no lock-step, such as sampling and scoring, each does by itself on a mesh of
its own devices, for its share of the items. Training is on the mesh over the devices of
all, which is the active one. With one process the share is the whole, and both meshes
are the same.
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
    """How many processes there are to share."""
    return jax.process_count() if mesh.spans_processes() else 1


def is_primary() -> bool:
    """Whether this process writes for all."""
    return not mesh.spans_processes() or jax.process_index() == 0


def process_slice(items: int) -> slice:
    """This process's share of so many items; the shares lie end to end."""
    if not mesh.spans_processes():
        return slice(0, items)
    index, processes = jax.process_index(), jax.process_count()
    return slice(items * index // processes, items * (index + 1) // processes)


def all_gather(values: int | Sequence[int] | np.ndarray) -> np.ndarray:
    """What each process says, int32 `[processes, ...]`; waits for all of them."""
    values = np.asarray(values, np.int32)
    if not mesh.spans_processes():
        return values[None]
    return multihost_utils.process_allgather(values)


def local_mesh() -> contextlib.AbstractContextManager[Any]:
    """Within, the active mesh is that of this process's devices."""
    if not mesh.spans_processes():
        return contextlib.nullcontext()
    return jax.set_mesh(mesh.local_mesh_of(jax.sharding.get_mesh()))


def gather_params(params: Any) -> Any:
    """Weights on the mesh of this process, as sampling and scoring have them.

    They go from device to device, a leaf at a time: each gathers along `fsdp` what it
    will hold. `params` stay usable.
    """
    if not mesh.spans_processes():
        return sharding.place(params, sharding.DECODE)
    active = jax.sharding.get_mesh()
    wide, own = mesh.by_process(active), mesh.local_mesh_of(active)

    def bring(leaf: jax.Array, spec: PartitionSpec) -> jax.Array:
        # Waited for, since many gathers at once can block each other on CPUs.
        whole = jax.device_put(leaf, NamedSharding(wide, spec)).block_until_ready()
        parts = [shard.data for shard in whole.addressable_shards]
        there = NamedSharding(own, spec)
        return jax.make_array_from_single_device_arrays(leaf.shape, there, parts)

    with jax.set_mesh(wide):  # which has the devices in another order
        return jax.tree.map(bring, params, sharding.specs(params, sharding.DECODE))


def global_batch(rows: dict[str, np.ndarray]) -> Batch:
    """A batch on the active mesh, of the rows of all processes end to end.

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
        lying = jax.make_array_from_process_local_data(ours, array)
        return jax.device_put(lying, wanted).block_until_ready()

    return jax.tree.map(put, rows)


def all_gather_rows(rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of all processes end to end, in every process.

    Args:
      rows: arrays `[N, ...]`; other processes may have another N.
    """
    if not mesh.spans_processes():
        return rows
    (own,) = {len(array) for array in rows.values()}
    counts = all_gather(own)

    def collected(array: np.ndarray) -> np.ndarray:
        padded = np.zeros((counts.max(), *array.shape[1:]), array.dtype)
        padded[:own] = array
        parts = multihost_utils.process_allgather(padded)
        return np.concatenate(
            [part[:some] for part, some in zip(parts, counts, strict=True)]
        )

    return {name: collected(array) for name, array in rows.items()}
