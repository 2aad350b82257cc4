"""The Dockerfile, as far as it can be checked where there is no docker."""

import re
import runpy
import shlex
from pathlib import Path

import pytest
import setuptools

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def words(instruction):
    lines = [line for line in TEXT.splitlines() if line.startswith(f"{instruction} ")]
    return [shlex.split(line)[1:] for line in lines]


def test_what_is_copied_exists_and_is_enough():
    copied = {source for *sources, _ in words("COPY") for source in sources}
    assert all((ROOT / source).exists() for source in copied)
    # What setup.py and pyproject.toml read, the configs, and the lock.
    assert copied >= {"LICENSE", "setup.py", "pyproject.toml", "pav_jax", "experiments"}
    assert "requirements.lock" in copied
    assert "--constraint=requirements.lock" in words("RUN")[-1]


def test_extras_are_those_of_setup(monkeypatch):
    found = {}
    monkeypatch.setattr(setuptools, "setup", found.update)
    runpy.run_path(str(ROOT / "setup.py"))
    (default,) = words("ARG")
    named = {default[0].partition("=")[2], *re.findall(r"arg=EXTRA=(\w+)", TEXT)}
    assert named == {"tpu", "cuda"} and named <= set(found["extras_require"])


@pytest.mark.parametrize(
    "name, pattern",
    [
        ("Makefile", r"^UV_PIN := (\S+)$"),
        ("launch/tpu_vm.sh", r"--python (3\.\d+) "),
    ],
)
def test_versions_are_those_of_the_other_ways(name, pattern):
    version = re.search(pattern, (ROOT / name).read_text(), re.MULTILINE)[1]
    assert re.search(
        rf"(uv==|python:){re.escape(version)}(-slim)?$", TEXT, re.MULTILINE
    )
