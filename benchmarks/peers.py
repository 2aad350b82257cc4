"""The models that users would pick instead, with our weights in them.

Both read the checkpoint format of Hugging Face. Their packages are imported when they
are asked for: ImportError means that they are not installed.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.core.types import Params
from pav_jax.gemma.architecture import TransformerConfig

# Nothing is fetched: the weights are ours.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
PAD = 0  # prompts are made of other tokens


class TokenIds:
    """A tokenizer for prompts that are token ids already."""

    def encode(self, text: Any) -> list[int]:
        return list(text)

    def decode(self, ids: list[int]) -> list[int]:
        return ids

    def bos_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return -1

    def pad_id(self) -> int:
        return PAD


def tunix_sampler(
    params: Params, architecture: TransformerConfig, capacity: int
) -> Any:
    """Tunix's `Sampler` over our weights, for up to `capacity` tokens of a row."""
    from tunix.generate import sampler
    from tunix.models.gemma import model, params_safetensors

    kinds = {
        "local": model.AttentionType.LOCAL_SLIDING,
        "global": model.AttentionType.GLOBAL,
    }
    theirs = model.ModelConfig(
        num_layers=architecture.num_layers,
        num_embed=architecture.vocab_size,
        embed_dim=architecture.embed_dim,
        hidden_dim=architecture.mlp_dim,
        num_heads=architecture.num_heads,
        head_dim=architecture.head_dim,
        num_kv_heads=architecture.num_kv_heads,
        final_logit_softcap=architecture.final_softcap,
        use_post_attn_norm=True,
        use_post_ffw_norm=True,
        attention_types=tuple(kinds[kind] for kind in architecture.layers),
        attn_logits_soft_cap=architecture.attn_softcap,
        sliding_window_size=architecture.window,
    )
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), params, architecture)
        network = params_safetensors.create_model_from_safe_tensors(
            folder, theirs, dtype=np.float32
        )
    return sampler.Sampler(
        network,
        TokenIds(),
        sampler.CacheConfig(
            cache_size=capacity,
            num_layers=architecture.num_layers,
            num_kv_heads=architecture.num_kv_heads,
            head_dim=architecture.head_dim,
        ),
    )


def hugging_face_model(params: Params, architecture: TransformerConfig) -> Any:
    """transformers' Gemma 2 over our weights."""
    import torch
    import transformers

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder), params, architecture)
        network = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
    return network.eval()


def save(folder: Path, params: Params, architecture: TransformerConfig) -> None:
    """Writes a checkpoint of a Gemma 2 as transformers does, into a folder."""
    from safetensors.numpy import save_file

    layers = {name: np.asarray(leaf) for name, leaf in params["layers"].items()}
    tensors = {
        "model.embed_tokens.weight": np.asarray(params["embed"]),
        "model.norm.weight": np.asarray(params["final_norm"]),
    }
    norms = {
        "pre_attn_norm": "input_layernorm",
        "post_attn_norm": "post_attention_layernorm",
        "pre_mlp_norm": "pre_feedforward_layernorm",
        "post_mlp_norm": "post_feedforward_layernorm",
    }

    def heads(w):  # [N, D, H] -> [N * H, D]
        return w.swapaxes(1, 2).reshape(-1, architecture.embed_dim)

    for i in range(architecture.num_layers):
        layer = {name: leaf[i] for name, leaf in layers.items()}
        matrices = {
            "self_attn.q_proj": heads(layer["q"]),
            "self_attn.k_proj": heads(layer["kv"][0]),
            "self_attn.v_proj": heads(layer["kv"][1]),
            "self_attn.o_proj": layer["o"].reshape(-1, architecture.embed_dim).T,
            "mlp.gate_proj": layer["gate"][0].T,
            "mlp.up_proj": layer["gate"][1].T,
            "mlp.down_proj": layer["down"].T,
        } | {theirs: layer[ours] for ours, theirs in norms.items()}
        for name, leaf in matrices.items():
            tensors[f"model.layers.{i}.{name}.weight"] = leaf
    tensors = {name: np.ascontiguousarray(leaf) for name, leaf in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    fields = {
        "architectures": ["Gemma2ForCausalLM"],
        "model_type": "gemma2",
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.embed_dim,
        "intermediate_size": architecture.mlp_dim,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "head_dim": architecture.head_dim,
        "query_pre_attn_scalar": round(architecture.query_scale**-2),
        "sliding_window": architecture.window,
        "attn_logit_softcapping": architecture.attn_softcap,
        "final_logit_softcapping": architecture.final_softcap,
        "layer_types": [
            {"local": "sliding_attention", "global": "full_attention"}[kind]
            for kind in architecture.layers
        ],
        "pad_token_id": PAD,
        "eos_token_id": None,
        "bos_token_id": None,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(fields))
