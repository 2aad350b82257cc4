"""Manifests, against the published schema, the rules of Kubernetes and a real shell."""

import dataclasses
import json
import re
import subprocess
from pathlib import Path

import jsonschema
import pytest

from pav_jax.core.errors import UserError
from pav_jax.tools import jobset

RUN = ["--config=demo.py", "--workdir=/mnt/pav/x", "--config.ns=(1, 2)"]
ONE = jobset.Options(name="demo-1", type="v5litepod-8", image="gcr.io/x", claim="share")
MANY = jobset.Options(
    name="demo-1", type="v6e-16", image="gcr.io/x", claim="share", slices=2
)
ALL = jobset.Options(
    name="demo-1",
    type="tpu7x:2x2x2",
    image="gcr.io/x",
    slices=3,
    claim="share",
    bucket="gs://weights/",
    service_account="runner",
    spot=True,
    queue="mine",
    namespace="lab",
)


PARTS = jobset.Options(
    name="demo-1", type="v6e-8", image="gcr.io/x", parts=64, spot=True, restarts=6
)
RUN_PARTS = ["--config=demo.py", "--until=labels", "--workdir=gs://results/x"]


def strict(schema):
    """The schema, which then refuses fields that it does not know, as kubectl does."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    known = {"additionalProperties": False} if "properties" in schema else {}
    return known | {key: strict(part) for key, part in schema.items()}


@pytest.fixture(scope="module")
def schema():
    text = Path(__file__).with_name("jobset_schema.json").read_text()
    schema = strict(json.loads(text))
    # The only free object; what Kubernetes itself defines of it.
    strings = {"type": "object", "additionalProperties": {"type": "string"}}
    schema["properties"]["metadata"] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string"},
            "namespace": {"type": "string"},
            "labels": strings,
            "annotations": strings,
        },
    }
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


@pytest.fixture(scope="module")
def check(schema):
    return jsonschema.Draft202012Validator(schema).validate


@pytest.fixture(scope="module")
def check_job(schema):
    """By the schema of the jobs within a JobSet, which is that of Kubernetes' Job."""
    within = schema["properties"]["spec"]["properties"]["replicatedJobs"]["items"]
    job = within["properties"]["template"]["properties"]["spec"]
    strings = {"apiVersion": {"const": "batch/v1"}, "kind": {"const": "Job"}}
    metadata = schema["properties"]["metadata"]
    whole = {
        "type": "object",
        "additionalProperties": False,
        "properties": {**strings, "metadata": metadata, "spec": job},
        "required": ["apiVersion", "kind", "metadata", "spec"],
    }
    return jsonschema.Draft202012Validator(whole).validate


def job_of(manifest):
    if manifest["kind"] == "Job":
        return manifest["spec"]
    (slices,) = manifest["spec"]["replicatedJobs"]
    return slices["template"]["spec"]


def container_of(manifest):
    (container,) = job_of(manifest)["template"]["spec"]["containers"]
    return container


@pytest.mark.parametrize("options", [ONE, MANY, ALL])
def test_the_published_schema(check, options):
    manifest = jobset.render(options, RUN)
    check(manifest)
    job_of(manifest)["paralelism"] = 2
    with pytest.raises(jsonschema.ValidationError, match="paralelism"):
        check(manifest)
    manifest = jobset.render(options, RUN)
    container_of(manifest)["image"] = 3
    with pytest.raises(jsonschema.ValidationError, match="3 is not of type 'string'"):
        check(manifest)


def test_two_slices():
    manifest = jobset.render(MANY, RUN)
    (slices,) = manifest["spec"]["replicatedJobs"]
    job = job_of(manifest)
    assert slices["replicas"] == 2
    assert job["parallelism"] == job["completions"] == 4
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert container_of(manifest)["resources"]["limits"] == {"google.com/tpu": 4}
    assert manifest["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }


def test_one_host_needs_no_coordinator():
    manifest = jobset.render(ONE, RUN)
    script = container_of(manifest)["command"][-1]
    assert "coordinator" not in script and "--expect=8 " in script
    assert "annotations" not in manifest["metadata"]
    assert container_of(manifest)["resources"]["limits"] == {"google.com/tpu": 8}


def test_what_is_asked_for_is_there():
    manifest = jobset.render(ALL, [*RUN, "--workdir=gs://results/x"])
    assert manifest["metadata"]["namespace"] == "lab"
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "mine"}
    template = job_of(manifest)["template"]
    assert template["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    pod = template["spec"]
    assert pod["nodeSelector"]["cloud.google.com/gke-spot"] == "true"
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-accelerator"] == "tpu7x"
    assert pod["tolerations"][0]["key"] == "cloud.google.com/gke-spot"
    assert pod["serviceAccountName"] == "runner"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["claim"]["persistentVolumeClaim"] == {"claimName": "share"}
    assert volumes["bucket"]["csi"]["volumeAttributes"]["bucketName"] == "weights"
    mounts = {m["name"]: m["mountPath"] for m in container_of(manifest)["volumeMounts"]}
    assert mounts == {"claim": "/mnt/pav", "bucket": "/mnt/bucket"}
    # Processes of a run in a bucket have a folder in common, where they work.
    env = {entry["name"]: entry.get("value") for entry in container_of(manifest)["env"]}
    assert env == {"JOB_INDEX": None, "PAV_SCRATCH": "/mnt/pav/scratch"}
    # Two devices a chip.
    assert "--expect=48 " in container_of(manifest)["command"][-1]


def message_of(rules, code, preempted):
    """Of the failure of a job whose pod has failed; None if no rule of it fits.

    The words are those of Kubernetes, pkg/controller/job/pod_failure_policy.go.
    """
    for index, rule in enumerate(rules):
        assert rule["action"] == "FailJob"
        if conditions := rule.get("onPodConditions"):
            assert conditions == [{"type": "DisruptionTarget", "status": "True"}]
            if preempted:
                return (
                    "Pod default/demo-1-slice-0-0-x has condition DisruptionTarget"
                    f" matching FailJob rule at index {index}"
                )
        else:
            assert rule["onExitCodes"]["operator"] == "NotIn"
            values = rule["onExitCodes"]["values"]
            assert values == sorted(values)
            if code not in values:
                return (
                    "Container pav for pod default/demo-1-slice-0-0-x failed with exit"
                    f" code {code} matching FailJob rule at index {index}"
                )
    return None


@pytest.mark.parametrize("options", [ONE, MANY])
@pytest.mark.parametrize(
    "code, preempted, then",
    [
        *((code, False, "FailJobSet") for code in (1, 2, 127, 139)),
        *((code, False, "RestartJobSet") for code in (75, 134, 137, 143)),
        *(
            (code, True, "RestartJobSetAndIgnoreMaxRestarts")
            for code in (1, 2, 75, 137, 143)
        ),
    ],
)
def test_what_an_exit_code_does(check, options, code, preempted, then):
    """By the rules of Kubernetes for a pod and of JobSet for a job that failed."""
    manifest = jobset.render(options, RUN)
    check(manifest)
    message = message_of(job_of(manifest)["podFailurePolicy"]["rules"], code, preempted)
    reason = "PodFailurePolicy" if message else "BackoffLimitExceeded"
    assert job_of(manifest)["backoffLimit"] == 0  # so that one failed pod is enough
    assert job_of(manifest)["template"]["spec"]["restartPolicy"] == "Never"
    policy = manifest["spec"]["failurePolicy"]
    actions = [
        rule["action"]
        for rule in policy["rules"]
        if reason in rule["onJobFailureReasons"]
        and any(
            re.search(pattern, message)
            for pattern in rule.get("onJobFailureMessagePatterns", [""])
        )
    ]
    # Where no rule fits, a JobSet is started again, and that counts.
    assert [*actions, "RestartJobSet"][0] == then
    assert policy["maxRestarts"] == 20


def expanded(text, env):
    """As Kubernetes does with a command: $(NAME) of the environment, and $$."""
    pattern = r"\$\$|\$\(([^)]*)\)"
    return re.sub(
        pattern,
        lambda found: "$" if found[0] == "$$" else env.get(found[1], found[0]),
        text,
    )


def run_pod(manifest, tmp_path, pav, **env):
    """Runs the command of a pod with a shell script as pav; returns the exit code."""
    program = tmp_path / "pav"
    program.write_text(f"#!/bin/sh\n{pav}\n")
    program.chmod(0o755)
    env |= {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    command = [expanded(word, env) for word in container_of(manifest)["command"]]
    return subprocess.run(command, env=env, cwd=tmp_path, timeout=300).returncode


def test_each_pod_is_a_process_of_its_own(tmp_path):
    run = [*RUN, "--config.name=it's $(JOB_INDEX) or $$"]
    manifest = jobset.render(MANY, run)
    ids = []
    for job in range(2):
        for pod in range(4):
            code = run_pod(
                manifest,
                tmp_path,
                'printf "%s\\n" "$@" >"$1"',
                JOB_INDEX=str(job),
                JOB_COMPLETION_INDEX=str(pod),
            )
            assert code == 0
            flags = [
                "--coordinator=demo-1-slice-0-0.demo-1:8476",
                "--num_processes=8",
                f"--process_id={4 * job + pod}",
            ]
            checked = (tmp_path / "devices").read_text().splitlines()
            assert checked == ["devices", "--expect=32", "--timeout=600", *flags]
            assert (tmp_path / "run").read_text().splitlines() == ["run", *run, *flags]
            ids.append(flags[-1])
    assert len(set(ids)) == 8


@pytest.mark.parametrize(
    "devices, run, code",
    [(0, 0, 0), (0, 2, 2), (0, 143, 143), (2, 0, 75), (127, 0, 127)],
)
def test_exit_codes_of_a_pod(tmp_path, devices, run, code):
    """Hosts that are not there yet are waited for; other mistakes are not."""
    pav = f"[ $1 = devices ] && exit {devices}; exit {run}"
    assert run_pod(jobset.render(ONE, RUN), tmp_path, pav) == code


# Of parts.


@pytest.mark.parametrize("options", [PARTS, dataclasses.replace(PARTS, queue="mine")])
def test_parts_are_a_job_of_the_published_schema(check_job, options):
    manifest = jobset.render(options, RUN_PARTS)
    check_job(manifest)
    job = manifest["spec"]
    assert job["completionMode"] == "Indexed"
    assert job["parallelism"] == job["completions"] == 64
    assert container_of(manifest)["resources"]["limits"] == {"google.com/tpu": 8}
    assert "annotations" not in manifest["metadata"]
    assert "env" not in container_of(manifest)  # the index is there by itself
    job["backoffLimitPerindex"] = 2
    with pytest.raises(jsonschema.ValidationError, match="backoffLimitPerindex"):
        check_job(manifest)


@pytest.mark.parametrize(
    "code, preempted, then",
    [
        *((code, False, "ends") for code in (1, 2, 127, 139)),
        *((code, False, "again") for code in (75, 134, 137, 143)),
        *((code, True, "for nothing") for code in (1, 2, 75, 137, 143)),
    ],
)
def test_what_an_exit_code_does_to_a_part(code, preempted, then):
    """By the rules of Kubernetes: the first one that fits a failed pod counts."""
    job = jobset.render(PARTS, RUN_PARTS)["spec"]

    def fits(rule):
        if conditions := rule.get("onPodConditions"):
            assert conditions == [{"type": "DisruptionTarget", "status": "True"}]
            return preempted
        assert rule["onExitCodes"]["operator"] == "NotIn"
        return code not in rule["onExitCodes"]["values"]

    actions = [r["action"] for r in job["podFailurePolicy"]["rules"] if fits(r)]
    expected = {"ends": ["FailIndex"], "again": [], "for nothing": ["Ignore"]}
    assert actions[:1] == expected[then]
    # Without a rule it counts, of this part alone.
    assert job["backoffLimitPerIndex"] == 6 and "backoffLimit" not in job
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_each_pod_does_a_part(tmp_path):
    manifest = jobset.render(PARTS, RUN_PARTS)
    pav = 'printf "%s\\n" "$@" >"$1"'
    for index in (0, 63):
        assert run_pod(manifest, tmp_path, pav, JOB_COMPLETION_INDEX=str(index)) == 0
        checked = (tmp_path / "devices").read_text().splitlines()
        assert checked == ["devices", "--expect=8", "--timeout=600"]
        ran = (tmp_path / "run").read_text().splitlines()
        assert ran == ["run", *RUN_PARTS, f"--part={index}/64"]


@pytest.mark.parametrize(
    "changed, arguments, words",
    [
        (dict(parts=-1), RUN_PARTS, "--parts=-1 must be at least 1"),
        (dict(type="v6e-16"), RUN_PARTS, "1 x v6e-16 has 4: give a --type of one host"),
        (dict(slices=2), RUN_PARTS, "2 x v6e-8 has 2: give a --type of one host"),
        (dict(), RUN_PARTS[::2], "--parts needs --until=STAGE after --"),
        (dict(), RUN_PARTS[:2], "with --workdir="),
        (dict(), [*RUN_PARTS, "--workdir=runs/x"], "would be lost with its pod"),
    ],
)
def test_mistakes_of_parts(changed, arguments, words):
    options = dataclasses.replace(PARTS, **changed)
    with pytest.raises(UserError, match=re.escape(words)):
        jobset.render(options, arguments)


@pytest.mark.parametrize(
    "changed, arguments, words",
    [
        (dict(name="Demo_1"), RUN, "--name=Demo_1 must begin with"),
        (dict(name="1demo"), RUN, "--name=1demo must begin with"),
        (dict(name="demo-"), RUN, "--name=demo- must begin with"),
        (dict(name="x" * 41), RUN, "has 41 characters; at most 40"),
        (dict(image=None), RUN, "--image=... is missing"),
        (dict(type=None), RUN, "--type=... is missing"),
        (dict(type="h100-8"), RUN, "--type=h100-8: there is no TPU 'h100'"),
        (dict(type="tpu7x-8"), RUN, "write tpu7x:4x4x4"),
        (dict(slices=0), RUN, "--slices must be at least 1"),
        (dict(type="v6e-8"), RUN, "v6e-8 is one host"),
        (dict(claim=None), RUN, "2 x v6e-16 has 8 hosts"),
        (dict(), ["--config=demo.py"], "with --workdir="),
        (dict(), ["--workdir=runs/x"], "would be lost with its pod"),
        (dict(), ["--workdir=/mnt/bucket/x"], "would be lost with its pod"),
    ],
)
def test_mistakes(changed, arguments, words):
    options = dataclasses.replace(MANY, **changed)
    with pytest.raises(UserError, match=re.escape(words)):
        jobset.render(options, arguments)
