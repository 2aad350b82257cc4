"""Settings and data that every test shares.

The settings go through the environment because jax reads it when it is first imported:
tests that never need jax do not pay for it, and the programs that tests start inherit
them. A test that calls a library which broadcasts ranks wraps that call in
`jax.numpy_rank_promotion("allow")`.
"""

import functools
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Most of the time of the tests is compilation. tests/pipeline/test_stages.py alone
# optimises what it compiles, since it runs the pipeline as a user does.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# What tensorflow-datasets prepared, and what jax and Python compiled: one folder for
# all processes of a test run, so that none does again what another has done. The first
# process to come here makes it, and removes it when it ends; the others find its name.
# So is the temporary directory, in which nothing may be left at the end; that of
# pytest's own `tmp_path` stays where it was.
_FIRST = "PYTEST_XDIST_WORKER" not in os.environ
if _FIRST:
    _KEPT = tempfile.TemporaryDirectory(prefix="pav_tests_")
    os.environ["TFDS_DATA_DIR"] = os.path.join(_KEPT.name, "prepared")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(_KEPT.name, "compiled")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(_KEPT.name, "torch")
    # Where Python may write no bytecode beside a source, a start of jax takes twice as
    # long, and these tests start hundreds of programs.
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):
        os.environ["PYTHONPYCACHEPREFIX"] = os.path.join(_KEPT.name, "bytecode")
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    _TEMPORARY = Path(_KEPT.name) / "temporary"
    _TEMPORARY.mkdir()
    os.environ["TMPDIR"] = tempfile.tempdir = str(_TEMPORARY)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fuzzed", type=int, default=2_000, help="answers of MATH-500 that are fuzzed"
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run of tests that leaves files in the temporary directory."""
    if _FIRST and (left := sorted(path.name for path in _TEMPORARY.iterdir())):
        print(f"\nerror: these tests left {len(left)} files or folders: {left[:20]}")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def gsm8k_dir() -> Path:
    """The published GSM8K files, {train,test}.jsonl, from beside the checkout."""
    path = ROOT.parent / "shared" / "data" / "gsm8k"
    if not path.is_dir():
        pytest.skip("needs GSM8K in ../shared/data/gsm8k")
    return path


@pytest.fixture(scope="session")
def math500() -> list[dict]:
    """MATH-500 as published, from beside the checkout."""
    path = ROOT.parent / "shared" / "data" / "math500.jsonl"
    if not path.is_file():
        pytest.skip("needs MATH-500 in ../shared/data/math500.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def gm() -> Any:
    """The gemma package's `gm`. Takes seconds, and loads TensorFlow."""
    from kauldron import kd

    # Kauldron 1.4 renamed this, and gemma 3.3 uses the old name.
    if not hasattr(kd.ckpts, "AbstractPartialLoader"):
        kd.ckpts.AbstractPartialLoader = kd.ckpts.InitTransform
    from gemma import gm

    return gm


@pytest.fixture(scope="session")
def package_model(gm) -> Any:
    """Makes of our config the package's Transformer, and random float32 weights."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    @functools.cache
    def make(c):
        kinds = {
            "local": gm.nn.AttentionType.LOCAL_SLIDING,
            "global": gm.nn.AttentionType.GLOBAL,
        }
        scalings = gm.nn.config.QueryPreAttentionNormalisation
        by = {
            c.head_dim**-0.5: scalings.BY_ONE_OVER_SQRT_HEAD_DIM,
            (c.embed_dim // c.num_heads) ** -0.5: (
                scalings.BY_ONE_OVER_SQRT_EMBED_DIM_DIV_NUM_HEADS
            ),
        }
        model = gm.nn.Transformer(
            dtype=jnp.float32,
            config=gm.nn.config.TransformerConfig(
                num_embed=c.vocab_size,
                embed_dim=c.embed_dim,
                hidden_dim=c.mlp_dim,
                num_heads=c.num_heads,
                head_dim=c.head_dim,
                num_kv_heads=c.num_kv_heads,
                final_logit_softcap=c.final_softcap,
                use_post_attn_norm=True,
                use_post_ffw_norm=True,
                attention_types=tuple(kinds[kind] for kind in c.layers),
                query_pre_attn_norm=by[c.query_scale],
                attn_logits_soft_cap=c.attn_softcap,
                sliding_window_size=c.window,
                transpose_gating_einsum=c.transposed_gate,
                use_qk_norm=c.qk_norm,
                local_base_frequency=int(c.local_rope_base),
                global_base_frequency=int(c.global_rope_base),
                local_scale_factor=c.local_rope_scale,
                global_scale_factor=c.global_rope_scale,
            ),
        )
        rng = np.random.default_rng(0)

        def weight(leaf):  # norm scales, which start at zero, included
            return jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32)

        with jax.numpy_rank_promotion("allow"):
            shapes = jax.eval_shape(
                model.init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32)
            )
        return model, jax.tree.map(weight, shapes)

    return make
