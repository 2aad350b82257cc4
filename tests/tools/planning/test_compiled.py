"""The compiler: what it knows, says, and refuses."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from jax.experimental import topologies

from pav_jax.distributed.mesh import make_mesh
from pav_jax.tools.planning import compiled, topology

GIB = 2**30


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
    for tensor in (1, 2, 4, 8):  # also where that is no product of its sides
        sizes = {"fsdp": -1, "tensor": tensor}
        assert set(make_mesh(sizes, devices).devices.flat) == set(devices)


@pytest.mark.skipif(not has_libtpu, reason="needs libtpu: pip install 'pav_jax[plan]'")
def test_the_demo_compiles_for_a_tpu(monkeypatch, tmp_path, smoke):
    monkeypatch.setenv("PAV_SCRATCH", str(tmp_path))
    found = compiled.compile_step("sft", smoke, "v5e:1x1", {})
    assert found["fits"] and 0 < found["total"] < GIB
    assert found["flops"] > 0 and found["collectives"] == {}
    again = compiled.compile_step("sft", smoke, "v5e:1x1", {})
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
