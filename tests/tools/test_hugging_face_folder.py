"""`pav export --format=hf`: what we and transformers read of it."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from full_disk import check_message, small_disk
from sentencepiece import sentencepiece_model_pb2
from tiny_run import ARCHITECTURE, TEXTS

from pav_jax import policy
from pav_jax.core.errors import UserError
from pav_jax.gemma import checkpoint
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.main import main
from pav_jax.tools import hugging_face_folder, scoring

REASON = "transformers is not in requirements.lock; make peers installs it"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "hugging_face.md"
disk = pytest.fixture(small_disk)


def _export(stage, output, form="hf") -> int:
    where = [f"--stage={stage}", f"--output={output}"]
    return main(["export", *where, f"--format={form}"])


def _lines(folder) -> str:
    """The Python in a folder's README.md."""
    text = (folder / hugging_face_folder.CARD).read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return lines


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The folders of a policy, and of verifiers with a sum and with a plain head."""
    root = tmp_path_factory.mktemp("exported")
    for stage in ("sft", "prm", "orm"):
        assert _export(run / stage, root / stage) == 0
    return root


def test_a_policy_is_read_back_bit_for_bit(run, exported):
    jax.tree.map(
        np.testing.assert_array_equal,
        checkpoint.read(exported / "sft", architecture=ARCHITECTURE),
        policy.load_policy(run / "sft", ARCHITECTURE, np.dtype("float32")),
    )
    stated = json.loads((exported / "sft" / "generation_config.json").read_text())
    assert stated == {"bos_token_id": 2, "pad_token_id": 0, "eos_token_id": [1]}


@pytest.mark.parametrize("stage", ["prm", "orm"])
def test_pav_score_reads_a_verifier(run, exported, stage):
    ours = scoring.Verifier.load(run / stage)
    theirs = scoring.Verifier.load(exported / stage)
    assert jax.tree.structure(ours.prm) == jax.tree.structure(theirs.prm)
    jax.tree.map(np.testing.assert_array_equal, ours.prm, theirs.prm)
    texts = list(zip(*TEXTS, strict=True))
    assert ours.score(*texts) == theirs.score(*texts)
    assert ours.fingerprint == theirs.fingerprint


def test_the_docs_have_the_lines(exported):
    assert _lines(exported / "prm") in DOCS.read_text()
    (plain,) = re.findall(r"last `logits =`\s+write `(.*?)`", DOCS.read_text())
    assert f"    {plain}\n" in _lines(exported / "orm")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["prm", "orm"])
def test_the_lines_of_torch_give_our_values(run, exported, stage, monkeypatch):
    pytest.importorskip("transformers", reason=REASON)
    monkeypatch.chdir(exported / stage)
    names = {}
    exec(_lines(exported / stage), names)
    spread = []
    for text, scores in zip(
        TEXTS,
        scoring.Verifier.load(run / stage).score(*zip(*TEXTS, strict=True)),
        strict=True,
    ):
        prompt, response = text
        steps = [line for line in response.split("\n") if line]
        found = names["step_values"](prompt, "\n".join(steps))
        expected = [scores.prompt_q, *(step.q for step in scores.steps)]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        spread += expected
    assert np.std(spread) > 0.05


@pytest.mark.slow
def test_the_lines_of_a_policy_respond(run, exported, monkeypatch):
    pytest.importorskip("transformers", reason=REASON)
    monkeypatch.chdir(exported / "sft")
    names = {}
    exec(_lines(exported / "sft"), names)
    prompt, tokenizer = "What is 1 + 1?", Tokenizer.load("tokenizer.model")
    said = names["respond"](prompt, max_tokens=1)
    params = policy.load_policy(run / "sft", ARCHITECTURE, np.dtype("float32"))
    row = [tokenizer.bos_id, *tokenizer.encode(prompt + "\n")]
    hidden = policy.forward.hidden_states(
        params, np.array([row]), architecture=ARCHITECTURE
    )
    logits = policy.forward.logits(params, hidden[0, -1], architecture=ARCHITECTURE)
    assert said == tokenizer.decode([int(np.argmax(logits))])


# What cannot be written or read.


def test_nothing_is_written_of_what_cannot_be_exported(run, tmp_path, capsys):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    tokenizer = copy / "data" / "tokenizer.model"
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.read_bytes())
    model.normalizer_spec.add_dummy_prefix = True
    tokenizer.write_bytes(model.SerializeToString())
    before = sorted(tmp_path.rglob("*"))
    for stage, output, form, words in [
        ("prm", "out", "hf", "the tokenizer puts a space before a text; only a Sent"),
        ("sft", "run", "hf", "run exists; give another --output"),
        ("data", "out", "hf", "data is not the folder of a finished stage that trains"),
        ("sft", "out", "onnx", "invalid choice: 'onnx' (choose from"),
    ]:
        assert _export(copy / stage, tmp_path / output, form=form) == 2
        said = capsys.readouterr().err
        assert words in said and said.count("pav: ") == 1
        assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_head_is_an_error(exported, tmp_path):
    folder = tmp_path / "prm"
    shutil.copytree(exported / "prm", folder)
    head = safetensors.numpy.load_file(folder / hugging_face_folder.HEAD)
    for change, words in [
        ({"value": np.zeros(4, np.float32)}, r"'value': \(4,\).* where the archi"),
        (None, "head.safetensors is damaged"),
    ]:
        path = folder / hugging_face_folder.HEAD
        if change:
            safetensors.numpy.save_file(head | change, path)
        else:
            path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(UserError, match=words):
            scoring.Verifier.load(folder)


def test_to_a_full_disk(run, disk, capfd):
    disk.fill(20_000)
    assert _export(run / "prm", disk.root / "out") == 2
    check_message(capfd.readouterr().err, "safetensors")
    assert [path.name for path in disk.root.iterdir()] == ["ballast"]
