"""Batches as a pure function of the step, so that a checkpoint needs no data state."""

from collections.abc import Sequence

import numpy as np

from pav_jax.core.errors import UserError


class Batches:
    """Shuffled batches of rows, a new permutation each epoch.

    Args:
      arrays: name -> array `[N, ...]`.
      batch_size: rows in a batch.
      seed: of the permutations.

    Raises:
      UserError: there are fewer rows than `batch_size`.
    """

    def __init__(self, arrays: dict[str, np.ndarray], *, batch_size: int, seed: int):
        (self._count,) = {len(array) for array in arrays.values()}
        if self._count < batch_size:
            raise UserError(
                f"{self._count} training rows are fewer than a batch of {batch_size}"
            )
        self._arrays = arrays
        self._batch_size = batch_size
        self._seed = seed
        self._orders: dict[int, np.ndarray] = {}

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            rng = np.random.default_rng((self._seed, epoch))
            # A batch can reach into a second epoch, but not into a third.
            kept = {e: o for e, o in self._orders.items() if e == epoch - 1}
            self._orders = kept | {epoch: rng.permutation(self._count)}
        return self._orders[epoch]

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        """The batch of optimizer step `step`, counted from 0."""
        first = step * self._batch_size
        places = np.arange(first, first + self._batch_size)
        rows = np.array(
            [self._order(p // self._count)[p % self._count] for p in places.tolist()]
        )
        return {name: array[rows] for name, array in self._arrays.items()}


def mixed(sets: Sequence[Batches], step: int) -> dict[str, np.ndarray]:
    """The batch of a step, made of one batch of each set."""
    parts = [batches(step) for batches in sets]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def pad_rows(rows: list[list[int]], length: int, dtype=np.int32) -> np.ndarray:
    """Rows of up to `length` values, zeros after them: `[N, length]`."""
    out = np.zeros((len(rows), length), dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
