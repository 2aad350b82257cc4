"""Verdicts on claims, by rule, and the figure of what was measured."""

import dataclasses
import re

import pytest

from pav_jax.core.errors import UserError
from pav_jax.metrics import seed_interval
from pav_jax.tools import verdicts
from pav_jax.tools.sweeps import Measured

CLAIM = verdicts.Claim("It is better", "8 points", "gain", least=8.0)


def _measured(values, name="gain", **arm):
    mean, interval = seed_interval(values)
    return Measured(arm, name, dict(enumerate(values)), mean, interval)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((8.0, 9.0, 10.0), "holds"),
        ((7.0, 8.0, 9.0), "holds"),  # the mean decides between these two
        ((3.0, 4.0, 5.0), "in part"),
        ((-1.0, 0.0, 1.0), "does not hold"),
        ((-9.0, -8.0, -7.0), "the opposite"),
        ((-6.0, 2.0, 10.0), "not shown"),
        ((12.0,), "one seed"),
    ],
)
def test_verdicts(values, said):
    assert verdicts.verdict(CLAIM, _measured(values)) == said


def test_a_code_has_no_opposite():
    claim = dataclasses.replace(CLAIM, nothing=1.0, lower_is_opposite=False)
    assert verdicts.verdict(claim, _measured((0.0, 0.0, 0.0))) == "does not hold"


def test_a_ratio_has_no_effect_at_one():
    claim = verdicts.Claim("Fewer", "6 times", "gain", least=6.0, nothing=1.0)
    found = {
        values: verdicts.verdict(claim, _measured(values))
        for values in ((0.9, 1.0, 1.2), (1.2, 1.3, 1.4), (7.0, 7.5, 8.0))
    }
    assert list(found.values()) == ["does not hold", "in part", "holds"]


def _runs(values, name="gain", **arm):
    return [({**arm, "seed": seed}, {name: value}) for seed, value in enumerate(values)]


def test_a_table_of_claims():
    """Each is about its own arm; one of which nothing is run says so."""
    claims = [CLAIM, verdicts.Claim("Also", "any", "gain", 1.0, arm={"size": 2})]
    table = verdicts.claims_table(claims, _runs((8.0, 10.0, 12.0), size=2))
    assert table.splitlines()[2:] == [
        "| It is better | 8 points |  | 0; 8 |  | not run |",
        "| Also | any | 10 [5.03, 15] | 0; 1 | 3 | holds |",
    ]


def test_a_claim_about_no_measure():
    with pytest.raises(UserError, match="about 'gain', which measures.* has loss"):
        verdicts.claims_table([CLAIM], _runs((1.0,), name="loss"))


def test_a_claim_about_what_kept_runs_were_not_measured_for():
    """Which is no mistake if it says so; with a run that has it, it is as any other."""
    claim = dataclasses.replace(CLAIM, added_later=True)
    old = _runs((1.0, 2.0), name="loss")
    row = verdicts.claims_table([claim], old).splitlines()[2]
    assert row == "| It is better | 8 points |  | 0; 8 |  | not run |"
    new = [({"seed": 2}, {"gain": 9.0, "loss": 1.0})]
    row = verdicts.claims_table([claim], [*old, *new]).splitlines()[2]
    assert row.endswith("| 9 | 0; 8 | 1 | one seed |")


def test_a_claim_about_a_number_that_no_run_has_yet():
    """As an AUC without any pair: `measures()` has it, and gives None."""
    table = verdicts.claims_table([CLAIM], _runs((None, None)))
    assert table.splitlines()[2] == "| It is better | 8 points |  | 0; 8 |  | not run |"
    table = verdicts.claims_table([CLAIM], _runs((None, 9.0)))
    assert table.splitlines()[2].endswith("| 9 | 0; 8 | 1 | one seed |")


def test_a_figure_has_a_line_for_each_name_and_arm():
    """And in the legend. Points are in the order of the axis; no ids change."""
    rows = [
        _measured(
            (y, y + 1.0), f"beam, N = {n}", **{"same": 3, "of.size": size, "also": size}
        )
        for size in (1, 2)
        for n, y in ((4, 3.0), (1, 1.0), (2, 2.0))
    ]
    drawn = verdicts.figure([*rows, _measured((1.0,), name="alone, N = 1")])
    assert drawn == verdicts.figure(rows)
    text = drawn.decode()
    for words in ("beam (size = 1)", "beam (size = 2)", ">N<", ">4<"):
        assert words in text
    lines = [
        [float(x) for x in re.findall(r"[ML] (\S+) \S+", path)]
        for path in re.findall(r'id="line2d_\d+">\s*<path d="([^"]*)"', text)
    ]
    curves = [xs for xs in lines if len(xs) == 3]
    assert len(curves) == 2 + 2 and all(xs == sorted(xs) for xs in curves)


def _xs(drawn):
    """The places of the points of each line, from left to right as drawn."""
    lines = re.findall(r'id="line2d_\d+">\s*<path d="([^"]*)"', drawn.decode())
    found = [[float(x) for x in re.findall(r"[ML] (\S+) \S+", path)] for path in lines]
    return [xs for xs in found if len(xs) > 2]


def test_a_figure_has_a_panel_for_each_axis():
    """With its own name, and one legend for all."""
    rows = [
        _measured((float(x), 2.0 * x), f"{line}, {axis} = {x}")
        for axis in ("iteration", "Pass@N with N")
        for line in ("one", "other")
        for x in (1, 2, 8)
    ]
    # Another quantity of one point alone has no panel, and names no axis.
    rows.append(_measured((1.0, 2.0), "ratio, a over b at c = 10"))
    drawn = verdicts.figure(rows)
    text = drawn.decode()
    for words in (">iteration<", ">Pass@N with N<"):
        assert text.count(words) == 1
    assert text.count(">one<") == text.count(">other<") == 1
    assert "a over b" not in text
    # Of N the logarithm, so that 2 is a third of the way from 1 to 8.
    places = {round((xs[1] - xs[0]) / (xs[2] - xs[0]), 2) for xs in _xs(drawn)}
    assert places - {0.5} == {round(1 / 7, 2), round(1 / 3, 2)}  # less the legend's


def test_a_figure_leaves_out_means_of_other_seeds():
    """Of a point that one run has not the mean is of the others."""
    rows = [_measured((1.0, 2.0), f"line, N = {n}") for n in (1, 2, 4)]
    one = _measured((9.0,), "line, N = 8")
    assert verdicts.figure([*rows, one]) == verdicts.figure(rows)
    both = dataclasses.replace(one, values={0: 9.0, 1: 9.0})
    assert verdicts.figure([*rows, both]) != verdicts.figure(rows)


def test_no_figure_of_single_points():
    assert (
        verdicts.figure([_measured((1.0, 2.0)), _measured((1.0,), "a, N = 1")]) is None
    )
