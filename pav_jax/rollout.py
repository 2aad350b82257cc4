"""The engine: sample many branches from shared trunks.

Every sampling job is a `Request`: a trunk of tokens, and branches that leave it
after some prefix. `sample` keeps a fixed grid of G groups by M rows busy, of which
each group has S trunks: a row whose branch has ended takes the next branch of any of
them inside the compiled loop (a few integers change, no keys or values move); a trunk
that has run out of branches is replaced by the host, while the rows of its group work
for the others. The host waits once a segment, not once a token.

The first tokens of all branches of a trunk are drawn when it is loaded, from the
hidden states of that pass, and the last token of a branch is never read: a branch
of n tokens takes n - 1 steps of a row.

A sample depends only on its key, which `branch_keys` folds from (seed, problem,
prefix, sample index), and on its position: batch layout, refill order and resume
do not change it.

Memory, in bytes, for trunks of capacity T, suffixes of capacity C, and J branches of
a trunk of up to N tokens:

    parameters + 2 * layers * kv_heads * head_dim * itemsize * G * (S * T + M * C)
      + 8 * G * S * J * N + 4 * G * M * max(2 * V, 3 * heads * (S * T + C))

which is the weights, keys and values, the tokens and log-probabilities sampled, and
what a step works with: logits, or a layer's attention scores.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Params
from pav_jax.distributed import mesh
from pav_jax.distributed.mesh import BATCH
from pav_jax.gemma import decode, forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.decode import KeyValues


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How tokens are drawn, and on what grid.

    Attributes:
      max_tokens: most tokens a whole response may have, its prefix included.
      end_ids: tokens that end a response.
      temperature: 0 takes the most likely token.
      trunks: trunks in flight (G * S).
      rows: rows in flight for each trunk (M = S * rows).
      trunks_per_group: trunks that have their rows in common (S), a divisor of
        `trunks`. A row scores all of them: more work for a token, and fewer rows that
        wait for the last branches of a trunk.
    """

    max_tokens: int
    end_ids: tuple[int, ...]
    temperature: float = 1.0
    trunks: int = 32
    rows: int = 8
    trunks_per_group: int = 1

    def __post_init__(self):
        if self.trunks % self.trunks_per_group:
            raise UserError(
                f"config.sampling.trunks={self.trunks} has to be a multiple of"
                f" config.sampling.trunks_per_group={self.trunks_per_group}, the trunks"
                " that have rows in common"
            )


@dataclasses.dataclass(frozen=True)
class Request:
    """Branches to sample from one trunk.

    Attributes:
      trunk: the trunk's token ids, `[t]`.
      prompt_length: how many of them are the prompt.
      prefixes: where each of J branches leaves the trunk: the number of trunk
        tokens it sees, int `[J]`, each at least `prompt_length`.
      keys: uint32 `[J, 2]`, a row of `branch_keys` for each branch.
    """

    trunk: Sequence[int]
    prompt_length: int
    prefixes: np.ndarray
    keys: np.ndarray


@dataclasses.dataclass(frozen=True)
class Samples:
    """What was sampled for one request.

    Attributes:
      tokens: int32 `[J, C]`, zero after each branch's end.
      log_probs: float32 `[J, C]`, of each token under the distribution that it
        was drawn from (temperature applied; the model's own if greedy).
      lengths: int32 `[J]`.
    """

    tokens: np.ndarray
    log_probs: np.ndarray
    lengths: np.ndarray


def prefix_id(tokens: Sequence[int]) -> int:
    """A 31-bit name of a prefix, from its token ids."""
    data = np.asarray(tokens, np.int32).tobytes()
    digest = hashlib.blake2b(data, digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFF_FFFF


@jax.jit
def _fold_keys(seed, ids):
    def fold(row):
        key = jax.random.key(seed)
        for part in row:
            key = jax.random.fold_in(key, part)
        return jax.random.key_data(key)

    return jax.vmap(fold)(ids)


def branch_keys(
    seed: int,
    problem_ids: Sequence[int],
    prefix_ids: Sequence[int],
    sample_ids: Sequence[int],
) -> np.ndarray:
    """Key data uint32 `[J, 2]` of branches; arguments are int `[J]`."""
    ids = np.stack(
        [np.asarray(x, np.int32) for x in (problem_ids, prefix_ids, sample_ids)], -1
    )
    count = len(ids)
    # A handful of shapes, however ragged the callers are.
    padded = np.zeros((max(64, 1 << (count - 1).bit_length()), 3), np.int32)
    padded[:count] = ids
    return np.asarray(_fold_keys(seed & 0x7FFF_FFFF, padded))[:count]


def sample_token(
    keys: jax.Array, position: jax.Array, logits: jax.Array, *, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Draws one token for each row, by inverting the cumulative sum.

    Probabilities are summed in units of 2^-30. A float32 sum that runs in parallel
    is not monotone: over Gemma's vocabulary its rounding alone gave tokens of next
    to no probability 1e-4 of the draws. Integers sum exactly, in any order.

    Args:
      keys: uint32 `[..., 2]`, one for each branch.
      position: int32 `[...]`, the token's place in its branch.
      logits: float32 `[..., V]`.
      temperature: 0 takes the most likely token.

    Returns:
      int32 tokens `[...]` and their float32 log-probabilities `[...]`.
    """
    if temperature == 0:
        log_probs = jax.nn.log_softmax(logits)
        token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    else:
        log_probs = jax.nn.log_softmax(logits / temperature)
        uniform = jax.vmap(
            lambda data, at: jax.random.uniform(
                jax.random.fold_in(jax.random.wrap_key_data(data), at)
            )
        )(keys.reshape(-1, 2), position.reshape(-1)).reshape(position.shape)
        weights = jnp.round(jnp.exp(log_probs) * 2.0**30).astype(jnp.int32)
        token = _first_above(weights, uniform)
    log_prob = jnp.take_along_axis(log_probs, token[..., None], axis=-1)[..., 0]
    return token, log_prob


def _first_above(weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Where the cumulative sum of `weights` passes `uniform` of its total.

    In two levels, blocks and then the places of one block: a sum that runs along a
    whole vocabulary passes over it once for every doubling. A block is within what one
    device has of the vocabulary, so that none has to be gathered.

    Args:
      weights: int32 `[..., V]`, of a sum within int32.
      uniform: float32 `[...]`, in [0, 1).

    Returns:
      int32 `[...]`.
    """
    shards = jax.sharding.get_abstract_mesh().shape.get("tensor", 1)
    size = weights.shape[-1] // shards
    block = 1 << ((size - 1).bit_length() + 1) // 2  # about the root
    blocks = -(-size // block)  # of a shard
    weights = weights.reshape(*weights.shape[:-1], shards, size)
    pad = [(0, 0)] * (weights.ndim - 1) + [(0, -size % block)]
    weights = jnp.pad(weights, pad).reshape(*weights.shape[:-2], -1, block)
    cdf = jnp.cumsum(jnp.sum(weights, axis=-1), axis=-1)
    total = cdf[..., -1:]
    point = (uniform[..., None] * total.astype(jnp.float32)).astype(jnp.int32)
    # Rounding must not reach the total, which is past the last token.
    point = jnp.minimum(point, total - 1)
    chosen = jnp.sum(cdf <= point, axis=-1, dtype=jnp.int32, keepdims=True)
    before = jnp.max(jnp.where(cdf <= point, cdf, 0), axis=-1, keepdims=True)
    inner = jnp.take_along_axis(weights, chosen[..., None], axis=-2)[..., 0, :]
    inner = before + jnp.cumsum(inner, axis=-1)
    place = jnp.sum(inner <= point, axis=-1, dtype=jnp.int32)
    shard, at = jnp.divmod(chosen[..., 0], blocks)
    return shard * size + at * block + place


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grid:
    """Everything in flight: G groups of M rows and S trunks, J branches a trunk.

    The branches of a group are numbered from one trunk to the next, B = S * J of them.

    Attributes:
      trunk: keys and values of a group's trunks end to end, `[G, K, S * T, H]` a layer.
      prefix: int32 `[G, B]`, tokens of its trunk that each branch sees.
      limit: int32 `[G, B]`, tokens that each branch may have.
      keys: uint32 `[G, B, 2]`.
      waiting: bool `[G, B]`, branches that no row has taken yet.
      suffix: the rows' keys and values, `[G, M, K, C, H]` a layer.
      branch: int32 `[G, M]`, the branch that each row works on.
      active: bool `[G, M]`.
      length: int32 `[G, M]`, tokens sampled in the current branch.
      token: int32 `[G, M]`, the last of them, which no layer has read yet.
      tokens: int32 `[G, B, N]`, the output.
      log_probs: float32 `[G, B, N]`.
      lengths: int32 `[G, B]`, 0 while a branch is unfinished.
    """

    trunk: KeyValues
    prefix: jax.Array
    limit: jax.Array
    keys: jax.Array
    waiting: jax.Array
    suffix: KeyValues
    branch: jax.Array
    active: jax.Array
    length: jax.Array
    token: jax.Array
    tokens: jax.Array
    log_probs: jax.Array
    lengths: jax.Array


def grid_specs(grid: Grid) -> Grid:
    """Where a grid is on a mesh: groups along the batch axes, heads along `tensor`.

    Returns:
      A `PartitionSpec` for each array.
    """
    rest = jax.tree.map(lambda _: PartitionSpec(BATCH), grid)
    heads = {"trunk": (BATCH, "tensor"), "suffix": (BATCH, None, "tensor")}
    cache = {
        name: jax.tree.map(lambda _, s=spec: PartitionSpec(*s), getattr(grid, name))
        for name, spec in heads.items()
    }
    return dataclasses.replace(rest, **cache)


def _on_mesh(grid: Grid) -> Grid:
    """The grid, where `grid_specs` says, within a jit."""
    if jax.sharding.get_abstract_mesh().empty:
        return grid
    return jax.lax.with_sharding_constraint(grid, grid_specs(grid))


@functools.partial(
    jax.jit,
    static_argnums=(0, 1, 2),
    static_argnames=("architecture", "sampling", "dtype"),
)
def empty_grid(
    trunk_capacity: int,
    suffix_capacity: int,
    queue: int,
    *,
    architecture: TransformerConfig,
    sampling: SamplingConfig,
    dtype: jnp.dtype,
) -> Grid:
    """A grid with nothing in flight; the capacities are those of `capacities`."""
    per_group = sampling.trunks_per_group
    g, m, n = (
        sampling.trunks // per_group,
        sampling.rows * per_group,
        sampling.max_tokens,
    )
    shape = (
        g,
        architecture.num_kv_heads,
        per_group * trunk_capacity,
        architecture.head_dim,
    )
    queue *= per_group

    def ints(*shape):
        return jnp.zeros(shape, jnp.int32)

    grid = Grid(
        trunk=decode.zero_key_values(shape, architecture=architecture, dtype=dtype),
        prefix=ints(g, queue),
        limit=ints(g, queue),
        keys=jnp.zeros((g, queue, 2), jnp.uint32),
        waiting=jnp.zeros((g, queue), bool),
        suffix=decode.empty_suffix(
            g, m, suffix_capacity, architecture=architecture, dtype=dtype
        ),
        branch=ints(g, m),
        active=jnp.zeros((g, m), bool),
        length=ints(g, m),
        token=ints(g, m),
        tokens=ints(g, queue, n),
        log_probs=jnp.zeros((g, queue, n), jnp.float32),
        lengths=ints(g, queue),
    )
    return _on_mesh(grid)


def _refill(grid: Grid) -> Grid:
    """Gives every idle row the next waiting branch of its group, if there is one."""
    idle = ~grid.active
    place = jnp.cumsum(grid.waiting, axis=1)  # of each waiting branch, from 1
    wanted = jnp.cumsum(idle, axis=1)
    takes = idle & (wanted <= place[:, -1:])
    branch = jnp.sum(place[:, None] < wanted[..., None], axis=-1, dtype=jnp.int32)
    branch = jnp.where(takes, branch, grid.branch)
    first = jnp.take_along_axis(grid.tokens[:, :, 0], branch, axis=1)
    # Of some branches the first token was the last.
    goes_on = jnp.take_along_axis(grid.lengths, branch, axis=1) == 0
    return dataclasses.replace(
        grid,
        waiting=grid.waiting & (place > jnp.sum(takes, axis=1, keepdims=True)),
        branch=branch,
        active=grid.active | (takes & goes_on),
        length=jnp.where(takes, 1, grid.length),
        token=jnp.where(takes, first, grid.token),
    )


def _ends(token, length, limit, sampling):
    """Whether a token is the last of its branch, bool; arguments are int `[...]`."""
    ends = jnp.isin(token, jnp.array(sampling.end_ids, jnp.int32))
    return ends | (length >= limit)


@functools.partial(
    jax.jit, static_argnames=("architecture", "sampling"), donate_argnames="grid"
)
def _load(
    params: Params,
    grid: Grid,
    slots: jax.Array,
    tokens: jax.Array,
    prefix: jax.Array,
    limit: jax.Array,
    keys: jax.Array,
    queued: jax.Array,
    *,
    architecture: TransformerConfig,
    sampling: SamplingConfig,
) -> Grid:
    """Puts new trunks and their branches in `slots`; one past the last is dropped."""
    trunk, hidden = decode.prefill(params, tokens, architecture=architecture)

    def draw_first(trunk):
        hidden, prefix, keys = trunk
        logits = forward.logits(params, hidden[prefix - 1], architecture=architecture)
        place = jnp.zeros_like(prefix)
        return sample_token(keys, place, logits, temperature=sampling.temperature)

    # One trunk after another: logits of all branches of all of them are too many.
    token, log_prob = jax.lax.map(draw_first, (hidden, prefix, keys))
    exists = jnp.arange(prefix.shape[1])[None] < queued[:, None]
    done = exists & _ends(token, 1, limit, sampling)

    per_group = sampling.trunks_per_group
    at = (slots // per_group, slots % per_group)

    def put(old, new):
        shape = old.shape
        old = old.reshape(shape[0], per_group, -1, *shape[2:])
        return old.at[at].set(new, mode="drop").reshape(shape)

    def put_first(old, new):
        new = jnp.where(exists, new, 0)
        rest = ((0, 0), (0, 0), (0, old.shape[-1] - 1))
        return put(old, jnp.pad(new[..., None], rest))

    def put_trunk(old, new):
        shape = old.shape
        old = old.reshape(*shape[:2], per_group, -1, shape[-1])
        return old.at[at[0], :, at[1]].set(new, mode="drop").reshape(shape)

    grid = dataclasses.replace(
        grid,
        trunk=jax.tree.map(put_trunk, grid.trunk, trunk),
        prefix=put(grid.prefix, prefix),
        limit=put(grid.limit, limit),
        keys=put(grid.keys, keys),
        waiting=put(grid.waiting, exists),
        lengths=put(grid.lengths, done.astype(jnp.int32)),
        tokens=put_first(grid.tokens, token),
        log_probs=put_first(grid.log_probs, log_prob),
    )
    return _on_mesh(grid)


@functools.partial(jax.jit, static_argnames="sampling")
def _output(grid: Grid, slots: jax.Array, *, sampling) -> tuple[jax.Array, ...]:
    """Tokens, log-probs and lengths of the trunks in `slots`, an int32 vector."""
    at = (slots // sampling.trunks_per_group, slots % sampling.trunks_per_group)
    return tuple(
        a.reshape(len(a), sampling.trunks_per_group, -1, *a.shape[2:])[at]
        for a in (grid.tokens, grid.log_probs, grid.lengths)
    )


@functools.partial(
    jax.jit, static_argnames=("architecture", "sampling"), donate_argnames="grid"
)
def run_segment(
    params: Params,
    grid: Grid,
    patience: jax.Array,
    *,
    architecture: TransformerConfig,
    sampling: SamplingConfig,
) -> tuple[Grid, jax.Array, jax.Array, jax.Array]:
    """Decodes until at most `patience` trunks still have work.

    Args:
      params: the policy's parameters.
      grid: what is in flight; donated.
      patience: int32 scalar.
      architecture: of the network.
      sampling: how tokens are drawn.

    Returns:
      The grid; which slots still have work, bool `[G, S]`; and the int32 counts of
      tokens decoded and of row-steps run.
    """
    run = functools.partial(
        _run_on_device, architecture=architecture, sampling=sampling
    )
    rows, whole = PartitionSpec(BATCH), PartitionSpec()
    return mesh.by_device_shards(run, (whole, rows, whole), (rows, rows, whole, whole))(
        params, grid, patience
    )


def _run_on_device(params, grid, patience, *, architecture, sampling):
    """`run_segment` of the groups that one device has, with all others in step."""
    groups, count = grid.waiting.shape
    per_group, queue = sampling.trunks_per_group, count // sampling.trunks_per_group
    room = grid.trunk.keys[0].shape[2] // per_group  # of a trunk
    here = jnp.arange(groups)[:, None]

    def has_work(grid):
        waiting = jnp.any(grid.waiting.reshape(groups, per_group, queue), axis=-1)
        slot = (grid.branch // queue)[..., None] == jnp.arange(per_group)[None, None]
        return waiting | jnp.any(grid.active[..., None] & slot, axis=1)

    def working(grid):
        return mesh.sum_over_shards(jnp.sum(has_work(grid), dtype=jnp.int32))

    def step(carry):
        grid, _, decoded, slots = carry
        suffix, hidden = decode.extend(
            params,
            grid.trunk,
            grid.suffix,
            grid.token[..., None],
            jnp.take_along_axis(grid.prefix, grid.branch, axis=1),
            grid.length - 1,
            trunk_start=grid.branch // queue * room,
            architecture=architecture,
        )
        logits = forward.logits(params, hidden[:, :, 0], architecture=architecture)
        key = jnp.take_along_axis(grid.keys, grid.branch[..., None], axis=1)
        token, log_prob = sample_token(
            key, grid.length, logits, temperature=sampling.temperature
        )
        # An idle row writes to branch B, which is out of bounds and dropped.
        at = (here, jnp.where(grid.active, grid.branch, count))
        length = grid.length + grid.active
        limit = jnp.take_along_axis(grid.limit, grid.branch, axis=1)
        ended = grid.active & _ends(token, length, limit, sampling)
        decoded += jnp.sum(grid.active, dtype=jnp.int32)
        grid = dataclasses.replace(
            grid,
            tokens=grid.tokens.at[*at, grid.length].set(token, mode="drop"),
            log_probs=grid.log_probs.at[*at, grid.length].set(log_prob, mode="drop"),
            lengths=grid.lengths.at[*at].set(jnp.where(ended, length, 0), mode="drop"),
            active=grid.active & ~ended,
            length=length,
            token=token,
            suffix=suffix,
        )
        grid = _refill(grid)
        return grid, working(grid), decoded, slots + token.size

    grid = _refill(grid)
    zero = jnp.zeros((), jnp.int32)
    grid, _, decoded, slots = jax.lax.while_loop(
        lambda carry: carry[1] > patience, step, (grid, working(grid), zero, zero)
    )
    decoded, slots = mesh.sum_over_shards(jnp.stack([decoded, slots]))
    return grid, has_work(grid), decoded, slots


def sample(
    params: Params,
    requests: Sequence[Request],
    *,
    architecture: TransformerConfig,
    sampling: SamplingConfig,
    ledger: Ledger,
) -> Iterator[tuple[int, Samples]]:
    """Samples every branch of every request.

    Args:
      params: the policy's parameters.
      requests: what to sample.
      architecture: of the network.
      sampling: how tokens are drawn, and the grid.
      ledger: counts are added to it.

    Yields:
      (index of a request, its samples), in the order in which they finish.

    Raises:
      UserError: a trunk leaves no room for a single token.
      ValueError: a request has no branches, or one that is not within its trunk.
    """
    if not requests:
        return
    for i, request in enumerate(requests):
        first, last = min(request.prefixes, default=0), max(request.prefixes, default=0)
        if not 1 <= request.prompt_length <= first or last > len(request.trunk):
            raise ValueError(
                f"request {i}: needs branches that leave the trunk between the end of"
                f" its prompt, {request.prompt_length}, and its own end,"
                f" {len(request.trunk)}; got prefixes {request.prefixes}"
            )
        used = int(last) - request.prompt_length
        if used >= sampling.max_tokens:
            raise UserError(
                f"request {i}: a prefix already holds {used} response tokens, but"
                f" max_tokens={sampling.max_tokens} allows no more"
            )
    g = sampling.trunks
    capacity, suffix_capacity, queue = capacities(requests, sampling)
    grid = empty_grid(
        capacity,
        suffix_capacity,
        queue,
        architecture=architecture,
        sampling=sampling,
        dtype=params["embed"].dtype,
    )
    waiting = list(range(len(requests)))[::-1]
    flying: dict[int, int] = {}  # slot -> request
    static = dict(architecture=architecture, sampling=sampling)
    for_steps = decode.for_extend(params)
    # Trunks that are loaded at a time. A wider load waits for more trunks to end,
    # while their rows idle; a narrower one asks the host more often.
    width = max(1, g // 16)
    # The first trunk of every group, then the second: few requests are spread out.
    slots_in_order = sorted(range(g), key=lambda slot: slot % sampling.trunks_per_group)
    while waiting or flying:
        free = [slot for slot in slots_in_order if slot not in flying]
        while waiting and free:
            batch, free = free[:width], free[width:]
            slots = np.full(width, g, np.int32)
            tokens = np.zeros((width, capacity), np.int32)
            prefix = np.ones((width, queue), np.int32)
            limit = np.zeros((width, queue), np.int32)
            keys = np.zeros((width, queue, 2), np.uint32)
            queued = np.zeros(width, np.int32)
            for i, slot in enumerate(batch):
                if not waiting:
                    break
                index = waiting.pop()
                request, count = requests[index], len(requests[index].prefixes)
                flying[slot] = index
                slots[i], queued[i] = slot, count
                tokens[i, : len(request.trunk)] = request.trunk
                prefix[i, :count] = request.prefixes
                limit[i, :count] = _limits(request, sampling)
                keys[i, :count] = request.keys
                ledger.prefilled += len(request.trunk)
                ledger.decoded += count
                ledger.slots += count
            grid = _load(
                params, grid, slots, tokens, prefix, limit, keys, queued, **static
            )
        # With nothing left to load, run to the end; else until there is room
        # worth a load.
        patience = np.int32(max(0, len(flying) - width) if waiting else 0)
        grid, *told = run_segment(for_steps, grid, patience, **static)
        has_work, decoded, slots_run = jax.device_get(told)
        has_work = has_work.reshape(-1)
        ledger.decoded += int(decoded)
        ledger.slots += int(slots_run)
        finished = [slot for slot in flying if not has_work[slot]]
        for first in range(0, len(finished), width):
            slots = finished[first : first + width]
            out = jax.device_get(
                _output(grid, np.resize(slots, width), sampling=sampling)
            )
            for i, slot in enumerate(slots):
                index = flying.pop(slot)
                count = len(requests[index].prefixes)
                yield index, Samples(*(a[i, :count].copy() for a in out))


def capacities(
    requests: Sequence[Request], sampling: SamplingConfig
) -> tuple[int, int, int]:
    """Trunk tokens T, suffix tokens C and branches J that the requests need.

    Rounded up, so that ragged jobs share their programs: those of a grid depend on
    its sampling architecture, and on these three.
    """
    trunk = max(len(request.trunk) for request in requests)
    # The last token of a branch is not kept.
    suffix = max(_limits(request, sampling).max() - 1 for request in requests)
    queue = max(len(request.prefixes) for request in requests)
    return _round_up(trunk, 16), _round_up(max(suffix, 1), 16), _round_up(queue, 8)


def _limits(request: Request, sampling: SamplingConfig) -> np.ndarray:
    """Tokens that each branch may have, int `[J]`."""
    used = np.asarray(request.prefixes) - request.prompt_length
    return sampling.max_tokens - used


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
