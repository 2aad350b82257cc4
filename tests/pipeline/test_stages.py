"""The whole pipeline at its smallest size, as a user runs it."""

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax import verifier
from pav_jax.core import config as config_lib
from pav_jax.main import main
from pav_jax.pipeline import on_search
from pav_jax.storage import artifacts, records
from pav_jax.tasks.problems import Problems
from pav_jax.tools import sweeps, verdicts
from pav_jax.tools.judging import sources
from pav_jax.tools.scoring import Verifier

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "experiments" / "demo.py"
METHODS = {
    "greedy",
    "majority",
    "best_of_n_orm",
    "best_of_n_pav",
    "vote_orm",
    "vote_pav",
    "beam_q",
    "beam_pav",
    "pass_at_n",
}

# Figures of the paper that are run, and those whose measures such a run has, too.
FIGURES = {
    "fig05b_best_of_k": (
        "fig04_search",
        "fig05a_verifiers",
        "fig06a_pass_at_n",
        "fig10_prediction",
    ),
    "fig05c_cross_provers": ("fig04_search",),
    "fig06b_budget": ("fig11_first_pit",),
}

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def full_optimisation():
    """What is compiled here is optimised as a user's is, unlike in other tests."""
    before = os.environ.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    yield
    if before is not None:
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = before


def _command(workdir: Path, *changes: str, config: Path = DEMO) -> list[str]:
    return [
        *(sys.executable, "-m", "pav_jax", "run"),
        *(f"--config={config}:smoke", f"--workdir={workdir}", *changes),
    ]


def _run(workdir: Path, *changes: str, **kwargs) -> str:
    done = subprocess.run(
        _command(workdir, *changes, **kwargs), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def _numbers(workdir: Path) -> dict:
    """results.json without what depends on the clock and on the place."""
    results = json.loads((workdir / "report" / "results.json").read_text())
    results.pop("stages")
    results.pop("made_on")
    return results


@pytest.fixture(scope="module")
def finished(full_optimisation, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("demo") / "run"
    _run(workdir)
    return workdir


def test_results(finished):
    results = json.loads((finished / "report" / "results.json").read_text())
    assert {row["method"] for row in results["search"]} >= METHODS
    for row in results["search"]:
        low, high = row["ci"]
        assert low <= row["accuracy"] <= high
        paid = row["decoded"] + row["prefilled"] + row["scored"]
        assert row["tokens"] == pytest.approx(paid)
    assert 0 <= results["base"]["accuracy"] <= 1
    assert len(results["base"]["ci"]) == 2
    assert {"last", "middle"} <= results["verifier"]["auc_within_problem"].keys()
    for row in results["verifier"]["prediction"]:
        assert 0 <= row["error"][0] <= 1
    for row in results["verifier"]["prediction_where_exact"]:
        assert 0 <= row["by_verifier"][0] <= 1
        assert 0 <= row["near_exact"][0] <= 1
    assert 0 <= results["verifier"]["brier"] <= 1
    assert results["stages"].keys() >= {"sft", "rollouts", "labels", "prm", "search"}
    assert all(seconds > 0 for seconds in results["stages"].values())
    # All that compute, and they alone, so that a page can be made beside a training.
    assert results["made_on"].keys() == results["stages"].keys() - {"data"}
    for made_on in results["made_on"].values():
        assert re.fullmatch(rf"\d+ cpu devices?, jax {jax.__version__}", made_on)
    assert results["config"] and results["seeds"] and results["compute_efficiency"]
    page = (finished / "report" / "index.html").read_text()
    assert "<svg" in page


def test_sums_by_problem_are_those_of_the_evaluation(finished):
    folder = finished / "evaluation"
    kept = json.loads((folder / "evaluation.json").read_text())
    sums = json.loads((folder / "by_problem.json").read_text())
    auc = kept["auc_within_problem"] | {"orm_last": kept["orm"]["auc_last"]}
    for name in ("last", "orm_last", "error_so_far_same_step"):
        assert len(sums[name]) == kept["problems"]
        right, pairs = np.sum(sums[name], axis=0)
        assert auc[name] == (pytest.approx(right / pairs) if pairs else None)
    total, count = np.sum(sums["squared_errors"], axis=0)
    assert kept["q_rmse"] == pytest.approx(np.sqrt(max(total, 0) / count))


def test_pav_judge_draws_the_samples_again(finished):
    run = sources.Run.open(finished, "test")
    judged, _ = sources.with_outcomes(run, Verifier.load(finished))
    arrays = [
        artifacts.read_arrays(path) for path in records.shards(finished / "samples")
    ]
    for name, found in (
        ("correct", [row.correct for row in judged]),
        ("prm", [row.values[-1] for row in judged]),
        ("orm", [row.orm for row in judged]),
    ):
        kept = np.concatenate([part[name].ravel() for part in arrays])
        np.testing.assert_allclose(found, kept, atol=1e-4)
    assert len({row.orm for row in judged}) > len(judged) / 2


def test_nothing_is_processed_twice(finished):
    """The ledger of beam search: each sampled token once for each model."""
    for path in (finished / "search").glob("beam_q-*.json"):
        for row in json.loads(path.read_text()):
            decoded, prefilled, scored = row["tokens"]
            ideal = 2 * (decoded + prefilled)
            assert decoded + prefilled + scored <= 1.05 * ideal


def test_a_rerun_skips_what_is_done(finished):
    before = _numbers(finished)
    said = _run(finished)
    assert said.count("done already") == 10
    assert _numbers(finished) == before


def test_a_changed_field_runs_again_what_depends_on_it(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    said = _run(workdir, "--config.search.beams=(1,)", "--profile=2")
    assert "search: runs again, since search.beams changed from [1, 2] to [1]" in said
    assert said.count("done already") == 8
    # Of the loops that run: the page has none.
    assert "search: a profile of steps 3 to 4 of its loop is in" in said
    assert [path.name for path in (workdir / "profiles").iterdir()] == ["search"]
    beams = [r for r in _numbers(workdir)["search"] if r["method"] == "beam_q"]
    assert [row["n"] for row in beams] == [1]


def test_a_verifier_is_trained_further_on_what_a_search_finds(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished, workdir)
    config = ROOT / "experiments" / "evidence" / "on_search.py"
    _run(workdir, "--config.name=demo", "--until=prm", config=config)
    found = records.read_all_responses(workdir / "beams-1")
    assert len({response.problem for response in found}) == 16
    assert len({(r.problem, r.tokens) for r in found}) == len(found) <= 2 * 16
    settings = ConfigDict(dict(labelled=1))
    best, labels = on_search.read_labels(workdir / "beams-1", settings)
    assert [r.problem for r in best] == list(range(16))
    for response, of_steps in zip(best, labels, strict=True):
        assert of_steps.ends[-1] == len(response.tokens)
        assert of_steps.correct[-1] == response.correct
    ledger = json.loads((workdir / "beams-1" / "ledger.json").read_text())
    # Besides the candidates, each read by the verifier, the continuations.
    assert ledger["decoded"] > ledger["scored"] > sum(len(r.tokens) for r in found)
    rows = (workdir / "prm" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] == 10
    before, after = (
        jax.tree.leaves(verifier.load_verifier(workdir / name, *_model(workdir)))
        for name in ("prm-0", "prm")
    )
    moved = [float(np.abs(a - b).max()) for a, b in zip(before, after, strict=True)]
    # Adam moves no parameter by more than its learning rate in a step.
    assert 0 < max(moved) <= 10 * 1e-3 * 1.2


def test_verifiers_with_the_plain_head(finished, tmp_path, capfd):
    """All that they are trained on is taken from the run whose head is the sum."""
    workdir, config = tmp_path / "run", ROOT / "experiments" / "evidence" / "heads.py"
    said = _run(workdir, f"--reuse={finished}", "--until=orm", config=config)
    for stage in ("data", "sft", "rollouts", "labels"):
        assert f"{stage}: taken from" in said
    for stage in ("prm", "orm"):
        params = verifier.load_verifier(workdir / stage, *_model(workdir))
        assert params["head"].keys() == {"value"}
        assert np.abs(params["head"]["value"]).max() > 0

    results = json.loads((finished / "report" / "results.json").read_text())
    measured = config_lib.call(str(config), "measures", results)
    assert measured["AUC last, ORM"] == results["verifier"]["orm"]["auc_last"]
    (row,) = (r for r in results["search"] if (r["method"], r["n"]) == ("beam_pav", 2))
    assert measured["beam_pav, N = 2"] == 100 * row["accuracy"]

    changes = ("--config.verifier.head=mean", f"--workdir={tmp_path / 'other'}")
    assert main(["run", f"--config={DEMO}:smoke", *changes]) == 2
    message = "config.verifier.head is 'mean'; it must be one of 'sum', 'plain'"
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_the_paper(finished, name, tmp_path):
    """The first run of a figure's sweep, and what is measured of it."""
    folder = ROOT / "experiments" / "paper"
    config = folder / f"{name}.py"
    run = sweeps.load(f"{config}:smoke")[0]
    said = _run(tmp_path / run.name, *run.changes, f"--reuse={finished}", config=config)
    assert "sft: taken from" in said
    done = [(run, run.results(tmp_path))]
    for figure in (name, *FIGURES[name]):
        found = sweeps.measure(f"{folder / figure}.py", done)
        measured = sweeps.over_seeds(found)
        # At this size some AUCs and comparisons are of nothing.
        assert any(np.isfinite(row.mean) for row in measured)
        names = {row.name for row in measured}
        claims = verdicts.of(f"{folder / figure}.py")
        claims = [claim for claim in claims if claim.measure in names]
        assert claims
        assert verdicts.claims_table(claims, found)


def _model(workdir: Path):
    """Architecture and dtype of a run."""
    fields = json.loads((workdir / "config.json").read_text())["config"]
    config = config_lib.unflatten(fields)
    problems = Problems.load(config, workdir / "data", "labels")
    return problems.architecture, problems.dtype


def test_a_killed_run_gives_the_same_numbers(finished, tmp_path):
    """SIGKILL somewhere within each of three stages, then on to the end."""
    workdir = tmp_path / "run"
    seconds = json.loads((finished / "report" / "results.json").read_text())["stages"]
    rng = random.Random(0)
    for stage in ("sft", "labels", "search"):
        process = subprocess.Popen(
            _command(workdir), cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        said = iter(process.stderr)
        assert any(line.startswith(f"{stage}: runs") for line in said)
        # What was compiled for `finished` is not compiled again: it goes faster now.
        time.sleep(rng.uniform(0, min(seconds[stage] / 8, 1.0)))
        process.send_signal(signal.SIGKILL)
        process.stderr.close()
        assert process.wait() == -signal.SIGKILL
    assert not (workdir / "report").exists()
    _run(workdir)
    assert _numbers(workdir) == _numbers(finished)


def test_two_processes_make_the_same_labels(finished, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = [f"--coordinator={address}", "--num_processes=2", "--until=labels"]
    both = [
        subprocess.Popen(
            _command(tmp_path / "run", *flags, f"--process_id={index}"),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    for stage in ("rollouts", "labels"):
        ours, theirs = (
            json.loads((workdir / stage / "manifest.json").read_text())
            for workdir in (tmp_path / "run", finished)
        )
        assert ours["files"] == theirs["files"]


def test_a_terminated_run_says_so(tmp_path):
    process = subprocess.Popen(
        _command(tmp_path / "run"), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run" / "sft.new").exists():
        time.sleep(0.2)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on from here" in said


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--config.sft.stepz=3"], "sft.steps"),
        (["--config.limits.max_prompt_tokens=10"], "max_prompt_tokens"),
        (["--config.task.name=sums"], "relations"),
        (["--config.rollouts.n_cov=9"], "n_orm"),
        (["--config.sft.warmup_steps=99"], "warmup_steps"),
    ],
)
def test_bad_input_is_told_in_a_paragraph(tmp_path, changes, words):
    done = subprocess.run(
        _command(tmp_path / "run", *changes), cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("pav: ")
    assert words in last
    assert "Traceback" not in done.stderr
