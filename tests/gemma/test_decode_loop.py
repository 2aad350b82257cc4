"""The grid takes the memory that its module says."""

import functools

import jax
import jax.numpy as jnp
import pytest

from pav_jax.gemma import decode_loop as grid_lib
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import tiny_gemma2
from pav_jax.gemma.sampling import SamplingConfig


@pytest.mark.parametrize(
    "architecture",
    [
        # One whose scores are larger than its logits, and one the other way.
        tiny_gemma2(
            64, num_layers=2, embed_dim=32, num_heads=4, num_kv_heads=2, mlp_dim=64
        ),
        tiny_gemma2(1024, num_layers=2, embed_dim=64, num_heads=2, mlp_dim=128),
    ],
    ids=["scores", "logits"],
)
def test_peak_memory_is_what_the_formula_says(architecture):
    g, s, m, t, c, j, n, v = 2, 2, 16, 48, 64, 16, 64, architecture.vocab_size
    sampling = SamplingConfig(
        max_tokens=n, end_ids=(3, 7), trunks=g * s, rows=m // s, trunks_per_group=s
    )
    params = jax.eval_shape(
        functools.partial(forward.init_params, architecture=architecture),
        jax.random.key(0),
    )
    grid = jax.eval_shape(
        lambda: grid_lib.empty_grid(
            t, c, j, architecture=architecture, sampling=sampling, dtype=jnp.float32
        )
    )
    patience = jax.ShapeDtypeStruct((), jnp.int32)
    program = grid_lib.run_segment.lower(
        params, grid, patience, architecture=architecture, sampling=sampling
    )
    memory = program.compile().memory_analysis()
    peak = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    peak += memory.output_size_in_bytes - memory.alias_size_in_bytes
    layers, heads = architecture.num_layers, architecture.num_heads
    key_values = 2 * layers * architecture.num_kv_heads * architecture.head_dim * 4
    expected = 4 * architecture.num_params + key_values * g * (s * t + m * c)
    expected += 8 * g * s * j * n + 4 * g * m * max(2 * v, 3 * heads * (s * t + c))
    assert peak == pytest.approx(expected, rel=0.1)
