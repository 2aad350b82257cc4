"""The paper's configs at their smallest, through every stage, as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pav_jax.tools import scoring

ROOT = Path(__file__).resolve().parents[2]
SHAPES = (
    "triangle square pentagon hexagon rhombus trapezoid kite parallelogram polygon"
    " quadrilateral octagon decagon cube pyramid prism tetrahedron icosahedron"
).split()


@pytest.fixture(scope="module")
def math(tmp_path_factory) -> Path:
    """A folder with MATH in miniature."""
    folder = tmp_path_factory.mktemp("math")
    _write_math(folder)
    return folder


def _write_math(folder: Path) -> None:
    """As published: 80 problems, 10 of them MATH-500."""
    rows = []
    for k in range(80):
        a, b = k + 2, (7 * k) % 23
        shape = SHAPES[k % len(SHAPES)]
        row = {
            "problem": f"A {shape} has ${a}$ sides; another ${b}$. How many in all?",
            "level": "Level 1",
            "type": "Algebra",
            "solution": f"We count {shape} sides.  So it is $\\boxed{{{a + b}}}$.",
        }
        file = folder / ("train" if k < 40 else "test") / "algebra" / f"{k}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(row))
        rows.append(json.dumps(row | {"answer": str(a + b)}))
    (folder / "math500.jsonl").write_text("\n".join(rows[70:]) + "\n")


def _run(name: str, workdir: Path, math: Path, *more: str) -> None:
    file = ROOT / "experiments" / f"{name}_math.py"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pav_jax", "run", f"--config={file}:smoke"),
            *(f"--workdir={workdir}", f"--config.task.path={math}", *more),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma2_9b", "gemma2_27b"])
def test_other_sizes_of_a_family_train(math, tmp_path, name):
    """Shrunk they are alike but for the scale of queries: later stages are the same."""
    _run(name, tmp_path / "run", math, "--until=sft")
    row = json.loads((tmp_path / "run" / "sft" / "metrics.jsonl").read_text())
    assert row["step"] == 3 and 0 < row["loss"] < 10


@pytest.mark.slow
def test_another_family_is_labelled_and_has_a_verifier(math, tmp_path):
    _run("gemma3_4b", tmp_path / "run", math, "--until=prm")
    row = json.loads((tmp_path / "run" / "prm" / "metrics.jsonl").read_text())
    assert row["step"] == 3 and 0 < row["scoring"] < 2
    ledger = json.loads((tmp_path / "run" / "labels" / "ledger.json").read_text())
    assert ledger["decoded"] > ledger["prefilled"] > 0


@pytest.mark.slow
def test_smoke_runs_every_stage(math, tmp_path):
    name, workdir = "gemma2_2b", tmp_path / "run"
    _run(name, workdir, math)
    results = json.loads((workdir / "report" / "results.json").read_text())
    assert {"beam_pav", "best_of_n_orm"} <= {row["method"] for row in results["search"]}
    assert f"{name}, shrunk for a trial" in results["description"]
    # Of 3 problems, two responses each; none is told apart by a step checker.
    assert results["base"]["failures"] == {}
    grades = results["base"]["grades"]
    assert grades.keys() == {"correct", "wrong", "unparsed", "timed_out"}
    assert sum(grades.values()) == 6
    sft, labelled = (
        [
            json.loads(line)
            for line in (workdir / "data" / name).read_text().splitlines()
        ]
        for name in ("sft.jsonl", "labels.jsonl")
    )
    assert labelled == sft[: len(labelled)]  # the same problems, as in the paper
    verifier = scoring.Verifier.load(workdir)
    (scores,) = verifier.score(["What is $2 + 2$?"], ["We add.\nIt is 4."])
    assert len(scores.steps) == 2 and 0 < scores.orm < 1
