"""A step of supervised fine-tuning, against a plain flax and optax step.

    python -m benchmarks.sft

The peer is the gemma package's `gm.nn.Transformer` under `jax.value_and_grad`, with
optax's cross-entropy over all its logits. A tiny model, and the shape of Gemma 3 270M;
peak memory is what the compiler reports. And long rows: our step by blocks, against the
same step with attention that holds all scores.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness
from benchmarks.harness import Side
from benchmarks.verifier_training import OPTIMIZER
from pav_jax import policy
from pav_jax.core.types import Batch, Params
from pav_jax.gemma import blockwise_attention, forward
from pav_jax.gemma.architecture import TransformerConfig, tiny_gemma2
from pav_jax.train import step as state

TINY = tiny_gemma2(512, num_layers=4, embed_dim=64, num_heads=2, mlp_dim=256)
# Gemma 3 270M: 18 layers, of which every sixth is global.
SMALL = TransformerConfig(
    vocab_size=262_144,
    embed_dim=640,
    mlp_dim=2048,
    num_heads=4,
    num_kv_heads=1,
    head_dim=256,
    layers=("local",) * 5 + ("global",) + ("local",) * 5 + ("global",)
    + ("local",) * 5 + ("global",),
    window=512,
    query_scale=256**-0.5,
    attn_softcap=None,
    final_softcap=None,
    qk_norm=True,
    global_rope_base=1_000_000.0,
)  # fmt: skip
ROWS, LENGTH, PROMPT = 16, 104, 40
MEDIUM = tiny_gemma2(512, num_layers=4, embed_dim=256, num_heads=4, mlp_dim=1024)
LONG = 1536  # what the paper's configs train on


def main() -> list[dict[str, object]]:
    """Runs it; returns what `harness.report` did."""
    found = []
    for name, architecture, rows, length in (
        ("tiny", TINY, ROWS, LENGTH),
        ("270M", SMALL, 4, 256),
    ):
        found += _measure(
            f"SFT step, {name}",
            "flax and optax",
            architecture,
            _batch(architecture, rows, length),
            (_loss(architecture), _peer_loss(architecture)),
            functools.partial(package_tree, architecture=architecture),
        )
    return found + _by_blocks()


def _by_blocks() -> list[dict[str, object]]:
    """Our step with attention by blocks, against one with all scores at once."""
    loss = _loss(MEDIUM)

    def at_once(params, batch):
        with mock.patch.object(blockwise_attention, "SHORTEST", LONG + 1):
            return loss(params, batch)

    return _measure(
        f"SFT step, {LONG:,} tokens a row",
        "all scores at once",
        MEDIUM,
        _batch(MEDIUM, 1, LONG),
        (loss, at_once),
        lambda params: params,
    )


def _loss(architecture: TransformerConfig) -> state.Loss:
    return functools.partial(policy.sft_loss, architecture=architecture)


def _batch(architecture: TransformerConfig, rows: int, length: int) -> Batch:
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, architecture.vocab_size, (rows, length)).astype(np.int32)
    mask = np.ones(tokens.shape, np.float32) * (np.arange(length) >= PROMPT)
    return {"tokens": tokens, "mask": mask}


def _measure(
    name: str,
    peer: str,
    architecture: TransformerConfig,
    batch: Batch,
    losses: tuple[state.Loss, state.Loss],
    peer_tree: Callable[[Params], Any],
) -> list[dict[str, object]]:
    """Peak memory and tokens a second of two ways to take the same step.

    Args:
      name: of the benchmark.
      peer: what the other way is.
      architecture: of the network.
      batch: what is trained on.
      losses: ours and the other.
      peer_tree: makes the other way's parameters of ours.
    """
    optimizer = state.make_optimizer(OPTIMIZER)
    init = functools.partial(forward.init_params, architecture=architecture)
    ours_like = jax.eval_shape(init, jax.random.key(0))
    likes = ours_like, jax.eval_shape(peer_tree, ours_like)
    compiled = [
        _compiled(state.make_train_step(loss, optimizer), like, optimizer, batch)
        for loss, like in zip(losses, likes, strict=True)
    ]
    model = harness.describe(architecture)
    memory = harness.report(
        f"{name}: peak memory",
        *(_peak_bytes(program) / 2**20 for program in compiled),
        unit="MiB",
        model=model,
    )
    params = init(jax.random.key(0))
    trees = params, peer_tree(params)
    sides = [
        _Training(label, program, optimizer, tree, batch)
        for label, program, tree in zip(("ours", peer), compiled, trees, strict=True)
    ]
    speed = harness.compare(
        f"{name}, {peer}", *(side.side() for side in sides), unit="tokens", model=model
    )
    first = [side.losses[0] for side in sides]
    print(f"  losses {first[0]:.6f} and {first[1]:.6f}")
    np.testing.assert_allclose(*first, rtol=1e-5)
    return [memory, speed]


@dataclasses.dataclass
class _Training:
    """Training that goes on with every `step`, on one batch."""

    name: str
    compiled: Any
    optimizer: optax.GradientTransformation
    params: Any
    batch: dict[str, np.ndarray]
    losses: list[float] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        # The step donates its state, and both sides start from the same arrays.
        params = jax.tree.map(jnp.copy, self.params)
        self.state = state.init_state(params, self.optimizer)

    def step(self) -> int:
        """One step; the tokens it trains on. Keeps the loss before it."""
        self.state, metrics = self.compiled(self.state, self.batch)
        jax.block_until_ready(self.state)
        self.losses.append(float(metrics["loss"]))
        return self.batch["tokens"].size

    def side(self) -> Side:
        return Side(self.name, self.step)


def _compiled(step, params, optimizer, batch) -> jax.stages.Compiled:
    like = jax.eval_shape(
        lambda p: state.TrainState(jnp.zeros((), jnp.int32), p, optimizer.init(p)),
        params,
    )
    return step.lower(like, batch).compile()


def _peak_bytes(program: jax.stages.Compiled) -> int:
    """What a step needs at its peak: arguments, results and all between them."""
    memory = program.memory_analysis()
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def _peer_loss(architecture: TransformerConfig) -> state.Loss:
    model = package_model(architecture)

    def loss(params, batch):
        out = model.apply({"params": params}, batch["tokens"][:, :-1])
        targets, mask = batch["tokens"][:, 1:], batch["mask"][:, 1:]
        losses = optax.softmax_cross_entropy_with_integer_labels(out.logits, targets)
        return jnp.sum(losses * mask) / jnp.sum(mask), {}

    return loss


def package_model(architecture: TransformerConfig) -> Any:
    """The gemma package's network of this architecture."""
    from kauldron import kd

    # Kauldron 1.4 renamed this, and gemma 3.3 uses the old name.
    if not hasattr(kd.ckpts, "AbstractPartialLoader"):
        kd.ckpts.AbstractPartialLoader = kd.ckpts.InitTransform
    from gemma import gm

    kinds = {
        "local": gm.nn.AttentionType.LOCAL_SLIDING,
        "global": gm.nn.AttentionType.GLOBAL,
    }
    scaling = gm.nn.config.QueryPreAttentionNormalisation.BY_ONE_OVER_SQRT_HEAD_DIM
    return gm.nn.Transformer(
        dtype=jnp.float32,
        config=gm.nn.config.TransformerConfig(
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
            query_pre_attn_norm=scaling,
            attn_logits_soft_cap=architecture.attn_softcap,
            sliding_window_size=architecture.window,
            transpose_gating_einsum=False,
            use_qk_norm=architecture.qk_norm,
            local_base_frequency=int(architecture.local_rope_base),
            global_base_frequency=int(architecture.global_rope_base),
            local_scale_factor=architecture.local_rope_scale,
            global_scale_factor=architecture.global_rope_scale,
        ),
    )


def package_tree(params: Params, architecture: TransformerConfig) -> dict[str, Any]:
    """Our parameters as the package's model has them."""
    tree = {
        "embedder": {"input_embedding": params["embed"]},
        "final_norm": {"scale": params["final_norm"]},
    }
    for i in range(architecture.num_layers):
        layer = {name: leaf[i] for name, leaf in params["layers"].items()}
        attn = {"attn_vec_einsum": {"w": layer["o"]}}
        if architecture.num_heads == architecture.num_kv_heads:
            w = jnp.concatenate([layer["q"][None], layer["kv"]])
            attn["qkv_einsum"] = {"w": w}
        else:
            attn["q_einsum"] = {"w": layer["q"]}
            attn["kv_einsum"] = {"w": layer["kv"]}
        if architecture.qk_norm:
            attn["_query_norm"] = {"scale": layer["q_norm"]}
            attn["_key_norm"] = {"scale": layer["k_norm"]}
        tree[f"layer_{i}"] = {
            "attn": attn,
            "mlp": {"gating_einsum": layer["gate"], "linear": layer["down"]},
            "pre_attention_norm": {"scale": layer["pre_attn_norm"]},
            "post_attention_norm": {"scale": layer["post_attn_norm"]},
            "pre_ffw_norm": {"scale": layer["pre_mlp_norm"]},
            "post_ffw_norm": {"scale": layer["post_mlp_norm"]},
        }
    return tree


if __name__ == "__main__":
    main()
