"""Published checkpoints are read as they are meant, and written so that others can."""

import dataclasses
import functools
import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from tiny import random_params

from pav_jax import verifier
from pav_jax.core.errors import UserError
from pav_jax.gemma import checkpoint, forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.storage.checkpoints import save_params
from pav_jax.tools import export

GROUPED = TransformerConfig(
    vocab_size=40,
    embed_dim=24,
    mlp_dim=40,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    layers=("local", "global", "local"),  # no multiple of the pattern
    window=5,
    query_scale=8**-0.5,
)
JOINT = dataclasses.replace(GROUPED, num_kv_heads=4, transposed_gate=True)
GEMMA3 = dataclasses.replace(
    GROUPED,
    attn_softcap=None,
    final_softcap=None,
    qk_norm=True,
    global_rope_base=1_000_000.0,
    global_rope_scale=8.0,
    transposed_gate=True,
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(1, 40, (2, 9)), jnp.int32)


@functools.partial(jax.jit, static_argnames="architecture")
def _logits(params, *, architecture):
    hidden = forward.hidden_states(params, TOKENS, architecture=architecture)
    return forward.logits(params, hidden, architecture=architecture)


def _assert_same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


# The gemma package's formats.


@pytest.fixture(scope="module")
def reference(package_model):
    """Makes the package's (parameters, logits) of an architecture."""

    @functools.cache
    def make(architecture):
        model, variables = package_model(architecture)
        with jax.numpy_rank_promotion("allow"):
            out = model.apply(variables, TOKENS)
        return variables["params"], np.asarray(out.logits)

    return make


def _with_vision(params):
    """The parameters as those of a multi-modal model."""
    embedder = params["embedder"] | {
        "mm_input_projection": {"w": jnp.ones((3, 24))},
        "mm_soft_embedding_norm": {"scale": jnp.ones((3,))},
    }
    return params | {
        "embedder": embedder,
        "vision_encoder": {"siglip_encoder": {"embedding": {"bias": jnp.ones((3,))}}},
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        (GROUPED, "nested"),
        (GROUPED, "flat"),
        (GROUPED, "stacked"),
        (JOINT, "stacked"),
        (GEMMA3, "flat"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_reads_what_the_package_writes(gm, reference, tmp_path, architecture, layout):
    from gemma.gm.ckpts import _checkpoint as package

    params, logits = reference(architecture)
    if architecture is GEMMA3:
        params = _with_vision(params)
    saved = {
        "nested": lambda: params,
        "flat": lambda: package._nested_to_flat(params),
        "stacked": lambda: package._nested_to_stacked(params, 2),
    }[layout]()
    gm.ckpts.save_params(saved, tmp_path / "it", wait_until_finished=True)
    ours = checkpoint.read(tmp_path / "it", architecture=architecture)
    np.testing.assert_allclose(
        _logits(ours, architecture=architecture), logits, atol=1e-4
    )
    assert logits.std() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture", [GROUPED, JOINT, GEMMA3], ids=["", "joint", "3"]
)
def test_the_package_opens_what_is_written(gm, reference, tmp_path, architecture):
    params, logits = reference(architecture)
    gm.ckpts.save_params(params, tmp_path / "theirs", wait_until_finished=True)
    ours = checkpoint.read(tmp_path / "theirs", architecture=architecture)
    checkpoint.write(tmp_path / "ours", ours, architecture=architecture)
    opened = gm.ckpts.load_params(tmp_path / "ours")
    _assert_same(opened, params)


# Hugging Face's.


def _hugging_face(params, architecture, prefix="model."):
    """The tensors as transformers names them, by loops over heads."""
    tensors = {
        f"{prefix}embed_tokens.weight": params["embed"],
        f"{prefix}norm.weight": params["final_norm"],
    }
    for i in range(architecture.num_layers):
        p = jax.tree.map(lambda a, i=i: np.asarray(a[i]), params["layers"])
        named = {
            "self_attn.q_proj": np.concatenate([w.T for w in p["q"]]),
            "self_attn.k_proj": np.concatenate([w.T for w in p["kv"][0]]),
            "self_attn.v_proj": np.concatenate([w.T for w in p["kv"][1]]),
            "self_attn.o_proj": np.concatenate([w.T for w in p["o"]], axis=1),
            "mlp.gate_proj": p["gate"][0].T,
            "mlp.up_proj": p["gate"][1].T,
            "mlp.down_proj": p["down"].T,
            "input_layernorm": p["pre_attn_norm"],
            "post_attention_layernorm": p["post_attn_norm"],
            "pre_feedforward_layernorm": p["pre_mlp_norm"],
            "post_feedforward_layernorm": p["post_mlp_norm"],
        }
        if architecture.qk_norm:
            named |= {"self_attn.q_norm": p["q_norm"], "self_attn.k_norm": p["k_norm"]}
        tensors |= {f"{prefix}layers.{i}.{n}.weight": w for n, w in named.items()}
    return {n: np.ascontiguousarray(w) for n, w in tensors.items()}


HF_GEMMA2 = {
    "model_type": "gemma2",
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 5,
    "rope_theta": 10000.0,
}
HF_GEMMA3 = {
    "model_type": "gemma3",
    "text_config": HF_GEMMA2
    | {
        "model_type": "gemma3_text",
        "rope_theta": 1_000_000.0,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
}


def _write_hugging_face(path, tensors, config_json, shards=1):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config_json))
    names, places = sorted(tensors), {}
    for k in range(shards):
        file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        file = "model.safetensors" if shards == 1 else file
        part = {name: tensors[name] for name in names[k::shards]}
        safetensors.numpy.save_file(part, path / file)
        places |= dict.fromkeys(part, file)
    if shards > 1:
        index = path / "model.safetensors.index.json"
        index.write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.fixture(scope="module")
def gemma2(tmp_path_factory) -> Path:
    """A Hugging Face directory of GROUPED, with the weights of `random_params`."""
    path = tmp_path_factory.mktemp("hf") / "gemma2"
    _write_hugging_face(path, _hugging_face(random_params(GROUPED), GROUPED), HF_GEMMA2)
    return path


def test_reads_hugging_face_s_gemma2(gemma2):
    _assert_same(checkpoint.read(gemma2, architecture=GROUPED), random_params(GROUPED))


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_reads_the_text_model_of_hugging_face_s_gemma3(tmp_path, prefix):
    """In bfloat16, in three files, with spare rows, beside a vision tower."""
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), random_params(GEMMA3))
    padded = params | {"embed": jnp.pad(params["embed"], ((0, 24), (0, 0)))}
    tensors = _hugging_face(padded, GEMMA3, prefix)
    tensors |= {
        # As some tools write it, though it is the table.
        "lm_head.weight": tensors[f"{prefix}embed_tokens.weight"].copy(),
        "vision_tower.vision_model.embeddings.position_embedding.weight": np.ones(2),
        "multi_modal_projector.mm_input_projection_weight": np.ones(2),
    }
    assert tensors[f"{prefix}norm.weight"].dtype == ml_dtypes.bfloat16
    _write_hugging_face(tmp_path / "it", tensors, HF_GEMMA3, shards=3)
    for dtype in (jnp.bfloat16, jnp.float32):
        ours = checkpoint.read(tmp_path / "it", architecture=GEMMA3, dtype=dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(ours)} == {jnp.dtype(dtype)}
        _assert_same(ours, jax.tree.map(lambda a, d=dtype: a.astype(d), params))

    (tmp_path / "it/model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="lacks model-00002-of-00003.safetensors"):
        checkpoint.read(tmp_path / "it", architecture=GEMMA3)


def test_missing_rows_of_the_table_are_the_padding_token_s(gemma2, tmp_path):
    wider = dataclasses.replace(GROUPED, vocab_size=43)
    embed = np.asarray(checkpoint.read(gemma2, architecture=wider)["embed"])
    np.testing.assert_array_equal(embed[:40], random_params(GROUPED)["embed"])
    np.testing.assert_array_equal(embed[40:], embed[[0, 0, 0]])
    # And the other way about, through a checkpoint with spare rows.
    checkpoint.write(tmp_path / "it", random_params(GROUPED), architecture=wider)
    _assert_same(checkpoint.read(tmp_path / "it", architecture=wider)["embed"], embed)
    _assert_same(
        checkpoint.read(tmp_path / "it", architecture=GROUPED), random_params(GROUPED)
    )


# What does not fit.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(layers=("local", "global")), "says layers=3 layers .* where 2 layers"),
        (dict(embed_dim=32), "says embed_dim=24, where 32 is expected"),
        (dict(window=6), "says window=5, where 6 is expected"),
        (dict(query_scale=0.5), "says query_scale=0.35.*, where 0.5 is expected"),
        (dict(attn_softcap=None), "attn_softcap=50.0, where None is expected"),
        (
            dict(vocab_size=400),
            r"weight has shape \[40, 24\].*\[400, 24\]",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_architecture_is_named(gemma2, change, message):
    with pytest.raises(UserError, match=message):
        checkpoint.read(gemma2, architecture=dataclasses.replace(GROUPED, **change))


@pytest.fixture(scope="module")
def nested(tmp_path_factory) -> Path:
    """A nested checkpoint of GROUPED, with the weights of `random_params`."""
    path = tmp_path_factory.mktemp("gemma") / "nested"
    checkpoint.write(path, random_params(GROUPED), architecture=GROUPED)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            dict(layers=("local", "global") * 2),
            r"layer_3/\S+ of shape \[.*\] is missing \(and 8 more\)",
        ),
        (dict(layers=("local", "global")), r"layer_2/\S+ of shape \[.*\] is unknown"),
        (dict(qk_norm=True), r"_query_norm/scale of shape \[8\] is missing"),
        (
            dict(mlp_dim=48),
            r"layer_0/mlp/gating_einsum has shape \[2, 24, 40\], where \[2, 24, 48\]",
        ),
        (dict(vocab_size=400), r"input_embedding has shape \[40, 24\].*\[400, 24\]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_tensor_that_does_not_fit_is_named(nested, change, message):
    with pytest.raises(UserError, match=message):
        checkpoint.read(nested, architecture=dataclasses.replace(GROUPED, **change))


def test_what_is_no_checkpoint_is_said_so(tmp_path, gemma2, nested):
    with pytest.raises(UserError, match="there is no checkpoint folder"):
        checkpoint.read(tmp_path / "absent", architecture=GROUPED)
    with pytest.raises(UserError, match="holds no checkpoint"):
        checkpoint.read(tmp_path, architecture=GROUPED)

    cut = tmp_path / "cut"
    shutil.copytree(gemma2, cut)
    file = cut / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut/model.safetensors is damaged"):
        checkpoint.read(cut, architecture=GROUPED)
    (cut / "config.json").write_text("{}")
    with pytest.raises(UserError, match="damaged|model_type"):
        checkpoint.read(cut, architecture=GROUPED)

    shutil.copytree(nested, tmp_path / "orbax")
    for file in (tmp_path / "orbax").rglob("d/*"):
        file.unlink()
    with pytest.raises(UserError, match="orbax is damaged"):
        checkpoint.read(tmp_path / "orbax", architecture=GROUPED)


# Where it goes.

ONTO_A_MESH = """
import functools, pathlib, pickle, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from pav_jax.gemma import checkpoint, forward
folder, architecture = pickle.load(sys.stdin.buffer)
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("fsdp", "tensor"))
like = jax.eval_shape(
    functools.partial(forward.init_params, architecture=architecture), jax.random.key(0)
)
def place(leaf):
    spec = (None,) * (leaf.ndim - 2) + ("fsdp", "tensor")
    return NamedSharding(mesh, P(*spec) if leaf.ndim > 2 else P())
shardings = jax.tree.map(place, like) | {"embed": NamedSharding(mesh, P("tensor"))}
params = checkpoint.read(
    pathlib.Path(folder),
    architecture=architecture,
    dtype=jnp.bfloat16,
    shardings=shardings,
)
jax.tree.map(lambda a, s: 1 / (a.sharding == s), params, shardings)
down = params["layers"]["down"]
shards = {s.data.shape for s in down.addressable_shards}
assert shards == {(3, 20, 12)} and down.dtype == jnp.bfloat16, shards
assert "tensorflow" not in sys.modules and "torch" not in sys.modules
pickle.dump(jax.tree.map(np.asarray, params), open(sys.argv[1], "wb"))
"""


def test_reads_onto_a_mesh(gemma2, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ONTO_A_MESH, tmp_path / "out"],
        input=pickle.dumps((str(gemma2), GROUPED)),
        env={
            **os.environ,
            "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        },
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    params = pickle.loads((tmp_path / "out").read_bytes())
    _assert_same(
        params, jax.tree.map(lambda a: a.astype(jnp.bfloat16), random_params(GROUPED))
    )


def test_a_verifier_is_a_policy_s_checkpoint_and_a_head(tmp_path, gemma2):
    head = verifier.init_verifier(jax.random.key(1), {}, GROUPED)["head"]
    params = {"network": random_params(GROUPED), "head": head}
    export.write_verifier(tmp_path / "prm", params, architecture=GROUPED)
    _assert_same(export.read_verifier(tmp_path / "prm", architecture=GROUPED), params)
    policy = checkpoint.read(tmp_path / "prm" / "policy", architecture=GROUPED)
    _assert_same(policy, params["network"])
    # A head on a policy of Hugging Face.
    shutil.copytree(gemma2, tmp_path / "mixed" / "policy")
    save_params(tmp_path / "mixed" / "head", {"head": head})
    _assert_same(export.read_verifier(tmp_path / "mixed", architecture=GROUPED), params)
