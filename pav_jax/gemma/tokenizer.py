"""Text to token ids and back, through a SentencePiece model."""

import io
import os
import pathlib
import re
from collections.abc import Iterable, Sequence

import numpy as np
import sentencepiece
from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.gemma.sentencepiece_model import SPACE, SPECIAL, from_tokenizer_json
from pav_jax.storage import artifacts

# What SentencePiece stores a space as: a text that really holds it would come back with
# a space. And the halves of surrogate pairs, which have no UTF-8 form.
_FOREIGN = re.compile(f"[{SPACE}\ud800-\udfff]")
_END_OF_TURN = "<end_of_turn>"
# What Gemma's models take for structure, and SentencePiece for texts like any other.
_MARKERS = re.compile(
    r"<(start_of_turn|end_of_turn|mask|unused\d+|pad|eos|bos|unk"
    r"|start_of_image|end_of_image|image_soft_token)>"
)
_FATAL_ONLY = 3  # SentencePiece's log level; failures still raise
_LONGEST_LINE = 1 << 24  # bytes; SentencePiece drops longer lines silently


class Tokenizer:
    """A SentencePiece model whose `decode` undoes its `encode` exactly.

    Attributes:
      model_bytes: the serialised model, as `save` writes it.
      vocab_size: number of token ids; ids are 0 to vocab_size - 1.
      pad_id: id of the padding token.
      bos_id: id of the token that opens a sequence.
      eos_id: id of the token that ends one.
      end_ids: the tokens that end a response: eos and, if the model has it,
        `<end_of_turn>`, with which Gemma's instruction-tuned models end.
    """

    def __init__(self, model_bytes: bytes):
        """Reads a serialised SentencePiece model.

        Args:
          model_bytes: contents of a `.model` file.

        Raises:
          UserError: the bytes are not a SentencePiece model, or the model lacks
            one of the pad, bos and eos tokens.
        """
        # SentencePiece takes empty bytes for "no model yet" and stays silent.
        if not model_bytes:
            raise UserError("empty bytes are not a SentencePiece model")
        try:
            model = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        except RuntimeError as error:
            raise UserError(
                f"these bytes are not a SentencePiece model: {error}"
            ) from error
        self.model_bytes = model_bytes
        self.vocab_size: int = model.vocab_size()
        self.pad_id: int = model.pad_id()
        self.bos_id: int = model.bos_id()
        self.eos_id: int = model.eos_id()
        for name in ("pad", "bos", "eos"):
            if getattr(self, f"{name}_id") < 0:
                raise UserError(f"the SentencePiece model has no {name} token")
        turn = model.piece_to_id(_END_OF_TURN)
        turns = () if model.is_unknown(turn) else (turn,)
        self.end_ids: tuple[int, ...] = (self.eos_id, *turns)
        self._model = model
        self._special = frozenset(
            i
            for i in range(self.vocab_size)
            if model.is_control(i)
            or model.is_unknown(i)
            or _MARKERS.fullmatch(model.id_to_piece(i))
        )

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Tokenizer":
        """Reads a model file.

        Args:
          path: a SentencePiece `.model` file, such as Gemma's or one of `save`; or, if
            its name ends in `.json`, Hugging Face's tokenizer.json, which is made into
            such a model.

        Raises:
          UserError: the file cannot be read or is not a usable model.
        """
        path = pathlib.Path(path)
        try:
            content = path.read_bytes()
            is_json = path.suffix == ".json"
            return cls(from_tokenizer_json(content) if is_json else content)
        except OSError as error:
            other = path.with_name("tokenizer.json")
            hint = f"; {other} is there, which can be read too" * other.is_file()
            raise UserError(
                f"cannot read the tokenizer {path}: {error.strerror}{hint}"
            ) from error
        except UserError as error:
            raise UserError(f"cannot use the tokenizer {path}: {error}") from error

    def save(self, path: str | os.PathLike) -> None:
        """Writes the model file; a reader never sees half of it.

        Args:
          path: where to; its folder is made if need be. An existing file is replaced.

        Raises:
          UserError: the file cannot be written.
        """
        artifacts.write_bytes(path, self.model_bytes)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without bos or eos.

        Args:
          text: any text; names of control tokens in it are plain text, or an error.

        Returns:
          The ids; `decode` gives back exactly `text`.

        Raises:
          UserError: the vocabulary cannot represent the text, and the message names
            the offending characters; or it would read a control token in it.
        """
        foreign = _FOREIGN.findall(text)
        if foreign:
            raise UserError(_unrepresentable(foreign, text))
        ids = self._model.encode(text)
        unknown = self._model.unk_id()
        if control := self._special.intersection(ids) - {unknown}:
            name = self._model.id_to_piece(min(control))
            raise UserError(
                f"{name} is a control token, which cannot be part of a text; remove it"
                f" from {text[:80]!r}"
            )
        if unknown in ids:
            pieces = self._model.encode(text, out_type=str)
            offending = [
                piece.replace(SPACE, " ")
                for piece, i in zip(pieces, ids, strict=True)
                if i == unknown
            ]
            raise UserError(_unrepresentable(offending, text))
        # A step that changed on its way through the vocabulary would be graded
        # and searched as a different one: refuse a model that normalises text.
        decoded = self.decode(ids)
        if decoded != text:
            lost = [c for c in text if c not in decoded]
            raise UserError(
                _unrepresentable(lost or [text], text)
                + f"; it would read back as {decoded[:80]!r}"
            )
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids.

        Args:
          ids: any ids below vocab_size, in any order. Special tokens (pad, bos,
            eos, Gemma's marks of turns and images, its unused ones, unknown) are
            dropped; bytes that form no character become U+FFFD.

        Returns:
          The text.

        Raises:
          IndexError: an id is outside the vocabulary.
        """
        plain = [int(i) for i in ids]
        return self._model.decode([i for i in plain if i not in self._special])

    def step_end_mask(self) -> np.ndarray:
        """Which tokens end a step: those whose text contains a newline.

        Found by scanning, as a vocabulary may hold tokens of several newlines
        as well as the newline's byte-fallback token. eos is not among them.

        Returns:
          bool [vocab_size].
        """
        mask = np.zeros(self.vocab_size, dtype=bool)
        for i in range(self.vocab_size):
            piece = self._model.id_to_piece(i)
            is_byte = self._model.is_byte(i)
            mask[i] = piece == "<0x0A>" if is_byte else "\n" in piece
        return mask


def train_tokenizer(
    texts: Iterable[str], *, vocab_size: int, pieces: Sequence[str] = ()
) -> Tokenizer:
    """Builds a tokenizer; the same arguments give the same model bytes.

    Args:
      texts: the texts to represent. Without `pieces`, BPE merges are learned
        from them, digits stay single tokens, the newline is always a token of
        its own, and anything unseen falls back to bytes. With `pieces`, they
        are only checked against the vocabulary.
      vocab_size: number of tokens to learn; with `pieces`, the most allowed.
      pieces: strings that are one token each, ids in this order after the four
        special tokens; nothing else can be represented. Text is cut from left
        to right, the longest matching piece first.

    Returns:
      A tokenizer of `vocab_size` tokens, or of `4 + len(pieces)`.

    Raises:
      UserError: the vocabulary size does not fit the texts or the pieces, a
        piece is unusable or repeated, or `pieces` cannot represent a text.
    """
    if not pieces:
        lines = (line for text in texts for line in text.split("\n"))
        # Rare characters go to bytes rather than take a token each.
        return _train(lines, vocab_size, ["\n"], coverage=0.9999, byte_fallback=True)

    for piece in pieces:
        if not piece or piece in SPECIAL or SPACE in piece or "\0" in piece:
            raise UserError(f"{piece!r} cannot be a token of a closed vocabulary")
    if len(set(pieces)) < len(pieces):
        repeated = sorted({piece for piece in pieces if pieces.count(piece) > 1})
        raise UserError(f"a closed vocabulary lists these more than once: {repeated}")
    size = len(SPECIAL) + len(pieces)
    if size > vocab_size:
        raise UserError(
            f"vocab_size is {vocab_size}, but the task's closed vocabulary needs {size}"
        )
    # SentencePiece insists on a non-empty text to train on. One that is itself
    # a piece leaves no character to learn, so the vocabulary stays closed.
    sample = next((piece for piece in pieces if "\n" not in piece), "")
    tokenizer = _train(
        [sample], size, [piece.replace(" ", SPACE) for piece in pieces], coverage=1.0
    )
    for text in texts:
        tokenizer.encode(text)
    return tokenizer


def from_config(
    config: ConfigDict, texts: Sequence[str], pieces: Sequence[str]
) -> Tokenizer:
    """The tokenizer that `config.tokenizer` describes.

    Args:
      config: either the `path` of a SentencePiece model or of a tokenizer.json, or the
        `vocab_size` of one to learn.
      texts: what a learnt one is to represent.
      pieces: the task's own vocabulary, if it has one; takes the place of learning.

    Raises:
      UserError: the config has both or neither, the model cannot be read, or the
        vocabulary is too small.
    """
    if ("path" in config) == ("vocab_size" in config):
        raise UserError(
            "config.tokenizer needs either the path of a tokenizer.model or a"
            " tokenizer.json, or the vocab_size of one to learn, and not both"
        )
    if "path" in config:
        return Tokenizer.load(config.path)
    size = max(config.vocab_size, 4 + len(pieces)) if pieces else config.vocab_size
    return train_tokenizer(texts, vocab_size=size, pieces=pieces)


def _train(
    lines: Iterable[str],
    vocab_size: int,
    symbols: list[str],
    coverage: float,
    byte_fallback: bool = False,
) -> Tokenizer:
    """Runs SentencePiece's BPE trainer.

    Args:
      lines: training text without newlines.
      vocab_size: number of tokens, special ones included.
      symbols: strings that are always one token, spaces as U+2581.
      coverage: fraction of the characters of `lines` that get tokens of their own.
      byte_fallback: whether other characters are spelt as bytes.

    Returns:
      The trained tokenizer.

    Raises:
      UserError: `vocab_size` is too small or too large for `lines`.
    """
    pad, eos, bos, unk = SPECIAL
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            user_defined_symbols=symbols,
            character_coverage=coverage,
            byte_fallback=byte_fallback,
            split_digits=True,
            max_sentence_length=_LONGEST_LINE,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            num_threads=1,
            minloglevel=_FATAL_ONLY,
            pad_id=0,
            pad_piece=pad,
            eos_id=1,
            eos_piece=eos,
            bos_id=2,
            bos_piece=bos,
            unk_id=3,
            unk_piece=unk,
        )
    except RuntimeError as error:
        raise UserError(
            f"SentencePiece cannot train a vocabulary of {vocab_size} tokens: {error}"
        ) from error
    return Tokenizer(model.getvalue())


def _unrepresentable(offending: Iterable[str], text: str) -> str:
    """The message for characters (or runs of them) outside the vocabulary."""
    distinct = ", ".join(repr(item[:80]) for item in dict.fromkeys(offending))
    return f"the vocabulary cannot represent {distinct} in the text {text[:80]!r}"
