"""Verifier training on step labels: one row a response against one a (prefix, Q) pair.

    python -m benchmarks.verifier_training

The paper's data format suggests the pairs; they hold each prompt once for every step.
"""

import functools

import jax
import ml_collections
import numpy as np

from benchmarks import harness
from benchmarks.harness import Side
from benchmarks.labelling import ARCHITECTURE
from benchmarks.scoring import ENDS, random_verifier
from pav_jax import verifier
from pav_jax.train import step as state

RESPONSES = 4
OPTIMIZER = ml_collections.ConfigDict(
    dict(
        steps=100,
        warmup_steps=10,
        learning_rate=1e-4,
        final_learning_rate=0.05,
        weight_decay=0.01,
        clip_norm=1.0,
    )
)


def batches(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], int]:
    """The same labels as rows of responses and as rows of pairs.

    Returns:
      Both batches, and how many tokens the pairs have, padding not counted.
    """
    rng = np.random.default_rng(seed)
    shape = (RESPONSES, ENDS[-1])
    tokens = rng.integers(1, ARCHITECTURE.vocab_size, shape).astype(np.int32)
    labels = rng.uniform(size=(RESPONSES, len(ENDS)))
    whole = {name: np.zeros(shape, np.float32) for name in ("mask", "value", "weight")}
    whole["value"][:, ENDS - 1], whole["weight"][:, ENDS - 1] = labels, 1
    rows = (RESPONSES * len(ENDS), ENDS[-1])
    pairs = {name: np.zeros(rows, np.float32) for name in whole}
    pairs["tokens"] = np.zeros(rows, np.int32)
    for row, (response, step) in enumerate(np.ndindex(labels.shape)):
        end = ENDS[step]
        pairs["tokens"][row, :end] = tokens[response, :end]
        pairs["value"][row, end - 1] = labels[response, step]
        pairs["weight"][row, end - 1] = 1
    return whole | {"tokens": tokens}, pairs, RESPONSES * int(ENDS.sum())


def main() -> list[dict[str, object]]:
    """Runs it; returns what `harness.report` did."""
    whole, pairs, pair_tokens = batches()
    loss = functools.partial(
        verifier.verifier_loss, architecture=ARCHITECTURE, language_weight=0.0
    )
    optimizer = state.make_optimizer(OPTIMIZER)
    step = state.make_train_step(loss, optimizer)
    labels = int(whole["weight"].sum())
    sides, losses = [], []
    for name, batch in (("a row a response", whole), ("a row a pair", pairs)):
        training = _Training(step, optimizer, batch)
        losses.append(training.run())
        sides.append(Side(name, lambda t=training: labels * bool(t.run())))
    print(f"  losses {losses[0]:.7f} and {losses[1]:.7f}")
    np.testing.assert_allclose(*losses, atol=1e-5, rtol=0)
    model = harness.describe(ARCHITECTURE)
    name = "verifier training"
    return [
        harness.report(
            f"{name}: labels a token",
            labels / whole["tokens"].size,
            labels / pair_tokens,
            unit="labels/token",
            model=model,
        ),
        harness.compare(f"{name}, one row a pair", *sides, unit="labels", model=model),
    ]


class _Training:
    """Training that goes on with every `run`, on one batch."""

    def __init__(self, step, optimizer, batch):
        self._step, self._batch = step, batch
        self._state = state.init_state(random_verifier(ARCHITECTURE), optimizer)

    def run(self) -> float:
        """One step; the loss before it."""
        self._state, metrics = self._step(self._state, self._batch)
        jax.block_until_ready(self._state)
        return float(metrics["loss"])


if __name__ == "__main__":
    main()
