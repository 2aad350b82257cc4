"""GSM8K is read whole, split by hash and graded exactly."""

import json
import random

import ml_collections
import pytest

from pav_jax.core.errors import UserError
from pav_jax.core.types import Grade, Problem
from pav_jax.tasks import make_task
from pav_jax.tasks.gsm8k import Gsm8k, parse_number

GOOD = {"question": "What is 1+1?", "answer": "1+1 = <<1+1=2>>2\n#### 2"}


def write(folder, train=(GOOD,), test=(GOOD,)):
    for name, rows in (("train", train), ("test", test)):
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def question(k):
    return {"question": f"What is {k}?", "answer": f"#### {k}"}


def test_prompt_solution_and_answer(tmp_path):
    row = {
        "question": " Ana has\n$3 \n and 2 more.  How many?\n",
        "answer": "She has 3+2 = <<3+2=5>>5\n\n  \nSo $<<5*1=5>>5. \n#### 1,000 ",
    }
    (problem,) = Gsm8k(write(tmp_path, test=[row])).problems("test", 1)
    assert problem == Problem(
        prompt="Ana has $3 and 2 more.  How many?\n",
        answer="1,000",
        solution="She has 3+2 = 5\nSo $5.\n#### 1,000",
    )


@pytest.mark.parametrize(
    ("gold", "response", "grade"),
    [
        ("1", "#### 1", Grade.CORRECT),
        ("1", "#### 11", Grade.WRONG),
        ("11", "#### 1", Grade.WRONG),
        ("1", "#### 1 1", Grade.UNPARSED),
        ("1", "#### -1", Grade.WRONG),
        ("1000", "so\n#### 1,000", Grade.CORRECT),
        ("1,000", "####1000\nand more talk", Grade.CORRECT),
        ("72", "#### $72", Grade.CORRECT),
        ("72", "#### 72.00", Grade.CORRECT),
        ("72", "####  72 \r", Grade.CORRECT),
        ("72", "#### 72.0000000000000000001", Grade.WRONG),
        ("0.3", "#### .3", Grade.CORRECT),
        ("0.3", "#### 0.30000000000000004", Grade.WRONG),
        ("-3", "#### -3", Grade.CORRECT),
        ("-3", "#### -$3.0", Grade.CORRECT),
        ("0", "#### -0", Grade.CORRECT),
        # The last marked line counts, even where an earlier one was right.
        ("1", "#### 2\nno wait\n#### 1", Grade.CORRECT),
        ("1", "#### 1\n#### 2", Grade.WRONG),
        ("1", "#### 1\n#### none", Grade.UNPARSED),
        # Words after it, and before it.
        ("72", "#### 72 clips", Grade.CORRECT),
        ("72", "#### 72, in total", Grade.CORRECT),
        ("72", "#### 72.", Grade.CORRECT),
        ("72", "#### 72%", Grade.CORRECT),
        ("72", "#### $72 (48 + 24)", Grade.CORRECT),
        ("42", "2+40=42\n#### 42 and the reasoning above confirms it.", Grade.CORRECT),
        ("7", "#### +7", Grade.CORRECT),
        ("-7", "#### +7", Grade.WRONG),
        ("42", r"#### \boxed{42}", Grade.CORRECT),
        ("42", "#### **42**", Grade.CORRECT),
        ("42", "#### $42$", Grade.CORRECT),
        ("1", "the answer is #### 1", Grade.CORRECT),
        ("1", "So we have #### 1 apple", Grade.CORRECT),
        ("1", " \t#### 1", Grade.CORRECT),
        ("5000000", "#### 5 million", Grade.CORRECT),
        ("5", "#### 5 million", Grade.WRONG),
        ("60", "#### 5 dozen eggs", Grade.CORRECT),
        ("12", "#### 12 fifth graders", Grade.CORRECT),
        ("18", r"#### \$18", Grade.CORRECT),
        ("72", "#### 72 cm^2", Grade.CORRECT),
        ("3", "#### 3 times as many", Grade.CORRECT),
        ("8", "#### 8 quarters", Grade.CORRECT),
        ("12", "#### 12 more cookies than Bob has.", Grade.CORRECT),
        ("6000000", "#### 6 million of the people", Grade.CORRECT),
        # Numbers among the words that are about something else.
        ("70", "#### 70 two-bedroom apartments", Grade.CORRECT),
        ("70", "#### 70 2-bedroom apartments", Grade.CORRECT),
        ("120", "#### 120 pages in 7 days", Grade.CORRECT),
        ("120", "#### 120 pages in the next seven days.", Grade.CORRECT),
        ("72", "#### 72 clips (48 in April and 24 in May)", Grade.CORRECT),
        ("12", "#### 12 (6 x 2)", Grade.CORRECT),
        ("12", "#### 12 (6 times 2)", Grade.CORRECT),
        ("72", "#### 72 (seventy-two)", Grade.CORRECT),
        ("20", "#### 20 three-pointers", Grade.CORRECT),
        ("18", "#### 18 dollars a quarter", Grade.CORRECT),
        ("18", "#### 18 dollars a dozen", Grade.CORRECT),
        ("72", "#### 72 for three people", Grade.CORRECT),
        ("72", "#### 72 for $3.50 each", Grade.CORRECT),
        ("5", "#### 5 million-dollar houses", Grade.CORRECT),
        # Words that make another number of it, or two.
        ("12", "#### 12 times 5", Grade.UNPARSED),
        ("5", "#### 5 times two", Grade.UNPARSED),
        ("5", "#### 5 doubled", Grade.UNPARSED),
        ("5", "#### 5 (times two)", Grade.UNPARSED),
        ("5", "#### 5 increased by 3", Grade.UNPARSED),
        ("5", "#### 5 subtracted from 8", Grade.UNPARSED),
        ("5", "#### 5 to the power of 2", Grade.UNPARSED),
        ("5", "#### 5 less a half", Grade.UNPARSED),
        ("72", "#### 72 or 73", Grade.UNPARSED),
        ("72", "#### 72 (or 73)", Grade.UNPARSED),
        ("72", "#### 72 dollars (and 50 cents)", Grade.UNPARSED),
        ("3", "#### 3 hours 30-minutes", Grade.UNPARSED),
        ("3", "#### 3 hours twenty-five minutes", Grade.UNPARSED),
        ("3", "#### 3 hours and thirty-one minutes", Grade.UNPARSED),
        ("12", "#### 12 x 5", Grade.UNPARSED),
        ("12", "#### 12 in 3 x 5", Grade.UNPARSED),
        ("10", "#### 10 minus 3", Grade.UNPARSED),
        ("10", "#### 10 minus three", Grade.UNPARSED),
        ("72", "#### 72 dollars and 50 cents", Grade.UNPARSED),
        ("72", "#### 72 dollars and fifty cents", Grade.UNPARSED),
        ("3", "#### 3 hours 30 minutes", Grade.UNPARSED),
        ("3", "#### 3 hours thirty minutes", Grade.UNPARSED),
        ("3", "#### 3 hours and a half", Grade.UNPARSED),
        ("3", "#### 3 hours and a quarter", Grade.UNPARSED),
        ("72", "#### 72 clips or 73 clips", Grade.UNPARSED),
        ("72", "#### 72 clips or more", Grade.UNPARSED),
        ("72", "#### 72 (73)", Grade.UNPARSED),
        ("72", "#### 72 clips, or (48 + 25)", Grade.UNPARSED),
        ("72", "#### 72 clips, 73 clips", Grade.UNPARSED),
        ("3", "#### 3 times 4", Grade.UNPARSED),
        ("3", "#### 3 times itself", Grade.UNPARSED),
        ("3", "#### 3 times four", Grade.UNPARSED),
        ("3", "#### 3 ½", Grade.UNPARSED),
        ("3", "#### 3 squared", Grade.UNPARSED),
        ("1", "#### 1 third of them", Grade.UNPARSED),
        ("2", "#### 2 hundred thousand million", Grade.WRONG),
        ("72", "#### 72 is not it", Grade.UNPARSED),
        # More digits, an operation or a letter make it another number.
        ("1", "#### 1e1", Grade.UNPARSED),
        ("10", "#### 1e1", Grade.UNPARSED),
        ("1", "#### 1x", Grade.UNPARSED),
        ("1", "#### 1 + 1", Grade.UNPARSED),
        ("1", "#### 1 - 1", Grade.UNPARSED),
        ("1", "#### 1/2", Grade.UNPARSED),
        ("1", "#### 1 1/2", Grade.UNPARSED),
        ("1", "#### 1 or 2", Grade.UNPARSED),
        ("3", "#### 3 and a half", Grade.UNPARSED),
        ("1", "#### 1, 2", Grade.UNPARSED),
        ("1", "#### 1 = x", Grade.UNPARSED),
        ("1", "#### 1:30", Grade.UNPARSED),
        ("1", "#### about 1", Grade.UNPARSED),
        ("1", "#### x = 1", Grade.UNPARSED),
        # No four signs before it.
        ("1", "1", Grade.UNPARSED),
        ("1", "### 1", Grade.UNPARSED),
        ("1", "##### 1", Grade.UNPARSED),
        ("1", "####\n1", Grade.UNPARSED),
        ("1", "", Grade.UNPARSED),
        # A reference that is no number matches nothing.
        ("many", "#### many", Grade.UNPARSED),
        ("many", "", Grade.UNPARSED),
        ("many", "#### 1", Grade.WRONG),
    ],
)
def test_grade(tmp_path, gold, response, grade):
    task = Gsm8k(write(tmp_path))
    assert task.grade(Problem("q\n", gold), response) is grade


@pytest.mark.parametrize(
    "text",
    """NaN sNaN Infinity -inf 1e999999999 1e3 0x10 1_000 1,00 ,100 1,000,00 10,000,
    1+1 2**9**9 --3 -$-3 $$3 3$ 3% . $ - ½ ² ١٢ １ −3 1.2.3 72/1""".split()
    + ["", " ", "- 3", "1" * 65, "9" * 100_000, "1" + ",000" * 50_000, "\ud800", "\0"],
)
def test_not_a_number(text):
    assert parse_number(text) is None


def test_longest_numbers_compare_exactly():
    one = "1" * 64
    assert parse_number(one) == int(one)
    assert parse_number(one) != parse_number(one[:-1] + "2")


def test_grading_never_raises(tmp_path):
    task = Gsm8k(write(tmp_path))
    problem = Problem("q\n", "1")
    draw = random.Random(0)
    alphabet = ["####", "\n", " ", "1", ",", ".", "-", "$", "e", "nan", "\0", "\ud800"]
    grades = {
        task.grade(problem, "".join(draw.choices(alphabet, k=draw.randrange(9))))
        for _ in range(20_000)
    }
    assert grades == set(Grade) - {Grade.TIMED_OUT}


def test_problems_of_the_test_are_kept_out_of_training(tmp_path, caplog):
    again = question(1) | {"question": "What\nis  1?", "answer": "So.\n#### 1"}
    folder = write(tmp_path, train=[question(0), again], test=[question(1)])
    task = Gsm8k(folder, 0, data_dir=tmp_path / "prepared")
    assert [p.answer for p in task.problems("train")] == ["0"]
    assert [p.answer for p in task.problems("test")] == ["1"]
    words = "gsm8k: the prompts of 1 problem for training are also in the test; left"
    assert words in caplog.text


def test_split_depends_on_the_prompt_alone(tmp_path):
    rows = [question(k) for k in range(1000)]
    first = Gsm8k(write(tmp_path, train=rows), 0.2)
    held_out = {p.prompt for p in first.problems("validation")}
    assert 150 < len(held_out) < 250
    second = Gsm8k(write(tmp_path, train=rows[:99:-1]), 0.2)
    kept = {p.prompt for p in second.problems("validation")}
    assert kept == held_out - {row["question"] + "\n" for row in rows[:100]}
    larger = Gsm8k(tmp_path, 0.4)
    assert kept < {p.prompt for p in larger.problems("validation")}


def test_fraction_zero_holds_nothing_out(tmp_path):
    task = Gsm8k(write(tmp_path, train=[question(k) for k in range(50)]), 0)
    assert len(task.problems("train")) == 50
    assert not task.problems("validation")


@pytest.mark.parametrize("fraction", [-0.1, 1, float("nan")])
def test_fraction_out_of_range(tmp_path, fraction):
    with pytest.raises(UserError, match="validation_fraction"):
        Gsm8k(write(tmp_path), fraction)


def test_problems_keeps_file_order_and_says_what_it_has(tmp_path):
    task = Gsm8k(write(tmp_path, test=[question(k) for k in (3, 1, 2)]))
    assert [p.answer for p in task.problems("test", 2)] == ["3", "1"]
    for count in (4, -1):
        with pytest.raises(UserError, match="holds 3"):
            task.problems("test", count)
    with pytest.raises(UserError, match="no split 'dev'"):
        task.problems("dev", 1)
    assert list(task.vocabulary()) == []


def test_missing_files_are_named_with_the_layout(tmp_path):
    with pytest.raises(UserError, match="absent.*question"):
        Gsm8k(tmp_path / "absent").problems("test")
    write(tmp_path)
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(UserError, match=str(tmp_path / "train.jsonl")):
        Gsm8k(tmp_path).problems("test")


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "[]",
        "null",
        "[" * 100_000,
        '{"question": ' + "1" * 5000 + "}",
        {"question": "q"},
        {"answer": "#### 1"},
        {"question": " \n", "answer": "#### 1"},
        {"question": 3, "answer": "#### 1"},
        {"question": "q", "answer": 1},
        {"question": "q", "answer": ""},
        {"question": "q", "answer": "<<1=1>>"},
        {"question": "q", "answer": "1"},
        {"question": "q", "answer": "so #### 1"},
        {"question": "q", "answer": "#### one"},
        {"question": "q", "answer": "#### 1\nmore"},
        {"question": "q", "answer": "#### 1\n#### 1"},
        '{"question": "\\ud800", "answer": "#### 1"}',
    ],
)
def test_a_bad_line_is_named(tmp_path, bad):
    write(tmp_path, train=[GOOD, "", bad, GOOD])
    with pytest.raises(UserError, match=r"train\.jsonl, line 3: "):
        Gsm8k(tmp_path).problems("test").problems("test")


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    write(tmp_path)
    with open(tmp_path / "test.jsonl", "ab") as file:
        file.write(b'{"question": "\xff", "answer": "#### 1"}\n')
    with pytest.raises(UserError, match=r"test\.jsonl, line 2: "):
        Gsm8k(tmp_path).problems("test").problems("test")


def test_the_published_files(gsm8k_dir):
    task = make_task(
        ml_collections.ConfigDict(
            {"name": "gsm8k", "path": str(gsm8k_dir), "validation_fraction": 0.05}
        )
    )
    train, validation, test = map(task.problems, ("train", "validation", "test"))
    for split, name in ((train + validation, "train"), (test, "test")):
        lines = (gsm8k_dir / f"{name}.jsonl").read_bytes().splitlines()
        rows = [json.loads(line) for line in lines]
        assert len(split) == len(rows)
        assert {p.prompt for p in split} == {r["question"] + "\n" for r in rows}
    assert not {p.prompt for p in train} & {p.prompt for p in validation}
    assert 0.04 < len(validation) / len(train + validation) < 0.06
    for problem in train + validation + test:
        assert task.grade(problem, problem.solution) is Grade.CORRECT
        assert task.grade(problem, problem.solution + "1") is not Grade.CORRECT
        assert "<<" not in problem.solution and "\n\n" not in problem.solution
        assert problem.solution and problem.prompt.count("\n") == 1


def test_make_task_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(UserError, match="'gsm9k'.*relations, gsm8k"):
        make_task(ml_collections.ConfigDict({"name": "gsm9k"}))
    with pytest.raises(UserError, match="None.*relations, gsm8k"):
        make_task(ml_collections.ConfigDict())
    with pytest.raises(UserError, match="'path'"):
        make_task(ml_collections.ConfigDict({"name": "jsonl"}))
    with pytest.raises(UserError, match="'seed'.*validation_fraction"):
        config = {"name": "gsm8k", "path": str(write(tmp_path)), "seed": 1}
        make_task(ml_collections.ConfigDict(config))


def test_make_task_passes_the_arguments_on(tmp_path):
    write(tmp_path, train=[question(k) for k in range(50)])
    config = {"name": "gsm8k", "path": str(tmp_path), "validation_fraction": 0.0}
    task = make_task(ml_collections.ConfigDict(config))
    assert (task.name, len(task.problems("train"))) == ("gsm8k", 50)
