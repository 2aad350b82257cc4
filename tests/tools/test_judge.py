"""`pav judge`: files and a verifier whose values are written in them, by hand."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import byte_tokenizer
from tiny_run import make_run

from pav_jax.core.errors import UserError
from pav_jax.core.types import Response
from pav_jax.gemma.tokenizer import Tokenizer, train_tokenizer
from pav_jax.labels import prefix_ends
from pav_jax.main import main
from pav_jax.tasks.problems import Problems, encode_prompt
from pav_jax.tasks.relations import Relations
from pav_jax.tools.judge import judge, text
from pav_jax.tools.judging import sources
from pav_jax.tools.scoring import Scores, Step, Verifier


@dataclasses.dataclass(frozen=True)
class Said:
    """A verifier: the value after a step is what the step ends with, such as "so 0.9",
    and 0.5 if that is no number. The ORM's score is that of the last step."""

    tokenizer: Tokenizer
    max_tokens: int = 200
    fingerprint: str = "said"
    is_step_end: np.ndarray | None = None

    encode = Verifier.encode

    def score_encoded(self, encoded):
        return [self._scores(row) for row in encoded]

    def _scores(self, row):
        steps = []
        for start, stop in zip(row.ends, row.ends[1:], strict=False):
            step = self.tokenizer.decode(row.tokens[start:stop]).rstrip("\n")
            try:
                value = float(step.split(" ")[-1])
            except ValueError:
                value = 0.5
            steps.append(Step(step, value, 0.0))
        return Scores(0.5, tuple(steps), steps[-1].q)


@pytest.fixture(scope="module")
def said():
    tokenizer = byte_tokenizer()
    return Said(tokenizer, is_step_end=tokenizer.step_end_mask())


def _refuse():
    raise AssertionError("the input is bad, so no verifier is needed")


def _row(values, label, problem="Q?"):
    # A step of two lines, and one that ends in an empty line, are one step each.
    steps = [f"so\nit is {value}" for value in values]
    steps[0] += "\n"
    return {"id": "x", "problem": problem, "steps": steps, "label": label}


def _rows(name, *pairs):
    return [_row(*pair, f"{name} {i}") for i, pair in enumerate(pairs)]


# A threshold between 0.6 and 0.7 is right on all of gsm8k.
_GSM8K = _rows("gsm8k", ([0.9, 0.6], 1), ([0.7, 0.8], -1))
# Then: found; a step too late; flagged one that is right; and one found right.
_MATH = _rows(
    "math", ([0.9, 0.1], 1), ([0.9, 0.3], 0), ([0.6, 0.9], -1), ([0.9, 1.0], -1)
)
_OMNI = _rows("omni", ([0.1], 0), ([0.8], -1))


@pytest.fixture
def bench(tmp_path):
    """A folder as ProcessBench is published: JSON lists; and one of lines."""
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "README.md").write_text("# ProcessBench")
    (folder / "gsm8k.json").write_text(json.dumps(_GSM8K, indent=2))
    (folder / "math.jsonl").write_text("\n".join(map(json.dumps, _MATH)))
    (folder / "omnimath.json").write_text(json.dumps(_OMNI))
    return folder


def test_processbench_by_hand(bench, said):
    found = judge("processbench", bench, lambda: said)
    assert found["threshold"] == pytest.approx(0.65)
    assert found["verifier"] == "said" and found["notes"] == []
    assert found["chosen_on"]["subset"] == "gsm8k"
    assert found["chosen_on"]["f1"][0] == 1
    assert list(found["subsets"]) == ["math", "omnimath"]  # not that of the threshold
    math, omni = found["subsets"].values()
    assert (math["erroneous"], math["correct"]) == (2, 2)
    for key in ("accuracy_erroneous", "accuracy_correct", "f1"):
        assert math[key][0] == pytest.approx(0.5)
        assert omni[key] == [1, 1, 1]
        assert found["average"][key][0] == pytest.approx(0.75)
    shown = text(found).splitlines()
    assert (
        "below 0.6500, chosen by F1 on gsm8k, which is not in the average" in shown[0]
    )
    assert [line.split("  ")[0] for line in shown[2:]] == [
        "gsm8k (threshold)",
        "math",
        "omnimath",
        "average of 2",
    ]
    assert shown[-1].count("75.0 [") == 3


def test_the_threshold_of_another_subset(bench, said):
    """Between 0.1 and 0.6 one of two errors of math is found, and nothing else."""
    found = judge("processbench", bench, lambda: said, "math")
    assert found["threshold"] == pytest.approx(0.35)
    assert found["chosen_on"]["f1"][0] == pytest.approx(2 / 3)
    assert found["subsets"]["gsm8k"]["accuracy_erroneous"][0] == 0
    assert found["subsets"]["gsm8k"]["accuracy_correct"][0] == 1


def test_one_file_is_halved_by_problems(tmp_path, said):
    # Each problem twice, with an error and without; the values tell them apart.
    path = tmp_path / "math.json"
    rows = [
        _row(values, label, f"problem {i}")
        for i in range(20)
        for values, label in (([0.9, 0.2], 1), ([0.9, 0.8], -1))
    ]
    path.write_text(json.dumps(rows))
    found = judge("processbench", path, lambda: said)
    (name,) = found["subsets"]
    other, chosen = found["subsets"][name], found["chosen_on"]
    assert (chosen["subset"], name) == (
        "math, half of the problems",
        "math, the other half",
    )
    assert found["average"] is None and other["f1"][0] == 1
    for half in (chosen, other):  # both responses to a problem are in the same half
        assert half["erroneous"] == half["correct"] >= 5
    assert chosen["erroneous"] + other["erroneous"] == 20


def test_what_cannot_be_scored_is_said(bench, said):
    long = dataclasses.replace(said, max_tokens=45)
    (bench / "math.jsonl").write_text("\n".join(map(json.dumps, _MATH[:1] + _MATH[2:])))
    rows = [*_OMNI, _row([0.1] * 9, 0)]
    (bench / "omnimath.json").write_text(json.dumps(rows))
    found = judge("processbench", bench, lambda: long)
    (note,) = found["notes"]
    assert note == (
        "omnimath: 1 response left out, longer than the 45 tokens that the verifier was"
        " trained for"
    )
    assert note in text(found)


def _bad(bench, name, *rows):
    (bench / name).write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("math.jsonl", _MATH[0] | {"label": 2}, "line 2 of .*math.jsonl: label is 2"),
        ("math.jsonl", _MATH[0] | {"label": True}, "label is True; the index of"),
        ("math.jsonl", _MATH[0] | {"steps": "a"}, "no list in field 'steps'"),
        (
            "math.jsonl",
            {"prompt": "a", "completions": ["b"], "labels": [True]},
            "no field 'problem'; it looks like --from=trl; --on=processbench expects",
        ),
        ("math.json", _MATH[0], "several files of the subset math"),
    ],
)
def test_bad_files(bench, name, row, words):
    _bad(bench, name, _MATH[0], row)
    with pytest.raises(UserError, match=words):
        judge("processbench", bench, _refuse)


def test_bad_subsets(bench, tmp_path, said):
    with pytest.raises(UserError, match="no subset gsm8k.* which has math, omnimath"):
        (bench / "gsm8k.json").unlink()
        judge("processbench", bench, _refuse)
    with pytest.raises(UserError, match="no subset hard in"):
        judge("processbench", bench, _refuse, "hard")
    with pytest.raises(UserError, match="one subset, math.*leave out --threshold_on=a"):
        judge("processbench", bench / "math.jsonl", _refuse, "a")
    with pytest.raises(UserError, match="no file that ends in .json"):
        judge("processbench", tmp_path / "bench" / "..", _refuse)
    with pytest.raises(UserError, match="does not exist"):
        judge("processbench", tmp_path / "none", _refuse)
    with pytest.raises(UserError, match="needs a --verifier"):
        judge("processbench", bench, None)
    _bad(bench, "omnimath.json", _OMNI[0])
    with pytest.raises(UserError, match="1 response of omnimath none is correct"):
        judge("processbench", bench, lambda: said, "math")


def test_a_verifier_of_another_vocabulary(bench):
    pieces = train_tokenizer([], vocab_size=9, pieces=["a", "b", "\n"])
    words = "can score no response: gsm8k: 2 responses left out, of other tokens"
    with pytest.raises(UserError, match=words):
        judge("processbench", bench, lambda: Said(pieces))


# Best of N. The values of two problems' responses, and which are right.
_RESPONSES = [
    ("p", [0.2, 0.9], True),
    ("p", [0.5, 0.6], False),
    ("q", [0.4, 0.8], False),
    ("q", [0.7, 0.7], True),
]
# Picked of each by the last value: the first; by the least (0.2, 0.5; 0.4, 0.7) and the
# product (0.18, 0.3; 0.32, 0.49): the second; by the mean (0.55, 0.55; 0.6, 0.7): any
# of the first problem, and the second of the other.
_BEST = {"last": 0.5, "min": 0.5, "product": 0.5, "mean": 0.75, "any": 1.0}


def _scored(prompt, values, correct, **fields):
    steps = [{"text": "a", "q": q, "advantage": 0.0} for q in values]
    added = {"line": 1, "verifier": "said", "steps": steps, "orm": None}
    row = {"prompt": prompt, "response": "a\nb", "correct": correct, "pav": added}
    return row | fields


def _file(tmp_path, *rows):
    path = tmp_path / "scored.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_best_of_n_of_a_scored_file(tmp_path, said):
    rows = [_scored(*response) for response in _RESPONSES]
    failed = _scored("q", [], True, pav={"verifier": "said", "error": "too long"})
    path = _file(tmp_path, *rows, failed)
    found = judge("best_of_n", path, None)
    one, two = found["best_of_n"]
    assert (one["n"], two["n"]) == (1, 2)
    assert {name: one[name][0] for name in _BEST} == dict.fromkeys(_BEST, 0.5)
    assert {name: two[name][0] for name in _BEST} == pytest.approx(_BEST)
    assert "orm" not in two
    assert found["problems"] == 2 and found["responses"] == {"fewest": 2, "most": 2}
    assert found["notes"] == ["1 line left out, which pav score could not score"]
    assert "on 2 problems with 2 responses each" in text(found)
    # With the verifier it is the same; with another, an error.
    assert judge("best_of_n", path, lambda: said)["best_of_n"] == [one, two]
    other = dataclasses.replace(said, fingerprint="other")
    with pytest.raises(UserError, match="is scored by another verifier; leave out"):
        judge("best_of_n", path, lambda: other)


def test_best_of_n_of_responses_without_scores(tmp_path, said):
    """They are scored, with the ORM too, and graded against the reference answer."""
    rows = [
        {
            "prompt": prompt,
            "response": f"so {first}\n\\boxed{{{7 if correct else 8}}} {last}",
            "answer": "7",
        }
        for prompt, (first, last), correct in _RESPONSES
    ]
    path = _file(tmp_path, *rows)
    found = judge("best_of_n", path, lambda: said)
    two = found["best_of_n"][-1]
    assert {name: two[name][0] for name in _BEST} == pytest.approx(_BEST)
    assert two["orm"] == two["last"]
    with pytest.raises(UserError, match="are not scored; give a --verifier"):
        judge("best_of_n", path, None)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"correct": 1},
            "line 2 of .* correct is 1; true or false is right; --on=best",
        ),
        ({"pav": {"verifier": "other", "error": ""}}, "not all scored by one verifier"),
        ({"pav": {"verifier": "said", "steps": [{}]}}, "'pav' is not of pav score"),
        ({"pav": 3}, "'pav' is not of pav score"),
        ({"prompt": None}, "no text field 'prompt'"),
    ],
)
def test_bad_scored_files(tmp_path, change, words):
    rows = [_scored(*response) for response in _RESPONSES[:2]]
    with pytest.raises(UserError, match=words):
        judge("best_of_n", _file(tmp_path, rows[0], rows[1] | change), _refuse)
    unknown = {"prompt": "p", "response": "a"}
    with pytest.raises(UserError, match="no text field 'answer'"):
        judge("best_of_n", _file(tmp_path, unknown), _refuse)
    high = _scored("p", [1.5], True)
    with pytest.raises(UserError, match="not all from 0 to 1"):
        judge("best_of_n", _file(tmp_path, high), _refuse)


@pytest.mark.parametrize("other", [1, "a", None, [2], True])
def test_a_list_of_what_are_no_objects(tmp_path, capsys, other):
    """In a JSON list, or a line each."""
    scored = json.dumps(_scored(*_RESPONSES[0]))
    for number, content in (
        (1, f"[{json.dumps(other)}]".replace("[[", "[ [")),
        (2, f"[{scored}, {json.dumps(other)}]"),
        (2, f"{scored}\n{json.dumps(other)}\n"),
    ):
        path = tmp_path / "in.jsonl"
        path.write_text(content)
        assert main(["judge", "--on=best_of_n", f"--input={path}"]) == 2
        words = f"pav: line {number} of {path}: not a JSON object; --on=best_of_n expec"
        assert capsys.readouterr().err.startswith(words)


def test_a_file_of_which_nothing_is_scored(tmp_path, capsys):
    failed = {"verifier": "said", "error": "is too long"}
    rows = [_scored(p, [], True, pav=failed) for p in "pq"]
    argv = ["judge", "--on=best_of_n", f"--input={_file(tmp_path, *rows)}"]
    assert main(argv) == 2
    said = capsys.readouterr().err
    assert "could score none of its 2 lines, such as: is too long" in said


def test_a_run_whose_responses_are_all_too_long(tmp_path, said, monkeypatch):
    monkeypatch.setattr(sources.Run, "open", lambda *_: None)
    monkeypatch.setattr(sources, "with_outcomes", lambda *_: ([], ["3 left out"]))
    with pytest.raises(UserError, match="there is no response to judge: 3 left out"):
        judge("best_of_n", tmp_path, lambda: said)


# The built-in task.


def test_first_errors_of_the_built_in_task(monkeypatch):
    """Those of the checker, on steps that were spoilt by hand."""
    task = Relations(min_depth=3, max_depth=3)
    tokenizer = train_tokenizer([], vocab_size=500, pieces=task.vocabulary())
    mask = tokenizer.step_end_mask()
    problems = task.problems("validation", 12)
    prompts = [
        tuple(encode_prompt(tokenizer, problem, max_tokens=200)) for problem in problems
    ]
    config = ConfigDict({"evaluation": {"n": 4}, "task": {"name": "relations"}})
    problems = Problems(config, None, task, tokenizer, None, mask, problems, prompts)
    responses, expected = [], []

    def add(index, steps, error, ending=""):
        tokens = tokenizer.encode("\n".join(steps) + ending)
        responses.append(Response(index, prompts[index], (*tokens, 1), (), True))
        expected.append(error)

    for index, problem in enumerate(problems):
        steps = problem.solution.split("\n")
        add(index, steps, -1)
        add(index, [steps[0], steps[2], *steps[2:]], 1)
        add(index, [*steps[:-1], "Answer:"], 3)
        add(index, steps, None, ending="\n")  # its last step, by tokens, is empty
    said = Said(tokenizer)
    monkeypatch.setattr(sources.Run, "draw", lambda *_: responses)
    run = sources.Run(None, problems)
    judged, notes = sources.with_verdicts(run, said)
    assert [row.error for row in judged] == [e for e in expected if e is not None]
    assert "12 responses left out, whose steps" in notes[-1]
    # The verifier read what the stages read.
    assert [len(row.values) for row in judged[:3]] == [
        len(prefix_ends(response, mask)) - 1 for response in responses[:3]
    ]
    # Validation problems are one in twenty by the hash that halves them.
    monkeypatch.setattr(sources.Run, "open", lambda *_: run)
    here = SimpleNamespace(exists=lambda: True, is_file=lambda: False)
    found = judge("relations", here, lambda: said)
    (other,) = found["subsets"].values()
    assert min(other["correct"], found["chosen_on"]["correct"]) >= 2
    assert other["correct"] + found["chosen_on"]["correct"] == 12


def test_a_run_of_another_tokenizer_or_task(tmp_path, said):
    task = SimpleNamespace(check_steps=lambda *_: None)
    config = ConfigDict({"evaluation": {"n": 1}, "task": {"name": "math"}})
    pieces = train_tokenizer([], vocab_size=9, pieces=["a", "b", "\n"])
    problems = Problems(config, None, task, pieces, None, None, ["?"], [(1,)])
    run = sources.Run(tmp_path, problems)
    with pytest.raises(UserError, match="the task math of .* has no checker of steps"):
        sources.with_verdicts(run, said)
    with pytest.raises(UserError, match="verifier has another tokenizer than"):
        run.draw(said, 3, 1)
    with pytest.raises(UserError, match="not the workdir of a run .* no finished data"):
        judge("relations", tmp_path, _refuse)


# The command.


def test_the_input_is_not_overwritten(tmp_path, capsys, monkeypatch):
    """However it is named; and no file of a folder that is read."""
    monkeypatch.chdir(tmp_path)
    path = _file(tmp_path, *(_scored(*response) for response in _RESPONSES))
    before = path.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(path)
    for output in (path.name, f"./{path.name}", path, "link.jsonl"):
        argv = ["judge", "--on=best_of_n", f"--input={path}", f"--output={output}"]
        assert main(argv) == 2
        assert "is the input; give another --output" in capsys.readouterr().err
        assert path.read_bytes() == before
    assert main([*argv[:-1], "--output=./judged.json"]) == 0
    folder = tmp_path / "bench"
    folder.mkdir()
    argv = ["judge", "--on=processbench", f"--input={folder}", "--verifier=none"]
    for output in (folder / "math.json", "./bench/new.jsonl", "bench/../bench/a.json"):
        assert main([*argv, f"--output={output}"]) == 2
        assert "whose files are read as subsets; give" in capsys.readouterr().err
    monkeypatch.chdir(folder)
    assert main([*argv, "--output=math.json"]) == 2
    assert "whose files are read as subsets" in capsys.readouterr().err


def test_the_command(tmp_path, capsys):
    """Values are those of `Verifier.score`, and a kind of error is a paragraph."""
    run = tmp_path / "run"
    make_run(run)
    rows = [
        {"problem": f"{i}?", "steps": ["a" * (i % 5 + 1), "b c"], "label": i % 3 - 1}
        for i in range(24)
    ]
    source = tmp_path / "math.json"
    source.write_text(json.dumps(rows))
    flags = [f"--verifier={run / 'prm'}", "--on=processbench", f"--input={source}"]
    output = tmp_path / "out" / "judged.json"
    assert main(["judge", *flags, f"--output={output}"]) == 0
    found = json.loads(output.read_text())
    assert text(found) in capsys.readouterr().out
    scores = Verifier.load(run / "prm").score(
        [row["problem"] for row in rows], ["\n".join(row["steps"]) for row in rows]
    )
    right = {"erroneous": 0, "correct": 0}
    for row, of_row in zip(rows, scores, strict=True):
        below = [h for h, s in enumerate(of_row.steps) if s.q < found["threshold"]]
        kind = "correct" if row["label"] == -1 else "erroneous"
        right[kind] += (below or [-1])[0] == row["label"]
    (other,) = found["subsets"].values()
    for kind, count in right.items():
        halves = (found["chosen_on"], other)
        of_halves = [half[kind] * half[f"accuracy_{kind}"][0] for half in halves]
        assert sum(of_halves) == pytest.approx(count)
    assert sum(right.values()) > 4
    assert main(["judge", *flags, f"--output={source}"]) == 2
    assert "is the input; give another --output" in capsys.readouterr().err
    flags[1] = "--on=relations"
    assert main(["judge", *flags, "--threshold_on=a"]) == 2
    assert "leave it out for --on=relations" in capsys.readouterr().err
