#!/usr/bin/env python3
"""One run on TPU slices of a GKE cluster, as a JobSet.

    launch/gke.py --name=NAME --type=v6e-16 --image=IMAGE [OPTIONS] -- ARGUMENTS
    launch/gke.py --name=NAME --type=v6e-8 --image=IMAGE --parts=64 --spot -- ARGUMENTS

Applies a JobSet whose pods, one a host, do `pav run ARGUMENTS` together; follows the
log of process 0; and exits as the run does. Kubernetes starts it again when a node is
lost or a pod was stopped from outside, but not after what you have to mend. The same
command follows a JobSet that is there already, and replaces one that has ended.

ARGUMENTS name a config and a --workdir: gs://BUCKET/NAME, or a folder below --mount,
which is the volume of --claim. Several hosts need --claim, as all work in one folder.

With --parts each host works alone: a Job does `pav run ARGUMENTS --part=I/N`, each part
on a slice of its own and started again by itself, as many at once as there is room for.
ARGUMENTS have --until=labels, or another stage that is done in shards; `pav merge`
comes afterwards.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parent / ".venv" / "bin" / "python"
if __name__ == "__main__" and PYTHON.exists() and Path(sys.prefix) != PYTHON.parents[1]:
    # As for the other launchers, what `make setup` made comes before what is active.
    os.execv(PYTHON, [str(PYTHON), __file__, *sys.argv[1:]])
sys.path.insert(0, str(HERE.parent))  # a checkout need not be installed

import yaml  # noqa: E402

from pav_jax.core.errors import UserError  # noqa: E402
from pav_jax.distributed.signals import (  # noqa: E402
    AGAIN,
    INTERRUPTED,
    TERMINATED,
    Terminated,
    terminable,
)
from pav_jax.tools import jobset  # noqa: E402

_JOBSET = "jobset.sigs.k8s.io/jobset-name"
_JOB = "batch.kubernetes.io/job-name"
_POD_INDEX = "batch.kubernetes.io/job-completion-index"


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns its exit code.

    It is that of the run; 2 for a mistake of the user; 75 if the same command goes on.
    """
    arguments, rest = _parse(sys.argv[1:] if argv is None else argv)
    try:
        with terminable():
            return _launch(arguments, rest)
    except UserError as error:
        _say(" ".join(str(error).split()))
        return 2
    except (Terminated, KeyboardInterrupt) as stop:
        _say("the run goes on; the same command follows it, --down deletes it")
        return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    place = argv.index("--") if "--" in argv else len(argv)
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--name", required=True, help="of the JobSet, or the Job")
    add("--type", help="of a slice: v6e-16, v5p-128, v5litepod-8, tpu7x:4x4x4")
    add("--image", help="with pav_jax in it; see Dockerfile")
    add("--slices", type=int, default=1)
    add("--parts", type=int, default=0, help="that know nothing of each other")
    add("--claim", help="a PersistentVolumeClaim, such as one of a Filestore")
    add("--mount", default="/mnt/pav", help="of --claim; default: /mnt/pav")
    add("--bucket", help=f"mounted at {jobset.BUCKET_MOUNT}, to read from")
    add("--service_account", help="of Kubernetes, which may use the buckets")
    add("--spot", action="store_true", help="take capacity that may be preempted")
    add("--queue", help="a LocalQueue, where the cluster has Kueue")
    add(
        "--restarts",
        type=int,
        default=20,
        help="at most (a part); default: 20. One after a preemption does not count,"
        " unless another pod of the run ended first",
    )
    add("--timeout", type=int, default=600, help="seconds that devices may take")
    add("--context", help="of kubectl; default: its current one")
    add("--namespace", default="default")
    add("--poll", type=float, default=10, help="seconds between looks at the JobSet")
    add(
        "--down",
        action="store_true",
        help="only delete it; with --parts, a Job of parts",
    )
    add("--dry_run", action="store_true", help="print the manifest instead")
    return parser.parse_args(argv[:place]), argv[place + 1 :]


def _launch(arguments: argparse.Namespace, rest: list[str]) -> int:
    cluster = _Cluster(arguments)
    if arguments.down:
        if cluster.look() is None:
            raise UserError(
                f"there is no {cluster.kind} {arguments.name}; a JobSet is deleted"
                " without --parts, and a Job of parts with it"
            )
        cluster.delete()
        return 0
    fields = [field.name for field in dataclasses.fields(jobset.Options)]
    options = jobset.Options(**{name: getattr(arguments, name) for name in fields})
    manifest = jobset.render(options, rest)
    text = yaml.dump(manifest, Dumper=_Dumper, sort_keys=False, width=10**6)
    if arguments.dry_run:
        command = shlex.join([*cluster.kubectl, "apply", "--filename=-"])
        print(f"---\n# {command}\n{text}", end="")
        return 0
    state = cluster.look()
    if state is not None and _ended(state):
        cluster.delete()
        state = None
    if state is None:
        _say(f"applies the {cluster.kind} {arguments.name}")
        cluster.apply(text)
    else:
        _say(f"{arguments.name} is there already; follows it")
    return cluster.follow_parts() if arguments.parts else cluster.follow()


class _Dumper(yaml.SafeDumper):
    """Writes the script of a pod line by line."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
    ),
)


# The cluster.


def _ended(state: dict[str, Any]) -> str:
    """Completed or Failed; empty if the JobSet, or the Job, has not ended."""
    status = state.get("status", {})
    for condition in status.get("conditions", []):
        if (
            condition["type"] in ("Complete", "Failed")
            and condition["status"] == "True"
        ):
            return condition["type"].replace("Complete", "Completed")
    return status.get("terminalState", "")


class _Cluster:
    """What kubectl does with the one JobSet, or the one Job of parts."""

    def __init__(self, arguments: argparse.Namespace):
        self._name, self._poll = arguments.name, arguments.poll
        self.kind = "Job" if arguments.parts else "JobSet"
        label = _JOB if arguments.parts else _JOBSET
        self._pods = f"{label}={arguments.name}"
        context = [f"--context={arguments.context}"] if arguments.context else []
        self.kubectl = ["kubectl", *context, f"--namespace={arguments.namespace}"]

    def _ask(self, *words: str, text: str | None = None) -> str:
        """What kubectl prints; its errors go to stderr."""
        command = [*self.kubectl, *words]
        try:
            done = subprocess.run(
                command, input=text, stdout=subprocess.PIPE, text=True
            )
        except FileNotFoundError:
            raise UserError("there is no kubectl on this machine") from None
        if done.returncode:
            raise UserError(f"kubectl {words[0]} failed (see above)")
        return done.stdout

    def look(self) -> dict[str, Any] | None:
        """It as the cluster has it; None if it has none."""
        words = (self.kind.lower(), self._name)
        found = self._ask("get", *words, "--ignore-not-found", "-o=json")
        return json.loads(found) if found.strip() else None

    def apply(self, text: str) -> None:
        self._ask("apply", "--filename=-", text=text)

    def delete(self) -> None:
        """Returns when its pods are gone."""
        _say(f"deletes the {self.kind} {self._name}")
        words = (self.kind.lower(), self._name)
        self._ask("delete", *words, "--ignore-not-found", "--cascade=foreground")

    def follow(self) -> int:
        """Prints the log of process 0 until the JobSet ends; returns its exit code."""
        self._say_where()
        since, restarts = [], 0
        while True:
            logs = [
                "logs",
                f"--selector={self._pods},{jobset.JOB_INDEX}=0,{_POD_INDEX}=0",
            ]
            logs += [f"--container={jobset.CONTAINER}", "--follow", "--tail=-1", *since]
            # Fails while there is no such pod.
            done = subprocess.run([*self.kubectl, *logs], stderr=subprocess.DEVNULL)
            if done.returncode == 0:
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                since = [f"--since-time={now}"]
            state, code = self._state()
            if code is not None:
                return code
            if (count := state.get("status", {}).get("restarts", 0)) != restarts:
                restarts = count
                _say(f"{self._name} was started again, for the {restarts}. time")
            time.sleep(self._poll)

    def follow_parts(self) -> int:
        """Says how many parts are done until the Job ends; returns its exit code."""
        self._say_where()
        said = None
        while True:
            state, code = self._state()
            status = (state or {}).get("status", {})
            now = f"{status.get('succeeded', 0)} parts are done"
            if failed := status.get("failedIndexes"):
                now += f"; given up: {failed}"
            if now != said and state:
                _say(said := now)
            if code is not None:
                return code
            time.sleep(self._poll)

    def _say_where(self) -> None:
        pods = f"kubectl get pods -l {self._pods}"
        _say(f"follows {self._name}; {pods} says what it waits for")

    def _state(self) -> tuple[dict[str, Any] | None, int | None]:
        """It as the cluster has it, and the exit code if it is time to leave."""
        try:
            state = self.look()
        except UserError as error:
            _say(f"{error}; the run goes on, and the same command follows it")
            return None, AGAIN
        if state is None:
            _say(f"{self._name} was deleted; the same command goes on")
            return None, AGAIN
        if ended := _ended(state):
            return state, 0 if ended == "Completed" else self._code()
        return state, None

    def _code(self) -> int:
        """The exit code of a run that failed: what stopped it, if that is known."""
        found = self._ask("get", "pods", f"--selector={self._pods}", "-o=json")
        codes = [
            status["state"]["terminated"]["exitCode"]
            for pod in json.loads(found)["items"]
            for status in pod["status"].get("containerStatuses", [])
            if status["name"] == jobset.CONTAINER and "terminated" in status["state"]
        ]
        stopped = [code for code in codes if code and code not in jobset.RETRIED]
        if stopped:
            _say(f"{self._name} failed, with exit code {stopped[0]}")
            return stopped[0]
        _say(f"{self._name} was stopped once too often; the same command goes on")
        return AGAIN


def _say(text: str) -> None:
    print(f"gke.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
