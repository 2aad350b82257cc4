"""Labelling: our engine against samplers that do not use shared prefixes.

    python -m benchmarks.labelling

Each seed rollout is a prompt of 64 tokens and 8 steps of 16; from each of the 7 inner
prefixes 16 continuations go on to full length. The peers get the continuations of all
seeds from one step as one batch, the largest that has no padding.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, peers
from benchmarks.harness import Side
from pav_jax import rollout
from pav_jax.core.types import Params
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig, tiny_gemma2
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.rollout import Request

ARCHITECTURE = tiny_gemma2(512, num_layers=6, embed_dim=256, num_heads=4, mlp_dim=1024)
SEEDS, PROMPT, STEPS, STEP, N_MC = 4, 64, 8, 16, 16
# Rows for the longest four of the seven prefixes: the others follow them.
SAMPLING = SamplingConfig(max_tokens=STEPS * STEP, end_ids=(), trunks=SEEDS, rows=64)


def main() -> list[dict[str, object]]:
    """Runs all that is installed; returns what `harness.report` did."""
    params = forward.init_params(jax.random.key(0), ARCHITECTURE)
    rng = np.random.default_rng(0)
    shape = (SEEDS, PROMPT + STEPS * STEP)
    seeds = rng.integers(1, ARCHITECTURE.vocab_size, shape).astype(np.int32)
    ours = Side("engine", functools.partial(_ours, params, seeds))
    found = []
    for name, make in (
        ("labelling, Tunix Sampler", _tunix),
        ("labelling, transformers generate", _hugging_face),
    ):
        try:
            peer = make(params, seeds)
        except ImportError as error:
            harness.skip(name, error)
            continue
        model = harness.describe(ARCHITECTURE)
        found.append(harness.compare(name, ours, peer, unit="tokens", model=model))
    found.append(_fraction_of_matmul_rate(ours))
    return found


def _jobs(seeds: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Prefixes, one row a continuation, and how many tokens each goes on."""
    for step in range(1, STEPS):
        prefix = np.repeat(seeds[:, : PROMPT + step * STEP], N_MC, axis=0)
        yield prefix, (STEPS - step) * STEP


def _ours(params: Params, seeds: np.ndarray) -> int:
    return harness.sample(
        params, requests(seeds), architecture=ARCHITECTURE, sampling=SAMPLING
    ).decoded


def requests(
    seeds: np.ndarray, *, prompt: int = PROMPT, step: int = STEP
) -> list[Request]:
    """`N_MC` continuations from every inner prefix of seed rollouts.

    Args:
      seeds: int32 `[S, prompt + STEPS * step]`.
      prompt: tokens of the prompt.
      step: tokens of a step.
    """
    inner = np.repeat(np.arange(1, STEPS) * step, N_MC)
    return [
        Request(
            trunk=seed[: prompt + inner[-1]].tolist(),
            prompt_length=prompt,
            prefixes=prompt + inner,
            keys=rollout.branch_keys(
                0,
                np.full(len(inner), i),
                inner,
                np.tile(np.arange(N_MC), STEPS - 1),
            ),
        )
        for i, seed in enumerate(seeds)
    ]


def _tunix(params: Params, seeds: np.ndarray) -> Side:
    sampler = peers.tunix_sampler(params, ARCHITECTURE, PROMPT + STEPS * STEP)

    def sample(prefix, count, **asked):
        return sampler(
            list(prefix),
            max_generation_steps=count,
            max_prompt_length=prefix.shape[1],
            eos_tokens=[-1],
            temperature=1.0,
            top_p=1.0,
            seed=0,
            **asked,
        )

    prefix, count = next(_jobs(seeds))
    out = sample(prefix[:2], count, return_logprobs=True)
    _check(params, prefix[:2], np.stack(out.tokens), np.array(out.logprobs))

    def run():
        outs = [sample(prefix, count) for prefix, count in _jobs(seeds)]
        return sum(len(tokens) for out in outs for tokens in out.tokens)

    return Side("Tunix Sampler", run)


def _hugging_face(params: Params, seeds: np.ndarray) -> Side:
    model = peers.hugging_face_model(params, ARCHITECTURE)
    import torch

    def sample(prefix, count, **asked):
        prefix = torch.from_numpy(prefix.astype(np.int64))
        with torch.inference_mode():
            return model.generate(
                prefix,
                attention_mask=torch.ones_like(prefix),
                max_new_tokens=count,
                do_sample=True,
                top_k=0,
                top_p=1.0,
                temperature=1.0,
                **asked,
            )

    prefix, count = next(_jobs(seeds))
    out = sample(prefix[:2], count, output_scores=True, return_dict_in_generate=True)
    tokens = out.sequences[:, prefix.shape[1] :].numpy()
    scores = torch.stack(out.scores, dim=1).log_softmax(-1).numpy()
    log_probs = np.take_along_axis(scores, tokens[..., None], axis=-1)[..., 0]
    _check(params, prefix[:2], tokens, log_probs)

    def run():
        done = 0
        for prefix, count in _jobs(seeds):
            out = sample(prefix, count)
            assert out.shape[1] == prefix.shape[1] + count
            done += len(prefix) * count
        return done

    return Side("transformers generate", run)


def _check(params, prefix, tokens, log_probs) -> None:
    """Checks that a peer has our weights: its probabilities equal ours."""
    rows = np.concatenate([prefix, tokens], axis=1)
    hidden = forward.hidden_states(params, rows[:, :-1], architecture=ARCHITECTURE)
    ours = forward.token_log_probs(
        params, hidden, rows[:, 1:], architecture=ARCHITECTURE
    )
    ours = ours[:, prefix.shape[1] - 1 :]
    np.testing.assert_allclose(log_probs, ours, atol=2e-3, rtol=0)


def _fraction_of_matmul_rate(ours: Side) -> dict[str, object]:
    """FLOPs a second of labelling, beside those of a matrix product."""
    lengths = STEP * np.arange(1, STEPS)  # of continuations, which end at full length
    mean_left = np.sum(lengths**2) / np.sum(lengths) / 2
    context = PROMPT + STEPS * STEP - int(mean_left)
    flops = flops_per_token(ARCHITECTURE, context) / 1e9
    size = 1024
    a = jnp.ones((size, size)) / size
    product = jax.jit(lambda a, b: a @ b)

    def multiply():
        repeats = 8
        b = a
        for _ in range(repeats):
            b = product(a, b)
        b.block_until_ready()
        return repeats * 2 * size**3 / 1e9

    return harness.compare(
        "labelling, fraction of the matmul rate",
        Side("engine", lambda: ours.run() * flops),
        Side(f"matrix product of {size}", multiply),
        unit="GFLOP",
        model=harness.describe(ARCHITECTURE),
    )


def flops_per_token(architecture: TransformerConfig, context: int) -> int:
    """FLOPs of decoding one token that sees `context` others."""
    # Each parameter is multiplied once; the table too, for the logits.
    width = architecture.num_heads * architecture.head_dim
    attention = 2 * architecture.num_layers * width * context
    return 2 * (architecture.num_params + attention)


if __name__ == "__main__":
    main()
