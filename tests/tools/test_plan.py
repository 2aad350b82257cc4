"""`pav plan`: names of slices, what programs do, and what is said and returned."""

import importlib.util
import io
import json
import math
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import topologies
from jax.sharding import AbstractMesh, PartitionSpec

from pav_jax import main
from pav_jax.core.errors import UserError
from pav_jax.distributed.mesh import AXES, BATCH, by_device_shards, make_mesh
from pav_jax.tools import plan
from pav_jax.tools.planning import (
    compiled,
    depth,
    estimate,
    kept,
    meshes,
    program,
    steps,
    topology,
)
from pav_jax.tools.planning.progress import Progress

DEMO = Path(__file__).parents[2] / "experiments" / "demo.py"
GIB = 2**30

# Slices.


@pytest.mark.parametrize(
    ("said", "meant", "chips"),
    [
        ("v5litepod-16", "v5e:4x4", 16),
        ("v5e-8", "v5e:2x4", 8),
        ("v5p-128", "v5p:4x4x4", 64),
        ("v5p-8", "v5p:2x2x1", 4),
        ("v6e-256", "v6e:16x16", 256),
        ("v5p:8x8x16", "v5p:8x8x16", 1024),
        ("tpu7x:2x2x1", "tpu7x:2x2x1", 4),
    ],
)
def test_names_of_slices(said, meant, chips):
    found = topology.parse(said)
    assert (found.name, found.chips) == (meant, chips)
    assert topology.parse(found.name) == found


@pytest.mark.parametrize(
    "said",
    ["tpu7x-8", "v5p:3x3x3", "v5e:4x4x4", "v5litepod-512", "v5p-3", "v6e", "", "v5e:"],
)
def test_names_of_no_slice(said):
    with pytest.raises(UserError, match="--topology="):
        topology.parse(said)


@pytest.mark.parametrize(
    ("said", "devices", "hosts"),
    [
        ("v5litepod-1", 1, 1),
        ("v5litepod-8", 8, 1),
        ("v6e-16", 16, 4),
        ("v5p-8", 4, 1),
        ("v5p-16", 8, 2),
        ("tpu7x:2x2x1", 8, 1),
        ("tpu7x:4x4x4", 128, 16),
    ],
)
def test_devices_and_hosts_of_slices(said, devices, hosts):
    """As in the tables of the maker's pages on each TPU."""
    found = topology.parse(said)
    assert (found.devices, found.hosts) == (devices, hosts)


def test_the_next_larger_slice():
    assert topology.parse("v5p:4x4x4").larger() == topology.parse("v5p:4x4x8")
    assert topology.parse("tpu7x:4x4x4").larger() == topology.parse("tpu7x:4x4x8")
    assert topology.parse("v6e-256").larger() is None


# Programs.


def test_flops_of_products_loops_and_gradients():
    def products(a, b):
        def body(carry, _):
            return jnp.tanh(carry @ b), None

        return jnp.sum(jax.lax.scan(body, a, None, length=5)[0])

    a, b = jnp.zeros((3, 7)), jnp.zeros((7, 7))
    one = 2 * 3 * 7 * 7
    assert program.flops(jax.make_jaxpr(products)(a, b).jaxpr) == 5 * one
    gradient = jax.make_jaxpr(jax.grad(products, argnums=(0, 1)))(a, b)
    assert program.flops(gradient.jaxpr) == 15 * one
    again = jax.make_jaxpr(jax.grad(jax.checkpoint(products), argnums=(0, 1)))(a, b)
    assert program.flops(again.jaxpr) == 20 * one


def test_flops_of_a_choice_are_those_of_the_larger_branch():
    def choose(is_large, a, b):
        return jax.lax.cond(is_large, lambda a, b: a @ b @ b, jnp.matmul, a, b)

    jaxpr = jax.make_jaxpr(choose)(True, jnp.zeros((3, 7)), jnp.zeros((7, 7))).jaxpr
    assert program.flops(jaxpr) == 2 * 2 * 3 * 7 * 7


def test_flops_of_rows_that_devices_share():
    kinds = (jax.sharding.AxisType.Auto,) * 3
    with jax.sharding.use_abstract_mesh(AbstractMesh((4, 2, 2), AXES, kinds)):
        rows, whole = PartitionSpec(BATCH), PartitionSpec()
        product = by_device_shards(jnp.matmul, (rows, whole), rows)
        jaxpr = jax.make_jaxpr(product)(jnp.zeros((16, 3)), jnp.zeros((3, 5))).jaxpr
    assert program.flops(jaxpr) == 2 * 16 * 3 * 5


HLO = """
HloModule jit_step

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%body (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %gather = f32[64,128]{1,0:T(8,128)} all-gather(%x), replica_groups=[4,2]<=[8], dimensions={0}
  %start = (bf16[8,128], bf16[8,128], u32[]{:S(2)}) collective-permute-start(%y), source_target_pairs={{0,2},{2,4},{4,6},{6,0}}
  %done = bf16[8,128] collective-permute-done(%start)
}

%condition (p: (s32[], f32[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(26)
  %other = s32[]{:T(128)} constant(99)
  %at = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%at, %limit), direction=LT
}

%until (p: (s32[], f32[8,128])) -> pred[] {
  %limit = s32[] constant(26)
  ROOT %gt = pred[] compare(%at, %limit), direction=GT
}

%all-reduce-scatter.1.clone (p: f32[8,128]) -> f32[4,128] {
  %sum = f32[8,128]{1,0} all-reduce(%x), replica_groups=[4,2]<=[8], to_apply=%add
}

%decode (p: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %all = f32[16]{0} all-reduce(%x), replica_groups=mesh['a'=1,'b'=4,'c'=2] {'b','c'}, to_apply=%add
}

ENTRY %main (p: f32[8,128]) -> f32[8,128] {
  %loop = (s32[], f32[8,128]) while(%t), condition=%condition, body=%body
  %open = (s32[], f32[8,128]) while(%t), condition=%until, body=%decode
  %spread = f32[100]{0} reduce-scatter(%x), replica_groups=[2,4]<=[4,2]T(1,0), to_apply=%add
  %part = f32[4,128]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1.clone
  %small = f32[8,128]{1,0} copy(%x)
  %large = bf16[26,1024,2048]{2,1,0:T(8,128)(2,1)} copy(%cache)
}
"""  # noqa: E501


def test_traffic_by_axis_and_copies():
    """Mesh data=1, fsdp=4, tensor=2: device 2f + t."""
    mesh = AbstractMesh((1, 4, 2), AXES)
    found = program.traffic(HLO, mesh)
    assert found.collectives == {
        "tensor": 26 * 64 * 128 * 4 / 2 + 8 * 128 * 4 / 2,
        "fsdp": 26 * 8 * 128 * 2 + 100 * 4 * 3,
        "fsdp+tensor": 2 * 16 * 4 * 7 / 8,
    }
    assert found.copies == [("bf16[26,1024,2048]", 26 * 1024 * 2048 * 2, 1)]


# What is made of it.


@pytest.fixture(scope="module")
def config():
    found = runpy.run_path(str(DEMO))["get_config"]()
    found.model = dict(name="gemma2_2b", dtype="bfloat16")
    found.limits = dict(max_prompt_tokens=512, max_tokens=512, max_steps=10)
    for section in (found.sft, found.verifier.prm):
        section.batch_size = 32
    found.sampling.trunks_per_group = 1
    return found.lock()


def answer(name):
    parts = {"weights": 2 * GIB, "optimizer": 4 * GIB, "data": 0}
    if name in ("decode", "search"):
        parts = {"weights": 2 * GIB, "cache": GIB, "data": 0}
    tokens = {"decode": 32 * 8, "search": 240}.get(name, 32 * 1024)
    return {
        "fits": True,
        "parts": parts,
        "tokens": tokens,
        "flops": 16 * 197e12,
        "temporaries": GIB,
        "total": 7 * GIB,
        "collectives": {"fsdp": 9e10},
        "copies": [("bf16[26,1024,2048]", 109051904, 2)],
        "compiled_layers": [2, 4] if "cache" in parts else [26],
        "seconds": 1.0,
        "peak": GIB,
    }


REFUSED = {
    "fits": False,
    "parts": {"weights": 4 * GIB, "optimizer": 6 * GIB, "data": 0},
    "flops": 1.0,
    "needed": 23.07 * GIB,
    "limit": 15.75 * GIB,
    "compiled_layers": [26],
    "seconds": 1.0,
    "peak": GIB,
}


@pytest.fixture
def compiler(monkeypatch):
    """Answers in place of the compiler's: by step function, else one that fits."""
    answers = {}

    def compile_step(name, config, topology, sizes):
        found = answers.get(name, answer(name))
        if isinstance(found, Exception):
            raise found
        return dict(found)

    monkeypatch.setattr(compiled, "compile_step", compile_step)
    return answers


def test_a_step_takes_as_long_as_its_slowest_part_at_least():
    seconds = estimate.step_seconds(answer("sft"), topology.parse("v5e:4x4"))
    memory = (6 + 2 + 6) * GIB / 819e9
    assert seconds[0] == pytest.approx(1.0)  # 16 chips at their peak
    assert seconds[1] == pytest.approx(1 / 0.4 + memory / 0.6 + 1.0 / 0.5)


def test_stages_add_up(config, compiler):
    found = plan.make_plan(config, topology.parse("v5e:4x4"))
    assert found.code == plan.FITS and found.sizes["fsdp"] == 16
    by_name = {stage.name: stage for stage in found.stages}
    seconds = found.steps["sft"]["seconds_a_step"]
    hours = by_name["sft"].hours
    assert hours == pytest.approx([config.sft.steps * s / 3600 for s in seconds])
    assert by_name["sft"].chip_hours == pytest.approx([16 * h for h in hours])
    # 3,000 x 1 rollouts of 10 prefixes by 4 continuations of 512 x 11/20 tokens.
    most = 3_000 * 10 * 4 * 512 * 0.55 / (32 * 8)
    high = found.steps["decode"]["seconds_a_step"][1]
    assert by_name["labels"].hours[1] == pytest.approx(most * high / 3600)
    said = plan.text(found)
    assert "warning: bf16[26,1024,2048]" in said and "modelled" in said
    json.dumps(found.as_json(), allow_nan=False)


def test_first_pits_are_sampled_too(config, compiler):
    with config.labels.unlocked():
        config.labels.first_pit = dict(threshold=0.5, n_mc=5, responses=2)
    found = plan.make_plan(config, topology.parse("v5e:4x4"))
    [stage] = [stage for stage in found.stages if stage.name == "labels: first pits"]
    # The 10 prefixes of each of 6,000 rollouts, and those of 2 responses to each.
    assert stage.work.startswith("900,000 continuations of 180,000 prefixes")


def test_what_does_not_fit_is_refused_with_the_figures(config, compiler):
    compiler["sft"] = REFUSED
    found = plan.make_plan(config, topology.parse("v5e:4x4"))
    assert found.code == plan.DOES_NOT and not found.stages
    assert "sft: does not fit: needs 23.07 GiB of 15.75" in plan.text(found)
    assert "sft: v5e:4x8, 32 chips, should fit" in found.advice


def test_what_cannot_be_told(config, compiler):
    compiler["decode"] = RuntimeError("no libtpu")
    found = plan.make_plan(config, topology.parse("v5e:4x4"))
    assert found.code == plan.UNKNOWN
    assert "decode: not known: no libtpu" in plan.text(found)
    assert found.as_json()["fits"] is None


def test_search_ranks_what_divides(config, compiler):
    found = plan.search(config, topology.parse("v5e:4x4"))
    meshes = [(p.sizes["fsdp"], p.sizes["tensor"]) for p in found]
    assert sorted(meshes) == [(4, 4), (8, 2), (16, 1)]  # 4 kv heads
    with pytest.raises(UserError, match="no mesh of 256 devices"):
        plan.search(config, topology.parse("v6e-256"))


def test_a_batch_that_the_mesh_does_not_divide(config):
    mesh = AbstractMesh((1, 64, 1), AXES)
    with pytest.raises(UserError, match="batch size 32 has to be a multiple of .* 64"):
        steps.build("sft", config, mesh)


@pytest.mark.parametrize("size", ["2b", "9b", "27b"])
def test_the_paper_configs_have_a_mesh_on_a_pod(compiler, size):
    planned = plan.make_plan(paper(size), topology.parse("v5p:4x4x4"))
    assert planned.code == plan.FITS
    assert math.prod(planned.sizes.values()) == 64
    labels = next(stage for stage in planned.stages if stage.name == "labels")
    # 11,520 problems, 4 rollouts, 32 steps at most.
    assert f"continuations of {11_520 * 4 * 32:,} prefixes" in labels.work


def test_bytes_of_a_device(config):
    mesh = AbstractMesh((1, 4, 4), AXES)
    norms = (4 * 26 + 1) * 2304  # whole on every device
    shared = steps.architecture(config).num_params - norms
    training, decoding = (steps.build(n, config, mesh).parts for n in ("sft", "decode"))
    assert training["weights"] == 2 * (shared / 16 + norms)
    counts = 2 * 4  # Adam's and the schedule's steps
    # Moments are float32, the parameters here bfloat16.
    assert training["optimizer"] == 2 * 2 * training["weights"] + counts
    assert decoding["weights"] == 2 * (shared / 4 + norms)
    # 32 trunks of 1,024 tokens, each with 8 rows of 512; 4 kv heads of 256.
    token = 2 * 26 * 4 * 256 * 2
    assert decoding["cache"] == token * 32 * (1024 + 8 * 512) / 16


def test_bytes_of_a_device_in_search(config):
    """16 beams of 3 candidates: 48 rows, of 5 problems; the rows are shared out."""
    token = 2 * 26 * 4 * 256 * 2  # of one model, and there are two
    for sizes, cache in [
        ((1, 4, 4), 2 * token * 5 * (512 + 48 * 512 / 4) / 4),
        # 48 rows are not shared out by 32, so 32 problems are.
        ((1, 32, 1), 2 * token * 32 * (512 + 48 * 512) / 32),
    ]:
        step = steps.build("search", config, AbstractMesh(sizes, AXES))
        assert step.parts["cache"] == cache
        assert step.tokens == 48 * (32 if sizes[1] == 32 else 5)


def paper(size, variant=""):
    sys.path.insert(0, str(DEMO.parent))
    try:
        found = runpy.run_path(str(DEMO.with_name(f"gemma2_{size}_math.py")))
        return found["get_config"](variant)
    finally:
        sys.path.remove(str(DEMO.parent))


def test_the_mesh_of_the_config_is_kept_where_it_divides():
    mesh = {"data": 1, "fsdp": 16, "tensor": 2}
    assert meshes.stated(paper("9b"), topology.parse("v6e-32")) == (mesh, "")


def test_another_mesh_is_told(compiler):
    """16 trunks, 8 kv heads: of 128 devices, tensor has to be 8."""
    found = plan.make_plan(paper("9b"), topology.parse("v6e-128"))
    assert found.code == plan.FITS and found.sizes["tensor"] == 8
    said = plan.text(found)
    assert "mesh is fsdp=64 x tensor=2 here, but data x fsdp = 64 does not" in said
    assert "Meshes that do: fsdp=16 x tensor=8. Planned with" in said
    assert " --config.mesh.fsdp=16 --config.mesh.tensor=8." in said
    assert found.as_json()["mesh_note"] == found.note


def test_groups_of_trunks_are_not_divided(config):
    """32 trunks in groups of 4, as in the demo, are 8 groups."""
    with config.unlocked():
        config = config.copy_and_resolve_references()
        config.sampling.trunks_per_group = 4
    found = meshes.of_slice(config, topology.parse("v5e:4x4"))
    assert [mesh["fsdp"] for mesh in found] == [8, 4]


def test_no_mesh_at_all():
    """4 kv heads: tensor=4 at most, so 64 shards of the rows."""
    with pytest.raises(UserError, match="multiples of 64, with config.mesh.tensor=4"):
        meshes.of_slice(paper("2b"), topology.parse("v6e-256"))


def test_answers_are_said_as_they_come(config, compiler):
    compiler["sft"] = REFUSED
    parts, progress = [], Progress(io.StringIO())
    target = topology.parse("v5e:4x4")
    found = plan.make_plan(config, target, progress=progress, say=parts.append)
    assert parts[0].startswith("v5e:4x4, 16 chips, mesh fsdp=16")
    assert {part.partition(":")[0] for part in parts[1:-1]} == set(found.steps)
    assert "should fit" in parts[-1]
    assert sorted("\n".join(parts).splitlines()) == sorted(
        plan.text(found).splitlines()
    )
    assert "compiled with 2 and 4 layers" in plan.text(found)


def test_progress():
    now, out = [0.0], io.StringIO()
    progress = Progress(out, clock=lambda: now[0])
    with progress.running("sft") as ends:
        now[0] = 61.5
        with progress.running("search"):
            now[0] = 75.0
            progress.tick()
        ends("compiled")
    assert out.getvalue().splitlines() == [
        "0:00  sft: begins",
        "1:01  search: begins",
        "1:15  compiling sft for 1:15, search for 0:13",
        "1:15  search: stopped after 0:13",
        "1:15  sft: compiled after 1:15",
    ]


# Few layers in place of all.


def one_program(layers, **fields):
    """A program of layers that are all alike, of 70 MiB each, and of what is once."""
    stack = f"f32[{layers},1024,17920]"
    found = dict(
        layers=layers,
        flops=5.0 + 3.0 * layers,
        kept=100 + 7 * layers,
        temporaries=40 + 2 * layers,
        collectives={"fsdp": 11.0, "tensor": 2.0 * layers},
        copies=[
            (stack, layers * 70 * 2**20, 1),
            ("f32[16,1024,1120]", 70 * 2**20, 2 * layers),
        ],
    )
    return depth.Program(**found | fields)


def test_layers_that_are_alike():
    found = depth.extrapolate(one_program(2), one_program(4), 26)
    assert found == one_program(26)
    # The compiler may take less for more layers; then no less is supposed.
    found = depth.extrapolate(
        one_program(2, temporaries=90), one_program(4, temporaries=80), 26
    )
    assert found.temporaries == 80


def test_copies_that_are_small_with_few_layers():
    def small(layers):
        return one_program(
            layers, copies=[(f"f32[{layers},1024,1024]", layers * 4 * 2**20, 3)]
        )

    found = depth.extrapolate(small(2), small(4), 26)
    assert found.copies == small(26).copies
    assert depth.extrapolate(small(2), small(4), 10).copies == []


def test_near_the_limit():
    assert depth.is_near(97.5, 100.0) and depth.is_near(102.5, 100.0)
    assert not depth.is_near(96.5, 100.0) and not depth.is_near(103.5, 100.0)


@pytest.fixture(scope="module")
def deep():
    """A small network of 10 layers."""
    found = runpy.run_path(str(DEMO))["get_config"]("smoke")
    with found.unlocked():
        found.model.num_layers = 10
    return found


@pytest.mark.parametrize("name", ["decode", "search"])
def test_operations_and_bytes_of_few_layers(deep, name):
    """Traced, but not compiled."""
    mesh, whole = make_mesh({}, jax.devices()[:1]), steps.architecture(deep)

    def traced(model):
        step = steps.build(name, deep, mesh, model)
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            jaxpr = step.function.trace(*step.arguments, **step.static).jaxpr
        size = sum(step.parts.values())
        flops = program.flops(jaxpr.jaxpr)
        return depth.Program(model.num_layers, flops, size, 0, {}, [])

    few = steps.shallow(name, deep)
    assert [model.num_layers for model in few] == [2, 4]
    assert depth.extrapolate(*map(traced, few), 10) == traced(whole)


def test_steps_that_are_compiled_whole(deep):
    assert steps.shallow("sft", deep) == ()
    with deep.unlocked():
        deep = deep.copy_and_resolve_references()
        deep.model.num_layers = 8
    assert steps.shallow("decode", deep) == ()


# Answers that are kept.


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The requests that a compiler was asked, whose answers tell their number."""
    requests = []

    def run(command, *, input, **_):
        requests.append(json.loads(input))
        answer = json.dumps({"fits": True, "flops": float(len(requests))})
        return subprocess.CompletedProcess(command, 0, f"{answer}\n", "")

    monkeypatch.setenv("PAV_SCRATCH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(compiled.subprocess, "run", run)
    return requests


def ask(config, name="sft", slice_="v5e:2x2"):
    return compiled.compile_step(name, config, slice_, {"fsdp": 4})["flops"]


def test_the_same_question_is_answered_at_once(config, asked, monkeypatch):
    assert [ask(config), ask(config), len(asked)] == [1.0, 1.0, 1]
    other = config.copy_and_resolve_references()
    with other.unlocked():
        other.name, other.search.candidates = "other", 5
        other.model.checkpoint = "elsewhere"
    assert ask(other) == 1.0  # SFT depends on none of these
    with other.unlocked():
        other.sft.batch_size = 64
    assert ask(other) == 2.0
    assert ask(config, "verifier") == 3.0
    assert ask(config, slice_="v5p:2x2x1") == 4.0
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=elsewhere")
    assert ask(config) == 5.0
    monkeypatch.delenv("XLA_FLAGS")
    version = kept._version
    monkeypatch.setattr(
        kept, "_version", lambda p: "9.9" if p == "libtpu" else version(p)
    )
    assert ask(config) == 6.0
    monkeypatch.setattr(kept, "_version", version)
    monkeypatch.setattr(kept, "_source", lambda: "a changed step function")
    assert ask(config) == 7.0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"digest": "", "answer": {}}'])
def test_a_damaged_answer_is_compiled_anew(config, asked, tmp_path, text):
    assert ask(config) == 1.0
    (file,) = (tmp_path / "plans").iterdir()
    file.write_text(text)
    assert [ask(config), ask(config)] == [2.0, 2.0]
    file.write_text(file.read_text().replace("2.0", "3.0"))
    assert ask(config) == 3.0 and len(asked) == 3


def test_a_folder_that_takes_no_answer(config, asked, tmp_path, capsys):
    (tmp_path / "plans").write_text("a file")
    assert [ask(config), ask(config)] == [1.0, 2.0]
    assert "this answer is not kept: cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sft", "verifier", "decode", "search", "rl"])
def test_a_step_needs_no_more_than_it_is_said_to_read(config, name):
    if name == "rl":
        config = paper("2b", "rl")
    mesh = AbstractMesh((1, 1, 1), AXES)
    read = steps.read_by(name, config)
    assert steps.build(name, read, mesh).parts == steps.build(name, config, mesh).parts


@pytest.mark.parametrize("name", ["sft", "search"])
def test_programs_come_from_the_source_that_answers_depend_on(deep, name):
    mesh, root = make_mesh({}, jax.devices()[:1]), Path(compiled.__file__).parents[2]
    few = steps.shallow("decode", deep)[0]
    step = steps.build(name, deep, mesh, few)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = step.function.lower(*step.arguments, **step.static)
    text = lowered.as_text(debug_info=True)
    files = {Path(f) for f in re.findall(r'"(/[^"]+\.py)"', text)}
    ours = {file for file in files if root in file.parents}
    assert root / "gemma" / "forward.py" in ours
    assert ours <= set(kept.sources())


# What a refusal says.


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("program (23.07G) exceeds available memory (15.75G)", 23.07 * GIB),
        ("in memory space hbm. Used 15.76G of 15.75G hbm. Exceeded", 15.76 * GIB),
        ("Used 912.50M of 15.75G hbm", 912.5 * 2**20),
    ],
)
def test_sizes_in_a_refusal(words, needed):
    assert compiled._needed(RuntimeError(words)) == needed


def test_another_error_is_no_refusal():
    with pytest.raises(RuntimeError, match="does not compile: Mosaic failed"):
        compiled._needed(ValueError("Mosaic failed"))


def test_exit_codes(compiler, capsys):
    command = ["plan", f"--config={DEMO}", "--topology=v5litepod-1", "--json"]
    assert main.main(command) == plan.FITS
    (found,) = json.loads(capsys.readouterr().out)
    assert found["topology"] == "v5e:1x1" and found["fits"] is True
    compiler["sft"] = REFUSED
    assert main.main(command) == plan.DOES_NOT
    assert main.main([*command[:2], "--topology=v5p:3x3x3"]) == 2
    assert "no slice of v5p" in capsys.readouterr().err


# The compiler itself.

has_libtpu = importlib.util.find_spec("libtpu") is not None


@pytest.mark.skipif(has_libtpu, reason="libtpu is installed")
def test_without_libtpu(config):
    with pytest.raises(RuntimeError, match="pav_jax\\[plan\\]"):
        compiled.compile_step("sft", config, "v5e:2x2", {"fsdp": 4})


@pytest.mark.slow
@pytest.mark.skipif(not has_libtpu, reason="needs libtpu: pip install 'pav_jax[plan]'")
@pytest.mark.parametrize("name", ["v5e:4x4", "v5p:2x2x2", "v6e:4x8", "tpu7x:2x2x4"])
def test_the_compiler_knows_each_chip(name):
    """Without compiling anything, its devices and hosts."""
    target = topology.parse(name)
    devices = topologies.get_topology_desc(
        platform="tpu", topology_name=name, chips_per_host_bounds=[2, 2, 1]
    ).devices
    assert len(devices) == target.devices
    assert len({device.process_index for device in devices}) == target.hosts


@pytest.mark.skipif(not has_libtpu, reason="needs libtpu: pip install 'pav_jax[plan]'")
def test_the_demo_compiles_for_a_tpu(monkeypatch, tmp_path):
    monkeypatch.setenv("PAV_SCRATCH", str(tmp_path))
    config = runpy.run_path(str(DEMO))["get_config"]("smoke")
    found = compiled.compile_step("sft", config, "v5e:1x1", {})
    assert found["fits"] and 0 < found["total"] < GIB
    assert found["flops"] > 0 and found["collectives"] == {}
    again = compiled.compile_step("sft", config, "v5e:1x1", {})
    assert again == found | {"kept": True}


def compile_whole(name, config, slice_, sizes):
    request = dict(name=name, config=config.to_json(), topology=slice_, sizes=sizes)
    program = (
        "from pav_jax.tools.planning import compiled, steps;"
        " steps.shallow = lambda *_: (); compiled._main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(request),
        env=os.environ | compiled._SETTINGS,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not has_libtpu, reason="needs libtpu: pip install 'pav_jax[plan]'")
@pytest.mark.parametrize("name", ["decode", "search"])
def test_few_layers_tell_of_all(monkeypatch, tmp_path, deep, name):
    """The compiler's word of all layers, on a mesh that splits a side of the slice."""
    monkeypatch.setenv("PAV_SCRATCH", str(tmp_path))
    asked = (name, deep, "v6e:4x8", {"fsdp": 16, "tensor": 2})
    few = compiled.compile_step(*asked)
    whole = compile_whole(*asked)
    assert few["compiled_layers"] == [2, 4] and whole["compiled_layers"] == [10]
    assert few["flops"] == whole["flops"]
    assert few["total"] == pytest.approx(whole["total"], rel=0.03)
