"""A tokenizer's files for transformers: the same ids, or a clear refusal."""

import io
import json
from pathlib import Path

import pytest
import sentencepiece
from tiny import byte_tokenizer

from pav_jax import tasks
from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.gemma.tokenizer import Tokenizer, train_tokenizer
from pav_jax.gemma.tokenizer_json import tokenizer_files

REASON = "transformers is not in requirements.lock; make peers installs it"
ROOT = Path(__file__).resolve().parents[2]
PROSE = [path.read_text() for path in sorted(ROOT.glob("docs/*.md"))]
HARD = [
    "",
    " ",
    "  a  b\n\n c ",
    "日本 é",
    "1234 5,6",
    "\t\tx",
    "\n\n\n",
    "    a",
    "<0x0A>",
]


def _in_transformers(tokenizer, folder):
    transformers = pytest.importorskip("transformers", reason=REASON)
    for name, content in tokenizer_files(tokenizer).items():
        (folder / name).write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"model_type": "gemma2"}))
    return transformers.AutoTokenizer.from_pretrained(folder)


def _check(ours, theirs, texts):
    names = ("<pad>", "<eos>", "<bos>", "<unk>")
    for text in texts:
        is_named = any(name in text for name in names)
        ids = theirs(text, split_special_tokens=is_named).input_ids
        assert ids == [ours.bos_id, *ours.encode(text)], text
        assert theirs.decode(ids[1:]) == text
    known = [theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id]
    assert known == [ours.bos_id, ours.eos_id, ours.pad_id]
    assert len(theirs) == ours.vocab_size


@pytest.mark.slow
def test_transformers_gives_the_same_ids(tmp_path):
    texts = [line for text in PROSE for line in text.split("\n")] + PROSE + HARD
    for name, ours in (
        ("learnt", train_tokenizer(PROSE, vocab_size=1_500)),
        ("bytes", byte_tokenizer()),
    ):
        (tmp_path / name).mkdir()
        theirs = _in_transformers(ours, tmp_path / name)
        _check(ours, theirs, [text for text in texts if "\u2581" not in text])
    # The one difference: unless asked otherwise, names of special tokens are these.
    (eos,) = theirs("<eos>", add_special_tokens=False).input_ids
    assert eos == ours.eos_id
    plain = theirs("<eos>", add_special_tokens=False, split_special_tokens=True)
    assert plain.input_ids == ours.encode("<eos>")


@pytest.mark.slow
def test_so_it_does_for_a_closed_vocabulary(tmp_path):
    config = config_lib.load([f"--config={ROOT / 'experiments' / 'demo.py'}:smoke"])
    task = tasks.make_task(config.task)
    problems = task.problems("train", 30)
    texts = [text for p in problems for text in (p.prompt, p.solution)]
    ours = train_tokenizer(texts, vocab_size=512, pieces=task.vocabulary())
    _check(ours, _in_transformers(ours, tmp_path), texts + [p.prompt for p in problems])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(model_type="unigram"), "the tokenizer is not BPE;"),
        (dict(normalization_rule_name="nmt_nfkc"), r"changes texts \(by nmt_nfkc\)"),
        (
            dict(add_dummy_prefix=True, remove_extra_whitespaces=True),
            "puts a space before a text and drops spaces",
        ),
    ],
)
def test_another_kind_of_model_is_refused(options, words):
    model = io.BytesIO()
    as_ours = dict(
        model_type="bpe",
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        pad_id=3,
    )
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a quick brown fox", "jumps over it"]),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=3,
        **(as_ours | options),
    )
    with pytest.raises(UserError, match=words):
        tokenizer_files(Tokenizer(model.getvalue()))
