"""Files on disk: what comes back, errors on damage, what a failed write leaves."""

import os
import random

import numpy as np
import pytest

from pav_jax.core.errors import UserError
from pav_jax.storage import artifacts

ARRAYS = {
    "counts": np.arange(12, dtype=np.int32).reshape(3, 4),
    "scores": np.array([0.1, np.nan, -np.inf], np.float32),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "done": np.array(True),
    "file": np.array(["a", "ö"]),
    "empty": np.zeros((0, 5), np.int8),
}
RECORDS = [{"text": "a\nb\u2028c \ud800 ö", "k": 3}, {"text": "", "k": None}, 7]

# Kind of file -> how to write an example, how to read it, and the example.
KINDS = {
    "json": (artifacts.write_json, artifacts.read_json, {"a": [1, 2.5, None, "ö"]}),
    "jsonl": (artifacts.write_jsonl, artifacts.read_jsonl, RECORDS),
    "npz": (artifacts.write_arrays, artifacts.read_arrays, ARRAYS),
}


def assert_same(value, expected):
    if isinstance(expected, dict) and "counts" in expected:
        assert value.keys() == expected.keys()
        for name in expected:
            np.testing.assert_array_equal(value[name], expected[name])
            assert value[name].dtype == expected[name].dtype
    else:
        assert value == expected


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    write, read, example = KINDS[request.param]
    path = tmp_path / f"x.{request.param}"
    write(path, example)
    return write, read, example, path


def test_round_trip(kind):
    _, read, example, path = kind
    assert_same(read(path), example)
    assert_same(read(str(path)), example)


def test_same_bytes_for_the_same_value(kind, tmp_path):
    write, _, example, path = kind
    write(tmp_path / "again", example)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_no_records_are_not_an_empty_file(tmp_path):
    artifacts.write_jsonl(tmp_path / "x.jsonl", [])
    assert artifacts.read_jsonl(tmp_path / "x.jsonl") == []
    assert (tmp_path / "x.jsonl").stat().st_size > 0


def test_arrays_are_plain_npz(tmp_path):
    artifacts.write_arrays(tmp_path / "x.npz", ARRAYS)
    with np.load(tmp_path / "x.npz") as loaded:
        assert_same(dict(loaded), ARRAYS)


def test_missing_file(kind):
    _, read, _, path = kind
    path.unlink()
    with pytest.raises(UserError, match=r"x\.\w+ is missing; run again"):
        read(path)


def test_not_a_file(kind):
    _, read, _, path = kind
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        read(path.parent)


def test_file_cut_short_anywhere(kind):
    _, read, example, path = kind
    whole = path.read_bytes()
    # Only the last line break of a .json, and whole lines of a .jsonl, go unnoticed.
    silent = {len(whole) - 1} if path.suffix == ".json" else set()
    if path.suffix == ".jsonl":
        silent = {i + 1 for i, byte in enumerate(whole) if byte == ord("\n")}
    step = 9 if path.suffix == ".npz" else 1
    for length in set(range(0, len(whole), step)) - silent:
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"x\.\w+ is damaged .*; delete it and run"):
            read(path)


def test_changed_byte_never_changes_an_array(tmp_path):
    path = tmp_path / "x.npz"
    artifacts.write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    detected = 0
    positions = range(0, len(whole), 3)
    for position in positions:
        changed = bytearray(whole)
        changed[position] ^= 1 << random.Random(position).randrange(8)
        path.write_bytes(changed)
        try:
            arrays = artifacts.read_arrays(path)
        except UserError:
            detected += 1
        else:  # A date or the like, which nobody reads.
            assert_same(arrays, ARRAYS)
    assert detected > 0.5 * len(positions)


def test_values_that_a_file_cannot_hold_are_refused(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    for dtype in (object, ml_dtypes.bfloat16):
        with pytest.raises(TypeError, match="'a'"):
            artifacts.write_arrays(tmp_path / "x", {"a": np.zeros(2, dtype)})
    with pytest.raises(ValueError):
        artifacts.write_json(tmp_path / "x", {"loss": float("nan")})
    with pytest.raises(ValueError):
        artifacts.write_jsonl(tmp_path / "x", [{"loss": float("nan")}])
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, error):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"new")
        raise error

    with pytest.raises(error):
        artifacts.write_atomically(path, write)
    assert os.listdir(tmp_path) == ["x"]
    assert path.read_bytes() == b"old"


def test_a_write_that_the_disk_refuses_is_an_error(tmp_path):
    def write(file):
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"cannot write .*x: No space left on device"):
        artifacts.write_atomically(tmp_path / "x", write)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        artifacts.write_json(tmp_path / "file" / "x", 1)


def test_folders_are_made(tmp_path):
    artifacts.write_json(tmp_path / "a" / "b" / "x.json", 1)
    assert artifacts.read_json(tmp_path / "a" / "b" / "x.json") == 1


def test_leftovers_of_a_kill_are_removed(tmp_path):
    pid = os.fork()
    if not pid:
        artifacts.write_atomically(tmp_path / "a" / "x", lambda file: os._exit(9))
    os.waitpid(pid, 0)
    assert len(os.listdir(tmp_path / "a")) == 1
    artifacts.write_json(tmp_path / "a" / "y", 1)
    artifacts.remove_partials(tmp_path)
    assert os.listdir(tmp_path / "a") == ["y"]


def _in_a_fork(function, *args, **kwargs):
    """Calls it in another process, whose exit code this is."""
    pid = os.fork()
    if not pid:
        try:
            function(*args, **kwargs)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _make(target, text, *, die=False):
    with artifacts.making(target) as new:
        (new / "x").write_text(text)
        if die:
            os._exit(9)


def test_a_folder_that_is_made_touches_no_other(tmp_path):
    """Nor one that another process fills at the time, for the same name."""
    target = tmp_path / "out"
    others = [tmp_path / "out.new", tmp_path / ".out.more.new", tmp_path / ".out.new"]
    for other in others:
        other.mkdir()
        (other / "mine.txt").touch()
    with artifacts.making(target) as one, artifacts.making(tmp_path / "o") as apart:
        (one / "x").write_text("one")
        assert {one.parent, apart.parent} == {tmp_path}
        assert _in_a_fork(_make, target, "two") == 0
        assert (target / "x").read_text() == "two" and (one / "x").exists()
        (target / "x").unlink()
        target.rmdir()
    assert (target / "x").read_text() == "one"
    with (
        pytest.raises(UserError, match="out2 exists; give another --output"),
        artifacts.making(tmp_path / "out2") as new,
    ):
        (new / "x").touch()
        artifacts.write_json(tmp_path / "out2" / "y", 1)
    names = {*map(os.path.basename, others), "o", "out", "out2"}
    assert {*os.listdir(tmp_path)} == names
    assert all((other / "mine.txt").exists() for other in others)
    assert os.listdir(tmp_path / "out2") == ["y"]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_permissions_of_a_folder_that_is_made(tmp_path, mask):
    before = os.umask(mask)
    try:
        (tmp_path / "plain").mkdir()
        with artifacts.making(tmp_path / "deep" / "out"):
            pass
    finally:
        os.umask(before)
    plain = (tmp_path / "plain").stat().st_mode
    assert (tmp_path / "deep" / "out").stat().st_mode == plain


def test_a_folder_of_a_kill_is_removed_by_the_next(tmp_path):
    for place in range(2):
        assert _in_a_fork(_make, tmp_path / "o*t", "", die=True) == 9
        assert len(os.listdir(tmp_path)) == 1, place
    with pytest.raises(RuntimeError), artifacts.making(tmp_path / "o*t") as new:
        assert os.listdir(tmp_path) == [new.name]
        raise RuntimeError
    assert not os.listdir(tmp_path)
    with artifacts.making(tmp_path / "o*t") as new:
        (new / "y").touch()
    assert os.listdir(tmp_path) == ["o*t"] and os.listdir(tmp_path / "o*t") == ["y"]
    with (
        pytest.raises(UserError, match="o.t exists; give another"),
        artifacts.making(tmp_path / "o*t"),
    ):
        raise AssertionError("nothing is to be filled")
    with (
        pytest.raises(UserError, match=r"cannot write .*y/out: (Not a dir|File exi)"),
        artifacts.making(tmp_path / "o*t" / "y" / "out"),
    ):
        raise AssertionError("nothing can be filled")
