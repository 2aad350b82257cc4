"""The architecture that `config.model` describes."""

import pytest
from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.gemma import sizes


def model(**fields) -> ConfigDict:
    return ConfigDict(fields).lock()


def test_a_published_size_has_an_embedding_for_each_token():
    config = sizes.from_config(model(name="gemma2_2b"), 256_000)
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
        sizes.from_config(model(**fields), vocab_size)


def test_without_a_tokenizer_a_published_size_keeps_its_spare_rows():
    found = sizes.from_config(model(name="gemma2_9b"), None)
    assert found == sizes.by_name("gemma2_9b")
