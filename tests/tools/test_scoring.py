"""`pav score` and `pav show`: numbers, files, and what a kill or a bad line leaves."""

import codecs
import csv
import doctest
import gzip
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from full_disk import FullFor, check_message, small_disk
from stand_in import Bucket, contents
from tiny import byte_tokenizer
from tiny_run import ARCHITECTURE, CONFIG, make_run, write_data

from pav_jax import policy, verifier
from pav_jax import scores as scores_lib
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Response
from pav_jax.distributed.processes import Processes
from pav_jax.gemma import checkpoint as published
from pav_jax.main import main
from pav_jax.pipeline import workers
from pav_jax.pipeline.runner import Stage, run_stages
from pav_jax.scores import score_responses
from pav_jax.storage import buckets, checkpoints
from pav_jax.tools import jsonl, score_file, scoring

# (prompt, response): rows of 27, 27, 62 and 100 tokens, the last the longest allowed.
TEXTS = [
    ("What is 1 + 1?", "1 + 1\nis 2"),
    ("And is 2 + 2\n\n", "so = 4\n" + "= four\n\n"),
    ("Say it.\n", "Step one\n\nstep two is longer than one\nand three."),
    ("?", "x\n" * 47 + "yz"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The workdir of a run whose verifiers are random."""
    workdir = tmp_path_factory.mktemp("runs") / "tiny"
    make_run(workdir)
    return workdir


@pytest.fixture(scope="module")
def trained(run):
    """The run's PRM and ORM."""
    return scoring.Verifier.load(run)


_step_values = jax.jit(verifier.step_values, static_argnames="architecture")


def _q_of_one(params, text: str) -> np.ndarray:
    """Q at each byte of a text, by itself, after the token that begins it."""
    tokenizer = byte_tokenizer()
    ids = [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]
    assert len(ids) == len(text) + 2  # so that places are those of characters
    q = _step_values(params, jnp.array([ids]), architecture=ARCHITECTURE)
    return np.asarray(q[0])


def test_scores_are_those_of_each_response_alone(run, trained):
    found = trained.score(*zip(*TEXTS, strict=True))
    for (prompt, response), scores in zip(TEXTS, found, strict=True):
        start = prompt.rstrip("\n") + "\n"
        lines = [line for line in response.split("\n") if line]
        text = start + "\n".join(lines)
        q = _q_of_one(trained.prm, text)
        # After the newline of each step; after the end token that ends the last.
        places = len(start) + np.cumsum([len(line) + 1 for line in lines])
        assert places[-1] == len(text) + 1
        expected = q[[len(start), *places]]
        assert scores.prompt_q == pytest.approx(expected[0], abs=1e-5)
        assert [step.text for step in scores.steps] == lines
        np.testing.assert_allclose(
            [step.q for step in scores.steps], expected[1:], atol=1e-5
        )
        np.testing.assert_allclose(
            [step.advantage for step in scores.steps],
            (1 - expected[:-1]) ** 4 - (1 - expected[1:]) ** 4,
            atol=1e-5,
        )
        assert scores.orm == pytest.approx(_q_of_one(trained.orm, text)[-1], abs=1e-5)
    assert len({step.q for scores in found for step in scores.steps}) > 20


@pytest.mark.parametrize(
    "response",
    [
        "1 + 1\n\nis 2\nthen 3",
        "\n1 + 1\nis 2\n \t\n\nthen 3\n\n",
        "1 + 1\r\nis 2\r\n\r\nthen 3\r\n",
        "\ufeff1 + 1\nis 2\nthen 3",
    ],
)
def test_blank_lines_are_no_steps_and_move_no_value(trained, response):
    plain = trained.score(["What is\n1 + 1?"], ["1 + 1\nis 2\nthen 3"])
    found = trained.score(["\ufeffWhat is\r\n1 + 1?\r\n"], [response])
    assert found == plain
    assert [step.text for step in found[0].steps] == ["1 + 1", "is 2", "then 3"]


def test_one_verifier_and_another_prover(run, trained):
    (with_orm,) = trained.score(*zip(TEXTS[0], strict=True))
    alone = scoring.Verifier.load(run / "prm", prover_k=1)
    (one,) = alone.score(*zip(TEXTS[0], strict=True))
    assert one.orm is None
    assert [step.q for step in one.steps] == [step.q for step in with_orm.steps]
    q = [one.prompt_q, *(step.q for step in one.steps)]
    np.testing.assert_allclose([s.advantage for s in one.steps], np.diff(q), atol=1e-6)
    assert alone.fingerprint != trained.fingerprint


def test_the_example_in_the_docstring(run, tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "demo").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(scoring.Verifier, globs={"Verifier": scoring.Verifier})
    failed, attempted = doctest.DocTestRunner().run(example)
    assert (failed, attempted) == (0, 4)


def _export(stage, output) -> int:
    return main(["export", f"--stage={stage}", f"--output={output}"])


def test_an_exported_verifier_scores_alike(run, tmp_path):
    assert _export(run / "prm", tmp_path / "out") == 0
    exported = scoring.Verifier.load(tmp_path / "out")
    alone = scoring.Verifier.load(run / "prm")
    assert exported.orm is None
    for name in ("architecture", "max_tokens", "prover_k", "fingerprint"):
        assert getattr(exported, name) == getattr(alone, name)
    texts = list(zip(*TEXTS, strict=True))
    assert exported.score(*texts) == alone.score(*texts)
    assert scoring.Verifier.load(tmp_path / "out", prover_k=2).prover_k == 2


# A verifier's head, as it was written before it was a flax module.
OLD_HEAD = {
    "hidden": (16, 16),
    "hidden_bias": (16,),
    "value": (16,),
    "value_bias": (),
    "evidence": (16,),
}


def test_a_head_that_was_exported_before_still_loads(run, tmp_path):
    assert _export(run / "prm", tmp_path / "out") == 0
    rng = np.random.default_rng(0)
    old = {name: rng.normal(size=shape) for name, shape in OLD_HEAD.items()}
    old = jax.tree.map(lambda values: jnp.asarray(values, jnp.float32), old)
    shutil.rmtree(tmp_path / "out" / "head")
    checkpoints.save_params(tmp_path / "out" / "head", {"head": old})
    loaded = scoring.Verifier.load(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, loaded.prm["head"], old)


def test_a_verifier_of_an_old_workdir_is_an_error(trained, tmp_path):
    """Its network was called "model"; the message says what to do."""
    params = {"model": trained.prm["network"], "head": trained.prm["head"]}
    checkpoints.save_params(tmp_path / "prm" / "params", params)
    words = (
        r"prm/params lacks network/\S+, .* and more and has model/\S+, .* and more,"
        r" .* an earlier version of this program wrote it;"
        r" if so, delete \S+/prm and run its stage again"
    )
    with pytest.raises(UserError, match=words):
        verifier.load_verifier(tmp_path / "prm", ARCHITECTURE, jnp.float32)


def test_an_exported_policy_is_a_checkpoint(run, tmp_path, capsys):
    assert _export(run / "sft", tmp_path / "out") == 0
    jax.tree.map(
        np.testing.assert_array_equal,
        published.read(tmp_path / "out" / "policy", architecture=ARCHITECTURE),
        policy.load_policy(run / "sft", ARCHITECTURE, jnp.float32),
    )
    with pytest.raises(UserError, match="out holds no verifier"):
        scoring.Verifier.load(tmp_path / "out")
    assert _export(run / "sft", tmp_path / "out") == 2
    assert _export(run / "data", tmp_path / "new") == 2
    said = capsys.readouterr().err
    assert "out exists; give another --output" in said
    assert "data is not the folder of a finished stage that trains" in said


ON_MESHES = """
import json, sys
import jax
from pav_jax.main import main
for flags in json.loads(sys.argv[1]):
    assert main(["score", *flags]) == 0
    print(dict(jax.sharding.get_mesh().shape))
"""


@pytest.mark.slow
def test_a_mesh_changes_no_score(run, tmp_path):
    """That of the run, and one that is asked for; of a run's and an exported one."""
    source = tmp_path / "in.jsonl"
    rows = [dict(zip(("prompt", "response"), pair, strict=True)) for pair in TEXTS]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _export(run / "prm", tmp_path / "exported") == 0
    jobs = [
        [f"--verifier={verifier}", f"--input={source}", f"--output={tmp_path / out}"]
        for verifier, out in [(run, "a"), (tmp_path / "exported", "b")]
    ]
    jobs[1].append("--mesh=fsdp=2,tensor=2")
    done = subprocess.run(
        [sys.executable, "-c", ON_MESHES, json.dumps(jobs)],
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"},
    )
    assert done.returncode == 0, done.stderr
    assert "{'data': 4, 'fsdp': 1, 'tensor': 1}" in done.stdout
    assert "{'data': 1, 'fsdp': 2, 'tensor': 2}" in done.stdout
    for out, folder in (("a", run), ("b", run / "prm")):
        one = scoring.Verifier.load(folder).score(*zip(*TEXTS, strict=True))
        lines = (tmp_path / out).read_text().splitlines()
        for line, scores in zip(lines, one, strict=True):
            said = json.loads(line)["pav"]
            assert said["orm"] == pytest.approx(scores.orm, abs=1e-5)
            np.testing.assert_allclose(
                [step["q"] for step in said["steps"]],
                [step.q for step in scores.steps],
                atol=1e-5,
            )


def test_few_shapes(trained, monkeypatch):
    shapes = []
    values = scores_lib._step_values

    def noting(params, tokens, *, architecture):
        shapes.append(tokens.shape)
        return values(params, tokens, architecture=architecture)

    monkeypatch.setattr(scores_lib, "_step_values", noting)
    prompts = ["?"] * 90
    found = trained.score(prompts, ["x" * n for n in range(90)])
    assert set(shapes) == {(256, 32), (128, 64), (64, 100)}
    assert len(shapes) == 6  # each once for each verifier
    assert [scores.steps[0].text for scores in found] == ["x" * n for n in range(90)]


def test_responses_of_a_run_are_scored_alike(trained):
    """The stages' way, by token ids, gives what a user gets for the texts."""
    encoded = [trained.encode(*pair) for pair in TEXTS]
    starts = [row.ends[0] for row in encoded]
    responses = [
        Response(0, tuple(row.tokens[:start]), tuple(row.tokens[start:]), (), False)
        for row, start in zip(encoded, starts, strict=True)
    ]
    ledger = Ledger()
    found = score_responses(
        trained.prm,
        responses,
        [row.ends - start for row, start in zip(encoded, starts, strict=True)],
        architecture=ARCHITECTURE,
        ledger=ledger,
    )
    assert ledger.scored == sum(len(row.tokens) for row in encoded)
    for q, scores in zip(found, trained.score_encoded(encoded), strict=True):
        expected = [scores.prompt_q, *(step.q for step in scores.steps)]
        np.testing.assert_allclose(q, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("prompt", "response", "words"),
    [
        (" \n", "x", "empty prompt"),
        ("?", "x" * 98, "3 tokens and the response 99, together more than the 100"),
        ("?" * 101, "x", "prompt has 103 tokens"),
        ("?", "\ud800", "cannot represent"),
    ],
)
def test_what_cannot_be_scored_is_an_error(trained, prompt, response, words):
    with pytest.raises(UserError, match=words):
        trained.score([prompt], [response])


def test_what_holds_no_verifier_is_an_error(run, tmp_path):
    with pytest.raises(UserError, match="no finished verifier; give the workdir"):
        scoring.Verifier.load(tmp_path)
    with pytest.raises(UserError, match="prover_k=0"):
        scoring.Verifier.load(run, prover_k=0)
    # Data made anew, as by another config, while the verifier is the old one.
    other = tmp_path / "run"
    limits = CONFIG.copy_and_resolve_references().unlock()
    limits.limits.max_tokens = 71
    run_stages([Stage("data", write_data, (), ("limits",))], limits, other)
    (other / "prm").symlink_to(run / "prm")
    with pytest.raises(UserError, match="not trained on the tokens"):
        scoring.Verifier.load(other)


# Files.

BAD = {
    3: ("{", "not JSON"),
    5: ("", "not JSON"),
    6: ("[1]", "not a JSON object"),
    7: ('{"prompt": "?"}', "no text field 'response'"),
    8: ('{"prompt": "?", "response": 3, "id": 8}', "no text field 'response'"),
    9: ('{"prompt": "?", "response": "x", "id": NaN}', "NaN is not JSON"),
    10: ('{"prompt": "?", "response": "x", "id": 1e999}', "1e999 is not JSON"),
    11: ("[" * 100_000, "nested too deeply"),
    12: ('{"prompt": "?", "response": "%s"}' % ("x" * 200), "more than the 100"),
    13: ('{"prompt": "?", "response": "\\ud800"}', "cannot represent"),
    14: (b'{"prompt": "\xff", "response": ""}', "utf-8"),
}


@pytest.fixture
def source(tmp_path):
    """16 lines; of TEXTS but for the bad ones, and no newline at the end."""
    lines = []
    for number in range(1, 17):
        prompt, response = TEXTS[number % 3]
        row = {"id": number, "prompt": prompt, "response": response, "pav": "old"}
        line = BAD[number][0] if number in BAD else json.dumps(row)
        lines.append(line if isinstance(line, bytes) else line.encode())
    path = tmp_path / "responses.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_a_line_for_a_line(trained, source, tmp_path, capsys):
    target = tmp_path / "new" / "scored.jsonl"
    tally = score_file.score_file(trained, source, target)
    assert (tally.scored, tally.bad) == (16 - len(BAD), len(BAD))
    shown = capsys.readouterr().err
    records = [json.loads(line) for line in target.read_text().splitlines()]
    given = source.read_bytes().split(b"\n")
    assert len(records) == len(given) == 16
    for number, record in enumerate(records, start=1):
        said = record.pop("pav")
        assert said["line"] == number
        if number in BAD:
            assert BAD[number][1] in said["error"]
            assert f"line {number}: " in shown
            assert "steps" not in said
            continue
        row = json.loads(given[number - 1])
        row.pop("pav")
        assert record == row
        (scores,) = trained.score([row["prompt"]], [row["response"]])
        assert said["orm"] == pytest.approx(scores.orm, abs=1e-5)
        assert said["prompt_q"] == pytest.approx(scores.prompt_q, abs=1e-5)
        for ours, step in zip(said["steps"], scores.steps, strict=True):
            assert ours == {
                "text": step.text,
                "q": pytest.approx(step.q, abs=1e-5),
                "advantage": pytest.approx(step.advantage, abs=1e-5),
            }
    assert records[7]["id"] == 8  # what could be read of a bad line is kept
    assert not list(target.parent.glob("*.partial"))


@pytest.mark.parametrize("is_gzipped", [False, True])
def test_a_killed_run_goes_on_after_the_last_whole_line(
    trained, source, tmp_path, monkeypatch, is_gzipped
):
    if is_gzipped:
        source.write_bytes(gzip.compress(source.read_bytes()))
    monkeypatch.setattr(jsonl, "_CHUNK_LINES", 3)
    target = tmp_path / "scored.jsonl"
    partial = tmp_path / "scored.jsonl.partial"
    score_file.score_file(trained, source, target)
    whole = target.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    seen = []
    encode = scoring.Verifier.encode

    def noting(verifier, prompt, response):
        seen.append(prompt)
        return encode(verifier, prompt, response)

    monkeypatch.setattr(scoring.Verifier, "encode", noting)
    for cut in (0, 5, ends[0], ends[0] + 1, ends[3] - 1, ends[8], len(whole)):
        target.unlink()
        partial.write_bytes(whole[:cut])
        seen.clear()
        tally = score_file.score_file(trained, source, target)
        assert target.read_bytes() == whole
        assert tally.lines == 16 and not partial.exists()
        done = sum(end <= cut for end in ends)
        # Bad lines 12 and 13 can be read and not encoded.
        readable = {number for number in range(1, 17) if number not in BAD} | {12, 13}
        assert len(seen) == sum(number > done for number in readable)
    seen.clear()
    again = score_file.score_file(trained, source, target)  # nothing left to do
    assert again == tally and not seen


ROWS = [{"prompt": f"{i}?", "response": "a\nb"} for i in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def _csv(delimiter: str) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, ["prompt", "response"], delimiter=delimiter)
    writer.writeheader()
    writer.writerows(ROWS)
    return table.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LINES.encode("utf-16"), "looks like UTF-16 text"),
        (LINES.encode("utf-16-le"), "looks like UTF-16 text or a binary file"),
        (_csv(","), "looks like a table, such as CSV"),
        (_csv("\t"), "looks like a table, such as CSV"),
        (json.dumps(ROWS), "looks like one JSON list"),
        (json.dumps(ROWS, indent=2), "looks like one JSON value over several lines"),
        (json.dumps(ROWS[0], indent=2), "looks like one JSON value over several lines"),
        (
            "[" + ",\n".join(map(json.dumps, ROWS)) + "]",
            "looks like one JSON value over several lines",
        ),
        (
            "[\n" + ",\n".join(map(json.dumps, ROWS)) + "\n]",
            "looks like one JSON value over several lines",
        ),
        (b"PAR1\0\0", "looks like a Parquet file"),
        (gzip.compress(_csv(",").encode(), mtime=0), "looks like a table"),
        (gzip.compress(LINES.encode(), mtime=0)[:-9], "the gzipped file .* is damaged"),
        ("One step.\nAnother, as a response.", "no JSON object in its first 2 lines"),
        ("", "holds no lines"),
        ("\n \n", "holds no lines"),
        (gzip.compress(b"", mtime=0), "holds no lines"),
    ],
)
def test_a_file_of_another_kind_is_refused_at_once(
    run, tmp_path, capsys, content, words
):
    source = tmp_path / "in.jsonl"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    flags = [f"--verifier={run}", f"--input={source}", f"--output={tmp_path / 'out'}"]
    assert main(["score", *flags]) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert re.search(words, message)
    assert "damaged" in words or "expected one JSON object a line, in UTF-8" in message
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_byte_order_mark_and_gzip_change_nothing(trained, tmp_path):
    found = []
    text = LINES.encode()
    for number, content in enumerate(
        [text, codecs.BOM_UTF8 + text, gzip.compress(codecs.BOM_UTF8 + text)]
    ):
        source, target = tmp_path / f"in{number}", tmp_path / f"out{number}"
        source.write_bytes(content)
        assert score_file.score_file(trained, source, target).bad == 0
        assert score_file.score_file(trained, source, target).scored == 3  # as done
        found.append(target.read_bytes())
    assert found[1:] == found[:1] * 2
    (tmp_path / "scored").write_bytes(codecs.BOM_UTF8 + found[0])
    assert main(["show", f"--input={tmp_path / 'scored'}"]) == 0


def test_no_line_scored_is_an_error(run, tmp_path, capsys):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "?"}\n{"response": "x"}\n')
    flags = [f"--verifier={run}", f"--input={source}", f"--output={target}"]
    for _ in range(2):  # also when there is nothing left to do
        assert main(["score", *flags]) == 2
        assert "pav: " in (message := capsys.readouterr().err.splitlines()[-1])
        assert "0 responses scored; 2 lines could not be" in message
        lines = target.read_text().splitlines()
        errors = [json.loads(line)["pav"]["error"] for line in lines]
        assert errors == ["no text field 'response'", "no text field 'prompt'"]


disk = pytest.fixture(small_disk)


def _score(run, source, target) -> int:
    flags = [f"--verifier={run}", f"--input={source}", f"--output={target}"]
    return main(["score", *flags])


def test_a_full_disk_cuts_nothing_but_a_line(run, disk, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(jsonl, "_CHUNK_LINES", 3)
    source, target = tmp_path / "in.jsonl", disk.root / "out.jsonl"
    padded = [json.dumps(ROWS[i % 3] | {"more": "x" * 1000}) + "\n" for i in range(30)]
    source.write_text("".join(padded))
    disk.fill(20_000)  # of 40,000
    assert _score(run, source, target) == 2
    check_message(capfd.readouterr().err, "out.jsonl")
    assert disk.root / "out.jsonl.partial" in disk.root.iterdir()
    disk.make_room()
    kept = (disk.root / "out.jsonl.partial").read_bytes().count(b"\n")
    seen, encode = [], scoring.Verifier.encode

    def noting(verifier, prompt, response):
        seen.append(prompt)
        return encode(verifier, prompt, response)

    monkeypatch.setattr(scoring.Verifier, "encode", noting)
    assert _score(run, source, target) == 0
    assert 0 < len(seen) == 30 - kept < 30
    assert _score(run, source, tmp_path / "whole.jsonl") == 0
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("name", ["about.json", "start.json", "out.jsonl.partial"])
def test_each_file_of_scoring_in_turn(run, source, tmp_path, monkeypatch, capsys, name):
    full = FullFor(monkeypatch)
    full.text = name
    target = tmp_path / "out.jsonl"
    assert _score(run, source, target) == 2
    file = "out.jsonl" if "partial" in name else name
    said = capsys.readouterr().err
    check_message("".join(said.splitlines(keepends=True)[-1:]), file)
    full.text = ""
    assert _score(run, source, target) == 0
    assert len(target.read_text().splitlines()) == 16


@pytest.mark.parametrize(
    ("left", "name"), [(0, "exported"), (20_000, "policy"), (None, "about.json")]
)
def test_an_export_to_a_full_disk(run, disk, monkeypatch, capfd, left, name):
    full = FullFor(monkeypatch)
    if left is None:
        full.text = name
    disk.fill(1_000_000 if left is None else left)
    assert _export(run / "prm", disk.root / "exported") == 2
    check_message(capfd.readouterr().err, name)
    assert not (disk.root / "exported").exists()
    disk.make_room()
    full.text = ""
    assert _export(run / "prm", disk.root / "exported") == 0
    files = buckets.files(disk.root)
    assert all(name.startswith("exported/") and "tmp" not in name for name in files)


def test_another_files_work_is_left_alone(run, trained, source, tmp_path):
    def refused(words, target, verifier=trained, source=source):
        before = target.read_bytes()
        with pytest.raises(UserError, match=words):
            score_file.score_file(verifier, source, target)
        assert target.read_bytes() == before

    refused("is the input", source)
    foreign = tmp_path / "notes.txt"
    foreign.write_text("mine\n")
    refused("line 1 of .*notes.txt was not written by pav score", foreign)

    target = tmp_path / "scored.jsonl"
    score_file.score_file(trained, source, target)
    refused("another verifier", target, scoring.Verifier.load(run, prover_k=2))
    refused("another verifier", target, scoring.Verifier.load(run / "orm"))
    lines = source.read_bytes().split(b"\n")
    other = tmp_path / "other.jsonl"
    other.write_bytes(b"\n".join([*lines, lines[0]]))
    refused("16 lines where .* has 17; delete it", target, source=other)
    other.write_bytes(b"\n".join([lines[0], lines[3], *lines[2:]]))
    refused("line 2 of .* is of another input", target, source=other)
    partial = tmp_path / "second.jsonl.partial"
    target.rename(partial)
    with pytest.raises(UserError, match="line 2 of .*partial is of another input"):
        score_file.score_file(trained, other, tmp_path / "second.jsonl")
    assert partial.exists()
    with pytest.raises(UserError, match="cannot use .*absent"):
        score_file.score_file(trained, tmp_path / "absent", target)


def test_no_line_is_held_that_is_too_long(trained, source, tmp_path, monkeypatch):
    monkeypatch.setattr(jsonl, "_LONGEST", 200)
    target = tmp_path / "scored.jsonl"
    score_file.score_file(trained, source, target)
    said = [json.loads(line)["pav"] for line in target.read_text().splitlines()]
    assert len(said) == 16
    assert "longer than 200 bytes" in said[10]["error"]
    assert "longer than 200 bytes" in said[11]["error"]
    assert "error" not in said[15]


@pytest.fixture
def together(trained, source, monkeypatch):
    """Scores `source` as three processes that are threads; what each returned."""
    local = threading.local()
    monkeypatch.setattr(workers, "_broadcast", lambda run: local.meet(run))
    monkeypatch.setattr(workers, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(jsonl, "_CHUNK_LINES", 3)

    def run(target, **others):
        drawn = Future()

        def meet(run):
            if local.index == 0:
                drawn.set_result(run)
            return drawn.result(timeout=60)

        def process(index):
            local.index, local.meet = index, meet
            given = {"verifier": trained, "source": source} | others.get(
                f"process_{index}", {}
            )
            return score_file.score_file(
                target=target, processes=Processes(index, 3), **given
            )

        with ThreadPoolExecutor(3) as pool:
            futures = [pool.submit(process, index) for index in range(3)]
            return [f.exception(timeout=60) or f.result() for f in futures]

    run.index = lambda: local.index
    return run


def test_processes_divide_a_file(together, trained, source, tmp_path, monkeypatch):
    alone, target = tmp_path / "alone.jsonl", tmp_path / "out" / "scored.jsonl"
    tally = score_file.score_file(trained, source, alone)
    pieces = {}
    score_lines = score_file._score_lines

    def noting(verifier, lines, first):
        assert first not in pieces  # nothing is scored twice
        pieces[first] = together.index()
        time.sleep(0.05)
        return score_lines(verifier, lines, first)

    monkeypatch.setattr(score_file, "_score_lines", noting)
    assert together(target) == [tally, None, None]
    assert sorted(pieces) == [1, 4, 7, 10, 13, 16] and len(set(pieces.values())) > 1
    assert target.read_bytes() == alone.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["scored.jsonl"]
    assert together(target) == [tally, None, None]  # there is nothing left to do


def test_one_that_fails_loses_no_chunk(
    together, trained, source, tmp_path, monkeypatch
):
    """What others had done by then waits in pieces, which the next run takes."""
    target, done = tmp_path / "scored.jsonl", []
    score_lines = score_file._score_lines

    def failing(verifier, lines, first):
        if first == 1:
            while len(done) < 3:
                time.sleep(0.01)
            raise UserError("the dog ate it")
        done.append(first)
        return score_lines(verifier, lines, first)

    monkeypatch.setattr(score_file, "_score_lines", failing)
    errors = together(target)
    assert all("the dog ate it" in str(error) for error in errors), errors
    kept = list((tmp_path / "scored.jsonl.parts").glob("0*"))
    assert len(kept) == len(done) >= 3

    scored = []

    def noting(verifier, lines, first):
        scored.append(first)
        return score_lines(verifier, lines, first)

    monkeypatch.setattr(score_file, "_score_lines", noting)
    tally = score_file.score_file(trained, source, target)  # by one process
    assert sorted(scored + done) == [1, 4, 7, 10, 13, 16]
    whole = target.read_bytes()
    target.unlink()
    assert score_file.score_file(trained, source, target) == tally
    assert target.read_bytes() == whole


def test_one_that_was_given_another_file(together, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("{}\n")
    errors = together(tmp_path / "scored.jsonl", process_2={"source": other})
    assert type(errors.pop(2)) is UserError
    assert all("another --input" in str(error) for error in errors)


@pytest.mark.slow
def test_two_real_processes_score(run, source, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    target = tmp_path / "scored.jsonl"
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "pav_jax", "score", f"--verifier={run}"]
            + [f"--input={source}", f"--output={target}", "--num_processes=2"]
            + [f"--coordinator=127.0.0.1:{port}", f"--process_id={index}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    assert f"{16 - len(BAD)} responses scored" in outputs[0][0]
    assert "scored" not in outputs[1][0]
    assert len(target.read_text().splitlines()) == 16


@pytest.mark.parametrize(
    ("tally", "text"),
    [
        (score_file.Tally(1, 0), "1 response scored"),
        (score_file.Tally(1200, 0), "1,200 responses scored"),
        (
            score_file.Tally(0, 1),
            "0 responses scored; 1 line could not be, and has a pav.error there",
        ),
        (
            score_file.Tally(2, 3),
            "2 responses scored; 3 lines could not be, and have a pav.error there",
        ),
    ],
)
def test_numbers_agree_with_their_nouns(tally, text):
    assert str(tally) == text


bucket = pytest.fixture(contents)


def test_the_commands_in_a_bucket(run, bucket, tmp_path, capsys):
    """They write there what they write here; of a run only what they need is read."""
    there = "gs://bucket/run"
    for name in buckets.files(run):
        if name.split("/")[0] != "sft":
            Bucket().pipe_file(f"{there}/{name}", (run / name).read_bytes())
    row = {"prompt": "a?", "response": "b\nc"}
    Bucket().pipe_file(f"{there}/it.jsonl", json.dumps(row).encode() + b"\n")
    (tmp_path / "it.jsonl").write_bytes(bucket()["it.jsonl"])

    for part in ("", "/orm"):
        for place, of in ((there, there + part), (tmp_path, f"{run}{part}")):
            out = f"{place}/out{part}.jsonl"
            files = [f"--input={place}/it.jsonl", f"--output={out}"]
            assert main(["score", f"--verifier={of}", *files]) == 0
            assert main(["show", f"--input={out}"]) == 0
        for name in (f"out{part}.jsonl", f"out{part}.html"):
            assert bucket()[name] == (tmp_path / name).read_bytes()
    assert main(["show", *[f"--{x}put={there}/it.jsonl" for x in ("in", "out")]]) == 2

    where = [f"--stage={there}/prm", f"--output={there}/exported"]
    assert main(["export", *where]) == 0
    assert main(["export", *where]) == 2
    assert "exported exists" in capsys.readouterr().err
    files = [f"--input={there}/it.jsonl", f"--output={there}/again.jsonl"]
    assert main(["score", f"--verifier={there}/exported", *files]) == 0
    (first, again) = (
        json.loads(bucket()[name])["pav"] for name in ("out.jsonl", "again.jsonl")
    )
    assert first["steps"] == again["steps"] and again["orm"] is None
    assert not list(buckets.scratch_root().iterdir())


def test_the_commands(run, tmp_path, capsys):
    source, target = tmp_path / "it.jsonl", tmp_path / "it.scored.jsonl"
    rows = [
        {"prompt": "<b>?", "response": "<script>alert(1)</script>\n&", "correct": True},
        {"prompt": "</title>?", "response": "a\nb", "answer": "<var>"},
        {"prompt": "?", "response": "\x1b[31m", "answer": ["odd"], "correct": "odd"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows) + "<u>\n")
    flags = [f"--verifier={run}", f"--input={source}", f"--output={target}"]
    assert main(["score", *flags]) == 0
    out, err = capsys.readouterr()
    assert "3 responses scored; 1 line could not be, and has a pav.error there" in out
    assert "line 4: not JSON" in err

    assert main(["show", f"--input={target}"]) == 0
    html = (tmp_path / "it.scored.html").read_text()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    for raw in ("<script", "<b>?", "</title>?", "<var>", "<u>", "\x1b"):
        assert raw not in html
    for record in map(json.loads, target.read_text().splitlines()[:3]):
        for step in record["pav"]["steps"]:
            assert f"Q {step['q']:.2f}" in html
    assert html.count("✓ correct") == 1 and "✗ wrong" not in html
    for line, times in (
        (0, 1),
        (1, 2),
    ):  # where nobody graded it, in the first line too
        orm = json.loads(target.read_text().splitlines()[line])["pav"]["orm"]
        assert html.count(f"ORM {orm:.2f}") >= times
    assert "3 responses" in html and "1 line could not be scored" in html

    assert main(["show", f"--input={target}", "--count=1", f"--output={source}.h"]) == 0
    fewer = (tmp_path / "it.jsonl.h").read_text()
    assert "The first 1 of 3 responses" in fewer and "&lt;script" in fewer
    assert "title&gt;?" not in fewer
    capsys.readouterr()
    for argv, words in [
        ([f"--input={source}"], "line 1 of"),
        ([f"--input={target}", f"--output={target}"], "is the input"),
        ([f"--input={target}", "--count=0"], "at least 1"),
        ([f"--input={tmp_path / 'absent'}"], "cannot read"),
    ]:
        assert main(["show", *argv]) == 2
        assert words in capsys.readouterr().err
