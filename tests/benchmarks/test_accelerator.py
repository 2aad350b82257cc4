"""`make accelerator` runs: on a CPU with tiny shapes, since it may not rot unseen."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_row_that_a_cpu_can_run(tmp_path):
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.accelerator", "--tiny", f"--out={out}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert not found["failed"]
    kinds = {name.partition(",")[0] for name in found["rows"]}
    assert kinds == {
        "decode",
        "labelling",
        "SFT step",
        "verifier scoring",
        "search",
        "RL update",
    }
    for name, row in found["rows"].items():
        assert 0 < row["floor"] < row["seconds"], name
        assert row["name"] in done.stdout


def test_a_row_that_is_not_there(tmp_path):
    command = [sys.executable, "-m", "benchmarks.accelerator", "--rows=dekode"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "decode" in done.stderr
