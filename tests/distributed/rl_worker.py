"""`pav run` with the stages of RL, from a random tiny policy and verifier.

Started by test_processes.py: `rl_worker.py HANG run --config=...`. Every process prints
"step N" before it samples for an iteration, counted from 0. The last one waits before
step HANG until SIGTERM comes, and then goes on.
"""

import sys
import time

import jax
from ml_collections import ConfigDict

from pav_jax import verifier
from pav_jax.distributed import signals
from pav_jax.gemma import forward
from pav_jax.main import main
from pav_jax.pipeline import stages as pipeline
from pav_jax.pipeline.data import run_data
from pav_jax.pipeline.runner import Stage
from pav_jax.policy import load_policy
from pav_jax.rl.trainer import Trainer
from pav_jax.storage import checkpoints
from pav_jax.tasks.problems import Problems
from pav_jax.train import loop

PAV = dict(reward="progress", baseline="group", alpha=0.5, prover_k=2)
STEPS = 3


def config(sizes=None, **changes) -> ConfigDict:
    """Of the stages; `sizes` are the mesh's, and `changes` of the method.

    `refresh_every=2` and `n_mc=2` give the same on one process and two; they are not
    in the tests, since they double what there is to compile.
    """
    optimizer = dict(
        warmup_steps=1,
        learning_rate=1e-3,
        final_learning_rate=1.0,
        weight_decay=0.0,
        clip_norm=1.0,
    )
    found = ConfigDict(
        dict(
            name="demo",
            seed=0,
            task=dict(
                name="relations",
                seed=0,
                min_depth=1,
                max_depth=1,
                num_people=3,
                max_decoy=1,
            ),
            problems=dict(sft=8, labels=16, validation=2, test=7),
            limits=dict(max_prompt_tokens=24, max_tokens=12, max_steps=4),
            tokenizer=dict(vocab_size=64),
            model=dict(
                num_layers=2, embed_dim=16, num_heads=2, num_kv_heads=2, mlp_dim=16
            ),
            sampling=dict(trunks=4, rows=2),
            labels={},
            verifier={},
            rl=dict(
                rft=dict(batch_size=8),
                training=optimizer
                | dict(
                    steps=STEPS,
                    value_learning_rate=1e-3,
                    problems=4,
                    samples=2,
                    kl=0.01,
                    max_kl=5.0,
                    min_accuracy=0.0,
                    measure_every=STEPS,
                    measure_samples=2,
                ),
                refresh=optimizer
                | dict(problems=5, n_mc=2, language_weight=0.1, steps=2, batch_size=4),
                measured="test",
                seeds=(0,),
                methods=dict(pav=PAV | changes),
                final={},
            ),
        )
    )
    if sizes:
        found.mesh = sizes
    return found


def stages(config, *_) -> list[Stage]:
    """Problems, a policy and a verifier that no one has trained, and an RL run."""
    model = ("task", "model", "limits", "seed")
    fields = ("task", "problems", "limits", "tokenizer")
    return [
        Stage("data", run_data, (), fields),
        Stage("rft", _policy, ("data",), model),
        Stage("prm", _verifier, ("data", "rft"), model),
        # Not those of `pipeline.stages`, which wants a whole experiment.
        *(s for s in pipeline._rl_stages(config) if s.name.startswith("rl-")),
    ]


def read(workdir):
    """The policy that a run left, on the host."""
    problems = Problems.load(config(), workdir / "data", "labels")
    params = load_policy(workdir / "rl-pav-0", problems.architecture, problems.dtype)
    return jax.device_get(params)


def _policy(context):
    problems = Problems.load(context.config, context.input("data"), "labels")
    params = forward.init_params(jax.random.key(0), problems.architecture)
    checkpoints.save_params(context.directory / "params", params)


def _verifier(context):
    problems = Problems.load(context.config, context.input("data"), "labels")
    architecture = problems.architecture
    policy = load_policy(context.input("rft"), architecture, problems.dtype)
    params = verifier.init_verifier(jax.random.key(1), policy, architecture)
    leaves, tree = jax.tree.flatten(params["head"])
    keys = jax.random.split(jax.random.key(2), len(leaves))
    leaves = [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    params["head"] = jax.tree.unflatten(tree, leaves)
    checkpoints.save_params(context.directory / "params", params)


def _are_correct(self, responses):
    """An untrained policy is never right; here the sum of token ids decides."""
    return [(problem + sum(tokens)) % 3 == 0 for problem, tokens in responses]


def _hang(hang):
    roll_out = Trainer.roll_out

    def late(self, policy, step, *args, **kwargs):
        print("step", step, flush=True)
        if step == hang and jax.process_index() == jax.process_count() - 1:
            while not signals._asked:
                time.sleep(0.02)
        return roll_out(self, policy, step, *args, **kwargs)

    Trainer.roll_out = late


if __name__ == "__main__":
    loop._SAVE_EVERY = -1.0
    Problems.are_correct = _are_correct
    _hang(int(sys.argv.pop(1)))
    pipeline.stages = stages
    sys.exit(main())
