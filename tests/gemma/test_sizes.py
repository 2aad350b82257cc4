"""Published architectures are the gemma package's; and those that configs describe."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.gemma import package_format, sizes


@pytest.mark.slow
@pytest.mark.parametrize("name", sizes.SIZES)
def test_the_sizes_are_the_package_s(gm, name):
    architecture = sizes.by_name(name)
    family, size = name.split("_")
    theirs = getattr(gm.nn, f"{family.capitalize()}_{size.upper()}").config
    assert architecture.window == theirs.sliding_window_size
    assert architecture.attn_softcap == theirs.attn_logits_soft_cap
    assert architecture.final_softcap == theirs.final_logit_softcap
    kinds = [kind.name.split("_")[0].lower() for kind in theirs.attention_types]
    assert list(architecture.layers) == kinds
    assert architecture.query_scale == pytest.approx(theirs.query_pre_attn_scalar())
    assert architecture.local_rope_base == theirs.local_base_frequency
    assert architecture.global_rope_base == theirs.global_base_frequency
    assert architecture.local_rope_scale == theirs.local_scale_factor
    assert architecture.global_rope_scale == theirs.global_scale_factor

    # Two layers, as tracing all takes long and all have the same shapes.
    architecture = dataclasses.replace(architecture, layers=architecture.layers[:2])
    theirs = dataclasses.replace(
        theirs, attention_types=theirs.attention_types[:2], vision_encoder=None
    )
    with jax.numpy_rank_promotion("allow"):
        variables = jax.eval_shape(
            gm.nn.Transformer(config=theirs).init,
            jax.random.key(0),
            jax.ShapeDtypeStruct((1, 2), jnp.int32),
        )
    shapes = {
        "/".join(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"])
    }
    assert {
        p.name: p.shape for p in package_format.gemma_pieces(architecture, {})
    } == shapes
    assert architecture.num_params == sum(int(np.prod(s)) for s in shapes.values())


def test_an_unknown_size_is_named_with_those_there_are():
    with pytest.raises(UserError, match="'gemma2_3b'; there are: gemma2_2b, gemma2"):
        sizes.by_name("gemma2_3b")


# The architecture that `config.model` describes.


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
        (dict(name="gemma2_2b", window=8), 256_000, "remove config.model.window"),
        (dict(num_layers=1, shrunk=True), 9, "set config.model.name"),
    ],
    ids=["too-many", "too-few", "unknown", "more", "shrunk"],
)
def test_a_size_that_cannot_be_is_refused(fields, vocab_size, message):
    with pytest.raises(UserError, match=message):
        sizes.from_config(model(**fields), vocab_size)


def test_an_architecture_of_ones_own_need_not_be_shrunk():
    own = dict(num_layers=1, embed_dim=16, num_heads=2, num_kv_heads=1, mlp_dim=8)
    found = sizes.from_config(model(**own, window=4, shrunk=False), 9)
    assert found == sizes.from_config(model(**own, window=4), 9)


def test_without_a_tokenizer_a_published_size_keeps_its_spare_rows():
    found = sizes.from_config(model(name="gemma2_9b"), None)
    assert found == sizes.by_name("gemma2_9b")
