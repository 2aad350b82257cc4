"""Importing pav_jax is light: never TensorFlow, and no jax before it is needed."""

import doctest
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pav_jax

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "pav_jax").rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCES
    if path.stem != "__main__"
]

# Imports the modules named on the command line one after the other and prints, for
# each, the error it raised (or null) and whether it was the one to load TensorFlow.
IMPORT_EACH = """
import importlib, json, sys, traceback
found = {}
for name in sys.argv[1:]:
    error = None
    before = "tensorflow" in sys.modules
    try:
        importlib.import_module(name)
    except BaseException:
        error = traceback.format_exc()
    found[name] = [error, not before and "tensorflow" in sys.modules]
print(json.dumps(found))
"""

# Runs a `pav` command line in this process and prints which heavy modules it loaded.
HEAVY_AFTER_PAV = """
import json, sys
from pav_jax.main import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
heavy = "absl flax gemma jax matplotlib ml_collections numpy tensorflow tqdm".split()
print(json.dumps([name for name in heavy if name in sys.modules]))
"""

# The installed command; where only the dependencies are installed, what it stands for.
SCRIPT = Path(sys.executable).with_name("pav")
PAV = [SCRIPT] if SCRIPT.exists() else [sys.executable, "-m", "pav_jax"]


def run_python(program: str, *args: str):
    """The JSON value in the last line that `program` prints, run in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def imported() -> dict:
    """Module name -> (error or None, loads TensorFlow), from one new process."""
    return run_python(IMPORT_EACH, *MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_import_leaves_tensorflow_alone(imported, module):
    error, loads_tensorflow = imported[module]
    assert error is None, error
    assert not loads_tensorflow


def test_every_source_directory_is_a_package():
    """Without __init__.py a directory imports from a checkout but is not installed."""
    bare = {p.parent for p in SOURCES if not (p.parent / "__init__.py").exists()}
    assert not bare


def test_help_needs_no_heavy_import():
    assert run_python(HEAVY_AFTER_PAV, "--help") == []


def test_help_answers_within_one_second():
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [*PAV, "--help"], capture_output=True, text=True, cwd=ROOT
        )
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower()
    assert min(seconds) < 1.0, seconds


def test_jax_runs_with_the_strict_settings():
    """The settings of conftest.py came in time: nothing imported jax before them."""
    import jax

    assert jax.config.jax_numpy_rank_promotion == "raise"


def test_the_example_of_the_package_is_true():
    failed, tried = doctest.testmod(pav_jax)
    assert tried > 3 and not failed


def test_all_public_names_can_be_imported():
    assert all(hasattr(pav_jax, name) for name in pav_jax.__all__)
    with pytest.raises(AttributeError, match="no attribute 'label_step'"):
        pav_jax.label_step  # noqa: B018
