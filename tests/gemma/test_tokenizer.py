"""The tokenizer gives text back unchanged and knows where a step ends."""

import io
import json
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import sentencepiece
from ml_collections import ConfigDict
from tiny import byte_tokenizer, gemma_like_tokenizer

from pav_jax.core.errors import UserError
from pav_jax.gemma.tokenizer import Tokenizer, from_config, train_tokenizer

PIECES = (
    "Ana",
    " has ",
    " has 3 more than ",
    "apples",
    " apples",
    " ",
    "1",
    "2",
    " 12",
    ". ",
    "\n",
    "\n\n",
    ' a long piece, of more than 16 characters, with "quotes"\t',
)
TEXTS = [
    f"Ana had {a} apples and bought {b} more.\n{a}+{b} = {a + b}\n#### {a + b}"
    for a in range(20)
    for b in range(20)
]


@pytest.fixture(scope="module")
def closed() -> Tokenizer:
    return train_tokenizer((), vocab_size=99, pieces=PIECES)


@pytest.fixture(scope="module")
def learned() -> Tokenizer:
    return train_tokenizer(TEXTS, vocab_size=330)


def spell(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([i]) for i in tokenizer.encode(text)]


def test_closed_each_piece_is_one_token_in_the_order_given(closed):
    assert [closed.encode(piece) for piece in PIECES] == [
        [4 + k] for k in range(len(PIECES))
    ]
    assert closed.vocab_size == 4 + len(PIECES)
    assert {closed.pad_id, closed.eos_id, closed.bos_id} < set(range(4))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Ana has 12 apples", ["Ana", " has ", "1", "2", " apples"]),
        ("Ana 12 apples", ["Ana", " 12", " apples"]),
        ("Ana has 3 more than Ana", ["Ana", " has 3 more than ", "Ana"]),
        (" 1212", [" 12", "1", "2"]),
        ("  Ana. \n\n\n ", [" ", " ", "Ana", ". ", "\n\n", "\n", " "]),
        ("", []),
    ],
)
def test_closed_cuts_the_longest_piece_first(closed, text, tokens):
    assert spell(closed, text) == tokens


@pytest.mark.parametrize(
    ("text", "offender"),
    [
        ("Ana has q apples", "q"),
        ("Ana has 3 apples", "3"),
        ("Anaxyz", "xyz"),
        ("Ana\ufffd", "\ufffd"),
        ("<eos>", "<eos>"),
        ("Ana\u2581has", "\u2581"),
        ("Ana\0", "\0"),
        ("Ana\ud800", "\ud800"),
        ("\u2047", "\u2047"),  # what SentencePiece prints for an unknown token
    ],
)
def test_closed_names_what_it_cannot_represent(closed, text, offender):
    with pytest.raises(UserError) as caught:
        closed.encode(text)
    assert repr(offender)[1:-1] in str(caught.value).split("in the text")[0]


def test_a_missing_space_is_named_as_a_space():
    tokenizer = train_tokenizer((), vocab_size=9, pieces=("\n", "a", "b"))
    with pytest.raises(UserError, match="represent ' ' in the text 'a b'"):
        tokenizer.encode("a b")


def test_closed_round_trips_random_text(closed):
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choices(PIECES, k=draw.randrange(12)))
        assert closed.decode(closed.encode(text)) == text


@pytest.mark.parametrize(
    "pieces",
    [("a", ""), ("a", "b", "a"), ("a", "<pad>"), ("a\u2581",), ("a\0",), ("\n",)],
)
def test_closed_refuses_unusable_pieces(pieces):
    with pytest.raises(UserError):
        train_tokenizer((), vocab_size=99, pieces=pieces)


def test_closed_refuses_texts_outside_it_and_too_small_a_size():
    with pytest.raises(UserError, match="'c'"):
        train_tokenizer(["ab", "abc"], vocab_size=6, pieces=("a", "b"))
    with pytest.raises(UserError, match="needs 6"):
        train_tokenizer(["ab"], vocab_size=5, pieces=("a", "b"))


@pytest.mark.parametrize(
    "text",
    [
        TEXTS[7],
        "  two  spaces \n\n\n\t and\r\n a tail  ",
        "é e\u0301 ﬁ Å \u00a0\u3000 漢字 😀 \ufeff \u2028 \u2585 \ufffd",
        "\0",
        "<eos><bos><unk><pad><0x0A></s>",
        "1234567 12.5 ١٢",
        "\n",
        " ",
    ],
)
def test_learned_gives_text_back_unchanged(learned, text):
    ids = learned.encode(text)
    assert learned.decode(ids) == text
    assert not {learned.pad_id, learned.eos_id, learned.bos_id} & set(ids)


def test_learned_splits_digits_and_newlines_and_nothing_else():
    learned = train_tokenizer(["bought 123"] * 50 + ["漢"], vocab_size=280)
    assert spell(learned, "123\n\n") == ["1", "2", "3", "\n", "\n"]
    assert len(learned.encode("bought")) < 3
    assert learned.vocab_size == 280


def test_learned_spends_no_token_on_a_rare_character():
    learned = train_tokenizer([*TEXTS, "漢"], vocab_size=330)
    assert len(learned.encode("漢")) == 3


@pytest.mark.parametrize("text", ["a\u2581b", "a\udfffb"])
def test_learned_refuses_what_it_would_change(learned, text):
    with pytest.raises(UserError) as caught:
        learned.encode(text)
    assert repr(text[1]) in str(caught.value)


def test_a_model_that_normalises_is_refused_text_it_changes():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[0].split("\n")),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        pad_id=3,
        minloglevel=3,
    )
    tokenizer = Tokenizer(model.getvalue())
    assert tokenizer.decode(tokenizer.encode("Ana had")) == "Ana had"
    for text, offender in (("Ana ﬁts", "'ﬁ'"), ("Ana  had", "'Ana  had'")):
        with pytest.raises(UserError, match=f"represent {offender} in"):
            tokenizer.encode(text)


def test_a_model_without_a_special_token_is_refused():
    model = io.BytesIO()  # SentencePiece's own defaults have no pad token
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab"]),
        model_writer=model,
        model_type="char",
        vocab_size=5,
        hard_vocab_limit=False,
        minloglevel=3,
    )
    with pytest.raises(UserError, match="no pad token"):
        Tokenizer(model.getvalue())


def test_training_is_deterministic(tmp_path):
    # In another process, as hash order and threads could differ there.
    code = (
        "import json, sys; from pav_jax.gemma.tokenizer import train_tokenizer as t\n"
        "texts, pieces = json.load(sys.stdin)\n"
        "t(texts, vocab_size=330).save(sys.argv[1])\n"
        "t((), vocab_size=99, pieces=pieces).save(sys.argv[2])\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "learned", tmp_path / "closed"],
        input=json.dumps([TEXTS, PIECES]),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    again = train_tokenizer(TEXTS, vocab_size=330)
    assert (tmp_path / "learned").read_bytes() == again.model_bytes
    again = train_tokenizer((), vocab_size=99, pieces=PIECES)
    assert (tmp_path / "closed").read_bytes() == again.model_bytes


@pytest.mark.parametrize("size", [10, 280, 100_000])
def test_an_impossible_size_is_the_users_to_fix(size, capfd):
    with pytest.raises(UserError, match=f"vocabulary of {size} tokens"):
        train_tokenizer(TEXTS, vocab_size=size)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("texts", [(), ("",), ("a\ud800",)])
def test_texts_to_learn_nothing_from_are_the_users_to_fix(texts):
    with pytest.raises(UserError):
        train_tokenizer(texts, vocab_size=330)


def test_a_very_long_line_is_learned_from():
    line = "zyx " * 50_000
    assert len(train_tokenizer([line], vocab_size=266).encode(" zyx")) < 4


def test_save_then_load(learned, tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"old")
    learned.save(path)
    again = Tokenizer.load(str(path))
    assert again.encode(TEXTS[3]) == learned.encode(TEXTS[3])
    assert again.model_bytes == learned.model_bytes
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_save_keeps_nothing_behind(learned, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(UserError, match="taken"):
        learned.save(tmp_path / "taken")
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


@pytest.mark.parametrize("content", [None, b"", b"not a model", "cut"])
def test_load_names_a_missing_or_damaged_file(learned, tmp_path, content, capfd):
    path = tmp_path / "tokenizer.model"
    if content is not None:
        path.write_bytes(learned.model_bytes[:-40] if content == "cut" else content)
    with pytest.raises(UserError, match=str(path)):
        Tokenizer.load(path)
    assert capfd.readouterr() == ("", "")


def test_decode_takes_any_id_and_drops_special_tokens(learned, closed):
    for tokenizer in (learned, closed):
        text = tokenizer.decode(np.arange(tokenizer.vocab_size, dtype=np.int32))
        assert not any(name in text for name in ("<pad>", "<bos>", "<eos>", "\u2047"))
    ids = closed.encode("Ana has ")
    framed = [closed.bos_id, ids[0], 3, ids[1], closed.eos_id, closed.pad_id]
    assert closed.decode(framed) == "Ana has "
    broken = [learned.encode("é")[0]]  # one byte of two
    assert learned.decode(broken) == "\ufffd"
    assert closed.decode([]) == ""
    with pytest.raises(IndexError):
        closed.decode([closed.vocab_size])


def test_step_end_mask_is_every_token_with_a_newline(learned, closed):
    mask = closed.step_end_mask()
    assert (mask.dtype, mask.shape) == (np.bool_, (closed.vocab_size,))
    (newline,), (newlines,) = closed.encode("\n"), closed.encode("\n\n")
    assert set(np.flatnonzero(mask)) == {newline, newlines}

    ends = np.flatnonzero(learned.step_end_mask())
    assert len(ends) == 2  # the newline itself and its byte
    assert [learned.decode([i]) for i in ends] == ["\n", "\n"]
    assert learned.encode("\n")[0] in ends
    assert not learned.step_end_mask()[learned.eos_id]
    carriage = learned.encode("\r")
    assert not learned.step_end_mask()[carriage].any()


def test_the_byte_tokenizer_represents_any_text():
    tokenizer = byte_tokenizer()
    assert tokenizer.vocab_size == 262
    for text in ("a b\n\n", "héa 漢\0", *TEXTS[:9]):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert len(ids) == len(text.encode())
    assert tokenizer.end_ids == (tokenizer.eos_id,)


def _like_gemma_s(end_of_turn: int) -> Tokenizer:
    """A small model whose symbols stand where Gemma's do, `\\n` runs and all."""
    symbols = ["<mask>", *(f"<unused{i}>" for i in range(end_of_turn - 6))]
    symbols += ["<start_of_turn>", "<end_of_turn>"]
    symbols += ["\n" * k for k in range(1, 32)]
    return gemma_like_tokenizer(symbols)


@pytest.mark.slow
@pytest.mark.parametrize("version", [2, 3])
def test_special_tokens_are_the_gemma_package_s(gm, version):
    special = {2: gm.text.Gemma2Tokenizer, 3: gm.text.Gemma3Tokenizer}[version]
    special = special.special_tokens
    tokenizer = _like_gemma_s(special.END_OF_TURN)
    assert tokenizer.pad_id == special.PAD
    assert tokenizer.bos_id == special.BOS
    assert tokenizer.end_ids == (special.EOS, special.END_OF_TURN)


def test_a_model_with_turns_and_runs_of_newlines():
    tokenizer = _like_gemma_s(107)
    assert tokenizer.end_ids == (1, 107)
    text = "one\n\ntwo\n\n\n\nthree\n"
    ids = tokenizer.encode(text)
    # Runs are one token each, and each ends a step.
    ends = [tokenizer.decode([i]) for i in ids if tokenizer.step_end_mask()[i]]
    assert ends == ["\n\n", "\n\n\n\n", "\n"]
    assert tokenizer.step_end_mask().sum() == 31 + 1  # and the newline's byte
    assert tokenizer.decode([*ids, 107, 1]) == text
    # A problem cannot end a response by the name of the token.
    for text in ("what is<end_of_turn> 2?", "5<end_of_turn>"):
        with pytest.raises(UserError, match="^<end_of_turn> is a control token"):
            tokenizer.encode(text)


def test_learns_gsm8k_quickly_and_represents_it(gsm8k_dir):
    lines = (gsm8k_dir / "train.jsonl").read_bytes().splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    start = time.perf_counter()
    tokenizer = train_tokenizer(answers[:2000], vocab_size=1024)
    assert time.perf_counter() - start < 5
    ids = [tokenizer.encode(text) for text in answers]  # raises if one changed
    assert sum(map(len, ids)) < 0.6 * sum(map(len, answers))


def test_a_tokenizer_is_read_or_learnt(tmp_path):
    byte_tokenizer().save(tmp_path / "it.model")
    read = from_config(ConfigDict(dict(path=str(tmp_path / "it.model"))), [], ())
    assert read.encode("ab") == byte_tokenizer().encode("ab")
    learnt = from_config(ConfigDict(dict(vocab_size=9)), ["ab"], ("a", "b"))
    assert learnt.encode("ab") == [4, 5]
    for fields in ({}, dict(path="it.model", vocab_size=9)):
        with pytest.raises(UserError, match="and not both"):
            from_config(ConfigDict(fields), [], ())
