"""Several processes at one workdir; here threads, with a broadcast of their own."""

import errno
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for

import jax
import pytest
from ml_collections import ConfigDict

from pav_jax.core.errors import Unanswered, UserError
from pav_jax.distributed import signals
from pav_jax.distributed.processes import Coordinator, Processes
from pav_jax.distributed.signals import PeerStopped
from pav_jax.pipeline import workers
from pav_jax.pipeline.manifest import read_manifest
from pav_jax.pipeline.runner import Stage, run_stages
from pav_jax.pipeline.shards import in_shards, read_ledger
from pav_jax.storage import artifacts

COUNT = 4  # processes
ITEMS = 23
_HANGS = 300.0  # seconds after which a test is taken to hang


@pytest.fixture
def team(monkeypatch, tmp_path):
    """Runs stages as COUNT processes; returns what each returned or raised."""
    local = threading.local()

    def broadcast(value):
        if local.index == 0:
            local.run.set_result(value)
        return local.run.result(timeout=_HANGS)

    monkeypatch.setattr(workers, "_broadcast", broadcast)
    monkeypatch.setattr(workers, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(workers, "_FAREWELL_SECONDS", 2.0 * _HANGS)

    def run(make_stages, configs=None, workdirs=None, reuse_from=()):
        number = Future()

        def process(index):
            local.index, local.run = index, number
            run_stages(
                make_stages(index),
                (configs or {}).get(index, _config()),
                (workdirs or {}).get(index, tmp_path / "run"),
                processes=Processes(index, COUNT),
                reuse_from=reuse_from,
            )

        with ThreadPoolExecutor(COUNT) as pool:
            futures = [pool.submit(process, index) for index in range(COUNT)]
            return [future.exception(timeout=_HANGS) for future in futures]

    run.workdir = tmp_path / "run"
    return run


def _config(size=2):
    return ConfigDict(dict(name="demo", seed=0, size=size)).lock()


def _stages(index, written, fail=None):
    """One for the primary process, a collective one, and one that reads it."""

    def first(context):
        written.append(("first", index))
        artifacts.write_json(context.directory / "first.json", 7)

    def shards(context):
        seven = artifacts.read_json(context.input("first") / "first.json")

        def work(part, path, ledger, advance):
            if fail:
                fail(index, part)
            ledger.decoded += seven * len(part)
            for _ in part:
                advance()
            artifacts.write_arrays(path, {})
            written.append((path.name, index))

        in_shards(context, range(ITEMS), context.config.size, "item", work)

    def last(context):
        written.append(("last", index))
        ledger = read_ledger(context.input("shards"))
        artifacts.write_json(context.directory / "sum.json", ledger.decoded)

    return [
        Stage("first", first, (), ("seed",)),
        Stage("shards", shards, ("first",), ("size",), collective=True),
        Stage("last", last, ("shards",), ()),
    ]


def _names(count):
    return [f"shard-{number:05d}.npz" for number in range(count)]


def test_each_shard_is_written_once(team):
    written, helped = [], threading.Event()

    def let_others_help(index, part):
        if index:
            helped.set()
        assert helped.wait(_HANGS)

    stages = lambda index: _stages(index, written, let_others_help)  # noqa: E731
    assert team(stages) == [None] * COUNT
    assert {w for w in written if "shard" not in w[0]} == {("first", 0), ("last", 0)}
    shards = [name for name, _ in written if "shard" in name]
    assert sorted(shards) == _names(12)
    assert len({index for name, index in written if "shard" in name}) > 1
    assert artifacts.read_json(team.workdir / "last" / "sum.json") == 7 * ITEMS


def test_files_are_those_of_one_process(team, tmp_path):
    assert team(lambda index: _stages(index, [])) == [None] * COUNT
    run_stages(_stages(0, []), _config(), tmp_path / "alone")
    for name in ("first", "shards", "last"):
        ours, alone = (
            read_manifest(folder / name)["fingerprint"]
            for folder in (team.workdir, tmp_path / "alone")
        )
        assert ours == alone


def test_stages_are_taken_from_another_run(team, tmp_path):
    """By the primary process; the others see them as done."""
    run_stages(_stages(0, []), _config(), tmp_path / "alone", until="shards")
    written = []
    others = [tmp_path / "alone"]
    failed = team(lambda index: _stages(index, written), reuse_from=others)
    assert failed == [None] * COUNT and written == [("last", 0)]
    failed = team(lambda index: _stages(index, []), reuse_from=[tmp_path / "absent"])
    assert isinstance(failed[0], UserError)
    assert all(isinstance(error, PeerStopped) for error in failed[1:])


def test_a_rerun_does_only_what_is_left(team):
    """By another number of processes, and in spite of the claims of the stopped run."""
    written = []

    def fail(index, part):
        if 10 in part:
            raise UserError("no more")

    with pytest.raises(UserError):
        run_stages(_stages(0, written, fail), _config(), team.workdir)
    assert [name for name, _ in written if "shard" in name] == _names(5)
    assert team(lambda index: _stages(index, written)) == [None] * COUNT
    assert sorted(name for name, _ in written if "shard" in name) == _names(12)
    before = len(written)
    assert team(lambda index: _stages(index, written)) == [None] * COUNT
    assert len(written) == before
    assert len(list(team.workdir.glob(".workers-*"))) == 1


@pytest.mark.parametrize("bad", range(COUNT))
def test_one_that_fails_stops_the_others(team, bad):
    written, met = [], threading.Event()

    def fail(index, part):
        if index == bad:
            met.set()
            raise UserError("the dog ate it")
        assert met.wait(_HANGS)  # so that the bad one gets a shard

    errors = team(lambda index: _stages(index, written, fail))
    assert [type(error) for error in errors] == [
        UserError if index == bad else PeerStopped for index in range(COUNT)
    ]
    assert all("the dog ate it" in str(error) for error in errors)
    stopped = [error for error in errors if isinstance(error, PeerStopped)]
    assert {error.code for error in stopped} == {signals.MISTAKE}
    # What was finished is kept: only the rest is done again.
    done = {name for name, _ in written if "shard" in name}
    again = []
    assert team(lambda index: _stages(index, again)) == [None] * COUNT
    redone = {name for name, _ in again if "shard" in name}
    assert redone | done == set(_names(12)) and not redone & done


def test_the_primary_process_cannot_claim(team):
    team.workdir.mkdir()
    (team.workdir / "notes.txt").touch()
    errors = team(lambda index: _stages(index, []))
    assert type(errors[0]) is UserError and "not empty" in str(errors[0])
    assert {type(error) for error in errors[1:]} == {PeerStopped}
    # A launcher would run again what ended otherwise.
    assert {error.code for error in errors[1:]} == {signals.MISTAKE}
    assert not any("goes on" in error.advice for error in errors[1:])


def test_another_folder(team, tmp_path):
    errors = team(lambda index: _stages(index, []), workdirs={2: tmp_path / "local"})
    assert type(errors[2]) is UserError and "is not the folder that process 0" in str(
        errors[2]
    )
    assert not (tmp_path / "local").exists()


def test_another_config_stops_all(team):
    errors = team(lambda index: _stages(index, []), configs={1: _config(size=3)})
    assert type(errors.pop(1)) is UserError
    assert {type(error) for error in errors} == {PeerStopped}
    assert all("another config" in str(error) for error in errors)


@pytest.fixture
def ended(monkeypatch):
    """Waits for the process to be ended, and returns its code; or None."""
    code = Future()
    monkeypatch.setattr(
        signals.os, "_exit", lambda c: code.done() or code.set_result(c)
    )
    monkeypatch.setattr(signals, "_CHECK_SECONDS", 0.01)

    def wait(timeout):
        done, _ = wait_for([code], timeout=timeout)
        return code.result() if done else None

    return wait


@pytest.mark.parametrize(
    "error, code",
    [
        (UserError("the dog ate it"), signals.MISTAKE),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), signals.MISTAKE),
        (Unanswered("no bucket"), signals.AGAIN),
        (signals.Terminated(), signals.AGAIN),
        (PeerStopped("process 3 stopped", signals.MISTAKE), signals.MISTAKE),
    ],
)
def test_one_that_waits_for_a_stopped_one_is_ended(
    ended, monkeypatch, tmp_path, error, code
):
    monkeypatch.setattr(signals, "_GRACE_SECONDS", 0.01)
    monkeypatch.setattr(workers, "_FAREWELL_SECONDS", 0.0)
    first, second = (
        workers.PeerWorker(tmp_path, Processes(index, 2)) for index in range(2)
    )
    with first.lockstep():
        second.leave(error)
        assert ended(_HANGS) == code


def test_one_that_need_not_wait_is_not(ended, monkeypatch, tmp_path):
    monkeypatch.setattr(signals, "_GRACE_SECONDS", _HANGS)
    monkeypatch.setattr(workers, "_POLL_SECONDS", 0.01)
    first, second = (
        workers.PeerWorker(tmp_path, Processes(index, 2)) for index in range(2)
    )
    noticed, check = threading.Event(), first.check

    def note():
        try:
            check()
        except PeerStopped:
            noticed.set()
            raise

    monkeypatch.setattr(first, "check", note)
    with pytest.raises(PeerStopped, match="the dog ate it"), first.lockstep():
        second.leave(UserError("the dog ate it"))
        assert noticed.wait(_HANGS)  # by the thread, which gives us time
        raise jax.errors.JaxRuntimeError("INTERNAL: connection lost")
    assert ended(0.1) is None


def test_errors_of_a_computation_of_all(tmp_path):
    alone = workers.PeerWorker(tmp_path, Processes(0, 2))
    for message in (
        "Gloo all-reduce failed: Connection closed by peer",
        "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader",
        "DEADLINE_EXCEEDED: Barrier timed out",
    ):
        with pytest.raises(PeerStopped, match="is gone"), alone.lockstep():
            raise jax.errors.JaxRuntimeError(message)
    with pytest.raises(PeerStopped, match="is gone"), alone.lockstep():
        raise ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
    with pytest.raises(jax.errors.JaxRuntimeError), alone.lockstep():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
    with pytest.raises(UserError), alone.lockstep():
        raise UserError("no barrier is known")


# How a process finds the others.


@pytest.mark.parametrize(
    "given, words",
    [
        (dict(num_processes=2), "need --coordinator=HOST:PORT"),
        (dict(process_id=0), "need --coordinator=HOST:PORT"),
        (dict(address="host", num_processes=2, process_id=0), "has no port"),
        (dict(address="host:1", process_id=0), "needs --num_processes"),
        (dict(address="host:1", num_processes=2, process_id=2), "from 0 to 1"),
    ],
)
def test_coordinators_that_make_no_sense(given, words):
    with pytest.raises(UserError, match=words):
        Coordinator.of(**given)


def test_the_environment_fills_in_for_flags(monkeypatch):
    assert Coordinator.of() == Coordinator()
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "host:1")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "4")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    assert Coordinator.of() == Coordinator("host:1", 4, 3)
    assert Coordinator.of(process_id=0) == Coordinator("host:1", 4, 0)
    monkeypatch.setenv("JAX_NUM_PROCESSES", "four")
    with pytest.raises(UserError, match="JAX_NUM_PROCESSES='four'"):
        Coordinator.of()
