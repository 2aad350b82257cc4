"""The config.json of published checkpoints is understood."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from pav_jax.core.errors import UserError
from pav_jax.gemma import hugging_face, sizes

# What the published config.json files say, and where they leave transformers' defaults.
_GEMMA3_MM = {
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
    "model_type": "gemma3_text",
}
PUBLISHED = {
    "gemma2_2b": dict(
        model_type="gemma2",
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        head_dim=256,
        hidden_size=2304,
        intermediate_size=9216,
        num_attention_heads=8,
        num_hidden_layers=26,
        num_key_value_heads=4,
        query_pre_attn_scalar=256,
        rope_theta=10000.0,
        sliding_window=4096,
    ),
    "gemma2_9b": dict(
        model_type="gemma2",
        head_dim=256,
        hidden_size=3584,
        intermediate_size=14336,
        num_attention_heads=16,
        num_hidden_layers=42,
        num_key_value_heads=8,
        query_pre_attn_scalar=256,
        rope_theta=10000.0,
        sliding_window=4096,
    ),
    "gemma2_27b": dict(
        model_type="gemma2",
        head_dim=128,
        hidden_size=4608,
        intermediate_size=36864,
        num_attention_heads=32,
        num_hidden_layers=46,
        num_key_value_heads=16,
        query_pre_attn_scalar=144,
        rope_theta=10000.0,
        sliding_window=4096,
    ),
    "gemma3_270m": dict(
        model_type="gemma3_text",
        hidden_size=640,
        intermediate_size=2048,
        num_attention_heads=4,
        num_hidden_layers=18,
        num_key_value_heads=1,
        head_dim=256,
        layer_types=(["sliding_attention"] * 5 + ["full_attention"]) * 3,
        query_pre_attn_scalar=256,
        rope_local_base_freq=10000.0,
        rope_scaling=None,
        rope_theta=1000000.0,
        sliding_window=512,
        use_bidirectional_attention=False,
    ),
    "gemma3_1b": dict(
        model_type="gemma3_text",
        hidden_size=1152,
        intermediate_size=6912,
        num_attention_heads=4,
        num_hidden_layers=26,
        num_key_value_heads=1,
        head_dim=256,
        query_pre_attn_scalar=256,
        rope_local_base_freq=10000,
        rope_scaling=None,
        rope_theta=1000000,
        sliding_window=512,
        sliding_window_pattern=6,
    ),
    "gemma3_4b": dict(
        model_type="gemma3",
        text_config=_GEMMA3_MM
        | dict(hidden_size=2560, intermediate_size=10240, num_hidden_layers=34),
    ),
    "gemma3_12b": dict(
        model_type="gemma3",
        text_config=_GEMMA3_MM
        | dict(
            hidden_size=3840,
            intermediate_size=15360,
            num_attention_heads=16,
            num_hidden_layers=48,
            num_key_value_heads=8,
        ),
    ),
    "gemma3_27b": dict(
        model_type="gemma3",
        text_config=_GEMMA3_MM
        | dict(
            head_dim=128,
            hidden_size=5376,
            intermediate_size=21504,
            num_attention_heads=32,
            num_hidden_layers=62,
            num_key_value_heads=16,
            query_pre_attn_scalar=168,
        ),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_config_json_is_understood(name):
    stated = hugging_face.stated_fields(PUBLISHED[name])
    expected = dataclasses.asdict(sizes.by_name(name))
    assert {k: expected[k] for k in stated} == stated
    assert expected.keys() - stated.keys() == {"vocab_size", "transposed_gate"}


def test_config_json_of_transformers_5_is_understood():
    full = {"rope_theta": 1e6, "rope_type": "linear", "factor": 8.0}
    sliding = {"rope_theta": 10000.0, "rope_type": "default"}
    new = PUBLISHED["gemma3_4b"]["text_config"] | {
        "rope_parameters": {"full_attention": full, "sliding_attention": sliding}
    }
    del new["rope_scaling"]
    assert hugging_face.stated_fields(new) == hugging_face.stated_fields(
        PUBLISHED["gemma3_4b"]
    )


@pytest.mark.parametrize(
    "absent", [{}, {"rope_scaling": None}, {"rope_parameters": None}]
)
def test_null_means_absent(absent):
    stated = hugging_face.stated_fields(PUBLISHED["gemma3_1b"] | absent)
    assert (stated["local_rope_base"], stated["local_rope_scale"]) == (1e4, 1.0)
    assert (stated["global_rope_base"], stated["global_rope_scale"]) == (1e6, 1.0)
    sections = {"rope_parameters": {"full_attention": None, "sliding_attention": None}}
    assert hugging_face.stated_fields(PUBLISHED["gemma3_1b"] | sections) == stated


LINEAR = {"rope_type": "linear", "factor": 8.0}


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("gemma3_1b", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "yarn"),
        ("gemma3_1b", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ("gemma3_1b", {"rope_scaling": {"rope_type": "linear"}}, "with a factor"),
        ("gemma3_1b", {"rope_scaling": LINEAR | {"factor": "8"}}, "with a factor"),
        ("gemma3_1b", {"rope_scaling": LINEAR | {"factor": 0}}, "with a factor"),
        ("gemma3_1b", {"rope_scaling": [8.0]}, "an object or null"),
        ("gemma3_1b", {"rope_parameters": "linear"}, "an object or null"),
        (
            "gemma3_1b",
            {"rope_parameters": LINEAR},
            "sliding_attention and full_attenti",
        ),
        (
            "gemma3_1b",
            {"rope_parameters": {"full_attention": {"rope_type": "llama3"}}},
            r"rope_parameters.full_attention=.*llama3",
        ),
        (
            "gemma3_1b",
            {"rope_scaling": LINEAR, "rope_parameters": {"full_attention": LINEAR}},
            "both",
        ),
        ("gemma2_2b", {"rope_parameters": {"rope_type": "longrope"}}, "longrope"),
        ("gemma3_1b", {"use_bidirectional_attention": True}, "from left to right only"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(name, fields, words):
    with pytest.raises(UserError, match=words):
        hugging_face.stated_fields(PUBLISHED[name] | fields)


def test_a_bidirectional_text_model_within_a_larger_one_is_refused():
    config = PUBLISHED["gemma3_4b"]
    text = config["text_config"] | {"use_bidirectional_attention": True}
    with pytest.raises(UserError, match="from left to right only"):
        hugging_face.stated_fields(config | {"text_config": text})


def _save(folder, head=None, **config):
    """A checkpoint of an embedding table, and of an output layer if there is one."""
    folder.mkdir()
    tensors = {"model.embed_tokens.weight": TABLE}
    if head is not None:
        tensors["lm_head.weight"] = head
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


TABLE = np.arange(5000 * 2, dtype=np.float32).reshape(5000, 2)


def test_an_output_layer_that_is_the_table_is_no_other_layer(tmp_path):
    for i, head in enumerate((None, TABLE.copy())):
        source = hugging_face.HuggingFaceSource(_save(tmp_path / str(i), head))
        assert source.shapes == {"embed_tokens.weight": (5000, 2)}


@pytest.mark.parametrize("tied", [True, False])
def test_an_output_layer_of_its_own_is_refused(tmp_path, tied):
    head = TABLE.copy()
    head[-1, -1] += 1  # in the last part that is compared
    folder = _save(tmp_path / "it", head, tie_word_embeddings=tied)
    with pytest.raises(UserError, match=f"tie_word_embeddings={str(tied).lower()}"):
        hugging_face.HuggingFaceSource(folder)
    folder = _save(tmp_path / "shorter", TABLE[:-1].copy())
    with pytest.raises(UserError, match="output layer of its own"):
        hugging_face.HuggingFaceSource(folder)
