"""Few layers in place of all of them."""

import jax
import pytest

from pav_jax.distributed.mesh import make_mesh
from pav_jax.tools.planning import depth, program, steps


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
