"""The example for tunix, by one step of its GRPO learner on its own toy model."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from tiny import random_verifier

REASON = "tunix is not in requirements.lock; make peers installs it in .venv-peers"
pytest.importorskip("tunix.rl.grpo.grpo_learner", reason=REASON)

import jax  # noqa: E402
import optax  # noqa: E402
import sentencepiece  # noqa: E402
from flax import nnx  # noqa: E402
from tunix.rl import algo_core, rl_cluster  # noqa: E402
from tunix.rl.grpo.grpo_learner import GRPOConfig  # noqa: E402
from tunix.rl.rollout import base_rollout  # noqa: E402
from tunix.tests import test_common  # noqa: E402

from pav_jax import step_rewards  # noqa: E402

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tunix_grpo.py"
ALPHA, K, LENGTH = 3.0, 2, 12
PROMPT, TEXTS = "Add 1.", ["1 + 1\n2", "so\n\nit\nis 3"]


def _cluster(verifier):
    """The actor and its reference, of tunix's tests, on the verifier's tokenizer."""

    def toy():
        size = verifier.tokenizer.vocab_size
        config = test_common.ModelConfig(vocab_size=size)
        return test_common.ToyTransformer(config=config, rngs=nnx.Rngs(0))

    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1])[None], ("fsdp", "tp"))
    role = rl_cluster.Role
    return rl_cluster.RLCluster(
        actor=toy(),
        reference=toy(),
        tokenizer=sentencepiece.SentencePieceProcessor(
            model_proto=verifier.tokenizer.model_bytes
        ),
        cluster_config=rl_cluster.ClusterConfig(
            role_to_mesh=dict.fromkeys(
                (role.ACTOR, role.REFERENCE, role.ROLLOUT), mesh
            ),
            rollout_engine="vanilla",
            offload_to_cpu=False,
            training_config=rl_cluster.RLTrainingConfig(
                actor_optimizer=optax.sgd(0.1), eval_every_n_steps=10, max_steps=1
            ),
            rollout_config=base_rollout.RolloutConfig(
                max_tokens_to_generate=LENGTH, max_prompt_length=16, kv_cache_size=64
            ),
        ),
    )


def test_one_step_of_training(monkeypatch):
    spec = importlib.util.spec_from_file_location("tunix_grpo", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    verifier = random_verifier()
    cluster = _cluster(verifier)
    tokenizer = verifier.tokenizer
    # What the actor would say is noise without newlines.
    ids = [[*tokenizer.encode(text), tokenizer.eos_id] for text in TEXTS]
    prompt = tokenizer.encode(PROMPT)

    def generate(prompts, **_):
        assert list(prompts) == [PROMPT] * 2
        return base_rollout.RolloutOutput(
            text=[tokenizer.decode(row) for row in ids],
            logits=None,
            tokens=[np.array(row) for row in ids],
            left_padded_prompt_tokens=np.array([prompt] * 2),
            logprobs=None,
        )

    monkeypatch.setattr(cluster, "generate", generate)
    learner = example.StepCreditLearner(
        rl_cluster=cluster,
        reward_fns=lambda completions, **_: [float("2" in x) for x in completions],
        algo_config=GRPOConfig(num_generations=2, beta=0.0),
        verifier=verifier,
        alpha=ALPHA,
        prover_k=K,
    )
    seen = []
    make = learner._generate_and_compute_advantage

    def noting(*args, **kwargs):
        seen.append(make(*args, **kwargs))
        return seen[-1]

    monkeypatch.setattr(learner, "_generate_and_compute_advantage", noting)

    def weights():
        return jax.tree.map(np.array, nnx.state(cluster.actor_trainer.model, nnx.Param))

    before = weights()
    learner.train([{"prompts": np.array([PROMPT]), "answer": np.array(["2"])}])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, weights())
    largest = max(jax.tree.leaves(moved))
    assert np.isfinite(largest) and largest > 0

    outcomes = np.array([1.0, 0.0])
    relative = algo_core.compute_advantages(rewards=outcomes, num_generations=2)
    found = step_rewards([PROMPT] * 2, TEXTS, verifier, ALPHA, K, outcomes=outcomes)
    expected = np.repeat(np.asarray(relative)[:, None], LENGTH, axis=1)
    for row, text, paid in zip(expected, TEXTS, found, strict=True):
        step = 0
        for place in range(len(text) + 1):  # a token a character, and the end token
            while step + 1 < len(paid.spans) and place >= paid.spans[step, 1]:
                step += 1
            row[place] += paid.rewards[step]
    np.testing.assert_allclose(np.asarray(seen[0].advantages), expected, atol=1e-4)
