"""A finished run with a random policy and random verifiers, and a tiny tokenizer."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from tiny import byte_tokenizer

from pav_jax import verifier
from pav_jax.gemma import forward, sizes
from pav_jax.pipeline.runner import Stage, run_stages
from pav_jax.storage import checkpoints

CONFIG = ConfigDict(
    dict(
        name="tiny",
        seed=0,
        model=dict(num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24, window=8),
        limits=dict(max_prompt_tokens=30, max_tokens=70),
        verifier=dict(prover_k=4),
        mesh=dict(data=-1),
    )
).lock()
ARCHITECTURE = sizes.from_config(CONFIG.model, byte_tokenizer().vocab_size)

HEADS = {"prm": "sum", "orm": "plain"}

# (prompt, response): rows of 27, 27, 62 and 100 tokens, the last the longest allowed.
TEXTS = [
    ("What is 1 + 1?", "1 + 1\nis 2"),
    ("And is 2 + 2\n\n", "so = 4\n" + "= four\n\n"),
    ("Say it.\n", "Step one\n\nstep two is longer than one\nand three."),
    ("?", "x\n" * 47 + "yz"),
]


def write_data(context):
    byte_tokenizer().save(context.directory / "tokenizer.model")


def _network(context):
    """Random parameters, large enough for values that differ."""
    rng = np.random.default_rng(ord(context.stage[0]))

    def init():
        key = jax.random.key(0)
        params = forward.init_params(key, ARCHITECTURE)
        if context.stage == "sft":
            return params
        return verifier.init_verifier(key, params, ARCHITECTURE, HEADS[context.stage])

    params = jax.tree.map(
        lambda leaf: jnp.asarray(0.25 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(init),
    )
    checkpoints.save_params(context.directory / "params", params)


def make_run(workdir: Path) -> None:
    """Makes the run, with the stages data, sft, prm and orm."""
    fields = ("model", "limits")
    stages = [
        Stage("data", write_data, (), ("limits",)),
        Stage("sft", _network, ("data",), fields),
        Stage("prm", _network, ("data",), fields),
        Stage("orm", _network, ("data",), fields),
    ]
    run_stages(stages, CONFIG, workdir)
