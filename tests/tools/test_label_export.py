"""`pav labels export`: what is written is what the stages have on disk."""

import json
import shutil

import numpy as np
import pandas
import pytest
import yaml
from closed_folders import KINDS, check_refused, closed
from ml_collections import ConfigDict
from stand_in import Bucket, contents
from tiny import byte_tokenizer

from pav_jax.core.types import Problem, Response, StepLabels
from pav_jax.distributed.signals import AGAIN
from pav_jax.labels import prefix_ends
from pav_jax.main import main
from pav_jax.pipeline import imported
from pav_jax.pipeline.manifest import read_manifest
from pav_jax.pipeline.runner import Stage, run_stages
from pav_jax.storage import buckets, imports, records

CONFIG = dict(
    name="tiny",
    seed=7,
    task=dict(name="adding"),
    labels=dict(n_mc=4),
    rollouts=dict(temperature=0.7, n_cov=2),
    provers=dict(strong=dict(n_mc=3)),
)
PROBLEMS = [Problem(f"What is {n} + 1?\n", str(n + 1)) for n in range(3)]
# Of each problem three responses, of which two are labelled; one is cut short.
TEXTS = ["1 + 1\nis 2", "é\n\nso 3", "not labelled"]
TOKENIZER = byte_tokenizer()


def _response(problem, text, finished=True):
    tokens = TOKENIZER.encode(text) + [TOKENIZER.eos_id] * finished
    prompt = [TOKENIZER.bos_id, *TOKENIZER.encode(PROBLEMS[problem].prompt)]
    log_probs = (0.0,) * len(tokens)
    return Response(problem, tuple(prompt), tuple(tokens), log_probs, "is" in text)


def _labels(response, n, rng):
    ends = prefix_ends(response, TOKENIZER.step_end_mask())
    count = np.full(len(ends), n, np.int32)
    correct = rng.integers(0, n + 1, size=len(ends)).astype(np.int32)
    count[-1], correct[-1] = 1, response.correct
    return StepLabels(ends, correct, count)


def _data(context):
    records.write_problems(context.directory / "labels.jsonl", PROBLEMS)
    TOKENIZER.save(context.directory / "tokenizer.model")


def _policy(context):
    (context.directory / "weights").write_text(context.stage)


def _rollouts(context):
    for number, problems in enumerate([(0, 1), (2,)]):
        rows = [
            _response(p, text, finished=(p, i) != (1, 0))
            for p in problems
            for i, text in enumerate(TEXTS)
        ]
        path = records.shard_path(context.directory, number)
        records.write_responses(path, rows)


def _of_policy(context):
    rng = np.random.default_rng(0)
    rows = records.read_seed_rollouts(context.input("rollouts"), 2)
    for number, part in enumerate([rows[:1], rows[1:5], rows[5:]]):
        path = records.shard_path(context.directory, number)
        records.write_labels(path, [_labels(row, 4, rng) for row in part])
        if number == 1:  # as with config.labels.first_pit
            ends = prefix_ends(part[0], TOKENIZER.step_end_mask())[1:2]
            more = StepLabels(ends, np.array([5], np.int32), np.array([8], np.int32))
            pits = context.directory / f"pit-responses-{number:05d}.npz"
            records.write_responses(pits, part[:1])
            records.write_labels(
                context.directory / f"pit-labels-{number:05d}.npz", [more]
            )


def _of_prover(context):
    rng = np.random.default_rng(1)
    rows = [_response(p, TEXTS[0]) for p in range(3)]
    path = records.shard_path(context.directory, 0)
    records.write_responses(path, rows)
    found = [_labels(row, 3, rng) for row in rows]
    records.write_labels(records.labels_beside(path), found)


FIELDS = ("seed", "task", "rollouts")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run with labels of π and of another prover."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    of_prover = (*FIELDS, "provers.strong")
    needs = ("data", "sft", "rollouts")
    prover = ("data", "rollouts", "policy-strong")
    stages = [
        Stage("data", _data, (), ()),
        Stage("sft", _policy, ("data",), ()),
        Stage("rollouts", _rollouts, ("data", "sft"), FIELDS),
        Stage("labels", _of_policy, needs, (*FIELDS, "labels")),
        Stage("policy-strong", _policy, ("data",), ()),
        Stage("labels-strong", _of_prover, prover, of_prover),
    ]
    run_stages(stages, ConfigDict(CONFIG).lock(), workdir)
    return workdir


def _export(run, output):
    return main(["labels", "export", f"--labels={run}", f"--output={output}"])


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("out") / "labels"
    assert _export(run, output) == 0
    return output


def _on_disk(run):
    """By stage and kind: (response, labels), as the stages read them."""
    folder = run / "labels"
    seeds = records.read_seed_rollouts(run / "rollouts", 2)
    pit = "-00001.npz"
    strong = records.read_responses(records.shard_path(run / "labels-strong", 0))
    path = records.labels_beside(records.shard_path(run / "labels-strong", 0))
    yield from (
        ("π", "rollout", *row)
        for row in zip(seeds, records.read_all_labels(folder), strict=True)
    )
    pits = (
        records.read_responses(folder / f"pit-responses{pit}"),
        records.read_labels(folder / f"pit-labels{pit}"),
    )
    yield from (("π", "first_pit", *row) for row in zip(*pits, strict=True))
    of_prover = zip(strong, records.read_labels(path), strict=True)
    yield from (("strong", "rollout", *row) for row in of_prover)


def test_every_label_is_a_row(run, exported):
    frame = pandas.read_parquet(exported / "prefixes")
    fingerprints = {
        "π": read_manifest(run / "sft")["fingerprint"],
        "strong": read_manifest(run / "policy-strong")["fingerprint"],
    }
    expected = []
    for prover, kind, response, labels in _on_disk(run):
        ends = prefix_ends(response, TOKENIZER.step_end_mask()).tolist()
        for end, k, n in zip(labels.ends, labels.correct, labels.count, strict=True):
            problem = PROBLEMS[response.problem]
            prefix = response.tokens[:end]
            row = (problem.id, kind, ends.index(end), end == len(response.tokens))
            row += (k, n, problem.prompt, TOKENIZER.decode(prefix), response.prompt)
            expected.append((*row, prefix, prover, 7, fingerprints[prover]))
    names = ["problem_id", "kind", "step", "is_whole", "correct", "count", "prompt"]
    names += ["prefix", "prompt_tokens", "prefix_tokens", "prover", "seed", "policy"]
    assert set(frame.columns) == {*names, "response_id"}
    for name in ("prompt_tokens", "prefix_tokens"):
        frame[name] = frame[name].map(tuple)
    found = list(frame[names].itertuples(index=False, name=None))
    assert sorted(found) == sorted(expected) and len(found) == 3 * (3 + 4) + 1 + 3 * 3
    # A response and its prefixes are found by its number.
    groups = frame.groupby(["prover", "response_id"])
    assert len(groups) == 6 + 1 + 3
    for _, group in groups:
        longest = group.prefix.iloc[group["step"].argmax()]
        assert all(longest.startswith(prefix) for prefix in group.prefix)


def test_the_lines_are_the_same_and_can_be_imported(run, exported, tmp_path):
    lines = {
        "π": exported / "responses" / "labels.jsonl",
        "strong": exported / "responses" / "labels-strong.jsonl",
    }
    rows = {
        prover: [json.loads(line) for line in path.read_text().splitlines()]
        for prover, path in lines.items()
    }
    imported_rows = {}
    for prover, path in lines.items():
        out = tmp_path / prover
        argv = ["--from=jsonl", f"--input={path}", f"--output={out}"]
        assert main(["import", *argv]) == 0
        imported_rows[prover] = {row.line - 1: row for row in imports.read(out)}
    on_disk = list(_on_disk(run))
    # The first pits of a shard come after its rollouts: the second shard has four.
    on_disk.insert(5, on_disk.pop(6))
    places = {"π": 0, "strong": 0}
    for prover, kind, response, labels in on_disk:
        place = places[prover]
        places[prover] += 1
        row = rows[prover][place]
        assert (row["kind"], row["response_id"], row["prover"]) == (kind, place, prover)
        assert row["tokens"] == list(response.tokens)
        assert row["outcome"] is response.correct
        chosen = [row["ends"].index(end) for end in labels.ends]
        counts = [row["prompt_count"], *row["count"]]
        corrects = [row["prompt_correct"], *row["correct"]]
        assert [counts[i] for i in chosen] == labels.count.tolist()
        assert [corrects[i] for i in chosen] == labels.correct.tolist()
        assert sum(counts) == labels.count.sum()
        if "é" in TOKENIZER.decode(response.tokens):  # a blank step, which import skips
            assert place not in imported_rows[prover]
            continue
        again = imported_rows[prover][place]
        prompt, tokens, ends = imported.encode(TOKENIZER, again)
        assert prompt == response.prompt and again.outcome is response.correct
        kept = response.tokens if again.finished else (*response.tokens, tokens[-1])
        assert tokens == kept and again.finished == (kept == response.tokens)
        assert (*again.count,) == (*row["count"],)
        assert again.prompt_count == row["prompt_count"]
    assert places == {"π": 7, "strong": 3}


def test_the_card(run, exported):
    card = (exported / "README.md").read_text()
    fingerprint = read_manifest(run / "sft")["fingerprint"]
    head = f"| `labels` | π | 4 | adding | 0.7 | 7 | 7 | 22 | {fingerprint} |"
    assert head in card and "| `labels-strong` | strong | 3 |" in card
    start, _, rest = card.partition("---\n")[2].partition("---\n")
    (config,) = yaml.safe_load(start)["configs"]
    assert len(list(exported.glob(config["data_files"]))) == 4
    names = pandas.read_parquet(exported / "prefixes").columns
    assert all(f"`{name}`" in rest for name in names)
    tokenizer = (run / "data" / "tokenizer.model").read_bytes()
    assert (exported / "tokenizer.model").read_bytes() == tokenizer


def test_it_loads_with_datasets(exported, tmp_path):
    reason = "datasets is not in requirements.lock; make peers installs it"
    datasets = pytest.importorskip("datasets", reason=reason)
    labels = datasets.load_dataset(str(exported), cache_dir=str(tmp_path))["train"]
    assert labels.num_rows == len(pandas.read_parquet(exported / "prefixes"))
    responses = datasets.load_dataset(
        "json",
        data_files=str(exported / "responses" / "labels.jsonl"),
        cache_dir=str(tmp_path),
    )["train"]
    assert responses.num_rows == 7
    assert responses[0]["steps"] == ["1 + 1\n", "is 2"]


def test_what_cannot_be_exported_leaves_nothing(run, tmp_path, capsys):
    def refused(folder, words, output=tmp_path / "out"):
        before = sorted(tmp_path.iterdir())
        assert _export(folder, output) == 2
        assert words in capsys.readouterr().err
        assert sorted(tmp_path.iterdir()) == before

    (tmp_path / "there").mkdir()
    refused(run, "there exists; give another --output", tmp_path / "there")
    refused(tmp_path / "absent", "holds no step labels of its own policies; give the")
    refused(run / "labels", "holds no step labels of its own policies; give the")

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "rollouts" / "shard-00001.npz").unlink()
    refused(copy, "rollouts, shard-00001.npz is missing; run the experiment again")
    shutil.copytree(run / "rollouts", copy / "rollouts", dirs_exist_ok=True)
    whole = (copy / "labels" / "shard-00000.npz").read_bytes()
    (copy / "labels" / "shard-00000.npz").write_bytes(whole[:-1] + b"?")
    refused(copy, "shard-00000.npz is damaged")
    (copy / "labels" / "shard-00000.npz").write_bytes(whole)
    manifest = json.loads((copy / "sft" / "manifest.json").read_text())
    shutil.copytree(run / "policy-strong", copy / "sft", dirs_exist_ok=True)
    assert read_manifest(copy / "sft")["fingerprint"] != manifest["fingerprint"]
    refused(copy, "was made with another sft than that of")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_written(run, tmp_path, capsys, kind):
    parent = tmp_path / "parent"
    (parent / "out.new").mkdir(parents=True)  # which is somebody's
    with closed(run, kind):  # what is read may be
        with closed(parent, kind):
            assert _export(run, parent / "out") == 2
            check_refused(capsys.readouterr().err, parent / "out", kind)
        assert _export(run, parent / "out") == 0
    assert {path.name for path in parent.iterdir()} == {"out", "out.new"}


def test_labels_of_others_are_not_ours(tmp_path, capsys):
    config = ConfigDict({"name": "tiny", "labels": {"from": "there"}}).lock()
    stages = [
        Stage("data", _data, (), ()),
        Stage("labels", _policy, ("data",), ("labels.from",)),
    ]
    run_stages(stages, config, tmp_path / "run")
    assert _export(tmp_path / "run", tmp_path / "out") == 2
    assert "its labels were imported" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


bucket = pytest.fixture(contents)


def test_from_a_bucket_to_a_bucket(run, exported, bucket, capsys):
    for name in buckets.files(run):
        there = f"gs://bucket/run/{name}"
        Bucket().pipe_file(there, (run / name).read_bytes())
    assert _export("gs://bucket/run", "gs://bucket/out") == 0
    assert _export("gs://bucket/run", "gs://bucket/out") == 2
    assert "out exists; give another --output" in capsys.readouterr().err
    made = {
        name.removeprefix("/bucket/out/"): data
        for name, data in bucket().items()
        if name.startswith("/bucket/out/")
    }
    assert made == {
        name: (exported / name).read_bytes() for name in buckets.files(exported)
    }


@pytest.mark.parametrize(
    ("error", "code"), [(PermissionError("denied"), 2), (OSError("no answer"), AGAIN)]
)
def test_a_bucket_that_cannot_be_read(
    bucket, tmp_path, capsys, monkeypatch, error, code
):
    def find(*args, **kwargs):
        raise error

    monkeypatch.setattr(Bucket, "find", find)
    assert _export("gs://bucket/run", tmp_path / "out") == code
    err = capsys.readouterr().err
    assert f"cannot use gs://bucket/run: {type(error).__name__}" in err
    assert err.count("\n") == 1


def test_a_store_that_is_not_known(tmp_path, capsys):
    assert _export("nowhere://bucket/run", tmp_path / "out") == 2
    assert "cannot use nowhere://bucket/run: give" in capsys.readouterr().err
