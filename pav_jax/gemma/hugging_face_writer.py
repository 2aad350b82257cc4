"""Writes what `hugging_face.py` reads: config.json and safetensors, as transformers.

Weights are in files of at most `SHARD_BYTES` with an index, also where there is one
file only: without an index, programs take every *.safetensors of a folder for weights
of the network, and a verifier's head is beside them.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from pav_jax.core.errors import UserError
from pav_jax.core.types import Params
from pav_jax.gemma import hugging_face
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.formats import Piece
from pav_jax.storage import artifacts

SHARD_BYTES = 5 * 10**9  # of transformers before 5; it is now ten times that
CONFIG = "config.json"
_PREFIX = "model."


def config_json(
    architecture: TransformerConfig,
    *,
    dtype: str,
    suffix: str,
    others: Mapping[str, Any],
) -> dict[str, Any]:
    """The config.json of a network, as of published checkpoints, which every version of
    transformers reads.

    Args:
      architecture: of the network; `vocab_size` is that of the rows that are written.
      dtype: of the weights, such as "float32".
      suffix: of the class that opens it, such as "ForCausalLM".
      others: more fields, such as `bos_token_id`.

    Raises:
      UserError: transformers has no such architecture.
    """
    c = architecture
    is_gemma3 = c.qk_norm
    kinds = {"local": "sliding_attention", "global": "full_attention"}
    config = {
        "architectures": [f"Gemma{3 if is_gemma3 else 2}{suffix}"],
        "model_type": "gemma3_text" if is_gemma3 else "gemma2",
        "torch_dtype": dtype,
        "vocab_size": c.vocab_size,
        "hidden_size": c.embed_dim,
        "intermediate_size": c.mlp_dim,
        "num_hidden_layers": c.num_layers,
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.head_dim,
        "layer_types": [kinds[kind] for kind in c.layers],
        "sliding_window": c.window,
        "query_pre_attn_scalar": round(c.query_scale**-2),
        "attn_logit_softcapping": c.attn_softcap,
        "final_logit_softcapping": c.final_softcap,
        "rope_theta": c.global_rope_base,
        "rope_scaling": None,
        "max_position_embeddings": 32_768 if is_gemma3 else 8_192,
        "hidden_activation": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "tie_word_embeddings": True,
        **others,
    }
    if is_gemma3:
        config["rope_local_base_freq"] = c.local_rope_base
    if c.global_rope_scale != 1:
        scaling = {"rope_type": "linear", "factor": c.global_rope_scale}
        config["rope_scaling"] = scaling
    if c.attn_softcap is not None:
        # transformers' default, SDPA, leaves the cap out, without a word.
        config["attn_implementation"] = "eager"
    _check(config, c)
    return config


def _check(config: dict[str, Any], architecture: TransformerConfig) -> None:
    """Raises UserError if the config.json does not say what the architecture is."""
    why = None
    if found := hugging_face.difference(config, architecture):
        name, theirs, ours = found
        why = f"{name}={ours!r} would be read as {theirs!r}"
    elif architecture.embed_dim % architecture.num_heads:
        why = (
            f"embed_dim={architecture.embed_dim} is not a multiple of"
            f" num_heads={architecture.num_heads}"
        )
    if why:
        raise UserError(
            f"transformers cannot express config.model as {config['model_type']}:"
            f" {why}; leave out --format=hf"
        )


def write(
    path: Path,
    params: Params,
    config: dict[str, Any],
    *,
    architecture: TransformerConfig,
    others: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Writes a network's config.json and weights.

    The host holds no more than the weights of one file.

    Args:
      path: a folder.
      params: the tree of `forward.init_params`, in the dtype to write.
      config: of `config_json`.
      architecture: of the network.
      others: more tensors of the model, such as a classifier's, by their names.

    Raises:
      UserError: if the disk is full, or the folder cannot be written.
    """
    tensors = [_of_piece(x, params) for x in hugging_face.pieces(architecture)]
    for name, array in (others or {}).items():
        tensors.append(
            _Tensor(name, array.nbytes, functools.partial(np.asarray, array))
        )
    shards = list(_shards(tensors))
    places = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_tensors(path / file, {tensor.name: tensor.read() for tensor in shard})
        places |= {tensor.name: file for tensor in shard}
    total = sum(tensor.size for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    artifacts.write_json(path / hugging_face.INDEX, index)
    artifacts.write_json(path / CONFIG, config)


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes one safetensors file.

    Raises:
      UserError: if the disk is full, or the path cannot be written.
    """
    contiguous = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    with artifacts.writing(path):
        # Others take files without this for TensorFlow's or Flax's.
        safetensors.numpy.save_file(contiguous, path, metadata={"format": "pt"})


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A tensor to write: its name, its size in bytes, and what reads it."""

    name: str
    size: int
    read: Callable[[], np.ndarray]


def _of_piece(piece: Piece, params: Params) -> _Tensor:
    leaf = params["layers"][piece.leaf] if piece.at else params[piece.leaf]
    size = math.prod(piece.shape) * leaf.dtype.itemsize
    return _Tensor(
        f"{_PREFIX}{piece.name}",
        size,
        lambda: piece.theirs(np.asarray(leaf[piece.at])),
    )


def _shards(tensors: list[_Tensor]) -> Iterator[list[_Tensor]]:
    """Consecutive tensors, in as few bytes as `SHARD_BYTES`, or one that is larger."""
    shard: list[_Tensor] = []
    for tensor in tensors:
        if shard and sum(x.size for x in shard) + tensor.size > SHARD_BYTES:
            yield shard
            shard = []
        shard.append(tensor)
    yield shard
