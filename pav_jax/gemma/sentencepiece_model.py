"""SentencePiece models made of the vocabularies that other files carry.

Gemma's tokenizer is published as a SentencePiece model and, for the library
`tokenizers`, as tokenizer.json; a GGUF file has the same vocabulary. SentencePiece
joins the neighbours that make the piece of highest score, and `tokenizers` those that
come first in its list of merges. That list follows from the order of the pieces, so
that a model can be made of it.
"""

import dataclasses
import enum
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from pav_jax.core.errors import UserError

SPACE = "\u2581"  # as which SentencePiece stores a space
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")  # ids 0 to 3, as in Gemma
_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_TAB = "<0x09>"
# Stands for a part of a picture. It is in tokenizer.json alone, behind the vocabulary.
_PICTURE = "<image_soft_token>"
# The settings of Gemma's tokenizer.json that decide on ids. What splits it at spaces
# finds none, since the normalizer has replaced them.
_NORMALIZER = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_SPLITTER = ("Split", {"String": " "})
_MODEL = {
    "type": "BPE",
    "byte_fallback": True,
    "dropout": None,
    "ignore_merges": False,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
}


class Kind(enum.IntEnum):
    """What a piece is, by SentencePiece's own numbers."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3  # never found in a text
    USER_DEFINED = 4  # cut out of a text before anything is joined
    BYTE = 6


@dataclasses.dataclass(frozen=True)
class Piece:
    """A token.

    Attributes:
      text: with U+2581 for each space; of a byte, such as `<0x0A>`.
      score: those of highest score are joined first; only of NORMAL ones.
      kind: what it is.
    """

    text: str
    score: float
    kind: Kind


def kind_of(name: str, *, is_added: bool) -> Kind:
    """What Gemma's SentencePiece model has a piece for.

    Args:
      name: of the piece.
      is_added: whether it was put into the vocabulary by name, and not learnt. Such are
        found in a text, also `<start_of_turn>`, but for the first four.
    """
    if name in SPECIAL:
        return Kind.UNKNOWN if name == "<unk>" else Kind.CONTROL
    if name in _BYTES:
        return Kind.BYTE
    return Kind.USER_DEFINED if is_added else Kind.NORMAL


def model_bytes(pieces: Sequence[Piece]) -> bytes:
    """A BPE model that changes no text, as Gemma's: no normalization, no added space.

    Args:
      pieces: in the order of their ids.

    Returns:
      The content of a `.model` file.
    """
    # Loads protobuf, which nothing else here needs.
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    for piece in pieces:
        model.pieces.add(piece=piece.text, score=piece.score, type=int(piece.kind))
    trained = model.trainer_spec
    trained.model_type = trained.BPE
    trained.vocab_size = len(pieces)
    trained.byte_fallback = any(piece.kind is Kind.BYTE for piece in pieces)
    trained.pad_piece, trained.eos_piece, trained.bos_piece, trained.unk_piece = SPECIAL
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = False
    model.normalizer_spec.remove_extra_whitespaces = False
    return model.SerializeToString()


def from_tokenizer_json(content: bytes) -> bytes:
    """The SentencePiece model that gives the ids of a tokenizer.json.

    Args:
      content: of the file, as published with Gemma or saved by transformers. A special
        token for pictures at its end is left out, as no text has it.

    Returns:
      The content of a `.model` file.

    Raises:
      UserError: the file is damaged; or it was not made of a SentencePiece model like
        Gemma's, so that no such model gives its ids.
    """
    try:
        return model_bytes(_pieces(json.loads(content)))
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"it is not a whole tokenizer.json ({type(error).__name__}: {error})"
        ) from error


def _pieces(stated: Mapping[str, Any]) -> list[Piece]:
    """The pieces of a tokenizer.json, as SentencePiece would have them."""
    model, added = stated["model"], stated["added_tokens"]
    _check_settings(stated)
    names = _names(model["vocab"], added)
    by_name = {token["content"] for token in added}
    # A tokenizer.json of before Gemma 3 has the tab itself in the place of its byte.
    tab_for_byte = "\t" in names and _TAB not in names
    if tab_for_byte:
        by_name.add("\t")
    merges = [
        tuple(merge.split(" ") if isinstance(merge, str) else merge)
        for merge in model["merges"]
    ]
    places = _places(model["vocab"], merges, by_name)
    pieces = [
        Piece(
            name.replace(" ", SPACE),
            -float(places.get(name, 0)),
            kind_of(name, is_added=name in by_name),
        )
        for name in names
    ]
    _check_cuts(pieces)
    if tab_for_byte:
        pieces[names.index("\t")] = Piece(_TAB, 0.0, Kind.BYTE)
    if missing := _BYTES - {piece.text for piece in pieces}:
        raise UserError(f"it lacks the token of the byte {min(missing)}")
    return pieces


def _check_settings(stated: Mapping[str, Any]) -> None:
    """Refuses what does not work as SentencePiece does."""
    model = stated["model"]
    splitter = stated["pre_tokenizer"]
    wrong = [
        f"model.{name} is {model.get(name)!r} and not {value!r}"
        for name, value in _MODEL.items()
        if (model.get(name) or None) != (value or None)
    ]
    if stated["normalizer"] != _NORMALIZER:
        wrong.append("its normalizer does more than to replace spaces")
    if splitter and (splitter["type"], splitter.get("pattern")) != _SPLITTER:
        wrong.append(f"its pre_tokenizer is {splitter['type']}")
    for token in stated["added_tokens"]:
        wrong += [
            f"the token {token['content']!r} has {flag}"
            for flag in ("lstrip", "rstrip", "single_word")
            if token.get(flag)
        ]
    _refuse(wrong)


def _refuse(wrong: Sequence[str]) -> None:
    if wrong:
        raise UserError(
            "it was not made of a SentencePiece model like Gemma's, the only kind that"
            f" can be read: {wrong[0]}"
        )


def _names(vocab: Mapping[str, int], added: Iterable[Mapping[str, Any]]) -> list[str]:
    """The tokens in the order of their ids."""
    by_name = dict(vocab)
    for token in added:
        if token["content"] != _PICTURE or _PICTURE in vocab:
            by_name[token["content"]] = token["id"]
    names = sorted(by_name, key=by_name.__getitem__)
    if [by_name[name] for name in names] != list(range(len(names))):
        raise UserError("its ids are not the numbers from 0 on, each once")
    return names


def _places(
    vocab: Collection[str], merges: Sequence[tuple[str, str]], added: Collection[str]
) -> dict[str, int]:
    """The place of each piece in the order in which pieces are joined.

    Args:
      vocab: the pieces.
      merges: pairs of them, the first to be joined first.
      added: pieces that are cut out whole, whatever the merges.

    Raises:
      UserError: the merges are not all the pairs that make a piece, or those of a piece
        are apart; the order of pieces alone then does not give the ids.
    """
    places: dict[str, int] = {}
    last = None
    for rank, merge in enumerate(merges):
        piece = "".join(merge)
        if piece in places and piece != last and piece not in added:
            _refuse([f"other merges are between those of {piece!r}"])
        places.setdefault(piece, rank)
        last = piece
    implied = {
        (piece[:i], piece[i:])
        for piece in vocab
        for i in range(1, len(piece))
        if piece[:i] in vocab and piece[i:] in vocab
    }
    _check_runs(merges, added)
    if odd := implied ^ set(merges):
        _refuse([f"its merges do not follow from its vocabulary, such as {min(odd)}"])
    return places


def _check_runs(merges: Sequence[tuple[str, str]], added: Collection[str]) -> None:
    """Refuses added runs of spaces of which a text would not get the longest.

    `tokenizers` joins them like learnt pieces; SentencePiece takes the longest first.
    """
    places, lengths, learnt = [], [], len(merges)
    for rank, (left, right) in enumerate(merges):
        if left + right not in added:
            learnt = min(learnt, rank)
        elif SPACE in left:
            places.append(rank)
            lengths.append((len(left), len(right)))
    if lengths != sorted(lengths, reverse=True) or max(places, default=-1) > learnt:
        _refuse(["its runs of spaces are not joined first, to the longest"])


def _check_cuts(pieces: Sequence[Piece]) -> None:
    """Refuses learnt pieces that SentencePiece could not make.

    It cuts user-defined pieces out first. So does `tokenizers` where they are in the
    text as they are, but it joins runs of spaces, and a tab that stands for a byte.
    """
    whole = [
        re.escape(piece.text)
        for piece in pieces
        if piece.kind is Kind.USER_DEFINED
        and (SPACE in piece.text or piece.text == "\t")
    ]
    if not whole:
        return
    within = re.compile("|".join(whole))
    _refuse(
        [
            f"the learnt token {piece.text!r} has the added {found.group()!r} in it"
            for piece in pieces
            if piece.kind is Kind.NORMAL and (found := within.search(piece.text))
        ]
    )
