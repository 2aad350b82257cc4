"""Every reader of a file, given what it does not expect.

A file that is broken, of wrong types, huge, empty or of another kind is a `UserError`
that names it, and at the command line one paragraph and exit code 2. What is read is
what the file says, or nothing.
"""

import copy
import gzip
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pav_jax.core.errors import UserError
from pav_jax.core.types import Problem, Response, StepLabels
from pav_jax.gemma.hugging_face import HuggingFaceSource, stated_fields
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.main import main
from pav_jax.pipeline import manifest
from pav_jax.pipeline.results import write_page
from pav_jax.storage import artifacts, imports, records
from pav_jax.tools import export, jsonl
from pav_jax.tools.judging import graded
from pav_jax.tools.scoring import Verifier
from pav_jax.tools.step_formats import FORMATS, LeftOut, parse

FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

# What stands in the place of any value.
ODD: list[Any] = [None, True, -1, 0, 2.5, 10**30, "", "x", "\ud800", [], [None], {}]
ODD += [{"a": []}, [[[]]], "a" * 10_000]


def _places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value inside a JSON value, its own included."""
    yield path
    inner = value.items() if isinstance(value, dict) else []
    inner = enumerate(value) if isinstance(value, list) else inner
    for key, item in inner:
        yield from _places(item, (*path, key))


def spoilt(value: Any) -> Iterator[Any]:
    """A JSON value with each value in it, in turn, left out or replaced by each of
    `ODD`."""
    for path in _places(value):
        for odd in ODD:
            if not path:
                yield odd
                continue
            changed = copy.deepcopy(value)
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = odd
            yield changed
        if path and isinstance(path[-1], str):
            changed = copy.deepcopy(value)
            holder = changed
            for key in path[:-1]:
                holder = holder[key]
            del holder[path[-1]]
            yield changed


# Published step labels.

_STEP = {"completions": [{"text": "a", "rating": 1}], "human_completion": None}
ROWS = {
    "prm800k": {
        "question": {"problem": "Why?"},
        "label": {
            "steps": [{**_STEP, "chosen_completion": 0}],
            "finish_reason": "solution",
        },
    },
    "math_shepherd": {"input": "Why? Step 1: a ки", "label": "Why? Step 1: a +"},
    "trl": {"prompt": "Why?", "completions": ["a", "b"], "labels": [True, False]},
    "processbench": {
        "problem": "Why?",
        "steps": ["a", "b"],
        "label": 1,
        "final_answer_correct": False,
    },
    "jsonl": {
        "prompt": "Why?",
        "steps": ["a", "b"],
        "correct": [1, 0],
        "count": [2, 2],
        "prompt_correct": 1,
        "prompt_count": 4,
        "first": 0,
        "response": "a\nb",
        "finished": True,
        "outcome": False,
    },
}


def _check_labelled(found: imports.LabelledText) -> None:
    """What every later reader takes for granted."""
    assert found.prompt.strip() and found.prompt.encode()
    assert len(found.steps) == len(found.correct) == len(found.count) > 0
    for step in found.steps:
        assert step.strip() and step.encode()
    counts = [*zip(found.correct, found.count, strict=True)]
    counts.append((found.prompt_correct, found.prompt_count))
    for k, n in counts:
        assert type(k) is int and type(n) is int and 0 <= k <= n < 1 << 31
    assert 0 <= found.first < len(found.steps)
    assert found.outcome in (None, True, False) and type(found.finished) is bool


@pytest.mark.parametrize("name", FORMATS)
def test_rows_of_step_labels(name):
    cases = [*spoilt(ROWS[name])]
    assert len(cases) > 40
    for row in cases:
        try:
            found = parse(name, json.dumps(row).encode())
        except (ValueError, LeftOut) as error:
            assert str(error)
        else:
            for response in found:
                _check_labelled(response)
    for response in parse(name, ROWS[name]):
        _check_labelled(response)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(sorted({key for row in ROWS.values() for key in row})),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@settings(FUZZ, max_examples=200)
@given(name=st.sampled_from(sorted(FORMATS)), row=_JSON)
def test_rows_of_any_json(name, row):
    try:
        found = parse(name, row)
    except (ValueError, LeftOut) as error:
        assert str(error)
    else:
        for response in found:
            _check_labelled(response)


@settings(FUZZ, max_examples=200)
@given(st.binary(max_size=60) | st.text(max_size=30).map(str.encode))
def test_a_line_of_any_bytes(line):
    try:
        row = jsonl.parse(line)
    except ValueError as error:
        assert str(error)
    else:
        json.dumps(row, allow_nan=False)


# Files of other kinds, through the command.

_GOOD = b"".join(json.dumps(ROWS["jsonl"]).encode() + b"\n" for _ in range(2))
_SCORED = {
    "prompt": "Why?",
    "response": "a\nb",
    "correct": True,
    "pav": {
        "line": 1,
        "prover_k": 2,
        "verifier": "f",
        "prompt_q": 0.5,
        "steps": [{"text": "a", "q": 0.25, "advantage": -0.1}],
        "orm": 0.5,
    },
}
FILES: dict[str, bytes] = {
    "empty": b"",
    "blank": b"\n \n\n",
    "zeros": bytes(5000),
    "noise": random.Random(0).randbytes(5000),
    "utf16": _GOOD.decode().encode("utf-16"),
    "latin1": json.dumps({"prompt": "é"}, ensure_ascii=False).encode("latin-1"),
    "one value": json.dumps(ROWS["jsonl"], indent=1).encode(),
    "a number": b"3\n",
    "null": b"null\n",
    "csv": b"prompt,response\na,b\n",
    "zip": b"PK\x03\x04" + bytes(50),
    "cut": _GOOD[: len(_GOOD) // 3],
    "cut gz": gzip.compress(_GOOD * 50)[:60],
    "no gz": b"\x1f\x8b" + bytes(40),
    "gz of noise": gzip.compress(random.Random(1).randbytes(3000)),
    "deep": b"[" * 100_000 + b"\n",
    "deep object": b'{"a":' * 100_000 + b"\n",
    "nan": b'{"prompt": NaN, "pav": {"steps": [{"q": NaN}]}}\n',
    "big number": b'{"prompt": ' + b"9" * 5000 + b"}\n",
    "big list": b"[" + b"9" * 5000 + b"]\n",
    "list with nan": b'[{"prompt": "a", "correct": NaN}]\n',
    "surrogate": rb'{"prompt": "\ud800", "steps": ["\udfff"]}' + b"\n",
    "nul": b'{"prompt": "\\u0000"}\n\0\n',
    "no newline": b"{",
    "pickle": pickle.dumps({"prompt": "a"}),
}
COMMANDS = {
    "import": ["import", "--from=jsonl", "--output=out"],
    "import trl": ["import", "--from=trl", "--output=out"],
    "show": ["show", "--output=out.html"],
    "judge": ["judge", "--on=best_of_n"],
}


def _refused(argv: list[str], capsys, name: str = "") -> str:
    """Runs a command that has to refuse; its message."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    message = err.splitlines()[-1]
    assert not out and message.startswith("pav: ") and "Traceback" not in err
    assert name in message
    return message


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_kind(command, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("given").write_bytes(FILES[kind])
    _refused([*COMMANDS[command], "--input=given"], capsys, "given")
    assert sorted(os.listdir()) == ["given"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_not_there_or_no_file(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    _refused([*COMMANDS[command], "--input=absent"], capsys, "absent")
    Path("folder").mkdir()
    _refused([*COMMANDS[command], "--input=folder"], capsys, "folder")
    assert sorted(os.listdir()) == ["folder"]


@pytest.mark.parametrize(
    "change", [lambda x: x, lambda x: b"\xef\xbb\xbf" + x, gzip.compress]
)
def test_a_byte_order_mark_and_gzip_are_no_mistake(change, tmp_path, capsys):
    (tmp_path / "given").write_bytes(change(_GOOD))
    argv = ["import", "--from=jsonl", f"--input={tmp_path / 'given'}"]
    assert main([*argv, f"--output={tmp_path / 'out'}"]) == 0
    rows = list(imports.read(tmp_path / "out"))
    assert [row.steps for row in rows] == [("a", "b")] * 2


def _one_paragraph(error: UserError, path: Path) -> None:
    assert str(path) in str(error)


def test_scored_files(tmp_path):
    """Those that `pav show` and `pav judge` read."""
    path, shown = tmp_path / "scored.jsonl", 0
    cases = [*spoilt(_SCORED)]
    from pav_jax.report import steps_page

    for row in cases:
        path.write_text(json.dumps(row) + "\n")
        for read in (
            lambda: steps_page.write(path, tmp_path / "page.html", count=3),
            lambda: graded.read_responses(path, None),
        ):
            try:
                read()
                shown += 1
            except UserError as error:
                _one_paragraph(error, path)
    assert len(cases) > 150 and shown > 20


# Artifacts.


def _response() -> Response:
    return Response(0, (2, 5), (6, 7, 1), (-0.1, -0.2, -0.3), True)


def _labels() -> StepLabels:
    return StepLabels(
        *(np.array(x, np.int32) for x in ([0, 2, 3], [1, 1, 1], [2, 2, 1]))
    )


ARRAYS: dict[str, np.ndarray] = {
    "object": np.array([1.5, np.nan]),
    "text": np.array(["a", "b"]),
    "empty": np.zeros(0, np.int32),
    "scalar": np.array(3),
    "matrix": np.ones((2, 2), np.int32),
    "negative": np.array([-1, -5], np.int32),
    "huge": np.array([2**62], np.int64),
    "complex": np.array([1j]),
    "flags": np.array([True]),
}


@pytest.mark.parametrize(
    "write, read, example",
    [
        (records.write_responses, records.read_responses, _response),
        (records.write_labels, records.read_labels, _labels),
    ],
)
def test_arrays_of_other_kinds(write, read, example, tmp_path):
    path, cases = tmp_path / "shard-00000.npz", 0
    write(path, [example(), example()])
    good = artifacts.read_arrays(path)
    assert len(read(path)) == 2
    for name in good:
        others = [{k: v for k, v in good.items() if k != name}]
        others += [good | {name: array} for array in ARRAYS.values()]
        others += [good | {name: good[name][:-1]}, good | {name: good[name][::-1]}]
        for arrays in others:
            artifacts.write_arrays(path, arrays)
            cases += 1
            try:
                found = read(path)
            except UserError as error:
                _one_paragraph(error, path)
                continue
            for one in found:
                if isinstance(one, StepLabels):
                    assert np.all((one.correct >= 0) & (one.correct <= one.count))
                    assert len(one.ends) == len(one.correct) == len(one.count)
                else:
                    assert all(type(token) is int for token in one.tokens)
    assert cases > 60
    # More successes than continuations.
    if "correct_stops" in good:
        artifacts.write_arrays(path, good | {"correct": good["count"] + 1})
        with pytest.raises(UserError, match="more successes than continuations"):
            read(path)


def test_problems_of_other_kinds(tmp_path):
    path = tmp_path / "test.jsonl"
    for row in spoilt({"prompt": "Why?\n", "answer": "3", "solution": "a"}):
        artifacts.write_jsonl(path, [row])
        try:
            found = records.read_problems(path)
        except UserError as error:
            _one_paragraph(error, path)
        else:
            assert all(
                isinstance(p, Problem) and isinstance(p.prompt, str) for p in found
            )


@settings(FUZZ, max_examples=150)
@given(
    read=st.sampled_from(
        [artifacts.read_json, artifacts.read_jsonl, artifacts.read_arrays]
    ),
    content=st.binary(max_size=200),
    start=st.sampled_from([b"", b"PK\x03\x04", b"[", b"{", b"\xef\xbb\xbf"]),
)
def test_artifacts_of_any_bytes(read, content, start, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(start + content)
    try:
        read(path)
    except UserError as error:
        assert f"{path} is damaged" in str(error)


@settings(FUZZ, max_examples=100)
@given(st.binary(max_size=100))
def test_a_tokenizer_of_any_bytes(content):
    with pytest.raises(UserError):
        Tokenizer(content)


# Folders of a run, of an export, of a checkpoint: all but the parameters.


def _manifest(stage: str, fields: dict, needs: dict) -> dict[str, Any]:
    made = {"stage": stage, "fields": fields, "needs": needs, "files": {}}
    made["fingerprint"] = manifest._fingerprint(made)
    return made | {"seconds": 1.0, "version": "0"}


def _run(folder: Path) -> dict[str, Any]:
    """Writes a run without parameters; its JSON files by name."""
    from tiny import byte_tokenizer

    fields = {"limits.max_prompt_tokens": 9, "limits.max_tokens": 9}
    model = dict(num_layers=1, embed_dim=4, num_heads=1, mlp_dim=4)
    fields |= {f"model.{name}": value for name, value in model.items()}
    data = _manifest("data", {}, {})
    files = {
        "data/manifest.json": data,
        "prm/manifest.json": _manifest("prm", fields, {"data": data["fingerprint"]}),
        "config.json": {
            "name": "x",
            "config": {"verifier.prover_k": 4, "mesh.data": 1},
        },
    }
    for name, value in files.items():
        artifacts.write_json(folder / name, value)
    byte_tokenizer().save(folder / "data" / "tokenizer.model")
    return files


def _load(folder: Path) -> None:
    from pav_jax.tools import scoring

    scoring.mesh_of(folder)
    Verifier.load(folder)


def _all_refused(folder: Path, files: dict[str, Any], load: Callable) -> int:
    """Spoils every file in every way: each is a UserError; gives how many."""
    cases = 0
    for name, good in files.items():
        for bad in spoilt(good):
            (folder / name).write_text(json.dumps(bad))
            if "manifest" in name and isinstance(bad, dict):
                try:  # as one who means harm would
                    bad = bad | {"fingerprint": manifest._fingerprint(bad)}
                    (folder / name).write_text(json.dumps(bad))
                except (KeyError, TypeError):
                    pass
            cases += 1
            with pytest.raises(UserError):
                load(folder)
        for content in FILES.values():
            (folder / name).write_bytes(content)
            cases += 1
            with pytest.raises(UserError):
                load(folder)
        artifacts.write_json(folder / name, good)
    return cases


def test_folders_of_a_verifier(tmp_path):
    files = _run(tmp_path)
    with pytest.raises(UserError, match="no checkpoint at"):
        _load(tmp_path)
    assert _all_refused(tmp_path, files, _load) > 300


def test_folders_of_an_exported_verifier(tmp_path):
    files = _run(tmp_path / "run")
    fields = files["prm/manifest.json"]["fields"]
    about = {"stage": "prm", "fingerprint": "f", "prover_k": 2, "fields": fields}
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "run/data/tokenizer.model").rename(out / "tokenizer.model")
    artifacts.write_json(out / export.ABOUT, about)
    with pytest.raises(UserError, match="no checkpoint folder"):
        Verifier.load(out)
    assert _all_refused(out, {export.ABOUT: about}, Verifier.load) > 100


def test_config_json_of_hugging_face(tmp_path):
    config = {
        "model_type": "gemma3_text",
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 4,
        "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}},
    }
    from pav_jax.gemma import checkpoint, sizes

    architecture, folder = sizes.shrunk(sizes.SIZES["gemma3_1b"]), tmp_path
    assert stated_fields(config)["embed_dim"] == 8
    for bad in spoilt(config):
        source = HuggingFaceSource.__new__(HuggingFaceSource)
        source.config = bad
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "_open", lambda path, source=source: source)
            with pytest.raises(UserError):
                checkpoint.read(folder, architecture=architecture)


def test_results_of_a_page(tmp_path):
    drawn = cases = 0
    good = {  # of what is no figure, which take a tenth of a second each
        "task": "relations",
        "description": "a run",
        "seeds": [0],
        "ledger": {"sft": {"trained": 3}},
        "config": {"name": "x"},
    }
    artifacts.write_json(tmp_path / "responses.json", [])
    for results in spoilt(good):
        (tmp_path / "results.json").write_text(json.dumps(results))
        cases += 1
        try:
            write_page(tmp_path)
            drawn += 1
        except UserError as error:
            _one_paragraph(error, tmp_path)
    assert cases > 80 and drawn > 20


def test_a_zip_with_other_names(tmp_path):
    """The names inside of an artifact are names of arrays, and of no files."""
    path = tmp_path / "inside" / "x.npz"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("../../out.npy", "/tmp/pav-out.npy"):
            with archive.open(name, "w") as member:
                np.lib.format.write_array(member, np.ones(2))
        archive.comment = b"2 arrays"
    assert set(artifacts.read_arrays(path)) == {"../../out", "/tmp/pav-out"}
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["x.npz"]
