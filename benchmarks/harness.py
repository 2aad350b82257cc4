"""Two ways to do the same work, measured in turn.

Both sides run in one process, on the same devices, one after the other in every round,
so that other work on the machine slows both. The first call of each, in which it
compiles, is timed separately. The figures are medians over the rounds.
"""

import contextlib
import dataclasses
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence

import jax

from pav_jax import rollout
from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Params
from pav_jax.distributed import mesh, sharding
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.rollout import Request

# Before jax starts. A device that is alone at work still computes with all cores, so
# this takes nothing from a peer.
jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)
ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Side:
    """One way to do the work.

    Attributes:
      name: what it is.
      run: does the work once, to the end, and returns how much it was, in the unit.
    """

    name: str
    run: Callable[[], float]


@dataclasses.dataclass
class _Times:
    first: float
    rates: list[float] = dataclasses.field(default_factory=list)
    cpu_rates: list[float] = dataclasses.field(default_factory=list)


def compare(
    benchmark: str, ours: Side, peer: Side, *, unit: str, model: str
) -> dict[str, object]:
    """Measures both sides, and reports.

    Args:
      benchmark: what is measured.
      ours: our way.
      peer: the other way.
      unit: what `Side.run` counts; a second of it is what is compared.
      model: the architecture, in words.

    Returns:
      What `report` returns.
    """
    sides = (ours, peer)
    times = [_Times(_timed(side.run)[1]) for side in sides]
    for _ in range(ROUNDS):
        for side, seen in zip(sides, times, strict=True):
            work, seconds, cpu = _timed(side.run)
            seen.rates.append(work / seconds)
            seen.cpu_rates.append(work / cpu)
    for side, seen in zip(sides, times, strict=True):
        print(
            f"  {side.name}: {statistics.median(seen.rates):,.4g} {unit}/s"
            f" ({min(seen.rates):,.4g} to {max(seen.rates):,.4g}),"
            f" {statistics.median(seen.cpu_rates):,.4g} a CPU second;"
            f" first call {seen.first:.1f} s"
        )
    # If others use the machine, this says more than the wall clock.
    cpu = [statistics.median(seen.cpu_rates) for seen in times]
    print(f"  ratio by CPU seconds: {cpu[0] / cpu[1]:.2f}")
    rates = [statistics.median(seen.rates) for seen in times]
    return report(benchmark, *rates, unit=f"{unit}/s", model=model)


def on_all_devices(rows: int) -> contextlib.AbstractContextManager:
    """A context in which `rows` are sharded over all devices, as by `config.mesh.data`.

    On a CPU a device is a core.
    """
    count = math.gcd(jax.device_count(), rows)
    return jax.set_mesh(mesh.make_mesh({"data": count}, jax.devices()[:count]))


def sample(
    params: Params,
    requests: Sequence[Request],
    *,
    architecture: TransformerConfig,
    sampling: SamplingConfig,
) -> Ledger:
    """Samples all requests by our engine, on all devices; what it counted."""
    ledger = Ledger()
    with on_all_devices(sampling.trunks // sampling.trunks_per_group):
        params = sharding.place(params, sharding.DECODE)
        for _ in rollout.sample(
            params,
            requests,
            architecture=architecture,
            sampling=sampling,
            ledger=ledger,
        ):
            pass
    return ledger


def report(
    benchmark: str, ours: float, peer: float, *, unit: str, model: str
) -> dict[str, object]:
    """Prints a row of the table and a line of JSON.

    Args:
      benchmark: what was measured.
      ours: our figure.
      peer: the other one.
      unit: of both.
      model: the architecture, in words.

    Returns:
      The content of the line of JSON.
    """
    found = {
        "benchmark": benchmark,
        "ours": float(f"{ours:.4g}"),
        "peer": float(f"{peer:.4g}"),
        "ratio": round(ours / peer, 3),
        "unit": unit,
        "device": device(),
        "model": model,
    }
    print(table([found]))
    print(json.dumps(found), flush=True)
    return found


def skip(benchmark: str, missing: ImportError) -> None:
    """Says that a peer is not installed."""
    print(f"{benchmark}: skipped, {missing}; `make peers` installs what it needs")


def table(rows: list[dict[str, object]]) -> str:
    """The results as a table in Markdown."""
    lines = [
        "| benchmark | ours | peer | ratio | unit | model | device |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        figures = f"{row['ours']:,.4g} | {row['peer']:,.4g} | {row['ratio']:.2f}"
        lines.append(
            f"| {row['benchmark']} | {figures} | {row['unit']} | {row['model']}"
            f" | {row['device']} |"
        )
    return "\n".join(lines)


def device() -> str:
    """The device, in words."""
    first = jax.devices()[0]
    if first.platform != "cpu":
        return first.device_kind
    return f"CPU, {len(os.sched_getaffinity(0))} cores, {platform.machine()}"


def describe(architecture: TransformerConfig) -> str:
    """The architecture, in words."""
    return (
        f"{architecture.num_layers} layers, width {architecture.embed_dim},"
        f" {architecture.num_heads} heads, MLP {architecture.mlp_dim},"
        f" vocabulary {architecture.vocab_size}, float32"
    )


def _timed(run: Callable[[], float]) -> tuple[float, float, float]:
    """(work, seconds, CPU seconds of all threads) of one call."""
    cpu, start = time.process_time(), time.perf_counter()
    work = run()
    return work, time.perf_counter() - start, time.process_time() - cpu
