"""The device's side of the engine: a grid of rows that decode branches of trunks.

A grid has G groups of M rows, and S trunks in each group. A row decodes one branch at a
time; when it ends, the row takes the next waiting branch of its group inside the
compiled loop: a few integers change, no keys or values move. The host puts new trunks
into the slots of those that have no branches left (`load`), while the rows of the group
work for the others.

The first tokens of all branches of a trunk are drawn when it is loaded, from the hidden
states of that pass; and the last token of a branch is never read. So a branch of n
tokens takes n - 1 steps of a row.

Memory, in bytes, for trunks of capacity T, suffixes of capacity C, and J branches of a
trunk of up to N tokens:

    parameters + 2 * layers * kv_heads * head_dim * itemsize * G * (S * T + M * C)
      + 8 * G * S * J * N + 4 * max(4 * min(J, 128) * V,
                                    G * M * max(2 * V, 3 * heads * (S * T + C)))

These are the weights; keys and values; the tokens and log-probabilities sampled; and
what a load or a step works with, which is the logits or one layer's attention scores.
Where `cached_attention.for_extend` gives each layer buffers of its own, whoever loaded
the stacked parameters holds the layers' weights a second time.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from pav_jax.core.types import Params
from pav_jax.distributed import mesh
from pav_jax.distributed.mesh import BATCH
from pav_jax.gemma import cached_attention, forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.cached_attention import KeyValues
from pav_jax.gemma.sampling import SamplingConfig, first_tokens, sample_token


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grid:
    """Everything in flight: G groups of M rows and S trunks, J branches a trunk.

    The branches of a group are numbered trunk by trunk, B = S * J of them.

    Attributes:
      trunk: keys and values of a group's trunks end to end, `[G, K, S * T, H]` a layer.
      prefix: int32 `[G, B]`, tokens of its trunk that each branch sees.
      limit: int32 `[G, B]`, most tokens of each branch.
      keys: uint32 `[G, B, 2]`.
      waiting: bool `[G, B]`, branches that no row has taken yet.
      suffix: the rows' keys and values, `[G, M, K, C, H]` a layer.
      branch: int32 `[G, M]`, the branch that each row works on.
      active: bool `[G, M]`, rows whose branch has not ended.
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Load:
    """U trunks that go into the grid at once, and up to J branches of each.

    Attributes:
      slots: int32 `[U]`, where each trunk goes; G * S is no slot and is dropped.
      tokens: int32 `[U, T]`, the trunks.
      prefix: int32 `[U, J]`, tokens of its trunk that each branch sees, at least 1.
      limit: int32 `[U, J]`, most tokens of each branch.
      keys: uint32 `[U, J, 2]`.
      count: int32 `[U]`, how many of the J branches there are.
    """

    slots: jax.Array
    tokens: jax.Array
    prefix: jax.Array
    limit: jax.Array
    keys: jax.Array
    count: jax.Array


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
    """The grid, placed as `grid_specs` says, within a jit."""
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
    branches: int,
    *,
    architecture: TransformerConfig,
    sampling: SamplingConfig,
    dtype: jnp.dtype,
) -> Grid:
    """A grid with nothing in flight.

    Args:
      trunk_capacity: most tokens of a trunk (T).
      suffix_capacity: most tokens of a branch that are read (C).
      branches: most branches of a trunk (J).
      architecture: of the network.
      sampling: sizes of the grid.
      dtype: of keys and values.
    """
    per_group = sampling.trunks_per_group
    g, m = sampling.trunks // per_group, sampling.rows * per_group
    b, n = branches * per_group, sampling.max_tokens
    kv_heads, head_dim = architecture.num_kv_heads, architecture.head_dim
    trunks = (g, kv_heads, per_group * trunk_capacity, head_dim)

    def ints(*shape):
        return jnp.zeros(shape, jnp.int32)

    grid = Grid(
        trunk=cached_attention.zero_key_values(
            trunks, architecture=architecture, dtype=dtype
        ),
        prefix=ints(g, b),
        limit=ints(g, b),
        keys=jnp.zeros((g, b, 2), jnp.uint32),
        waiting=jnp.zeros((g, b), bool),
        suffix=cached_attention.empty_suffix(
            g, m, suffix_capacity, architecture=architecture, dtype=dtype
        ),
        branch=ints(g, m),
        active=jnp.zeros((g, m), bool),
        length=ints(g, m),
        token=ints(g, m),
        tokens=ints(g, b, n),
        log_probs=jnp.zeros((g, b, n), jnp.float32),
        lengths=ints(g, b),
    )
    return _on_mesh(grid)


@functools.partial(
    jax.jit, static_argnames=("architecture", "sampling"), donate_argnames="grid"
)
def load(
    params: Params,
    grid: Grid,
    new: Load,
    *,
    architecture: TransformerConfig,
    sampling: SamplingConfig,
) -> Grid:
    """Puts new trunks into their slots, and draws the first token of each branch.

    Args:
      params: the policy's parameters.
      grid: what is in flight; donated.
      new: the trunks, and their branches.
      architecture: of the network.
      sampling: how tokens are drawn.
    """
    trunk, hidden = cached_attention.prefill(
        params, new.tokens, architecture=architecture
    )

    draw = functools.partial(
        first_tokens, params, architecture=architecture, sampling=sampling
    )
    # One trunk after another: logits of all branches of all of them are too many.
    token, log_prob = jax.lax.map(draw, (hidden, new.prefix, new.keys))
    exists = jnp.arange(new.prefix.shape[1])[None] < new.count[:, None]
    done = exists & _ends(token, 1, new.limit, sampling)
    put = functools.partial(_put, slots=new.slots, sampling=sampling)

    def put_first(old, first):
        first = jnp.where(exists, first, 0)
        rest = ((0, 0), (0, 0), (0, old.shape[-1] - 1))
        return put(old, jnp.pad(first[..., None], rest))

    put_trunk = functools.partial(_put_trunk, slots=new.slots, sampling=sampling)
    grid = dataclasses.replace(
        grid,
        trunk=jax.tree.map(put_trunk, grid.trunk, trunk),
        prefix=put(grid.prefix, new.prefix),
        limit=put(grid.limit, new.limit),
        keys=put(grid.keys, new.keys),
        waiting=put(grid.waiting, exists),
        lengths=put(grid.lengths, done.astype(jnp.int32)),
        tokens=put_first(grid.tokens, token),
        log_probs=put_first(grid.log_probs, log_prob),
    )
    return _on_mesh(grid)


def _put(old, new, *, slots, sampling):
    """`old [G, B, ...]` with `new [U, J, ...]`, for the branches of `slots [U]`."""
    shape, per_group = old.shape, sampling.trunks_per_group
    old = old.reshape(shape[0], per_group, -1, *shape[2:])
    at = _group_and_place(slots, sampling)
    return old.at[at].set(new, mode="drop").reshape(shape)


def _put_trunk(old, new, *, slots, sampling):
    """`old [G, K, S * T, H]` with the trunks `new [U, K, T, H]` in `slots`."""
    shape, per_group = old.shape, sampling.trunks_per_group
    old = old.reshape(*shape[:2], per_group, -1, shape[-1])
    group, place = _group_and_place(slots, sampling)
    return old.at[group, :, place].set(new, mode="drop").reshape(shape)


def _group_and_place(slots, sampling):
    """The group of each slot, and its place there."""
    return slots // sampling.trunks_per_group, slots % sampling.trunks_per_group


def _ends(token, length, limit, sampling):
    """Whether a token is the last of its branch, bool; arguments are int `[...]`."""
    ends = jnp.isin(token, jnp.array(sampling.end_ids, jnp.int32))
    return ends | (length >= limit)


@functools.partial(jax.jit, static_argnames="sampling")
def outputs(grid: Grid, slots: jax.Array, *, sampling) -> tuple[jax.Array, ...]:
    """Tokens and log-probs `[U, J, N]` and lengths `[U, J]` of trunks in `slots`."""
    at = _group_and_place(slots, sampling)
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
      params: the policy's parameters, best as `cached_attention.for_extend` gives them.
      grid: what is in flight; donated.
      patience: int32 scalar.
      architecture: of the network.
      sampling: how tokens are drawn.

    Returns:
      The grid; which slots still have work, bool `[G, S]`; and two int32 counts, of
      tokens decoded and of steps of rows, idle ones included.
    """
    run = functools.partial(
        _run_on_device, architecture=architecture, sampling=sampling
    )
    rows, whole = PartitionSpec(BATCH), PartitionSpec()
    return mesh.by_device_shards(run, (whole, rows, whole), (rows, rows, whole, whole))(
        params, grid, patience
    )


def _run_on_device(params, grid, patience, *, architecture, sampling):
    """`run_segment` on one device's groups, in step with all other devices."""
    group = jnp.arange(len(grid.waiting))[:, None]

    def working(grid):
        count = jnp.sum(_has_work(grid, sampling), dtype=jnp.int32)
        return mesh.sum_over_shards(count)

    def body(carry):
        grid, _, decoded, row_steps = carry
        grid, new = _step(
            params, grid, group, architecture=architecture, sampling=sampling
        )
        decoded += new
        grid = _refill(grid)
        return grid, working(grid), decoded, row_steps + grid.token.size

    grid = _refill(grid)
    zero = jnp.zeros((), jnp.int32)
    grid, _, decoded, row_steps = jax.lax.while_loop(
        lambda carry: carry[1] > patience, body, (grid, working(grid), zero, zero)
    )
    decoded, row_steps = mesh.sum_over_shards(jnp.stack([decoded, row_steps]))
    return grid, _has_work(grid, sampling), decoded, row_steps


def _has_work(grid: Grid, sampling: SamplingConfig) -> jax.Array:
    """Which slots have branches that wait or that rows work on, bool `[G, S]`."""
    (groups, count), per_group = grid.waiting.shape, sampling.trunks_per_group
    queue = count // per_group
    waiting = jnp.any(grid.waiting.reshape(groups, per_group, queue), axis=-1)
    slot = (grid.branch // queue)[..., None] == jnp.arange(per_group)[None, None]
    return waiting | jnp.any(grid.active[..., None] & slot, axis=1)


def _refill(grid: Grid) -> Grid:
    """Gives every idle row the next waiting branch of its group, if there is one."""
    idle = ~grid.active
    place = jnp.cumsum(grid.waiting, axis=1)  # of each waiting branch, from 1
    wanted = jnp.cumsum(idle, axis=1)
    takes = idle & (wanted <= place[:, -1:])
    branch = jnp.sum(place[:, None] < wanted[..., None], axis=-1, dtype=jnp.int32)
    branch = jnp.where(takes, branch, grid.branch)
    first = jnp.take_along_axis(grid.tokens[:, :, 0], branch, axis=1)
    # The first token of some branches was also their last.
    goes_on = jnp.take_along_axis(grid.lengths, branch, axis=1) == 0
    return dataclasses.replace(
        grid,
        waiting=grid.waiting & (place > jnp.sum(takes, axis=1, keepdims=True)),
        branch=branch,
        active=grid.active | (takes & goes_on),
        length=jnp.where(takes, 1, grid.length),
        token=jnp.where(takes, first, grid.token),
    )


def _step(params, grid, group, *, architecture, sampling) -> tuple[Grid, jax.Array]:
    """One token for every active row of the groups, whose indices are `group [G, 1]`.

    Returns:
      The grid, and how many tokens were decoded, int32.
    """
    count = grid.waiting.shape[1]
    per_group, queue = sampling.trunks_per_group, count // sampling.trunks_per_group
    room = grid.trunk.keys[0].shape[2] // per_group  # of a trunk
    suffix, hidden = cached_attention.extend(
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
    at = (group, jnp.where(grid.active, grid.branch, count))
    length = grid.length + grid.active
    limit = jnp.take_along_axis(grid.limit, grid.branch, axis=1)
    ended = grid.active & _ends(token, length, limit, sampling)
    decoded = jnp.sum(grid.active, dtype=jnp.int32)
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
    return grid, decoded
