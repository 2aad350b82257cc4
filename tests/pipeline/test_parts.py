"""What parts do, what a merge makes of it, and what both refuse: cheap stages."""

import contextlib
import dataclasses
import itertools
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from parts_worker import NAMES, PROBLEMS, SIBLINGS, contents
from parts_worker import make_config as quick_config
from parts_worker import make_stages as make_quick
from stand_in import Bucket, Lost, lose_machine, lost_machines, record_mirrors
from stand_in import contents as contents_of_bucket

import pav_jax
from pav_jax.core.errors import UserError
from pav_jax.distributed import devices
from pav_jax.distributed.processes import Part
from pav_jax.main import main
from pav_jax.pipeline import parts, reuse
from pav_jax.pipeline.manifest import make_manifest, read_manifest
from pav_jax.pipeline.runner import run_stages
from pav_jax.storage import artifacts, buckets

DEMO = str(Path(__file__).resolve().parents[2] / "experiments" / "demo.py")

REMOTE = "gs://bucket/run"
bucket = pytest.fixture(contents_of_bucket)
COUNT = 3


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """What one process makes of them."""
    workdir = tmp_path_factory.mktemp("quick")
    run_stages(make_quick(), quick_config(), workdir)
    return workdir


@pytest.fixture
def begun(tmp_path):
    """A workdir in which what parts need is finished."""
    run_stages(make_quick(), quick_config(), tmp_path / "run", until="sft")
    return tmp_path / "run"


def do(
    workdir,
    *indices,
    until="labels",
    note=lambda _: None,
    after=lambda: None,
    **changes,
):
    """Some parts, of stages of no cost; all of them by default."""
    for index in indices or range(COUNT):
        parts.run_part(
            make_quick(note, after),
            quick_config(**changes),
            workdir,
            until=until,
            part=Part(index, COUNT),
        )


def merge(workdir, until="labels", count=COUNT, **changes):
    parts.merge(
        make_quick(), quick_config(**changes), workdir, until=until, count=count
    )


def test_which_shards_are_whose(begun):
    """Every one is of one part; labels go with the rollouts that they are made of."""
    seen = []
    for index in range(COUNT):
        mine = []
        do(begun, index, note=mine.append)
        rollouts, labels = (
            {int(line[-5:]) for line in mine if line.startswith(f"ends {name}")}
            for name in NAMES
        )
        assert rollouts == set(range(index, PROBLEMS, COUNT))
        assert {label // SIBLINGS for label in labels} == rollouts
        seen += mine
    assert len(seen) == len(set(seen)) == 2 * (PROBLEMS + SIBLINGS * PROBLEMS)


def test_rounds_and_what_is_done_already(begun, quick):
    do(begun)
    merge(begun)
    again = []
    do(begun, note=again.append)  # a part that is tried again after the merge
    do(begun, until="rollouts", note=again.append)
    merge(begun)
    run_stages(make_quick(again.append), quick_config(), begun, until="prm")
    assert again == []
    do(begun, until="samples")
    merge(begun, until="samples")
    names = (*NAMES, "prm", "samples")
    assert contents(begun, *names) == contents(quick, *names)
    seconds = sum(
        read_manifest(begun / ".parts" / f"{index}-of-{COUNT}" / "labels")["seconds"]
        for index in range(COUNT)
    )
    assert read_manifest(begun / "labels")["seconds"] >= seconds > 0
    shutil.rmtree(begun / ".parts")
    do(begun, note=again.append)
    merge(begun)
    assert again == []


def test_rollouts_that_the_workdir_has_are_not_done_again(begun, quick):
    run_stages(make_quick(), quick_config(), begun, until="rollouts")
    did = []
    do(begun, note=did.append)
    assert len(did) == 2 * SIBLINGS * PROBLEMS
    assert not any("rollouts" in line for line in did)
    merge(begun)
    assert contents(begun, *NAMES) == contents(quick, *NAMES)


def test_a_machine_lost_at_any_moment(bucket, monkeypatch, quick):
    """What a part has in the bucket is not done again, on whatever machine."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # slow, and for power cuts
    mirrors = record_mirrors(monkeypatch)
    run_stages(make_quick(), quick_config(), REMOTE, until="sft")
    do(REMOTE, 0, 2)
    start = {name: file.getvalue() for name, file in Bucket.store.items()}
    finished = False
    for moments in lost_machines(start, stride=3):
        with contextlib.suppress(Lost, UserError):
            do(REMOTE, 1, after=lambda: mirrors[-1].sync())
            finished = True
        place = f".parts/1-of-{COUNT}/"
        saved = {name.removeprefix(place) for name in bucket() if place in name}
        done = {
            f"ends {stage}-{Path(name).stem}"
            for stage in NAMES
            for name in saved
            if "shard-" in name
            and name.endswith(".json")
            and (name.startswith(f"{stage}.new/") or f"{stage}/manifest.json" in saved)
            and name.startswith(stage)
        }
        again = []
        lose_machine()
        do(REMOTE, 1, note=again.append)
        again = {line for line in again if line.startswith("ends")}
        assert not done & again
        assert len(done | again) == 2 + SIBLINGS * 2
        if finished:
            assert moments > 20
            break
    merge(REMOTE)
    found = buckets.local_folder(REMOTE)
    assert contents(found, *NAMES) == contents(quick, *NAMES)


def test_a_merge_lost_at_any_moment(bucket, monkeypatch, quick):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    run_stages(make_quick(), quick_config(), REMOTE, until="sft")
    do(REMOTE)
    moments, finished = 0, False
    while not finished:
        Bucket.left = moments
        moments += 8
        with contextlib.suppress(Lost, UserError):
            merge(REMOTE)
            finished = True
        lose_machine()
    merge(REMOTE)
    assert contents(buckets.local_folder(REMOTE), *NAMES) == contents(quick, *NAMES)
    assert moments > 20
    # A run of the workdir leaves the parts alone.
    before = {name: data for name, data in bucket().items() if ".parts" in name}
    run_stages(make_quick(), quick_config(), REMOTE)
    assert before.items() <= bucket().items()
    assert not (buckets.local_folder(REMOTE) / ".parts").exists()


def test_a_run_goes_on_after_a_merge_that_was_killed(begun, quick, monkeypatch):
    """What it has begun is no shard that a run takes for complete."""
    do(begun)
    link = reuse.link
    for most in itertools.count():
        calls = itertools.count()

        def limited(source, target, most=most, calls=calls):
            if next(calls) >= most:
                raise Lost
            link(source, target)

        monkeypatch.setattr(reuse, "link", limited)
        with contextlib.suppress(Lost, UserError):
            merge(begun)
            break
        monkeypatch.setattr(reuse, "link", link)
        if most % 3 == 0:
            run_stages(make_quick(), quick_config(), begun, until="labels")
            assert contents(begun, *NAMES) == contents(quick, *NAMES)
            for name in NAMES:
                shutil.rmtree(begun / name)
    assert most > PROBLEMS * (1 + SIBLINGS)
    assert contents(begun, *NAMES) == contents(quick, *NAMES)


# Mistakes.


@pytest.mark.parametrize(
    "text", ["3", "3/", "/4", "a/4", "-1/4", "4/4", "0/0", "1/2/3"]
)
def test_what_is_no_part(text):
    with pytest.raises(UserError, match=re.escape(f"--part={text} is no part")):
        Part.parse(text)


def test_a_part():
    assert Part.parse("3/64") == Part(3, 64) and str(Part(3, 64)) == "3/64"


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--part=0/2"], "--part=0/2 needs --until=STAGE"),
        (["--part=", "--until=labels"], "--part= is no part"),
        (["--part=2/2", "--until=labels"], "those of 2 are 0/2 to 1/2"),
        (["--part=0/2", "--until=labels", "--reuse=."], "--reuse do not go together"),
        (
            ["--part=0/2", "--until=labels", "--coordinator=auto"],
            "give each process a part of its own",
        ),
    ],
)
def test_flags_that_do_not_go_together(flags, words, tmp_path, capsys):
    run = ["run", f"--config={DEMO}:smoke", f"--workdir={tmp_path / 'run'}", *flags]
    assert main(run) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("workdir", ["run", REMOTE])
def test_what_has_to_be_finished_before(workdir, tmp_path, bucket):
    workdir = workdir if "://" in workdir else tmp_path / workdir
    words = (
        "need stage data finished in .*/run; it is not there. First run .*--until=sft"
    )
    for command in (do, merge):
        with pytest.raises(UserError, match=words):
            command(workdir)
    assert not bucket() and not (tmp_path / "run").exists()
    run_stages(make_quick(), quick_config(), workdir, until="sft")
    with pytest.raises(UserError, match="stage sft .* seed changed from 3 to 4. First"):
        do(workdir, seed=4)
    words = "need stage rollouts .*--until=prm and no --part .or pav merge"
    with pytest.raises(UserError, match=words):
        do(workdir, until="samples")
    for until in ("prm", "thesis"):
        with pytest.raises(
            UserError, match="parts cannot do it; those are: rollouts, lab"
        ):
            do(workdir, until=until)


def test_an_input_that_is_damaged(begun):
    path = begun / "sft" / "deep" / "weights.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="run/sft: deep/weights.npz is damaged"):
        do(begun, 0)


def test_an_input_that_changes_meanwhile(begun, quick):
    """A part goes on with what it began with, and a merge tells."""

    def change():
        if not (begun / "changed").exists():
            run_stages(make_quick(), quick_config(seed=9), begun, until="sft")
            (begun / "changed").touch()

    do(begun, 0, after=change)
    with pytest.raises(UserError, match="stage sft .* seed changed from 9 to 3"):
        merge(begun)
    run_stages(make_quick(), quick_config(), begun, until="sft")
    do(begun)
    merge(begun)
    assert contents(begun, *NAMES) == contents(quick, *NAMES)


def test_parts_that_are_missing(begun):
    do(begun, 1)
    with pytest.raises(UserError, match="stage rollouts lacks part 0/3, 2/3; run with"):
        merge(begun)
    with pytest.raises(UserError, match=r"part 0/30, .*, 9/30 and 20 more; run with"):
        merge(begun, count=30)
    do(begun, 0, until="rollouts")
    do(begun, 2)
    with pytest.raises(
        UserError, match="stage labels lacks part 0/3; run with --until=l"
    ):
        merge(begun)
    with pytest.raises(UserError, match="--parts=0 must be at least 1"):
        merge(begun, count=0)


def test_parts_of_another_config(begun):
    do(begun, 0, 1)
    do(begun, 2, n_mc=5)
    words = "part 2/3 of stage labels is not of this .*: n_mc changed from 5 to 2"
    with pytest.raises(UserError, match=words):
        merge(begun)
    assert not (begun / "labels").exists()
    did = []
    do(begun, 2, note=did.append)  # which runs again
    assert len(did) == 2 * 2 * SIBLINGS
    merge(begun)


def test_parts_of_another_policy(begun):
    do(begun, 0)
    weights = begun / "sft" / "deep" / "weights.npz"
    artifacts.write_arrays(weights, {"value": np.full(3, 77)})
    terms = read_manifest(begun / "sft")
    (begun / "sft" / "manifest.json").unlink()
    manifest = make_manifest("sft", terms, begun / "sft", 1.0)
    artifacts.write_json(begun / "sft" / "manifest.json", manifest)
    do(begun, 1, 2)
    words = "part 0/3 of stage rollouts is not of this config and policy: sft ran again"
    with pytest.raises(UserError, match=words):
        merge(begun)


def test_parts_whose_rollouts_are_of_another_policy(begun):
    """Also where the labels' own terms do not show it."""
    stages = [
        dataclasses.replace(stage, needs=("rollouts",), fields=("n_mc",))
        if stage.name == "labels"
        else stage
        for stage in make_quick()
    ]
    for index in range(COUNT):
        part = Part(index, COUNT)
        parts.run_part(stages, quick_config(), begun, until="labels", part=part)
    run_stages(stages, quick_config(seed=4), begun, until="rollouts")
    with pytest.raises(UserError, match="stage labels is not of .*: rollouts ran agai"):
        parts.merge(stages, quick_config(seed=4), begun, until="labels", count=COUNT)


def test_parts_of_other_rollouts_of_the_same_terms(begun, quick):
    """Labels of samples that devices of another kind drew, say."""
    do(begun)
    place = begun / ".parts" / "1-of-3"
    run_stages(make_quick(), quick_config(), begun, until="rollouts")
    for name, value in (("rollouts", 77), ("labels", 154)):
        folder = place / name
        for shard in sorted(folder.glob("shard-*.npz"))[:1]:
            artifacts.write_arrays(shard, {"value": np.full(3, value)})
        terms = dict(read_manifest(folder))
        if name == "labels":
            own = read_manifest(place / "rollouts")["fingerprint"]
            terms["needs"] = terms["needs"] | {"rollouts": own}
        (folder / "manifest.json").unlink()
        manifest = make_manifest(name, terms, folder, 1.0)
        artifacts.write_json(folder / "manifest.json", manifest)
    words = (
        "part 1/3 of stage labels is of rollouts of its own, whose shard-00001.npz is"
        f" not that of rollouts in {begun} .*; remove {place} and run that part again"
    )
    with pytest.raises(UserError, match=words):
        merge(begun)
    assert not (begun / "labels").exists()
    shutil.rmtree(place)
    do(begun, 1)
    merge(begun)
    assert contents(begun, *NAMES) == contents(quick, *NAMES)


def test_parts_are_not_taken_for_stages(begun, tmp_path):
    do(begun)
    for place in (begun / ".parts", begun / ".parts" / "0-of-3"):
        with pytest.raises(UserError, match="has parts of stages, which are not whole"):
            run_stages(
                make_quick(), quick_config(), tmp_path / "other", reuse_from=[place]
            )


def test_parts_of_another_version(begun, monkeypatch):
    do(begun, 0, 2)
    monkeypatch.setattr(pav_jax, "__version__", "9.9")
    do(begun, 1)
    words = (
        "part 1/3 of stage rollouts was made by version 9.9 of pav_jax, and part 0/3"
    )
    with pytest.raises(UserError, match=words):
        merge(begun)


def test_a_merge_notes_the_devices_of_the_parts(begun, monkeypatch):
    for index, here in enumerate(("8 TPU devices", "4 GPU devices", "8 TPU devices")):
        monkeypatch.setattr(devices, "here", lambda here=here: here)
        do(begun, index)

    def nobody():  # the machine that merges may be one without devices
        raise AssertionError("a merge asked for devices")

    monkeypatch.setattr(devices, "here", nobody)
    merge(begun)
    for name in NAMES:
        made_on = read_manifest(begun / name)["made_on"]
        assert made_on == ["4 GPU devices", "8 TPU devices"]


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone"])
def test_a_damaged_shard(begun, quick, harm):
    do(begun)
    place = begun / ".parts" / "1-of-3"
    path = place / "labels" / "shard-00009.npz"
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        cut = data[:-1]
        path.write_bytes(cut if harm == "cut" else cut + bytes([data[-1] ^ 1]))
    words = f"part 1/3 of stage labels: shard-00009.npz is .*; remove {place} and run"
    with pytest.raises(UserError, match=words):
        merge(begun)
    shutil.rmtree(place)
    do(begun, 1)
    merge(begun)
    assert contents(begun, *NAMES) == contents(quick, *NAMES)
