"""A SentencePiece model as the files that transformers reads a tokenizer from.

The ids of a text are those of `Tokenizer.encode` (which adds no <bos>). One thing is
different: transformers takes the name of a special token in a text, such as "<eos>",
for the token, unless it is called with `split_special_tokens=True`.
"""

from typing import Any

from pav_jax.core.errors import UserError
from pav_jax.gemma.tokenizer import Tokenizer

_SPACE = "\u2581"  # a space, in a piece


def tokenizer_files(tokenizer: Tokenizer) -> dict[str, dict[str, Any]]:
    """The contents of tokenizer.json and of tokenizer_config.json, by their names.

    Raises:
      UserError: the model is of another kind than Gemma's and those that this program
        learns, and its ids might be others.
    """
    # Imported here, since protobuf takes a while that nothing else needs.
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model_bytes)
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece  # NORMAL, CONTROL, ...
    _check(model, kinds)
    pieces = [piece.piece for piece in model.pieces]
    special = [
        i
        for i, x in enumerate(model.pieces)
        if x.type in (kinds.CONTROL, kinds.UNKNOWN)
    ]
    special += [i for i in tokenizer.end_ids if i not in special]
    whole = [i for i, x in enumerate(model.pieces) if x.type == kinds.USER_DEFINED]
    names = {
        "bos_token": pieces[tokenizer.bos_id],
        "eos_token": pieces[tokenizer.eos_id],
        "pad_token": pieces[tokenizer.pad_id],
        "unk_token": pieces[[x.type for x in model.pieces].index(kinds.UNKNOWN)],
    }
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            _added(i, pieces[i], is_special=i in special)
            for i in sorted({*special, *whole})
        ],
        "normalizer": _replace(" ", _SPACE),
        "pre_tokenizer": None,
        "post_processor": _begins_with(names["bos_token"], tokenizer.bos_id),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                _replace(_SPACE, " "),
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": _bpe(model, kinds, names["unk_token"]),
    }
    settings = {
        # Not GemmaTokenizer, which makes parts of this anew.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",  # as batches of prompts need it
    }
    return {"tokenizer.json": content, "tokenizer_config.json": names | settings}


def _bpe(model: Any, kinds: Any, unknown: str) -> dict[str, Any]:
    scores = {x.piece: x.score for x in model.pieces if x.type == kinds.NORMAL}
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.trainer_spec.byte_fallback,
        "ignore_merges": False,
        "vocab": {x.piece: i for i, x in enumerate(model.pieces)},
        "merges": _merges(scores),
    }


def _replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def _check(model: Any, kinds: Any) -> None:
    """Raises UserError unless the model is BPE over the text as it is."""
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    why = {
        "is not BPE": trainer.model_type != trainer.BPE,
        f"changes texts (by {normalizer.name})": bool(normalizer.precompiled_charsmap),
        "puts a space before a text": normalizer.add_dummy_prefix,
        "drops spaces": normalizer.remove_extra_whitespaces,
        "keeps spaces as they are": not normalizer.escape_whitespaces,
        "puts spaces at the end of a word": trainer.treat_whitespace_as_suffix,
        "has unused pieces": any(x.type == kinds.UNUSED for x in model.pieces),
    }
    if found := [reason for reason, holds in why.items() if holds]:
        raise UserError(
            f"the tokenizer {' and '.join(found)}; only a SentencePiece model as"
            " Gemma's can be written for transformers; leave out --format=hf"
        )


def _added(model_id: int, piece: str, *, is_special: bool) -> dict[str, Any]:
    """A token that is found in a text before any merge."""
    return {
        "id": model_id,
        "content": piece,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        # Looked for where spaces are replaced already, as they are in the piece.
        "normalized": not is_special,
        "special": is_special,
    }


def _begins_with(piece: str, model_id: int) -> dict[str, Any]:
    """Puts a token before every text, unless `add_special_tokens=False`."""
    token = {"SpecialToken": {"id": piece, "type_id": 0}}
    single = [token, {"Sequence": {"id": "A", "type_id": 0}}]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {piece: {"id": piece, "ids": [model_id], "tokens": [piece]}},
    }


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every pair of pieces that make a piece, those of the highest score first.

    SentencePiece merges whichever neighbours make the piece of the highest score.
    """
    found = [
        (-score, piece[:cut], piece[cut:])
        for piece, score in scores.items()
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]
    found.sort(key=lambda merge: merge[0])
    return [(left, right) for _, left, right in found]
