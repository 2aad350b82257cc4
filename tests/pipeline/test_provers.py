"""Theorem 3.1's terms of one prover, with their intervals over problems."""

import math
import statistics

import numpy as np
import pytest

from pav_jax.core.types import Response, StepLabels
from pav_jax.pipeline import provers
from pav_jax.prover import prover_terms

N = 64  # continuations of a prefix


def _problem(gap):
    """Two responses of one step and its end, of 0 and `gap` right continuations."""
    responses = [Response(0, (2,), (a, 9), (0.0, 0.0), False) for a in (0, 1)]
    labels = [
        StepLabels(np.array([0, 1, 2]), np.array([0, right, 0]), np.array([N, N, 1]))
        for right in (0, gap)
    ]
    return responses, labels


def _terms(gaps):
    pairs = [_problem(gap) for gap in gaps]
    responses = [r for found, _ in pairs for r in found]
    labels = [x for _, found in pairs for x in found]
    row = provers._terms(responses, labels, labels, k=1, group=2)
    return row, [prover_terms(*pair, k=1, prover_labels=pair[1]) for pair in pairs]


def test_small_terms_have_small_intervals():
    gaps = [2, 9, 4, 0, 6, 3, 7, 5, 1, 8]
    row, alone = _terms(gaps)
    for name in ("distinguishability", "alignment"):
        values = [vars(terms)[name] for terms in alone]
        assert max(map(abs, values)) < 0.02  # they are no shares
        mean = statistics.mean(values)
        half = 1.959964 * statistics.stdev(values) / math.sqrt(10)
        assert row[name] == pytest.approx(mean, rel=1e-12)
        assert row[f"{name}_ci"] == pytest.approx((mean - half, mean + half), rel=1e-9)


def test_terms_that_are_all_0_are_no_failures_of_10():
    """Nothing differs, so there is no width; 10 trials without a success have one."""
    row, _ = _terms([0] * 10)
    assert row["distinguishability"] == row["alignment"] == 0.0
    assert row["distinguishability_ci"] == row["alignment_ci"] == (0.0, 0.0)


def test_one_problem_has_no_interval():
    row, (alone,) = _terms([9])
    assert row["alignment"] == pytest.approx(alone.alignment)
    assert row["distinguishability_ci"] is row["alignment_ci"] is None
