"""Answers that are kept, and what they depend on."""

import importlib.util
import json
import os
import re
import subprocess
import types
from pathlib import Path

import jax
import pytest
from closed_folders import KINDS, closed
from tiny import abstract_mesh

from pav_jax.distributed.mesh import make_mesh
from pav_jax.tools.planning import answer_cache, compiled, steps


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The requests that a compiler was asked, whose answers tell their number."""
    requests = []

    def run(command, *, input, **_):
        requests.append(json.loads(input))
        answer = json.dumps({"fits": True, "flops": float(len(requests))})
        return subprocess.CompletedProcess(command, 0, f"{answer}\n", "")

    monkeypatch.setenv("PAV_SCRATCH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(compiled, "subprocess", types.SimpleNamespace(run=run))
    return requests


def ask(config, name="sft", slice_="v5e:2x2"):
    return compiled.compile_step(name, config, slice_, {"fsdp": 4})["flops"]


def test_the_same_question_is_answered_at_once(config, asked, monkeypatch):
    assert [ask(config), ask(config), len(asked)] == [1.0, 1.0, 1]
    other = config.copy_and_resolve_references()
    with other.unlocked():
        other.name, other.search.candidates = "other", 5
        other.model.checkpoint = "elsewhere"
    assert ask(other) == 1.0  # SFT depends on none of these
    with other.unlocked():
        other.sft.batch_size = 64
    assert ask(other) == 2.0
    assert ask(config, "verifier") == 3.0
    assert ask(config, slice_="v5p:2x2x1") == 4.0
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=elsewhere")
    assert ask(config) == 5.0
    monkeypatch.delenv("XLA_FLAGS")
    version = answer_cache.version
    monkeypatch.setattr(
        answer_cache, "version", lambda p: "9.9" if p == "libtpu" else version(p)
    )
    assert ask(config) == 6.0
    monkeypatch.setattr(answer_cache, "version", version)
    monkeypatch.setattr(answer_cache, "_source", lambda: "a changed step function")
    assert ask(config) == 7.0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"digest": "", "answer": {}}'])
def test_a_damaged_answer_is_compiled_anew(config, asked, tmp_path, text):
    assert ask(config) == 1.0
    (file,) = (tmp_path / "plans").iterdir()
    file.write_text(text)
    assert [ask(config), ask(config)] == [2.0, 2.0]
    file.write_text(file.read_text().replace("2.0", "3.0"))
    assert ask(config) == 3.0 and len(asked) == 3


def test_a_folder_that_takes_no_answer(config, asked, tmp_path, capsys):
    (tmp_path / "plans").write_text("a file")
    assert [ask(config), ask(config)] == [1.0, 2.0]
    assert "this answer is not kept: cannot write" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_written(config, asked, tmp_path, capsys, kind):
    (tmp_path / "plans").mkdir()
    with closed(tmp_path, kind):
        assert [ask(config), ask(config)] == [1.0, 2.0]
        assert os.strerror(KINDS[kind]) in capsys.readouterr().err
    assert [ask(config), ask(config)] == [3.0, 3.0]


@pytest.mark.parametrize("name", ["sft", "verifier", "decode", "search", "rl"])
def test_a_step_needs_no_more_than_it_is_said_to_read(config, name):
    mesh = abstract_mesh(1, 1, 1)
    read = steps.read_by(name, config)
    assert steps.build(name, read, mesh).parts == steps.build(name, config, mesh).parts


@pytest.mark.parametrize("name", ["sft", "search"])
def test_programs_come_from_the_source_that_answers_depend_on(deep, name):
    mesh, root = make_mesh({}, jax.devices()[:1]), Path(compiled.__file__).parents[2]
    few = steps.shallow("decode", deep)[0]
    step = steps.build(name, deep, mesh, few)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = step.function.lower(*step.arguments, **step.static)
    text = lowered.as_text(debug_info=True)
    files = {Path(f) for f in re.findall(r'"(/[^"]+\.py)"', text)}
    ours = {file for file in files if root in file.parents}
    assert root / "gemma" / "forward.py" in ours
    assert ours <= set(answer_cache.sources())
