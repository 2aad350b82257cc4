"""Which rows of a search go on together."""

import pytest

from pav_jax.search.rows import next_width


@pytest.mark.parametrize(
    ("left", "width", "expected"),
    [(48, 48, 48), (13, 48, 48), (12, 48, 12), (4, 48, 12), (3, 48, 3), (1, 12, 3)],
)
def test_rows_go_on_a_fourth_at_a_time(left, width, expected):
    assert next_width(left, width) == expected
