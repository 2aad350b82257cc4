"""MATH in the paper's split, a user's own problems, datasets without TensorFlow."""

import codecs
import functools
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading

import ml_collections
import pytest
from full_disk import small_disk

from pav_jax.core.errors import UserError
from pav_jax.core.types import Grade, Problem
from pav_jax.tasks import datasets, grading, make_task
from pav_jax.tasks.gsm8k import Gsm8k
from pav_jax.tasks.math import Jsonl, Math, split_steps


def published(k, answer=None):
    """A problem as MATH spells it."""
    return {
        "problem": f"What is ${k} + 1$?",
        "level": "Level 5",
        "type": "Algebra",
        "solution": f"We add.  Thus it is $\\boxed{{{answer or k + 1}}}.$",
    }


def write_lines(file, rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def tree(tmp_path):
    """12 problems for training and 13 for testing, 5 of which are "MATH-500"."""
    for k in range(25):
        split = "train" if k < 12 else "test"
        subject = tmp_path / split / ("algebra" if k % 2 else "geometry")
        subject.mkdir(parents=True, exist_ok=True)
        (subject / f"{k}.json").write_text(json.dumps(published(k)))
    rows = [published(k) | {"answer": str(k + 1)} for k in range(12, 17)]
    rows[0]["problem"] = rows[0]["problem"].replace(" ", "  ") + "\n"  # same text
    write_lines(tmp_path / "math500.jsonl", rows)
    return tmp_path


def test_training_is_all_that_is_not_in_the_test(tree):
    task = Math(tree, validation_fraction=0)
    train, test = task.problems("train"), task.problems("test")
    assert [p.answer for p in test] == ["13", "14", "15", "16", "17"]
    assert sorted(int(p.answer) for p in train) == [*range(1, 13), *range(18, 26)]
    # In the order of subjects and numbers.
    assert [p.answer for p in train[:7]] == ["2", "4", "6", "8", "10", "12", "1"]
    assert train[0] == Problem(
        prompt="What is $1 + 1$?\n",
        answer="2",
        solution="We add.\nThus it is $\\boxed{2}.$",
    )


def test_validation_is_held_out_by_prompt(tree):
    everything = {p.prompt for p in Math(tree, 0).problems("train")}
    task = Math(tree, 0.4)
    train, validation = (
        {p.prompt for p in task.problems(split)} for split in ("train", "validation")
    )
    assert train | validation == everything and not train & validation
    assert validation == {p for p in everything if Problem(p, "").id < 0.4 * 2**31}
    assert 0 < len(validation) < len(everything)


def test_a_changed_copy_is_read_anew(tree):
    assert len(Math(tree, 0).problems("train")) == 20
    (tree / "train/algebra/1.json").unlink()
    assert len(Math(tree, 0).problems("train")) == 19


def test_the_test_can_stand_alone(tree):
    for split in ("train", "test"):
        (tree / split).rename(tree / f"no_{split}")
    task = Math(tree)
    assert len(task.problems("test", 5)) == 5
    with pytest.raises(UserError, match="asked for 1 problem of math train.*holds 0"):
        task.problems("train", 1)


def test_a_test_problem_that_might_be_trained_on_is_an_error(tree):
    (tree / "test/algebra/13.json").unlink()
    with pytest.raises(UserError, match=r"1 of the 5.*What is \$13"):
        Math(tree).problems("train")


def test_a_problem_without_an_answer_is_left_out_and_said(tree, caplog):
    row = published(1) | {"solution": "It is obvious."}
    (tree / "train/algebra/1.json").write_text(json.dumps(row))
    assert len(Math(tree, 0).problems("train")) == 19
    assert "1 solutions state no answer" in caplog.text


@pytest.mark.parametrize("bad", ["{", "[]", '{"problem": "q"}', '{"problem": "q", '])
def test_a_bad_file_is_named(tree, bad):
    (tree / "train/algebra/3.json").write_text(bad)
    with pytest.raises(UserError, match=r"algebra/3\.json: .*math500\.jsonl"):
        Math(tree).problems("train")
    write_lines(tree / "math500.jsonl", [published(1) | {"answer": "2"}, "", bad])
    with pytest.raises(UserError, match=r"math500\.jsonl, line 3: "):
        Math(tree).problems("train")
    with pytest.raises(UserError, match="absent/math500.jsonl.*expected a folder"):
        Math(tree / "absent").problems("test")


@pytest.mark.parametrize(
    ("solution", "steps"),
    [
        ("One. Two!  Three?\n\nFour", ["One.", "Two!", "Three?", "Four"]),
        ("Half of 2.5 is\n1.25 m. long", ["Half of 2.5 is 1.25 m. long"]),
        ("Let $x = 1.$  Then $A. B$ holds.", ["Let $x = 1.$", "Then $A. B$ holds."]),
        ("Let $x$ be. $y$ is.", ["Let $x$ be.", "$y$ is."]),
        (
            "So\n\\[x\n= 1.\\]Hence\n"
            "\\begin{align*}\nx &= 1. \\\\\ny\n\\end{align*}so 5",
            [
                "So \\[x = 1.\\]",
                "Hence \\begin{align*} x &= 1. \\\\ y \\end{align*}so 5",
            ],
        ),
        ("It costs \\$5. We pay.", ["It costs \\$5.", "We pay."]),
        ("See. [asy]\ndraw(A. B);\n[/asy] Done.", ["See.", "Done."]),
        ("(So it is.) Then", ["(So it is.)", "Then"]),
        ("A $ sign. Worker", ["A $ sign.", "Worker"]),
        ("\ue000 gone", ["gone"]),
        ("", []),
    ],
)
def test_a_step_is_a_sentence(solution, steps):
    assert split_steps(solution) == steps


def test_the_published_test_split(math500, tmp_path):
    write_lines(tmp_path / "math500.jsonl", math500)
    test = make_task(
        ml_collections.ConfigDict({"name": "math", "path": str(tmp_path)})
    ).problems("test", 500)
    assert [p.prompt for p in test] == [r["problem"].strip() + "\n" for r in math500]
    for problem, row in zip(test, math500, strict=True):
        assert problem.answer == row["answer"].strip()
        last = problem.solution.split("\n")[-1]
        assert grading.grade(problem.answer, last) is Grade.CORRECT
        # Only white space, drawings and a line for the answer make a difference.
        said = re.sub(r"\n# Answer: .*", "", problem.solution)
        published = re.sub(r"(?s)\[asy\].*?\[/asy\]", "", row["solution"])
        assert "".join(said.split()) == "".join(published.split())


def test_answers_for_voting(tree):
    task = Math(tree)
    assert task.answer(r"\boxed{\dfrac{2}{4}}") == task.answer("# Answer: 0.5") == "1/2"
    assert task.answer(r"\boxed{3}\%") == "3"
    assert task.answer("3") is task.answer(r"\boxed{\%}") is None
    assert task.grade(Problem("q\n", "1/2"), r"\boxed{0.5}") is Grade.CORRECT
    assert task.check_steps(Problem("q\n", "1"), "") is None
    assert task.facts(Problem("q\n", "1"), "") is None


OWN = {"prompt": "What is 1+1?", "answer": "2", "solution": "Add.\n\n# Answer: 2\n"}


def test_own_problems(tmp_path):
    write_lines(tmp_path / "train.jsonl", [OWN, "", {"prompt": "q\n", "answer": " x "}])
    asked = OWN | {"prompt": "What is 2?", "id": 3, "solution": None}
    write_lines(tmp_path / "test.jsonl", [asked])
    task = Jsonl(tmp_path, validation_fraction=0)
    assert task.problems("train", 2) == [
        Problem("What is 1+1?\n", "2", "Add.\n# Answer: 2"),
        Problem("q\n", "x", ""),
    ]
    assert task.problems("test", 1) == [Problem("What is 2?\n", "2", "")]
    assert task.grade(task.problems("train")[0], r"\boxed{2}") is Grade.CORRECT


def test_own_choices(tmp_path):
    """A letter, and the same letter in the solution's box in other ways."""
    rows = [
        {"prompt": f"Which is {k}?", "answer": "C", "solution": rf"\boxed{{{box}}}"}
        for k, box in enumerate((r"\text{C}", r"\textbf{(C)}", "(C)", "C"))
    ]
    write_lines(tmp_path / "train.jsonl", rows)
    write_lines(tmp_path / "test.jsonl", [rows[0] | {"prompt": "Which is the last?"}])
    assert len(Jsonl(tmp_path, validation_fraction=0).problems("train")) == 4


@pytest.mark.parametrize(
    "spelling", ["5", "-12", "0", "5.0", "0.10", "1.5e3", "123456789012345678901"]
)
def test_an_answer_may_be_a_number(tmp_path, spelling):
    line = f'{{"prompt": "q", "answer": {spelling}}}'
    write_lines(tmp_path / "train.jsonl", [line])
    write_lines(tmp_path / "test.jsonl", [])
    (problem,) = Jsonl(tmp_path, 0).problems("train")
    assert problem.answer == spelling


def test_own_problems_of_the_test_are_kept_out_of_training(tmp_path, caplog):
    rows = [OWN, OWN | {"prompt": "What  is\n1+1?\n"}, OWN | {"prompt": "And 2?"}]
    write_lines(tmp_path / "train.jsonl", rows)
    write_lines(tmp_path / "test.jsonl", [OWN])
    task = Jsonl(tmp_path, 0)
    assert [problem.prompt for problem in task.problems("train")] == ["And 2?\n"]
    assert len(task.problems("test")) == 1
    words = "jsonl: the prompts of 2 problems for training are also in the test; left"
    assert words in caplog.text
    assert len(caplog.records) == 1


def test_a_ready_made_split_is_kept_out_of_training_too(tmp_path, caplog):
    """As MATH is downloaded: train.jsonl beside math500.jsonl."""
    rows = [published(k) | {"answer": str(k + 1)} for k in range(3)]
    write_lines(tmp_path / "math500.jsonl", rows[:1])
    rows[0]["problem"] = rows[0]["problem"].replace(" ", "  ") + "\n"  # same text
    write_lines(tmp_path / "train.jsonl", rows)
    task = Math(tmp_path, 0, data_dir=tmp_path / "prepared")
    assert [p.answer for p in task.problems("train")] == ["2", "3"]
    assert [p.answer for p in task.problems("test")] == ["1"]
    words = "math: the prompts of 1 problem for training are also in the test; left"
    assert words in caplog.text
    assert len(caplog.records) == 1


def test_byte_order_marks_and_crlf(tmp_path):
    """As an editor of Windows writes them; of all tasks that read files."""
    mark = codecs.BOM_UTF8

    def write(name, row):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(mark + json.dumps(row).encode() + b"\r\n" + mark + b"\r\n")

    crlf = {"prompt": "﻿What is\r\n1?", "answer": "2", "solution": "A.\r\n# Answer: 2"}
    for split in ("train", "test"):
        write(f"own/{split}.jsonl", crlf | {"prompt": crlf["prompt"] + split})
        row = {"question": f"{split}\r\nq", "answer": "so\r\n#### 1"}
        write(f"gsm8k/{split}.jsonl", row)
    write("math/math500.jsonl", published(1) | {"answer": "2"})
    (tmp_path / "math/train/algebra").mkdir(parents=True)
    one = mark + json.dumps(published(2)).encode()
    (tmp_path / "math/train/algebra/2.json").write_bytes(one)
    (own,) = Jsonl(tmp_path / "own", 0).problems("train")
    assert own == Problem("What is\n1?train\n", "2", "A.\n# Answer: 2")
    prepared = tmp_path / "prepared"
    (problem,) = Gsm8k(tmp_path / "gsm8k", 0, data_dir=prepared).problems("train")
    assert problem == Problem("train q\n", "1", "so\n#### 1")
    task = Math(tmp_path / "math", 0, data_dir=prepared)
    assert [len(task.problems(split)) for split in ("train", "test")] == [1, 1]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "Expecting"),
        ("[1]", "not a JSON object"),
        ({"prompt": "q"}, "no text field 'answer'"),
        ({"prompt": 3, "answer": "1"}, "no text field 'prompt'"),
        ({"prompt": "q", "answer": True}, "no text field 'answer'"),
        ('{"prompt": "q", "answer": 1e999}', "no text field 'answer'"),
        ('{"prompt": "q", "answer": NaN}', "no text field 'answer'"),
        ({"prompt": "q", "answer": [1]}, "no text field 'answer'"),
        ({"prompt": "q", "answer": r"\%"}, "states nothing"),
        (OWN | {"solution": 3}, "'solution' is not text"),
        (OWN | {"solution": "It is 2."}, "is not 'answer', '2'"),
        (OWN | {"solution": r"\boxed{3}"}, "is not 'answer', '2'"),
    ],
)
def test_a_bad_line_of_ones_own_is_named(tmp_path, bad, reason):
    write_lines(tmp_path / "train.jsonl", [OWN, "", bad])
    write_lines(tmp_path / "test.jsonl", [OWN])
    with pytest.raises(UserError, match=rf"train\.jsonl, line 3: .*{reason}.*expected"):
        Jsonl(tmp_path).problems("train")
    with pytest.raises(UserError, match="absent/train.jsonl"):
        Jsonl(tmp_path / "absent").problems("train")


def test_datasets_are_prepared_and_read_without_tensorflow(tree, tmp_path):
    """From array_record files."""
    write_lines(tree / "train.jsonl", [{"question": "q", "answer": "#### 1"}])
    write_lines(tree / "test.jsonl", [{"question": "q2", "answer": "#### 2"}])
    program = """
import sys
from pav_jax.tasks.gsm8k import Gsm8k
from pav_jax.tasks.gsm8k import Gsm8k
from pav_jax.tasks.math import Math
path = sys.argv[1]
print(Gsm8k(path, data_dir=path + "/prepared").problems("test")[0].prompt)
import os; os.remove(path + "/train.jsonl")
print(len(Math(path, 0, data_dir=path + "/prepared").problems("train")))
print("tensorflow" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tree)], capture_output=True, text=True
    )
    assert done.stdout.split()[-2:] == ["20", "False"], done.stderr
    assert "q2\n" in done.stdout
    names = {
        file.name.partition(".array_record")[0] for file in tree.rglob("*.array_r*")
    }
    assert names == {
        "pav_gsm8k-train",
        "pav_gsm8k-test",
        "pav_math-train",
        "pav_math-test",
    }


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_datasets_come_from_the_network(tmp_path, monkeypatch):
    """From a server of our own, where the published files would be."""
    site = tmp_path / "site"
    site.mkdir()
    row = published(1) | {"answer": "2"}
    write_lines(site / "a.jsonl", [row, published(2) | {"answer": "3"}])
    write_lines(site / "b.jsonl", [published(3) | {"answer": "4"}])
    handler = functools.partial(_Quiet, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        files = {"train.jsonl": f"{url}/a.jsonl", "math500.jsonl": f"{url}/b.jsonl"}
        monkeypatch.setattr(datasets.PavMath, "FILES", files)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        task = Math(validation_fraction=0, data_dir=tmp_path / "prepared")
        assert [p.answer for p in task.problems("train")] == ["2", "3"]
        server.shutdown()
    # Kept: what was prepared needs no network.
    again = Math(validation_fraction=0, data_dir=tmp_path / "prepared")
    assert [p.answer for p in again.problems("test")] == ["4"]


def test_a_failed_download_says_what_to_do(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets.tfds, "data_source", fail)
    words = r"no route.*config\.task\.path.*train\.jsonl.*https"
    for task in (Math(data_dir=tmp_path), Gsm8k(data_dir=tmp_path)):
        with pytest.raises(UserError, match=words):
            task.problems("test")


def test_without_a_network_nothing_is_tried_for_long(tmp_path, monkeypatch):
    """TFDS asks ten times, and each time for as long as the system lets it."""

    def download(*args):
        raise AssertionError("TFDS was asked")

    manager = datasets.tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download", download)
    monkeypatch.setattr(datasets, "_PATIENCE", 0.2)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as server:  # takes connections, and answers none
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        files = {"train.jsonl": f"{url}/a.jsonl", "math500.jsonl": f"{url}/b.jsonl"}
        monkeypatch.setattr(datasets.PavMath, "FILES", files)
        task = Math(data_dir=tmp_path)
        with pytest.raises(UserError, match=r"refused.*config\.task\.path"):
            task.problems("test")
        server.listen()
        with pytest.raises(UserError, match=r"timed out.*config\.task\.path"):
            task.problems("test")


disk = pytest.fixture(small_disk)


def test_a_full_disk_keeps_nothing_of_a_dataset(tree, disk):
    prepared = disk.root / "prepared"
    disk.fill(20_000)
    rows = [
        published(k) | {"problem": str(k) + os.urandom(999).hex()} for k in range(99)
    ]
    write_lines(tree / "train.jsonl", [row | {"answer": "2"} for row in rows])
    words = "cannot prepare pav_math in .*/prepared: No space left on device"
    with pytest.raises(UserError, match=words):
        Math(tree, 0, data_dir=prepared).problems("train")
    assert not list(prepared.rglob("*.array_record*"))
    disk.make_room()
    assert len(Math(tree, 0, data_dir=prepared).problems("train")) == 99


def test_prepared_by_another_process_meanwhile(tree, tmp_path, monkeypatch):
    """Two runs of a sweep prepare the same: the one that comes second reads on."""
    read = datasets.tfds.data_source
    calls = []

    def collide(*args, **kwargs):
        calls.append(read(*args, **kwargs))
        if len(calls) == 1:
            raise OSError(39, os.strerror(39))
        return calls[-1]

    monkeypatch.setattr(datasets.tfds, "data_source", collide)
    assert len(Math(tree, 0, data_dir=tmp_path / "p").problems("train")) == 20
    assert len(calls) == 2
