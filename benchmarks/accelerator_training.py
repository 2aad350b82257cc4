"""Rows of `benchmarks.accelerator`: scoring, training steps, and the whole demo."""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks import roofline
from benchmarks.accelerator_shapes import (
    Row,
    Shapes,
    batch_of,
    random_policy,
    random_prm,
    row_of,
)
from benchmarks.roofline import Ceilings, Cost
from pav_jax import policy, verifier
from pav_jax.rl import update as rl_update
from pav_jax.rl.rewards import Objective
from pav_jax.train.step import init_state, make_optimizer, make_train_step

ROOT = Path(__file__).resolve().parents[1]
_GIB = 2**30
_OPTIMIZER = ConfigDict(
    dict(
        steps=100,
        warmup_steps=10,
        learning_rate=1e-5,
        final_learning_rate=0.1,
        weight_decay=0.0,
        clip_norm=1.0,
    )
)


def scoring(shapes: Shapes, ceilings: Ceilings) -> Iterator[Row]:
    """All steps of whole responses, one pass."""
    c, (rows, length) = shapes.architecture, shapes.train
    params = random_prm(shapes)
    batch = batch_of(shapes)["tokens"]
    program, compiled = compile_for(
        jax.jit(functools.partial(verifier.step_values, architecture=c)), params, batch
    )
    seconds = roofline.seconds(lambda: program(params, batch), repeats=shapes.repeats)
    cost = roofline.tokens(c, rows * length, length / 2, table=False)
    cost += roofline.weights(c, params["network"]["embed"].dtype.itemsize, table=False)
    yield _row("verifier scoring", shapes, seconds, cost, ceilings, compiled, program)


def _row(
    kind: str,
    shapes: Shapes,
    seconds: float,
    cost: Cost,
    ceilings: Ceilings,
    compiled: float,
    program: Any,
) -> Row:
    """A row of work on one training batch."""
    rows, length = shapes.train
    return row_of(
        f"{kind}, {rows} x {length}",
        rows * length,
        "tokens",
        seconds,
        cost,
        ceilings,
        compile=compiled,
        note=_temporaries(program),
    )


def sft(shapes: Shapes, ceilings: Ceilings) -> Iterator[Row]:
    """A step of fine-tuning, with Adam's moments in float32."""
    c, (rows, length) = shapes.architecture, shapes.train
    loss = functools.partial(policy.sft_loss, architecture=c)
    optimizer = make_optimizer(_OPTIMIZER)
    batch = batch_of(shapes)
    holder = [init_state(random_policy(shapes), optimizer)]
    program, compiled = compile_for(make_train_step(loss, optimizer), holder[0], batch)

    def step():
        holder[0], metrics = program(holder[0], batch)
        return metrics

    seconds = roofline.seconds(step, repeats=shapes.repeats)
    cost = roofline.tokens(c, rows * length, length / 2, table=True) * 3
    # Weights and moments, in and out.
    cost += Cost(bytes=c.num_params * 2 * (2 + 4 + 4))
    yield _row("SFT step", shapes, seconds, cost, ceilings, compiled, program)


def rl(shapes: Shapes, ceilings: Ceilings) -> Iterator[Row]:
    """An update of PAV-RL with the group's baseline: one network is trained."""
    c, (rows, length) = shapes.architecture, shapes.train
    objective = Objective(reward="progress", baseline="group", kl=0.01, alpha=3.0)
    optimizers = (make_optimizer(_OPTIMIZER),) * 2
    params = random_policy(shapes)
    holder = [rl_update.init_state(params, objective, optimizers, architecture=c)]
    batch = batch_of(shapes)
    zeros, place = jnp.zeros(shapes.train), jnp.arange(length)[None]
    right = (jnp.arange(rows) % 2)[:, None]
    batch |= {
        "outcome": jnp.where(place == length - 1, right, zeros),
        "step_end": jnp.broadcast_to(place % 16 == 15, shapes.train),
        "process_reward": zeros + 0.1,
        "sampled": zeros - 12.0,
    }
    update = rl_update.make_update(
        objective, optimizers, architecture=c, group=max(1, rows // 2)
    )
    program, compiled = compile_for(update, holder[0], params, batch)

    def step():
        holder[0], metrics = program(holder[0], params, batch)
        return metrics

    seconds = roofline.seconds(step, repeats=shapes.repeats)
    cost = roofline.tokens(c, rows * length, length / 2, table=True) * 4
    cost += Cost(bytes=c.num_params * 2 * (2 + 4 + 4))
    yield _row("RL update", shapes, seconds, cost, ceilings, compiled, program)


def demo(shapes: Shapes, ceilings: Ceilings) -> Iterator[Row]:
    """The whole pipeline at smoke size, here and on the CPU of the same machine."""
    if jax.devices()[0].platform == "cpu":
        return
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        runs = {
            name: _start_demo(Path(folder) / name, platform)
            for name, platform in (("device", None), ("cpu", "cpu"))
        }
        taken = {}
        for name, run in runs.items():
            out, _ = run.communicate()
            taken[name] = time.perf_counter() - started
            if run.returncode:
                raise RuntimeError(f"the demo failed on {name}:\n{out[-3000:]}")
        losses = {
            stage: [_last_loss(Path(folder) / name / stage) for name in runs]
            for stage in ("sft", "prm", "orm")
        }
    gaps = {s: abs(a - b) / abs(b) for s, (a, b) in losses.items()}
    yield Row(
        "demo.py:smoke, to its search",
        1 / taken["device"],
        "runs",
        taken["device"],
        note="last loss, relative to the CPU's: "
        + ", ".join(f"{stage} {gap:.1e}" for stage, gap in gaps.items())
        + " (prm and orm train on what each device sampled)",
    )


def _start_demo(workdir: Path, platform: str | None) -> subprocess.Popen:
    program = "import sys; from pav_jax.main import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "run"]
    command += ["--config=experiments/demo.py:smoke", f"--workdir={workdir}"]
    command += ["--until=search"]  # the report needs packages that a bare machine lacks
    environment = os.environ | ({"JAX_PLATFORMS": platform} if platform else {})
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def _last_loss(stage: Path) -> float:
    lines = (stage / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["loss"]


def compile_for(function, *arguments) -> tuple[Any, float]:
    """A jitted function, compiled for its arguments, and the seconds it took."""
    start = time.perf_counter()
    program = function.lower(*arguments).compile()
    return program, time.perf_counter() - start


def _temporaries(program) -> str:
    found = program.memory_analysis()
    return (
        f"{found.argument_size_in_bytes / _GIB:.2f} GiB of arguments,"
        f" {found.temp_size_in_bytes / _GIB:.2f} of temporaries"
    )
