"""`pav plan`: names of slices, what programs do, and what is said and returned."""

import io
import json
import math
import re
import runpy
import sys
from pathlib import Path

import pytest
from tiny import abstract_mesh

from pav_jax import main
from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.tools import plan
from pav_jax.tools.planning import (
    compiled,
    estimate,
    meshes,
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


def test_the_total_names_what_it_has_not(compiler):
    """Policies of other sizes, whose step functions are not compiled."""
    names = "policy-large, labels-large, policy-small, labels-small"
    file = DEMO.parent / "paper" / "fig05c_cross_provers.py"
    for path, left_out in ((file, names), (DEMO, "")):
        made = config_lib.load([f"--config={path}"])
        found = plan.make_plan(made, topology.parse("v5e:1x1"))
        [total] = [x for x in plan.text(found).splitlines() if x.startswith("in all")]
        assert ("not counted" in total) == bool(left_out)
        assert left_out in total and total == total.rstrip()
        assert ", ".join(found.as_json()["not_counted"]) == left_out


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
    mesh = abstract_mesh(1, 64, 1)
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
    mesh = abstract_mesh(1, 4, 4)
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
    """16 beams of 3 candidates: 48 rows, of 5 problems or more, whole ones a device."""
    token = 2 * 26 * 4 * 256 * 2  # of one model, and there are two
    for sizes, problems in [((1, 4, 4), 8), ((1, 32, 1), 32)]:
        step = steps.build("search", config, abstract_mesh(*sizes))
        cache = 2 * token * problems * (512 + 48 * 512) / math.prod(sizes)
        assert step.parts["cache"] == cache
        assert step.tokens == 48 * problems


def test_a_problem_that_fills_a_batch_is_shared_out(config):
    """128 beams of 3 candidates: 384 rows, a quarter of them on each of 4 devices."""
    config.search.beams = (128,)
    token = 2 * 26 * 4 * 256 * 2
    step = steps.build("search", config, abstract_mesh(1, 4, 4))
    assert step.parts["cache"] == 2 * token * (512 + 384 * 512 / 4) / 4
    assert step.tokens == 384


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
    """4 kv heads: tensor=4 at most, so 64 shards of the rows. With the flags that are
    said there is one."""
    config, slice_ = paper("2b", "rl"), topology.parse("v6e-256")
    with config.unlocked():
        config.rl.training.samples = 3
    with pytest.raises(UserError) as raised:
        meshes.of_slice(config, slice_)
    flags = re.findall("--config.([a-z_.]+)=([0-9]+)", str(raised.value))
    assert dict(flags)["mesh.tensor"] == "4" and len(flags) == 5
    with config.unlocked():
        config.update_from_flattened_dict({name: int(n) for name, n in flags})
    assert config.rl.training.problems == 64
    assert meshes.of_slice(config, slice_) == [{"fsdp": 64, "tensor": 4}]


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


def test_exit_codes(compiler, capsys):
    command = ["plan", f"--config={DEMO}", "--topology=v5litepod-1", "--json"]
    assert main.main(command) == plan.FITS
    (found,) = json.loads(capsys.readouterr().out)
    assert found["topology"] == "v5e:1x1" and found["fits"] is True
    compiler["sft"] = REFUSED
    assert main.main(command) == plan.DOES_NOT
    assert main.main([*command[:2], "--topology=v5p:3x3x3"]) == 2
    assert "no slice of v5p" in capsys.readouterr().err
