"""Folders that cannot be written: every command that writes says which, in a paragraph.

They are on a mount that is read-only, or this user has no permission. Nothing is
changed there, and the same command goes on where it is let.
"""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from closed_folders import KINDS, check_refused, closed
from tiny_run import TEXTS, make_run

import pav_jax.pipeline
from pav_jax.laboratories import tree_cells
from pav_jax.main import main
from pav_jax.pipeline.runner import Stage
from pav_jax.storage import artifacts

EVIDENCE = Path(__file__).resolve().parents[2] / "experiments" / "evidence"
CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict(dict(name="demo", seed=0))
"""
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def pav_run(monkeypatch, tmp_path):
    """`pav run` of a pipeline with one stage that writes two files."""
    fake = types.ModuleType("pav_jax.pipeline.stages")
    monkeypatch.setitem(sys.modules, "pav_jax.pipeline.stages", fake)
    monkeypatch.setattr(pav_jax.pipeline, "stages", fake, raising=False)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    config = tmp_path / "demo.py"
    config.write_text(CONFIG)

    def write(context):
        artifacts.write_arrays(context.directory / "x.npz", {"x": np.ones(3)})
        artifacts.append_line(context.directory / "lines.jsonl", 1)

    def run(workdir, *changes, work=write) -> int:
        fake.stages = lambda config, *_: [Stage("one", work, (), ("seed",))]
        flags = [f"--config={config}", f"--workdir={workdir}", *changes]
        return main(["run", *flags])

    return run


@kinds
def test_a_run(pav_run, tmp_path, capsys, kind):
    """The parent, the workdir, the folder of a stage, and a file of a stage."""
    parent, workdir = tmp_path / "parent", tmp_path / "parent" / "out"
    parent.mkdir()
    with closed(parent, kind):
        assert pav_run(workdir) == 2
        check_refused(capsys.readouterr().err, workdir, kind)
    assert pav_run(workdir) == 0
    with closed(workdir, kind):
        assert pav_run(workdir) == 2
        check_refused(capsys.readouterr().err, workdir, kind)
    with closed(workdir / "one", kind):
        assert pav_run(workdir) == 0  # is done, and asks for nothing
        capsys.readouterr()
        assert pav_run(workdir, "--config.seed=1") == 2
        check_refused(capsys.readouterr().err, workdir / "one", kind)
    assert pav_run(workdir, "--config.seed=1") == 0
    assert artifacts.read_json(workdir / "one" / "manifest.json")["fields"] == {
        "seed": 1
    }


@kinds
def test_a_stage_whose_folder_closes(pav_run, tmp_path, capsys, kind):
    """While it is at work: of each thing that a stage does, the first is told."""
    workdir = tmp_path / "out"

    def half(context):
        artifacts.write_arrays(context.directory / "x.npz", {"x": np.ones(3)})
        raise KeyboardInterrupt

    assert pav_run(workdir, work=half) == 130
    capsys.readouterr()
    with closed(workdir / "one.new", kind):
        assert pav_run(workdir) == 2
        check_refused(capsys.readouterr().err, workdir / "one.new", kind)
    assert pav_run(workdir) == 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose verifiers are random."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    make_run(workdir)
    return workdir


@kinds
def test_scores_and_exports_of_a_verifier(run, tmp_path, capsys, kind):
    source, parent = tmp_path / "in.jsonl", tmp_path / "parent"
    parent.mkdir()
    rows = [{"prompt": prompt, "response": response} for prompt, response in TEXTS]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score = ["score", f"--verifier={run}", f"--input={source}"]
    exported = ["export", f"--stage={run / 'prm'}"]
    with closed(parent, kind):
        for command in (score, exported):
            out = parent / "deep" / "out"
            assert main([*command, f"--output={out}"]) == 2
            check_refused(capsys.readouterr().err, parent / "deep", kind)
    # What is read may be closed.
    with closed(run, kind):
        assert main([*score, f"--output={parent / 'out.jsonl'}"]) == 0
    capsys.readouterr()


@kinds
def test_an_import(tmp_path, capsys, kind):
    source, parent = tmp_path / "labels.jsonl", tmp_path / "parent"
    parent.mkdir()
    row = {"prompt": "p", "steps": ["a", "b"], "correct": [1, 0], "count": [1, 1]}
    source.write_text(json.dumps(row) + "\n")
    command = ["import", "--from=jsonl", f"--input={source}"]
    command += [f"--output={parent / 'out'}"]
    with closed(parent, kind):
        assert main(command) == 2
        check_refused(capsys.readouterr().err, parent / "out", kind)
    assert main(command) == 0


@kinds
def test_a_judgement(tmp_path, capsys, kind):
    source, parent = tmp_path / "scored.jsonl", tmp_path / "parent"
    parent.mkdir()
    steps = [{"text": "a", "q": 0.5, "advantage": 0.0}]
    scored = {"line": 1, "verifier": "v", "steps": steps, "orm": None}
    row = {"prompt": "p", "response": "a", "correct": True, "pav": scored}
    source.write_text(2 * (json.dumps(row) + "\n"))
    command = ["judge", "--on=best_of_n", f"--input={source}"]
    command += [f"--output={parent / 'out.json'}"]
    with closed(parent, kind):
        assert main(command) == 2
        check_refused(capsys.readouterr().err, parent, kind)
    assert main(command) == 0


@kinds
def test_a_laboratory(tmp_path, capsys, monkeypatch, kind):
    monkeypatch.setattr(tree_cells, "measure", lambda cell: {"accuracy": []})
    parent = tmp_path / "parent"
    parent.mkdir()
    command = ["lab", f"--config={EVIDENCE / 'tree.py'}:smoke"]
    with closed(parent, kind):
        assert main([*command, f"--workdir={parent / 'out'}"]) == 2
        check_refused(capsys.readouterr().err, parent / "out", kind)
