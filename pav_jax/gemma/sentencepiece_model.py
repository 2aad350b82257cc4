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
    whole = {token["content"] for token in added}
    # A tokenizer.json of before Gemma 3 has the tab itself in the place of its byte.
    tab_for_byte = "\t" in names and _TAB not in names
    if tab_for_byte:
        whole.add("\t")
    merges = [
        tuple(merge.split(" ") if isinstance(merge, str) else merge)
        for merge in model["merges"]
    ]
    places = _places(model["vocab"].keys() - whole, merges)
    # Those are looked for where spaces are replaced already, as SentencePiece does.
    in_pieces = {token["content"] for token in added if token.get("normalized")}
    _check_runs(merges, whole - in_pieces, places)
    pieces = [
        Piece(
            name.replace(" ", SPACE),
            -float(places.get(name, 0)),
            kind_of(name, is_added=name in whole),
        )
        for name in names
    ]
    _check_cuts(pieces)
    if tab_for_byte:
        pieces[names.index("\t")] = Piece(_TAB, 0.0, Kind.BYTE)
    found = _BYTES & {piece.text for piece in pieces}
    if found != (_BYTES if model.get("byte_fallback") else set()):
        _refuse([f"byte_fallback, and {len(found)} tokens of the 256 bytes"])
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
    learnt: Collection[str], merges: Sequence[tuple[str, str]]
) -> dict[str, int]:
    """The place of each learnt piece in the order in which pieces are joined.

    Args:
      learnt: the pieces that are not cut out of a text whole, before any merge.
      merges: pairs, the first to be joined first.

    Raises:
      UserError: the merges are not all the pairs that make a piece, or those of a piece
        are apart; the order of pieces alone then does not give the ids.
    """
    places: dict[str, int] = {}
    last, found = None, set()
    for rank, (left, right) in enumerate(merges):
        piece = left + right
        if piece in learnt and left in learnt and right in learnt:
            if piece in places and piece != last:
                _refuse([f"other merges are between those of {piece!r}"])
            places.setdefault(piece, rank)
            found.add((left, right))
        last = piece
    implied = {
        (piece[:i], piece[i:])
        for piece in learnt
        for i in range(1, len(piece))
        if piece[:i] in learnt and piece[i:] in learnt
    }
    if odd := implied ^ found:
        _refuse([f"its merges do not follow from its vocabulary, such as {min(odd)}"])
    return places


def _check_runs(
    merges: Sequence[tuple[str, str]], whole: Collection[str], places: dict[str, int]
) -> None:
    """Refuses added runs of spaces of which a text would not get the longest.

    `tokenizers` looks for added tokens before spaces are replaced, so it joins these
    like learnt pieces; SentencePiece takes the longest run first.

    Args:
      merges: pairs, the first to be joined first.
      whole: added tokens that are looked for in the text as it is.
      places: of learnt pieces, those that are joined.
    """
    runs = {name for name in whole if set(name) == {SPACE}}
    found = {
        (len(left), len(right)): rank
        for rank, (left, right) in enumerate(merges)
        if left + right in runs
    }
    expected = [
        (i, len(run) - i)
        for run in runs
        for i in range(1, len(run))
        if all(part == SPACE or part in runs for part in (run[:i], run[i:]))
    ]
    if list(found) != sorted(expected, reverse=True) or (
        max(found.values(), default=-1) > min(places.values(), default=len(merges))
    ):
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
