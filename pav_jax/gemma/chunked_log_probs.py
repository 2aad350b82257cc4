"""Log-probabilities of tokens of a large vocabulary, in chunks of its rows.

The logits of all tokens would be most of a training step's memory. Here a loop reads
the embedding table in chunks of its rows, in place: a chunk is a slice, and so is its
gradient, so neither the table nor its gradient is ever copied. The rows are sharded
over `tensor`; a chunk takes rows of every shard, so all devices work on all chunks.

The backward pass is one loop too. From the forward pass it needs only one sum for each
token: it computes the logits again, and both gradients from them.

Shape letters: N tokens, D embed_dim, V vocabulary, R rows of a chunk.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from pav_jax.distributed.sharding import constrain

# A logit as the gemma package has it; finite, so that no difference is NaN.
NEVER = -2.3819763e38


def softcap(out: jax.Array, cap: float | None) -> jax.Array:
    """Logits, smoothly limited to (-cap, cap); unchanged if `cap` is None."""
    return out if cap is None else jnp.tanh(out / cap) * cap


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def log_probs(
    table: jax.Array,
    hidden: jax.Array,
    targets: jax.Array,
    cap: float | None,
    chunk: int,
) -> jax.Array:
    """Log-probability of each target given its hidden state.

    Args:
      table: `[V, D]`.
      hidden: `[B, T, D]`, in the table's dtype.
      targets: int32 `[B, T]`.
      cap: the soft cap of the logits, or None.
      chunk: most rows of the table that are read at once.

    Returns:
      Float32 `[B, T]`.
    """
    return _forward(table, hidden, targets, cap, chunk)[0]


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """Which rows of the table are in which chunk.

    If chunks do not divide a shard evenly, the last one overlaps the one before.

    Attributes:
      shards: shards of the table's rows.
      size: rows of a shard.
      rows: rows of each shard that are in a chunk; R = shards * rows.
      count: chunks.
    """

    shards: int
    size: int
    rows: int
    count: int

    @classmethod
    def of(cls, table: jax.Array, chunk: int) -> "_Chunks":
        shards = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
        size = len(table) // shards
        count = -(-len(table) // chunk)
        rows = -(-size // count)
        return cls(shards, size, rows, -(-size // rows))

    def start(self, i: jax.Array) -> jax.Array:
        """The first row of chunk `i` in each shard, int32."""
        return jnp.minimum(i * self.rows, self.size - self.rows)

    def tokens(self, i: jax.Array) -> jax.Array:
        """The token of each row, int32 `[1, R]`; -1 if the chunk before has it."""
        place = self.start(i) + jnp.arange(self.rows)[None]
        shard = jnp.arange(self.shards)[:, None] * self.size
        return jnp.where(place < i * self.rows, -1, shard + place).reshape(1, -1)

    def read(self, table: jax.Array, i: jax.Array) -> jax.Array:
        """Chunk `i` of a table, `[R, D]`."""
        where = ("tensor", None, "fsdp")
        parts = constrain(table.reshape(self.shards, self.size, -1), *where)
        part = jax.lax.dynamic_slice_in_dim(parts, self.start(i), self.rows, axis=1)
        # Gathered along `fsdp` only now: the chunk is, and not the table.
        part = constrain(constrain(part, *where), "tensor")
        return part.reshape(-1, table.shape[-1])

    def write(self, parts: jax.Array, part: jax.Array, i: jax.Array) -> jax.Array:
        """`parts [shards, V / shards, D]` with chunk `i` replaced."""
        part = part.reshape(self.shards, self.rows, -1).astype(parts.dtype)
        part = constrain(part, "tensor", None, "fsdp")
        return jax.lax.dynamic_update_slice_in_dim(parts, part, self.start(i), axis=1)

    def logits(self, x, table, i, cap):
        """Logits of a chunk, float32 `[N, R]`, for hidden states `x [N, D]`."""
        part = self.read(table, i)
        out = jnp.einsum("nd,vd->nv", x, part, preferred_element_type=jnp.float32)
        out = softcap(out, cap)
        if self.rows * self.count == self.size:
            return out
        return jnp.where(self.tokens(i) < 0, NEVER, out)


def _forward(table, hidden, targets, cap, chunk):
    chunks = _Chunks.of(table, chunk)
    x, gold = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1, 1)

    def sums(i):
        out = chunks.logits(x, table, i, cap)
        of_gold = jnp.sum(jnp.where(chunks.tokens(i) == gold, out, 0.0), axis=-1)
        return jax.nn.logsumexp(out, axis=-1), of_gold

    total, of_gold = jax.lax.map(sums, jnp.arange(chunks.count))
    total = jax.nn.logsumexp(total, axis=0)
    out = jnp.sum(of_gold, axis=0) - total
    return out.reshape(targets.shape), (table, hidden, targets, total)


def _backward(cap, chunk, saved, cotangent):
    table, hidden, targets, total = saved
    chunks = _Chunks.of(table, chunk)
    x = hidden.reshape(-1, hidden.shape[-1])
    gold, total, weight = (a.reshape(-1, 1) for a in (targets, total, cotangent))
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def add(carry, i):
        of_x, of_table = carry
        out = chunks.logits(x, table, i, cap)
        slope = jnp.where(chunks.tokens(i) == gold, 1.0, 0.0) - jnp.exp(out - total)
        slope *= weight
        if cap is not None:
            slope *= 1.0 - jnp.square(jnp.maximum(out, -cap) / cap)
        # In the table's dtype, as every other gradient is: a product of float32 with
        # bfloat16 is one of float32, twice as slow or worse.
        slope = slope.astype(table.dtype)
        of_x += product("nv,vd->nd", slope, chunks.read(table, i))
        part = product("nv,nd->vd", slope, x)
        return (of_x, chunks.write(of_table, part, i)), None

    shape = (chunks.shards, chunks.size, x.shape[-1])
    of_table = constrain(jnp.zeros(shape, table.dtype), "tensor", None, "fsdp")
    # From the last: rows that are in two chunks get the gradient of the first of them.
    (of_x, of_table), _ = jax.lax.scan(
        add,
        (jnp.zeros(x.shape, jnp.float32), of_table),
        jnp.arange(chunks.count),
        reverse=True,
    )
    of_x = of_x.reshape(hidden.shape).astype(hidden.dtype)
    return of_table.reshape(table.shape), of_x, None


log_probs.defvjp(_forward, _backward)
