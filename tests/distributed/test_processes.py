"""Real processes that meet through jax.distributed, on this machine."""

import contextlib
import importlib.util
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from pav_jax.core.errors import UserError
from pav_jax.distributed import devices
from pav_jax.distributed.processes import Coordinator
from pav_jax.main import main
from pav_jax.pipeline.runner import run_stages

ROOT = Path(__file__).resolve().parents[2]


def _worker(name):
    """A program beside this file, as a module; its `__file__` starts it."""
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COLLECTIVES = Path(__file__).with_name("collectives_worker.py")
train_worker, rl_worker = _worker("train_worker"), _worker("rl_worker")

# A collective stage, of which process 1 never finishes the shard that it takes.
STUCK = """
import sys, time, types
from pav_jax.distributed import processes
from pav_jax.pipeline.shards import in_shards
from pav_jax.storage import artifacts
from pav_jax.pipeline.runner import Stage

processes._HEARTBEAT_SECONDS = 10

def run(context):
    def work(part, path, ledger, advance):
        print("shard", path.stem, flush=True)
        claims = lambda: list(context.directory.parent.glob(".workers-*/*.claim"))
        while how == "hang" and (not context.worker.is_primary or len(claims()) < 2):
            time.sleep(0.1)
        artifacts.write_arrays(path, {})

    in_shards(context, range(6), 1, "item", work)

pipeline = types.ModuleType("pav_jax.pipeline.stages")
sys.modules["pav_jax.pipeline.stages"] = pipeline
stage = Stage("labels", run, (), ("seed",), collective=True)
pipeline.stages = lambda config, *_: [stage]

from pav_jax.main import main
how, sys.argv[1:] = sys.argv[1], sys.argv[2:]
sys.exit(main())
"""

CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict(dict(name="demo", seed=0))
"""


_HANGS = 600.0  # seconds after which a test is taken to hang


def _port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _together(host="127.0.0.1", count=2):
    address = f"{host}:{_port()}"
    return [
        [f"--coordinator={address}", f"--num_processes={count}", f"--process_id={i}"]
        for i in range(count)
    ]


@pytest.fixture
def run(tmp_path):
    """Starts a program of the arguments of `pav run`; ends what a test leaves."""
    (tmp_path / "demo.py").write_text(CONFIG)
    started = []

    def start(*program, flags=(), prefix=(), devices=1, workdir=tmp_path / "out"):
        run = ["run", f"--config={tmp_path / 'demo.py'}", f"--workdir={workdir}"]
        count = f"--xla_force_host_platform_device_count={devices}"
        process = subprocess.Popen(
            [*prefix, sys.executable, *program, *run, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=os.environ
            | {
                "XLA_FLAGS": count,
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # compiles sooner
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",  # and only once
                "PYTHONPATH": str(ROOT),
            },
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def start(run):
    """Starts the program STUCK."""
    return lambda how, flags=(), prefix=(): run(
        "-c", STUCK, how, flags=flags, prefix=prefix
    )


def _shards(out):
    """The shards that a process says it has begun; gloo prints to stdout too."""
    return (line.split()[1] for line in out if line.startswith("shard"))


@pytest.mark.slow
def test_a_killed_process_stops_the_others_and_loses_nothing(start, tmp_path):
    primary, helper = (start("hang", flags) for flags in _together())
    taken = next(_shards(helper.stdout))  # and never finished
    done = list(itertools.islice(_shards(primary.stdout), 5))
    assert {taken, *done} == {f"shard-{i:05d}" for i in range(6)}
    helper.kill()
    # Ten seconds of silence are allowed here, and more for a busy machine.
    out, err = primary.communicate(timeout=_HANGS)
    assert primary.returncode == -signal.SIGABRT and not list(_shards(out.splitlines()))
    assert "another task died" in err

    again = start("go on")
    out, err = again.communicate(timeout=_HANGS)
    assert again.returncode == 0, err
    assert list(_shards(out.splitlines())) == [taken]


@pytest.mark.slow
def test_sigterm_to_one_stops_all_with_the_codes_for_again(start):
    primary, helper = (start("hang", flags) for flags in _together())
    next(_shards(helper.stdout))
    helper.send_signal(signal.SIGTERM)
    _, err = helper.communicate(timeout=_HANGS)
    assert helper.returncode == 143, err
    _, err = primary.communicate(timeout=_HANGS)
    assert primary.returncode == 75, err
    assert err.splitlines()[-1].startswith("pav: process 1 stopped: ")
    assert err.splitlines()[-1].endswith("the same command goes on from here")


@pytest.fixture
def hosts():
    """Two network namespaces on one wire: prefixes of commands, and the first's IP."""
    names = [f"pav{os.getpid()}{letter}" for letter in "ab"]
    setup = [f"netns add {name}" for name in names]
    wire = [f"v{name} netns {name}" for name in names]
    setup.append(f"link add {wire[0]} type veth peer name {wire[1]}")
    for place, name in enumerate(names, start=1):
        setup.append(f"-n {name} addr add 10.231.77.{place}/24 dev v{name}")
        setup.append(f"-n {name} link set v{name} up")
        setup.append(f"-n {name} link set lo up")
    try:
        for command in setup:
            subprocess.run(["ip", *command.split()], check=True, capture_output=True)
        # Hosts are called what they can be reached by, which gloo relies on.
        named = 'hostname 10.231.77.$1 && shift && exec "$@"'
        yield (
            [
                ["unshare", "--uts", "sh", "-c", named, "sh", str(place)]
                + ["ip", "netns", "exec", name]
                for place, name in enumerate(names, start=1)
            ],
            "10.231.77.1",
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to make network namespaces")
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
def test_two_hosts(start, hosts, tmp_path):
    prefixes, address = hosts
    both = [
        start("go on", flags, prefix)
        for flags, prefix in zip(_together(address), prefixes, strict=True)
    ]
    outputs = [process.communicate(timeout=_HANGS) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    shards = [shard for out, _ in outputs for shard in _shards(out.splitlines())]
    assert sorted(shards) == [f"shard-{i:05d}" for i in range(6)]


# Training as one program.


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a run that trains on one device."""
    workdir = tmp_path_factory.mktemp("alone")
    run_stages(train_worker.STAGES, train_worker.config().lock(), workdir)
    return workdir


@pytest.fixture
def train(run, tmp_path):
    """Starts processes that train on a mesh; see train_worker.py."""

    def start(sizes, count, devices=1, hang=-1, hosts=None):
        config = f"ConfigDict({train_worker.config(sizes).to_dict()})"
        (tmp_path / "demo.py").write_text(
            f"from ml_collections import ConfigDict\n\nget_config = lambda: {config}\n"
        )
        program = (train_worker.__file__, str(hang))
        prefixes, address = hosts or ([()] * count, "127.0.0.1")
        return [
            run(*program, flags=flags, devices=devices, prefix=prefix)
            for flags, prefix in zip(_together(address, count), prefixes, strict=True)
        ]

    return start


def _step(process, step):
    """Waits until a process is about to do a step."""
    return next(line for line in process.stdout if line == f"step {step}\n")


def _check_trained(processes, workdir, alone):
    """That they end well, and with what one device has; returns what they print."""
    outputs = [process.communicate(timeout=_HANGS) for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), (
        outputs
    )
    ours, wanted = map(train_worker.read, (workdir, alone))
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert {path.name for path in (workdir / "sft").iterdir()} == {
        path.name for path in (alone / "sft").iterdir()
    }
    return [out for out, _ in outputs]


@pytest.mark.slow
def test_four_processes_train_as_one(train, tmp_path, alone):
    four = train({"data": 2, "fsdp": 2}, 4)
    _check_trained(four, tmp_path / "out", alone)
    for name in ("metrics.jsonl", "ledger.json"):
        ours, wanted = (
            json.loads((workdir / "sft" / name).read_text())  # one line
            for workdir in (tmp_path / "out", alone)
        )
        assert ours == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
def test_two_hosts_train_as_one(train, hosts, tmp_path, alone):
    _check_trained(train({"fsdp": 2}, 2, hosts=hosts), tmp_path / "out", alone)


@pytest.mark.slow
def test_training_that_is_stopped_goes_on(train, tmp_path, alone):
    """By SIGTERM to one process of two, and by the death of one."""
    sizes, saved = {"fsdp": 2, "tensor": -1}, tmp_path / "out" / "sft.new/checkpoints"
    primary, helper = train(sizes, 2, devices=2, hang=3)
    _step(helper, 3)
    _terminate(helper, primary)
    done = max(int(path.name) for path in saved.iterdir())
    assert done >= 3

    primary, helper = train(sizes, 2, devices=2, hang=done + 4)
    _step(primary, done)
    _step(helper, done + 4)
    while not (saved / str(done + 3)).exists():
        time.sleep(0.1)
    _kill(helper, primary)

    both = train(sizes, 2, devices=2)
    for out in _check_trained(both, tmp_path / "out", alone):
        assert f"step {done + 3}\n" in out and f"step {done + 2}\n" not in out


def _terminate(helper, primary):
    """Sends SIGTERM to one of two that train as one; both are to save and to stop."""
    helper.send_signal(signal.SIGTERM)
    _, err = helper.communicate(timeout=_HANGS)
    assert helper.returncode == 143, err
    _, err = primary.communicate(timeout=_HANGS)
    assert primary.returncode == 75, err
    # The helper says that it leaves in two ways: after a step, as the processes agree
    # on what to do next, and by a file when it has left. Either may be noticed first.
    ways = ("another process was terminated", "process 1 stopped: Terminated")
    assert any(way in err.splitlines()[-1] for way in ways), err


def _kill(helper, primary):
    """Kills one of two that train as one; the other is to stop, and to say why."""
    helper.kill()
    _, err = primary.communicate(timeout=_HANGS)
    # Who notices first: the primary in its next step, or jax, which ends the process.
    if primary.returncode != -signal.SIGABRT:
        assert primary.returncode == 75, err
        assert "another process is gone" in err.splitlines()[-1]


# RL as one program, for which each samples.


@pytest.mark.slow
def test_weights_and_rows_between_meshes():
    """On a mesh whose order of devices is that of its topology."""
    address = f"127.0.0.1:{_port()}"
    both = [
        subprocess.Popen(
            [sys.executable, COLLECTIVES, address, str(index)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {
                "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
                "PYTHONPATH": str(ROOT),
            },
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=_HANGS) for process in both]
    assert all("all is well" in out for out, _ in outputs), outputs


@pytest.fixture
def reinforce(run, tmp_path):
    """Starts processes that do RL on a mesh; see rl_worker.py."""

    def start(sizes, count, hang=-1, **kwargs):
        config = rl_worker.config(sizes)
        (tmp_path / "demo.py").write_text(
            "from ml_collections import ConfigDict\n\n"
            f"get_config = lambda: ConfigDict({config.to_dict()})\n"
        )
        each = _together(count=count) if count > 1 else [()]
        program = (rl_worker.__file__, str(hang))
        return [run(*program, flags=flags, **kwargs) for flags in each]

    return start


@pytest.mark.slow
def test_processes_do_rl_as_one(reinforce, tmp_path):
    """One of two gets SIGTERM, then one is killed while it samples; at last four go on,
    to what one process has."""
    primary, helper = reinforce({"fsdp": 2}, 2, hang=1)
    _step(helper, 1)  # when everything is compiled: after SIGTERM there is little time
    _terminate(helper, primary)

    primary, helper = reinforce({"fsdp": 2}, 2, hang=2)
    _step(helper, 2)
    while not (tmp_path / "out/rl-pav-0.new/checkpoints/2").exists():
        time.sleep(0.1)
    _kill(helper, primary)
    for process in reinforce({"data": 2, "fsdp": 2}, 4):
        out, err = process.communicate(timeout=_HANGS)
        assert process.returncode == 0, err
        assert "step 2\n" in out and "step 1\n" not in out
    (process,) = reinforce(None, 1, workdir=tmp_path / "alone")
    _, err = process.communicate(timeout=_HANGS)
    assert process.returncode == 0, err

    _check_same_run(tmp_path / "out", tmp_path / "alone")


def _check_same_run(ours, wanted):
    moved = jax.tree.map(np.subtract, *map(rl_worker.read, (ours, wanted)))
    assert max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(moved)) < 1e-5
    ours, wanted = ours / "rl-pav-0", wanted / "rl-pav-0"
    for name in ("metrics", "accuracy", "responses"):
        rows, theirs = (_rows(folder / f"{name}.jsonl") for folder in (ours, wanted))
        for (place, a), (its, b) in zip(rows, theirs, strict=True):
            if isinstance(b, float):
                b = pytest.approx(b, rel=1e-4, abs=1e-6)
            assert (place, a) == (its, b)
    ledgers = [(folder / "ledger.json").read_text() for folder in (ours, wanted)]
    assert ledgers[0] == ledgers[1]


def _rows(path):
    """Places and values of all that is written, but for times."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows
    clock = ("seconds", "tokens_per_second")
    rows = [{k: v for k, v in row.items() if k not in clock} for row in rows]
    return jax.tree.leaves_with_path(rows)


# Are the devices there?


def test_devices_of_two_processes(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    first, second = _together()
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    variables = dict(
        zip(names, (flag.partition("=")[2] for flag in second), strict=True)
    )
    other = subprocess.Popen(
        [sys.executable, "-m", "pav_jax", "devices", "--expect=5"],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | variables,
    )
    flags = [flag.partition("=")[2] for flag in first]
    summary = devices.check(
        Coordinator(flags[0], int(flags[1]), int(flags[2])), expect=6, timeout=60
    )
    assert summary == "6 cpu devices, 3 of them here, in 2 processes"
    _, err = other.communicate(timeout=_HANGS)
    assert other.returncode == 2
    assert "there are 6 cpu devices" in err and "--expect=5" in err


def test_devices_that_do_not_answer():
    """The other process never comes."""
    alone = Coordinator(f"127.0.0.1:{_port()}", 2, 0)
    with pytest.raises(UserError, match="no answer about devices within --timeout=3 s"):
        devices.check(alone, expect=1, timeout=3)


def test_devices_that_cannot_be_used(monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "JAX_PLATFORMS", "abacus")
    assert main(["devices"]) == 2
    assert "devices cannot be used: " in capsys.readouterr().err
