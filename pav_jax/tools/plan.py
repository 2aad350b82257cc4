"""`pav plan`: does an experiment fit a TPU slice, and what would it take there?

The step functions are compiled for the slice by its own compiler, which needs no TPU;
so memory is the compiler's word. Times are modelled (`planning.estimate`).
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.distributed import mesh as mesh_lib
from pav_jax.tools.planning import compiled, estimate, steps
from pav_jax.tools.planning.topology import Topology

FITS, DOES_NOT, UNKNOWN = 0, 1, 2  # exit codes
_GIB = 2**30
_TENSOR = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was found for one experiment on one slice.

    Attributes:
      topology: the slice.
      sizes: of the mesh's axes.
      steps: for each step function what `compiled.compile_step` answered, with
        `seconds_a_step` and `tokens_per_second` where it fits; or `unknown`, why
        it is not known.
      stages: what each stage takes; empty unless all step functions fit.
      advice: what would fit, where one does not.
    """

    topology: Topology
    sizes: dict[str, int]
    steps: dict[str, dict[str, Any]]
    stages: list[estimate.Stage]
    advice: list[str]

    @property
    def code(self) -> int:
        """0 if all fits, 1 if something does not, 2 if that is not known."""
        if any(not answer.get("fits", True) for answer in self.steps.values()):
            return DOES_NOT
        return UNKNOWN if any("unknown" in a for a in self.steps.values()) else FITS

    def as_json(self) -> dict[str, Any]:
        """All of it, as values that JSON has."""
        return {
            "topology": self.topology.name,
            "chips": self.topology.chips,
            "mesh": self.sizes,
            "fits": {FITS: True, DOES_NOT: False, UNKNOWN: None}[self.code],
            "modelled": "times and costs are modelled, not measured",
            "steps": self.steps,
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "advice": self.advice,
        }


def make_plan(
    config: ConfigDict, topology: Topology, sizes: dict[str, int] | None = None
) -> Plan:
    """Compiles every step function of an experiment for a slice.

    Args:
      config: the experiment's.
      topology: the slice.
      sizes: of the mesh's axes; if not given, the config's where they divide the
        network and its batches on this slice, and else the first that do.

    Raises:
      UserError: the mesh does not go with the slice, a batch or a parameter.
    """
    if sizes is None:
        sizes = _sizes(config, topology)
    shape = mesh_lib.axis_sizes(sizes, topology.devices)
    sizes = dict(zip(mesh_lib.AXES, shape, strict=True))
    found: dict[str, dict[str, Any]] = {}
    for name in steps.names(config):
        try:
            answer = compiled.compile_step(name, config, topology.name, sizes)
        except RuntimeError as error:
            found[name] = {"unknown": str(error)}
            continue
        if answer["fits"]:
            seconds = estimate.step_seconds(answer, topology)
            speed = estimate.tokens_per_second(answer, topology)
            answer |= {"seconds_a_step": seconds, "tokens_per_second": speed}
        found[name] = answer
    fits = all(answer.get("fits") for answer in found.values())
    return Plan(
        topology,
        sizes,
        found,
        estimate.stages(config, found, topology) if fits else [],
        _advice(config, topology, sizes, found),
    )


def search(config: ConfigDict, topology: Topology) -> list[Plan]:
    """A plan for each mesh that divides the batches and the network, best first.

    Raises:
      UserError: there is no such mesh.
    """
    plans = [make_plan(config, topology, sizes) for sizes in _meshes(config, topology)]
    if not plans:
        raise UserError(
            f"no mesh of {topology.devices} devices divides the batches and the heads"
            f" of {config.name}; take larger batches, or fewer chips"
        )
    return sorted(plans, key=_cost)


def _cost(plan: Plan) -> tuple[int, float]:
    return plan.code, sum(sum(stage.chip_hours) for stage in plan.stages)


def _meshes(config: ConfigDict, topology: Topology) -> Iterator[dict[str, int]]:
    """Meshes that divide the network and its batches."""
    for tensor in _TENSOR:
        if topology.devices % tensor == 0:
            sizes = {"fsdp": topology.devices // tensor, "tensor": tensor}
            if _divides(config, sizes):
                yield sizes


def _divides(config: ConfigDict, sizes: dict[str, int]) -> bool:
    model = steps.architecture(config)
    tensor, fsdp = sizes.get("tensor", 1), sizes.get("fsdp", 1)
    shards = fsdp * sizes.get("data", 1)
    batches = [steps.rows(name, config) for name in steps.names(config)]
    return (
        model.num_kv_heads % tensor == 0
        and model.mlp_dim % tensor == 0
        and model.vocab_size % tensor == 0
        and model.embed_dim % fsdp == 0
        and all(rows % shards == 0 for rows in batches if rows is not None)
    )


def _sizes(config: ConfigDict, topology: Topology) -> dict[str, int]:
    """The config's mesh if it suits the slice, or else the first that does."""
    stated = dict(config.get("mesh") or {"fsdp": -1})
    with contextlib.suppress(UserError):
        shape = mesh_lib.axis_sizes(stated, topology.devices)
        sizes = dict(zip(mesh_lib.AXES, shape, strict=True))
        if _divides(config, sizes):
            return sizes
    # If none does, the config's tells the user what it does not divide.
    return next(_meshes(config, topology), stated)


def _advice(config, topology, sizes, found) -> list[str]:
    """What would make the steps that do not fit do so, by arithmetic."""
    advice = []
    for name, answer in found.items():
        if answer.get("fits", True):
            continue
        needed, limit = answer["needed"], answer["limit"]
        fixed = sum(answer["parts"].values())
        shards = sizes["data"] * sizes["fsdp"]
        batch = steps.rows(name, config)
        samples = name in ("decode", "search")
        rest = needed - fixed
        if batch is None:
            advice.append(f"{name}: fewer than {max(config.search.beams)} beams")
        elif fixed < limit:
            # What is not weights or optimizer is in proportion to the rows.
            fewer = int(batch * (limit - fixed) / rest) // shards * shards
            if fewer:
                advice.append(f"{name}: {fewer} rows rather than {batch} may fit")
        weights = answer["parts"]["weights"]
        if samples and sizes["tensor"] < 8 and weights > limit / 2:
            advice.append(f"{name}: a larger mesh.tensor than {sizes['tensor']}")
        if sizes["data"] > 1:
            advice.append(f"{name}: mesh.fsdp in place of mesh.data")
        larger = topology
        while larger := larger.larger():
            if needed * topology.chips / larger.chips < limit:
                advice.append(
                    f"{name}: {larger.name}, {larger.chips} chips, should fit"
                )
                break
        else:
            advice.append(f"{name}: chips with more memory than {topology.kind} has")
    return advice


def text(plan: Plan) -> str:
    """The plan for people."""
    mesh = (
        " x ".join(f"{a}={n}" for a, n in plan.sizes.items() if n > 1) or "one device"
    )
    lines = [
        f"{plan.topology.name}, {plan.topology.chips} chips, mesh {mesh}",
        "Memory is the compiler's word. Times and costs are modelled, not measured.",
        "",
    ]
    for name, answer in plan.steps.items():
        lines += _step_lines(name, answer, plan.topology)
    if plan.stages:
        lines += ["", "stage           hours            chip-hours       work"]
        for stage in plan.stages:
            hours, chip_hours = _range(stage.hours), _range(stage.chip_hours)
            lines.append(f"{stage.name:<15} {hours:<16} {chip_hours:<16} {stage.work}")
        total = tuple(sum(s.chip_hours[i] for s in plan.stages) for i in (0, 1))
        lines.append(f"{'in all':<32} {_range(total)}")
    if plan.advice:
        lines += ["", "What would fit:", *(f"  {line}" for line in plan.advice)]
    return "\n".join(lines)


def _step_lines(name: str, answer: dict[str, Any], topology: Topology) -> list[str]:
    if "unknown" in answer:
        return [f"{name}: not known: {answer['unknown']}"]
    parts = ", ".join(f"{k} {v / _GIB:.2f}" for k, v in answer["parts"].items())
    limit = topology.chip.hbm / _GIB
    if not answer["fits"]:
        return [
            f"{name}: does not fit: needs {answer['needed'] / _GIB:.2f} GiB of"
            f" {answer['limit'] / _GIB:.2f} a device ({parts})"
        ]
    low, high = answer["tokens_per_second"]
    moved = ", ".join(
        f"{axes or 'none'} {size / 2**20:,.0f} MiB"
        for axes, size in answer["collectives"].items()
        if size >= 2**20
    )
    lines = [
        f"{name}: fits: {answer['total'] / _GIB:.2f} GiB of {limit:.2f} a device"
        f" ({parts}, temporaries {answer['temporaries'] / _GIB:.2f})",
        f"  {answer['flops'] / 1e12:,.1f} TFLOP a step;"
        f" {_range(answer['seconds_a_step'])} s; {low:,.0f} to {high:,.0f} tokens/s",
        f"  a device sends, by mesh axis: {moved or 'nothing'}",
    ]
    for shape, size, times in answer["copies"]:
        lines.append(
            f"  warning: {shape} ({size / _GIB:.2f} GiB) is copied {times}x a step"
        )
    return lines


def _range(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.3g} to {pair[1]:.3g}"
