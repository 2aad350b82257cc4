"""One update on a tree: values by enumeration, updates by automatic gradients."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from pav_jax import prover
from pav_jax.laboratories import update, update_cells

CONFIG = FrozenConfigDict(dict(steps=3, branching=2, wrong=0.3, spread=1.0))


@pytest.fixture(scope="module")
def tree():
    """Right steps, and the logits of π and of another policy."""
    keys = jax.random.split(jax.random.key(3), 3)
    right = update.draw_right(keys[0], config=CONFIG)
    return right, *(update.draw_logits(key, config=CONFIG) for key in keys[1:])


def paths(logits):
    """Each path of steps, and how likely the policy takes it."""
    for path in itertools.product(range(2), repeat=3):
        chance, state = 1.0, 0
        for x, a in zip(logits, path, strict=True):
            chance *= float(jax.nn.softmax(x[state])[a])
            state = 2 * state + a
        yield path, chance


def is_right(right, path):
    state, so_far = 0, []
    for r, a in zip(right, path, strict=True):
        so_far.append(float(r[state, a]))
        state = 2 * state + a
    assert so_far == sorted(so_far, reverse=True)  # never right after a wrong step
    return so_far[-1]


def test_values_and_visits_are_those_of_all_paths(tree):
    right, logits, _ = tree
    q, d = update.values(logits, right), update.visits(logits)
    every = [(path, chance, is_right(right, path)) for path, chance in paths(logits)]
    total = sum(chance * won for _, chance, won in every)
    assert 0 < total < 1
    assert float(update.accuracy(logits, right)) == pytest.approx(total, rel=1e-5)
    for h, state, a in [(0, 0, 1), (1, 1, 0), (2, 3, 1), (2, 0, 0)]:
        before = [int(bit) for bit in f"{state:0{h}b}"] if h else []
        to = [x for x in every if list(x[0][:h]) == before]
        through = [x for x in to if x[0][h] == a]
        assert float(d[h][state]) == pytest.approx(sum(x[1] for x in to), rel=1e-5)
        value = sum(x[1] * x[2] for x in through) / sum(x[1] for x in through)
        assert float(q[h][state, a]) == pytest.approx(value, rel=1e-5)


def test_terms_by_hand(tree):
    right, logits, other = tree
    q, q_mu = update.values(logits, right), update.values(other, right)
    apart = aligned = 0.0
    for d, x, v, m in zip(update.visits(logits), logits, q, q_mu, strict=True):
        for state in range(len(d)):
            p, v1, m1 = (np.asarray(a[state]) for a in (jax.nn.softmax(x), v, m))
            apart += float(d[state]) * (p @ m1**2 - (p @ m1) ** 2) / 3
            aligned += float(d[state]) * (p @ (m1 * v1) - (p @ m1) * (p @ v1)) / 3
    assert apart != pytest.approx(aligned)
    found = update.terms(logits, q, q_mu)
    np.testing.assert_allclose(found, (apart, aligned), rtol=1e-4)


def after(tree, rule, size, alpha=0.0, updates=1):
    right, logits, other = tree
    q_mu = update.values(other, right)
    how = dict(rule=rule, updates=updates)
    return float(update.improved(logits, right, q_mu, alpha, size, **how))


def test_gradient_of_outcomes_is_that_of_accuracy(tree):
    right, logits, _ = tree
    for _ in range(2):
        slope = jax.grad(update.accuracy)(logits, right)
        logits = [x + 0.7 * g for x, g in zip(logits, slope, strict=True)]
    expected = float(update.accuracy(logits, right))
    assert after(tree, "gradient", 0.7, updates=2) == pytest.approx(expected, rel=1e-5)


def test_first_step_of_adam_is_the_sign_of_the_gradient(tree):
    right, logits, _ = tree
    slope = jax.grad(update.accuracy)(logits, right)
    # Where nothing can be won the gradient is zero, and rounding has no sign.
    moved = [
        x + 0.1 * jnp.where(abs(g) > 1e-6, jnp.sign(g), 0)
        for x, g in zip(logits, slope, strict=True)
    ]
    expected = float(update.accuracy(moved, right))
    assert after(tree, "adam", 0.1) == pytest.approx(expected, rel=1e-4)


def test_a_natural_step_tilts_by_the_advantages(tree):
    right, logits, other = tree
    q, q_mu = update.values(logits, right), update.values(other, right)
    moved = [
        x + 2.0 * (v + 0.5 * m) for x, v, m in zip(logits, q, q_mu, strict=True)
    ]  # a constant of the state changes no softmax
    expected = float(update.accuracy(moved, right))
    found = after(tree, "natural", 2.0, alpha=0.5)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found != pytest.approx(after(tree, "natural", 2.0), rel=1e-3)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 2.0])
def test_a_small_natural_step_gains_its_first_order(tree, alpha):
    """Performance difference: `H (E Var A^π + α alignment)` times the step."""
    right, logits, other = tree
    q, q_mu = update.values(logits, right), update.values(other, right)
    own, aligned = (float(update.terms(logits, q, x)[1]) for x in (q, q_mu))
    gained = after(tree, "natural", 0.01, alpha) - float(update.accuracy(logits, right))
    assert gained / (0.01 * 3) == pytest.approx(own + alpha * aligned, rel=0.02)


def test_best_of_one_is_the_policy_itself(tree):
    right, logits, _ = tree
    q = update.values(logits, right)
    one = [prover.best_of_k(x, 1) for x in q]
    assert update.terms(logits, q, one) == update.terms(logits, q, q)


def test_ranks_are_of_provers_within_a_seed():
    """Two seeds of four provers; alignment in the order of the gain, then against it;
    what float32 does not tell apart is in no order."""
    gain = [[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]]
    cell = {
        "update": "natural",
        "outcome": [[0.5] * 4] * 2,
        "after": [[0.5 + g for g in of] for of in gain],
        "alignment": [[1.0, 2.0, 3.0, 4.0]] * 2,
        "distinguishability": [[5.0, 5.0, 5.0, 5.0]] * 2,
    }
    (ranks,) = update_cells.summary([cell])["ranks"]
    assert ranks["alignment"] == pytest.approx([1.0, -1.0])
    assert ranks["distinguishability"] == [0.0, 0.0]
    assert ranks["sum"] == pytest.approx([1.0, -1.0])
    cell["after"] = [[0.5, 0.5 + 1e-9, 0.5 - 1e-9, 0.5]] * 2
    (ranks,) = update_cells.summary([cell])["ranks"]
    assert ranks["alignment"] == [0.0, 0.0] and not any(map(math.isnan, ranks["sum"]))
