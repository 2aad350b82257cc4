"""The engine: samples many branches from shared trunks.

Every sampling job is a list of `Request`s: a trunk of tokens, and branches that leave
it after some prefix. `sample` keeps a fixed grid of rows busy (`gemma.decode_loop`):
the host fills the free slots of the grid with trunks, lets the device decode until
enough of them have no work left, collects what was sampled for these, and fills their
slots again. The host waits for the device once a segment, not once a token.

A sample depends only on its key, which `branch_keys` folds from (seed, problem, prefix,
sample index), and on its position: batch layout, the order of refills and resuming do
not change it.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from pav_jax.core.counts import bucket, round_up
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.profile import Profile
from pav_jax.core.types import Params
from pav_jax.gemma import cached_attention
from pav_jax.gemma import decode_loop as grid_lib
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.decode_loop import Load
from pav_jax.gemma.sampling import SamplingConfig

# Trunks and suffixes have a multiple of so many tokens.
ALIGNED = 16


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
      tokens: int32 `[J, N]`, zero after each branch's end.
      log_probs: float32 `[J, N]`, of each token under the distribution that it
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
    """Keys of J branches, uint32 `[J, 2]`.

    Args:
      seed: of the stream of draws.
      problem_ids: `Problem.id` of each branch, int `[J]`.
      prefix_ids: `prefix_id` of each, int `[J]`.
      sample_ids: the index of each among the branches of its prefix, int `[J]`.
    """
    ids = np.stack(
        [np.asarray(x, np.int32) for x in (problem_ids, prefix_ids, sample_ids)], -1
    )
    count = len(ids)
    # Few shapes to compile, whatever the number of branches.
    padded = np.zeros((max(64, 1 << (count - 1).bit_length()), 3), np.int32)
    padded[:count] = ids
    return np.asarray(_fold_keys(seed & 0x7FFF_FFFF, padded))[:count]


def sample(
    params: Params,
    requests: Sequence[Request],
    *,
    architecture: TransformerConfig,
    sampling: SamplingConfig,
    ledger: Ledger,
    profile: Profile = Profile(),  # noqa: B008
) -> Iterator[tuple[int, Samples]]:
    """Samples every branch of every request.

    Args:
      params: the policy's parameters.
      requests: what to sample.
      architecture: of the network.
      sampling: how tokens are drawn, and the sizes of the grid.
      ledger: counts are added to it.
      profile: of the segments.

    Yields:
      (index of a request, its samples), in the order in which they finish.

    Raises:
      UserError: a trunk leaves no room for a single token.
      ValueError: a request has no branches, or one that is not within its trunk.
    """
    if not requests:
        return
    _check(requests, sampling)
    sizes, slots = capacities(requests, sampling), _Slots(len(requests), sampling)
    static = dict(architecture=architecture, sampling=sampling)
    grid = grid_lib.empty_grid(*sizes, dtype=params["embed"].dtype, **static)
    if jax.sharding.get_mesh().empty:  # or the first `load` is a program of its own
        grid = jax.device_put(grid, params["embed"].sharding)
    for_steps = cached_attention.for_extend(params)
    ended: list[tuple[int, Samples]] = []
    while slots.busy():
        while pairs := slots.fill():
            new = _load_of(requests, pairs, slots.width, sizes, sampling)
            grid = grid_lib.load(params, grid, new, **static)
            branches = int(new.count.sum())
            ledger.prefilled += sum(len(requests[index].trunk) for _, index in pairs)
            ledger.decoded += branches  # the first token of each
            ledger.slots += branches
        grid, *counts = profile.step(
            grid_lib.run_segment, for_steps, grid, slots.patience(), **static
        )
        yield from ended  # graded by the caller while the device is at work
        ended = []
        has_work, decoded, row_steps = jax.device_get(counts)
        ledger.decoded += int(decoded)
        ledger.slots += int(row_steps)
        for some in slots.ended(has_work.reshape(-1)):
            padded = np.resize(some, slots.width)
            out = jax.device_get(grid_lib.outputs(grid, padded, sampling=sampling))
            for row, slot in enumerate(some):
                index = slots.free(slot)
                count = len(requests[index].prefixes)
                ended.append((index, Samples(*(x[row, :count].copy() for x in out))))
    yield from ended


class _Slots:
    """The host's view of the grid: which slot has which request, and which wait.

    Attributes:
      width: trunks that are loaded at a time. A larger load leaves rows idle for
        longer; a smaller one stops for the host more often.
    """

    def __init__(self, requests: int, sampling: SamplingConfig):
        self.width = max(1, sampling.trunks // 16)
        self._waiting = collections.deque(range(requests))
        self._in_flight: dict[int, int] = {}  # slot -> request, in the order of loads
        # The first slot of every group, then the second: few requests are spread out.
        self._order = sorted(
            range(sampling.trunks), key=lambda slot: slot % sampling.trunks_per_group
        )

    def busy(self) -> bool:
        """Whether any request is unfinished."""
        return bool(self._waiting or self._in_flight)

    def fill(self) -> list[tuple[int, int]]:
        """Gives free slots to waiting requests: (slot, request), at most one load."""
        free = [slot for slot in self._order if slot not in self._in_flight]
        count = min(self.width, len(self._waiting))
        pairs = [(slot, self._waiting.popleft()) for slot in free[:count]]
        self._in_flight.update(pairs)
        return pairs

    def patience(self) -> np.int32:
        """How many trunks may still have work when the device returns.

        0 if nothing waits; otherwise the trunks in flight less one load.
        """
        room = max(0, len(self._in_flight) - self.width)
        return np.int32(room if self._waiting else 0)

    def ended(self, has_work: np.ndarray) -> list[list[int]]:
        """The slots in flight that have no work left, at most `width` at a time."""
        slots = [slot for slot in self._in_flight if not has_work[slot]]
        return [slots[i : i + self.width] for i in range(0, len(slots), self.width)]

    def free(self, slot: int) -> int:
        """Frees a slot; returns the request that it had."""
        return self._in_flight.pop(slot)


def _load_of(
    requests: Sequence[Request],
    pairs: Sequence[tuple[int, int]],
    width: int,
    sizes: tuple[int, int, int],
    sampling: SamplingConfig,
) -> Load:
    """The load that puts requests into slots.

    Args:
      requests: all of them.
      pairs: (slot, request) of those to load.
      width: trunks of a load; those that `pairs` does not fill go to no slot.
      sizes: `capacities` of the requests.
      sampling: how tokens are drawn.
    """
    trunk, _, branches = sizes
    new = Load(
        slots=np.full(width, sampling.trunks, np.int32),
        tokens=np.zeros((width, trunk), np.int32),
        prefix=np.ones((width, branches), np.int32),
        limit=np.zeros((width, branches), np.int32),
        keys=np.zeros((width, branches, 2), np.uint32),
        count=np.zeros(width, np.int32),
    )
    for row, (slot, index) in enumerate(pairs):
        request, count = requests[index], len(requests[index].prefixes)
        new.slots[row], new.count[row] = slot, count
        new.tokens[row, : len(request.trunk)] = request.trunk
        new.prefix[row, :count] = request.prefixes
        new.limit[row, :count] = _limits(request, sampling)
        new.keys[row, :count] = request.keys
    return new


def _check(requests: Sequence[Request], sampling: SamplingConfig) -> None:
    """Raises what `sample` raises if a request cannot be sampled."""
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
                f"request {i}: a prefix already has {used} response tokens, and"
                f" config.limits.max_tokens={sampling.max_tokens} allows no more"
            )


def capacities(
    requests: Sequence[Request], sampling: SamplingConfig
) -> tuple[int, int, int]:
    """Trunk tokens T, suffix tokens C and branches J that the requests need.

    Rounded up to few sizes, so that jobs use the same compiled programs, which depend
    on the architecture, on `sampling`, and on these three.
    """
    trunk = max(len(request.trunk) for request in requests)
    # The last token of a branch is not kept.
    suffix = max(_limits(request, sampling).max() - 1 for request in requests)
    branches = max(len(request.prefixes) for request in requests)
    return (
        bucket(trunk, ALIGNED),
        round_up(max(suffix, 1), ALIGNED),
        bucket(branches, 8),
    )


def _limits(request: Request, sampling: SamplingConfig) -> np.ndarray:
    """Tokens that each branch may have, int `[J]`."""
    used = np.asarray(request.prefixes) - request.prompt_length
    return sampling.max_tokens - used
