"""A tokenizer.json gives the ids of the SentencePiece model that it was made of."""

import copy
import json
import random

import pytest
from sentencepiece import sentencepiece_model_pb2
from tiny import gemma_like_tokenizer

from pav_jax.core.errors import UserError
from pav_jax.gemma.sentencepiece_model import Kind, Piece, model_bytes
from pav_jax.gemma.tokenizer import Tokenizer, train_tokenizer

# What Gemma's model has beside learnt pieces.
ADDED = [
    "<mask>",
    "<start_of_turn>",
    "<end_of_turn>",
    *("\n" * k for k in range(1, 6)),
    *("\u2581" * k for k in range(2, 6)),
    "\t\t",
    "<h1>",
    "</td>",
]
TEXTS = [
    f"Ana had {a} apples, and then she had {a + b} of them.\n{a} + {b} = {a + b}"
    for a in range(12)
    for b in range(12)
]
_TYPES = sentencepiece_model_pb2.ModelProto.SentencePiece


@pytest.fixture(scope="module")
def gemma_like() -> Tokenizer:
    """Learnt by SentencePiece with Gemma's settings, and pieces like its added ones."""
    return gemma_like_tokenizer(
        ADDED,
        [line for text in TEXTS for line in text.split("\n")],
        340,
        hard_vocab_limit=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        eos_piece="<eos>",
        bos_piece="<bos>",
    )


def _proto(tokenizer: Tokenizer) -> sentencepiece_model_pb2.ModelProto:
    return sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model_bytes)


@pytest.fixture(scope="module")
def stated(gemma_like) -> dict:
    """The tokenizer.json of that, as transformers makes it: pairs by brute force.

    By falling score, and then by the lengths of the two.
    """
    pieces = _proto(gemma_like).pieces
    vocab = {piece.piece: i for i, piece in enumerate(pieces)}
    merges = [
        (piece.score, cut, len(name) - cut, [name[:cut], name[cut:]])
        for piece in pieces
        for name in [piece.piece]
        for cut in range(1, len(name))
        if name[:cut] in vocab and name[cut:] in vocab
    ]
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": i, "content": piece.piece, "special": i < 4, **flags}
        for i, piece in enumerate(pieces)
        if piece.type in (_TYPES.CONTROL, _TYPES.UNKNOWN, _TYPES.USER_DEFINED)
    ]
    picture = {"id": len(pieces), "content": "<image_soft_token>", "special": True}
    return {
        "version": "1.0",
        "added_tokens": [*added, picture | flags],
        "normalizer": {
            "type": "Replace",
            "pattern": {"String": " "},
            "content": "\u2581",
        },
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
        "post_processor": None,
        "decoder": {"type": "Fuse"},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": [pair for *_, pair in merges],
        },
    }


def _load(tmp_path, stated) -> Tokenizer:
    path = tmp_path / "tokenizer.json"
    path.write_text(stated if isinstance(stated, str) else json.dumps(stated))
    return Tokenizer.load(path)


def _random_texts() -> list[str]:
    draw = random.Random(0)
    parts = [*"Anhdpls0123 =+.\n\t é漢<>", "<h1>", "</td>", "  ", "   ", "had", " and"]
    return TEXTS + [
        "".join(draw.choices(draw.sample(parts, 4), k=draw.randrange(1, 40)))
        for _ in range(2_000)
    ]


def test_ids_are_those_of_the_model_that_it_was_made_of(tmp_path, gemma_like, stated):
    found = _load(tmp_path, stated)
    assert found.vocab_size == gemma_like.vocab_size == 340
    assert found.end_ids == gemma_like.end_ids == (1, 6)
    assert (found.pad_id, found.bos_id) == (0, 2)
    for text in _random_texts():
        ids = found.encode(text)
        assert ids == gemma_like.encode(text)
        assert found.decode(ids) == text
    assert (found.step_end_mask() == gemma_like.step_end_mask()).all()
    assert found.step_end_mask().sum() == 5 + 1  # runs of newlines, and its byte
    for text in ("5<end_of_turn>", "a\u2581b"):
        with pytest.raises(UserError):
            found.encode(text)


def test_ids_are_those_of_the_library_tokenizers(tmp_path, stated):
    tokenizers = pytest.importorskip("tokenizers", reason="make peers installs it")
    found = _load(tmp_path, stated)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in _random_texts():
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert found.encode(text) == ids, text


def test_the_model_of_a_file_is_saved_as_any_other(tmp_path, stated):
    found = _load(tmp_path, stated)
    found.save(tmp_path / "tokenizer.model")
    again = Tokenizer.load(tmp_path / "tokenizer.model")
    assert again.encode(TEXTS[5]) == found.encode(TEXTS[5])


def test_where_there_is_no_model_the_file_is_named(tmp_path, stated):
    _load(tmp_path, stated)
    with pytest.raises(
        UserError, match=f"No such file.*; {tmp_path}/tokenizer.json is"
    ):
        Tokenizer.load(tmp_path / "tokenizer.model")


def test_an_older_file_is_the_same(tmp_path, gemma_like, stated):
    """Pairs as one string, and the tab itself where its byte is."""
    older = copy.deepcopy(stated)
    model = older["model"]
    model["merges"] = [" ".join(pair) for pair in model["merges"]]
    model["vocab"] = {
        "\t" if name == "<0x09>" else name: i for name, i in model["vocab"].items()
    }
    model["merges"].insert(0, "\t \t")  # follows from a tab and two
    found = _load(tmp_path, older)
    for text in (*_random_texts()[-300:], "\t", "a\tb\t\tc\t\t\t"):
        assert found.encode(text) == gemma_like.encode(text)


def test_added_tokens_may_be_looked_for_among_pieces(tmp_path, gemma_like, stated):
    """As some files have it; no merge makes them then."""
    other = copy.deepcopy(stated)
    for token in other["added_tokens"]:
        token["normalized"] = not token["special"]
    other["model"]["merges"] = [
        pair
        for pair in other["model"]["merges"]
        if not {*pair, "".join(pair)}.intersection(ADDED)
    ]
    found = _load(tmp_path, other)
    for text in _random_texts()[-500:]:
        assert found.encode(text) == gemma_like.encode(text)


def test_a_vocabulary_without_bytes(tmp_path, stated):
    other = copy.deepcopy(stated)
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "a", "\u2581", "\u2581a", "\n"]
    other["added_tokens"] = [
        other["added_tokens"][i] | {"id": i, "content": pieces[i]}
        for i in (0, 1, 2, 3, 7)
    ]
    other["model"] |= {
        "byte_fallback": False,
        "vocab": {piece: i for i, piece in enumerate(pieces)},
        "merges": [["\u2581", "a"]],
    }
    found = _load(tmp_path, other)
    assert found.encode("a a\n") == [4, 6, 7]
    with pytest.raises(UserError, match="cannot represent 'b'"):
        found.encode("ab")


def _change(stated: dict, path: str, value) -> dict:
    changed = copy.deepcopy(stated)
    *outer, last = path.split("/")
    section = changed
    for name in outer:
        section = section[int(name) if name.isdigit() else name]
    section[last] = value
    return changed


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("pre_tokenizer", {"type": "ByteLevel"}, "its pre_tokenizer is ByteLevel"),
        ("pre_tokenizer/pattern", {"Regex": r"\s+"}, "its pre_tokenizer is Split"),
        ("normalizer", {"type": "NFKC"}, "its normalizer does more"),
        ("model/type", "Unigram", "model.type is 'Unigram' and not 'BPE'"),
        ("model/byte_fallback", False, "byte_fallback, and 256 tokens of the 256"),
        ("model/ignore_merges", True, "model.ignore_merges is True"),
        ("added_tokens/9/lstrip", True, "the token .* has lstrip"),
        ("model/merges", [["a", "n"]], "do not follow from its vocabulary"),
        ("model/vocab/an", 77_777, "its ids are not the numbers from 0 on"),
        ("model", None, "not a whole tokenizer.json"),
        ("added_tokens", [3], "not a whole tokenizer.json"),
    ],
)
def test_what_no_such_model_can_give_is_refused(tmp_path, stated, path, value, words):
    with pytest.raises(UserError, match=f"tokenizer.json: .*{words}"):
        _load(tmp_path, _change(stated, path, value))


def test_merges_in_an_order_of_their_own_are_refused(tmp_path, stated):
    merges = list(stated["model"]["merges"])
    pairs = {}
    for i, pair in enumerate(merges):
        pairs.setdefault("".join(pair), []).append(i)
    first, *_ = next(
        places
        for piece, places in pairs.items()
        if len(places) > 1 and piece not in ADDED
    )
    merges.append(merges.pop(first))
    with pytest.raises(UserError, match="other merges are between those of"):
        _load(tmp_path, _change(stated, "model/merges", merges))


@pytest.mark.parametrize("place", ["first", "last"])
def test_runs_of_spaces_that_are_not_joined_to_the_longest_are_refused(
    tmp_path, stated, place
):
    merges = list(stated["model"]["merges"])
    merges.remove(pair := ["\u2581", "\u2581"])
    merges.insert(0 if place == "first" else len(merges), pair)
    with pytest.raises(UserError, match="its runs of spaces are not joined first"):
        _load(tmp_path, _change(stated, "model/merges", merges))


def test_a_learnt_piece_around_an_added_run_of_spaces_is_refused(tmp_path, stated):
    """`tokenizers` could join it; SentencePiece takes the run first."""
    changed = copy.deepcopy(stated)
    model, size = changed["model"], len(stated["model"]["vocab"])
    model["vocab"]["\u2581\u2581a"] = size
    model["merges"] += [["\u2581\u2581", "a"]]
    if "\u2581a" in model["vocab"]:
        model["merges"] += [["\u2581", "\u2581a"]]
    changed["added_tokens"].pop()
    with pytest.raises(UserError, match="the learnt token '▁▁a' has the added '▁▁'"):
        _load(tmp_path, changed)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"model": {}}', "\x00"])
def test_a_damaged_file_is_named(tmp_path, content):
    with pytest.raises(UserError, match="cannot use the tokenizer .*tokenizer.json"):
        _load(tmp_path, content)


def test_a_missing_byte_is_refused(tmp_path, stated):
    changed = copy.deepcopy(stated)
    vocab = changed["model"]["vocab"]
    vocab["zz"] = vocab.pop("<0x7F>")
    with pytest.raises(UserError, match="255 tokens of the 256 bytes"):
        _load(tmp_path, changed)


def test_a_model_of_pieces_is_the_learnt_one():
    """What a model says of its pieces is enough to make it again."""
    learnt = train_tokenizer(TEXTS, vocab_size=330)
    pieces = [Piece(p.piece, p.score, Kind(p.type)) for p in _proto(learnt).pieces]
    made = Tokenizer(model_bytes(pieces))
    assert made.end_ids == learnt.end_ids
    for text in _random_texts():
        assert made.encode(text) == learnt.encode(text)
