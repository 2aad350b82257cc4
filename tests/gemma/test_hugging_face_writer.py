"""What is written as a Hugging Face folder is read back, here and by transformers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict
from tiny import random_params

from pav_jax.core.errors import UserError
from pav_jax.gemma import checkpoint, forward, hugging_face, sizes
from pav_jax.gemma import hugging_face_writer as writer

REASON = "transformers is not in requirements.lock; make peers installs it"
IDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
# A layer of each kind, a window of 16, and RoPE scaled by 8 in Gemma 3.
SMALL = {
    name: dataclasses.replace(sizes.shrunk(sizes.by_name(name)), vocab_size=40)
    for name in ("gemma2_2b", "gemma3_4b")
}
TINY = ConfigDict(dict(num_layers=3, embed_dim=12, num_heads=2, mlp_dim=8, window=4))


def _config(architecture, dtype="float32", suffix="ForCausalLM", **others):
    return writer.config_json(
        architecture, dtype=dtype, suffix=suffix, others=IDS | others
    )


def _write(path, architecture, params, **others):
    path.mkdir()
    config = _config(architecture, dtype=str(params["embed"].dtype))
    writer.write(path, params, config, architecture=architecture, **others)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", SMALL)
def test_our_reader_gets_the_same_bits(name, dtype, tmp_path, monkeypatch):
    """In files of a size that only the embedding table is above."""
    monkeypatch.setattr(writer, "SHARD_BYTES", 2_000 * jnp.dtype(dtype).itemsize)
    architecture = SMALL[name]
    params = jax.tree.map(lambda a: a.astype(dtype), random_params(architecture))
    others = {"score.weight": np.ones((1, 32), np.float32)}
    _write(tmp_path / "it", architecture, params, others=others)
    found = checkpoint.read(tmp_path / "it", architecture=architecture, dtype=dtype)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found, params)

    index = json.loads((tmp_path / "it" / hugging_face.INDEX).read_text())
    files = sorted((tmp_path / "it").glob("*.safetensors"))
    assert {file.name for file in files} == set(index["weight_map"].values())
    assert files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    tensors = [safetensors.numpy.load_file(file) for file in files]
    held = [sum(x.nbytes for x in part.values()) for part in tensors]
    assert sum(held) == index["metadata"]["total_size"]
    assert len(files) > 4
    for part, size in zip(tensors, held, strict=True):
        assert size <= writer.SHARD_BYTES or len(part) == 1


def test_config_json_says_what_every_architecture_is():
    known = [*sizes.SIZES.values(), *map(sizes.shrunk, sizes.SIZES.values())]
    known.append(sizes.from_config(TINY, 40))
    for architecture in known:
        stated = hugging_face.stated_fields(_config(architecture))
        expected = dataclasses.asdict(architecture)
        for name, value in stated.items():
            wanted = expected[name]
            same = wanted is None or isinstance(wanted, tuple | bool)
            assert value == wanted if same else value == pytest.approx(wanted), name


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "gemma2_2b",
            dict(global_rope_base=1e6),
            "local_rope_base=10000.0 would be re",
        ),
        (
            "gemma2_2b",
            dict(query_scale=0.3),
            "query_scale=0.3 would be read as 0.30151",
        ),
        ("gemma3_4b", dict(local_rope_scale=2.0), "local_rope_scale=2.0 would be read"),
        (
            "gemma3_4b",
            dict(num_heads=3, num_kv_heads=1),
            "not a multiple of num_heads=3",
        ),
    ],
)
def test_what_transformers_cannot_express_is_refused(name, change, words):
    with pytest.raises(UserError, match=words):
        _config(dataclasses.replace(SMALL[name], **change))


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_transformers_computes_the_same(name, tmp_path, monkeypatch):
    """Logits of a policy, and what a classifier of its last token says."""
    transformers = pytest.importorskip("transformers", reason=REASON)
    torch = pytest.importorskip("torch", reason=REASON)
    monkeypatch.setattr(writer, "SHARD_BYTES", 8_000)
    architecture, rng = SMALL[name], np.random.default_rng(0)
    params, score = random_params(architecture), rng.normal(size=(1, 32))
    score = score.astype(np.float32)
    tokens = rng.integers(3, 40, (2, 24))  # longer than the window
    _write(tmp_path / "it", architecture, params)
    hidden = forward.hidden_states(params, tokens, architecture=architecture)
    expected = forward.logits(params, hidden, architecture=architecture)
    policy = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "it")
    with torch.no_grad():
        found = policy(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.std(expected) > 1

    (tmp_path / "of").mkdir()
    label = {"id2label": {"0": "Q"}, "label2id": {"Q": 0}}
    config = _config(architecture, suffix="ForSequenceClassification", **label)
    others = {"score.weight": score}
    writer.write(
        tmp_path / "of", params, config, architecture=architecture, others=others
    )
    auto = transformers.AutoModelForSequenceClassification
    with torch.no_grad():
        found = auto.from_pretrained(tmp_path / "of")(torch.tensor(tokens)).logits
    np.testing.assert_allclose(found, hidden[:, -1] @ score.T, atol=1e-4)
