"""`pav run` with a single stage, which trains a tiny policy and saves often.

Started by test_processes.py: `train_worker.py HANG run --config=...`. Every process
prints "step N" before it does that step. The last one waits before step HANG until
SIGTERM comes, and then goes on.
"""

import functools
import sys
import time
import types

import jax
import numpy as np
from ml_collections import ConfigDict

from pav_jax import policy
from pav_jax.distributed import signals
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import tiny_gemma2
from pav_jax.main import main
from pav_jax.pipeline.runner import Stage
from pav_jax.pipeline.training import run_training, together
from pav_jax.storage import checkpoints
from pav_jax.train import loop
from pav_jax.train.batches import Batches

ARCHITECTURE = tiny_gemma2(
    64, num_layers=2, embed_dim=16, num_heads=2, mlp_dim=24, num_kv_heads=2
)
STEPS = 12


def config(sizes=None) -> ConfigDict:
    """Of the stage; `sizes` are the mesh's."""
    found = ConfigDict(dict(name="demo", seed=0))
    found.sft = dict(
        steps=STEPS,
        batch_size=8,
        learning_rate=1e-2,
        final_learning_rate=0.1,
        warmup_steps=2,
        weight_decay=0.01,
        clip_norm=1.0,
    )
    if sizes:
        found.mesh = sizes
    return found


@together
def train(context):
    rng = np.random.default_rng(0)
    shape = (20, 10)
    rows = {
        "tokens": rng.integers(2, ARCHITECTURE.vocab_size, shape).astype(np.int32),
        "mask": np.ones(shape, np.float32),
    }
    params = jax.tree.map(  # drawn here, since jax would have to compile that
        lambda leaf: rng.normal(0, 0.1, leaf.shape).astype(np.float32), _like()
    )
    loss = functools.partial(policy.sft_loss, architecture=ARCHITECTURE)
    run_training(context, params, loss, [rows], context.config.sft)


STAGES = [Stage("sft", train, (), ("seed", "sft"), collective=True)]


def read(workdir):
    """The parameters that a run left, on the host."""
    return jax.device_get(checkpoints.load_params(workdir / "sft" / "params", _like()))


def _like():
    return jax.eval_shape(lambda: forward.init_params(jax.random.key(0), ARCHITECTURE))


def _hang(hang):
    batch = Batches.__call__

    def late_batch(self, step):
        print("step", step, flush=True)
        if step == hang and jax.process_index() == jax.process_count() - 1:
            while not signals._asked:
                time.sleep(0.02)
        return batch(self, step)

    Batches.__call__ = late_batch


if __name__ == "__main__":
    loop._SAVE_EVERY = -1.0
    _hang(int(sys.argv.pop(1)))
    fake = sys.modules["pav_jax.pipeline.stages"] = types.ModuleType(
        "pav_jax.pipeline.stages"
    )
    fake.stages = lambda config, *_: STAGES
    sys.exit(main())
