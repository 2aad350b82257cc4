"""What processes that train as one program agree on; with one, its word is the answer.

They may only save, leave or read a checkpoint together: each of these waits for all.
"""

import collections
import enum

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pav_jax.distributed import mesh


class Word(enum.IntEnum):
    """What to do after a step; the greatest of what processes say counts."""

    GO_ON = 0
    SAVE = 1
    LEAVE = 2  # and save


class Agreement:
    """Lets all processes do the same after each step.

    Of several, each gives its word after every step, and hears `late` steps later what
    was decided: to wait for that at once would leave the devices idle between steps.
    """

    def __init__(self, *, late: int):
        self._late = late
        self._decided: collections.deque[jax.Array] = collections.deque()
        if mesh.spans_processes():
            devices = jax.sharding.get_mesh()
            spread = PartitionSpec(devices.axis_names)
            self._count = devices.size
            self._spread = NamedSharding(devices, spread)
            whole = NamedSharding(devices, PartitionSpec())
            self._decide = jax.jit(jnp.max, out_shardings=whole)

    def __call__(self, word: Word) -> Word:
        if not mesh.spans_processes():
            return word
        words = jax.make_array_from_callback(
            (self._count,), self._spread, lambda _: np.array([word], np.int32)
        )
        self._decided.append(self._decide(words))
        if len(self._decided) <= self._late:
            return Word.GO_ON
        heard = Word(int(self._decided.popleft()))
        if heard:
            self._decided.clear()  # what was asked meanwhile has now been done
        return heard
