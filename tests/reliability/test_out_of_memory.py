"""Too little memory: a paragraph and exit code 2, and nothing is taken for damaged.

A real limit on a whole run is in `test_kills.py`.
"""

import errno
import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError, exhausted
from pav_jax.main import main
from pav_jax.pipeline.beams import beam_config
from pav_jax.pipeline.stages import stages
from pav_jax.search.beam import groups_per_batch
from pav_jax.storage import artifacts, checkpoints
from pav_jax.tools import commands

DEMO = str(Path(__file__).resolve().parents[2] / "experiments" / "demo.py")
DEVICE = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 B")


def _huge_array():
    return np.ones(1 << 60, np.int8)


def _huge_on_the_device():
    return jnp.zeros((1 << 46,), jnp.int8).block_until_ready()


def _no_fork():
    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))


def _no_thread():
    raise RuntimeError("can't start new thread")


def _no_library():
    raise ImportError("x.so: failed to map segment from shared object")


def _chained():
    try:
        raise DEVICE
    except jax.errors.JaxRuntimeError as error:
        raise RuntimeError("a step failed") from error


@pytest.mark.parametrize(
    "fails, words",
    [
        (_huge_array, "Unable to allocate"),
        (_huge_on_the_device, "RESOURCE_EXHAUSTED: Out of memory allocating"),
        (_no_fork, "Cannot allocate memory"),
        (_no_thread, "can't start new thread"),
        (_no_library, "failed to map segment"),
        (_chained, "a step failed"),
    ],
)
def test_it_is_one_paragraph(fails, words, monkeypatch, capsys):
    monkeypatch.setattr(commands, "run", lambda arguments, changes: fails())
    monkeypatch.setattr(commands, "devices", lambda arguments, changes: fails())
    assert main(["run", "--config=x.py", "--workdir=out"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("pav: out of memory (") and err.count("\n") == 1
    assert words in err and "config.sampling.rows" in err and "batch_size" in err
    assert err.endswith("is kept, and the same command goes on from here\n")
    assert main(["devices"]) == 2
    err = capsys.readouterr().err
    assert "give it more memory" in err and "config." not in err


def test_what_it_says_to_make_smaller_is_so(monkeypatch, capsys):
    """Of a search, which has no grid; and what is made again by another grid."""
    config = config_lib.call(DEMO, "get_config")
    found = {stage.name: stage for stage in stages(config)}
    assert all("sampling" in found[name].fields for name in ("rollouts", "evaluation"))
    assert "rollouts" in found["labels"].needs and "labels" in found["prm"].needs
    assert "sampling" not in found["search"].fields
    search = functools.partial(beam_config, config, end_ids=(1,), step_end_ids=(2,))
    for beams in (1, 4, 16, 64):  # 3 candidates of each
        rows = groups_per_batch(search(beams)) * 3 * beams
        assert 192 <= rows <= 256 and config.search.candidates == 3
    assert groups_per_batch(search(128)) == 1  # 384 rows

    monkeypatch.setattr(commands, "run", lambda arguments, changes: _huge_array())
    assert main(["run", "--config=x.py", "--workdir=out"]) == 2
    err = capsys.readouterr().err
    assert "rollouts and the others that sample are then made again" in err
    for field in ("search.candidates", "search.beams", "rl.final.beams"):
        assert field in err
    assert f"about {search(1).rows} rows at a time" in err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("RESOURCE_EXHAUSTED"),
        RuntimeError("failed to map segment from shared object"),
        ImportError("no module named x"),
        KeyError("x"),
        None,
    ],
)
def test_what_it_is_not(error):
    assert not exhausted(error)


def test_files_are_not_taken_for_damaged(tmp_path, monkeypatch):
    """A stage whose manifest cannot be read for want of memory would run again."""
    artifacts.write_json(tmp_path / "x.json", {"a": 1})
    artifacts.write_arrays(tmp_path / "x.npz", {"x": np.ones(3)})

    def fails(*args, **kwargs):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(artifacts.json, "loads", fails)
        with pytest.raises(MemoryError):
            artifacts.read_json(tmp_path / "x.json")
    with monkeypatch.context() as patched:
        patched.setattr(np.lib.format, "read_array", fails)
        # Memory for as much as the file has: it is the file that asks for more.
        with pytest.raises(UserError, match="is damaged .*x.npy asks for more"):
            artifacts.read_arrays(tmp_path / "x.npz")
        patched.setattr(artifacts, "bytearray", fails, raising=False)
        with pytest.raises(MemoryError):
            artifacts.read_arrays(tmp_path / "x.npz")
    assert artifacts.read_json(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize(
    "error", [DEVICE, MemoryError(), PermissionError(13, os.strerror(13), "x")]
)
def test_checkpoints_are_not_set_aside(tmp_path, monkeypatch, error):
    """An older one would be taken, and the steps since be lost."""
    state = {"step": jnp.int32(3), "x": jnp.ones(4)}
    with checkpoints.Checkpoints(tmp_path / "checkpoints") as kept:
        kept.save(3, state)

    def fails(*args):
        raise error

    with checkpoints.Checkpoints(tmp_path / "checkpoints") as kept:
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints.Checkpoints, "_read", fails)
            with pytest.raises(type(error)):
                kept.restore(state)
        assert int(kept.restore(state)["step"]) == 3


def test_a_save_that_is_waited_for_in_vain_is_tried_again_by_launchers(
    tmp_path, monkeypatch, capsys
):
    """Orbax gives up when a disk is slow, or the clock is set ahead meanwhile."""

    def fails(*args):
        with artifacts.writing(tmp_path / "checkpoints"):
            raise TimeoutError("timed out after 600 seconds")

    monkeypatch.setattr(commands, "devices", fails)
    assert main(["devices"]) == 75
    said = capsys.readouterr().err
    assert f"cannot write {tmp_path / 'checkpoints'} now: timed out after" in said


def test_parameters_are_not_taken_for_those_of_another_architecture(tmp_path):
    params = {"x": jnp.ones(4)}
    checkpoints.save_params(tmp_path / "params", params)
    with pytest.raises(MemoryError), checkpoints._reading(tmp_path / "params"):
        raise MemoryError
