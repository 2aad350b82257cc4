"""`pav import`: files exactly as others publish them, with labels counted by hand."""

import gzip
import json

import pytest

from pav_jax.main import main
from pav_jax.storage import imports
from pav_jax.storage.imports import LabelledText, Meaning
from pav_jax.tools.step_formats import FORMATS

# Of openai/prm800k: README.md, and phase 1 for the human completion.
_PHASE_2 = {
    "labeler": "340d89bc-f5b7-45e9-b272-909ba68ee363",
    "timestamp": "2023-01-22T04:34:27.052924",
    "generation": 9,
    "is_quality_control_question": False,
    "is_initial_screening_question": False,
    "question": {
        "problem": "What is the greatest common factor of $20!$ and $200,\\!000$?",
        "ground_truth_answer": "40,\\!000",
        "pre_generated_steps": ["I want it.", "Factor.", "I know $2^9$.", "So 320."],
        "pre_generated_answer": "320",
        "pre_generated_verifier_score": 0.0108,
    },
    "label": {
        "steps": [
            {
                "completions": [{"text": "I want it.", "rating": 0, "flagged": None}],
                "human_completion": None,
                "chosen_completion": 0,
            },
            {
                "completions": [{"text": "Factor.", "rating": 1, "flagged": None}],
                "human_completion": None,
                "chosen_completion": 0,
            },
            {
                "completions": [
                    {"text": "I know $2^9$.", "rating": -1, "flagged": None},
                    {"text": "Every factorial\nis.", "rating": 0, "flagged": False},
                    {"text": "Hm.", "rating": None, "flagged": True},
                ],
                "human_completion": None,
                "chosen_completion": None,
            },
        ],
        "total_time": 278270,
        "finish_reason": "found_error",
    },
}
_PHASE_1 = {
    "generation": None,
    "is_quality_control_question": False,
    "is_initial_screening_question": False,
    "question": {"problem": "What is 1 + 1?", "ground_truth_answer": "2"},
    "label": {
        "steps": [
            {
                "completions": [{"text": "It is 3.", "rating": -1, "flagged": False}],
                "human_completion": {"text": "I add.", "rating": None},
                "chosen_completion": None,
            },
            {
                "completions": [
                    {"text": "# Answer\n\n2", "rating": 1, "flagged": False},
                    {"text": "So 4.", "rating": -1, "flagged": False},
                ],
                "human_completion": None,
                "chosen_completion": 0,
            },
        ],
        "total_time": 1,
        "finish_reason": "solution",
    },
}
_CONTROL = _PHASE_1 | {"is_quality_control_question": True}
_GIVEN_UP = _PHASE_1 | {"label": _PHASE_1["label"] | {"finish_reason": "give_up"}}

# Of peiyi9979/Math-Shepherd.
_SHEPHERD = {
    "input": "A pizza has 78 slices, shared 5:8. How many? Step 1: 5+8 = <<5+8=13>>13."
    " ки\nStep 2: 78 + 8 = 86. ки\nStep 3: 48 slices. The answer is: 48 ки",
    "label": "A pizza has 78 slices, shared 5:8. How many? Step 1: 5+8 = <<5+8=13>>13."
    " +\nStep 2: 78 + 8 = 86. -\nStep 3: 48 slices. The answer is: 48 +",
    "task": "GSM8K",
}
_STEPWISE = {  # of TRL's docs/source/dataset_formats.md
    "prompt": "Which number is larger, 9.8 or 9.11?",
    "completions": [
        "The fractional part of 9.8 is 0.8.",
        "The fractional part of 9.11 is 0.11.",
        "0.11 is greater than 0.8.",
        "Hence, 9.11 > 9.8.",
    ],
    "labels": [True, True, False, False],
}
_BENCH = {  # of QwenLM/ProcessBench's README.md
    "id": "gsm8k-0",
    "generator": "Qwen2-7B-Instruct",
    "problem": "Sue lives in a fun neighborhood...",
    "steps": ["To find out how many...", "On Sunday:\n\n18 + 5 = 23.", "So 23."],
    "final_answer_correct": False,
    "label": 1,
}
_OURS = {
    "prompt": "Solve.",
    "steps": ["a", "b"],
    "correct": [3, 0],
    "count": [4, 1],
    "prompt_correct": 5,
    "prompt_count": 8,
    "outcome": False,
    "response": "a\nb",
}


def _file(tmp_path, rows, name="in.jsonl"):
    path = tmp_path / name
    lines = [r if isinstance(r, str) else json.dumps(r) for r in rows]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def _import(tmp_path, form, rows, *flags):
    """What is imported of a file of rows."""
    path = rows if hasattr(rows, "read_text") else _file(tmp_path, rows)
    out = tmp_path / "out" / form
    flags = [f"--from={form}", f"--input={path}", f"--output={out}", *flags]
    assert main(["import", *flags]) == 0
    return imports.read_about(out), list(imports.read(out))


def test_prm800k(tmp_path, capsys):
    rows = [_PHASE_2, _CONTROL, _PHASE_1, _GIVEN_UP]
    about, found = _import(tmp_path, "prm800k", rows)
    assert about["meaning"] is Meaning.STEP
    problem = _PHASE_2["question"]["problem"]
    begun = ("I want it.", "Factor.")
    assert found == [
        LabelledText(problem, begun, (1, 1), (1, 1), finished=False, line=1),
        *(
            LabelledText(
                problem,
                (*begun, other),
                (1, 1, good),
                (1, 1, 1),
                first=2,
                finished=False,
                line=1,
            )
            for other, good in (("I know $2^9$.", 0), ("Every factorial\nis.", 1))
        ),
        LabelledText(
            "What is 1 + 1?",
            ("I add.", "# Answer\n\n2"),
            (1, 1),
            (1, 1),
            outcome=True,
            line=3,
        ),
        LabelledText(
            "What is 1 + 1?", ("It is 3.",), (0,), (1,), 0, 0, 0, False, line=3
        ),
        LabelledText(
            "What is 1 + 1?",
            ("I add.", "So 4."),
            (1, 0),
            (1, 1),
            first=1,
            finished=False,
            line=3,
        ),
    ]
    said = capsys.readouterr().out
    assert "6 responses to 2 problems, with 8 step labels, of 4 lines" in said
    assert "1 line with is_quality_control_question left out" in said
    assert "1 line with finish_reason 'give_up' left out" in said


def test_math_shepherd(tmp_path):
    about, (found,) = _import(tmp_path, "math_shepherd", [_SHEPHERD])
    assert about["meaning"] is Meaning.ANY_OF_N
    assert found == LabelledText(
        "A pizza has 78 slices, shared 5:8. How many?",
        (
            "Step 1: 5+8 = <<5+8=13>>13.",
            "Step 2: 78 + 8 = 86.",
            "Step 3: 48 slices. The answer is: 48",
        ),
        (1, 0, 1),
        (1, 1, 1),
        outcome=True,
        line=1,
    )


def test_stepwise(tmp_path):
    about, (found,) = _import(tmp_path, "trl", [_STEPWISE])
    assert about["meaning"] is Meaning.STEP and about["outcome_field"] is None
    assert found.steps == tuple(_STEPWISE["completions"])
    assert (found.correct, found.count) == ((1, 1, 0, 0), (1, 1, 1, 1))
    assert found.outcome is None


def test_the_user_says_what_labels_mean(tmp_path):
    about, _ = _import(tmp_path, "trl", [_STEPWISE], "--meaning=any_of_n")
    assert about["meaning"] is Meaning.ANY_OF_N


@pytest.mark.parametrize("label", range(-1, 3))
def test_processbench(tmp_path, label):
    row = _BENCH | {"label": label, "final_answer_correct": label < 0}
    about, (found,) = _import(tmp_path, "processbench", [row])
    assert about["meaning"] is Meaning.PREFIX
    by_hand = {-1: (1, 1, 1), 0: (0, 0, 0), 1: (1, 0, 0), 2: (1, 1, 0)}
    assert (found.correct, found.count) == (by_hand[label], (1, 1, 1))
    assert found.steps == tuple(_BENCH["steps"])  # the second has newlines
    assert found.outcome is (label < 0)


def test_our_own_and_again(tmp_path):
    about, found = _import(tmp_path, "jsonl", [_OURS])
    assert about["meaning"] is Meaning.MONTE_CARLO
    expected = LabelledText("Solve.", ("a", "b"), (3, 0), (4, 1), 0, 5, 8, True, False)
    assert [vars(row) | {"line": 0} for row in found] == [vars(expected)]
    assert about["outcomes"] == {"wrong": 1, "right": 0}
    written = tmp_path / "out" / "jsonl" / "labels.jsonl"
    assert _import(tmp_path / "again", "jsonl", written)[1] == found


def test_a_json_list_and_a_gzipped_file_are_the_same(tmp_path):
    rows = [_BENCH, _BENCH | {"problem": "Another"}]
    expected = _import(tmp_path / "0", "processbench", _file(tmp_path, rows))[1]
    as_list = tmp_path / "gsm8k.json"
    as_list.write_text(json.dumps(rows, indent=1))
    packed = tmp_path / "gsm8k.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "in.jsonl").read_bytes()))
    assert _import(tmp_path / "1", "processbench", as_list)[1] == expected
    assert _import(tmp_path / "2", "processbench", packed)[1] == expected
    assert [row.line for row in expected] == [1, 2]


_BAD = [
    ("prm800k", _SHEPHERD, "no field 'question'; it looks like --from=math_shepherd"),
    ("prm800k", _PHASE_2 | {"label": {"steps": []}}, "no list in field 'steps'"),
    ("prm800k", {"question": {"problem": " "}, "label": {}}, "no text in field 'prob"),
    ("math_shepherd", _SHEPHERD | {"label": "A"}, "label differ before tag 1"),
    (
        "math_shepherd",
        _SHEPHERD | {"label": _SHEPHERD["label"].replace("-", "?")},
        "label has '?' at tag 2; '+' or '-' is right",
    ),
    (
        "math_shepherd",
        {"input": "Q? It is 4. ки", "label": "Q? It is 4. +"},
        "'Step 1:' is 0 times before the first tag",
    ),
    ("trl", _STEPWISE | {"labels": [True]}, "4 steps, but 1 of field 'labels'"),
    ("trl", _STEPWISE | {"labels": [True] * 3 + [2]}, "label 4 is 2; true or false"),
    ("trl", _STEPWISE | {"completions": ["a", " "]}, "step 2 in field 'completions'"),
    ("trl", _STEPWISE | {"prompt": [{"role": "user"}]}, "a list of messages"),
    ("processbench", _BENCH | {"label": 3}, "label is 3; the index of the first wrong"),
    ("processbench", _BENCH | {"label": -2}, "label is -2; the index"),
    ("processbench", _BENCH | {"label": True}, "label is True; the index"),
    ("jsonl", _OURS | {"correct": [5, 0]}, "step 1 has correct=5 and count=4"),
    ("jsonl", _OURS | {"count": [0, 0], "correct": [0, 0]}, "no step has a count"),
    ("jsonl", _OURS | {"response": "a b"}, "are not the response"),
    ("jsonl", _OURS | {"prompt": "\ud800"}, "half a surrogate pair"),
    ("jsonl", '{"prompt": NaN}', "NaN is not JSON"),
    ("jsonl", "[1]", "not a JSON object"),
]


@pytest.mark.parametrize(("form", "row", "words"), _BAD)
def test_bad_lines_are_named_and_counted(tmp_path, capsys, form, row, words):
    good = {
        "prm800k": _PHASE_1,
        "math_shepherd": _SHEPHERD,
        "trl": _STEPWISE,
        "processbench": _BENCH,
        "jsonl": _OURS,
    }[form]
    about, found = _import(tmp_path, form, [good, "", row, good])
    assert {row.line for row in found} == {1, 4}
    assert (about["bad_lines"], about["lines"]) == (1, 4)
    printed = capsys.readouterr()
    assert "1 bad line left out" in printed.out
    (message,) = [s for s in printed.err.splitlines() if s.startswith("line 3: ")]
    assert words in message


def test_a_few_bad_lines_are_shown(tmp_path, capsys):
    about, _ = _import(tmp_path, "jsonl", [{}] * 30 + [_OURS])
    assert about["bad_lines"] == 30
    assert capsys.readouterr().err.count("no field 'prompt'") == 20


@pytest.mark.parametrize(
    ("form", "content", "words"),
    [
        ("trl", json.dumps(_BENCH), "no field 'prompt'; it looks like --from=processb"),
        ("prm800k", json.dumps(_CONTROL), "1 line with is_quality_control_question"),
        ("trl", "", "holds no lines"),
        ("trl", "PAR1\x15\x04", "looks like a Parquet file; --from=trl expects"),
        ("trl", "prompt,completions\na,b\n", "looks like a table"),
        ("trl", "[null]", "no line can be used; line 1: not a JSON object"),
        ("trl", "[{]", "starts as a JSON list, but is not JSON"),
        ("trl", "version https://git-lfs.github.com/spec/v1\n", "holds no JSON object"),
    ],
)
def test_a_file_of_no_use_leaves_nothing(tmp_path, capsys, form, content, words):
    path, out, other = (tmp_path / name for name in ("in.jsonl", "out", "out.new"))
    path.write_text(content)
    other.mkdir()
    (other / "mine.txt").touch()
    argv = [f"--from={form}", f"--input={path}", f"--output={out}"]
    assert main(["import", *argv]) == 2
    complaint = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in complaint and "pav: " in complaint
    assert {*tmp_path.rglob("*")} == {path, other, other / "mine.txt"}


def test_damaged_missing_and_refused(tmp_path, capsys):
    path = _file(tmp_path, [_STEPWISE])
    packed = tmp_path / "cut.gz"
    packed.write_bytes(gzip.compress(path.read_bytes())[:-9])
    (tmp_path / "there").mkdir()
    for flags, words in [
        (["--from=trl", f"--input={packed}"], "is damaged"),
        (["--from=trl", f"--input={tmp_path / 'none'}"], "No such file"),
        (["--from=csv", f"--input={path}"], "invalid choice: 'csv'"),
        (
            ["--from=processbench", f"--input={path}", "--meaning=step"],
            "is not what labels of --from=processbench can mean, which is prefix",
        ),
    ]:
        assert main(["import", *flags, f"--output={tmp_path / 'out'}"]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert "csv" not in flags[0] or all(name in said for name in FORMATS)
        assert not (tmp_path / "out").exists()
    there = ["--from=trl", f"--input={path}", f"--output={tmp_path / 'there'}"]
    assert main(["import", *there]) == 2
    assert "exists; give another --output" in capsys.readouterr().err
    many = _file(tmp_path, [_OURS], "many.jsonl")
    argv = ["--from=jsonl", f"--input={many}", f"--output={tmp_path / 'out'}"]
    assert main(["import", *argv, "--meaning=prefix"]) == 2
    assert "a label of --meaning=prefix is one verdict" in capsys.readouterr().err


def test_what_is_no_import_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a folder that pav import wrote"):
        imports.read_about(tmp_path)
    imports.write(tmp_path, [])
    imports.write_about(tmp_path, {"meaning": "vibes"})
    with pytest.raises(ValueError, match="one of monte_carlo, any_of_n, prefix, step"):
        imports.read_about(tmp_path)
