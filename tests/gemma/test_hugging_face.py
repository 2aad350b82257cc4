"""The config.json of published checkpoints is understood."""

import dataclasses

import pytest

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
