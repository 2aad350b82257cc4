"""Meshes: every parameter has a rule, and 8 devices compute what one does."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec
from tiny import abstract_mesh

from pav_jax import verifier
from pav_jax.core.errors import UserError
from pav_jax.distributed import mesh, sharding
from pav_jax.gemma import forward, sizes
from pav_jax.rl import update

WORKER = Path(__file__).with_name("mesh_worker.py")
JOBS = ["sft", "sft_by_blocks", "prm", "reinforce", "decode", "score", "beams"]
MESHES = [
    ({"data": 2, "fsdp": 2, "tensor": 2}, JOBS),
    ({"fsdp": 8}, ["decode", "beams"]),
]


@pytest.fixture(scope="module")
def report():
    """What the worker prints, by mesh: differences, and shapes that are gathered."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": str(WORKER.parents[2]),
    }
    done = subprocess.run(
        [sys.executable, WORKER, json.dumps(MESHES)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=3_600,  # a bound for what hangs, on however busy a machine
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


CASES = [(json.dumps(sizes), job) for sizes, jobs in MESHES for job in jobs]


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "job"), CASES)
def test_eight_devices_compute_what_one_does(report, sizes, job):
    assert report["meshes"][sizes]["difference"][job] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "job"), CASES)
def test_nothing_large_is_gathered(report, sizes, job):
    gathered = report["meshes"][sizes]["gathered"][job]
    if job == "decode" and "tensor" not in sizes:
        assert not gathered  # rows do not depend on each other
    elif job != "score":  # the one that may need no gather at all
        assert gathered
    whole = report["whole"]
    for shape in gathered:
        # The table, or a stack of layers; one layer at a time has to be.
        assert shape not in whole["parameters"]
        # Nor anything with all tokens of the vocabulary, padded or not.
        assert max(shape, default=0) < whole["vocabulary"]


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="has one core")
def test_cores_are_devices_of_a_mesh_that_asks_for_them():
    program = (
        "import jax; from pav_jax.distributed import mesh;"
        "mesh.activate({'mesh': {'data': 2}});"
        "print(jax.device_count(), jax.sharding.get_mesh().shape['data'])"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == ["2", "2"], done.stderr


# The rules.

GEMMA2, GEMMA3 = (sizes.by_name(name) for name in ("gemma2_2b", "gemma3_4b"))


def shapes(architecture):
    return jax.eval_shape(lambda: forward.init_params(jax.random.key(0), architecture))


def networks(architecture):
    """A training state of each kind of network, as shapes."""

    def make():
        model = forward.init_params(jax.random.key(0), architecture)
        prm = verifier.init_verifier(jax.random.key(0), model, architecture)
        value = update.init_value(model, architecture)
        return {
            name: (params, optax.adam(1.0).init(params))
            for name, params in (("policy", model), ("prm", prm), ("value", value))
        }

    return jax.eval_shape(make)


@pytest.mark.parametrize("architecture", [GEMMA2, GEMMA3], ids=["gemma2", "gemma3"])
@pytest.mark.parametrize("network", ["policy", "prm", "value"])
def test_every_parameter_and_its_moments_have_a_rule(architecture, network):
    params, moments = networks(architecture)[network]
    found = sharding.specs(params, sharding.TRAIN)
    of_moments = sharding.specs(moments, sharding.TRAIN)
    assert of_moments[0].mu == found and of_moments[0].nu == found
    for leaf, spec in zip(jax.tree.leaves(params), jax.tree.leaves(found), strict=True):
        assert leaf.size < 1_000_000 or "fsdp" in spec, leaf.shape


def test_decoding_has_weights_whole_along_fsdp():
    for spec in jax.tree.leaves(sharding.specs(shapes(GEMMA2), sharding.DECODE)):
        assert "fsdp" not in spec
    assert sharding.specs(shapes(GEMMA2), sharding.DECODE)["embed"] == PartitionSpec(
        "tensor", None
    )


@dataclasses.dataclass(frozen=True)
class Chip:
    """What jax asks of a TPU to lay out a mesh."""

    id: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v6 lite"
    core_on_chip: int = 0
    process_index: int = 0
    slice_index: int = 0


def test_a_mesh_may_split_a_side_of_a_slice():
    """On 4x8, tensor=2 is no product of sides; pairs are neighbours, each chip once."""
    chips = [Chip(8 * x + y, (x, y, 0)) for x in range(4) for y in range(8)]
    found = mesh.make_mesh({"fsdp": 16, "tensor": 2}, chips)
    assert dict(found.shape) == {"data": 1, "fsdp": 16, "tensor": 2}
    assert {chip.id for chip in found.devices.flat} == set(range(32))
    for a, b in found.devices[0]:
        apart = [abs(i - j) for i, j in zip(a.coords, b.coords, strict=True)]
        assert sorted(apart) == [0, 0, 1]


def test_a_parameter_without_a_rule():
    tree = shapes(GEMMA2)
    tree["layers"]["router"] = tree["layers"]["q"]
    with pytest.raises(ValueError, match="0 sharding rules .* layers/router"):
        sharding.specs(tree, sharding.TRAIN)


def test_a_rule_without_a_parameter():
    tree = shapes(GEMMA2)
    del tree["layers"]["down"]
    with pytest.raises(ValueError, match="'layers/down' is for no parameter"):
        sharding.specs(tree, sharding.TRAIN)


def test_a_rule_for_other_dimensions():
    tree = shapes(GEMMA2)
    tree["final_norm"] = tree["embed"]
    with pytest.raises(ValueError, match="1 dimensions, and parameter final_norm"):
        sharding.specs(tree, sharding.TRAIN)


def test_a_mesh_that_does_not_divide():
    abstract = abstract_mesh(1, 1, 8)
    with pytest.raises(UserError, match="tensor=8 does not divide 4, .* layers/kv"):
        sharding.shardings(shapes(GEMMA2), sharding.TRAIN, abstract)


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({"fsdp": 8}, (1, 8, 1)),
        ({"fsdp": -1, "tensor": 2}, (1, 4, 2)),
        ({"data": 2, "fsdp": 2, "tensor": -1}, (2, 2, 2)),
    ],
)
def test_sizes_of_a_mesh(sizes, shape):
    assert mesh.axis_sizes(sizes, 8) == shape


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"fsdp": 3}, "for 8 devices"),
        ({"fsdp": -1, "tensor": 3}, "for 8 devices"),
        ({"fsdp": -1, "tensor": -1}, "for 8 devices"),
        ({"fsdp": 0}, "for 8 devices"),
        ({"model": 8}, "no axis 'model'"),
    ],
)
def test_sizes_that_make_no_mesh(sizes, message):
    with pytest.raises(UserError, match=message):
        mesh.axis_sizes(sizes, 8)


@pytest.mark.parametrize(
    ("sizes", "count", "local"),
    [
        ((1, 16, 1), 4, (1, 4, 1)),
        ((2, 4, 2), 4, (1, 2, 2)),
        ((8, 2, 1), 8, (4, 2, 1)),
        ((1, 4, 4), 4, (1, 1, 4)),
        ((4, 1, 1), 1, (1, 1, 1)),
    ],
)
def test_the_mesh_of_one_process_of_many(sizes, count, local):
    sizes_here = mesh.process_sizes(dict(zip(mesh.AXES, sizes, strict=True)), count)
    assert sizes_here == dict(zip(mesh.AXES, local, strict=True))


def test_tensor_stays_within_a_process():
    with pytest.raises(UserError, match="tensor=8 does not divide the 4 devices"):
        mesh.process_sizes({"data": 1, "fsdp": 2, "tensor": 8}, 4)


def test_a_batch_is_placed_by_rows():
    """A mesh of one device stands for any, but for the division."""
    batch = {"x": np.arange(6).reshape(3, 2), "y": np.arange(3.0, dtype=np.float32)}
    assert sharding.place_batch(batch) is batch
    with jax.set_mesh(mesh.make_mesh({})):
        placed = sharding.place_batch(batch)
    for name, array in batch.items():
        np.testing.assert_array_equal(placed[name], array)
        assert placed[name].sharding.spec == PartitionSpec(mesh.BATCH)


def test_without_a_mesh_all_is_on_one_device():
    placed = sharding.place({"embed": jnp.ones((2, 2))}, sharding.TRAIN)
    assert placed["embed"].devices() == {jax.local_devices()[0]}
    assert sharding.constrain(placed["embed"], mesh.BATCH) is placed["embed"]
