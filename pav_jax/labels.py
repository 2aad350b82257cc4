"""Monte Carlo labels: `Q^π` of every step prefix of every seed rollout.

A seed rollout is one trunk; the `n_mc` continuations of each of its prefixes are
branches that leave it early, so a response is read once, not once a prefix.
Labels stay counts (k correct of n); soft labels, `Q^BoK` and first pits are
derived from them.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from pav_jax import rollout
from pav_jax.core.ledger import Ledger
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.forward import Params
from pav_jax.rollout import Request, SamplingConfig

# Rex of each (problem index, response token ids).
AreCorrect = Callable[[Sequence[tuple[int, Sequence[int]]]], list[bool]]


@dataclasses.dataclass(frozen=True)
class Response:
    """A response of the policy to a problem, as token ids.

    Attributes:
      problem: index of the problem in its list.
      prompt: the prompt's token ids.
      tokens: the response's token ids, its end token included.
      log_probs: of `tokens`, under the policy that sampled them.
      correct: Rex.
    """

    problem: int
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    correct: bool


@dataclasses.dataclass(frozen=True)
class StepLabels:
    """Counts for the prefixes of one response, the bare prompt first.

    Attributes:
      ends: int32 `[H + 1]`, response tokens in each prefix; `ends[0] == 0`.
      correct: int32 `[H + 1]`, continuations that ended with Rex = 1.
      count: int32 `[H + 1]`, continuations; 1 for the whole response, whose
        value is its own outcome.
    """

    ends: np.ndarray
    correct: np.ndarray
    count: np.ndarray

    @property
    def q(self) -> np.ndarray:
        """`Q_mc`, float32 `[H + 1]`."""
        return (self.correct / self.count).astype(np.float32)


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


def label_steps(
    params: Params,
    responses: Sequence[Response],
    problem_ids: Sequence[int],
    *,
    n_mc: int,
    seed: int,
    is_step_end: np.ndarray,
    are_correct: AreCorrect,
    config: TransformerConfig,
    sampling: SamplingConfig,
    ledger: Ledger,
) -> Iterator[tuple[int, StepLabels]]:
    """Labels every step prefix by `n_mc` continuations (Sec. 4.2).

    Args:
      params: the policy whose Q is wanted.
      responses: the seed rollouts.
      problem_ids: `Problem.id` of each response's problem.
      n_mc: continuations of a prefix.
      seed: names the continuations.
      is_step_end: bool `[V]`.
      are_correct: grades responses.
      config: the policy's architecture.
      sampling: how continuations are drawn.
      ledger: counts are added to it.

    Yields:
      (index of a response, its labels), in the order in which they finish.
    """
    ends = [
        np.concatenate([[0], step_ends(r.tokens, is_step_end)]).astype(np.int32)
        for r in responses
    ]
    requests = []
    for response, problem_id, stops in zip(responses, problem_ids, ends, strict=True):
        inner = stops[:-1]  # the whole response needs no continuation
        names = [rollout.prefix_id(response.tokens[:stop]) for stop in inner]
        requests.append(
            Request(
                # What follows the last prefix, no branch sees.
                trunk=response.prompt + response.tokens[: inner[-1]],
                prompt_length=len(response.prompt),
                prefixes=np.repeat(inner, n_mc) + len(response.prompt),
                keys=rollout.branch_keys(
                    seed,
                    [problem_id] * (len(inner) * n_mc),
                    np.repeat(names, n_mc),
                    np.tile(np.arange(n_mc), len(inner)),
                ),
            )
        )
    for index, samples in rollout.sample(
        params, requests, config=config, sampling=sampling, ledger=ledger
    ):
        response, stops = responses[index], ends[index]
        wholes = [
            (*response.tokens[: stops[branch // n_mc]], *row[:length].tolist())
            for branch, (row, length) in enumerate(
                zip(samples.tokens, samples.lengths, strict=True)
            )
        ]
        outcomes = are_correct([(response.problem, whole) for whole in wholes])
        correct = np.append(np.reshape(outcomes, (-1, n_mc)).sum(1), response.correct)
        count = np.append(np.full(len(stops) - 1, n_mc), 1)
        yield index, StepLabels(stops, correct.astype(np.int32), count.astype(np.int32))


def sample_responses(
    params: Params,
    prompts: Sequence[tuple[int, ...]],
    problem_ids: Sequence[int],
    *,
    problem_indices: Sequence[int],
    count: int,
    seed: int,
    are_correct: AreCorrect,
    config: TransformerConfig,
    sampling: SamplingConfig,
    ledger: Ledger,
) -> Iterator[tuple[int, list[Response]]]:
    """Samples `count` responses to each prompt (seed rollouts, best-of-N).

    Args:
      params: the policy.
      prompts: token ids.
      problem_ids: `Problem.id` of each.
      problem_indices: what `Response.problem` says of each.
      count: responses to each.
      seed: names the draws.
      are_correct: grades responses.
      config: the policy's architecture.
      sampling: how they are drawn.
      ledger: counts are added to it.

    Yields:
      (index of a prompt, its responses), in the order in which they finish.
    """
    requests = [
        Request(
            trunk=prompt,
            prompt_length=len(prompt),
            prefixes=np.full(count, len(prompt)),
            keys=rollout.branch_keys(
                seed, [problem_id] * count, [0] * count, range(count)
            ),
        )
        for prompt, problem_id in zip(prompts, problem_ids, strict=True)
    ]
    for index, samples in rollout.sample(
        params, requests, config=config, sampling=sampling, ledger=ledger
    ):
        problem = problem_indices[index]
        rows = zip(samples.tokens, samples.log_probs, samples.lengths, strict=True)
        drawn = [(tuple(t[:n].tolist()), tuple(p[:n].tolist())) for t, p, n in rows]
        outcomes = are_correct([(problem, tokens) for tokens, _ in drawn])
        yield (
            index,
            [
                Response(problem, prompts[index], *row, correct)
                for row, correct in zip(drawn, outcomes, strict=True)
            ],
        )
