"""The meshes that an experiment can have on a slice."""

import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from pav_jax.core.counts import round_up
from pav_jax.core.errors import UserError
from pav_jax.distributed import mesh as mesh_lib
from pav_jax.tools.planning import steps
from pav_jax.tools.planning.topology import Topology

_TENSOR = (1, 2, 4, 8, 16)
# The fields that say how many rows a batch of a step function has.
_ROWS = {
    "sft": "sft.batch_size",
    "verifier": "verifier.prm.batch_size",
    "decode": "sampling.trunks",
    "rl": "rl.training.problems",
}


def of_slice(config: ConfigDict, topology: Topology) -> list[dict[str, int]]:
    """The meshes that divide the network and its batches; `data` is 1.

    Raises:
      UserError: there is none.
    """
    found = list(_dividing(config, topology))
    if found:
        return found
    heads = steps.architecture(config).num_kv_heads
    tensor = max(n for n in _TENSOR if heads % n == 0 and topology.devices % n == 0)
    flags = _larger(config, topology.devices // tensor)
    other = f", or --config.mesh.tensor={tensor} {' '.join(flags)}" if flags else ""
    raise UserError(
        f"no mesh of {topology.devices} devices divides the batches and the {heads} kv"
        f" heads of {config.name}; take fewer chips{other}"
    )


def _larger(config: ConfigDict, shards: int) -> list[str]:
    """The least batches that so many shards divide, as flags, where they do not."""
    flags = []
    for name in steps.names(config):
        rows, unit = steps.rows(name, config), shards
        if rows is None:
            continue
        if name == "decode":
            unit *= config.sampling.get("trunks_per_group", 1)
        if name == "rl":
            samples = config.rl.training.samples
            rows, unit = rows // samples, unit // math.gcd(unit, samples)
        if rows % unit:
            flags.append(f"--config.{_ROWS[name]}={round_up(rows, unit)}")
    return flags


def stated(config: ConfigDict, topology: Topology) -> tuple[dict[str, int], str]:
    """The mesh of a config on a slice, or else the first that divides all.

    Returns:
      The mesh; why it is not the config's, "" if it is.

    Raises:
      UserError: there is none.
    """
    sizes = dict(config.get("mesh") or {"fsdp": -1})
    try:
        shape = mesh_lib.axis_sizes(sizes, topology.devices)
    except UserError as error:
        reason = str(error)
    else:
        sizes = dict(zip(mesh_lib.AXES, shape, strict=True))
        reason = _obstacle(config, sizes)
        if not reason:
            return sizes, ""
        reason = f"config.mesh is {text(sizes)} here, but {reason}"
    suited = of_slice(config, topology)
    flags = " ".join(f"--config.mesh.{axis}={n}" for axis, n in suited[0].items())
    said = "; ".join(map(text, suited))
    return suited[0], f"{reason}. Meshes that do: {said}. Planned with {flags}"


def text(sizes: dict[str, int]) -> str:
    """A mesh for people."""
    axes = [f"{axis}={n}" for axis, n in sizes.items() if n > 1]
    return " x ".join(axes) or "one device"


def _dividing(config: ConfigDict, topology: Topology) -> Iterator[dict[str, int]]:
    for tensor in _TENSOR:
        if topology.devices % tensor == 0:
            sizes = {"fsdp": topology.devices // tensor, "tensor": tensor}
            if not _obstacle(config, sizes):
                yield sizes


def _obstacle(config: ConfigDict, sizes: dict[str, int]) -> str:
    """What a mesh does not divide; "" if it divides all."""
    model = steps.architecture(config)
    tensor, fsdp = sizes.get("tensor", 1), sizes.get("fsdp", 1)
    for what, size, axis, by in (
        ("kv heads", model.num_kv_heads, "tensor", tensor),
        ("columns of the feed-forward layers", model.mlp_dim, "tensor", tensor),
        ("rows of the embedding table", model.vocab_size, "tensor", tensor),
        ("columns of the embedding table", model.embed_dim, "fsdp", fsdp),
    ):
        if size % by:
            return f"{axis}={by} does not divide {size:,} {what}"
    shards = fsdp * sizes.get("data", 1)
    for name in steps.names(config):
        rows, of = steps.rows(name, config), "rows"
        per_group = config.sampling.get("trunks_per_group", 1)
        if name == "decode" and per_group > 1:
            rows, of = rows // per_group, "groups of trunks"
        if rows is not None and rows % shards:
            return f"data x fsdp = {shards} does not divide {rows} {of} of {name}"
    return ""
