"""Search on a tree with exact values, where its accuracy is known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict
from scipy.special import ndtr, ndtri

from pav_jax.laboratories import tree

PROBLEMS = 20_000


def config(steps=1, error="none", level=0.9, noise=0.0, ties="order"):
    return FrozenConfigDict(
        dict(
            steps=steps, candidates=3, error=error, level=level, noise=noise, ties=ties
        )
    )  # fmt: skip


def search(root, *, beams, alpha=0.0, k=1.0, size=0.0, problems=PROBLEMS, **settings):
    picked, held = tree.search(
        jax.random.key(7), jnp.full(problems, root), alpha, k, size,
        beams=beams, config=config(**settings),
    )  # fmt: skip
    return np.asarray(picked), np.asarray(held)


def close(found, expected):
    error = (expected * (1 - expected) / len(found)) ** 0.5
    assert found.mean() == pytest.approx(expected, abs=4 * error)


@pytest.mark.parametrize("beams", [1, 2])
def test_one_step_is_pass_at_the_candidates(beams):
    """One step decides, and is seen: right if any of 3N candidates is."""
    picked, held = search(0.1, beams=beams)
    close(picked, 1 - 0.9 ** (3 * beams))
    assert (picked == held).all()


def test_two_steps_are_the_best_of_three_twice():
    """The mean over the best of three first steps of 1 - (1 - Q)^3, by quadrature."""
    total = np.linspace(-8, 8, 4_001)
    density = np.exp(-(total**2) / 2) / np.sqrt(2 * np.pi) * (total[1] - total[0])
    best = 3 * ndtr(total) ** 2 * density
    start = ndtri(0.2) * 2**0.5
    expected = (best * (1 - (1 - ndtr(start + total)) ** 3)).sum()
    picked, _ = search(0.2, beams=1, steps=2)
    close(picked, expected)


def test_without_an_error_small_values_are_told_apart():
    """As by what is never over-rated: no estimate is cut off. With errors of no size
    the logit is of values above a millionth."""
    settings = dict(beams=4, steps=8, problems=2_000)
    exact, _ = search(0.005, **settings)
    for error in ("rare", "independent"):
        other, _ = search(0.005, error=error, **settings)
        assert (exact == other).all()


def test_errors_that_drown_the_values_leave_chance():
    """The first step is then drawn at random, and the last picked so."""
    picked, held = search(0.2, beams=1, steps=2, error="independent", size=1e6)
    close(picked, 0.2)
    assert (picked == held).all()


def test_a_step_that_is_always_over_rated_leaves_chance_until_above_the_level():
    """All estimates are 1, so the first candidate is kept."""
    picked, _ = search(0.2, beams=1, steps=2, error="rare", size=1.0, level=1.0)
    close(picked, 0.2)


def test_roots_have_their_values_and_the_tree_is_a_martingale():
    roots = jnp.array([0.001, 0.3, 0.6])
    totals = tree.root_totals(roots, 5)
    np.testing.assert_allclose(tree.value(totals, 5.0), roots, rtol=1e-4)
    assert tree.value(jnp.array([-0.01, 0.01]), 0.0).tolist() == [0, 1]
    after = totals[:, None] + jax.random.normal(jax.random.key(0), (1, 20_000))
    np.testing.assert_allclose(tree.value(after, 4.0).mean(axis=1), roots, atol=6e-3)


@pytest.mark.parametrize("error", tree.ERRORS)
def test_progress_changes_nothing_for_one_beam(error):
    """All candidates have one parent, and `Q^BoK` rises with `Q^π`."""
    settings = dict(beams=1, steps=4, error=error, size=0.3, problems=300, level=0.7)
    alone, _ = search(0.2, **settings)
    for k, alpha in ((1.0, 0.5), (4.0, 0.5), (4.0, 3.0)):
        picked, _ = search(0.2, k=k, alpha=alpha, **settings)
        assert (picked == alone).all()


def test_progress_changes_what_two_beams_keep():
    settings = dict(beams=2, steps=4, error="rare", size=0.3, problems=300, level=0.7)
    assert (search(0.2, **settings)[0] != search(0.2, alpha=3.0, **settings)[0]).any()


def test_progress_sees_through_what_stays_over_rated():
    """What continues an over-rated prefix makes no progress, so others stay as well."""
    settings = dict(beams=4, steps=8, error="rare", size=0.03, problems=2_000)
    _, alone = search(0.1, ties="random", **settings)
    _, with_progress = search(0.1, k=1.0, alpha=3.0, ties="random", **settings)
    assert with_progress.mean() > alone.mean() + 0.03


def test_ties_are_broken_as_asked():
    """All is rated 1: by the order the first candidate's line is kept, at random not.

    So in the order both last beams are the first two candidates of one parent, and are
    both right as often as one parent's are; else they are nearly independent.
    """
    settings = dict(beams=2, steps=3, error="rare", size=1.0, level=1.0, problems=5_000)
    _, by_order = search(0.5, **settings)
    _, at_random = search(0.5, ties="random", **settings)
    assert at_random.mean() > by_order.mean() + 0.02


def test_what_persists_is_handed_down_and_what_does_not_is_drawn_anew():
    """An error of the first step, of 2, hurts the second only if it persists.

    One beam: the error of the parent is common to all candidates, so what is handed
    down changes no choice, and the persistent error is the smaller by sqrt(2).
    """
    settings = dict(beams=1, steps=2, problems=PROBLEMS)
    scaled, _ = search(0.2, error="independent", size=2.0, **settings)
    lasting, _ = search(0.2, error="persistent", size=2.0 * 2**0.5, **settings)
    assert (scaled == lasting).mean() > 0.999
    wide = settings | {"beams": 4, "steps": 3}  # outcomes outweigh the last error
    scaled, _ = search(0.2, error="independent", size=2.0, **wide)
    lasting, _ = search(0.2, error="persistent", size=2.0 * 3**0.5, **wide)
    assert (scaled != lasting).any()
