"""Responses of a policy, and Monte Carlo labels of their steps (Sec. 4.2).

A response to label is one trunk; the `n_mc` continuations of each of its step prefixes
are branches that leave it early, so the response is read once, not once a prefix.
Labels stay counts (k correct of n): soft labels, `Q^BoK` and Theorem 3.1's terms are
derived from them.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from pav_jax import rollout
from pav_jax.core.ledger import Ledger
from pav_jax.core.profile import Profile
from pav_jax.core.types import Params, Response, StepLabels
from pav_jax.distributed import mesh
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.rollout import Request, Samples
from pav_jax.tasks.problems import Problems


def step_ends(tokens: Sequence[int], is_step_end: np.ndarray) -> np.ndarray:
    """Response tokens up to the end of each step, int32 `[H]`.

    A step ends at a token that contains a newline; the last one ends where the
    response does.
    """
    tokens = np.asarray(tokens, np.int32)
    ends = np.flatnonzero(is_step_end[tokens]) + 1
    if len(tokens) and (not len(ends) or ends[-1] != len(tokens)):
        ends = np.append(ends, len(tokens))
    return ends.astype(np.int32)


def prefix_ends(response: Response, is_step_end: np.ndarray) -> np.ndarray:
    """Response tokens in each step prefix, int32 `[H + 1]`; the first is 0."""
    return np.append(np.int32(0), step_ends(response.tokens, is_step_end))


def sampling_for(
    problems: Problems, temperature: float, *, branches: int
) -> SamplingConfig:
    """How responses to some problems are sampled, on a grid whose rows are all used.

    If a trunk has fewer branches than `config.sampling.rows`, the grid has fewer rows
    for each trunk and more trunks, in whole groups on every device of the active mesh;
    not more than take the memory of the whole grid when it labels, where a trunk is a
    prompt and a response.

    Args:
      problems: their config has the grid in `sampling`, and the longest response in
        `limits.max_tokens`.
      temperature: of the draws.
      branches: of each trunk.
    """
    grid, limits = problems.config.sampling, problems.config.limits
    rows, per_group = min(grid.rows, branches), grid.get("trunks_per_group", 1)
    whole = per_group * mesh.row_shards(jax.sharding.get_mesh())
    prompt, response = limits.max_prompt_tokens, limits.max_tokens
    tokens = grid.trunks * (prompt + response + grid.rows * response)
    most = tokens // (prompt + response + rows * response)
    trunks = min(grid.trunks * grid.rows // rows, most) // whole * whole
    return SamplingConfig(
        max_tokens=response,
        end_ids=problems.tokenizer.end_ids,
        temperature=temperature,
        trunks=max(trunks, whole),
        rows=rows,
        trunks_per_group=per_group,
    )


def sampling_for_labels(
    problems: Problems, temperature: float, *, n_mc: int
) -> SamplingConfig:
    """`sampling_for` the `n_mc` continuations of every step prefix of a response."""
    branches = problems.config.limits.max_steps * n_mc
    return sampling_for(problems, temperature, branches=branches)


def sample_responses(
    params: Params,
    problems: Problems,
    indices: Sequence[int],
    *,
    count: int,
    seed: int,
    sampling: SamplingConfig,
    ledger: Ledger,
    firsts: Sequence[int] | None = None,
    advance: Callable[[], Any] = lambda: None,
    profile: Profile = Profile(),  # noqa: B008
) -> list[Response]:
    """Samples responses: seed rollouts, best-of-N, RL.

    Args:
      params: the policy.
      problems: what it responds to.
      indices: which of them.
      count: responses to each.
      seed: of the stream of draws.
      sampling: how they are drawn.
      ledger: counts are added to it.
      firsts: the number of the first response to each of `indices`, 0 by default; the
        draws of a response depend on its number.
      advance: called whenever all responses to a problem are sampled.
      profile: of the engine's segments.

    Returns:
      `count` responses to the first of `indices`, then to the second, and so on.
    """
    requests = [
        Request(
            trunk=problems.prompts[index],
            prompt_length=len(problems.prompts[index]),
            prefixes=np.full(count, len(problems.prompts[index])),
            keys=rollout.branch_keys(
                seed,
                [problems[index].id] * count,
                [0] * count,
                range(first, first + count),
            ),
        )
        for index, first in zip(indices, firsts or [0] * len(indices), strict=True)
    ]
    responses: list[list[Response]] = [[] for _ in indices]
    for place, samples in rollout.sample(
        params,
        requests,
        architecture=problems.architecture,
        sampling=sampling,
        ledger=ledger,
        profile=profile,
    ):
        responses[place] = _graded(problems, indices[place], samples)
        advance()
    return [response for some in responses for response in some]


def _graded(problems: Problems, index: int, samples: Samples) -> list[Response]:
    """The samples for one problem as responses."""
    rows = zip(samples.tokens, samples.log_probs, samples.lengths, strict=True)
    cut = [(tuple(t[:n].tolist()), tuple(p[:n].tolist())) for t, p, n in rows]
    outcomes = problems.are_correct([(index, tokens) for tokens, _ in cut])
    return [
        Response(index, problems.prompts[index], *row, correct)
        for row, correct in zip(cut, outcomes, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Continued:
    """Continuations of some prefixes of one response.

    Attributes:
      stops: int `[S]`, response tokens in each prefix.
      wholes: the continuations as whole responses, `[S][n_mc]`.
      correct: bool `[S, n_mc]`, Rex of each.
    """

    stops: np.ndarray
    wholes: Sequence[Sequence[tuple[int, ...]]]
    correct: np.ndarray

    def labels(self) -> StepLabels:
        """How many continuations of each prefix are correct."""
        return StepLabels(
            np.asarray(self.stops, np.int32),
            self.correct.sum(1, dtype=np.int32),
            np.full(len(self.stops), self.correct.shape[1], np.int32),
        )


def continue_prefixes(
    params: Params,
    problems: Problems,
    responses: Sequence[Response],
    stops: Sequence[np.ndarray],
    *,
    n_mc: int,
    seed: int,
    sampling: SamplingConfig,
    ledger: Ledger,
    profile: Profile = Profile(),  # noqa: B008
) -> Iterator[tuple[int, Continued]]:
    """Samples `n_mc` continuations of prefixes, and grades them.

    What is drawn depends on the seed and the prefix alone: the same prefix of another
    response has the same continuations.

    Args:
      params: the policy.
      problems: what the responses answer.
      responses: whose prefixes are continued.
      stops: response tokens in these prefixes, in increasing order, at least one for
        each response.
      n_mc: continuations of a prefix.
      seed: of the stream of continuations.
      sampling: how they are drawn.
      ledger: counts are added to it.
      profile: of the engine's segments.

    Yields:
      (index of a response, its continuations), in the order in which they finish.
    """
    requests = [
        _continuations(problems, response, inner, n_mc=n_mc, seed=seed)
        for response, inner in zip(responses, stops, strict=True)
    ]
    for place, samples in rollout.sample(
        params,
        requests,
        architecture=problems.architecture,
        sampling=sampling,
        ledger=ledger,
        profile=profile,
    ):
        response, inner = responses[place], stops[place]
        wholes = [
            (*response.tokens[: inner[branch // n_mc]], *row[:length].tolist())
            for branch, (row, length) in enumerate(
                zip(samples.tokens, samples.lengths, strict=True)
            )
        ]
        outcomes = problems.are_correct([(response.problem, x) for x in wholes])
        yield (
            place,
            Continued(
                inner,
                [wholes[i : i + n_mc] for i in range(0, len(wholes), n_mc)],
                np.reshape(outcomes, (-1, n_mc)),
            ),
        )


def label_steps(
    params: Params,
    problems: Problems,
    responses: Sequence[Response],
    *,
    n_mc: int,
    seed: int,
    sampling: SamplingConfig,
    ledger: Ledger,
    advance: Callable[[], Any] = lambda: None,
    profile: Profile = Profile(),  # noqa: B008
) -> list[StepLabels]:
    """Labels every step prefix by `n_mc` continuations (Sec. 4.2).

    A prefix that several responses share, such as the bare prompt, is continued once:
    the continuations would be the same.

    Args:
      params: the policy whose Q is wanted.
      problems: what the responses answer.
      responses: the seed rollouts.
      n_mc: continuations of a prefix.
      seed: of the stream of continuations.
      sampling: how they are drawn.
      ledger: counts are added to it.
      advance: called whenever a response is labelled.
      profile: of the engine's segments.

    Returns:
      The labels of each response, in order.
    """
    # The whole response needs no continuation.
    ends = [prefix_ends(r, problems.is_step_end)[:-1] for r in responses]
    asked, stops = _each_prefix_once(responses, ends)
    correct: dict[_Prefix, int] = {}  # of the continuations of each
    for _ in range(len(responses) - len(asked)):
        advance()
    for place, continued in continue_prefixes(
        params,
        problems,
        asked,
        stops,
        n_mc=n_mc,
        seed=seed,
        sampling=sampling,
        ledger=ledger,
        profile=profile,
    ):
        for end, count in zip(
            stops[place].tolist(), continued.labels().correct, strict=True
        ):
            correct[_prefix(asked[place], end)] = int(count)
        advance()
    return [
        _labels(response, inner, correct, n_mc)
        for response, inner in zip(responses, ends, strict=True)
    ]


# What continuations depend on: the problem, and the tokens of the prefix.
_Prefix = tuple[int, tuple[int, ...]]


def _prefix(response: Response, end: int) -> _Prefix:
    return response.problem, response.tokens[:end]


def _each_prefix_once(
    responses: Sequence[Response], ends: Sequence[np.ndarray]
) -> tuple[list[Response], list[np.ndarray]]:
    """The responses with prefixes that no earlier one has, and the ends of these."""
    seen: set[_Prefix] = set()
    asked, stops = [], []
    for response, inner in zip(responses, ends, strict=True):
        new = [end for end in inner.tolist() if _prefix(response, end) not in seen]
        seen.update(_prefix(response, end) for end in new)
        if new:
            asked.append(response)
            stops.append(np.array(new, np.int32))
    return asked, stops


def _continuations(
    problems: Problems, response: Response, stops: np.ndarray, *, n_mc: int, seed: int
) -> Request:
    """`n_mc` branches from each of some prefixes of a response."""
    names = [rollout.prefix_id(response.tokens[:stop]) for stop in stops]
    return Request(
        # No branch sees what follows the last of these prefixes.
        trunk=response.prompt + response.tokens[: stops[-1]],
        prompt_length=len(response.prompt),
        prefixes=np.repeat(stops, n_mc) + len(response.prompt),
        keys=rollout.branch_keys(
            seed,
            [problems[response.problem].id] * (len(stops) * n_mc),
            np.repeat(names, n_mc),
            np.tile(np.arange(n_mc), len(stops)),
        ),
    )


def _labels(
    response: Response, ends: np.ndarray, correct: Mapping[_Prefix, int], n_mc: int
) -> StepLabels:
    """Labels of the inner prefixes, and after them the whole response's own."""
    counts = [correct[_prefix(response, end)] for end in ends.tolist()]
    return StepLabels(
        np.append(ends, np.int32(len(response.tokens))),
        np.array([*counts, response.correct], np.int32),
        np.array([*[n_mc] * len(counts), 1], np.int32),
    )
