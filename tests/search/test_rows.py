"""Which rows of a search go on together."""

import pytest

from pav_jax.search import beam, rows
from pav_jax.search.beam_step import BeamConfig
from pav_jax.search.rows import next_width


@pytest.mark.parametrize(
    ("left", "width", "expected"),
    [(48, 48, 48), (13, 48, 48), (12, 48, 12), (4, 48, 12), (3, 48, 3), (1, 12, 3)],
)
def test_rows_go_on_a_fourth_at_a_time(left, width, expected):
    assert next_width(left, width) == expected


@pytest.mark.parametrize("shards", [1, 4, 6, 8])
@pytest.mark.parametrize("beams", [1, 2, 4, 8, 16, 64, 80, 128])
def test_devices_have_whole_problems(beams, shards, monkeypatch):
    """Unless the rows of one fill a batch, and can be shared."""
    monkeypatch.setattr(rows, "device_shards", lambda: shards)
    config = BeamConfig(
        beams, 3, max_tokens=8, max_steps=2, end_ids=(), step_end_ids=()
    )
    groups, of_each = beam.groups_per_batch(config), beams * 3
    if of_each >= config.rows and of_each % shards == 0:
        assert groups == 1
    else:
        assert groups % shards == 0
        # As many as before on all devices together, and not more on one than alone.
        assert groups * of_each > config.rows - of_each
        assert groups // shards * of_each <= max(config.rows, of_each)
