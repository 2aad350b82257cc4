"""Log-probabilities of tokens of a large vocabulary, a part of it at a time.

The logits of all tokens would be most of a training step's memory. Here a loop reads
the table in chunks of its rows, where they lie: a chunk is a slice, and so is its
gradient, so that neither the table nor its gradient is ever copied. Each device has a
share of every chunk, since `tensor` shares out the rows; none waits for another's.

The backward pass is one loop too. All it needs of the forward pass is a sum for each
token: it computes logits again, and from them both gradients.

Shape letters: N tokens, D embed_dim, V vocabulary, R rows of a chunk.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from pav_jax.distributed.sharding import constrain

_NEVER = -2.3819763e38  # a logit; finite, so that no difference is NaN


def softcap(out: jax.Array, cap: float | None) -> jax.Array:
    """Logits within `cap` of zero, smoothly; as they are without one."""
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
      cap: of the logits, if there is one.
      chunk: most rows of the table that are read at once.

    Returns:
      Float32 `[B, T]`.
    """
    return _forward(table, hidden, targets, cap, chunk)[0]


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """Which rows of the table are of which chunk.

    Of a size that is no multiple, the last chunk reaches back into the one before.

    Attributes:
      shares: devices that share out the table's rows.
      size: rows of a share.
      rows: rows of a share that are read at once.
      count: chunks.
    """

    shares: int
    size: int
    rows: int
    count: int

    @classmethod
    def of(cls, table: jax.Array, chunk: int) -> "_Chunks":
        shares = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
        size = len(table) // shares
        count = -(-len(table) // chunk)
        rows = -(-size // count)
        return cls(shares, size, rows, -(-size // rows))

    def start(self, i: jax.Array) -> jax.Array:
        """The first row of chunk `i` in its share, int32."""
        return jnp.minimum(i * self.rows, self.size - self.rows)

    def tokens(self, i: jax.Array) -> jax.Array:
        """The token of each row, int32 `[1, R]`; -1 for one of the chunk before."""
        place = self.start(i) + jnp.arange(self.rows)[None]
        share = jnp.arange(self.shares)[:, None] * self.size
        return jnp.where(place < i * self.rows, -1, share + place).reshape(1, -1)

    def read(self, table: jax.Array, i: jax.Array) -> jax.Array:
        """Chunk `i` of a table, `[R, D]`."""
        where = ("tensor", None, "fsdp")
        parts = constrain(table.reshape(self.shares, self.size, -1), *where)
        part = jax.lax.dynamic_slice_in_dim(parts, self.start(i), self.rows, axis=1)
        # Whole along `fsdp` only now: the chunk is gathered, and not the table.
        part = constrain(constrain(part, *where), "tensor")
        return part.reshape(-1, table.shape[-1])

    def write(self, parts: jax.Array, part: jax.Array, i: jax.Array) -> jax.Array:
        """`parts [shares, V / shares, D]` with chunk `i` of it replaced."""
        part = part.reshape(self.shares, self.rows, -1).astype(parts.dtype)
        part = constrain(part, "tensor", None, "fsdp")
        return jax.lax.dynamic_update_slice_in_dim(parts, part, self.start(i), axis=1)

    def logits(self, x, table, i, cap):
        """Float32 `[N, R]` of `x [N, D]`."""
        part = self.read(table, i)
        out = jnp.einsum("nd,vd->nv", x, part, preferred_element_type=jnp.float32)
        out = softcap(out, cap)
        if self.rows * self.count == self.size:
            return out
        return jnp.where(self.tokens(i) < 0, _NEVER, out)


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

    def add(carry, i):
        of_x, of_table = carry
        out = chunks.logits(x, table, i, cap)
        slope = jnp.where(chunks.tokens(i) == gold, 1.0, 0.0) - jnp.exp(out - total)
        slope *= weight
        if cap is not None:
            slope *= 1.0 - jnp.square(jnp.maximum(out, -cap) / cap)
        of_x += jnp.einsum("nv,vd->nd", slope, chunks.read(table, i))
        part = jnp.einsum("nv,nd->vd", slope, x)
        return (of_x, chunks.write(of_table, part, i)), None

    shape = (chunks.shares, chunks.size, x.shape[-1])
    of_table = constrain(jnp.zeros(shape, table.dtype), "tensor", None, "fsdp")
    # From the last: rows that two chunks share are written by the one that they are of.
    (of_x, of_table), _ = jax.lax.scan(
        add,
        (jnp.zeros(x.shape, jnp.float32), of_table),
        jnp.arange(chunks.count),
        reverse=True,
    )
    of_x = of_x.reshape(hidden.shape).astype(hidden.dtype)
    return of_table.reshape(table.shape), of_x, None


log_probs.defvjp(_forward, _backward)
