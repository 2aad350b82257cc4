"""What experiments/paper/fig07_08_rl.py measures, of results worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from pav_jax.core import config as config_lib
from pav_jax.pipeline import rl, stages
from pav_jax.tools import verdicts

FIGURE = str(
    Path(__file__).resolve().parents[2] / "experiments" / "paper" / "fig07_08_rl.py"
)
NS = (1, 16, 32, 64, 128)


def _curve(accuracies, paid):
    steps = [10 * i for i in range(len(accuracies))]
    return {"step": steps, "paid": paid, "sampled": {"seeds": [accuracies]}}


def _policy(accuracy, *held):
    pass_at = {str(n): {"accuracy": x} for n, x in zip(NS, held, strict=True)}
    return {"sampled": {"accuracy": accuracy}, "pass_at": pass_at}


def _tokens(decoded):
    return dict(decoded=decoded, prefilled=5.0, scored=5.0 + decoded)


def _results():
    unsolved = {
        "problems": 4,
        "best_of": {
            name: {"1": 0.0, "16": x, "32": x / 2}
            for name, x in (("sft", 0.25), ("orm_rl", 0.5), ("pav_rl", 0.75))
        },
        "best_of_tokens": {
            name: {"16": _tokens(160.0), "32": _tokens(320.0)}
            for name in ("sft", "orm_rl", "pav_rl")
        },
        "beam": {
            name: {"16": x, "32": x + 0.25}
            for name, x in (("sft", 0.0), ("orm_rl", 0.75), ("pav_rl", 0.25))
        },
        "beam_tokens": {
            name: {"16": _tokens(400.0), "32": _tokens(800.0)}
            for name in ("sft", "orm_rl", "pav_rl")
        },
    }
    return {
        "improvement": {
            "curves": {
                "orm_rl": _curve([0.2, 0.6, 0.9], [0, 40_000, 80_000]),
                "pav_rl": _curve([0.2, 0.8, 0.95], [0, 60_000, 120_000]),
                "oracle": _curve([0.2, 0.3, 0.4], [0, 600_000, 1_200_000]),
            },
            "policies": {
                "sft": _policy(0.1, 0.1, 0.5, 0.7, 0.92, 0.95),
                "rft": _policy(0.2, 0.2, 0.6, 0.8, 0.9, 0.95),
                "orm_rl": _policy(0.9, 0.9, 0.9, 0.9, 0.9, 0.95),
                "pav_rl": _policy(0.95, 0.95, 1.0, 1.0, 1.0, 1.0),
                "oracle": _policy(0.4, 0.4, 0.6, 0.8, 0.9, 0.95),
            },
            "unsolved": unsolved,
        },
        "ledger": {
            "labels": dict(decoded=100_000, prefilled=50_000, scored=0, trained=0),
            "prm": dict(decoded=0, prefilled=0, scored=0, trained=150_000),
            "rollouts": dict(decoded=10**9),
        },
    }


def _measures(results):
    return config_lib.call(FIGURE, "measures", results)


def test_every_claim_has_a_measure():
    found = _measures(_results())
    for claim in verdicts.of(FIGURE):
        if "value_to_go" not in claim.measure:
            assert found[claim.measure] is not None, claim.measure
    few = _results()
    del few["improvement"]["unsolved"]["beam"], few["ledger"]
    for curve in few["improvement"]["curves"].values():
        del curve["paid"]
    for name in ("best_of", "best_of_tokens"):
        few["improvement"]["unsolved"][name] = {}
    for policy in few["improvement"]["policies"].values():
        del policy["pass_at"]["64"], policy["pass_at"]["128"]
    del few["improvement"]["policies"]["oracle"]
    lacking = _measures(few)
    of_claims = {c.measure for c in verdicts.of(FIGURE) if "value_to" not in c.measure}
    assert of_claims <= lacking.keys()
    assert {name for name in of_claims if lacking[name] is None} == {
        name
        for name in of_claims
        if name.startswith(("of these", "oracle", "Pass@64", "Pass@128"))
        or "tokens" in name
    }


def test_accuracy_at_tokens():
    """On the straight lines between measurements, to the last that was paid."""
    found = _measures(_results())
    points = {
        int(name.rpartition(" = ")[2]): x
        for name, x in found.items()
        if name.startswith("pav_rl, thousand tokens = ")
    }
    expected = {0: 20, 25: 45, 50: 70, 75: 83.75, 100: 90}
    assert points == pytest.approx(expected)
    assert found["tokens that RL pays, thousands, pav_rl"] == 120
    # The arm by continuations pays ten times as many: its line ends where others may.
    assert found["oracle, thousand tokens = 300"] == pytest.approx(25)
    assert "oracle, thousand tokens = 325" not in found
    assert found["pav_rl, iteration = 10"] == pytest.approx(80)


def test_times_fewer_tokens():
    found = _measures(_results())
    theirs = 40_000 + 40_000 * 0.2 / 0.3  # of ORM-RL to 80%; PAV-RL takes 60,000
    ratio = "times fewer tokens to 80% than orm_rl, pav_rl"
    assert found[ratio] == pytest.approx(theirs / 60_000)
    # Its labels and its verifier; the rollouts are RFT's as well.
    assert found["tokens of PAV-RL's verifier, thousands"] == 300
    assert found[f"{ratio} with its labels"] == pytest.approx(theirs / 360_000)
    ours = 60_000 + 60_000 * 0.1 / 0.15  # to 90%
    ends = "times fewer tokens to what orm_rl ends with, pav_rl"
    assert found[ends] == pytest.approx(80_000 / ours)
    assert found[f"{ends} with its labels"] == pytest.approx(80_000 / (300_000 + ours))
    # One that never comes to it has paid 1,200,000 at least.
    never = found["times fewer tokens to 80% than orm_rl, oracle"]
    assert never == pytest.approx(theirs / 1_200_000)


def test_where_neither_comes_to_the_goal_there_is_no_ratio():
    results = _results()
    curves = results["improvement"]["curves"]
    curves["orm_rl"]["sampled"]["seeds"] = [[0.2, 0.3, 0.5]]
    found = _measures(results)
    assert found["times fewer tokens to 80% than orm_rl, oracle"] is None
    # ORM-RL has paid 80,000 at least.
    bound = found["times fewer tokens to 80% than orm_rl, pav_rl"]
    assert bound == pytest.approx(80_000 / 60_000)


def test_the_lead_at_equal_tokens():
    """By brute force: means of many points, to the end of the shorter run."""
    results = _results()
    curves = results["improvement"]["curves"]
    curves["pav_rl"]["paid"] = [0, 35_000, 130_000]  # no knots in common
    found = _measures(results)
    for name in ("pav_rl", "oracle"):
        width = 80_000 / 200_000
        middles = (np.arange(200_000) + 0.5) * width
        ours, theirs = (
            np.interp(middles, curve["paid"], curve["sampled"]["seeds"][0])
            for curve in (curves[name], curves["orm_rl"])
        )
        lead = found[f"lead over orm_rl at equal tokens, mean of the run, {name}"]
        assert lead == pytest.approx(100 * np.mean(ours - theirs), abs=1e-5)


def test_what_policies_hold():
    found = _measures(_results())
    for name, policy in _results()["improvement"]["policies"].items():
        for n in NS:
            held = 100 * policy["pass_at"][str(n)]["accuracy"]
            assert found[f"{name}, Pass@N with N = {n}"] == pytest.approx(held)
    assert found["Pass@64 of sft over orm_rl"] == pytest.approx(2)
    assert found["Pass@128 of pav_rl over orm_rl"] == pytest.approx(5)
    gain = found["Pass@N of pav_rl over orm_rl, mean over N"]
    assert gain == pytest.approx((5 + 10 + 10 + 10 + 5) / 5)


def test_who_solves_what_sft_never_does():
    found = _measures(_results())
    assert found["of these, best-of-16 of pav_rl over orm_rl"] == pytest.approx(25)
    assert found["of these, best-of-32 of pav_rl over orm_rl"] == pytest.approx(12.5)
    assert found["of these, beam of 16 of pav_rl over orm_rl"] == pytest.approx(-50)
    assert found["of these, beam of 32 of sft"] == pytest.approx(25)
    assert found["tokens of these, best-of-16 of pav_rl"] == 160 + 5 + 165
    assert found["tokens of these, beam of 32 of orm_rl"] == 800 + 5 + 805
    results = _results()
    results["improvement"]["unsolved"] = {"problems": 0}
    found = _measures(results)
    assert found["problems that SFT never solves"] == 0
    assert found["of these, beam of 16 of pav_rl over orm_rl"] is None


def test_the_exact_arm_is_pav_rl_by_continuations():
    made = config_lib.load([f"--config={FIGURE}"])
    pav, exact = (rl.objective_of(made, name) for name in ("pav_rl", "oracle"))
    assert pav.uses_verifier and not exact.uses_verifier
    assert (exact.n_mc, exact.prover_k) == (64, pav.prover_k)
    assert (exact.alpha, exact.reward) == (pav.alpha, pav.reward)
    assert "rl-oracle-0" in [stage.name for stage in stages.stages(made)]
