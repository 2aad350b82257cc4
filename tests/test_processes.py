"""Real processes that meet through jax.distributed, on this machine."""

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pav_jax import devices
from pav_jax.errors import UserError
from pav_jax.main import main
from pav_jax.processes import Coordinator

ROOT = Path(__file__).resolve().parents[1]

# A shared stage, of which process 1 never finishes the shard that it takes.
STUCK = """
import sys, time, types
from pav_jax import artifacts, processes
from pav_jax.shards import in_shards
from pav_jax.stages import Stage

processes._HEARTBEAT_SECONDS = 10

def run(context):
    def work(part, path, ledger, advance):
        print("shard", path.stem, flush=True)
        claims = lambda: list(context.directory.parent.glob(".crew-*/*.claim"))
        while how == "hang" and (not context.crew.leads or len(claims()) < 2):
            time.sleep(0.1)
        artifacts.write_arrays(path, {})

    in_shards(context, range(6), 1, "item", work)

pipeline = sys.modules["pav_jax.pipeline"] = types.ModuleType("pav_jax.pipeline")
pipeline.stages = lambda config: [Stage("labels", run, (), ("seed",), shared=True)]

from pav_jax.main import main
how, sys.argv[1:] = sys.argv[1], sys.argv[2:]
sys.exit(main())
"""

CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict(dict(name="demo", seed=0))
"""


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
def start(tmp_path):
    """Starts the program STUCK as process `index`; ends what a test leaves."""
    (tmp_path / "demo.py").write_text(CONFIG)
    run = ["run", f"--config={tmp_path / 'demo.py'}", f"--workdir={tmp_path / 'out'}"]
    started = []

    def start(how, flags=(), prefix=()):
        process = subprocess.Popen(
            [*prefix, sys.executable, "-c", STUCK, how, *run, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def _shards(out):
    """The shards that a process says it has begun; gloo prints to stdout too."""
    return (line.split()[1] for line in out if line.startswith("shard"))


@pytest.mark.slow
def test_a_killed_process_stops_the_others_and_loses_nothing(start, tmp_path):
    leader, helper = (start("hang", flags) for flags in _together())
    taken = next(_shards(helper.stdout))  # and never finished
    done = list(itertools.islice(_shards(leader.stdout), 5))
    assert {taken, *done} == {f"shard-{i:05d}" for i in range(6)}
    helper.kill()
    killed = time.monotonic()
    out, err = leader.communicate(timeout=120)
    # Ten seconds of silence are allowed here, and more for a busy machine.
    assert time.monotonic() - killed < 90
    assert leader.returncode == -signal.SIGABRT and not list(_shards(out.splitlines()))
    assert "another task died" in err
    assert err.strip()

    again = start("go on")
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert list(_shards(out.splitlines())) == [taken]


@pytest.mark.slow
def test_sigterm_to_one_stops_all_with_the_codes_for_again(start):
    leader, helper = (start("hang", flags) for flags in _together())
    next(_shards(helper.stdout))
    helper.send_signal(signal.SIGTERM)
    _, said = helper.communicate(timeout=120)
    assert helper.returncode == 143, said
    _, said = leader.communicate(timeout=120)
    assert leader.returncode == 75, said
    assert said.splitlines()[-1].startswith("pav: process 1 stopped: ")
    assert said.splitlines()[-1].endswith("the same command goes on from here")


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
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    shards = [shard for out, _ in said for shard in _shards(out.splitlines())]
    assert sorted(shards) == [f"shard-{i:05d}" for i in range(6)]


# Are the devices there?


def test_devices_of_two_processes(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    first, second = _together()
    other = subprocess.Popen(
        [sys.executable, "-m", "pav_jax", "devices", "--expect=5", *second],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    flags = [flag.partition("=")[2] for flag in first]
    said = devices.check(
        Coordinator(flags[0], int(flags[1]), int(flags[2])), expect=6, timeout=60
    )
    assert said == "6 cpu device(s), 3 of them here, in 2 process(es)"
    _, err = other.communicate(timeout=120)
    assert other.returncode == 2
    assert "there are 6 cpu device(s)" in err and "--expect=5" in err


def test_devices_that_do_not_answer():
    """The other process never comes."""
    start = time.monotonic()
    alone = Coordinator(f"127.0.0.1:{_port()}", 2, 0)
    with pytest.raises(UserError, match="no answer about devices within --timeout=3 s"):
        devices.check(alone, expect=1, timeout=3)
    assert time.monotonic() - start < 10


def test_devices_that_cannot_be_used(monkeypatch, capsys):
    monkeypatch.setitem(os.environ, "JAX_PLATFORMS", "abacus")
    assert main(["devices"]) == 2
    assert "devices cannot be used: " in capsys.readouterr().err
