"""`pav` with stages of no cost, as a program, and what tests of them share.

The environment says what happens to it:

    PAV_TEST_STORE  the folder that gs:// is
    PAV_TEST_LOG    a file that gets a line for each shard that is begun, and done
    PAV_TEST_HANGS  a shard, such as labels-shard-00003, whose work never ends
    PAV_TEST_FAILS  SEED: one in 60 requests to the bucket fails, and all take longer
"""

import os
import random
import shutil
import sys
import time
import types
from pathlib import Path

import fsspec
import numpy as np
from ml_collections import ConfigDict

from pav_jax.pipeline.manifest import read_manifest
from pav_jax.pipeline.runner import Stage
from pav_jax.pipeline.shards import in_shards
from pav_jax.storage import artifacts, records

PROBLEMS, SIBLINGS = 7, 2  # a shard each; rollouts of a problem that are labelled
CONFIG = """
import ml_collections

def get_config():
    return ml_collections.ConfigDict(dict(name="demo", seed=3, n_mc=2))
"""
NAMES = ("rollouts", "labels")


def make_config(**changes):
    return ConfigDict(dict(name="demo", seed=3, n_mc=2) | changes).lock()


def make_stages(note=lambda line: None, after=lambda: None):
    """Stages as those of an experiment, of files that need each other's numbers.

    Args:
      note: called with "begins STAGE-SHARD", and "ends STAGE-SHARD" when it is written.
      after: called after each shard.
    """

    def write(context, name, value):
        arrays = {"value": np.full(3, value)}
        artifacts.write_arrays(context.directory / f"{name}.npz", arrays)

    def read(context, stage, name):
        path = context.input(stage) / f"{name}.npz"
        return int(artifacts.read_arrays(path)["value"][0])

    def data(context):
        write(context, "problems", PROBLEMS)

    def sft(context):
        write(context, "deep/weights", context.config.seed + 1)

    def prm(context):
        total = [*context.input("labels").glob("shard-*.npz")]
        write(context, "value", len(total) + read(context, "sft", "deep/weights"))

    def shards(context, count, value, siblings=1):
        def work(part, path, ledger, advance):
            note(f"begins {context.stage}-{path.stem}")
            write(context, path.stem, value(part[0]))
            ledger.decoded += part[0] + 1
            advance()
            note(f"ends {context.stage}-{path.stem}")

        def then(*arguments):
            work(*arguments)
            after()

        in_shards(context, range(count), 1, "item", then, siblings)

    def rollouts(context):
        weight = read(context, "sft", "deep/weights")
        shards(context, PROBLEMS, lambda i: weight * i)

    def labels(context):
        def value(place):
            shard = records.shard_path(Path(), place // SIBLINGS)
            rollout = read(context, "rollouts", shard.stem)
            return context.config.n_mc * rollout + place

        shards(context, PROBLEMS * SIBLINGS, value, SIBLINGS)

    def samples(context):
        weight = read(context, "prm", "value")
        shards(context, 4, lambda i: weight + i)

    return [
        Stage("data", data, (), ()),
        Stage("sft", sft, ("data",), ("seed",)),
        Stage("rollouts", rollouts, ("data", "sft"), ("seed",), in_shards=True),
        Stage("labels", labels, ("sft", "rollouts"), ("seed", "n_mc"), in_shards=True),
        Stage("prm", prm, ("sft", "labels"), ("seed",)),
        Stage("samples", samples, ("data", "prm"), ("seed",), in_shards=True),
    ]


def contents(workdir, *names):
    """The files of finished stages by name, and their manifests without seconds."""
    found = {}
    for name in names:
        for path in sorted((workdir / name).rglob("*")):
            if path.name == "manifest.json":
                found[name] = read_manifest(path.parent) | {"seconds": None}
            elif path.is_file():
                found[f"{name}/{path.name}"] = path.read_bytes()
    return found


class Folder(fsspec.AbstractFileSystem):
    """A bucket for several processes: a folder whose files appear whole or not at all.

    No locks, no renames, no appending.
    """

    protocol = ("gcs", "gs")
    cachable = False

    def _path(self, name):
        return Path(os.environ["PAV_TEST_STORE"], self._strip_protocol(name))

    def find(self, path, **_):
        root = self._path(path)
        if root.is_file():
            return [self._strip_protocol(path)]
        found = [file for file in root.rglob("*") if file.is_file()]
        store = os.environ["PAV_TEST_STORE"]
        return sorted(str(file.relative_to(store)) for file in found)

    def info(self, path, **_):
        file = self._path(path)
        if file.is_file():
            return {"name": path, "type": "file", "size": file.stat().st_size}
        if file.is_dir() and any(file.rglob("*")):
            return {"name": path, "type": "directory", "size": 0}
        raise FileNotFoundError(path)

    def cat_file(self, path, **_):
        return self._path(path).read_bytes()

    def get_file(self, rpath, lpath, **_):
        Path(lpath).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._path(rpath), lpath)

    def pipe_file(self, path, value, **_):
        artifacts.write_atomically(self._path(path), lambda file: file.write(value))

    def put_file(self, lpath, rpath, **_):
        self.pipe_file(rpath, Path(lpath).read_bytes())

    def rm_file(self, path):
        self._path(path).unlink()


def _fail_at_times(seed):
    """Makes requests fail, and take a while: of `Folder`, or of s3fs."""
    draws = random.Random(seed)

    def fail():
        time.sleep(0.002)
        if draws.random() < 1 / 60:
            raise OSError("the bucket does not answer")

    def failing(request):
        def call(*args, **kwargs):
            fail()
            return request(*args, **kwargs)

        return call

    for name in ("find", "info", "cat_file", "get_file", "pipe_file", "rm_file"):
        setattr(Folder, name, failing(getattr(Folder, name)))
    if "AWS_ENDPOINT_URL" in os.environ:
        import s3fs

        s3fs.S3FileSystem._call_s3 = failing(s3fs.S3FileSystem._call_s3)


def _note(line):
    with open(os.environ["PAV_TEST_LOG"], "a") as log:
        log.write(f"{line}\n")
    if line == f"begins {os.environ.get('PAV_TEST_HANGS')}":
        while True:
            time.sleep(0.05)


def _main():
    for protocol in Folder.protocol:
        fsspec.register_implementation(protocol, Folder, clobber=True)
    if seed := os.environ.get("PAV_TEST_FAILS"):
        _fail_at_times(seed)
    # Of no cost also to import: without jax.
    stages = types.ModuleType("pav_jax.pipeline.stages")
    stages.stages = lambda config, *_: make_stages(_note)
    mesh = types.ModuleType("pav_jax.distributed.mesh")
    mesh.activate = lambda config: None
    sys.modules |= {module.__name__: module for module in (stages, mesh)}

    from pav_jax.main import main
    from pav_jax.storage import mirror

    mirror._SECONDS = 0.05
    sys.exit(main())


if __name__ == "__main__":
    _main()
