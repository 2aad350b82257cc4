"""Parts as real processes in a bucket: killed, repeated, twice at once; one that fails.

The bucket is a folder behind an object store's interface; and, where moto and s3fs are
installed (benchmarks/peers.txt), moto's server behind s3fs.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from parts_worker import CONFIG, NAMES, PROBLEMS, SIBLINGS, make_config, make_stages

from pav_jax.distributed.signals import AGAIN
from pav_jax.pipeline.manifest import read_manifest
from pav_jax.pipeline.runner import run_stages
from pav_jax.storage import buckets

pytestmark = pytest.mark.slow
WORKER = Path(__file__).resolve().parents[1] / "parts_worker.py"
ROOT = WORKER.parents[1]
COUNT = 3
_HANGS = 300.0  # seconds after which a test is taken to hang


def _until(condition):
    end = time.monotonic() + _HANGS
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


class Store:
    """A bucket, and programs that work in it, each on a machine with its own disk."""

    def __init__(self, folder, workdir, env):
        self.folder, self.workdir, self.env = folder, workdir, env
        self.started = []
        (folder / "demo.py").write_text(CONFIG)

    def start(self, command, *flags, machine="one", **env):
        run = [f"--config={self.folder / 'demo.py'}", f"--workdir={self.workdir}"]
        process = subprocess.Popen(
            [sys.executable, WORKER, command, *run, "--until=labels", *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | self.env
            | {
                "PYTHONPATH": str(ROOT),
                "PAV_SCRATCH": str(self.folder / machine),
                "PAV_TEST_LOG": str(self.folder / "log"),
            }
            | {f"PAV_TEST_{name.upper()}": value for name, value in env.items()},
        )
        self.started.append(process)
        return process

    def part(self, index, **env):
        return self.start("run", f"--part={index}/{COUNT}", **env)

    def log(self):
        path = self.folder / "log"
        return path.read_text().splitlines() if path.exists() else []

    def saved(self, name):
        """Whether a file of a part is in the bucket, of a finished stage or not."""
        index, stage, file = name.split("/")
        place = f"{self.workdir}/.parts/{index}-of-{COUNT}/{stage}"
        return any(buckets.exists(f"{place}{end}/{file}") for end in ("", ".new"))


def _ended(process):
    """The exit code, and what was said."""
    _, said = process.communicate(timeout=_HANGS)
    return process.returncode, said


def _folder(folder, monkeypatch):
    """gs:// is a folder, in this process too."""
    import fsspec
    from parts_worker import Folder

    env = {"PAV_TEST_STORE": str(folder / "store")}
    monkeypatch.setenv("PAV_TEST_STORE", env["PAV_TEST_STORE"])
    for protocol in Folder.protocol:
        fsspec.register_implementation(protocol, Folder, clobber=True)
    return "gs://bucket/run", env


def _moto(folder, monkeypatch, started):
    """s3:// is moto's server."""
    pytest.importorskip("moto", reason="needs moto and s3fs, of benchmarks/peers.txt")
    fs = pytest.importorskip("s3fs", reason="needs moto and s3fs")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", f"-p{port}"]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    started.append(server)

    def answers():
        try:
            return urllib.request.urlopen(f"{env['AWS_ENDPOINT_URL']}/moto-api/")
        except OSError:
            assert server.poll() is None
            return None

    _until(answers).close()
    fs.S3FileSystem.clear_instance_cache()
    fs.S3FileSystem().mkdir("bucket")
    return "s3://bucket/run", env


@pytest.fixture(params=["folder", "moto"])
def store(request, tmp_path, monkeypatch):
    """A bucket in which what parts need is finished."""
    monkeypatch.setenv("PAV_SCRATCH", str(tmp_path / "here"))
    started = []
    if request.param == "folder":
        workdir, env = _folder(tmp_path, monkeypatch)
    else:
        workdir, env = _moto(tmp_path, monkeypatch, started)
    store = Store(tmp_path, workdir, env)
    run_stages(make_stages(), make_config(), workdir, until="sft")
    yield store
    for process in [*store.started, *started]:
        if process.poll() is None:
            process.kill()
        process.communicate()


def merged(store):
    """The manifests of the merged stages without seconds, read on another machine."""
    with buckets.to_read(store.workdir) as folder:
        return [read_manifest(folder / name) | {"seconds": 0} for name in NAMES]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same of one process."""
    workdir = tmp_path_factory.mktemp("alone")
    run_stages(make_stages(), make_config(), workdir, until="labels")
    return [read_manifest(workdir / name) | {"seconds": 0} for name in NAMES]


def test_parts_that_are_killed_and_a_bucket_that_fails(store, alone):
    """Part 1 is killed once a shard is there; part 2's bucket fails, and both are tried
    again, on other machines, until they are done; as Kubernetes does."""
    killed = store.part(1, hangs="labels-shard-00003")
    at_once = [store.part(0), store.part(2, fails="1")]
    hung = "begins labels-shard-00003"
    _until(lambda: hung in store.log() and store.saved("1/labels/shard-00002.json"))
    killed.kill()
    assert _ended(killed)[0] == -9
    assert _ended(store.part(1, machine="two"))[0] == 0
    assert _ended(at_once[0])[0] == 0
    code, said = _ended(at_once[1])
    assert code == AGAIN and "the bucket does not answer" in said
    tries = 1
    while code == AGAIN:
        tries += 1
        code, said = _ended(store.part(2, machine=f"{tries}", fails=f"{tries}"))
    assert code == 0, said
    # Nothing that was in the bucket was done again: of parts 0 and 1 that is all.
    ends = [line for line in store.log() if line.startswith("ends")]
    of_part_2 = {f"rollouts-shard-{n:05d}" for n in range(2, PROBLEMS, COUNT)}
    of_part_2 |= {
        f"labels-shard-{n:05d}"
        for n in range(SIBLINGS * PROBLEMS)
        if n // SIBLINGS % COUNT == 2
    }
    others = [line for line in ends if line.split()[1] not in of_part_2]
    assert len(others) == len(set(others))
    assert len(set(ends)) == (1 + SIBLINGS) * PROBLEMS
    assert _ended(store.start("merge", f"--parts={COUNT}"))[0] == 0
    assert merged(store) == alone
    # Each is told so when it is tried once more.
    code, said = _ended(store.part(1, machine="three"))
    assert code == 0 and "labels: done already" in said
    assert not list((store.folder / "three").rglob("weights.npz"))  # which it needs not
    assert [line for line in store.log() if line.startswith("ends")] == ends


def test_the_same_part_twice_at_once(store, alone):
    """On one machine the second is refused; on two the first notices, and ends."""
    first = store.part(1, hangs="labels-shard-00003")
    hung = "begins labels-shard-00003"
    _until(lambda: hung in store.log() and store.saved("1/labels/shard-00002.json"))
    code, said = _ended(store.part(1))
    assert code == 2 and "another process is at work in" in said
    assert _ended(store.part(1, machine="two"))[0] == 0
    code, said = _ended(first)
    assert code == 143 and "another process has begun to work in" in said
    ends = [line for line in store.log() if line.startswith("ends")]
    assert len(ends) == len(set(ends))
    for index in (0, 2):
        assert _ended(store.part(index))[0] == 0
    code, said = _ended(store.start("merge", f"--parts={COUNT}"))
    assert code == 0, said
    assert merged(store) == alone
