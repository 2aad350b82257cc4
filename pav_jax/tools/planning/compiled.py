"""Compiles one step function for a TPU that is not there, and reports what it takes.

Run as a program of its own, which reads a request as JSON and prints an answer as JSON:
the compiler's settings go through the environment, and its memory is given back.
"""

import importlib.util
import json
import os
import re
import resource
import subprocess
import sys
import time
from typing import Any

import jax
from jax.experimental import topologies
from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.distributed import mesh as mesh_lib
from pav_jax.tools.planning import answer_cache, depth, program, steps
from pav_jax.tools.planning.topology import Topology, parse

_SETTINGS = {
    "JAX_PLATFORMS": "cpu",
    "JAX_OPTIMIZATION_LEVEL": "O1",  # five times faster; memory within 3% of O2
    # Otherwise libtpu looks for the machine that it is on.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing is run, so several may plan at once
}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}
_SIZE = r"([\d.]+)([KMGT]?)"
# Two ways in which the compiler says what it needs and what there is.
_REFUSALS = (
    rf"\({_SIZE}\) exceeds available \S+ \({_SIZE}\)",
    rf"Used {_SIZE}i?B? of {_SIZE}i?B? hbm",
)


def compile_step(
    name: str, config: ConfigDict, topology: str, sizes: dict[str, int]
) -> dict[str, Any]:
    """What compiling a step function says; see `_compile`.

    An answer is kept, and given again to the same question (`kept`).

    Args:
      name: one of `steps.names`.
      config: the experiment's.
      topology: as the compiler calls it.
      sizes: of the mesh's axes.

    Raises:
      UserError: the mesh does not divide something.
      RuntimeError: it could not be compiled for another reason; says which.
    """
    if importlib.util.find_spec("libtpu") is None:
        missing = "the TPU compiler, libtpu, is not installed"
        raise RuntimeError(f"{missing}: pip install 'pav_jax[plan]'")
    read = steps.read_by(name, config).to_json(sort_keys=True)
    request = dict(name=name, config=read, topology=topology, sizes=sizes)
    if answer := answer_cache.find(request):
        return answer
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(request),
        env=os.environ | _SETTINGS,
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or ["it did not say why"])[-1]
        raise RuntimeError(f"the compiler stopped with code {done.returncode}: {last}")
    answer = json.loads(lines[-1])
    if "wrong" in answer:
        raise UserError(answer["wrong"])
    if "unknown" in answer:
        raise RuntimeError(answer["unknown"])
    answer_cache.keep(request, answer)
    return answer


def _compile(name: str, config: str, topology: str, sizes: dict[str, int]) -> dict:
    """The answer to a request.

    Returns:
      `parts`, bytes of a device's arguments by what they are; of all devices in one
      step `flops` and `tokens`, trained on or sampled; `compiled_layers`, those of the
      programs that were compiled; `seconds`, `cpu_seconds` and `peak`, bytes, what
      compiling took; whether it `fits`. If so: `temporaries` and `total`, bytes of a
      device; `collectives`, mesh axes to bytes that a device sends; `copies`. Else
      `needed`, bytes of a device, and `limit`.
    """
    started = time.monotonic()
    target, config = parse(topology), ConfigDict(json.loads(config))
    mesh = mesh_lib.make_mesh(sizes, _devices(target))
    step, model = steps.build(name, config, mesh), steps.architecture(config)
    limit, layers = target.chip.hbm, model.num_layers
    found = []
    for few in steps.shallow(name, config):
        # A stack of so few layers is smaller than one of all.
        large = program.LARGE_COPY * few.num_layers / layers
        part = steps.build(name, config, mesh, few)
        found.append(_program(part, few.num_layers, mesh, limit, large))
    compiled = [one.layers for one in found]
    whole = depth.extrapolate(*found, layers) if found else None
    if whole is None or depth.is_near(whole.total, limit):
        whole = _program(step, layers, mesh, limit)
        compiled.append(layers)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "parts": step.parts,
        "tokens": step.tokens,
        "flops": whole.flops,
        **_memory(whole, limit),
        "compiled_layers": compiled,
        "seconds": time.monotonic() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * 1024,
    }


def _devices(target: Topology) -> list[Any]:
    """Those of a slice, none of which is there."""
    # A host has 2x2 chips, or all of a smaller slice.
    shape = (*target.shape, 1)
    host = [min(2, shape[0]), min(2, shape[1]), 1]
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=target.name, chips_per_host_bounds=host
        ).devices
    except Exception as error:  # jax raises several kinds
        raise RuntimeError(f"{target.name} cannot be compiled for: {error}") from error


def _program(
    step: steps.Step,
    layers: int,
    mesh: jax.sharding.Mesh,
    limit: float,
    large_copy: float = program.LARGE_COPY,
) -> depth.Program:
    """Compiles a step function of so many layers, for devices of `limit` bytes."""
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        traced = step.function.trace(*step.arguments, **step.static)
        flops = program.flops(traced.jaxpr.jaxpr)
        try:
            compiled = traced.lower(lowering_platforms=("tpu",)).compile()
        except jax.errors.JaxRuntimeError as error:
            arguments = sum(step.parts.values())
            # Sizes are rounded there.
            rest = max(_needed(error), limit + 1) - arguments
            return depth.Program(layers, flops, arguments, rest, {}, [])
    memory = compiled.memory_analysis()
    arguments = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )
    moved = program.traffic(compiled.as_text(), mesh, large_copy)
    return depth.Program(
        layers,
        flops,
        arguments,
        memory.temp_size_in_bytes,
        moved.collectives,
        moved.copies,
    )


def _needed(error: Exception) -> float:
    """The bytes that a refusal of the compiler says are needed.

    Raises:
      RuntimeError: it is about something else.
    """
    for refusal in _REFUSALS:
        if found := re.search(refusal, str(error)):
            return float(found[1]) * _UNITS[found[2]]
    raise RuntimeError(f"it does not compile: {error}") from error


def _memory(whole: depth.Program, limit: float) -> dict[str, Any]:
    """Whether a program fits a device of `limit` bytes, and what it takes."""
    # At O1 the compiler has been seen to accept more than there is.
    if whole.total > limit:
        return {"fits": False, "needed": whole.total, "limit": limit}
    return {
        "fits": True,
        "temporaries": whole.temporaries,
        "total": whole.total,
        "collectives": whole.collectives,
        "copies": whole.copies,
    }


def _main() -> None:
    try:
        answer = _compile(**json.load(sys.stdin))
    except UserError as error:
        answer = {"wrong": str(error)}
    except RuntimeError as error:
        answer = {"unknown": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
