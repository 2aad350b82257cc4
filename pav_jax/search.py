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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from pav_jax import mesh, rollout, verifier
from pav_jax.gemma import branches, forward
from pav_jax.gemma.branches import KeyValues
from pav_jax.gemma.config import TransformerConfig
from pav_jax.gemma.forward import Params
from pav_jax.ledger import Ledger
from pav_jax.train.data import pad_rows
from pav_jax.verifier import VerifierParams

_CHUNK = 8  # tokens that the verifier reads in one pass
_NARROWEST = 3  # rows of a problem, of which no fewer go on by themselves


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


def _shares() -> int:
    return mesh.row_shares(jax.sharding.get_abstract_mesh())


def groups_at_once(beam: BeamConfig) -> int:
    """Problems of a batch: of `beam.rows` rows, and as the active mesh needs them."""
    rows, share = beam.beams * beam.candidates, _shares()
    groups = max(1, beam.rows // rows)
    return groups if rows % share == 0 else -(-groups // share) * share


def specs(state: Any, groups: int, rows: int) -> Any:
    """Where `Beams` or a `Reading` are on the active mesh, as `PartitionSpec`s."""
    share = _shares()
    by_group = groups % share == 0
    group = mesh.BATCH if by_group else None
    row = mesh.BATCH if not by_group and rows % share == 0 else None
    of = {
        "trunk": PartitionSpec(group, "tensor"),
        "suffix": PartitionSpec(group, row, "tensor"),
        "keys": PartitionSpec(group),
        "decoded": PartitionSpec(group),
    }
    found = {}
    for name in (field.name for field in dataclasses.fields(state)):
        spec = of.get(name, PartitionSpec(group, row))
        found[name] = jax.tree.map(lambda _, s=spec: s, getattr(state, name))
    return dataclasses.replace(state, **found)


def _on_mesh(state: Any, groups: int, rows: int) -> Any:
    """`Beams` or a `Reading`, where `specs` says, within a jit."""
    if jax.sharding.get_abstract_mesh().empty or mesh.in_share():
        return state
    return jax.lax.with_sharding_constraint(state, specs(state, groups, rows))


def _by_problems(f: Callable, groups: int, arguments: int, results: int) -> Callable:
    """`f`, run by every device for its own problems; see `mesh.by_shares`.

    Where devices share out the rows of a problem the partitioner has it.

    Args:
      f: takes parameters and then `arguments` trees of `[G, ...]`; gives `results` of
        these and then a scalar, which all devices agree on.
      groups: G.
      arguments: how many.
      results: how many.
    """
    if groups % _shares():
        return f
    rows, whole = PartitionSpec(mesh.BATCH), PartitionSpec()
    return mesh.by_shares(f, (whole, *[rows] * arguments), (*[rows] * results, whole))


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


class VerifierScorer:
    """Scores by a trained verifier, which reads each token once.

    Args:
      params: the verifier.
      config: its architecture.
      max_tokens: most tokens of a response.
    """

    def __init__(
        self, params: VerifierParams, config: TransformerConfig, max_tokens: int
    ):
        self._params = params
        self._for_steps = params | {"model": branches.for_extend(params["model"])}
        self._config = config
        self._max_tokens = max_tokens

    def begin(self, prompts, lengths, rows):
        self._reading, value = read_prompts(
            self._params,
            prompts,
            lengths,
            rows=rows,
            max_tokens=self._max_tokens,
            config=self._config,
        )
        self._scored = jnp.asarray(lengths)
        return value

    def score(self, beams):
        self._scored = self._scored + _new_tokens(beams.start, beams.length)
        q, read = beams.q, beams.start
        width = left = beams.length.shape[1]
        while left:
            width = _width(left, width)
            self._reading, q, read, most = read_steps(
                self._for_steps,
                self._reading,
                q,
                read,
                beams,
                config=self._config,
                width=width,
            )
            left = int(most)
        return q

    def keep(self, parents, used):
        self._reading = keep_rows(self._reading, parents, used)

    @property
    def scored(self):
        return np.asarray(self._scored)


@functools.partial(jax.jit, static_argnames=("rows", "max_tokens", "config"))
def read_prompts(
    params: VerifierParams, prompts, lengths, *, rows, max_tokens, config
) -> tuple[Reading, jax.Array]:
    """What a verifier knows after the prompts; Q of each, float32 `[G]`."""
    trunk, hidden = branches.prefill(params["model"], prompts, config=config)
    value, evidence = verifier.head_terms(params["head"], hidden)
    last = jnp.maximum(lengths - 1, 0)[:, None]
    value, evidence = (
        jnp.take_along_axis(terms, last, axis=1)[:, 0]
        for terms in (value, jnp.cumsum(evidence, axis=1))
    )
    groups = len(prompts)
    suffix = branches.empty_suffix(
        groups, rows, max_tokens, config=config, dtype=hidden.dtype
    )
    reading = Reading(trunk, suffix, jnp.repeat(evidence[:, None], rows, axis=1))
    return _on_mesh(reading, groups, rows), jax.nn.sigmoid(value + evidence)


def _width(left: int, width: int) -> int:
    """Rows of a problem that go on together, of which at most `left` have work.

    A batch waits for its longest step. Where a fourth of the rows is left, they go on
    without the others: a fourth at a time, so that there are few programs.
    """
    while _narrower(width) >= left and width > _NARROWEST:
        width = _narrower(width)
    return width


def _narrower(width: int) -> int:
    return -(-width // 4)


def _goes_on(active: jax.Array, done: jax.Array, width: int) -> jax.Array:
    """Whether a batch of this width does, bool, after `done` tokens of each row.

    Moving rows costs about as much as some tokens.
    """
    most = _most(active)
    few = most <= (_narrower(width) if width > _NARROWEST else 0)
    return (most > 0) & ((done < _CHUNK) | ~few)


def _most(active: jax.Array) -> jax.Array:
    """The most rows of a problem that have work left, int32."""
    return mesh.max_of_shares(jnp.max(jnp.sum(active, axis=1, dtype=jnp.int32)))


def _pick(active: jax.Array, width: int) -> jax.Array:
    """`width` rows of each problem, those with work among them, int32 `[G, width]`."""
    return jnp.argsort(~active, axis=1, stable=True)[:, :width]


@jax.jit
def _new_tokens(start, length):
    return jnp.sum(length - start, axis=1, dtype=jnp.int32)


@functools.partial(
    jax.jit, static_argnames=("config", "width"), donate_argnames="reading"
)
def read_steps(
    params: VerifierParams, reading: Reading, q, read, beams: Beams, *, config, width
) -> tuple[Reading, jax.Array, jax.Array, jax.Array]:
    """Reads tokens `read` to `beams.length` of rows; Q where they end.

    Returns:
      The reading, q and read, and the most rows of a problem with work left.
    """
    read_share = functools.partial(_read_share, config=config, width=width)
    run = _by_problems(read_share, len(q), arguments=4, results=3)
    return run(params, reading, q, read, beams)


def _read_share(params, reading, q, read, beams, *, config, width):
    prompt_length, tokens, length = beams.prompt_length, beams.tokens, beams.length
    shape, trunk = length.shape, reading.trunk
    if is_part := width < shape[1]:
        at = _pick(read < length, width)
        whole = reading.suffix, reading.evidence, q, read
        (suffix, evidence, q, read), prompt_length, tokens, length = _gather_rows(
            (whole, prompt_length, tokens, length), at
        )
        reading = _on_mesh(Reading(trunk, suffix, evidence), shape[0], width)
    carry = reading.suffix, reading.evidence, q, read

    def body(state):
        (suffix, evidence, q, read), done = state
        places = read[..., None] + jnp.arange(_CHUNK)[None, None]
        places = jnp.minimum(places, tokens.shape[-1] - 1)
        chunk = jnp.take_along_axis(tokens, places, axis=-1)
        suffix, hidden = branches.extend(
            params["model"], trunk, suffix, chunk, prompt_length, read, config=config
        )
        value, new = verifier.head_terms(params["head"], hidden)
        total = evidence[..., None] + jnp.cumsum(new, axis=-1)
        last = length - 1 - read  # where in this chunk, or after it, the step ends
        at = jnp.clip(last, 0, _CHUNK - 1)[..., None]
        value, total = (
            jnp.take_along_axis(x, at, axis=-1)[..., 0] for x in (value, total)
        )
        ends = (last >= 0) & (last < _CHUNK)
        q = jnp.where(ends, jax.nn.sigmoid(value + total), q)
        evidence = jnp.where(last >= 0, total, evidence)
        read = jnp.minimum(read + _CHUNK, length)
        return (suffix, evidence, q, read), done + _CHUNK

    carry, _ = jax.lax.while_loop(
        lambda state: _goes_on(state[0][3] < length, state[1], width),
        body,
        (carry, jnp.int32(0)),
    )
    if is_part:
        carry = _put_rows(whole, carry, at)
    suffix, evidence, q, read = carry
    reading = _on_mesh(Reading(trunk, suffix, evidence), *shape)
    return reading, q, read, _most(read < beams.length)


@functools.partial(jax.jit, donate_argnums=0)
def keep_rows(reading: Reading, parents: jax.Array, used: jax.Array) -> Reading:
    """Row r goes on from row `parents[g, r]`; see `Scorer.keep`."""
    kept = dataclasses.replace(
        reading,
        suffix=branches.copy_rows(reading.suffix, parents, used),
        evidence=_gather_rows(reading.evidence, parents),
    )
    return _on_mesh(kept, *parents.shape)


def _gather_rows(tree, parents):
    """Row r becomes row `parents[g, r]`, in every `[G, R, ...]` array."""

    def gather(array):
        index = parents.reshape(parents.shape + (1,) * (array.ndim - 2))
        return jnp.take_along_axis(array, index, axis=1)

    return jax.tree.map(gather, tree)


def _put_rows(tree, rows, at):
    """Row `at[g, r]` becomes row r of `rows`, in every `[G, R, ...]` array."""
    group = jnp.arange(len(at))[:, None]
    return jax.tree.map(lambda old, new: old.at[group, at].set(new), tree, rows)


@functools.partial(jax.jit, static_argnames=("config", "beam"))
def begin(
    params: Params, prompts, lengths, keys, bare, *, config, beam: BeamConfig
) -> Beams:
    """The beams before the first step; `bare` is Q of the problems, float32 `[G]`."""
    groups, rows = prompts.shape[0], beam.beams * beam.candidates
    trunk, hidden = branches.prefill(params, prompts, config=config)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    hidden = jnp.take_along_axis(hidden, last, axis=1)
    shape = (groups, rows)
    beams = Beams(
        trunk=trunk,
        prompt_length=jnp.broadcast_to(lengths[:, None], shape),
        keys=keys,
        suffix=branches.empty_suffix(
            groups, rows, beam.max_tokens, config=config, dtype=hidden.dtype
        ),
        hidden=jnp.broadcast_to(hidden, (*shape, config.embed_dim)),
        tokens=jnp.zeros((*shape, beam.max_tokens), jnp.int32),
        start=jnp.zeros(shape, jnp.int32),
        length=jnp.zeros(shape, jnp.int32),
        digest=jnp.zeros(shape, jnp.uint32),
        q=jnp.broadcast_to(bare[:, None], shape),
        score=jnp.zeros(shape),
        done=jnp.broadcast_to(lengths[:, None] == 0, shape),
        decoded=jnp.zeros((groups,), jnp.int32),
    )
    return _on_mesh(beams, *shape)


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


def _sample_steps(params: Params, beams: Beams, *, config, beam) -> Beams:
    """Decodes until every row has ended its step."""
    beams, keys = start_steps(beams)
    active = ~beams.done
    width = left = active.shape[1]
    while left:
        width = _width(left, width)
        beams, active, most = decode_steps(
            params, beams, keys, active, config=config, beam=beam, width=width
        )
        left = int(most)
    return beams


@functools.partial(
    jax.jit, static_argnames=("config", "beam", "width"), donate_argnames="beams"
)
def decode_steps(params, beams, keys, active, *, config, beam, width):
    """Decodes until rows have ended their steps, or few enough are left.

    Returns:
      The beams; which rows have work left, bool `[G, R]`; the most of a problem.
    """
    decode_share = functools.partial(
        _decode_share, config=config, beam=beam, width=width
    )
    run = _by_problems(decode_share, len(active), arguments=3, results=2)
    return run(params, beams, keys, active)


def _decode_share(params, beams, keys, active, *, config, beam, width):
    whole, shape = (beams, active), active.shape
    if is_part := width < shape[1]:
        at = _pick(active, width)
        rows = {name: getattr(beams, name) for name in _OF_ROWS}
        rows, keys, active = _gather_rows((rows, keys, active), at)
        beams = _on_mesh(dataclasses.replace(beams, **rows), shape[0], width)
    here = (jnp.arange(len(active))[:, None], jnp.arange(width)[None])

    def body(state):
        beams, active, done = state
        logits = forward.logits(params, beams.hidden, config=config)
        token, _ = rollout.sample_token(
            keys, beams.length - beams.start, logits, temperature=beam.temperature
        )
        # An idle row writes where its own next step will overwrite.
        suffix, hidden = branches.extend(
            params,
            beams.trunk,
            beams.suffix,
            token[..., None],
            beams.prompt_length,
            beams.length,
            config=config,
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
        lambda state: _goes_on(state[1], state[2], width),
        body,
        (beams, active, jnp.int32(0)),
    )
    if is_part:
        before, was_active = whole
        old, new = (
            {name: getattr(b, name) for name in _OF_ROWS} for b in (before, beams)
        )
        beams = dataclasses.replace(beams, **_put_rows(old, new, at))
        active = _put_rows(was_active, active, at)
    return _on_mesh(beams, *shape), active, _most(active)


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
    progress = verifier.advantages(q, beams.q, beam.prover_k)
    # A response that had ended keeps the score of its last step.
    went_on = beams.length > beams.start
    score = jnp.where(went_on, q + alpha * progress, beams.score)
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
    rows = _gather_rows({name: getattr(beams, name) for name in _ROWS}, parents)
    used = jnp.max(beams.length)
    suffix = branches.copy_rows(beams.suffix, parents, used)
    beams = dataclasses.replace(beams, suffix=suffix, **rows)
    return _on_mesh(beams, *q.shape), parents, used, jnp.all(beams.done)


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
    config: TransformerConfig,
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
      config: the policy's architecture.
      beam: how to search.

    Yields:
      What was found for each problem, in order.
    """
    for_steps = branches.for_extend(params)
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
            config=config,
            beam=beam,
        )
        for _ in range(beam.max_steps):
            beams = _sample_steps(for_steps, beams, config=config, beam=beam)
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
