"""What a config says about the model and the tokenizer."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import byte_tokenizer

from pav_jax.core.errors import UserError
from pav_jax.gemma import checkpoint, forward, sizes
from pav_jax.tasks import problems

TINY = dict(num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24)


class Sized:
    """Stands for a tokenizer, of which only the size is asked."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size


def model(**fields) -> ConfigDict:
    return ConfigDict(fields).lock()


def test_a_published_size_has_an_embedding_for_each_token():
    config = problems.model_config(model(name="gemma2_2b"), Sized(256_000))
    assert config.vocab_size == 256_000
    assert config.num_params == sizes.by_name("gemma2_2b").num_params - 128 * 2304


@pytest.mark.parametrize(
    ("fields", "vocab_size", "message"),
    [
        (dict(name="gemma2_2b"), 262_144, "262144 tokens, and gemma2_2b has 256128"),
        (dict(name="gemma3_4b"), 256_000, "set config.tokenizer.path"),
        (dict(name="gemma4_2b"), 256_000, "'gemma4_2b'; there are: gemma2_2b"),
        (dict(name="gemma2_2b", window=8), 256_000, "take out window"),
    ],
    ids=["too-many", "too-few", "unknown", "more"],
)
def test_a_size_that_cannot_be_is_refused(fields, vocab_size, message):
    with pytest.raises(UserError, match=message):
        problems.model_config(model(**fields), Sized(vocab_size))


def sampling(branches, **grid):
    """On a grid of 6 trunks with 8 rows each."""
    fields = dict(sampling=dict(trunks=6, rows=8) | grid, limits=dict(max_tokens=4))
    tokenizer = types.SimpleNamespace(end_ids=(1,))
    lab = types.SimpleNamespace(config=ConfigDict(fields), tokenizer=tokenizer)
    return problems.Lab.sampling(lab, 1.0, branches=branches)


@pytest.mark.parametrize(
    ("branches", "expected"),
    [(9, (6, 8, 3)), (8, (6, 8, 3)), (5, (9, 5, 3)), (3, (15, 3, 3)), (1, (48, 1, 3))],
)
def test_the_grid_has_no_row_to_spare_and_whole_groups(branches, expected):
    found = sampling(branches, trunks_per_group=3)
    assert (found.trunks, found.rows, found.trunks_per_group) == expected


def test_every_device_has_a_group_of_trunks(monkeypatch):
    monkeypatch.setattr(problems.mesh, "row_shards", lambda mesh: 4)
    assert [sampling(n).trunks for n in (8, 7, 2, 1)] == [4, 4, 24, 48]


def test_the_policy_starts_from_a_checkpoint(tmp_path):
    tokenizer = byte_tokenizer()
    architecture = problems.model_config(model(**TINY), tokenizer)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(lambda: forward.init_params(jax.random.key(0), architecture)),
    )
    checkpoint.write(tmp_path / "it", params, architecture=architecture)

    said = model(**TINY, checkpoint=str(tmp_path / "it"), dtype="bfloat16")
    assert problems.model_config(said, tokenizer) == architecture
    read = problems.initial_policy(said, architecture, seed=0)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a, b.astype(jnp.bfloat16)),
        read,
        params,
    )
    assert read["embed"].dtype == jnp.bfloat16

    with pytest.raises(UserError, match="there is no checkpoint folder"):
        absent = model(**TINY, checkpoint=str(tmp_path / "absent"))
        problems.initial_policy(absent, architecture, seed=0)
    with pytest.raises(UserError, match="dtype is 'float8'"):
        problems.initial_policy(model(dtype="float8"), architecture, seed=0)


def test_a_tokenizer_is_read_or_learnt(tmp_path):
    byte_tokenizer().save(tmp_path / "it.model")
    read = problems.make_tokenizer(model(path=str(tmp_path / "it.model")), [], ())
    assert read.encode("ab") == byte_tokenizer().encode("ab")
    learnt = problems.make_tokenizer(model(vocab_size=9), ["ab"], ("a", "b"))
    assert learnt.encode("ab") == [4, 5]
    for fields in ({}, dict(path="it.model", vocab_size=9)):
        with pytest.raises(UserError, match="and not both"):
            problems.make_tokenizer(model(**fields), [], ())
