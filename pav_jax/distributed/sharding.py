"""Where every array of a network is on a mesh: one table of rules, and what uses it.

For training (`TRAIN`), parameters and optimizer state are sharded over `fsdp`, and
gathered a layer at a time. For sampling and scoring (`DECODE`), weights are whole along
`fsdp`, since gathering them for every token would cost more than the token. In both,
heads, the feed-forward layer and the vocabulary are sharded over `tensor`.

Functions find the active mesh themselves (`pav_jax.distributed.mesh`). Without one,
everything is on one device, and constraints do nothing.
"""

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pav_jax.core.errors import UserError
from pav_jax.distributed.mesh import BATCH, check_rows

# Rules: the mesh axis of each kind of dimension. None: whole on every device.
Rules = dict[str, str | None]
TRAIN: Rules = {"vocab": "tensor", "heads": "tensor", "mlp": "tensor", "embed": "fsdp"}
DECODE: Rules = TRAIN | {"embed": None}

# The kind of each dimension of each parameter, by the end of the parameter's name. A
# dimension that is None is whole everywhere; so are scalars, which need no rule.
DIMENSIONS: dict[str, dict[str, tuple[str | None, ...]]] = {
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
    "verifier's head": {"head/value": (None,)},
    "hidden layer of a verifier's head, and evidence": {
        "head/hidden": ("embed", None),
        r"head/(hidden_bias|evidence)": (None,),
    },
    "value baseline's head": {"head/w": (None,)},
}


def constrain(x: jax.Array, *axes: Any) -> jax.Array:
    """`x`, with its leading dimensions sharded over mesh axes, within a jit."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))


def constrain_one(x: jax.Array, dimension: int, axis: str) -> jax.Array:
    """As `constrain`, for one dimension only; the others stay as they are."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    spec = [PartitionSpec.UNCONSTRAINED] * x.ndim
    spec[dimension] = axis
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))


def constrain_batch(tree: Any) -> Any:
    """Arrays `[B, ...]`, their rows sharded over the batch axes, within a jit."""
    return jax.tree.map(lambda x: constrain(x, BATCH) if x.ndim else x, tree)


def constrain_params(tree: Any, rules: Rules) -> Any:
    """A tree with parameters in it, sharded as the rules say, within a jit."""
    if jax.sharding.get_abstract_mesh().empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, specs(tree, rules))


def place(tree: Any, rules: Rules) -> Any:
    """A tree with parameters in it, moved to where the rules say on the active mesh.

    Without a mesh it is moved to the first device.

    Raises:
      UserError: the active mesh does not divide a parameter.
    """
    return jax.tree.map(_put, tree, shardings(tree, rules))


def place_batch(batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """Arrays `[B, ...]` of the host, moved to the active mesh, if there is one.

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


def _put(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """`device_put`; if every process has the leaf, also onto the devices of all."""
    if sharding.is_fully_addressable or not getattr(leaf, "is_fully_addressable", True):
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda at: host[at])


def shardings(tree: Any, rules: Rules, mesh: Mesh | None = None) -> Any:
    """Where each leaf of a tree with parameters in it goes.

    Args:
      tree: arrays or their shapes.
      rules: `TRAIN` or `DECODE`.
      mesh: the active one by default; the first device if there is none.

    Raises:
      UserError: the mesh does not divide a parameter.
      ValueError: the rules do not cover the tree.
    """
    mesh = jax.sharding.get_mesh() if mesh is None else mesh
    if mesh.empty:
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda _: here, tree)
    found = specs(tree, rules)
    jax.tree_util.tree_map_with_path(
        lambda path, leaf, spec: _check_division(_name(path), leaf.shape, spec, mesh),
        tree,
        found,
    )
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), found)


def specs(tree: Any, rules: Rules) -> Any:
    """The `PartitionSpec` of each leaf.

    Args:
      tree: a network's parameters, or anything that holds some under the same names,
        such as a training state.
      rules: `TRAIN` or `DECODE`.

    Raises:
      ValueError: a leaf has no rule, two rules, or one for another number of
        dimensions; or a rule of a group has no leaf while others of the group have.
    """
    used = set()

    def of(path, leaf):
        name = _name(path)
        if not leaf.ndim:
            return PartitionSpec()
        matching = [
            (group, pattern)
            for group, patterns in DIMENSIONS.items()
            for pattern in patterns
            if re.search(f"(^|/){pattern}$", name)
        ]
        if len(matching) != 1:
            raise ValueError(
                f"{len(matching)} sharding rules for parameter {name}; need one"
            )
        used.update(matching)
        group, pattern = matching[0]
        dimensions = DIMENSIONS[group][pattern]
        if len(dimensions) != leaf.ndim:
            raise ValueError(
                f"the sharding rule {pattern!r} is for {len(dimensions)} dimensions,"
                f" and parameter {name} has shape {leaf.shape}"
            )
        return PartitionSpec(*(rules.get(d) for d in dimensions))

    found = jax.tree_util.tree_map_with_path(of, tree)
    for group in {group for group, _ in used}:
        if idle := [rule for rule in DIMENSIONS[group] if (group, rule) not in used]:
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
