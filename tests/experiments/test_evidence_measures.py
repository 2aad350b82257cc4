"""Measures of experiments/evidence/: of results in which something is not there."""

import runpy
import sys
from pathlib import Path

import pytest

from pav_jax.core import config as config_lib

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "evidence"


def of_beams(**points):
    """Results of one width of beams, with these points at equal tokens."""
    row = dict(method="beam_pav", n=16)
    rules = ("prm", "orm", "sum", "vote_prm", "vote_orm", "any")
    efficiency = dict(points_at_equal_tokens=points, by_point=[], beam_pav=None)
    return {
        "compute_efficiency": {**efficiency, "paper": efficiency},
        "search": [row | dict(accuracy=0.5), dict(method="beam_q", n=16, accuracy=0.4)],
        "picks": [row | dict(pick=rule, accuracy=0.5) for rule in rules]
        + [dict(method="beam_q", n=16, pick="prm", accuracy=0.45)],
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
    assert found["times fewer tokens for the best of selection"] == 0
    one_pick = found["H5: the same, 16 beams, both picked by prm"]
    assert one_pick == pytest.approx(5)
    both = config_lib.call(file, "measures", of_beams(beam_pav=0.05))
    assert both["H1: over the strongest selection"] == pytest.approx(5)
    assert both["H2: over best-of-N by the ORM"] == pytest.approx(5)
    assert both.keys() - found.keys() == set(list(both)[:2])


def test_equal_labels():
    """Points of one scorer over another of the same width, and tokens of labels."""
    points = dict(beam_q=0.1, beam_oracle=0.6, beam_q_mu=0.2, beam_q_own=0.25)
    points |= dict(beam_q_both=0.5, beam_q_own_wide=0.4, beam_q_own_deep=0.3)
    found = config_lib.call(
        str(FOLDER / "equal_labels.py"),
        "measures",
        {
            "search": [dict(method=m, n=4, accuracy=a) for m, a in points.items()],
            "config": {"search.beams": [4]},
            "ledger": {"labels-mu": {"decoded": 7}, "sft": {"decoded": 1}},
        },
    )
    assert found["beam_q_both, N = 4"] == pytest.approx(50)
    assert found["mu over own, N = 4"] == pytest.approx(-5)
    assert found["both over own_wide, N = 4"] == pytest.approx(10)
    assert found["both over own_deep, N = 4"] == pytest.approx(20)
    assert found["own over Q^π, N = 4"] == pytest.approx(15)
    assert found["oracle over Q^π, N = 4"] == pytest.approx(50)
    tokens = {key: x for key, x in found.items() if key.startswith("tokens")}
    assert tokens == {"tokens of labels-mu": 7}


def provers(name):
    """A function of `provers.py`, which imports a config beside its folder."""
    sys.path.insert(0, str(FOLDER.parent))
    try:
        return runpy.run_path(str(FOLDER / "provers.py"))[name]
    finally:
        sys.path.remove(str(FOLDER.parent))


@pytest.mark.parametrize(
    ("values", "at"),
    [
        ([0.6, 0.7, 0.9], 15.0),  # half of the way from the second to the third
        ([0.6, 0.8, 0.9], 10.0),
        ([0.6, 0.85, 0.7], 8.0),  # the first time; what follows says nothing
        ([0.7, 0.7, 0.7], 20.0),  # never: its last iteration
        ([0.85, 0.9, 0.95], 0.0),  # from the first measurement on
        ([0.85, 0.85, 0.9], 0.0),
        ([0.8, 0.7, 0.9], 0.0),
        ([0.9, 0.7, 0.9], 0.0),
    ],
)
def test_the_iteration_at_which_a_curve_is_at_a_goal(values, at):
    curve = {"step": [0, 10, 20], "sampled": {"seeds": [values]}}
    assert provers("first_at")(curve, 0.8) == pytest.approx(at)


def test_the_tokens_at_which_a_curve_is_at_a_goal():
    curve = {"step": [0, 10, 20], "paid": [0, 40, 100]}
    curve["sampled"] = {"seeds": [[0.6, 0.7, 0.9]]}
    assert provers("first_at")(curve, 0.8, "paid") == pytest.approx(70)


def test_ratios_of_iterations_where_a_curve_begins_at_the_goal():
    fewer = provers("times_fewer")
    assert fewer(30.0, 20.0) == 1.5
    assert fewer(30.0, 0.0) is fewer(0.0, 30.0) is fewer(0.0, 0.0) is None


def test_rl_that_outcomes_have_made_worse():
    """ORM-RL's end is below its start, so that PAV-RL is there before RL as well."""
    falls, rises = [0.7, 0.75, 0.6], [0.7, 0.75, 0.9]
    curves = {
        name: {"step": [0, 10, 20], "sampled": {"seeds": [values]}}
        for name, values in (("orm_rl", falls), ("pav_rl", rises))
    }
    policy = {"sampled": {"accuracy": 0.7}, "pass_at": {"16": {"accuracy": 0.9}}}
    results = {
        "improvement": {
            "curves": curves,
            "policies": dict.fromkeys(("sft", "rft", *curves), policy),
            "unsolved": {"problems": 3, "best_of": {}},
        }
    }
    figure = str(FOLDER.parent / "paper" / "fig07_08_rl.py")
    found = config_lib.call(figure, "measures", results)
    assert found["times fewer iterations to what orm_rl ends with, pav_rl"] is None
    ours = 10 + 10 * (0.8 - 0.75) / (0.9 - 0.75)
    ratio = found["times fewer iterations to 80% than orm_rl, pav_rl"]
    assert ratio == pytest.approx(20 / ours)
