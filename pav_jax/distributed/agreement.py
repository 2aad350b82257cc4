"""What processes that train as one program agree on after each step.

They may only save, leave or read a checkpoint together, since each of these waits for
all. With one process there is nothing to agree on.
"""

import collections
import enum

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pav_jax.distributed import mesh


class Decision(enum.IntEnum):
    """What to do after a step; the greatest word of all processes counts."""

    GO_ON = 0
    SAVE = 1
    LEAVE = 2  # and save


class Agreement:
    """Lets all processes do the same after each step.

    Each of several processes gives its word after every step, and learns `late` steps
    later what was decided: waiting for it at once would leave the devices idle between
    steps. A single process gets its own word back at once.
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

    def __call__(self, word: Decision) -> Decision:
        """Gives this process's word; returns what all do now."""
        if not mesh.spans_processes():
            return word
        words = jax.make_array_from_callback(
            (self._count,), self._spread, lambda _: np.array([word], np.int32)
        )
        self._decided.append(self._decide(words))
        if len(self._decided) <= self._late:
            return Decision.GO_ON
        decided = Decision(int(self._decided.popleft()))
        if decided:
            self._decided.clear()  # what was asked meanwhile is done with this one
        return decided
