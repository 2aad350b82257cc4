"""A run on TPU slices of a Kubernetes cluster, as a manifest.

Of processes that work together it is that of a JobSet (kubernetes-sigs/jobset), which
keeps a job for each slice, with a pod for each host, and starts all of them again when
one stops. Of parts, which know nothing of each other, it is that of an Indexed Job of
Kubernetes itself, which starts each one again alone.
"""

import dataclasses
import re
import shlex
from typing import Any

from pav_jax.core.errors import UserError
from pav_jax.distributed.signals import AGAIN, TERMINATED
from pav_jax.storage import buckets
from pav_jax.tools.planning import topology

# Exit codes after which the same command may succeed: a lost peer, jax's SIGABRT,
# SIGKILL, SIGTERM. In order, as Kubernetes wants them.
RETRIED = (AGAIN, 134, 137, TERMINATED)
CONTAINER = "pav"
BUCKET_MOUNT = "/mnt/bucket"
JOB_INDEX = "jobset.sigs.k8s.io/job-index"

_PORT = 8476
# A pod that was preempted, evicted, or lost with its node; not one that failed.
_DISRUPTED = {"type": "DisruptionTarget", "status": "True"}
# JobSet makes the name of a pod of this name, "-slice-", two indices and a suffix of
# six characters; it may have 63.
_LONGEST_NAME = 40


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run asks of a cluster.

    Attributes:
      name: of the JobSet, or of the Job.
      type: of a slice, as `topology.parse` reads it.
      image: that has pav_jax in it.
      slices: that work on the one run.
      parts: of the run, a slice of one host each; 0 for a run that is not in parts.
      claim: a PersistentVolumeClaim that all pods mount, or None.
      mount: where `claim` is.
      bucket: that is mounted at `BUCKET_MOUNT` to read from, or None.
      service_account: of Kubernetes, or None.
      spot: whether to take capacity that may be preempted.
      queue: a LocalQueue of Kueue, or None.
      restarts: at most; of parts, of each. A preemption, or another disruption by the
        cluster, is none; of a run on several hosts it is one if another pod, which has
        lost its peer, ends first.
      timeout: seconds that devices may take to answer.
      namespace: of the cluster.
    """

    name: str
    type: str | None
    image: str | None
    slices: int = 1
    parts: int = 0
    claim: str | None = None
    mount: str = "/mnt/pav"
    bucket: str | None = None
    service_account: str | None = None
    spot: bool = False
    queue: str | None = None
    restarts: int = 20
    timeout: int = 600
    namespace: str = "default"


def render(options: Options, arguments: list[str]) -> dict[str, Any]:
    """The JobSet, or the Job of parts, that does `pav run` with the given arguments.

    Raises:
      UserError: an option is missing, or does not go with another.
    """
    target = _checked(options, arguments)
    metadata: dict[str, Any] = {"name": options.name, "namespace": options.namespace}
    if options.queue:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": options.queue}
    pod = _pod(options, arguments, target)
    wrong = {"containerName": CONTAINER, "operator": "NotIn", "values": [*RETRIED]}
    if options.parts:
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": _parts(options, pod, wrong),
        }
    if target.hosts > 1:
        # Pods of a slice go to one node pool, which is one slice, and have it alone.
        alone = "alpha.jobset.sigs.k8s.io/exclusive-topology"
        metadata["annotations"] = {alone: "cloud.google.com/gke-nodepool"}
    # The first rule that fits counts.
    disrupted = {"action": "FailJob", "onPodConditions": [_DISRUPTED]}
    mistaken = {"action": "FailJob", "onExitCodes": wrong}
    job = {
        "completionMode": "Indexed",
        "parallelism": target.hosts,
        "completions": target.hosts,
        "backoffLimit": 0,  # when one stops all do, and the JobSet starts all again
        "podFailurePolicy": {"rules": [disrupted, mistaken]},
        "template": pod,
    }
    failure = {
        "maxRestarts": options.restarts,
        "restartStrategy": "BlockingRecreate",  # no pod meets one of the last attempt
        "rules": _rules_of_jobs(),
    }
    slices = {"name": "slice", "replicas": options.slices, "template": {"spec": job}}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": metadata,
        "spec": {
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "failurePolicy": failure,
            "replicatedJobs": [slices],
        },
    }


def _rules_of_jobs() -> list[dict[str, Any]]:
    """What a JobSet does when a job has failed by its `podFailurePolicy`.

    Which of the job's rules it was by is in the message of the failure alone (JobSet
    0.10 and later look there).
    """
    reasons = {"onJobFailureReasons": ["PodFailurePolicy"]}
    disrupted = f"has condition {_DISRUPTED['type']} matching FailJob rule"
    return [
        {
            "name": "disruptions",
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            **reasons,
            "onJobFailureMessagePatterns": [disrupted],
        },
        {"name": "mistakes", "action": "FailJobSet", **reasons},
    ]


def _parts(
    options: Options, pod: dict[str, Any], wrong: dict[str, Any]
) -> dict[str, Any]:
    """The spec of the Job of parts: as many at once as there is room for.

    Args:
      options: of the run.
      pod: the template of a pod.
      wrong: exit codes after which a part is not tried again.
    """
    return {
        "completionMode": "Indexed",
        "parallelism": options.parts,
        "completions": options.parts,
        "backoffLimitPerIndex": options.restarts,
        # The first rule that fits counts.
        "podFailurePolicy": {
            "rules": [
                {"action": "Ignore", "onPodConditions": [_DISRUPTED]},
                {"action": "FailIndex", "onExitCodes": wrong},
            ]
        },
        "template": pod,
    }


def _checked(options: Options, arguments: list[str]) -> topology.Topology:
    """The slice that is asked for, if all that the manifest needs is there."""
    for field in ("type", "image"):
        if not getattr(options, field):
            raise UserError(f"--{field}=... is missing; see --help")
    name = options.name
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        raise UserError(
            f"--name={name} must begin with a letter, hold only a-z, 0-9 and -, and not"
            " end in -"
        )
    if len(name) > _LONGEST_NAME:
        raise UserError(
            f"--name={name} has {len(name)} characters; at most {_LONGEST_NAME} are"
            " allowed"
        )
    target = topology.parse(options.type, "--type")
    if options.parts:
        _check_parts(options, arguments, target)
    if options.slices < 1 or options.restarts < 0:
        raise UserError("--slices must be at least 1, and --restarts at least 0")
    if options.slices > 1 and target.hosts == 1:
        raise UserError(
            f"--slices={options.slices} needs slices of several hosts, and"
            f" {options.type} is one host; take one larger slice"
        )
    workdir = _workdir(arguments)
    if not workdir:
        raise UserError("give the arguments of pav run after --, with --workdir=...")
    hosts = target.hosts * options.slices
    if hosts > 1 and not options.claim:
        raise UserError(
            f"{options.slices} x {options.type} has {hosts} hosts, which need a folder"
            " that all of them see: give --claim=..."
        )
    below = options.claim and workdir.startswith(options.mount.rstrip("/") + "/")
    if not buckets.is_remote(workdir) and not below:
        raise UserError(
            f"--workdir={workdir} would be lost with its pod; give gs://BUCKET/NAME, or"
            f" --claim=... and a folder below --mount={options.mount}"
        )
    return target


def _check_parts(
    options: Options, arguments: list[str], target: topology.Topology
) -> None:
    if options.parts < 0:
        raise UserError(f"--parts={options.parts} must be at least 1")
    if target.hosts > 1 or options.slices > 1:
        raise UserError(
            f"a part is of one host alone, and {options.slices} x {options.type} has"
            f" {target.hosts * options.slices}: give a --type of one host, such as"
            " v6e-8, and no --slices"
        )
    if not any(word.startswith("--until=") for word in arguments):
        raise UserError("--parts needs --until=STAGE after --, such as --until=labels")


def _workdir(arguments: list[str]) -> str:
    """Of the arguments of pav run; the last one counts."""
    flag = "--workdir="
    found = [word.removeprefix(flag) for word in arguments if word.startswith(flag)]
    return found[-1] if found else ""


def _pod(
    options: Options, arguments: list[str], target: topology.Topology
) -> dict[str, Any]:
    """The template of a pod, which has all chips of one host."""
    chips = {"google.com/tpu": target.chips // target.hosts}
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": options.image,
        "command": ["sh", "-c", _script(options, arguments, target)],
        "resources": {"requests": chips, "limits": dict(chips)},
    }
    selector = {
        "cloud.google.com/gke-tpu-accelerator": target.chip.accelerator,
        "cloud.google.com/gke-tpu-topology": "x".join(map(str, target.shape)),
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,
        "nodeSelector": selector,
        "containers": [container],
    }
    if target.hosts * options.slices > 1:
        field = {"fieldRef": {"fieldPath": f"metadata.labels['{JOB_INDEX}']"}}
        container["env"] = [{"name": "JOB_INDEX", "valueFrom": field}]
        if buckets.is_remote(_workdir(arguments)):
            scratch = f"{options.mount.rstrip('/')}/scratch"
            container["env"].append({"name": "PAV_SCRATCH", "value": scratch})
    if options.spot:
        spot = "cloud.google.com/gke-spot"
        selector[spot] = "true"
        pod["tolerations"] = [
            {"key": spot, "operator": "Exists", "effect": "NoSchedule"}
        ]
    if options.service_account:
        pod["serviceAccountName"] = options.service_account
    template: dict[str, Any] = {"spec": pod}
    if options.bucket:
        template["metadata"] = {"annotations": {"gke-gcsfuse/volumes": "true"}}
    if found := _volumes(options):
        pod["volumes"] = [volume for volume, _ in found]
        container["volumeMounts"] = [mount for _, mount in found]
    return template


def _volumes(options: Options) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Volumes of a pod, each with its mount in the container."""
    found = []
    if options.claim:
        volume = {"persistentVolumeClaim": {"claimName": options.claim}}
        found.append(("claim", volume, {"mountPath": options.mount}))
    if options.bucket:
        # Not for a workdir: it has no locks, and its renames are not whole or nothing.
        attributes = {
            "bucketName": options.bucket.removeprefix("gs://").rstrip("/"),
            "mountOptions": "implicit-dirs",
        }
        driver = {"driver": "gcsfuse.csi.storage.gke.io", "readOnly": True}
        volume = {"csi": driver | {"volumeAttributes": attributes}}
        found.append(("bucket", volume, {"mountPath": BUCKET_MOUNT, "readOnly": True}))
    return [
        ({"name": name, **volume}, {"name": name, **mount})
        for name, volume, mount in found
    ]


def _script(options: Options, arguments: list[str], target: topology.Topology) -> str:
    """What a pod's shell does. At last it becomes pav, which so gets SIGTERM."""
    processes = target.hosts * options.slices
    lines = []
    if processes > 1:
        # Process 0 is pod 0 of slice 0, under the name that JobSet gives it. It is not
        # read from spec.coordinator, which is a label and so has at most 63 characters.
        host = f"{options.name}-slice-0-0.{options.name}"
        index = f"$((JOB_INDEX * {target.hosts} + JOB_COMPLETION_INDEX))"
        lines += [
            f"set -- --coordinator={host}:{_PORT} --num_processes={processes}"
            f" --process_id={index}"
        ]
    # Devices that do not answer are of hosts that are not there yet: tried again.
    expect = f"--expect={target.devices * options.slices} --timeout={options.timeout}"
    retry = f"exit $(($? == 2 ? {AGAIN} : $?))"
    # Kubernetes replaces $(NAME) in a command, and $$ by $.
    run = shlex.join(["pav", "run", *arguments]).replace("$", "$$")
    if options.parts:
        run += f" --part=$JOB_COMPLETION_INDEX/{options.parts}"
    lines += [f'pav devices {expect} "$@" || {retry}', f'exec {run} "$@"']
    return "\n".join(lines) + "\n"
