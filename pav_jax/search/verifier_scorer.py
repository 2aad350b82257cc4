"""A trained verifier as the scorer of a beam search.

It reads each token once: its keys and values are copied from a candidate to its
children, as the policy's are. Shape letters are those of `beam_step`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax import verifier
from pav_jax.core.types import Params
from pav_jax.gemma import cached_attention
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.cached_attention import KeyValues
from pav_jax.search import rows as rows_lib
from pav_jax.search.beam_step import Beams
from pav_jax.search.rows import CHUNK


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VerifierState:
    """What a verifier has read of the candidates.

    Attributes:
      trunk: the prompts' keys and values, `[G, K, P, H]` a layer.
      suffix: the candidates' keys and values, `[G, R, K, T, H]` a layer.
      evidence: float32 `[G, R]`, summed over all tokens read.
      tokens_read: int32 `[G]`, prompts and dropped candidates included.
    """

    trunk: KeyValues
    suffix: KeyValues
    evidence: jax.Array
    tokens_read: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class VerifierScorer:
    """Scores candidates by a trained verifier; a `beam.Scorer`.

    `score` and `keep` donate the state they take: the keys and values in it are as
    large as the policy's.

    Attributes:
      params: the verifier.
      architecture: of its network.
      max_tokens: the most tokens of a response.
    """

    params: Params
    architecture: TransformerConfig
    max_tokens: int

    @functools.cached_property
    def _step_params(self) -> Params:
        network = cached_attention.for_extend(self.params["network"])
        return self.params | {"network": network}

    def init(self, prompts, lengths, problems, rows):
        del problems
        return read_prompts(
            self.params,
            prompts,
            lengths,
            rows=rows,
            max_tokens=self.max_tokens,
            architecture=self.architecture,
        )

    def score(self, state, beams):
        q, read = beams.q, beams.start
        width = most = beams.length.shape[1]
        while most:
            width = rows_lib.next_width(most, width)
            state, q, read, left = read_steps(
                self._step_params,
                state,
                q,
                read,
                beams,
                architecture=self.architecture,
                width=width,
            )
            most = int(left)
        return q, state

    def keep(self, state, parents, used):
        return keep_rows(state, parents, used)

    def tokens_read(self, state):
        return np.asarray(state.tokens_read)


@functools.partial(jax.jit, static_argnames=("rows", "max_tokens", "architecture"))
def read_prompts(
    params: Params, prompts, lengths, *, rows, max_tokens, architecture
) -> tuple[VerifierState, jax.Array]:
    """The state after the prompts, and Q of the bare problems, float32 `[G]`.

    Args:
      params: the verifier.
      prompts: int32 `[G, P]`.
      lengths: int32 `[G]`, 0 for a place without a problem.
      rows: R.
      max_tokens: T.
      architecture: of the verifier's network.
    """
    trunk, hidden = cached_attention.prefill(
        params["network"], prompts, architecture=architecture
    )
    value, evidence = verifier.head_terms(params, hidden)
    last = jnp.maximum(lengths - 1, 0)[:, None]
    value, evidence = (
        jnp.take_along_axis(terms, last, axis=1)[:, 0]
        for terms in (value, jnp.cumsum(evidence, axis=1))
    )
    groups = len(prompts)
    state = VerifierState(
        trunk=trunk,
        suffix=cached_attention.empty_suffix(
            groups, rows, max_tokens, architecture=architecture, dtype=hidden.dtype
        ),
        evidence=jnp.repeat(evidence[:, None], rows, axis=1),
        tokens_read=lengths,
    )
    q = jax.nn.sigmoid(value + evidence)
    return rows_lib.constrain_sharding(state, groups, rows), q


@functools.partial(
    jax.jit, static_argnames=("architecture", "width"), donate_argnames="state"
)
def read_steps(
    params: Params,
    state: VerifierState,
    q: jax.Array,
    read: jax.Array,
    beams: Beams,
    *,
    architecture: TransformerConfig,
    width: int,
) -> tuple[VerifierState, jax.Array, jax.Array, jax.Array]:
    """Reads rows up to `beams.length`, or until a narrower batch is enough.

    Args:
      params: the verifier, its network in the form of `cached_attention.for_extend`.
      state: donated.
      q: float32 `[G, R]`, kept for rows that are not read to their end.
      read: int32 `[G, R]`, tokens of each response read so far.
      beams: what to read.
      architecture: of the verifier's network.
      width: rows of each problem that go on together; no problem has more of them with
        tokens left to read.

    Returns:
      The state, `q` and `read`; the most rows of a problem with tokens left to read,
      an int32 scalar.
    """
    read_shard = functools.partial(
        _read_device_shard, architecture=architecture, width=width
    )
    run = rows_lib.map_problems(read_shard, len(q), arguments=4, results=3)
    return run(params, state, q, read, beams)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Carry:
    """What changes in each row as it is read; names as in `read_steps`."""

    suffix: KeyValues
    evidence: jax.Array
    q: jax.Array
    read: jax.Array


def _read_device_shard(params, state, q, read, beams, *, architecture, width):
    """`read_steps` for the problems of one device."""
    shape = beams.length.shape
    read_rows = functools.partial(
        _read_rows, params, state.trunk, architecture=architecture
    )
    carry = _Carry(state.suffix, state.evidence, q, read)
    text = beams.prompt_length, beams.tokens, beams.length
    if width == shape[1]:
        carry = read_rows(carry, *text)
    else:
        index = rows_lib.active_first(read < beams.length, width)
        some, text = rows_lib.take_rows((carry, text), index)
        some = rows_lib.constrain_sharding(some, shape[0], width)
        carry = rows_lib.put_rows(carry, read_rows(some, *text), index)
    new = jnp.sum(carry.read - read, axis=1, dtype=jnp.int32)
    state = VerifierState(
        trunk=state.trunk,
        suffix=carry.suffix,
        evidence=carry.evidence,
        tokens_read=state.tokens_read + new,
    )
    state = rows_lib.constrain_sharding(state, *shape)
    left = rows_lib.most_active(carry.read < beams.length)
    return state, carry.q, carry.read, left


def _read_rows(params, trunk, carry, prompt_length, tokens, length, *, architecture):
    """Reads at one width, `CHUNK` tokens of every row at a time."""

    def body(loop):
        carry, done = loop
        carry = _read_chunk(
            params,
            trunk,
            carry,
            prompt_length,
            tokens,
            length,
            architecture=architecture,
        )
        return carry, done + CHUNK

    carry, _ = jax.lax.while_loop(
        lambda loop: rows_lib.should_continue(loop[0].read < length, loop[1]),
        body,
        (carry, jnp.int32(0)),
    )
    return carry


def _read_chunk(params, trunk, carry, prompt_length, tokens, length, *, architecture):
    """Reads the next tokens of every row; sets Q of those that end here."""
    places = carry.read[..., None] + jnp.arange(CHUNK)[None, None]
    places = jnp.minimum(places, tokens.shape[-1] - 1)
    suffix, hidden = cached_attention.extend(
        params["network"],
        trunk,
        carry.suffix,
        jnp.take_along_axis(tokens, places, axis=-1),
        prompt_length,
        carry.read,
        architecture=architecture,
    )
    value, new = verifier.head_terms(params, hidden)
    total = carry.evidence[..., None] + jnp.cumsum(new, axis=-1)
    last = length - 1 - carry.read  # where in this chunk, or after it, the step ends
    at = jnp.clip(last, 0, CHUNK - 1)[..., None]
    value, total = (jnp.take_along_axis(x, at, axis=-1)[..., 0] for x in (value, total))
    ends = (last >= 0) & (last < CHUNK)
    return _Carry(
        suffix=suffix,
        evidence=jnp.where(last >= 0, total, carry.evidence),
        q=jnp.where(ends, jax.nn.sigmoid(value + total), carry.q),
        read=jnp.minimum(carry.read + CHUNK, length),
    )


@functools.partial(jax.jit, donate_argnames="state")
def keep_rows(
    state: VerifierState, parents: jax.Array, used: jax.Array
) -> VerifierState:
    """Row r goes on from row `parents[g, r]`; see `beam.Scorer.keep`."""
    kept = dataclasses.replace(
        state,
        suffix=cached_attention.copy_rows(state.suffix, parents, used),
        evidence=rows_lib.take_rows(state.evidence, parents),
    )
    return rows_lib.constrain_sharding(kept, *parents.shape)
