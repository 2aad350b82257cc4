"""Meshes of devices.

A mesh has three axes. `data` and `fsdp` share out the rows of a batch; `fsdp` and
`tensor` also share out parameters, as `sharding.py` says.

A mesh is active for a whole process (`activate`), or within `jax.set_mesh`; functions
that compute find it there. Without one, everything is on one device and nothing here
does anything. Of several processes each has a mesh of its own devices active, and one
over the devices of all (`global_mesh`) to train on.
"""

import contextlib
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from pav_jax.core.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # the axes that share out the rows of a batch
PROCESS = "process"  # of the mesh that `by_process` makes

_global: Mesh | None = None


def make_mesh(sizes: Any, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh of a config's `mesh` section.

    Args:
      sizes: a mapping from `AXES` to how many devices each has; one that is left out
        has 1, and -1 takes what the others leave.
      devices: those of all processes if not given.

    Raises:
      UserError: an axis is unknown, the product is not the number of devices, or a TPU
        slice has no sides of which the axes are made.
    """
    if devices is None:
        devices = jax.devices()
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    shape = axis_sizes(sizes, len(devices))
    try:
        return jax.make_mesh(shape, AXES, kinds, devices=devices)
    except NotImplementedError as error:
        said = " x ".join(f"{a}={n}" for a, n in zip(AXES, shape, strict=True))
        raise UserError(
            f"config.mesh is {said}, of which an axis is no product of sides of the"
            f" slice: {error}"
        ) from error


def axis_sizes(sizes: Any, count: int) -> tuple[int, ...]:
    """As `make_mesh` does: how many of `count` devices each of `AXES` has."""
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
        said = " x ".join(f"{a}={sizes.get(a, 1)}" for a in AXES)
        raise UserError(
            f"config.mesh is {said}, and there are {count} devices; the product"
            " must be their number (one axis may be -1, for what the others leave)"
        )
    return tuple(shape)


def parse(text: str) -> dict[str, int]:
    """The sizes in a text such as "fsdp=-1,tensor=2".

    Raises:
      UserError: it is none.
    """
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {axis: int(size) for axis, size in pairs}
    except ValueError as error:
        raise UserError(
            f"{text!r} is no mesh; write one as fsdp=-1,tensor=2, of the axes"
            f" {', '.join(AXES)}"
        ) from error


def activate(config: Any) -> None:
    """Makes the mesh of a config the one of this process.

    There is none without a `mesh` section, or with a single device. With several
    processes the section is of the devices of all; this process gets its share. On a
    CPU they may be its cores, where jax has not started yet and no size is -1.

    Raises:
      UserError: the section does not go with the devices.
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
    """Lets each of `wanted` cores be a device of its own, where there are that many.

    A CPU is one device otherwise, whose cores share out one product at a time; with
    rows of its own, a core seldom waits for another. It says nothing to accelerators.
    """
    if 1 < wanted <= (os.cpu_count() or 1):
        with contextlib.suppress(RuntimeError):  # jax has started: as it is
            jax.config.update("jax_num_cpu_devices", wanted)


def global_mesh() -> Mesh | None:
    """The mesh over the devices of all processes, if the config asks for one."""
    return _global


def spans_processes() -> bool:
    """Whether the active mesh has devices of several processes."""
    mesh = jax.sharding.get_mesh()
    return not mesh.empty and mesh.is_multi_process


@functools.cache
def by_process(mesh: Mesh) -> Mesh:
    """The devices of a mesh over all processes, an axis `PROCESS` before the others.

    Those of a process lie as on the mesh of its own, which has the same `tensor`. So
    what is shared out over `tensor` alone is whole in every process, wherever the
    topology of the devices has put the axes of `mesh`.

    Raises:
      UserError: `tensor` goes beyond one process.
    """
    devices = sorted(mesh.devices.flat, key=lambda d: (d.process_index, d.id))
    count = len({device.process_index for device in devices})
    share = process_sizes(mesh.shape, len(devices) // count)
    own = [
        make_mesh(share, part.tolist()).devices
        for part in np.split(np.array(devices), count)
    ]
    axes = (PROCESS, *AXES)
    kinds = (jax.sharding.AxisType.Auto,) * len(axes)
    return Mesh(np.stack(own), axes, axis_types=kinds)


def local_mesh_of(mesh: Mesh) -> Mesh:
    """Of a mesh over all processes, the mesh of this one's devices."""
    devices = by_process(mesh).devices[jax.process_index()]
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    return Mesh(devices, AXES, axis_types=kinds)


def process_sizes(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """The sizes of a mesh of one process's `count` devices, from those of all.

    It has the same `tensor`, as much of `fsdp` as there is room for, and `data`.

    Raises:
      UserError: `tensor` goes beyond one process.
    """
    tensor = sizes["tensor"]
    if count % tensor:
        raise UserError(
            f"config.mesh.tensor={tensor} does not divide the {count} devices of a"
            " process; take a divisor of it, and fsdp for the rest"
        )
    fsdp = math.gcd(sizes["fsdp"], count // tensor)
    return {"data": count // tensor // fsdp, "fsdp": fsdp, "tensor": tensor}


def by_device_shards(f: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """`f`, run by every device for its own rows of a batch, within a jit.

    Left to itself the partitioner gathers all rows where an update names the rows that
    it is for, as that of a cache does: two gathers a layer, at every token. Here
    nothing goes from rows to rows but what `f` says (`sum_over_shards`). `tensor` is
    left to the partitioner.

    Args:
      f: takes and gives arrays; it sees a device's rows of those that are shared out.
      in_specs: a `PartitionSpec` for each argument, of no axes but `BATCH`.
      out_specs: the same of the results.
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
    """The sum over the devices that share out a batch, in `by_device_shards`."""
    return jax.lax.psum(x, BATCH) if in_device_shard() else x


def max_over_shards(x: jax.Array) -> jax.Array:
    """The largest of what they have."""
    return jax.lax.pmax(x, BATCH) if in_device_shard() else x


def row_shards(mesh: Mesh) -> int:
    """How many devices of a mesh share out the rows of a batch; 1 without one."""
    return math.prod(mesh.shape.get(axis, 1) for axis in BATCH)


def check_rows(count: int, mesh: Mesh) -> None:
    """Raises UserError if a mesh does not divide the rows of a batch."""
    share = row_shards(mesh)
    if count % share:
        raise UserError(
            f"a batch of {count} rows is not a multiple of data x fsdp = {share},"
            " the devices of config.mesh that share them out"
        )
