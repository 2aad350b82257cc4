"""What is made of the RL runs: RFT's rows, curves, gains, and what policies hold."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax.core import config
from pav_jax.core.errors import UserError
from pav_jax.core.profile import Profile
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Response
from pav_jax.metrics import pass_at_n
from pav_jax.pipeline import rl, rl_comparison, stages, unsolved
from pav_jax.storage import artifacts, records
from pav_jax.tasks.problems import Problems

ROOT = Path(__file__).resolve().parents[2]


def _write_run(folder, accuracies):
    rows = [
        dict(decoded=10 * step, prefilled=1, scored=100 * step, trained=1_000)
        for step in range(1, 5)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    rows = [
        {"step": 2 * i, "greedy": x, "sampled": x / 2} for i, x in enumerate(accuracies)
    ]
    (folder / "accuracy.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def test_curves(tmp_path):
    _write_run(tmp_path, [0.0, 0.5, 1.0])
    one = rl_comparison._curve(tmp_path)
    assert one["step"] == [0, 2, 4]
    assert one["tokens"] == [0, 10 + 20, 10 + 20 + 30 + 40]
    assert one["paid"] == [0, 2_332, 5_104]  # of two and four iterations, all kinds
    _write_run(tmp_path, [0.25, 0.0, 0.5])
    both = rl_comparison._mean_curve([one, rl_comparison._curve(tmp_path)])
    assert both["greedy"]["mean"] == [0.125, 0.25, 0.75]
    assert (both["tokens"], both["paid"]) == ([0, 30, 100], [0, 2_332, 5_104])
    assert both["sampled"]["seeds"] == [[0.0, 0.25, 0.5], [0.125, 0.0, 0.25]]


def _samples(correct):
    correct = np.array(correct, bool)
    return {"correct": correct, "prm": np.zeros(correct.shape), "greedy": correct[:, 0]}


def test_a_summary_averages_seeds():
    one = _samples([[1, 0], [0, 0], [1, 1]]) | {"length": np.full((3, 2), 5)}
    other = _samples([[1, 1], [0, 1], [0, 0]]) | {"length": np.full((3, 2), 7)}
    found = rl_comparison._summary([one, other], (1, 2))
    assert found["sampled"]["seeds"] == [0.5, 0.5] and found["length"] == 6
    assert found["greedy"]["seeds"] == pytest.approx([2 / 3, 1 / 3])
    both = [pass_at_n(s["correct"], 2).mean() for s in (one, other)]
    assert found["pass_at"]["2"]["seeds"] == pytest.approx(both)
    assert found["pass_at"]["2"]["accuracy"] == pytest.approx(np.mean(both))
    # Over seeds, not over problems: of 2/3 and 1/3, with t = tan(0.475 π).
    half = math.tan(0.475 * math.pi) / 6
    assert found["greedy"]["seed_interval"] == pytest.approx((0.5 - half, 0.5 + half))
    alone = rl_comparison._summary([one], (1,))
    assert alone["sampled"]["accuracy"] == 0.5
    assert alone["sampled"]["seed_interval"] is None
    # Scores that are all alike choose no better than chance.
    assert found["best_of"]["2"]["accuracy"] == pytest.approx(0.5)


# What is drawn for them. A policy here is right on a sample in ten, which ones is a
# function of the keys alone: so all policies are the same.
DRAWN, PROBLEMS, RIGHT = 16, 2_000, 0.1


def _drawn(seed, count, sampling):
    rng = np.random.default_rng([seed, sampling])
    return rng.random((PROBLEMS, DRAWN))[:, :count] < RIGHT


def _sample(params, problems, indices, *, count, seed, sampling, ledger, profile):
    ledger.decoded += len(indices) * count
    rows = _drawn(seed, count, sampling)[indices].reshape(-1)
    return [Response(0, (1,), (2, 3), (0.0, 0.0), bool(right)) for right in rows]


@pytest.fixture
def context(tmp_path, monkeypatch):
    """Of a stage `improvement` whose models are not there."""
    monkeypatch.setattr(rl_comparison, "load_verifier", lambda *_: None)
    monkeypatch.setattr(rl_comparison, "load_policy", lambda *_: None)
    monkeypatch.setattr(rl_comparison.labels, "sample_responses", _sample)
    monkeypatch.setattr(
        rl_comparison.labels, "sampling_for", lambda _, temperature, branches: 0
    )
    monkeypatch.setattr(
        rl_comparison, "score_outcomes", lambda _, found, **__: np.zeros(len(found))
    )
    final = dict(samples=DRAWN, unsolved=DRAWN)
    return SimpleNamespace(
        stage="improvement",
        directory=tmp_path,
        config=ConfigDict(dict(seed=3, rl=dict(final=final))),
        profile=Profile(),
        input=lambda name: tmp_path / name,
    )


class _Problems(list):
    architecture = dtype = None


def test_no_policy_is_measured_on_what_chose_the_problems(context):
    """A policy that is the SFT policy's equal solves as many of the problems that SFT
    did not solve by chance as it solves of all."""
    problems = _Problems(range(PROBLEMS))
    samples = rl_comparison._sample_all(context, problems, ["sft", "rl"])
    methods = {name: [samples[name]] for name in ("sft", "rl")}
    prompts = np.ones(PROBLEMS, int)
    found = unsolved.compared(samples["unsolved"], methods, {}, prompts, (1,))
    assert found["problems"] == pytest.approx(PROBLEMS * 0.9**DRAWN, rel=0.2)
    error = math.sqrt(RIGHT * (1 - RIGHT) / found["problems"] / DRAWN)
    assert found["best_of"]["rl"]["1"] == pytest.approx(RIGHT, abs=4 * error)
    assert found["best_of"]["sft"]["1"] == pytest.approx(RIGHT, abs=4 * error)
    # What policies are measured on is what it was, and all of it is paid.
    kept = _drawn(derive(3, Stream.RL_FINAL), DRAWN, 0)
    for name in ("sft", "rl"):
        np.testing.assert_array_equal(samples[name]["correct"], kept)
    paid = [rl_comparison._ledger_of(arrays).decoded for arrays in samples.values()]
    assert sum(paid) == PROBLEMS * (3 * DRAWN + 2)


def test_a_stage_that_an_earlier_version_began(context):
    """It had no draws to choose by; those of policies are as good as before."""
    problems = _Problems(range(PROBLEMS))
    whole = rl_comparison._sample_all(context, problems, ["sft", "rl"])
    for name in ("unsolved.npz", "rl.npz"):
        (context.directory / name).unlink()
    again = rl_comparison._sample_all(context, problems, ["sft", "rl"])
    assert again.keys() == whole.keys() == {"unsolved", "sft", "rl"}
    for name, arrays in whole.items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(again[name][key], array)


def _means(values, tokens=(0, 500, 1000, 1500)):
    steps = [0, 10, 20, 30]
    return {"step": steps, "tokens": list(tokens), "sampled": {"mean": values}}


def test_gains_and_how_soon():
    curves = {
        "orm": _means([0.1, 0.2, 0.3, 0.4]),
        "pav": _means([0.1, 0.4, 0.5, 0.6]),
        "bad": _means([0.1, 0.1, 0.1, 0.1]),
    }
    samples = {
        "sft": _samples([[0, 0], [0, 0]]),
        "orm-0": _samples([[0, 1], [0, 0]]),
        "orm-1": _samples([[1, 1], [0, 0]]),
        "pav-0": _samples([[1, 1], [0, 1]]),
        "pav-1": _samples([[0, 1], [1, 1]]),
        "bad-0": _samples([[0, 0], [0, 0]]),
        "bad-1": _samples([[0, 1], [0, 0]]),
    }
    methods = {name: [f"{name}-{seed}" for seed in (0, 1)] for name in curves}
    methods["sft"] = ["sft"]
    found = rl_comparison._against("orm", curves, samples, methods)
    assert found["accuracy"] == 0.4
    rows = found["methods"]
    assert rows["orm"]["gain"] == 0 and rows["orm"]["sooner"] == 1
    assert rows["orm"]["seed_interval"] is None
    assert rows["pav"]["gain"] == pytest.approx((0.5 + 0.25) / 2)
    assert (rows["pav"]["sooner"], rows["pav"]["cheaper"]) == (3.0, 3.0)
    assert rows["bad"]["sooner"] is None and rows["bad"]["gain"] == -0.25
    # Each less the reference of its seed: alike in both, there is no width.
    t = math.tan(0.475 * math.pi)
    assert rows["bad"]["seeds"] == [-0.25, -0.25]
    assert rows["bad"]["seed_interval"] == (-0.25, -0.25)
    expected = (0.375 - t / 8, 0.375 + t / 8)
    assert rows["pav"]["seed_interval"] == pytest.approx(expected)
    # One policy less the reference of each seed: 0.25 and 0.5.
    expected = (-0.375 - t / 8, -0.375 + t / 8)
    assert rows["sft"]["seed_interval"] == pytest.approx(expected)
    one = {name: names[:1] for name, names in methods.items()}
    alone = rl_comparison._against("orm", curves, samples, one)["methods"]
    assert alone["pav"]["gain"] == 0.5 and alone["pav"]["seed_interval"] is None
    with pytest.raises(UserError, match="'grpo'.*orm, pav, bad"):
        rl_comparison._against("grpo", curves, samples, methods)


def _how_soon(**curves):
    one = _samples([[0, 1]])
    found = rl_comparison._against(
        "orm", curves, dict.fromkeys(curves, one), {name: [name] for name in curves}
    )
    return {k: (r["sooner"], r["cheaper"]) for k, r in found["methods"].items()}


def test_a_plateau_of_the_reference_makes_nobody_sooner():
    flat = [0.1, 0.41, 0.42, 0.40]  # what it ends with it has from step 10 on
    found = _how_soon(
        orm=_means(flat),
        same=_means(flat),
        late=_means([0.1, 0.2, 0.4, 0.5], tokens=(0, 400, 800, 1200)),
        bad=_means([0.1, 0.2, 0.3, 0.39]),
    )
    assert found["orm"] == found["same"] == (1.0, 1.0)
    assert found["late"] == (10 / 20, 500 / 800)
    assert found["bad"] == (None, None)


def test_what_is_there_before_rl_is_not_so_many_times_sooner():
    found = _how_soon(
        orm=_means([0.3, 0.1, 0.2, 0.3]),
        same=_means([0.3, 0.3, 0.3, 0.3]),
        late=_means([0.2, 0.2, 0.2, 0.3]),
    )
    assert set(found.values()) == {(None, None)}
    # None starts elsewhere today; it would be no division by zero.
    found = _how_soon(
        orm=_means([0.1, 0.2, 0.3, 0.4]), above=_means([0.4, 0.5, 0.6, 0.6])
    )
    assert found == {"orm": (1.0, 1.0), "above": (None, None)}


@pytest.mark.parametrize(
    "variant",
    ["", *"controls provers monte_carlo refreshed alpha sparse smoke".split()]
    + ["sparse,controls", "sparse,alpha"],
)
def test_every_variant_names_stages_that_can_run(variant):
    path = str(ROOT / "experiments" / "rl_demo.py")
    made = config.call(path, "get_config", variant)
    for stage in stages.stages(made):
        config.select(made, stage.fields)
    for method in made.rl.methods:
        rl.objective_of(made, method)
    assert made.rl.final.reference in made.rl.methods


def test_beams_at_the_end_depend_on_how_a_search_is_done():
    """Which is no part of what is made without them."""
    made = config.call(str(ROOT / "experiments" / "rl_demo.py"), "get_config", "")
    of_search = {"search.candidates", "search.temperature"}

    def fields():
        found = {stage.name: stage.fields for stage in stages.stages(made)}
        return set(found["improvement"])

    with_beams = fields()
    with made.unlocked():
        del made.rl.final.beams
    assert with_beams - fields() == of_search and fields() < with_beams


def test_controls_and_provers_are_what_they_are_called():
    made = config.call(
        str(ROOT / "experiments" / "rl_demo.py"),
        "get_config",
        "controls,monte_carlo,provers",
    )
    found = {method: rl.objective_of(made, method) for method in made.rl.methods}
    pav = found["pav_rl"]
    # μ is the frozen SFT policy; μ = π is the policy as it is, without a verifier.
    assert found["sft_prover"] == dataclasses.replace(pav, prover_k=1)
    assert found["sft_prover"].uses_verifier
    assert found["own_prover"] == dataclasses.replace(pav, prover_k=1, n_mc=4)
    assert not found["own_prover"].uses_verifier
    assert found["value_to_go"] == dataclasses.replace(pav, reward="value_to_go")
    assert len(set(found.values())) == len(found)  # none is run twice


def test_an_objective_names_its_method():
    made = config.call(str(ROOT / "experiments" / "rl_demo.py"), "get_config", "")
    with made.unlocked():
        made.rl.methods.old = dict(reward="value", baseline="value", alpha=1.0)
    with pytest.raises(UserError, match=r"methods\.old: .*Write reward=.value_to_go"):
        rl.objective_of(made, "old")


@pytest.mark.slow
def test_every_stage_at_the_smallest_size(tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pav_jax", "run", f"--workdir={tmp_path / 'run'}"),
            "--config=experiments/evidence/provers.py:smoke",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "run" / "improvement" / "improvement.json").read_text()
    results = json.loads(text)
    trained = {"orm_rl", "grpo", "pav_rl", "pav_mc", "pav_refreshed"}
    trained |= {"pav_mu", "pav_both", "orm_warm", "to_go"}
    assert results["policies"].keys() == trained | {"sft", "rft"}
    assert results["curves"].keys() == trained
    assert (results["problems"], results["curve_problems"]) == (8, 12)
    for policy in results["policies"].values():
        passed = [policy["pass_at"][n]["accuracy"] for n in ("1", "2", "4")]
        assert passed == sorted(passed)
        assert passed[0] == pytest.approx(policy["sampled"]["accuracy"])
    for curve in results["curves"].values():
        assert curve["step"] == [0, 2, 4] and curve["tokens"][0] == 0
        assert all(np.greater(curve["paid"][1:], curve["tokens"][1:]))
    _check_the_unsolved(tmp_path / "run", results)
    assert [row["prover_k"] for row in results["provers"]] == [1, 2, 1, 1]
    assert [x["prover"] for x in results["provers"][2:]] == ["both", "mu"]
    # All start from the same policy.
    starts = {curve["greedy"]["mean"][0] for curve in results["curves"].values()}
    assert len(starts) == 1
    _check_the_prover(tmp_path / "run")
    _check_the_figures(tmp_path / "run")


def _check_the_unsolved(workdir, results):
    """Who solves them, and that all beams are paid. In this run there may be none, so
    by the policies that it has some problems are searched as if they were."""
    found, folder = results["unsolved"], workdir / "improvement"
    correct = artifacts.read_arrays(folder / "unsolved.npz")["correct"]
    assert found["problems"] == (~correct.any(axis=1)).sum()
    beams = [json.loads(path.read_text()) for path in folder.glob("*-beams-2.json")]
    assert len(beams) == len(results["policies"]) * (found["problems"] > 0)
    assert all(len(rows) == found["problems"] for rows in beams)
    paid = sum(row["tokens"][0] for rows in beams for row in rows)
    for path in folder.glob("*.npz"):
        paid += int(artifacts.read_arrays(path)["ledger_decoded"])
    assert json.loads((folder / "ledger.json").read_text())["decoded"] == paid
    made = config.load([f"--config={ROOT / 'experiments/evidence/provers.py:smoke'}"])
    context = SimpleNamespace(
        config=made,
        directory=workdir,
        profile=Profile(),
        input=lambda name: workdir / name,
    )
    problems = Problems.load(made, workdir / "data", "test")
    beams = unsolved.search_all(context, problems, ["sft", "rl-pav_rl-0"], [1, 4])
    for name, by_size in beams.items():
        assert list(by_size) == [2] and len(by_size[2].rows) == 2, name
        for row, problem in zip(by_size[2].rows, (1, 4), strict=True):
            pairs = [(problem, tokens) for tokens in row["responses"]]
            assert row["correct"] == problems.are_correct(pairs)
            assert len(row["responses"]) == 2 and all(row["responses"])


def _check_the_figures(workdir):
    """What figures of the paper measure of a run with RL."""
    results = json.loads((workdir / "report" / "results.json").read_text())
    terms = ("theorem31_terms", "theorem31_policies")
    for name in ("fig07_08_rl", "appg_reward_to_go", *terms):
        file = str(ROOT / "experiments" / "paper" / f"{name}.py")
        found = config.call(file, "measures", results)
        assert all(x is None or math.isfinite(x) for x in found.values())
        if name not in terms:  # which have too few provers here
            claims = {claim.measure for claim in config.call(file, "claims")}
            assert claims - found.keys() <= {
                "times fewer iterations to 80% than value_to_go, pav_rl",
            }


def _check_the_prover(workdir):
    """μ labels what π wrote, and it; its verifier guides searches of its own."""
    of_policy = records.read_seed_rollouts(workdir / "rollouts", 1)
    responses, found = records.read_labelled(workdir / "labels-both")
    mine = [i for i, response in enumerate(responses) if response in of_policy]
    assert [responses[i] for i in mine] == of_policy
    assert len(responses) == 2 * len(of_policy)
    by_policy = records.read_all_labels(workdir / "labels")
    found = [found[i] for i in mine]
    for own, other in zip(by_policy, found, strict=True):
        np.testing.assert_array_equal(own.ends, other.ends)
        assert set(other.count[:-1]) == {4} and other.correct[-1] == own.correct[-1]
    totals = [
        sum(x.correct[:-1].sum() for x in labels) for labels in (by_policy, found)
    ]
    assert totals[0] != totals[1]
    results = json.loads((workdir / "report" / "results.json").read_text())
    rows = {(row["method"], row["n"]): row for row in results["search"]}
    assert [n for method, n in rows if method == "beam_diverse"] == [2]
    assert [n for method, n in rows if method == "beam_bo2"] == [1, 2]
    for n in (1, 2):
        # Two verifiers read what one reads elsewhere.
        both = rows["beam_pav_mu", n]
        assert both["scored"] >= 2 * (both["decoded"] + both["prefilled"])
        assert rows["beam_q_mu", n]["scored"] < 1.5 * both["scored"]
    ledger = results["ledger"]
    assert {"pretraining", "policy-mu", "labels-mu", "prm-mu"} <= ledger.keys()
