"""`pav score`: files of any kind, stops midway, and processes that divide one."""

import codecs
import csv
import gzip
import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from full_disk import FullFor, check_message, small_disk
from tiny_run import TEXTS

from pav_jax.core.errors import UserError
from pav_jax.distributed.processes import Processes
from pav_jax.main import main
from pav_jax.pipeline import workers
from pav_jax.tools import jsonl, score_file, scoring

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


def test_another_files_work_is_left_alone(run, trained, source, tmp_path):
    def refused(words, target, verifier=trained, source=source, output=None):
        before = target.read_bytes()
        with pytest.raises(UserError, match=words):
            score_file.score_file(verifier, source, output or target)
        assert target.read_bytes() == before

    refused("is the input", source)
    begun = tmp_path / "begun.jsonl.partial"
    begun.write_text('{"prompt": "p", "response": "r"}')  # its last line has no end
    refused(
        "begun.jsonl.partial is the input",
        begun,
        source=begun,
        output=begun.with_suffix(""),
    )
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
            return drawn.result(timeout=300)

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
            return [f.exception(timeout=300) or f.result() for f in futures]

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
    outputs = [process.communicate(timeout=900) for process in started]
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
