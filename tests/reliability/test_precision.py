"""Losses and gradients in bfloat16 and in float32, on the same data.

Measured: the loss is off by at most 0.3% of itself (or of 1, if it is less), the
gradient by 3.4% of its length. The bounds have some room; they say how much a loss of
`config.model.dtype="bfloat16"` can be off. Rows are of the long tail too: steps of one
token, a step of the whole limit, a response of one token.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

from pav_jax import labels, verifier
from pav_jax.core.types import Response, StepLabels
from pav_jax.gemma.architecture import tiny_gemma2
from pav_jax.rl import rewards, update

VOCAB, LIMIT, NEWLINE = 40, 96, 5
ARCHITECTURE = tiny_gemma2(VOCAB, num_layers=2, embed_dim=32, num_heads=2, mlp_dim=64)
IS_STEP_END = np.arange(VOCAB) == NEWLINE


def _texts() -> dict[str, list[tuple[int, ...]]]:
    rng = np.random.default_rng(3)
    words = lambda n: tuple(rng.integers(6, VOCAB, n).tolist())  # noqa: E731
    return {
        "steps of one token": [(NEWLINE,) * (LIMIT - 1) + (1,)] * 2,
        "one step of the whole limit": [words(LIMIT), words(LIMIT - 1) + (1,)],
        "one token": [(1,), (7,)],
        "as usual": [
            (*words(12), NEWLINE, *words(9), NEWLINE, *words(20), 1),
            (*words(3), NEWLINE, *words(30), 1),
        ],
    }


TEXTS = _texts()


def _rows(name: str) -> tuple[list[Response], list[np.ndarray], list[StepLabels]]:
    responses = [
        Response(0, (2, 9, 8), tokens, (-3.0,) * len(tokens), i == 0)
        for i, tokens in enumerate(TEXTS[name])
    ]
    ends = [labels.prefix_ends(r, IS_STEP_END) for r in responses]
    rng = np.random.default_rng(0)
    found = [
        StepLabels(e, rng.integers(0, 3, len(e)), np.full(len(e), 2)) for e in ends
    ]
    return responses, ends, found


def _padded(batch: dict) -> dict:
    """All rows as wide as the longest there can be, so that each loss is compiled
    once."""
    width = LIMIT + 3
    return {
        name: np.pad(x, ((0, 0), (0, width - x.shape[1]))) for name, x in batch.items()
    }


def _verifier_batch(name: str) -> dict:
    responses, _, found = _rows(name)
    steps = [verifier.labelled_steps(x) for x in found]
    return _padded(verifier.verifier_rows(responses, steps, balance=False))


def _rl_batch(name: str) -> dict:
    responses, ends, _ = _rows(name)
    rng = np.random.default_rng(1)
    paid = [rng.normal(size=len(e) - 1).astype(np.float32) for e in ends]
    stops = [e[1:] for e in ends]
    return rewards.make_batch(responses, stops, paid, length=LIMIT + 3)


def _verifier_loss(network: dict, batch: dict) -> jax.Array:
    rng = np.random.default_rng(5)
    key = jax.random.key(0)
    head = verifier.init_verifier(key, network, ARCHITECTURE)["head"]
    head = jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.normal(size=leaf.shape), leaf.dtype), head
    )
    return verifier.verifier_loss(
        {"network": network, "head": head},
        batch,
        architecture=ARCHITECTURE,
        language_weight=0.1,
    )[0]


def _rl_loss(network: dict, batch: dict) -> jax.Array:
    """Of REINFORCE with process rewards, and a KL term to where nothing was learnt."""
    log_probs = update.response_log_probs(network, batch, architecture=ARCHITECTURE)
    reward = rewards.effective_rewards(batch, reward="progress")
    reference = -3.0 * batch["mask"]
    return update.policy_loss(log_probs, reference, reward, batch["mask"], kl=0.01)


LOSSES = {
    "verifier": (_verifier_loss, _verifier_batch),
    "rl": (_rl_loss, _rl_batch),
}


@functools.cache
def _jitted(loss: str):
    return jax.jit(jax.value_and_grad(LOSSES[loss][0]))


def _measured(loss: str, rows: str, dtype) -> tuple[float, np.ndarray]:
    """A loss, and its gradient as one vector, of parameters that bfloat16 holds."""
    params = random_params(ARCHITECTURE)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(dtype), params)
    batch = {k: jnp.asarray(v) for k, v in LOSSES[loss][1](rows).items()}
    value, grads = _jitted(loss)(params, batch)
    flat = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(grads)]
    return float(value), np.concatenate(flat)


@pytest.mark.parametrize("rows", TEXTS)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_in_bfloat16(loss, rows):
    exact, slope = _measured(loss, rows, jnp.float32)
    rounded, other = _measured(loss, rows, jnp.bfloat16)
    assert np.isfinite([exact, rounded]).all()
    assert np.isfinite(slope).all() and np.isfinite(other).all()
    error = abs(rounded - exact) / max(abs(exact), 1.0)
    turned = np.linalg.norm(other - slope) / np.linalg.norm(slope)
    print(f"{loss}, {rows}: loss {exact:.4f}, off {error:.1e}; gradient {turned:.1e}")
    assert error < 0.01 and turned < 0.07
