"""Measures of experiments/evidence/: of results in which something is not there."""

from pathlib import Path

import pytest

from pav_jax.core import config as config_lib

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "evidence"


def of_beams(**points):
    """Results of one width of beams, with these points at equal tokens."""
    row = dict(method="beam_pav", n=16)
    rules = ("prm", "orm", "sum", "vote_prm", "vote_orm", "any")
    efficiency = dict(points_at_equal_tokens=points, by_point=[])
    return {
        "compute_efficiency": {**efficiency, "paper": efficiency},
        "search": [row | dict(accuracy=0.5), dict(method="beam_q", n=16, accuracy=0.4)],
        "picks": [row | dict(pick=rule, accuracy=0.5) for rule in rules],
        "config": {"search.beams": [16]},
        "verifier": {"auc_within_problem": {"last": 0.9}, "orm": {"auc_last": 0.8}},
        "ledger": {stage: {} for stage in ("rollouts", "labels", "beams-1")},
    }


@pytest.mark.parametrize("name", ["beams", "harder", "on_search"])
def test_no_beam_within_the_range_of_selection(name):
    """There is then nothing at equal tokens, and all else."""
    file = str(FOLDER / f"{name}.py")
    found = config_lib.call(file, "measures", of_beams())
    assert not [key for key in found if key.startswith(("H1", "H2"))]
    assert found["H5: beam_pav over beam_q, 16 beams"] == pytest.approx(10)
    both = config_lib.call(file, "measures", of_beams(beam_pav=0.05))
    assert both["H1: over the strongest selection"] == pytest.approx(5)
    assert both["H2: over best-of-N by the ORM"] == pytest.approx(5)
    assert both.keys() - found.keys() == set(list(both)[:2])
