"""What programs do, from their jaxprs and compiled texts."""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from tiny import abstract_mesh

from pav_jax.distributed.mesh import BATCH, by_device_shards
from pav_jax.tools.planning import program


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
    with jax.sharding.use_abstract_mesh(abstract_mesh(4, 2, 2)):
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
    mesh = abstract_mesh(1, 4, 2)
    found = program.traffic(HLO, mesh)
    assert found.collectives == {
        "tensor": 26 * 64 * 128 * 4 / 2 + 8 * 128 * 4 / 2,
        "fsdp": 26 * 8 * 128 * 2 + 100 * 4 * 3,
        "fsdp+tensor": 2 * 16 * 4 * 7 / 8,
    }
    assert found.copies == [("bf16[26,1024,2048]", 26 * 1024 * 2048 * 2, 1)]
