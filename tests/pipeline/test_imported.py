"""Step labels of others in a run: their tokens, what they mean, and a verifier."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import byte_tokenizer

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.core.types import Problem
from pav_jax.gemma.tokenizer import train_tokenizer
from pav_jax.main import main
from pav_jax.pipeline import imported
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.stages import stages
from pav_jax.storage import imports, records
from pav_jax.storage.imports import LabelledText, Meaning
from pav_jax.tasks import make_task

DEMO = str(Path(__file__).resolve().parents[2] / "experiments" / "demo.py")
STEPS = ("One\n\nthing.", "Two.\n", "  And three.\n\n")


def _row(steps=STEPS, finished=True, prompt="Why?", **kwargs):
    verdicts = {"correct": (1,) * len(steps), "count": (1,) * len(steps)}
    return LabelledText(prompt, tuple(steps), finished=finished, **verdicts | kwargs)


@pytest.mark.parametrize("finished", [True, False])
def test_every_prefix_decodes_to_its_steps(finished):
    tokenizer = byte_tokenizer()
    prompt, tokens, ends = imported.encode(tokenizer, _row(finished=finished))
    assert prompt == (tokenizer.bos_id, *tokenizer.encode("Why?\n"))
    texts = ["", "One\n\nthing.\n", "Two.\n", "  And three." + "\n" * (not finished)]
    for number, end in enumerate(ends):
        assert tokenizer.decode(tokens[:end]) == "".join(texts[: number + 1])
    assert len(tokens) == ends[-1]
    assert (tokens[-1] == tokenizer.eos_id) is finished


def test_no_token_spans_the_end_of_a_step():
    """Else they are the tokens of the whole text."""
    merging = train_tokenizer((), vocab_size=99, pieces=["a", "b", "\n", "\nb"])
    assert len(merging.encode("a\nb")) == 2  # so that this tokenizer would
    _, tokens, ends = imported.encode(merging, _row(["a", "b"], prompt="a"))
    assert [merging.decode(tokens[:end]) for end in ends] == ["", "a\n", "a\nb"]
    learnt = train_tokenizer(["one and one and then"] * 9, vocab_size=280)
    _, tokens, ends = imported.encode(learnt, _row(["one and", "then one"]))
    assert list(tokens[:-1]) == learnt.encode("one and\nthen one")
    assert learnt.decode(tokens[: ends[1]]) == "one and\n"


@pytest.mark.parametrize(
    ("correct", "count", "expected"),
    [
        ((1, 1, 0, 1), (1, 1, 1, 1), ((1, 1, 1, 0, 0), (1, 1, 1, 1, 1))),
        ((1, 0, 1, 0), (1, 0, 1, 1), ((1, 1, 0, 0, 0), (1, 1, 0, 0, 1))),  # 2 unknown
        ((0, 1), (1, 1), ((1, 0, 0), (1, 1, 1))),
    ],
)
def test_a_prefix_is_right_if_all_its_steps_are(correct, count, expected):
    row = _row("abcd"[: len(count)], correct=correct, count=count)
    assert imported.of_prefixes(row, Meaning.STEP) == expected
    for other, of_prompt in ((Meaning.PREFIX, 1), (Meaning.ANY_OF_N, 0)):
        kept = (of_prompt, *correct), (of_prompt, *count)
        assert imported.of_prefixes(row, other) == kept


def _stage(tmp_path, rows, meaning=Meaning.MONTE_CARLO, outcome_field="outcome"):
    """The folder of stage `labels`, and what it said."""
    about = {"format": "jsonl", "meaning": meaning.value}
    imports.write(tmp_path / "source", rows)
    imports.write_about(tmp_path / "source", about | {"outcome_field": outcome_field})
    return _tokenized(tmp_path, tmp_path / "source")


def _tokenized(tmp_path, source, size=20):
    data, out = tmp_path / "data", tmp_path / "labels"
    for folder in (data, out):
        folder.mkdir(parents=True, exist_ok=True)
    byte_tokenizer().save(data / "tokenizer.model")
    config = ConfigDict(dict(limits=dict(max_prompt_tokens=12, max_tokens=size)))
    config.labels = {"from": str(source), "shard": 2}
    said = []
    context = StageContext("labels", config, out, {"data": data})
    object.__setattr__(context, "log", said.append)
    imported.run_imported_labels(context)
    return out, said


def test_counts_are_kept_and_what_cannot_be_used_is_said(tmp_path):
    rows = [
        _row("ab", correct=(3, 0), count=(4, 1), prompt_correct=5, prompt_count=8)
        if i == 0
        else _row("ab", prompt="Who?", correct=(2, 0), count=(2, 0), outcome=i == 1)
        for i in range(3)
    ]
    rows[2:2] = [_row(["a" * 20]), _row("abc", prompt="Why?", first=2)]
    out, said = _stage(tmp_path, rows)
    responses, found = records.read_labelled(out)
    table = [(x.ends.tolist(), x.correct.tolist(), x.count.tolist()) for x in found]
    assert table == [
        ([0, 2, 4], [5, 3, 0], [8, 4, 1]),
        ([2], [2], [2]),
        ([6], [1], [1]),
        ([2], [2], [2]),
    ]
    first, second, third, fourth = (r.problem for r in responses)
    assert {first, second} == {0, 1} and (third, fourth) == (first, second)
    assert [len(list(out.glob(f"{x}-*.npz"))) for x in ("shard", "outcomes")] == [2, 2]
    assert "1 response longer than config.limits" in said[0]
    assert "6 labels of 4 responses from jsonl; the value of a prefix is k/n" in said[1]
    assert [r.correct for r in imported.read_outcomes(out)] == [True, False]


def test_what_verifiers_are_evaluated_on_is_left_out(tmp_path):
    """By the prompt, but for white space; other problems are numbered without it."""
    (tmp_path / "data").mkdir()
    for split, prompt in (("validation", "Who  is?\n"), ("test", "Why?\n")):
        path = tmp_path / "data" / f"{split}.jsonl"
        records.write_problems(path, [Problem(prompt, "1")])
    ours = [_row("ab", prompt=prompt) for prompt in ("How?", "why?", "How?")]
    theirs = [_row("ab", prompt=prompt) for prompt in ("Who\nis?", "Why?", " Why? ")]
    out, said = _stage(tmp_path, [*theirs, *ours])
    assert said[0] == (
        "3 responses to problems of the validation or test split: left out"
    )
    assert "6 labels of 3 responses" in said[1]
    about = json.loads((out / "about.json").read_text())
    assert about["left_out_of_validation_or_test"] == 3
    alone, _ = _stage(tmp_path / "alone", ours)
    kept = [[r.problem for r in records.read_labelled(x)[0]] for x in (out, alone)]
    assert kept[0] == kept[1] and set(kept[0]) == {0, 1}
    with pytest.raises(UserError, match="used: 3 responses to problems of the valida"):
        _stage(tmp_path, theirs)


def test_no_shard_of_a_longer_import_that_was_stopped_stays(tmp_path):
    _stage(tmp_path, [_row("ab", prompt=prompt) for prompt in ("Who?", "Why?", "How?")])
    out, _ = _stage(tmp_path, [_row("ab", outcome=True)])
    responses, found = records.read_labelled(out)
    assert len(responses) == len(found) == 1
    assert [len(list(out.glob(f"{x}-*.npz"))) for x in ("shard", "outcomes")] == [1, 1]


def test_what_is_done_with_verdicts_is_said(tmp_path):
    rows = [_row(["a\nb", "c", "d"], correct=(1, 0, 1))]
    _, said = _stage(tmp_path, rows, Meaning.STEP)
    assert "is turned into that of the prefix" in said[0]
    assert "1 response a right step follows a wrong one" in said[1]
    assert "1 step of several lines kept whole" in said[2]
    _, said = _stage(tmp_path / "other", rows, Meaning.ANY_OF_N)
    assert "Q is the value of best-of-n" in said[0]
    assert "no bare prompt has a label" in said[1]


def test_a_step_after_one_that_nobody_rated_is_left_out_and_told(tmp_path):
    """It is not one that follows a wrong step."""
    unrated = _row("abcd", correct=(1, 0, 1, 1), count=(1, 0, 1, 1))
    out, said = _stage(tmp_path, [unrated], Meaning.STEP)
    _, (found,) = records.read_labelled(out)
    assert (found.ends.tolist(), found.q.tolist()) == ([0, 2], [1, 1])
    assert said[1:] == [
        "2 labels of right steps that follow one without a label: left out, since"
        " whether that one is right is not known"
    ]
    # Then a wrong one: from there on every prefix is, and what is right is turned.
    rows = [
        _row("abcd", correct=(0, 1, 0, 1), count=(0, 1, 1, 1)),
        _row("abcd", correct=(0, 1, 0, 0), count=(0, 1, 1, 1), prompt="Who?"),
        # Only the labels of a response's own steps, behind the ones it shares.
        _row("abcd", correct=(0, 1, 0, 1), count=(0, 1, 1, 1), prompt="How?", first=4),
        _row("abcd", prompt="Who?"),
    ]
    _, said = _stage(tmp_path / "wrong", rows, Meaning.STEP)
    assert "1 response without a label" in said[0]
    assert "in 1 response a right step follows a wrong one" in said[2]
    assert said[3].startswith("2 labels of right steps that follow one without")
    assert len(said) == 4


_LISTED = ["Step 1: 1+1=3", "Step 2: so\n4", "Step 3: 4"]  # the second is wrong
_TAGGED = "Why? Step 1: 1+1=3 ки\nStep 2: so\n4 ки\nStep 3: 4 ки"
_SIGNED = "Why? Step 1: 1+1=3 +\nStep 2: so\n4 -\nStep 3: 4 -"
_RATED = [
    {"completions": [{"text": text, "rating": rating}], "chosen_completion": 0}
    for text, rating in zip(_LISTED, (1, -1, 1), strict=True)
]


@pytest.mark.parametrize(
    ("form", "row"),
    [
        (
            "prm800k",
            {
                "question": {"problem": "Why?"},
                "label": {"steps": _RATED, "finish_reason": "solution"},
            },
        ),
        ("math_shepherd", {"input": _TAGGED, "label": _SIGNED}),
        ("trl", {"prompt": "Why?", "completions": _LISTED, "labels": [1, 0, 1]}),
        ("processbench", {"problem": "Why?", "steps": _LISTED, "label": 1}),
        (
            "jsonl",
            {
                "prompt": "Why?",
                "steps": _LISTED,
                "correct": [1, 0, 0],
                "count": [1] * 3,
            },
        ),
    ],
)
def test_all_formats_of_one_response_train_alike(tmp_path, form, row):
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(row))
    argv = [f"--input={source}", f"--output={tmp_path / 'source'}"]
    assert main(["import", f"--from={form}", *argv]) == 0
    out, _ = _tokenized(tmp_path, tmp_path / "source", size=60)
    (response,), (found,) = records.read_labelled(out)
    text = "Step 1: 1+1=3\nStep 2: so\n4\nStep 3: 4"
    tokenizer = byte_tokenizer()
    assert response.tokens == (*tokenizer.encode(text), tokenizer.eos_id)
    of_steps = {e: q for e, q in zip(found.ends, found.q, strict=True) if e}
    assert of_steps == {14: 1, 27: 0, 37: 0}  # characters, and the end token
    # What is known of the bare prompt: nothing, or that no step of it is wrong.
    assert (0 in found.ends) is (form in ("prm800k", "trl", "processbench"))


def test_an_outcome_alone_is_for_the_orm(tmp_path):
    rows = [
        _row("ab", outcome=True),
        _row("b", correct=(0,), count=(0,), outcome=False),
    ]
    out, _ = _stage(tmp_path, rows)
    assert len(imported.read_outcomes(out)) == 2
    responses, labels = records.read_labelled(out)
    assert [len(r.tokens) for r in responses] == [labels[0].ends[-1]]


@pytest.mark.parametrize(
    ("rows", "field", "words"),
    [
        ([_row("a")], None, "has no field for it"),
        ([_row("a")], "outcome", "has none, in field outcome"),
        ([_row("a", outcome=True)], "outcome", "only says of some that it is right"),
    ],
)
def test_an_orm_needs_outcomes(tmp_path, rows, field, words):
    out, _ = _stage(tmp_path, rows, outcome_field=field)
    with pytest.raises(UserError, match=f"{words}.*--until=prm"):
        imported.read_outcomes(out)


def test_no_response_of_use(tmp_path):
    with pytest.raises(UserError, match="can be used: 1 response longer than"):
        _stage(tmp_path, [_row(["a" * 40])])
    with pytest.raises(UserError, match="not a folder that pav import wrote"):
        (tmp_path / "source" / "about.json").unlink()
        imports.read_about(tmp_path / "source")


def _config(**sections):
    config = config_lib.load([f"--config={DEMO}:smoke", "--config.labels.from=DIR"])
    with config.unlocked():
        config.update(sections)
    return config


def test_stages():
    found = {stage.name: stage for stage in stages(_config())}
    assert "rollouts" not in found
    assert found["labels"].needs == ("data",)
    assert found["prm"].needs == found["orm"].needs == ("data", "sft", "labels")
    for stage in found.values():
        config_lib.select(_config(), stage.fields)
    own = config_lib.load([f"--config={DEMO}:smoke"])
    fields = {s.name: s.fields for s in stages(own)}
    assert "labels.from" not in fields["labels"] and "labels.n_mc" in fields["labels"]
    with_prover = _config(provers=dict(mu=dict(n_mc=2)))
    assert "rollouts" in [stage.name for stage in stages(with_prover)]
    with pytest.raises(UserError, match="first_pit continues rollouts of one's own"):
        first_pit = dict(threshold=0.5, n_mc=2, responses=2)
        stages(_config(labels=dict(first_pit=first_pit)))


def _published(path):
    """Responses to the built-in task as ProcessBench has them, half with an error.
    Returns how many steps they have."""
    task = config_lib.load([f"--config={DEMO}:smoke"]).task
    problems = make_task(task).problems("train", 60)
    rng, rows = random.Random(0), []
    for number, problem in enumerate(problems):
        steps, error = problem.solution.split("\n"), -1
        if number % 2:
            error = rng.randrange(len(steps) - 1)  # the last one has the answer
            other = problems[number - 1].solution.split("\n")
            steps[error] = other[min(error, len(other) - 2)]
        row = {"id": f"relations-{number}", "generator": "none"}
        row |= {"problem": problem.prompt, "steps": steps, "label": error}
        rows.append(json.dumps(row | {"final_answer_correct": error < 0}))
    path.write_text("\n".join(rows))
    return sum(len(json.loads(row)["steps"]) for row in rows)


def test_a_verifier_without_rollouts(tmp_path, capsys):
    steps = _published(tmp_path / "relations.json")
    folder, workdir = tmp_path / "imported", tmp_path / "run"
    argv = [f"--input={tmp_path / 'relations.json'}", f"--output={folder}"]
    assert main(["import", "--from=processbench", *argv]) == 0
    argv = [f"--config={DEMO}:smoke", f"--workdir={workdir}", "--until=orm"]
    assert main(["run", *argv, f"--config.labels.from={folder}"]) == 0
    said = capsys.readouterr().err
    labelled = f"{steps + 60} labels of 60 responses from processbench"
    assert f"labels: {labelled}; that a prefix is right" in said
    assert not (workdir / "rollouts").exists()
    for name in ("prm", "orm"):
        lines = (workdir / name / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1])["step"] == 20
        assert (workdir / name / "params").is_dir()
    responses, found = records.read_labelled(workdir / "labels")
    assert len({r.problem for r in responses}) == 60
    for response, labels in zip(responses, found, strict=True):
        assert labels.ends[-1] == len(response.tokens)
        assert not np.any(np.diff(labels.correct) > 0)  # never right again
        assert labels.correct[-1] == response.correct
