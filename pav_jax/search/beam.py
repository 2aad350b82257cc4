"""Step-level beam search guided by a verifier (Sec. 4.1).

From each of N states C candidate steps are sampled; a scorer reads only the new
tokens; the N candidates of highest effective reward `Q^π + αA^μ` are kept; at
the end the response of highest `Q^π` is the answer. Nothing is read twice: a
candidate's keys and values are copied to its children, for the policy and for
the verifier. The host is asked a few times a step: how many rows have not ended it, so
that a few long steps do not keep all rows waiting, and whether all responses have.

On a mesh the batch axes share out the problems of a batch or, where wide beams leave
few of them, the rows of each; `tensor` shares out heads.

Candidates that spell the same response are one candidate: a copy would take a
place in the beam and add nothing to it.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax import prover as prover_lib
from pav_jax import rollout
from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Params
from pav_jax.gemma import decode, forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.decode import KeyValues
from pav_jax.gemma.sampling import sample_token
from pav_jax.search import rows as candidates
from pav_jax.train.batches import pad_rows


@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """How to search.

    Attributes:
      beams: states kept (N).
      candidates: steps sampled from each (C; 3 in the paper).
      max_tokens: most tokens of a response.
      max_steps: most steps of a response.
      end_ids: tokens that end a response.
      step_end_ids: tokens that end a step.
      temperature: of the candidates.
      prover_k: the prover is BoK(π).
      rows: rows of one batch, about; sets how many problems share it.
    """

    beams: int
    candidates: int
    max_tokens: int
    max_steps: int
    end_ids: tuple[int, ...]
    step_end_ids: tuple[int, ...]
    temperature: float = 1.0
    prover_k: int = 4
    rows: int = 256


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beams:
    """Candidates of G problems, R = N * C rows each.

    Attributes:
      trunk: the prompts' keys and values, `[G, K, P, H]` a layer.
      prompt_length: int32 `[G, R]`; 0 for a place without a problem.
      keys: uint32 `[G, 2]`, one a problem.
      suffix: the candidates' keys and values, `[G, R, K, T, H]` a layer.
      hidden: `[G, R, D]`, from which the next token is drawn.
      tokens: int32 `[G, R, T]`.
      start: int32 `[G, R]`, where the newest step begins.
      length: int32 `[G, R]`, where it ends.
      digest: uint32 `[G, R]`, a hash of the tokens, which names the prefix.
      q: float32 `[G, R]`, `Q^π` at the end of the newest step.
      score: float32 `[G, R]`, the effective reward of the newest step.
      done: bool `[G, R]`.
      decoded: int32 `[G]`, tokens sampled, of dropped candidates too.
    """

    trunk: KeyValues
    prompt_length: jax.Array
    keys: jax.Array
    suffix: KeyValues
    hidden: jax.Array
    tokens: jax.Array
    start: jax.Array
    length: jax.Array
    digest: jax.Array
    q: jax.Array
    score: jax.Array
    done: jax.Array
    decoded: jax.Array


def groups_at_once(beam: BeamConfig) -> int:
    """Problems of a batch: of `beam.rows` rows, and as the active mesh needs them."""
    rows, share = beam.beams * beam.candidates, candidates.shards()
    groups = max(1, beam.rows // rows)
    return groups if rows % share == 0 else -(-groups // share) * share


class Scorer(Protocol):
    """What tells the value of candidates; it may keep state for each of them."""

    def begin(self, prompts: np.ndarray, lengths: np.ndarray, rows: int) -> jax.Array:
        """Starts R rows for each of G problems.

        Args:
          prompts: int32 `[G, P]`.
          lengths: int32 `[G]`, 0 for a place without a problem.
          rows: R.

        Returns:
          `Q^π` of the bare problems, float32 `[G]`.
        """

    def score(self, beams: Beams) -> jax.Array:
        """`Q^π` after each row's newest step, float32 `[G, R]`."""

    def keep(self, parents: jax.Array, used: jax.Array) -> None:
        """Row r of the next step goes on from row `parents[g, r]` of this one.

        No row has more than `used` tokens, an int32 scalar.
        """

    @property
    def scored(self) -> np.ndarray:
        """Tokens that a model read for each problem since `begin`, int `[G]`."""


@functools.partial(jax.jit, static_argnames=("architecture", "beam"))
def begin(
    params: Params, prompts, lengths, keys, bare, *, architecture, beam: BeamConfig
) -> Beams:
    """The beams before the first step; `bare` is Q of the problems, float32 `[G]`."""
    groups, rows = prompts.shape[0], beam.beams * beam.candidates
    trunk, hidden = decode.prefill(params, prompts, architecture=architecture)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    hidden = jnp.take_along_axis(hidden, last, axis=1)
    shape = (groups, rows)
    beams = Beams(
        trunk=trunk,
        prompt_length=jnp.broadcast_to(lengths[:, None], shape),
        keys=keys,
        suffix=decode.empty_suffix(
            groups, rows, beam.max_tokens, architecture=architecture, dtype=hidden.dtype
        ),
        hidden=jnp.broadcast_to(hidden, (*shape, architecture.embed_dim)),
        tokens=jnp.zeros((*shape, beam.max_tokens), jnp.int32),
        start=jnp.zeros(shape, jnp.int32),
        length=jnp.zeros(shape, jnp.int32),
        digest=jnp.zeros(shape, jnp.uint32),
        q=jnp.broadcast_to(bare[:, None], shape),
        score=jnp.zeros(shape),
        done=jnp.broadcast_to(lengths[:, None] == 0, shape),
        decoded=jnp.zeros((groups,), jnp.int32),
    )
    return candidates.on_mesh(beams, *shape)


def _row_key(key, digest, row):
    key = jax.random.fold_in(jax.random.wrap_key_data(key), digest)
    return jax.random.key_data(jax.random.fold_in(key, row))


@functools.partial(jax.jit, donate_argnames="beams")
def start_steps(beams: Beams) -> tuple[Beams, jax.Array]:
    """Steps begin; the keys of their tokens, uint32 `[G, R, 2]`."""
    # A sample is named by (seed, problem, prefix, sample index, position).
    row = jnp.broadcast_to(jnp.arange(beams.done.shape[1])[None], beams.done.shape)
    keys = jax.vmap(jax.vmap(_row_key, (None, 0, 0)))(beams.keys, beams.digest, row)
    return dataclasses.replace(beams, start=jnp.copy(beams.length)), keys


def _sample_steps(params: Params, beams: Beams, *, architecture, beam) -> Beams:
    """Decodes until every row has ended its step."""
    beams, keys = start_steps(beams)
    active = ~beams.done
    width = left = active.shape[1]
    while left:
        width = candidates.next_width(left, width)
        beams, active, most = decode_steps(
            params,
            beams,
            keys,
            active,
            architecture=architecture,
            beam=beam,
            width=width,
        )
        left = int(most)
    return beams


@functools.partial(
    jax.jit, static_argnames=("architecture", "beam", "width"), donate_argnames="beams"
)
def decode_steps(params, beams, keys, active, *, architecture, beam, width):
    """Decodes until rows have ended their steps, or few enough are left.

    Returns:
      The beams; which rows have work left, bool `[G, R]`; the most of a problem.
    """
    decode_share = functools.partial(
        _decode_share, architecture=architecture, beam=beam, width=width
    )
    run = candidates.by_problems(decode_share, len(active), arguments=3, results=2)
    return run(params, beams, keys, active)


def _decode_share(params, beams, keys, active, *, architecture, beam, width):
    whole, shape = (beams, active), active.shape
    if is_part := width < shape[1]:
        at = candidates.pick(active, width)
        rows = {name: getattr(beams, name) for name in _OF_ROWS}
        rows, keys, active = candidates.gather((rows, keys, active), at)
        beams = candidates.on_mesh(dataclasses.replace(beams, **rows), shape[0], width)
    here = (jnp.arange(len(active))[:, None], jnp.arange(width)[None])

    def body(state):
        beams, active, done = state
        logits = forward.logits(params, beams.hidden, architecture=architecture)
        token, _ = sample_token(
            keys, beams.length - beams.start, logits, temperature=beam.temperature
        )
        # An idle row writes where its own next step will overwrite.
        suffix, hidden = decode.extend(
            params,
            beams.trunk,
            beams.suffix,
            token[..., None],
            beams.prompt_length,
            beams.length,
            architecture=architecture,
        )
        at = (*here, jnp.where(active, beams.length, beam.max_tokens))
        length = beams.length + active
        ends = jnp.isin(token, jnp.array(beam.end_ids, jnp.int32))
        ended = active & (ends | (length >= beam.max_tokens))
        stops = ended | jnp.isin(token, jnp.array(beam.step_end_ids, jnp.int32))
        digest = beams.digest * jnp.uint32(1_000_003) + token.astype(jnp.uint32) + 1
        beams = dataclasses.replace(
            beams,
            suffix=suffix,
            hidden=jnp.where(active[..., None], hidden[:, :, 0], beams.hidden),
            tokens=beams.tokens.at[at].set(token, mode="drop"),
            length=length,
            digest=jnp.where(active, digest, beams.digest),
            done=beams.done | ended,
            decoded=beams.decoded + jnp.sum(active, axis=1, dtype=jnp.int32),
        )
        return beams, active & ~stops, done + 1

    beams, active, _ = jax.lax.while_loop(
        lambda state: candidates.goes_on(state[1], state[2], width),
        body,
        (beams, active, jnp.int32(0)),
    )
    if is_part:
        before, was_active = whole
        old, new = (
            {name: getattr(b, name) for name in _OF_ROWS} for b in (before, beams)
        )
        beams = dataclasses.replace(beams, **candidates.put(old, new, at))
        active = candidates.put(was_active, active, at)
    return candidates.on_mesh(beams, *shape), active, candidates.most_left(active)


_ROWS = ("hidden", "tokens", "length", "digest", "q", "score", "done")
_OF_ROWS = ("suffix", "prompt_length", "start", *_ROWS)


@functools.partial(jax.jit, static_argnames="beam", donate_argnames="beams")
def select(
    beams: Beams, q: jax.Array, alpha: jax.Array, *, beam
) -> tuple[Beams, jax.Array, jax.Array, jax.Array]:
    """Keeps the N best distinct candidates, each copied to C rows.

    Returns:
      The beams; the row each row came from, int32 `[G, R]`; the most tokens of a
      row, an int32 scalar; whether all ended.
    """
    prover, before = (prover_lib.best_of_k(x, beam.prover_k) for x in (q, beams.q))
    progress = prover_lib.advantages(prover, before)
    # A response that had ended keeps the score of its last step.
    went_on = beams.length > beams.start
    score = jnp.where(
        went_on, prover_lib.effective_reward(q, progress, alpha), beams.score
    )
    beams = dataclasses.replace(beams, q=q, score=score)
    same = beams.digest[:, :, None] == beams.digest[:, None, :]
    earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)[None]
    copy = jnp.any(same & earlier, axis=-1)
    # Copies come last, and are kept only where there are too few candidates. Two sort
    # keys: a penalty large enough to put them last would round their scores away.
    place = jnp.broadcast_to(jnp.arange(score.shape[1])[None], score.shape)
    *_, place = jax.lax.sort((copy, -score, place), num_keys=2)
    kept = place[:, : beam.beams]
    parents = jnp.repeat(kept, beam.candidates, axis=1)
    rows = candidates.gather({name: getattr(beams, name) for name in _ROWS}, parents)
    used = jnp.max(beams.length)
    suffix = decode.copy_rows(beams.suffix, parents, used)
    beams = dataclasses.replace(beams, suffix=suffix, **rows)
    return candidates.on_mesh(beams, *q.shape), parents, used, jnp.all(beams.done)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search found for one problem, and what it paid.

    Attributes:
      tokens: the response of highest `Q^π`.
      q: that value.
      ledger: tokens decoded, prefilled and scored for this problem.
    """

    tokens: list[int]
    q: float
    ledger: Ledger


def beam_search(
    params: Params,
    scorer: Scorer,
    prompts: Sequence[Sequence[int]],
    problem_ids: Sequence[int],
    *,
    alpha: float,
    seed: int,
    architecture: TransformerConfig,
    beam: BeamConfig,
) -> Iterator[Found]:
    """Searches every problem.

    Args:
      params: the policy.
      scorer: tells `Q^π` of candidates.
      prompts: token ids.
      problem_ids: `Problem.id` of each.
      alpha: weight of `A^μ` in the effective reward; 0 is search by `Q^π`.
      seed: names the draws.
      architecture: of the policy.
      beam: how to search.

    Yields:
      What was found for each problem, in order.
    """
    for_steps = decode.for_extend(params)
    rows = beam.beams * beam.candidates
    groups = groups_at_once(beam)
    width = -(-max(map(len, prompts)) // 16) * 16
    keys = rollout.branch_keys(
        seed, problem_ids, [0] * len(prompts), [0] * len(prompts)
    )
    for first in range(0, len(prompts), groups):
        batch = prompts[first : first + groups]
        missing = groups - len(batch)
        tokens = pad_rows([*batch, *[[]] * missing], width)
        lengths = np.array([*map(len, batch), *[0] * missing], np.int32)
        beams = begin(
            params,
            tokens,
            lengths,
            np.resize(keys[first : first + groups], (groups, 2)),
            scorer.begin(tokens, lengths, rows),
            architecture=architecture,
            beam=beam,
        )
        for _ in range(beam.max_steps):
            beams = _sample_steps(
                for_steps, beams, architecture=architecture, beam=beam
            )
            q = scorer.score(beams)
            beams, parents, used, all_done = select(
                beams, q, np.float32(alpha), beam=beam
            )
            scorer.keep(parents, used)
            if all_done:
                break
        q, length, out, decoded = jax.device_get(
            (beams.q, beams.length, beams.tokens, beams.decoded)
        )
        last = np.take_along_axis(out, np.maximum(length - 1, 0)[..., None], axis=-1)
        ended = np.isin(last[..., 0], beam.end_ids) & (length > 0)
        scored = scorer.scored
        for i, prompt in enumerate(batch):
            # One that was cut short has no answer: taken only if all were.
            best = int(np.argmax(q[i] - 2.0 * ~ended[i]))
            yield Found(
                tokens=out[i, best, : length[i, best]].tolist(),
                q=float(q[i, best]),
                ledger=Ledger(
                    decoded=int(decoded[i]),
                    prefilled=len(prompt),
                    scored=int(scored[i]),
                ),
            )
