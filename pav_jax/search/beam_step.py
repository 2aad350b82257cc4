"""One step of a beam search on the devices: sample candidate steps, keep the best.

Nothing is computed twice: a candidate's keys and values are copied to its children.
A few times in a step the host counts the rows that have not ended it, so that a few
long steps do not keep all rows waiting.

A mesh divides the problems of a batch over `data` and `fsdp` or, where wide beams leave
few of them, the rows of each problem; `tensor` divides heads.

Shape letters: G problems, R rows of each (N beams of C candidate steps), P tokens of a
prompt, T of a response, K kv heads, H head_dim, D embed_dim.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from pav_jax import prover
from pav_jax.core.types import Params
from pav_jax.gemma import cached_attention, forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.cached_attention import KeyValues
from pav_jax.gemma.sampling import sample_token
from pav_jax.search import rows as rows_lib


@dataclasses.dataclass(frozen=True)
class BeamConfig:
    """How to search.

    Attributes:
      beams: states kept (N).
      candidates: steps sampled from each (C; 3 in the paper).
      max_tokens: the most tokens of a response.
      max_steps: the most steps of a response.
      end_ids: tokens that end a response.
      step_end_ids: tokens that end a step.
      temperature: of sampling.
      rows: about how many rows a batch has; sets how many problems it has.
      subtrees: parts of the beam, `N / subtrees` states each, that keep their own best,
        so that one line of thought cannot fill the beam. They are not independent: a
        text that is a candidate of an earlier part comes last in a later one.
    """

    beams: int
    candidates: int
    max_tokens: int
    max_steps: int
    end_ids: tuple[int, ...]
    step_end_ids: tuple[int, ...]
    temperature: float = 1.0
    rows: int = 256
    subtrees: int = 1

    def __post_init__(self):
        if self.subtrees < 1 or self.beams % self.subtrees:
            raise ValueError(f"{self.beams} beams are not {self.subtrees} equal parts")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Beams:
    """Candidates of G problems, R = N * C rows each.

    Attributes:
      trunk: the prompts' keys and values, `[G, K, P, H]` a layer.
      prompt_length: int32 `[G, R]`; 0 for a place without a problem.
      keys: uint32 `[G, 2]`, one for each problem.
      suffix: the candidates' keys and values, `[G, R, K, T, H]` a layer.
      hidden: `[G, R, D]`, from which the next token is drawn.
      tokens: int32 `[G, R, T]`.
      start: int32 `[G, R]`, tokens before the newest step.
      length: int32 `[G, R]`, tokens up to its end.
      digest: uint32 `[G, R]`, a hash of the tokens, which names the prefix.
      q: float32 `[G, R]`, `Q^π` at the end of the newest step that was scored.
      prover_q: float32 `[G, R]`, the same by the prover's verifier; `q` if it has none.
      effective_reward: float32 `[G, R]`, of that step.
      step_q: float32 `[G, R, S]`, `Q^π` after each of its steps, S at most.
      steps: int32 `[G, R]`, how many steps it has.
      done: bool `[G, R]`, whether the response has ended.
      decoded: int32 `[G]`, tokens sampled, those of dropped candidates included.
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
    prover_q: jax.Array
    effective_reward: jax.Array
    step_q: jax.Array
    steps: jax.Array
    done: jax.Array
    decoded: jax.Array


# The fields of `Beams` that move with a row from a candidate to its children, but for
# `suffix`, of which `cached_attention.copy_rows` copies only what is in use.
_MOVED = (
    "hidden",
    "tokens",
    "length",
    "digest",
    "q",
    "prover_q",
    "effective_reward",
    "step_q",
    "steps",
    "done",
)
_BY_ROW = ("suffix", "prompt_length", "start", *_MOVED)


def _fields(beams: Beams, names: tuple[str, ...]) -> dict[str, jax.Array | KeyValues]:
    return {name: getattr(beams, name) for name in names}


@functools.partial(jax.jit, static_argnames=("architecture", "beam"))
def init_beams(
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    keys: jax.Array,
    q: jax.Array,
    prover_q: jax.Array,
    *,
    architecture: TransformerConfig,
    beam: BeamConfig,
) -> Beams:
    """The beams before the first step.

    Args:
      params: the policy.
      prompts: int32 `[G, P]`.
      lengths: int32 `[G]`, 0 for a place without a problem.
      keys: uint32 `[G, 2]`.
      q: `Q^π` of the bare problems, float32 `[G]`.
      prover_q: the same by the prover's verifier, or `q`.
      architecture: of the policy.
      beam: how to search.
    """
    groups, rows = prompts.shape[0], beam.beams * beam.candidates
    trunk, hidden = cached_attention.prefill(params, prompts, architecture=architecture)
    last = jnp.maximum(lengths - 1, 0)[:, None, None]
    hidden = jnp.take_along_axis(hidden, last, axis=1)
    shape = (groups, rows)
    beams = Beams(
        trunk=trunk,
        prompt_length=jnp.broadcast_to(lengths[:, None], shape),
        keys=keys,
        suffix=cached_attention.empty_suffix(
            groups, rows, beam.max_tokens, architecture=architecture, dtype=hidden.dtype
        ),
        hidden=jnp.broadcast_to(hidden, (*shape, architecture.embed_dim)),
        tokens=jnp.zeros((*shape, beam.max_tokens), jnp.int32),
        start=jnp.zeros(shape, jnp.int32),
        length=jnp.zeros(shape, jnp.int32),
        digest=jnp.zeros(shape, jnp.uint32),
        q=jnp.broadcast_to(q[:, None], shape),
        prover_q=jnp.broadcast_to(prover_q[:, None], shape),
        effective_reward=jnp.zeros(shape),
        step_q=jnp.zeros((*shape, beam.max_steps)),
        steps=jnp.zeros(shape, jnp.int32),
        done=jnp.broadcast_to(lengths[:, None] == 0, shape),
        decoded=jnp.zeros((groups,), jnp.int32),
    )
    return rows_lib.constrain_sharding(beams, *shape)


def sample_steps(
    params: Params, beams: Beams, *, architecture: TransformerConfig, beam: BeamConfig
) -> Beams:
    """Samples every row's next step; donates `beams`.

    Args:
      params: the policy, in the form of `cached_attention.for_extend`.
      beams: rows that are done stay as they are.
      architecture: of the policy.
      beam: how to search.
    """
    beams, keys = start_steps(beams)
    active = ~beams.done
    width = most = active.shape[1]
    while most:
        width = rows_lib.next_width(most, width)
        beams, active, left = decode_steps(
            params,
            beams,
            keys,
            active,
            architecture=architecture,
            beam=beam,
            width=width,
        )
        most = int(left)
    return beams


@functools.partial(jax.jit, donate_argnames="beams")
def start_steps(beams: Beams) -> tuple[Beams, jax.Array]:
    """Starts a step in every row; also the keys of its tokens, uint32 `[G, R, 2]`."""
    # A sample is named by (seed, problem, prefix, sample index, position).
    row = jnp.broadcast_to(jnp.arange(beams.done.shape[1])[None], beams.done.shape)
    keys = jax.vmap(jax.vmap(_row_key, (None, 0, 0)))(beams.keys, beams.digest, row)
    return dataclasses.replace(beams, start=jnp.copy(beams.length)), keys


def _row_key(key, digest, row):
    key = jax.random.fold_in(jax.random.wrap_key_data(key), digest)
    return jax.random.key_data(jax.random.fold_in(key, row))


@functools.partial(
    jax.jit, static_argnames=("architecture", "beam", "width"), donate_argnames="beams"
)
def decode_steps(params, beams, keys, active, *, architecture, beam, width):
    """Decodes until rows have ended their steps, or a narrower batch is enough.

    Args:
      params: the policy, in the form of `cached_attention.for_extend`.
      beams: donated.
      keys: uint32 `[G, R, 2]`, those of `start_steps`.
      active: bool `[G, R]`, rows that have not ended their step.
      architecture: of the policy.
      beam: how to search.
      width: rows of each problem that go on together; no problem has more active ones.

    Returns:
      The beams; the rows that are still active, bool `[G, R]`; the most of them in a
      problem, an int32 scalar.
    """
    decode_shard = functools.partial(
        _decode_device_shard, architecture=architecture, beam=beam, width=width
    )
    run = rows_lib.map_problems(decode_shard, len(active), arguments=3, results=2)
    return run(params, beams, keys, active)


def _decode_device_shard(params, beams, keys, active, *, architecture, beam, width):
    """`decode_steps` for the problems of one device."""
    shape = active.shape
    decode_rows = functools.partial(
        _decode_rows, params, architecture=architecture, beam=beam
    )
    if width == shape[1]:
        beams, active = decode_rows(beams, keys, active)
    else:
        wide, index = _fields(beams, _BY_ROW), rows_lib.active_first(active, width)
        taken, keys, some = rows_lib.take_rows((wide, keys, active), index)
        beams = dataclasses.replace(beams, **taken)
        beams = rows_lib.constrain_sharding(beams, shape[0], width)
        beams, some = decode_rows(beams, keys, some)
        wide = rows_lib.put_rows(wide, _fields(beams, _BY_ROW), index)
        beams = dataclasses.replace(beams, **wide)
        active = rows_lib.put_rows(active, some, index)
    beams = rows_lib.constrain_sharding(beams, *shape)
    return beams, active, rows_lib.most_active(active)


def _decode_rows(params, beams, keys, active, *, architecture, beam):
    """Decodes at one width; the beams and the rows that are still active."""

    def body(carry):
        beams, active, done = carry
        beams, active = _decode_token(
            params, beams, keys, active, architecture=architecture, beam=beam
        )
        return beams, active, done + 1

    beams, active, _ = jax.lax.while_loop(
        lambda carry: rows_lib.should_continue(carry[1], carry[2]),
        body,
        (beams, active, jnp.int32(0)),
    )
    return beams, active


def _decode_token(params, beams, keys, active, *, architecture, beam):
    """Appends one token to every active row."""
    logits = forward.logits(params, beams.hidden, architecture=architecture)
    token, _ = sample_token(
        keys, beams.length - beams.start, logits, temperature=beam.temperature
    )
    # An idle row writes where its own next step will overwrite.
    suffix, hidden = cached_attention.extend(
        params,
        beams.trunk,
        beams.suffix,
        token[..., None],
        beams.prompt_length,
        beams.length,
        architecture=architecture,
    )
    groups, rows = active.shape
    place = (
        jnp.arange(groups)[:, None],
        jnp.arange(rows)[None],
        jnp.where(active, beams.length, beam.max_tokens),
    )
    length = beams.length + active
    ends = jnp.isin(token, jnp.array(beam.end_ids, jnp.int32))
    ended = active & (ends | (length >= beam.max_tokens))
    stops = ended | jnp.isin(token, jnp.array(beam.step_end_ids, jnp.int32))
    digest = beams.digest * jnp.uint32(1_000_003) + token.astype(jnp.uint32) + 1
    beams = dataclasses.replace(
        beams,
        suffix=suffix,
        hidden=jnp.where(active[..., None], hidden[:, :, 0], beams.hidden),
        tokens=beams.tokens.at[place].set(token, mode="drop"),
        length=length,
        digest=jnp.where(active, digest, beams.digest),
        done=beams.done | ended,
        decoded=beams.decoded + jnp.sum(active, axis=1, dtype=jnp.int32),
    )
    return beams, active & ~stops


@functools.partial(
    jax.jit, static_argnames=("prover_k", "beam"), donate_argnames="beams"
)
def select(
    beams: Beams,
    q: jax.Array,
    prover_q: jax.Array,
    alpha: jax.Array,
    *,
    prover_k: int,
    beam: BeamConfig,
) -> tuple[Beams, jax.Array, jax.Array, jax.Array]:
    """Keeps the N distinct candidates of highest `Q^π + αA^μ` (Eq. 5).

    Args:
      beams: donated.
      q: `Q^π` after the newest step, float32 `[G, R]`.
      prover_q: the same of the policy that the prover is the best of K of; `q` if
        that is π.
      alpha: the weight of progress, a float32 scalar.
      prover_k: K.
      beam: how to search.

    Returns:
      The beams, where each kept candidate is copied to C rows; the row that each row
      came from, int32 `[G, R]`; the most tokens of a row, an int32 scalar; whether all
      rows are done, a bool scalar.
    """
    value, before = (prover.best_of_k(x, prover_k) for x in (prover_q, beams.prover_q))
    progress = prover.advantages(value, before)
    # A response that had ended keeps the reward of its last step.
    went_on = beams.length > beams.start
    reward = prover.effective_reward(q, progress, alpha)
    reward = jnp.where(went_on, reward, beams.effective_reward)
    newest = jnp.arange(beam.max_steps)[None, None] == beams.steps[..., None]
    beams = dataclasses.replace(
        beams,
        q=q,
        prover_q=prover_q,
        effective_reward=reward,
        step_q=jnp.where(newest & went_on[..., None], q[..., None], beams.step_q),
        steps=beams.steps + went_on,
    )
    parents = jnp.repeat(_best_rows(beams, beam), beam.candidates, axis=1)
    moved = rows_lib.take_rows(_fields(beams, _MOVED), parents)
    used = jnp.max(beams.length)
    suffix = cached_attention.copy_rows(beams.suffix, parents, used)
    beams = dataclasses.replace(beams, suffix=suffix, **moved)
    beams = rows_lib.constrain_sharding(beams, *q.shape)
    return beams, parents, used, jnp.all(beams.done)


def _best_rows(beams: Beams, beam: BeamConfig) -> jax.Array:
    """The rows of highest effective reward, int32 `[G, N]`; copies come last.

    Candidates that spell the same response are one candidate. A copy would take a
    place in the beam and add nothing to it, so it is kept only where there are too few
    candidates. Rows of a subtree are side by side; what is best is so in its own. A
    copy is one of any earlier row, so that subtrees, which all begin with the best
    first steps, go different ways.
    """
    parts = beam.subtrees
    row = jnp.broadcast_to(jnp.arange(beams.done.shape[1])[None], beams.done.shape)
    copy, reward = _is_copy(beams), beams.effective_reward
    copy, reward, row = (x.reshape(len(x), parts, -1) for x in (copy, reward, row))
    # Two sort keys: a penalty that is large enough to put copies last would round the
    # differences between their scores away.
    *_, row = jax.lax.sort((copy, -reward, row), num_keys=2)
    return row[..., : beam.beams // parts].reshape(len(row), beam.beams)


def _is_copy(beams: Beams) -> jax.Array:
    """Whether an earlier row spells the same response, bool `[G, R]`."""
    same = beams.digest[:, :, None] == beams.digest[:, None, :]
    earlier = jnp.tril(jnp.ones(same.shape[1:], bool), -1)[None]
    return jnp.any(same & earlier, axis=-1)
