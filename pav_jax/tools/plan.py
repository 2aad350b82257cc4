"""`pav plan`: does an experiment fit a TPU slice, and what would it take there?

The step functions are compiled for the slice by its own compiler, which needs no TPU;
so memory is the compiler's word, with arithmetic for programs whose layers are written
out (`planning.depth`). Times are modelled (`planning.estimate`).
"""

import dataclasses
import os
from collections.abc import Callable
from concurrent import futures
from typing import Any

from ml_collections import ConfigDict

from pav_jax.distributed import mesh as mesh_lib
from pav_jax.tools.planning import amounts, compiled, estimate, meshes, steps
from pav_jax.tools.planning.progress import Progress
from pav_jax.tools.planning.topology import Topology

FITS, DOES_NOT, UNKNOWN = 0, 1, 2  # exit codes
_GIB = 2**30
# Programs compiled side by side: each takes up to 2 GB, and more than one core.
_MOST_AT_ONCE = 4
# The longest first, so that none of them is left alone at the end.
_LONGEST = ("search", "rl", "verifier", "sft", "decode")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What was found for one experiment on one slice.

    Attributes:
      topology: the slice.
      sizes: of the mesh's axes.
      note: why the mesh is not the config's; "" if it is.
      steps: for each step function what `compiled.compile_step` answered, with
        `seconds_a_step` and `tokens_per_second` where it fits; or `unknown`, why
        it is not known.
      stages: what each stage takes; empty unless all step functions fit.
      not_counted: what is done beside these stages, in words.
      advice: what would fit, where one does not.
    """

    topology: Topology
    sizes: dict[str, int]
    note: str
    steps: dict[str, dict[str, Any]]
    stages: list[estimate.Stage]
    not_counted: list[str]
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
            "mesh_note": self.note,
            "fits": {FITS: True, DOES_NOT: False, UNKNOWN: None}[self.code],
            "modelled": "times and costs are modelled, not measured",
            "steps": self.steps,
            "stages": [dataclasses.asdict(stage) for stage in self.stages],
            "not_counted": self.not_counted,
            "advice": self.advice,
        }


def make_plan(
    config: ConfigDict,
    topology: Topology,
    sizes: dict[str, int] | None = None,
    *,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Plan:
    """Compiles every step function of an experiment for a slice.

    Args:
      config: the experiment's.
      topology: the slice.
      sizes: of the mesh's axes; if not given, the config's where they divide the
        network and its batches on this slice, and else the first that do.
      progress: is told what is being compiled.
      say: takes the plan for people (`text`), a part as soon as it is known.

    Raises:
      UserError: the mesh does not go with the slice, a batch or a parameter.
    """
    progress, note = progress or Progress(), ""
    if sizes is None:
        sizes, note = meshes.stated(config, topology)
    shape = mesh_lib.axis_sizes(sizes, topology.devices)
    sizes = dict(zip(mesh_lib.AXES, shape, strict=True))
    say(_header(topology, sizes, note))

    def answer(name: str) -> dict[str, Any]:
        with progress.running(name) as ends:
            found = _answer(name, config, topology, sizes)
            words = "not known" if "unknown" in found else "compiled"
            ends("known from before" if found.get("kept") else words)
        say("\n".join(_step_lines(name, found, topology)))
        return found

    names = steps.names(config)
    order = sorted(names, key=_LONGEST.index)
    with progress.ticking(), futures.ThreadPoolExecutor(_at_once()) as pool:
        answers = dict(zip(order, pool.map(answer, order), strict=True))
    found = {name: answers[name] for name in names}
    fits = all(one.get("fits") for one in found.values())
    plan = Plan(
        topology,
        sizes,
        note,
        found,
        estimate.stages(config, found, topology) if fits else [],
        amounts.not_counted(config) if fits else [],
        _advice(config, topology, sizes, found),
    )
    say("\n".join(_end_lines(plan)))
    return plan


def _at_once() -> int:
    return min(os.cpu_count() or 1, _MOST_AT_ONCE)


def _answer(name, config, topology: Topology, sizes) -> dict[str, Any]:
    """What compiling a step tells, and what is made of it."""
    try:
        found = compiled.compile_step(name, config, topology.name, sizes)
    except RuntimeError as error:
        return {"unknown": str(error)}
    if found["fits"]:
        seconds = estimate.step_seconds(found, topology)
        speed = estimate.tokens_per_second(found, topology)
        found |= {"seconds_a_step": seconds, "tokens_per_second": speed}
    return found


def search(
    config: ConfigDict, topology: Topology, *, progress: Progress | None = None
) -> list[Plan]:
    """A plan for each mesh that divides the batches and the network, best first.

    Raises:
      UserError: there is no such mesh.
    """
    progress, plans = progress or Progress(), []
    for sizes in meshes.of_slice(config, topology):
        progress.say(f"mesh {meshes.text(sizes)}")
        plans.append(make_plan(config, topology, sizes, progress=progress))
    return sorted(plans, key=_cost)


def _cost(plan: Plan) -> tuple[int, float]:
    return plan.code, sum(sum(stage.chip_hours) for stage in plan.stages)


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
    lines = [_header(plan.topology, plan.sizes, plan.note)]
    for name, answer in plan.steps.items():
        lines += _step_lines(name, answer, plan.topology)
    return "\n".join(lines + _end_lines(plan))


def _header(topology: Topology, sizes: dict[str, int], note: str) -> str:
    return (
        f"{topology.name}, {topology.chips} chips, mesh {meshes.text(sizes)}\n"
        + (f"{note}.\n" if note else "")
        + "Memory is the compiler's word; where a step says of how many layers, with"
        " arithmetic for the rest.\nTimes and costs are modelled, not measured.\n"
    )


def _end_lines(plan: Plan) -> list[str]:
    """What is known only of all steps."""
    lines = []
    if plan.stages:
        lines += ["", "stage           hours            chip-hours       work"]
        for stage in plan.stages:
            hours, chip_hours = _range(stage.hours), _range(stage.chip_hours)
            lines.append(f"{stage.name:<15} {hours:<16} {chip_hours:<16} {stage.work}")
        total = tuple(sum(s.chip_hours[i] for s in plan.stages) for i in (0, 1))
        lines.append(f"{'in all':<32} {_range(total):<16} {_rest(plan)}".rstrip())
    if plan.advice:
        lines += ["", "What would fit:", *(f"  {line}" for line in plan.advice)]
    return lines


def _rest(plan: Plan) -> str:
    """What the total has not."""
    if not plan.not_counted:
        return ""
    names = ", ".join(plan.not_counted)
    return f"not counted: {names} (of models of other sizes, which are not compiled)"


def _step_lines(name: str, answer: dict[str, Any], topology: Topology) -> list[str]:
    if "unknown" in answer:
        return [f"{name}: not known: {answer['unknown']}"]
    parts = ", ".join(f"{k} {v / _GIB:.2f}" for k, v in answer["parts"].items())
    limit = topology.chip.hbm / _GIB
    if not answer["fits"]:
        return [
            f"{name}: does not fit: needs {answer['needed'] / _GIB:.2f} GiB of"
            f" {answer['limit'] / _GIB:.2f} a device ({parts}){_by_layers(answer)}"
        ]
    low, high = answer["tokens_per_second"]
    moved = ", ".join(
        f"{axes or 'none'} {size / 2**20:,.0f} MiB"
        for axes, size in answer["collectives"].items()
        if size >= 2**20
    )
    lines = [
        f"{name}: fits: {answer['total'] / _GIB:.2f} GiB of {limit:.2f} a device"
        f" ({parts}, temporaries {answer['temporaries'] / _GIB:.2f})"
        + _by_layers(answer),
        f"  {answer['flops'] / 1e12:,.1f} TFLOP a step;"
        f" {_range(answer['seconds_a_step'])} s; {low:,.0f} to {high:,.0f} tokens/s",
        f"  a device sends, by mesh axis: {moved or 'nothing'}",
    ]
    for shape, size, times in answer["copies"]:
        lines.append(
            f"  warning: {shape} ({size / _GIB:.2f} GiB) is copied {times}x a step"
        )
    return lines


def _by_layers(answer: dict[str, Any]) -> str:
    """Of how many layers the compiled programs were, if of several numbers."""
    layers = answer["compiled_layers"]
    if len(layers) != 2:
        return ""
    return f"; compiled with {layers[0]} and {layers[1]} layers"


def _range(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.3g} to {pair[1]:.3g}"
