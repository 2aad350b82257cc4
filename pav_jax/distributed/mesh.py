"""Meshes of devices, and where every array of a network is on them.

A mesh has three axes. `data` and `fsdp` share out the rows of a batch; `fsdp` also
shares out parameters and optimizer state while training, and gathers them a layer at a
time; `tensor` shares out heads, the feed-forward layer and the vocabulary. Sampling and
scoring hold the weights whole along `fsdp`, since to gather them for every token would
cost more than the token.

A mesh is active for a whole process (`activate`), or within `jax.set_mesh`; functions
that compute find it there. Without one, everything is on one device and nothing here
does anything. Of several processes each has a mesh of its own devices active, and one
over the devices of all (`everywhere`) to train on.
"""

import contextlib
import functools
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pav_jax.core.errors import UserError

AXES = ("data", "fsdp", "tensor")
BATCH = ("data", "fsdp")  # the axes that share out the rows of a batch
PROCESS = "process"  # of the mesh that `by_process` makes

TRAIN = {"vocab": "tensor", "heads": "tensor", "mlp": "tensor", "embed": "fsdp"}
DECODE = TRAIN | {"embed": None}

# What each dimension of each parameter is, by the end of the parameter's name. A
# dimension that is None is whole everywhere; so are scalars, which need no rule.
RULES: dict[str, dict[str, tuple[str | None, ...]]] = {
    "network": {
        "embed": ("vocab", "embed"),
        "final_norm": (None,),
        "layers/q": (None, "heads", "embed", None),
        "layers/kv": (None, None, "heads", "embed", None),
        "layers/o": (None, "heads", None, "embed"),
        "layers/gate": (None, None, "embed", "mlp"),
        "layers/down": (None, "mlp", "embed"),
        r"layers/\w+_norm": (None, None),
    },
    "verifier's head": {
        "head/hidden": ("embed", None),
        r"head/(hidden_bias|value|evidence)": (None,),
    },
    "value baseline's head": {"head/w": (None,)},
}

_everywhere: Mesh | None = None


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
    global _everywhere
    if not config.get("mesh"):
        return
    _offer_cores(math.prod(dict(config["mesh"]).values()))
    mesh = make_mesh(config["mesh"])
    if mesh.is_multi_process:
        _everywhere = mesh
        mesh = of_this_process(mesh)
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


def everywhere() -> Mesh | None:
    """The mesh over the devices of all processes, if the config asks for one."""
    return _everywhere


def is_shared() -> bool:
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
    share = share_of_process(mesh.shape, len(devices) // count)
    own = [
        make_mesh(share, part.tolist()).devices
        for part in np.split(np.array(devices), count)
    ]
    axes = (PROCESS, *AXES)
    kinds = (jax.sharding.AxisType.Auto,) * len(axes)
    return Mesh(np.stack(own), axes, axis_types=kinds)


def of_this_process(mesh: Mesh) -> Mesh:
    """Of a mesh over all processes, the mesh of this one's devices."""
    devices = by_process(mesh).devices[jax.process_index()]
    kinds = (jax.sharding.AxisType.Auto,) * len(AXES)
    return Mesh(devices, AXES, axis_types=kinds)


def share_of_process(sizes: Mapping[str, int], count: int) -> dict[str, int]:
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


def constrain(x: jax.Array, *axes: Any) -> jax.Array:
    """`x`, with its leading dimensions shared out over mesh axes, within a jit."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def by_shares(f: Callable, in_specs: Any, out_specs: Any) -> Callable:
    """`f`, run by every device for its own rows of a batch, within a jit.

    Left to itself the partitioner gathers all rows where an update names the rows that
    it is for, as that of a cache does: two gathers a layer, at every token. Here
    nothing goes from rows to rows but what `f` says (`sum_of_shares`). `tensor` is left
    to the partitioner.

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


def in_share() -> bool:
    """Whether this is traced within `by_shares`, on a mesh."""
    return set(BATCH) <= set(jax.sharding.get_abstract_mesh().manual_axes)


def sum_of_shares(x: jax.Array) -> jax.Array:
    """The sum of what the devices that share out a batch have, in `by_shares`."""
    return jax.lax.psum(x, BATCH) if in_share() else x


def max_of_shares(x: jax.Array) -> jax.Array:
    """The largest of what they have."""
    return jax.lax.pmax(x, BATCH) if in_share() else x


def constrain_one(x: jax.Array, dimension: int, axis: str) -> jax.Array:
    """As `constrain`, of one dimension alone; the others stay where they are."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    spec = [PartitionSpec.UNCONSTRAINED] * x.ndim
    spec[dimension] = axis
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def constrain_batch(tree: Any) -> Any:
    """Arrays `[B, ...]`, their rows shared out, within a jit."""
    return jax.tree.map(lambda x: constrain(x, BATCH) if x.ndim else x, tree)


def constrain_params(tree: Any, use: dict[str, str | None]) -> Any:
    """A tree with parameters in it, each where its rule says, within a jit."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, specs(tree, use))


def place(tree: Any, use: dict[str, str | None]) -> Any:
    """A tree with parameters in it, moved to where its rules say; else to a device.

    Raises:
      UserError: the active mesh does not divide a parameter.
    """
    return jax.tree.map(_put, tree, shardings(tree, use))


def place_batch(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """Arrays `[B, ...]` of the host: on a mesh, each device is sent its rows.

    Every process is given the same batch, and sends the rows of its own devices.

    Raises:
      UserError: the active mesh does not divide the rows.
    """
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return batch
    for array in batch.values():
        check_rows(len(array), mesh)
    sharding = NamedSharding(mesh, PartitionSpec(BATCH))
    return jax.tree.map(lambda array: _put(array, sharding), batch)


def row_shares(mesh: Mesh) -> int:
    """How many devices of a mesh share out the rows of a batch; 1 without one."""
    return math.prod(mesh.shape.get(axis, 1) for axis in BATCH)


def check_rows(count: int, mesh: Mesh) -> None:
    """Raises UserError if a mesh does not divide the rows of a batch."""
    share = row_shares(mesh)
    if count % share:
        raise UserError(
            f"a batch of {count} rows is not a multiple of data x fsdp = {share},"
            " the devices of config.mesh that share them out"
        )


def _put(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """`device_put`, also of what every process has onto the devices of all."""
    if sharding.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])


def shardings(tree: Any, use: dict[str, str | None], mesh: Mesh | None = None) -> Any:
    """Where each leaf of a tree with parameters in it goes.

    Args:
      tree: arrays or their shapes.
      use: `TRAIN` or `DECODE`.
      mesh: the active one if not given; the first device if none is.

    Raises:
      UserError: the mesh does not divide a parameter.
      ValueError: the rules do not cover the tree.
    """
    mesh = jax.sharding.get_mesh() if mesh is None else mesh
    if mesh.empty:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda _: here, tree)
    found = specs(tree, use)
    jax.tree_util.tree_map_with_path(
        lambda path, leaf, spec: _check_division(_name(path), leaf.shape, spec, mesh),
        tree,
        found,
    )
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), found)


def specs(tree: Any, use: dict[str, str | None]) -> Any:
    """What of each leaf is shared out over which axes, as `PartitionSpec`s.

    Args:
      tree: a network's parameters, or anything that holds some under the same names,
        such as a training state.
      use: `TRAIN` or `DECODE`.

    Raises:
      ValueError: no rule is for a leaf, two are, one is for other dimensions; or one
        of a group of rules is for nothing while others of the group are in use.
    """
    used = set()

    def of(path, leaf):
        name = _name(path)
        if not leaf.ndim:
            return PartitionSpec()
        matching = [
            (group, pattern)
            for group, rules in RULES.items()
            for pattern in rules
            if re.search(f"(^|/){pattern}$", name)
        ]
        if len(matching) != 1:
            raise ValueError(
                f"{len(matching)} sharding rules for parameter {name}; need one"
            )
        used.update(matching)
        group, pattern = matching[0]
        dimensions = RULES[group][pattern]
        if len(dimensions) != leaf.ndim:
            raise ValueError(
                f"the sharding rule {pattern!r} is for {len(dimensions)} dimensions,"
                f" and parameter {name} has shape {leaf.shape}"
            )
        return PartitionSpec(*(use.get(d) for d in dimensions))

    found = jax.tree_util.tree_map_with_path(of, tree)
    for group in {group for group, _ in used}:
        if idle := [rule for rule in RULES[group] if (group, rule) not in used]:
            raise ValueError(f"the sharding rule {idle[0]!r} is for no parameter")
    return found


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _check_division(name: str, shape: tuple, spec: PartitionSpec, mesh: Mesh) -> None:
    for size, axis in zip(shape, spec, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(
                f"config.mesh.{axis}={mesh.shape[axis]} does not divide {size}, a"
                f" dimension of parameter {name} {list(shape)}; take a divisor of it"
            )
