"""Meshes of devices.

A mesh has three axes. The rows of a batch are sharded over `data` and `fsdp`;
parameters are sharded over `fsdp` and `tensor`, as `sharding.py` says.

A mesh is active for a whole process (`activate`), or within `jax.set_mesh`; functions
that compute find it there. Without one, everything is on one device and the functions
here do nothing. If there are several processes, the active mesh of each is over its own
devices, and there is one over the devices of all (`global_mesh`) to train on.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # the axes that the rows of a batch are sharded over
PROCESS = "process"  # of the mesh that `by_process` makes

_global: Mesh | None = None


def make_mesh(sizes: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a config's `mesh` section.

    Args:
      sizes: a mapping from `AXES` to their sizes. The default is 1; one of them may be
        -1, for as many devices as the others leave.
      devices: those of all processes by default.

    Raises:
      UserError: an axis is unknown, or the product is not the number of devices.
    """
    if devices is None:
        devices = jax.devices()
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    shape = axis_sizes(sizes, len(devices))
    try:
        return jax.make_mesh(shape, AXES, kinds, devices=devices)
    except NotImplementedError:
        # No product of the slice's sides: tensor=2 on 4x8, say. Two axes of the mesh
        # then share a side, whose links each of them has only a part of.
        grid = mesh_utils.create_device_mesh(
            shape, devices, allow_split_physical_axes=True
        )
        return Mesh(grid, AXES, axis_types=kinds)


def axis_sizes(sizes: Any, count: int) -> tuple[int, ...]:
    """The sizes of `AXES` on `count` devices; see `make_mesh`."""
    sizes = dict(sizes)
    if unknown := sizes.keys() - set(AXES):
        raise UserError(
            f"config.mesh has no axis {sorted(unknown)[0]!r}; it may have"
            f" {', '.join(AXES)}"
        )
    shape = [int(sizes.get(axis, 1)) for axis in AXES]
    given = math.prod(size for size in shape if size != -1)
    if shape.count(-1) == 1 and given > 0 and count % given == 0:
        shape[shape.index(-1)] = count // given
    if min(shape) < 1 or math.prod(shape) != count:
        stated = " x ".join(f"{a}={sizes.get(a, 1)}" for a in AXES)
        raise UserError(
            f"config.mesh is {stated}, for {counted(count, 'device')}; the product"
            " must be their number (one axis may be -1, for what the others leave)"
        )
    return tuple(shape)


def parse(text: str) -> dict[str, int]:
    """The sizes in a text such as "fsdp=-1,tensor=2".

    Raises:
      UserError: the text has another form.
    """
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {axis: int(size) for axis, size in pairs}
    except ValueError as error:
        raise UserError(
            f"{text!r} is no mesh; write it as fsdp=-1,tensor=2; the axes are"
            f" {', '.join(AXES)}"
        ) from error


def activate(config: Any) -> None:
    """Makes the mesh of a config the active one of this process.

    Without a `mesh` section, or with a single device, no mesh is active. If there are
    several processes, the section describes the devices of all of them, and the active
    mesh is over those of this process. On a CPU, cores become devices if no size is -1
    and jax has not started yet.

    Raises:
      UserError: the section does not fit the devices.
    """
    global _global
    if not config.get("mesh"):
        return
    _offer_cores(math.prod(dict(config["mesh"]).values()))
    mesh = make_mesh(config["mesh"])
    if mesh.is_multi_process:
        _global = mesh
        mesh = local_mesh_of(mesh)
    if mesh.size > 1:
        jax.set_mesh(mesh)


def _offer_cores(wanted: int) -> None:
    """Makes each of `wanted` CPU cores a device, if there are that many.

    By default a CPU is one device, whose cores work on one product at a time; a core
    that has rows of its own seldom waits for another. Accelerators are not affected.
    """
    if 1 < wanted <= (os.cpu_count() or 1):
        with contextlib.suppress(RuntimeError):  # jax has started: as it is
            jax.config.update("jax_num_cpu_devices", wanted)


def global_mesh() -> Mesh | None:
    """The mesh over the devices of all processes.

    None if there is only one process, or the config has no `mesh`.
    """
    return _global


def spans_processes() -> bool:
    """Whether the active mesh has devices of several processes."""
    mesh = jax.sharding.get_mesh()
    return not mesh.empty and mesh.is_multi_process


@functools.cache
def by_process(mesh: Mesh) -> Mesh:
    """The mesh over all processes, rearranged: an axis `PROCESS`, then the others.

    The devices of one process are arranged as on its own mesh (`local_mesh_of`), which
    has the same `tensor`. So an array that is sharded over `tensor` alone is whole in
    every process, wherever the topology has put the devices along the axes of `mesh`.

    Raises:
      UserError: `tensor` is larger than one process.
    """
    devices = sorted(mesh.devices.flat, key=lambda d: (d.process_index, d.id))
    count = len({device.process_index for device in devices})
    sizes = process_sizes(mesh.shape, len(devices) // count)
    own = [
        make_mesh(sizes, part.tolist()).devices
        for part in np.split(np.array(devices), count)
    ]
    axes = (PROCESS, *AXES)
    kinds = (jax.sharding.AxisType.Auto,) * len(axes)
    return Mesh(np.stack(own), axes, axis_types=kinds)


def local_mesh_of(mesh: Mesh) -> Mesh:
    """The mesh over this process's devices, from the mesh over those of all."""
    devices = by_process(mesh).devices[jax.process_index()]
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    return Mesh(devices, AXES, axis_types=kinds)


def process_sizes(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """The sizes of a mesh over one process's devices.

    It has the same `tensor`, as much of `fsdp` as there is room for, and `data` for the
    rest.

    Args:
      sizes: of the mesh over all processes.
      count: devices of one process.

    Raises:
      UserError: `tensor` is larger than one process.
    """
    tensor = sizes["tensor"]
    if count % tensor:
        raise UserError(
            f"config.mesh.tensor={tensor} does not divide the"
            f" {counted(count, 'device')} of a process; take a divisor of it, and fsdp"
            " for the rest"
        )
    fsdp = math.gcd(sizes["fsdp"], count // tensor)
    return {"data": count // tensor // fsdp, "fsdp": fsdp, "tensor": tensor}


def by_device_shards(f: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """`f`, run by every device on its own rows of a batch, within a jit.

    By default the partitioner gathers all rows for an update that names its rows, such
    as the update of a cache: two gathers a layer, at every token. Here rows depend on
    each other only where `f` says so (`sum_over_shards`). `tensor` is left to the
    partitioner. Without a mesh this is `f` itself.

    Args:
      f: takes and returns arrays; of a sharded one it sees the device's rows.
      in_specs: a `PartitionSpec` for each argument, of no axes but `BATCH`.
      out_specs: the same for the results.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return f
    return jax.shard_map(
        f,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names=set(BATCH),
        check_vma=False,
    )


def in_device_shard() -> bool:
    """Whether this is traced within `by_device_shards`, on a mesh."""
    return set(BATCH) <= set(jax.sharding.get_abstract_mesh().manual_axes)


def sum_over_shards(x: jax.Array) -> jax.Array:
    """The sum of `x` over the batch axes, within `by_device_shards`; else `x`."""
    return jax.lax.psum(x, BATCH) if in_device_shard() else x


def max_over_shards(x: jax.Array) -> jax.Array:
    """The maximum of `x` over the batch axes, within `by_device_shards`; else `x`."""
    return jax.lax.pmax(x, BATCH) if in_device_shard() else x


def row_shards(mesh: Mesh) -> int:
    """How many shards the rows of a batch have on a mesh; 1 if the mesh is empty."""
    return math.prod(mesh.shape.get(axis, 1) for axis in BATCH)


def training_shards() -> int:
    """How many shards the rows of a batch have in a stage that trains."""
    return row_shards(_global or jax.sharding.get_mesh())


def check_rows(count: int, mesh: Mesh) -> None:
    """Raises UserError if a mesh does not divide the rows of a batch."""
    shards = row_shards(mesh)
    if count % shards:
        raise UserError(
            f"a batch of {counted(count, 'row')} is not a multiple of data x fsdp ="
            f" {shards}, the axes of config.mesh that it is sharded over"
        )
