"""launch/gke.py, with a stand-in for kubectl that records what it is told."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
RUN = ["--", "--config=demo.py", "--workdir=/mnt/pav/x", "--config.ns=(1, 2)"]
FLAGS = ["--name=demo-1", "--type=v5p-128", "--image=gcr.io/x", "--claim=share"]

# Each line of the file "states" is what one look at the JobSet shows, the last one
# again and again; a file "VERB_error" makes that verb fail.
KUBECTL = """#!{python} -IS
import json, pathlib, shlex, sys
here = pathlib.Path({folder!r})
words = [word for word in sys.argv[1:] if not word.startswith(("--context", "--name"))]
with (here / "calls").open("a") as calls:
    calls.write(shlex.join(sys.argv[1:]) + "\\n")
error = here / (words[0] + "_error")
if error.exists():
    print(error.read_text(), file=sys.stderr)
    sys.exit(1)
if words[:2] == ["get", "job"]:
    lines = (here / "states").read_text().splitlines()
    if len(lines) > 1:
        (here / "states").write_text("\\n".join(lines[1:]))
    state, _, counts = lines[0].partition(" ")
    if state != "ABSENT":
        done, _, failed = counts.partition(" ")
        conditions = [dict(type="Suspended", status="False")]
        if state != "Running":
            conditions.append(dict(type=state, status="True"))
        status = dict(conditions=conditions)
        if done:
            status |= dict(succeeded=int(done))
        if failed:
            status |= dict(failedIndexes=failed)
        print(json.dumps(dict(status=status)))
elif words[:2] == ["get", "jobset"]:
    lines = (here / "states").read_text().splitlines()
    if len(lines) > 1:
        (here / "states").write_text("\\n".join(lines[1:]))
    state, _, restarts = lines[0].partition(" ")
    if state != "ABSENT":
        status = dict(restarts=int(restarts or 0))
        if state != "Running":
            status["terminalState"] = state
        print(json.dumps(dict(status=status)))
elif words[:2] == ["get", "pods"]:
    print((here / "pods").read_text())
elif words[0] == "apply":
    (here / "applied").write_text(sys.stdin.read())
elif words[0] == "logs":
    print("a line of the log", flush=True)
    if (here / "long").exists():
        import time
        time.sleep(30)
"""


class Cluster:
    def __init__(self, folder):
        self._folder = folder
        path = folder / "kubectl"
        path.write_text(KUBECTL.format(python=sys.executable, folder=str(folder)))
        path.chmod(0o755)

    def set(self, **files):
        for name, text in files.items():
            (self._folder / name).write_text(text)

    def pods(self, *codes):
        """Of the JobSet that failed; None for one that has not ended."""
        items = [
            {
                "status": {
                    "containerStatuses": [
                        {"name": "gke-gcsfuse-sidecar", "state": {"running": {}}},
                        {
                            "name": "pav",
                            "state": {"running": {}}
                            if code is None
                            else {"terminated": {"exitCode": code}},
                        },
                    ]
                }
            }
            for code in codes
        ]
        items.append({"status": {}})  # one that never got a node
        self.set(pods=json.dumps({"items": items}))

    def start(self, *arguments):
        self._folder.joinpath("calls").write_text("")
        path = os.pathsep.join(
            [str(self._folder), str(Path(sys.executable).parent), os.environ["PATH"]]
        )
        return subprocess.Popen(
            [sys.executable, LAUNCH / "gke.py", "--poll=0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PATH": path},
        )

    def run(self, *arguments):
        process = self.start(*arguments)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    @property
    def calls(self):
        lines = self._folder.joinpath("calls").read_text().splitlines()
        return [shlex.split(line) for line in lines]

    @property
    def verbs(self):
        """What was done to the JobSet, in order, without the looks."""
        known = ("apply", "delete")
        return [verb for call in self.calls for verb in known if verb in call]

    @property
    def applied(self):
        return (self._folder / "applied").read_text()


@pytest.fixture
def cluster(tmp_path):
    return Cluster(tmp_path)


def test_a_run_is_applied_and_followed(cluster):
    cluster.set(states="ABSENT\nRunning\nRunning 1\nCompleted 1")
    done = cluster.run(*FLAGS, "--context=big", "--namespace=lab", *RUN)
    assert done.returncode == 0, done.stderr
    assert cluster.verbs == ["apply"]
    assert all(c[:2] == ["--context=big", "--namespace=lab"] for c in cluster.calls)
    logs = [call for call in cluster.calls if "logs" in call]
    assert len(logs) == 3 and done.stdout == "a line of the log\n" * 3
    # Of process 0, and no line twice.
    assert (
        "--selector=jobset.sigs.k8s.io/jobset-name=demo-1,"
        "jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0"
    ) in logs[0]
    since = [any(word.startswith("--since-time=") for word in call) for call in logs]
    assert since == [False, True, True]
    assert "was started again, for the 1. time" in done.stderr


def test_dry_run_prints_what_a_run_applies(cluster):
    cluster.set(states="ABSENT\nCompleted")
    printed = cluster.run(*FLAGS, "--dry_run", *RUN)
    assert printed.returncode == 0 and not cluster.calls
    assert cluster.run(*FLAGS, *RUN).returncode == 0
    head, command, manifest = printed.stdout.split("\n", 2)
    assert (head, manifest) == ("---", cluster.applied)
    command = shlex.split(command.removeprefix("# kubectl "))
    assert [c for c in cluster.calls if "apply" in c] == [command]
    found = yaml.safe_load(printed.stdout)
    assert found["kind"] == "JobSet" and found["metadata"]["name"] == "demo-1"


@pytest.mark.parametrize(
    "states, pods, code, verbs",
    [
        ("Running\nCompleted", [], 0, []),  # followed
        ("Failed\nCompleted", [], 0, ["delete", "apply"]),  # once more
        ("Completed\nCompleted", [], 0, ["delete", "apply"]),
        ("ABSENT\nFailed", [75, 2, None], 2, ["apply"]),
        ("ABSENT\nFailed", [1, 75], 1, ["apply"]),
        ("ABSENT\nFailed", [143, 75, 0], 75, ["apply"]),  # once too often
        ("ABSENT\nFailed", [], 75, ["apply"]),
        ("ABSENT\nABSENT", [], 75, ["apply"]),  # somebody deleted it
    ],
)
def test_how_a_run_ends(cluster, states, pods, code, verbs):
    cluster.set(states=states)
    cluster.pods(*pods)
    done = cluster.run(*FLAGS, *RUN)
    assert done.returncode == code, done.stderr
    assert cluster.verbs == verbs


@pytest.mark.parametrize(
    "states, pods, code, verbs, counts",
    [
        ("ABSENT\nRunning\nRunning 1\nRunning 1\nComplete 4", [], 0, ["apply"], "014"),
        ("Running 1\nComplete 4", [], 0, [], "4"),  # followed
        ("Failed 3 2\nComplete 4", [], 0, ["delete", "apply"], "4"),  # once more
        ("ABSENT\nRunning 1\nFailed 2 0,3", [75, 2, 0], 2, ["apply"], "12"),
        ("ABSENT\nRunning 1\nFailed 2 0,3", [75], 75, ["apply"], "12"),
        ("ABSENT\nRunning 1\nABSENT", [], 75, ["apply"], "1"),  # somebody deleted it
    ],
)
def test_parts_are_counted(cluster, states, pods, code, verbs, counts):
    cluster.set(states=states)
    cluster.pods(*pods)
    run = [*RUN, "--until=labels", "--workdir=gs://results/x"]
    done = cluster.run(*FLAGS, "--type=v6e-8", "--parts=4", *run)
    assert done.returncode == code, done.stderr
    assert cluster.verbs == verbs
    said = [line for line in done.stderr.splitlines() if "parts are done" in line]
    failed = "; given up: 0,3"
    assert said == [
        f"gke.py: {count} parts are done" + failed * (count == "2") for count in counts
    ]
    assert not any("logs" in call for call in cluster.calls)
    if "apply" in verbs:
        assert yaml.safe_load(cluster.applied)["kind"] == "Job"
    if pods:
        assert any(
            "batch.kubernetes.io/job-name=demo-1" in str(c) for c in cluster.calls
        )


def test_without_a_pod_there_is_no_log_yet(cluster):
    cluster.set(states="ABSENT\nRunning\nCompleted", logs_error="no such pod")
    done = cluster.run(*FLAGS, *RUN)
    assert done.returncode == 0 and "no such pod" not in done.stderr
    assert not any("--since-time" in str(call) for call in cluster.calls)


@pytest.mark.parametrize("verb", ["get", "apply"])
def test_kubectl_refuses(cluster, verb):
    cluster.set(states="ABSENT", **{f"{verb}_error": "error: no JobSet here"})
    done = cluster.run(*FLAGS, *RUN)
    assert done.returncode == 2
    assert "error: no JobSet here" in done.stderr
    assert f"kubectl {verb} failed (see above)" in done.stderr


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_run_goes_on_without_its_follower(cluster, number, code):
    cluster.set(states="Running", long="")
    # Or Ctrl-C is ignored where these tests ignore it, as behind `nohup`.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = cluster.start(*FLAGS, *RUN)
    signal.signal(signal.SIGINT, ours)
    assert process.stdout.readline() == "a line of the log\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    assert process.returncode == code and cluster.verbs == []
    assert "the run goes on; the same command follows it" in said


def test_down(cluster):
    cluster.set(states="Running")
    assert cluster.run("--name=demo-1", "--down").returncode == 0
    assert cluster.verbs == ["delete"]


def test_nothing_to_take_down(cluster):
    """A Job of parts is not found as a JobSet, and its pods cost money."""
    cluster.set(states="ABSENT")
    done = cluster.run("--name=demo-1", "--down")
    assert done.returncode == 2 and cluster.verbs == []
    assert "there is no JobSet demo-1; a JobSet is deleted without" in done.stderr


def test_mistakes(cluster):
    done = cluster.run(*FLAGS, "--name=Demo_1", *RUN)
    assert done.returncode == 2 and not cluster.calls
    assert done.stderr.count("\n") == 1 and "--name=Demo_1 must begin" in done.stderr
