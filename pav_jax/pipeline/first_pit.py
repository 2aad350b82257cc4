"""Within stage `labels`: wrong continuations of seed rollouts, up to their first pits.

With `config.labels.first_pit` the labels of seed rollouts come first; they are the same
as without it.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from pav_jax import first_pit, labels
from pav_jax.core.errors import UserError
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
    """Labels every step prefix of the seed rollouts, and other responses to their pits.

    Raises:
      UserError: `config.labels.first_pit` would never find a response.
    """
    config = context.config
    _check(config.labels)
    rollouts_of = {
        problem: list(group)
        for problem, group in itertools.groupby(seed_rollouts, key=lambda r: r.problem)
    }

    def work(part, path, ledger, advance):
        rollouts = [r for problem in part for r in rollouts_of[problem]]
        explored, branches = _explore(config, policy, problems, rollouts, ledger)
        known = {}
        for response, found in zip(rollouts, explored, strict=True):
            known |= first_pit.known_counts(response, found)
        pits = first_pit.first_pits(
            branches,
            problems.is_step_end,
            known,
            lambda prefixes: _label(config, policy, problems, prefixes, ledger),
        )
        if pits:
            responses, found = zip(*pits, strict=True)
            records.write_responses(_beside(path, _RESPONSES), responses)
            records.write_labels(_beside(path, _LABELS), found)
        records.write_labels(path, explored)
        for _ in part:
            advance()

    # Whole problems, so that the size of a shard does not matter: responses to a
    # problem share prefixes.
    in_shards(context, list(rollouts_of), config.labels.shard, "problem", work)


def _check(settings: ConfigDict) -> None:
    threshold, most = settings.first_pit.threshold, 1 - 1 / settings.n_mc
    if not 0 < threshold <= most:
        raise UserError(
            f"config.labels.first_pit.threshold={threshold:g} must be above 0 and at"
            f" most {most:g} (1 - 1/n, where n is config.labels.n_mc={settings.n_mc}):"
            " a state whose continuations are all right has no wrong one to search"
        )


def _explore(
    config: ConfigDict,
    policy: Params,
    problems: Problems,
    rollouts: Sequence[Response],
    ledger: Ledger,
) -> tuple[list[StepLabels], list[first_pit.Branch]]:
    """The labels of seed rollouts, and what of their continuations is searched."""
    settings = config.labels.first_pit
    explored: list[StepLabels | None] = [None] * len(rollouts)
    branches: list[list[first_pit.Branch]] = [[] for _ in rollouts]
    for place, continued in labels.continue_prefixes(
        policy,
        problems,
        rollouts,
        [labels.inner_ends(r, problems.is_step_end) for r in rollouts],
        n_mc=config.labels.n_mc,
        seed=derive(config.seed, Stream.LABELS),
        sampling=labels.sampling_for(
            problems,
            config.rollouts.temperature,
            branches=config.limits.max_steps * config.labels.n_mc,
        ),
        ledger=ledger,
    ):
        explored[place] = labels.whole_labels(rollouts[place], continued)
        branches[place] = first_pit.wrong_branches(
            rollouts[place],
            continued,
            threshold=settings.threshold,
            most=settings.responses,
        )
    return explored, [branch for some in branches for branch in some]


def _label(
    config: ConfigDict,
    policy: Params,
    problems: Problems,
    prefixes: Sequence[tuple[Response, int]],
    ledger: Ledger,
) -> list[first_pit.Count]:
    """Counts of `n_mc` continuations of each prefix."""
    n_mc = config.labels.first_pit.n_mc
    counts: list[first_pit.Count] = [(0, 0)] * len(prefixes)
    for place, continued in labels.continue_prefixes(
        policy,
        problems,
        [response for response, _ in prefixes],
        [[end] for _, end in prefixes],
        n_mc=n_mc,
        seed=derive(config.seed, Stream.FIRST_PIT),
        sampling=labels.sampling_for(
            problems, config.rollouts.temperature, branches=n_mc
        ),
        ledger=ledger,
    ):
        counts[place] = int(continued.correct.sum()), n_mc
    return counts


def _beside(path: Path, prefix: str) -> Path:
    return path.with_name(path.name.replace("shard-", prefix))


def read_pits(directory: Path) -> tuple[list[Response], list[StepLabels]]:
    """The responses that are labelled up to their pits, and their labels.

    Both are empty if stage `labels` had no `config.labels.first_pit`.
    """
    responses, found = [], []
    for path in records.shards(directory):
        if _beside(path, _RESPONSES).exists():
            responses += records.read_responses(_beside(path, _RESPONSES))
            found += records.read_labels(_beside(path, _LABELS))
    return responses, found
