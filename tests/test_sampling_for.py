"""The grid on which responses are sampled."""

import types

import pytest
from ml_collections import ConfigDict

from pav_jax import labels


def sampling(branches, **grid):
    """On a grid of 6 trunks with 8 rows each."""
    fields = dict(sampling=dict(trunks=6, rows=8) | grid, limits=dict(max_tokens=4))
    tokenizer = types.SimpleNamespace(end_ids=(1,))
    problems = types.SimpleNamespace(config=ConfigDict(fields), tokenizer=tokenizer)
    return labels.sampling_for(problems, 1.0, branches=branches)


@pytest.mark.parametrize(
    ("branches", "expected"),
    [(9, (6, 8, 3)), (8, (6, 8, 3)), (5, (9, 5, 3)), (3, (15, 3, 3)), (1, (48, 1, 3))],
)
def test_the_grid_has_no_row_to_spare_and_whole_groups(branches, expected):
    found = sampling(branches, trunks_per_group=3)
    assert (found.trunks, found.rows, found.trunks_per_group) == expected


def test_every_device_has_a_group_of_trunks(monkeypatch):
    monkeypatch.setattr(labels.mesh, "row_shards", lambda mesh: 4)
    assert [sampling(n).trunks for n in (8, 7, 2, 1)] == [4, 4, 24, 48]
