"""A trained verifier as what tells the value of a search's candidates.

It reads each token once: its keys and values are copied from a candidate to its
children, as the policy's are.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax import verifier
from pav_jax.core.types import Params
from pav_jax.gemma import decode
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.decode import KeyValues
from pav_jax.search import rows as candidates
from pav_jax.search.beam import Beams


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reading:
    """What a verifier has read of the candidates.

    Attributes:
      trunk: the prompts' keys and values, `[G, K, P, H]` a layer.
      suffix: the candidates', `[G, R, K, T, H]` a layer.
      evidence: float32 `[G, R]`, summed over all tokens read.
    """

    trunk: KeyValues
    suffix: KeyValues
    evidence: jax.Array


class VerifierScorer:
    """Scores by a trained verifier; a `search.Scorer`.

    Args:
      params: the verifier.
      architecture: its architecture.
      max_tokens: most tokens of a response.
    """

    def __init__(
        self, params: Params, architecture: TransformerConfig, max_tokens: int
    ):
        self._params = params
        self._for_steps = params | {"network": decode.for_extend(params["network"])}
        self._config = architecture
        self._max_tokens = max_tokens

    def begin(self, prompts, lengths, rows):
        self._reading, value = read_prompts(
            self._params,
            prompts,
            lengths,
            rows=rows,
            max_tokens=self._max_tokens,
            architecture=self._config,
        )
        self._scored = jnp.asarray(lengths)
        return value

    def score(self, beams):
        self._scored = self._scored + _new_tokens(beams.start, beams.length)
        q, read = beams.q, beams.start
        width = left = beams.length.shape[1]
        while left:
            width = candidates.next_width(left, width)
            self._reading, q, read, most = read_steps(
                self._for_steps,
                self._reading,
                q,
                read,
                beams,
                architecture=self._config,
                width=width,
            )
            left = int(most)
        return q

    def keep(self, parents, used):
        self._reading = keep_rows(self._reading, parents, used)

    @property
    def scored(self):
        return np.asarray(self._scored)


@functools.partial(jax.jit, static_argnames=("rows", "max_tokens", "architecture"))
def read_prompts(
    params: Params, prompts, lengths, *, rows, max_tokens, architecture
) -> tuple[Reading, jax.Array]:
    """What a verifier knows after the prompts; Q of each, float32 `[G]`."""
    trunk, hidden = decode.prefill(
        params["network"], prompts, architecture=architecture
    )
    value, evidence = verifier.head_terms(params, hidden)
    last = jnp.maximum(lengths - 1, 0)[:, None]
    value, evidence = (
        jnp.take_along_axis(terms, last, axis=1)[:, 0]
        for terms in (value, jnp.cumsum(evidence, axis=1))
    )
    groups = len(prompts)
    suffix = decode.empty_suffix(
        groups, rows, max_tokens, architecture=architecture, dtype=hidden.dtype
    )
    reading = Reading(trunk, suffix, jnp.repeat(evidence[:, None], rows, axis=1))
    return candidates.on_mesh(reading, groups, rows), jax.nn.sigmoid(value + evidence)


@jax.jit
def _new_tokens(start, length):
    return jnp.sum(length - start, axis=1, dtype=jnp.int32)


@functools.partial(
    jax.jit, static_argnames=("architecture", "width"), donate_argnames="reading"
)
def read_steps(
    params: Params,
    reading: Reading,
    q,
    read,
    beams: Beams,
    *,
    architecture,
    width,
) -> tuple[Reading, jax.Array, jax.Array, jax.Array]:
    """Reads tokens `read` to `beams.length` of rows; Q where they end.

    Returns:
      The reading, q and read, and the most rows of a problem with work left.
    """
    read_share = functools.partial(_read_share, architecture=architecture, width=width)
    run = candidates.by_problems(read_share, len(q), arguments=4, results=3)
    return run(params, reading, q, read, beams)


def _read_share(params, reading, q, read, beams, *, architecture, width):
    prompt_length, tokens, length = beams.prompt_length, beams.tokens, beams.length
    shape, trunk = length.shape, reading.trunk
    if is_part := width < shape[1]:
        at = candidates.pick(read < length, width)
        whole = reading.suffix, reading.evidence, q, read
        (suffix, evidence, q, read), prompt_length, tokens, length = candidates.gather(
            (whole, prompt_length, tokens, length), at
        )
        reading = candidates.on_mesh(Reading(trunk, suffix, evidence), shape[0], width)
    carry = reading.suffix, reading.evidence, q, read

    def body(state):
        (suffix, evidence, q, read), done = state
        places = read[..., None] + jnp.arange(candidates.CHUNK)[None, None]
        places = jnp.minimum(places, tokens.shape[-1] - 1)
        chunk = jnp.take_along_axis(tokens, places, axis=-1)
        suffix, hidden = decode.extend(
            params["network"],
            trunk,
            suffix,
            chunk,
            prompt_length,
            read,
            architecture=architecture,
        )
        value, new = verifier.head_terms(params, hidden)
        total = evidence[..., None] + jnp.cumsum(new, axis=-1)
        last = length - 1 - read  # where in this chunk, or after it, the step ends
        at = jnp.clip(last, 0, candidates.CHUNK - 1)[..., None]
        value, total = (
            jnp.take_along_axis(x, at, axis=-1)[..., 0] for x in (value, total)
        )
        ends = (last >= 0) & (last < candidates.CHUNK)
        q = jnp.where(ends, jax.nn.sigmoid(value + total), q)
        evidence = jnp.where(last >= 0, total, evidence)
        read = jnp.minimum(read + candidates.CHUNK, length)
        return (suffix, evidence, q, read), done + candidates.CHUNK

    carry, _ = jax.lax.while_loop(
        lambda state: candidates.goes_on(state[0][3] < length, state[1], width),
        body,
        (carry, jnp.int32(0)),
    )
    if is_part:
        carry = candidates.put(whole, carry, at)
    suffix, evidence, q, read = carry
    reading = candidates.on_mesh(Reading(trunk, suffix, evidence), *shape)
    return reading, q, read, candidates.most_left(read < beams.length)


@functools.partial(jax.jit, donate_argnums=0)
def keep_rows(reading: Reading, parents: jax.Array, used: jax.Array) -> Reading:
    """Row r goes on from row `parents[g, r]`; see `search.Scorer.keep`."""
    kept = dataclasses.replace(
        reading,
        suffix=decode.copy_rows(reading.suffix, parents, used),
        evidence=candidates.gather(reading.evidence, parents),
    )
    return candidates.on_mesh(kept, *parents.shape)
