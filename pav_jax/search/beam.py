"""Step-level beam search guided by a verifier (Sec. 4.1).

From each of N states C candidate steps are sampled; a scorer reads only their tokens;
the N candidates of highest effective reward `Q^π + αA^μ` are kept; at the end the
finished response of highest `Q^π` is the answer. `beam_step` has what runs on
the devices, and its loop on the host.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from pav_jax import rollout
from pav_jax.core.counts import round_up
from pav_jax.core.ledger import Ledger
from pav_jax.core.profile import Profile
from pav_jax.core.types import Params
from pav_jax.gemma import cached_attention
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.search import beam_step as step_lib
from pav_jax.search import rows as rows_lib
from pav_jax.search.beam_step import BeamConfig, Beams
from pav_jax.train.batches import pad_rows

State = Any  # what a scorer knows of a batch: a pytree of its own
Values = tuple[jax.Array, jax.Array]  # by the policy's scorer, and by the prover's


class Scorer(Protocol):
    """Scores candidates: R rows for each of G problems.

    A scorer holds parameters and no state. What it knows of a batch is a value that its
    methods take and return, so a scorer may serve several searches at the same time.
    As with a jitted train step, `score` and `keep` may donate the arrays of the state
    they take: go on with the state they return.
    """

    def init(
        self, prompts: np.ndarray, lengths: np.ndarray, problems: np.ndarray, rows: int
    ) -> tuple[State, jax.Array]:
        """Reads the prompts.

        Args:
          prompts: int32 `[G, P]`.
          lengths: int32 `[G]`, 0 for a place without a problem.
          problems: int64 `[G]`, the index of each problem among the prompts of
            `beam_search`; -1 for a place without a problem.
          rows: R.

        Returns:
          The state before the first step, and `Q^π` of the bare problems, float32
          `[G]`.
        """

    def score(self, state: State, beams: Beams) -> tuple[jax.Array, State]:
        """Reads each row's newest step.

        Returns:
          `Q^π` after that step, float32 `[G, R]`, and the state.
        """

    def keep(self, state: State, parents: jax.Array, used: jax.Array) -> State:
        """The state of the rows that were selected.

        Args:
          state: that of `score`.
          parents: int32 `[G, R]`, the row that each row goes on from.
          used: int32 scalar; no row has more tokens.
        """

    def tokens_read(self, state: State) -> np.ndarray:
        """Tokens that a model has read for each problem so far, int `[G]`."""


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The answer of a search to one problem, and what it cost.

    Attributes:
      tokens: the response of highest `Q^π` among those that ended; among all if none
        did. `pick` has other rules.
      q: that value.
      responses: token ids of all N responses that the search ends with.
      values: `Q^π` of each.
      step_values: `Q^π` after each step of each; the last is the response's.
      ended: whether each has ended.
      ledger: tokens decoded, prefilled and scored for this problem.
    """

    tokens: list[int]
    q: float
    responses: list[list[int]]
    values: list[float]
    step_values: list[list[float]]
    ended: list[bool]
    ledger: Ledger


def groups_per_batch(beam: BeamConfig) -> int:
    """Problems in a batch: about `beam.rows` rows of them, whole problems a device.

    On a mesh no device has more rows than one device alone. Only where the rows of one
    problem fill a batch, and the mesh divides them, do devices share a problem: then
    new keys and values move between them at every layer and token.
    """
    rows, shards = beam.beams * beam.candidates, rows_lib.device_shards()
    if rows >= beam.rows and rows % shards == 0:
        return 1
    return round_up(max(1, beam.rows // rows), shards)


def beam_search(
    params: Params,
    scorer: Scorer,
    prompts: Sequence[Sequence[int]],
    problem_ids: Sequence[int],
    *,
    alpha: float,
    prover_k: int,
    seed: int,
    architecture: TransformerConfig,
    beam: BeamConfig,
    prover_scorer: Scorer | None = None,
    profile: Profile = Profile(),  # noqa: B008
) -> Iterator[SearchResult]:
    """Searches for an answer to every problem, on the active mesh.

    Args:
      params: the policy.
      scorer: gives `Q^π` of candidates.
      prompts: token ids.
      problem_ids: `Problem.id` of each.
      alpha: weight of `A^μ` in the effective reward; 0 is search by `Q^π`.
      prover_k: μ is BoK(π), or BoK of the policy that `prover_scorer` is of; the
        paper's K is 4.
      seed: names the draws.
      architecture: of the policy.
      beam: how to search.
      prover_scorer: gives the prover's value of candidates, if the prover is not made
        of π.
      profile: of the steps.

    Yields:
      The result of each problem, in order.
    """
    step_params = cached_attention.for_extend(params)
    static = dict(architecture=architecture, beam=beam)
    scorers = _Scorers(scorer, prover_scorer)

    def step(beams, states):
        beams = step_lib.sample_steps(step_params, beams, **static)
        values, states = scorers.score(states, beams)
        beams, parents, used, all_done = step_lib.select(
            beams, *values, np.float32(alpha), prover_k=prover_k, beam=beam
        )
        return beams, scorers.keep(states, parents, used), all_done

    for batch in _batches(prompts, problem_ids, seed, groups_per_batch(beam)):
        states, values = scorers.init(batch, beam.beams * beam.candidates)
        beams = step_lib.init_beams(
            params, batch.prompts, batch.lengths, batch.keys, *values, **static
        )
        for _ in range(beam.max_steps):
            beams, states, all_done = profile.step(step, beams, states)
            if all_done:
                break
        yield from _results(batch, beams, scorers.tokens_read(states), beam)


@dataclasses.dataclass(frozen=True)
class _Scorers:
    """The scorer of `Q^π`, and that of the prover if it has one of its own.

    Values are two arrays, the prover's second; without a scorer of its own it is the
    same array. States are one for each scorer.
    """

    policy: Scorer
    prover: Scorer | None

    def _all(self) -> list[Scorer]:
        return [self.policy] if self.prover is None else [self.policy, self.prover]

    def init(self, batch: "_Batch", rows: int) -> tuple[list[State], Values]:
        found = [
            scorer.init(batch.prompts, batch.lengths, batch.problems, rows)
            for scorer in self._all()
        ]
        return [state for state, _ in found], (found[0][1], found[-1][1])

    def score(self, states: list[State], beams: Beams) -> tuple[Values, list[State]]:
        # A row that has not gone on keeps the value that it has by the same scorer.
        seen = [beams, dataclasses.replace(beams, q=beams.prover_q)]
        found = [
            scorer.score(*known)
            for scorer, *known in zip(self._all(), states, seen, strict=False)
        ]
        return (found[0][0], found[-1][0]), [state for _, state in found]

    def keep(
        self, states: list[State], parents: jax.Array, used: jax.Array
    ) -> list[State]:
        return [
            scorer.keep(state, parents, used)
            for scorer, state in zip(self._all(), states, strict=True)
        ]

    def tokens_read(self, states: list[State]) -> np.ndarray:
        pairs = zip(self._all(), states, strict=True)
        return sum(scorer.tokens_read(state) for scorer, state in pairs)


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Problems that are searched together; places without one come last.

    Attributes:
      prompts: int32 `[G, P]`.
      lengths: int32 `[G]`, 0 for a place without a problem.
      problems: int64 `[G]`, indices among all prompts; -1 for a place without one.
      keys: uint32 `[G, 2]`.
    """

    prompts: np.ndarray
    lengths: np.ndarray
    problems: np.ndarray
    keys: np.ndarray


def _batches(prompts, problem_ids, seed, groups) -> Iterator[_Batch]:
    """All problems, `groups` at a time."""
    if not len(prompts):
        return
    width = round_up(max(map(len, prompts)), rollout.ALIGNED)
    zeros = [0] * len(prompts)
    keys = rollout.branch_keys(seed, problem_ids, zeros, zeros)
    for first in range(0, len(prompts), groups):
        batch = prompts[first : first + groups]
        missing = groups - len(batch)
        problems = np.arange(first, first + groups)
        yield _Batch(
            prompts=pad_rows([*batch, *[[]] * missing], width),
            lengths=np.array([*map(len, batch), *[0] * missing], np.int32),
            problems=np.where(problems < len(prompts), problems, -1),
            keys=np.resize(keys[first : first + groups], (groups, 2)),
        )


def _results(batch, beams, tokens_read, beam) -> Iterator[SearchResult]:
    """The responses to each problem of a batch, and the best of them."""
    q, step_q, steps, length, tokens, decoded = jax.device_get(
        (
            beams.q,
            beams.step_q,
            beams.steps,
            beams.length,
            beams.tokens,
            beams.decoded,
        )
    )
    last = np.take_along_axis(tokens, np.maximum(length - 1, 0)[..., None], axis=-1)
    ended = np.isin(last[..., 0], beam.end_ids) & (length > 0)
    # A kept response has a row for each of its candidates.
    q, step_q, steps, length, tokens, ended = (
        array[:, :: beam.candidates]
        for array in (q, step_q, steps, length, tokens, ended)
    )
    for i in np.flatnonzero(batch.problems >= 0):
        # A response that was cut short has no answer: one is taken only if none ended.
        best = int(np.argmax(q[i] - 2.0 * ~ended[i]))
        responses = [
            row[:n].tolist() for row, n in zip(tokens[i], length[i], strict=True)
        ]
        yield SearchResult(
            tokens=responses[best],
            q=float(q[i, best]),
            responses=responses,
            values=q[i].tolist(),
            step_values=[
                row[:n].tolist() for row, n in zip(step_q[i], steps[i], strict=True)
            ],
            ended=ended[i].tolist(),
            ledger=Ledger(
                decoded=int(decoded[i]),
                prefilled=int(batch.lengths[i]),
                scored=int(tokens_read[i]),
            ),
        )
