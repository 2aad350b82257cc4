"""Runs every step function on 8 host devices; prints one line of JSON.

Started by test_mesh.py in a process of its own, since the number of devices cannot
change once jax has started. Steps run one at a time: if there are few cores, several
sharded programs in flight on host devices can wait for each other for ever.
"""

import dataclasses
import functools
import json
import re
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pav_jax import policy, rollout, scores, verifier
from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Response
from pav_jax.distributed import mesh, sharding
from pav_jax.gemma import blockwise_attention, forward
from pav_jax.gemma import decode_loop as grid_lib
from pav_jax.gemma.architecture import tiny_gemma2
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.rl import update as rl
from pav_jax.search import beam_step as search_step
from pav_jax.search.beam import beam_search
from pav_jax.search.verifier_scorer import VerifierScorer
from pav_jax.train.step import init_state, make_optimizer, make_train_step

# More than a chunk of the vocabulary, so that the loss goes by chunks.
ARCHITECTURE = tiny_gemma2(
    16_640, num_layers=2, embed_dim=16, num_heads=4, mlp_dim=24, num_kv_heads=2
)
BATCH, LENGTH = 8, 12
OPTIMIZER = ConfigDict(
    dict(
        steps=10,
        warmup_steps=1,
        learning_rate=1e-3,  # Adam turns rounding near zero into steps of this size
        final_learning_rate=1.0,
        weight_decay=0.0,
        clip_norm=1.0,
    )
)
OBJECTIVE = rl.Objective("progress", "value", kl=0.1, alpha=1.0, prover_k=4)
SAMPLING = SamplingConfig(max_tokens=6, end_ids=(1,), trunks=8, rows=2)


def batch():
    rng = np.random.default_rng(0)
    shape = (BATCH, LENGTH)
    floats = lambda: rng.uniform(size=shape).astype(np.float32)  # noqa: E731
    return {
        "tokens": rng.integers(2, ARCHITECTURE.vocab_size, shape).astype(np.int32),
        "mask": np.tile(np.arange(LENGTH) >= 4, (BATCH, 1)).astype(np.float32),
        "value": floats(),
        "weight": floats(),
        "step_end": rng.uniform(size=shape) < 0.3,
        "process_reward": floats(),
        "outcome": floats(),
        "sampled": -floats(),
    }


@functools.cache
def parameters():
    """A policy's and a verifier's, on the host; made once for all meshes."""
    params = jax.jit(forward.init_params, static_argnums=1)(
        jax.random.key(0), ARCHITECTURE
    )
    prm = verifier.init_verifier(jax.random.key(1), params, ARCHITECTURE)
    head = jax.random.normal(jax.random.key(2), (2, ARCHITECTURE.embed_dim))
    prm["head"] |= {"value": head[0], "evidence": 0.1 * head[1]}
    return jax.device_get((params, prm))


def sft(programs):
    loss = functools.partial(policy.sft_loss, architecture=ARCHITECTURE)
    return _train(parameters()[0], loss, programs, "sft")


def sft_by_blocks(programs):
    """With attention by blocks, of which local layers see other ones than global."""
    architecture = dataclasses.replace(ARCHITECTURE, window=3)
    loss = functools.partial(policy.sft_loss, architecture=architecture)
    with mock.patch.multiple(blockwise_attention, BLOCK=5, SHORTEST=LENGTH):
        return _train(parameters()[0], loss, programs, "sft_by_blocks")


def prm(programs):
    loss = functools.partial(
        verifier.verifier_loss, architecture=ARCHITECTURE, language_weight=0.1
    )
    return _train(parameters()[1], loss, programs, "prm")


def _train(params, loss, programs, name):
    """Parameters and loss after two steps."""
    optimizer = make_optimizer(OPTIMIZER)
    state = init_state(params, optimizer)
    step = make_train_step(loss, optimizer).lower(state, batch()).compile()
    programs[name] = step
    for _ in range(2):
        state, metrics = jax.block_until_ready(step(state, batch()))
    return {"params": state.params, "loss": metrics["loss"]}


def reinforce(programs):
    params = sharding.place(parameters()[0], sharding.TRAIN)
    optimizers = (make_optimizer(OPTIMIZER), make_optimizer(OPTIMIZER))
    state = rl.init_state(params, OBJECTIVE, optimizers, architecture=ARCHITECTURE)
    update = rl.make_update(OBJECTIVE, optimizers, architecture=ARCHITECTURE, group=2)
    programs["reinforce"] = update = update.lower(state, params, batch()).compile()
    for _ in range(2):
        state, metrics = jax.block_until_ready(update(state, params, batch()))
    return {"policy": state.policy, "value": state.value, "loss": metrics["loss"]}


def decode(programs):
    """Samples of 10 prompts by 3 branches: more than the grid holds."""
    params = sharding.place(parameters()[0], sharding.DECODE)
    rng = np.random.default_rng(1)
    trunks = rng.integers(2, ARCHITECTURE.vocab_size, (10, LENGTH)).tolist()
    requests = [
        rollout.Request(
            trunk=trunk,
            prompt_length=4,
            prefixes=np.array([4, 7, 9]),
            keys=rollout.branch_keys(0, [i] * 3, [0] * 3, range(3)),
        )
        for i, trunk in enumerate(trunks)
    ]
    static = dict(architecture=ARCHITECTURE, sampling=SAMPLING)
    if not jax.sharding.get_mesh().empty:
        grid = grid_lib.empty_grid(16, 16, 8, dtype=jnp.float32, **static)
        lowered = grid_lib.run_segment.lower(params, grid, np.int32(0), **static)
        programs["decode"] = lowered.compile()
    by_request = dict(rollout.sample(params, requests, ledger=Ledger(), **static))
    samples = [by_request[i] for i in range(len(requests))]
    return {
        name: np.stack([getattr(s, name) for s in samples])
        for name in ("tokens", "log_probs", "lengths")
    }


def score(programs):
    """Q by one pass over rows; and of responses to fewer prompts than devices."""
    params = sharding.place(parameters()[1], sharding.DECODE)
    tokens = batch()["tokens"]
    values = jax.jit(verifier.step_values, static_argnames="architecture")
    values = values.lower(params, tokens, architecture=ARCHITECTURE).compile()
    programs["score"] = values
    rows = [tuple(row) for row in tokens.tolist()]
    responses = [
        Response(i // 2, rows[i // 2][:4], row[4:], (), False)
        for i, row in enumerate(rows[:6])
    ]
    ends = [np.arange(len(response.tokens) + 1) for response in responses]
    found = scores.score_responses(
        params, responses, ends, architecture=ARCHITECTURE, ledger=Ledger()
    )
    return {"q": values(params, tokens), "responses": np.stack(found)}


def beams(programs):
    """Searches of 3 problems, with beams that a mesh divides by problem and by row."""
    params = sharding.place(parameters()[0], sharding.DECODE)
    verifier_params = sharding.place(parameters()[1], sharding.DECODE)
    rng = np.random.default_rng(2)
    prompts = rng.integers(2, ARCHITECTURE.vocab_size, (3, LENGTH)).tolist()
    scorer = VerifierScorer(verifier_params, ARCHITECTURE, SAMPLING.max_tokens)
    out = []
    for count in (1, 4):
        beam = search_step.BeamConfig(
            beams=count,
            candidates=2,
            max_tokens=SAMPLING.max_tokens,
            max_steps=3,
            end_ids=(1,),
            step_end_ids=tuple(range(2, ARCHITECTURE.vocab_size, 3)),
            rows=8,
        )
        static = dict(
            alpha=0.5, prover_k=4, seed=0, architecture=ARCHITECTURE, beam=beam
        )
        results = beam_search(params, scorer, prompts, range(3), **static)
        out += [(np.array(result.tokens), result.q) for result in results]
    if not jax.sharding.get_mesh().empty:
        static = dict(architecture=ARCHITECTURE, beam=beam)
        lengths = np.full(len(prompts), LENGTH, np.int32)
        keys, q = np.zeros((3, 2), np.uint32), np.zeros(3, np.float32)
        first = search_step.init_beams(
            params, np.array(prompts), lengths, keys, q, q, **static
        )
        rows = first.suffix.keys[0]
        # The rows hold nearly all of the memory: each device has an eighth of them.
        assert rows.addressable_shards[0].data.size * 8 == rows.size
        keys = np.zeros((3, 8, 2), np.uint32)
        active = np.ones((3, 8), bool)
        lowered = search_step.decode_steps.lower(
            params, first, keys, active, width=8, **static
        )
        programs["beams"] = lowered.compile()
    return out


def gathered(program):
    """The shapes of the results of a compiled program's all-gathers, as lists."""
    shapes = set()
    for line in program.as_text().splitlines():
        left, is_gather, _ = line.partition(" all-gather")
        if is_gather and "=" in left:
            shapes.update(re.findall(r"\w+\[([\d,]*)\]", left.partition("=")[2]))
    return [[int(x) for x in shape.split(",") if x] for shape in shapes]


def main(meshes):
    jobs = {
        f.__name__: f
        for f in (sft, sft_by_blocks, prm, reinforce, decode, score, beams)
    }
    wanted = {name for _, names in meshes for name in names}
    alone = {name: jax.device_get(jobs[name]({})) for name in sorted(wanted)}
    report = {}
    for sizes, names in meshes:
        found, programs = {}, {}
        with jax.set_mesh(mesh.make_mesh(sizes)):
            for name in names:
                out = jobs[name](programs)
                found[name] = max(
                    float(np.max(np.abs(a - b) / np.maximum(np.abs(b), 1), initial=0))
                    for a, b in zip(
                        jax.tree.leaves(jax.device_get(out)),
                        jax.tree.leaves(alone[name]),
                        strict=True,
                    )
                )
        gathers = {name: gathered(p) for name, p in programs.items()}
        report[json.dumps(sizes)] = {"difference": found, "gathered": gathers}
    shapes = [list(leaf.shape) for leaf in jax.tree.leaves(parameters()[0])]
    whole = {
        "parameters": [shape for shape in shapes if len(shape) > 1],
        "vocabulary": ARCHITECTURE.vocab_size,
        "batch": BATCH,
    }
    print(json.dumps({"meshes": report, "whole": whole}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
