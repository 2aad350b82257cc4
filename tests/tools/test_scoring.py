"""`pav score`, `pav show` and `pav export`: numbers, and what cannot be scored."""

import doctest
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from full_disk import FullFor, check_message, small_disk
from stand_in import Bucket, contents
from tiny import byte_tokenizer
from tiny_run import ARCHITECTURE, CONFIG, TEXTS, write_data

from pav_jax import policy, verifier
from pav_jax import scores as scores_lib
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Response
from pav_jax.gemma import checkpoint as published
from pav_jax.main import main
from pav_jax.pipeline.runner import Stage, run_stages
from pav_jax.scores import score_responses
from pav_jax.storage import buckets, checkpoints
from pav_jax.tools import scoring

disk = pytest.fixture(small_disk)
bucket = pytest.fixture(contents)
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
    (tmp_path / "out.new").mkdir()
    (tmp_path / "out.new" / "mine.txt").touch()
    assert _export(run / "prm", tmp_path / "out") == 0
    assert (tmp_path / "out.new" / "mine.txt").exists()
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
    # A stage, but of something else: nothing there is damaged, or to be deleted.
    for stage in ("sft", "data"):
        words = rf"{stage} holds no verifier: it is of stage {stage}; give the workdir"
        with pytest.raises(UserError, match=words):
            scoring.Verifier.load(run / stage)
    # Data made anew, as by another config, while the verifier is the old one.
    other = tmp_path / "run"
    limits = CONFIG.copy_and_resolve_references().unlock()
    limits.limits.max_tokens = 71
    run_stages([Stage("data", write_data, (), ("limits",))], limits, other)
    (other / "prm").symlink_to(run / "prm")
    with pytest.raises(UserError, match="not trained on the tokens"):
        scoring.Verifier.load(other)


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
        (["--input=absent", f"--output={target}"], "cannot read"),
        ([f"--input={target}", "--count=0"], "at least 1"),
        ([f"--input={tmp_path / 'absent'}"], "cannot read"),
    ]:
        assert main(["show", *argv]) == 2
        assert words in capsys.readouterr().err
