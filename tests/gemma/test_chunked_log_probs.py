"""A vocabulary in chunks gives what it gives in one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pav_jax.gemma import chunked_log_probs

WIDTH = 16


def _gradients(loss, table, hidden):
    run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, losses), of_each = run(table, hidden)
    return losses, *of_each


# 41 rows go into no number of chunks evenly.
@pytest.mark.parametrize(("size", "chunk"), [(40, 10), (41, 10), (41, 40)])
@pytest.mark.parametrize("cap", [3.0, None], ids=["softcap", ""])
def test_loss_and_gradients_are_those_of_optax(size, chunk, cap):
    rng = np.random.default_rng(size + chunk)
    table = jnp.asarray(rng.normal(size=(size, WIDTH)), jnp.float32)
    hidden = jnp.asarray(rng.normal(size=(2, 5, WIDTH)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, size, (2, 5)), jnp.int32)
    targets = targets.at[1, 0].set(size - 1)
    weights = jnp.asarray(rng.normal(size=targets.shape), jnp.float32)

    def plain(table, hidden):
        out = chunked_log_probs.softcap(jnp.einsum("btd,vd->btv", hidden, table), cap)
        losses = optax.softmax_cross_entropy_with_integer_labels(out, targets)
        return jnp.sum(losses * weights), losses

    def in_chunks(table, hidden):
        losses = -chunked_log_probs.log_probs(table, hidden, targets, cap, chunk)
        return jnp.sum(losses * weights), losses

    expected = _gradients(plain, table, hidden)
    for ours, theirs in zip(
        _gradients(in_chunks, table, hidden), expected, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
        assert np.abs(theirs).max() > 0.1
    alone = jax.jit(chunked_log_probs.log_probs, static_argnums=(3, 4))
    np.testing.assert_allclose(
        alone(table, hidden, targets, cap, chunk), -expected[0], rtol=1e-4, atol=1e-5
    )


def test_gradients_of_a_bfloat16_table():
    """They are those of float32 but for the rounding of bfloat16, 1 in 256."""
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.normal(size=(40, WIDTH)), jnp.bfloat16)
    hidden = jnp.asarray(rng.normal(size=(2, 5, WIDTH)), jnp.bfloat16)
    targets = jnp.asarray(rng.integers(0, 40, (2, 5)), jnp.int32)

    def loss(table, hidden):
        losses = chunked_log_probs.log_probs(table, hidden, targets, 3.0, 10)
        return jnp.sum(losses), losses

    exact = _gradients(loss, table.astype(jnp.float32), hidden.astype(jnp.float32))
    for ours, theirs in zip(_gradients(loss, table, hidden), exact, strict=True):
        ours = np.asarray(ours, np.float32)
        error = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
        assert error < 2**-7


@pytest.mark.parametrize("size", [65_536, 65_500], ids=["even", "ragged"])
def test_neither_the_table_nor_its_gradient_is_copied(size):
    table = jax.ShapeDtypeStruct((size, 64), jnp.float32)
    hidden = jax.ShapeDtypeStruct((2, 20, 64), jnp.float32)
    targets = jax.ShapeDtypeStruct((2, 20), jnp.int32)

    @functools.partial(jax.jit, donate_argnums=0)
    def update(table, hidden, targets):
        def loss(table, hidden):
            return -jnp.sum(
                chunked_log_probs.log_probs(table, hidden, targets, None, 4_096)
            )

        of_table, of_hidden = jax.grad(loss, argnums=(0, 1))(table, hidden)
        return table - of_table, of_hidden

    memory = update.lower(table, hidden, targets).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 1.5 * size * 64 * 4  # the gradient is one
