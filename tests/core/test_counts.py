"""Counts in words."""

import pytest

from pav_jax.core.counts import counted


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "0 lines"),
        (1, "1 line"),
        (2, "2 lines"),
        (12_345, "12,345 lines"),
        (1.4, "1 line"),
        (1.6, "2 lines"),
    ],
)
def test_a_noun_agrees_with_the_number_that_is_shown(number, words):
    assert counted(number, "line") == words
