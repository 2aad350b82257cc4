"""Responses to a lab's problems and labels of their steps, in order."""

from collections.abc import Sequence

import numpy as np

from pav_jax import labels
from pav_jax.core.ledger import Ledger
from pav_jax.gemma.forward import Params
from pav_jax.labels import Response, StepLabels
from pav_jax.rollout import SamplingConfig
from pav_jax.tasks import problems


def stream(*numbers: int) -> int:
    """A 31-bit seed, unlike that of any other tuple of numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0]) & 0x7FFF_FFFF


def sample(
    policy: Params,
    lab: problems.Lab,
    indices: Sequence[int],
    *,
    count: int,
    seed: int,
    sampling: SamplingConfig,
    ledger: Ledger,
) -> list[Response]:
    """`count` responses to each of the problems `indices`, side by side."""
    found: list[list[Response]] = [[] for _ in indices]
    for place, responses in labels.sample_responses(
        policy,
        [lab.prompts[i] for i in indices],
        [lab.problems[i].id for i in indices],
        problem_indices=indices,
        count=count,
        seed=seed,
        are_correct=lab.grader.are_correct,
        config=lab.model,
        sampling=sampling,
        ledger=ledger,
    ):
        found[place] = responses
    return [response for row in found for response in row]


def label(
    policy: Params,
    lab: problems.Lab,
    responses: Sequence[Response],
    *,
    n_mc: int,
    seed: int,
    ledger: Ledger,
) -> list[StepLabels]:
    """Counts of `n_mc` continuations of every step prefix, drawn at temperature 1."""
    found: list[StepLabels | None] = [None] * len(responses)
    for index, steps in labels.label_steps(
        policy,
        responses,
        [lab.problems[r.problem].id for r in responses],
        n_mc=n_mc,
        seed=seed,
        is_step_end=lab.is_step_end,
        are_correct=lab.grader.are_correct,
        config=lab.model,
        sampling=lab.sampling(1.0, branches=lab.config.limits.max_steps * n_mc),
        ledger=ledger,
    ):
        found[index] = steps
    return found
