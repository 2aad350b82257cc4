"""What a piece of work takes at least on a device, and what it takes.

A floor is the larger of two times: the fewest bytes the work must move, at the speed
of a copy on the same card, and its operations, at the speed of a matrix product there.
Both speeds are measured, not read off a data sheet.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from pav_jax.gemma.architecture import TransformerConfig


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """What the device does at most.

    Attributes:
      bandwidth: bytes a second of a copy, those read and those written.
      matmul: operations a second of a matrix product in bfloat16.
    """

    bandwidth: float
    matmul: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """The least that some work needs.

    Attributes:
      bytes: moved through the device's memory.
      operations: of products; a multiplication and an addition are two.
    """

    bytes: float = 0.0
    operations: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.bytes + other.bytes, self.operations + other.operations)

    def __mul__(self, times: float) -> "Cost":
        return Cost(self.bytes * times, self.operations * times)

    def floor(self, ceilings: Ceilings) -> tuple[float, str]:
        """The least seconds, and which of the two sets them."""
        by_bytes = self.bytes / ceilings.bandwidth
        by_operations = self.operations / ceilings.matmul
        if by_bytes > by_operations:
            return by_bytes, "bytes"
        return by_operations, "operations"


def measure(megabytes: int, width: int) -> Ceilings:
    """The device's ceilings.

    Args:
      megabytes: of the array that is copied; several times the largest cache.
      width: of the square matrices that are multiplied.
    """
    key = jax.random.key(0)
    array = jax.random.normal(key, (megabytes * 2**20 // 4,))
    # A copy that is not one: XLA would leave a plain copy out.
    copy = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    holder = [array]

    def move() -> jax.Array:
        holder[0] = copy(holder[0])
        return holder[0]

    bandwidth = 2 * array.nbytes / _seconds_each(move)
    a = jax.random.normal(key, (width, width), jnp.bfloat16)
    product = jax.jit(jnp.matmul)
    matmul = 2 * width**3 / _seconds_each(lambda: product(a, a))
    return Ceilings(bandwidth, matmul)


def _seconds_each(run: Callable[[], jax.Array], calls: int = 10) -> float:
    """Of a short call: several are waited for together."""

    def several() -> jax.Array:
        for _ in range(calls - 1):
            run()
        return run()

    return seconds(several, repeats=5) / calls


def seconds(run: Callable[[], Any], *, repeats: int) -> float:
    """The median of calls that are waited for, after one that is not counted."""
    jax.block_until_ready(run())
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(run())
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def weights(architecture: TransformerConfig, itemsize: int, *, table: bool) -> Cost:
    """All weights, read once; with or without the vocabulary's table."""
    return Cost(bytes=itemsize * _matrices(architecture, table))


def tokens(
    architecture: TransformerConfig, count: float, context: float, *, table: bool
) -> Cost:
    """The operations of `count` tokens that see `context` tokens each on average.

    `table` says whether logits are computed.
    """
    c = architecture
    attention = 2 * c.num_layers * c.num_heads * c.head_dim * context
    return Cost(operations=2 * count * (_matrices(c, table) + attention))


def cache(architecture: TransformerConfig, itemsize: int, count: float) -> Cost:
    """Keys and values of `count` tokens, read or written once."""
    c = architecture
    return Cost(bytes=2 * c.num_layers * c.num_kv_heads * c.head_dim * itemsize * count)


def _matrices(architecture: TransformerConfig, table: bool) -> int:
    """Parameters that each token is multiplied by."""
    left_out = 0 if table else architecture.vocab_size * architecture.embed_dim
    return architecture.num_params - left_out
