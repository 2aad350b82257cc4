"""Within stage `labels`: states of high value, and wrong responses from them.

With `config.labels.first_pit` the labels of seed rollouts come first; they are the same
as without it.
"""

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from pav_jax import first_pit, labels
from pav_jax.core.ledger import Ledger
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Params, Response, StepLabels
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import in_shards
from pav_jax.storage import records
from pav_jax.tasks.problems import Problems

# Beside the labels of a shard's seed rollouts.
_RESPONSES, _LABELS = "pit-responses-", "pit-labels-"


def label_to_pits(
    context: StageContext,
    policy: Params,
    problems: Problems,
    seed_rollouts: Sequence[Response],
) -> None:
    """Labels every step prefix of the seed rollouts, and others up to first pits."""
    config = context.config
    rollouts_of = {
        problem: list(group)
        for problem, group in itertools.groupby(seed_rollouts, key=lambda r: r.problem)
    }

    def work(part, path, ledger, advance):
        rollouts = [r for problem in part for r in rollouts_of[problem]]
        explored = labels.label_steps(
            policy,
            problems,
            rollouts,
            n_mc=config.labels.n_mc,
            seed=derive(config.seed, Stream.LABELS),
            sampling=labels.sampling_for_labels(
                problems, config.rollouts.temperature, n_mc=config.labels.n_mc
            ),
            ledger=ledger,
            advance=context.worker.check,
            profile=context.profile,
        )
        rows = _label_pits(config, policy, problems, rollouts, explored, ledger)
        if rows:
            responses, of_pits = zip(*rows, strict=True)
            records.write_responses(records.beside(path, _RESPONSES), responses)
            records.write_labels(records.beside(path, _LABELS), of_pits)
        records.write_labels(path, explored)
        for _ in part:
            advance()

    # Whole problems, so that the size of a shard does not matter: responses to a
    # problem share prefixes.
    in_shards(context, range(len(problems)), config.labels.shard, "problem", work)


def _label_pits(
    config: ConfigDict,
    policy: Params,
    problems: Problems,
    rollouts: Sequence[Response],
    explored: Sequence[StepLabels],
    ledger: Ledger,
) -> list[tuple[Response, StepLabels]]:
    """Rollouts with further counts of their states of high value, and wrong
    continuations of these with counts up to their first pits."""
    settings = config.labels.first_pit
    draw = functools.partial(_continued, config, policy, problems, ledger)
    states = first_pit.high_value_states(rollouts, explored, settings.threshold)
    rows, branches = [], []
    for (response, _), continued in zip(states, draw(states), strict=True):
        rows.append((response, continued.labels()))
        branches += first_pit.wrong_branches(response, continued, settings.responses)
    known = {}
    for response, found in zip(rollouts, explored, strict=True):
        known |= first_pit.known_counts(response, found)
    return rows + first_pit.first_pits(
        branches,
        problems.is_step_end,
        known,
        lambda prefixes: [
            (int(continued.correct.sum()), settings.n_mc)
            for continued in draw([(r, np.array([end])) for r, end in prefixes])
        ],
    )


def _continued(
    config: ConfigDict,
    policy: Params,
    problems: Problems,
    ledger: Ledger,
    prefixes: Sequence[tuple[Response, np.ndarray]],
) -> list[labels.Continued]:
    """Further continuations of prefixes of responses, in order."""
    n_mc = config.labels.first_pit.n_mc
    found = labels.continue_prefixes(
        policy,
        problems,
        [response for response, _ in prefixes],
        [stops for _, stops in prefixes],
        n_mc=n_mc,
        seed=derive(config.seed, Stream.FIRST_PIT),
        sampling=labels.sampling_for(
            problems, config.rollouts.temperature, branches=n_mc
        ),
        ledger=ledger,
    )
    return [continued for _, continued in sorted(found, key=lambda pair: pair[0])]


def read_pits(directory: Path) -> tuple[list[Response], list[StepLabels]]:
    """What is labelled beside the seed rollouts: responses, and some of their prefixes.

    Problem by problem, whatever the size of the shards. Both are empty if stage
    `labels` had no `config.labels.first_pit`.
    """
    rows = []
    for path in records.shards(directory):
        rows += zip(*read_pits_beside(path), strict=True)
    rows.sort(key=lambda row: row[0].problem)
    return [response for response, _ in rows], [found for _, found in rows]


def read_pits_beside(path: Path) -> tuple[list[Response], list[StepLabels]]:
    """As `read_pits`, of one shard's file alone."""
    if not records.beside(path, _RESPONSES).exists():
        return [], []
    return (
        records.read_responses(records.beside(path, _RESPONSES)),
        records.read_labels(records.beside(path, _LABELS)),
    )
