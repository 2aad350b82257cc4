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
        ((12.0,), "few seeds"),
        ((12.0, 12.0), "few seeds"),  # two that agree leave an interval without width
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
    assert row.endswith("| 9 | 0; 8 | 1 | few seeds |")


def test_a_claim_about_a_number_that_no_run_has_yet():
    """As an AUC without any pair: `measures()` has it, and gives None."""
    table = verdicts.claims_table([CLAIM], _runs((None, None)))
    assert table.splitlines()[2] == "| It is better | 8 points |  | 0; 8 |  | not run |"
    table = verdicts.claims_table([CLAIM], _runs((None, 9.0)))
    assert table.splitlines()[2].endswith("| 9 | 0; 8 | 1 | few seeds |")


def test_a_claim_about_the_difference_of_two_arms():
    """Of the same seeds: what one arm lacks is left out, not paired with another."""
    claim = dataclasses.replace(CLAIM, arm={"n": 8}, less={"n": 1})
    found = [
        ({"n": n, "seed": seed}, {"gain": value})
        for n, values in ((8, (20.0, 30.0, None, 0.0)), (1, (10.0, 22.0, 5.0)))
        for seed, value in enumerate(values)
    ]
    ours = verdicts.of_claim(claim, found)
    assert ours.values == {0: 10.0, 1: 8.0} and ours.mean == 9.0
    (row,) = verdicts.claims_table([claim], found).splitlines()[2:]
    assert row == "| It is better | 8 points | 9 [-3.71, 21.7] | 0; 8 | 2 | few seeds |"
    alone = dataclasses.replace(claim, less={"n": 4})
    assert verdicts.of_claim(alone, found) is None
    found[-1][1]["loss"] = found[-1][1].pop("gain")
    with pytest.raises(UserError, match="about 'gain'"):
        verdicts.of_claim(claim, [*found[:4], found[-1]])


def _xs(drawn):
    """The numbers along x of each drawn path of its figure, in points of the page."""
    paths = re.findall(r'id="line2d_\d+">\s*<path d="([^"]*)"', drawn.decode())
    return [[float(x) for x in re.findall(r"[ML] (\S+) \S+", path)] for path in paths]


def test_a_figure_has_a_line_for_each_name_and_a_panel_for_each_arm():
    """Points are in the order of the axis; no ids change from run to run."""
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
    assert text.count(">N<") == 2 and text.count(">beam<") == 1
    for words in (">size = 1<", ">size = 2<", ">4<"):
        assert words in text
    curves = [xs for xs in _xs(drawn) if len(xs) == 3]
    assert all(xs == sorted(xs) for xs in curves)
    spans = {(xs[0], xs[-1]) for xs in curves if xs[-1] > xs[0] + 40}
    assert len(spans) == 2  # side by side; the other is the key's


def test_a_figure_has_a_panel_for_each_axis():
    """A measure whose name only looks like a point gives no axis its name."""
    rows = [
        *(_measured((n, n), f"beam, N = {n}") for n in (1, 2)),
        *(_measured((g, g), f"progress, γ = {g}") for g in (2, 5, 1000)),
        _measured((3.0, 4.0), "iterations, alone over γ = 10"),
    ]
    text = verdicts.figure(rows).decode()
    assert text.count(">N<") == text.count(">γ<") == 1
    assert "alone over" not in text
    # From 2 to 1,000 by logarithm, so 5 is not where 2 is.
    (line,) = (xs for xs in _xs(text.encode()) if len(xs) == 3 and xs[-1] > xs[0] + 40)
    assert line[1] - line[0] > 0.1 * (line[2] - line[0])


def test_a_figure_leaves_out_means_of_other_seeds():
    """Of a point that one run has not the mean is of the others."""
    rows = [_measured((1.0, 2.0), f"line, N = {n}") for n in (1, 2, 4)]
    one = _measured((9.0,), "line, N = 8")
    assert verdicts.figure([*rows, one]) == verdicts.figure(rows)
    both = dataclasses.replace(one, values={0: 9.0, 1: 9.0})
    assert verdicts.figure([*rows, both]) != verdicts.figure(rows)


def test_no_figure_of_single_points():
    rows = [_measured((1.0, 2.0)), _measured((1.0,), "a, N = 1")]
    assert verdicts.figure(rows) is None
    assert verdicts.figure([]) is None


def test_a_figure_of_claims_has_one_scale():
    """Twice the effect of a claim is at 2, whatever the unit."""
    claims = [
        CLAIM,
        verdicts.Claim(
            "A ratio", "3 times", "gain", least=3.0, nothing=1.0, arm={"k": 1}
        ),
        dataclasses.replace(CLAIM, says="No such effect", least=0.0),
    ]
    found = [*_runs((15.0, 17.0)), *_runs((4.9, 5.1), k=1)]
    text = verdicts.claims_figure(claims, found).decode()
    assert "It is better" in text and "A ratio" in text and "No such" not in text
    lines = [xs for xs in _xs(text.encode()) if len(xs) == 2 and xs[0] != xs[1]]
    middles = [sum(xs) / 2 for xs in lines]
    assert len(middles) == 2 and middles[0] == pytest.approx(middles[1], abs=1e-3)
    assert verdicts.claims_figure(claims, _runs((1.0,))) is None  # no interval
