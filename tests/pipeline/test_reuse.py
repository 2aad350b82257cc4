"""Stages taken from other runs: when, when not, and that a kill does no harm."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from kills import dies_at, run_here
from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.pipeline import reuse
from pav_jax.pipeline.manifest import MANIFEST, read_manifest
from pav_jax.pipeline.runner import Stage, run_stages
from pav_jax.storage import artifacts

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("sft", "labels")


class Killed(Exception):
    """What stops a stage in these tests."""


def make_stages(ran=None):
    """Two stages, which note in `ran` that they run."""

    def sft(context):
        if ran is not None:
            ran.append("sft")
        weights = np.arange(10.0) * context.config.seed
        artifacts.write_arrays(context.directory / "params" / "all.npz", {"w": weights})
        artifacts.write_jsonl(context.directory / "metrics.jsonl", [1, 2])

    def labels(context):
        if ran is not None:
            ran.append("labels")
        path = context.input("sft") / "params" / "all.npz"
        total = float(artifacts.read_arrays(path)["w"].sum())
        artifacts.write_json(
            context.directory / "labels.json", total * context.config.n
        )

    return [
        Stage("sft", sft, (), ("seed",)),
        Stage("labels", labels, ("sft",), ("n",)),
    ]


def make_config(seed=1, n=2, late=0, name="demo"):
    return ConfigDict(dict(name=name, seed=seed, n=n, late=late)).lock()


def finals(workdir):
    """All files of the finished stages, by name."""
    return {
        path.relative_to(workdir).as_posix(): path.read_bytes()
        for name in NAMES
        for path in sorted((workdir / name).rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def root(tmp_path):
    """A folder of workdirs, with one that was run."""
    run_stages(make_stages(), make_config(), tmp_path / "root" / "first")
    return tmp_path / "root"


@pytest.fixture
def run(root, capsys):
    """Runs another one; returns the stages that ran, and lines without times."""

    def run(config=None, places=(root,), workdir=root / "second"):
        ran = []
        capsys.readouterr()
        run_stages(
            make_stages(ran), config or make_config(), workdir, reuse_from=places
        )
        said = re.sub(r"[\d.]+ s\b", "_ s", capsys.readouterr().err)
        return ran, said.splitlines()

    return run


def test_equal_terms_are_taken_with_their_bytes_and_seconds(run, root):
    ran, said = run(make_config(late=1, name="other"))
    assert ran == []
    assert said == [f"{name}: taken from {root}/first/{name} (_ s)" for name in NAMES]
    # Also the seconds, which are in the manifests.
    assert finals(root / "second") == finals(root / "first") != {}
    assert sorted(path.name for path in (root / "second").iterdir()) == (
        [".pav.lock", "config.json", "labels", "sft"]
    )
    _, said = run(make_config(name="other"))
    assert said == [f"{name}: done already (_ s)" for name in NAMES]


@pytest.mark.parametrize("place", ["root", "root/first"])
def test_a_place_is_a_workdir_or_a_folder_of_them(run, tmp_path, place):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(places=[empty, tmp_path / place])[0] == []


def test_a_changed_field_is_not_taken_nor_what_needs_it(run):
    assert run(make_config(seed=3))[0] == ["sft", "labels"]
    ran, said = run(make_config(n=5))
    # From the first run, though this one has had another seed.
    assert ran == ["labels"] and said[0].startswith("sft: taken from")
    assert "labels: runs again, since n changed from 2 to 5" in said


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_flip, Path.unlink])
@pytest.mark.parametrize("file", ["params/all.npz", MANIFEST])
def test_what_is_damaged_is_not_taken(run, root, damage, file):
    damage(root / "first" / "sft" / file)
    # The same bytes come out, so that the labels are still good.
    assert run()[0] == ["sft"]
    before = finals(root / "second")
    # And the damaged run is mended from the one that is not.
    ran, said = run(workdir=root / "first")
    assert ran == [] and said[0] == f"sft: taken from {root}/second/sft (_ s)"
    assert finals(root / "first") == before


def test_what_is_not_finished_is_not_taken(run, root):
    (root / "first" / "sft").rename(root / "first" / "sft.new")
    assert run()[0] == ["sft"]


def test_a_place_that_is_not_there(run, tmp_path):
    for place in (tmp_path / "rot", "gs://bucket/run"):
        with pytest.raises(UserError, match="--reuse=.* is not a folder of this mach"):
            run(places=[place])


def test_a_stage_taken_is_no_part_of_the_other_run(run, root):
    """What a run changes later, and that it is removed, is not seen in the other."""
    run()
    before = finals(root / "first")
    artifacts.write_json(root / "second" / "labels" / "labels.json", "drawn again")
    assert finals(root / "first") == before
    run(make_config(seed=4))
    assert finals(root / "first") == before
    shutil.rmtree(root / "first")
    run(workdir=root / "third", places=[])
    assert run(workdir=root / "first")[0] == []
    assert finals(root / "first").keys() == before.keys()


def test_a_file_system_without_links(run, root, monkeypatch):
    def no_links(source, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    assert run()[0] == []
    assert finals(root / "second") == finals(root / "first")


def test_a_stage_begun_gives_way_to_one_that_is_finished(run, root):
    stages = make_stages()

    def stop(context):
        artifacts.write_json(context.directory / "half.json", 1)
        raise Killed

    begun = Stage("sft", stop, (), ("seed",))
    with pytest.raises(Killed):
        run_stages([begun, stages[1]], make_config(), root / "second")
    assert run()[0] == []
    assert finals(root / "second") == finals(root / "first")


@pytest.mark.parametrize("change", ["gone", "replaced"])
def test_the_other_run_changes_while_files_are_linked(run, root, monkeypatch, change):
    """A mixture of two folders is never taken."""
    link, first = os.link, root / "first"

    def link_and_change(source, target):
        link(source, target)
        monkeypatch.setattr(os, "link", link)
        shutil.rmtree(first / "sft")
        if change == "replaced":
            run_stages(make_stages(), make_config(seed=7), first)

    monkeypatch.setattr(os, "link", link_and_change)
    assert run()[0] == ["sft"] + ["labels"] * (change == "replaced")
    run_stages(make_stages(), make_config(), root / "alone")
    fingerprints = {
        read_manifest(root / workdir / "labels")["fingerprint"]
        for workdir in ("second", "alone")
    }
    assert len(fingerprints) == 1


def die_everywhere(root):
    """Takes stages, dying at each change to the file system in turn."""
    root = Path(root)
    os.fsync = lambda _: None  # Slow, and for power cuts: a kill does not notice.
    expected = finals(root / "first")
    point = 0
    while True:
        (root / "second").mkdir()
        stages, second = make_stages(), root / "second"
        if not dies_at(
            point, run_stages, stages, make_config(), second, reuse_from=[root]
        ):
            break
        assert finals(root / "first") == expected, point
        for place in [[root], []]:
            copy = root.parent / "copy"
            shutil.copytree(root / "second", copy)
            run_stages(make_stages(), make_config(), copy, reuse_from=place)
            found = {read_manifest(copy / name)["fingerprint"] for name in NAMES}
            assert found == {
                read_manifest(root / "first" / name)["fingerprint"] for name in NAMES
            }, (point, place)
            assert sorted(path.name for path in copy.iterdir()) == (
                [".pav.lock", "config.json", "labels", "sft"]
            ), (point, place)
            shutil.rmtree(copy)
        shutil.rmtree(root / "second")
        point += 1
    print(point)


def test_killed_at_every_change_to_the_file_system(root):
    with run_here(__file__, "die_everywhere", root) as process:
        points = process.stdout.read()
    assert process.returncode == 0
    # Of each stage: a folder, its files, its manifest in place and under its name.
    assert int(points) > 10


def test_find_passes_over_the_run_itself(root):
    """Also by a name that leads there by another way."""
    (root / "link").symlink_to(root / "first")
    terms = {"fields": {"seed": 1}, "needs": {}}
    assert reuse.find(root / "first" / "sft", terms, [root]) is None
    found = reuse.find(root / "other" / "sft", terms, [root / "link"])
    assert found is not None and found[0] == root / "link" / "sft"
