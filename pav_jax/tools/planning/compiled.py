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

from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.tools.planning.topology import parse

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


def compile_step(
    name: str, config: ConfigDict, topology: str, sizes: dict[str, int]
) -> dict[str, Any]:
    """What compiling a step function says; see `_compile`.

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
    request = dict(name=name, config=config.to_json(), topology=topology, sizes=sizes)
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
    return answer


def _compile(name: str, config: str, topology: str, sizes: dict[str, int]) -> dict:
    """The answer to a request.

    Returns:
      `parts`, bytes of a device's arguments by what they are; of all devices in one
      step `flops` and `tokens`, trained on or sampled; `seconds`, `cpu_seconds` and
      `peak`, bytes, what compiling took. If it `fits`:
      `temporaries` and `total`, bytes of a device; `collectives`, mesh axes to bytes
      that a device sends; `copies`. Else `needed`, bytes of a device, and `limit`.
    """
    import jax
    from jax.experimental import topologies

    from pav_jax.distributed import mesh as mesh_lib
    from pav_jax.tools.planning import program, steps

    started = time.monotonic()
    # A host has 2x2 chips, or all of a smaller slice.
    shape = (*parse(topology).shape, 1)
    host = [min(2, shape[0]), min(2, shape[1]), 1]
    try:
        devices = topologies.get_topology_desc(
            platform="tpu", topology_name=topology, chips_per_host_bounds=host
        ).devices
    except Exception as error:  # jax raises several kinds
        return {"unknown": f"{topology} cannot be compiled for: {error}"}
    mesh = mesh_lib.make_mesh(sizes, devices)
    step = steps.build(name, ConfigDict(json.loads(config)), mesh)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        traced = step.function.trace(*step.arguments, **step.static)
        answer = {"parts": step.parts, "tokens": step.tokens}
        answer["flops"] = program.flops(traced.jaxpr.jaxpr)
        try:
            compiled = traced.lower(lowering_platforms=("tpu",)).compile()
        except jax.errors.JaxRuntimeError as error:
            answer |= _refused(name, error)
        else:
            moved = program.traffic(compiled.as_text(), mesh)
            answer |= _memory(compiled.memory_analysis(), parse(topology).chip.hbm)
            answer |= {"collectives": moved.collectives, "copies": moved.copies}
    used = resource.getrusage(resource.RUSAGE_SELF)
    return answer | {
        "seconds": time.monotonic() - started,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak": used.ru_maxrss * 1024,
    }


def _refused(name: str, error: Exception) -> dict[str, Any]:
    """What a refusal of the compiler says: the memory needed, or that it is unknown."""
    size = r"\(([\d.]+)([KMGT]?)\)"
    found = re.search(rf"{size} exceeds available \S+ {size}", str(error))
    if not found:
        return {"unknown": f"{name} does not compile: {error}"}
    needed, limit = (float(found[i]) * _UNITS[found[i + 1]] for i in (1, 3))
    return {"fits": False, "needed": needed, "limit": limit}


def _memory(memory: Any, limit: float) -> dict[str, Any]:
    """Whether a compiled program fits a device of `limit` bytes, and what it takes."""
    total = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    # At O1 the compiler has been seen to accept more than there is.
    if total > limit:
        return {"fits": False, "needed": total, "limit": limit}
    return {
        "fits": True,
        "temporaries": memory.temp_size_in_bytes,
        "total": total,
    }


def _main() -> None:
    try:
        answer = _compile(**json.load(sys.stdin))
    except UserError as error:
        answer = {"wrong": str(error)}
    print(json.dumps(answer))


if __name__ == "__main__":
    _main()
