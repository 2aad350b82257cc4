"""Stage `beams-R`: what a search finds on training problems, as verifiers' data.

A search picks the states that its verifier rates highest, and so those that it
over-rates. A verifier that was trained on samples alone has not seen them. Here beams
on problems whose answers are known give outcomes, and continuations from the steps of
the best of them give step labels, for exactly such states.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from pav_jax import labels
from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Response, StepLabels
from pav_jax.pipeline import beams as beams_lib
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import in_shards
from pav_jax.policy import load_policy
from pav_jax.search.beam import SearchResult
from pav_jax.storage import records
from pav_jax.tasks.problems import Problems


def run_beams(context: StageContext, *, prm: str, number: int) -> None:
    """Searches training problems, and labels the steps of the best responses.

    Args:
      context: of the stage.
      prm: the stage whose verifier guides the search.
      number: of the round, from 1.
    """
    config, settings = context.config, context.config.verifier.on_search
    problems = Problems.load(config, context.input("data"), "labels")
    most = int(len(problems) * (1 - config.verifier.held_out))
    if settings.problems > most:
        raise UserError(
            f"config.verifier.on_search.problems={settings.problems} must be at most"
            f" {most}: the others are held out by config.verifier.held_out"
        )
    policy = load_policy(context.input("sft"), problems.architecture, problems.dtype)
    scorer = beams_lib.read_scorer(context, problems, prm)
    search = functools.partial(
        beams_lib.search,
        context,
        problems,
        policy=policy,
        scorer=scorer,
        beams=settings.beams,
        seed=derive(config.seed, Stream.ON_SEARCH, number),
    )

    def work(part, path, ledger, advance):
        found = list(search(part))
        for result in found:
            ledger += result.ledger
        responses = _responses(problems, part, found, config.limits.max_tokens)
        best = list(records.first_of_each(responses, settings.labelled))
        of_best = labels.label_steps(
            policy,
            problems,
            best,
            n_mc=settings.n_mc,
            seed=derive(config.seed, Stream.ON_SEARCH_LABELS, number),
            sampling=labels.sampling_for_labels(
                problems, config.rollouts.temperature, n_mc=settings.n_mc
            ),
            ledger=ledger,
        )
        records.write_labels(records.labels_beside(path), of_best)
        records.write_responses(path, responses)
        for _ in part:
            advance()

    in_shards(context, range(settings.problems), config.labels.shard, "problem", work)


def _responses(
    problems: Problems,
    part: Sequence[int],
    found: Sequence[SearchResult],
    max_tokens: int,
) -> list[Response]:
    """Distinct responses to each problem, the best rated first.

    Those that `config.limits.max_steps` cut short are left out: the policy would go on
    from there, so they are not wrong yet.
    """
    texts = []
    for index, result in zip(part, found, strict=True):
        order = np.argsort(np.negative(result.values), kind="stable")
        distinct = dict.fromkeys(
            tuple(result.responses[i])
            for i in order
            if result.ended[i] or len(result.responses[i]) >= max_tokens
        )
        texts += [(index, tokens) for tokens in distinct if tokens]
    correct = problems.are_correct(texts)
    return [
        Response(index, problems.prompts[index], tokens, (0.0,) * len(tokens), right)
        for (index, tokens), right in zip(texts, correct, strict=True)
    ]


def read_labels(
    directory: Path, settings: ConfigDict
) -> tuple[list[Response], list[StepLabels]]:
    """The responses whose steps are labelled, and their labels; log-probabilities of
    what a search found are not known, and 0."""
    found = records.read_all_responses(directory)
    responses = list(records.first_of_each(found, settings.labelled))
    paths = [records.labels_beside(path) for path in records.shards(directory)]
    return responses, [x for path in paths for x in records.read_labels(path)]


def held_out(
    prompts: Sequence[tuple[int, ...]], settings: ConfigDict
) -> frozenset[tuple[int, ...]]:
    """The prompts of searched problems that no round of a verifier is trained on.

    They are the last of these, a fraction as of all. Known before any search, so that
    the first round, from whose parameters the others go on, has not seen them either.

    Args:
      prompts: of the problems for labels, token ids.
      settings: `config.verifier`; without `on_search` nothing is searched.
    """
    if "on_search" not in settings:
        return frozenset()
    count = settings.on_search.problems
    return frozenset(prompts[count - math.ceil(settings.held_out * count) : count])


def check_found(
    context: StageContext,
    beams: str,
    responses: Sequence[Response],
    kept: Mapping[str, np.ndarray],
) -> None:
    """Raises UserError if a search found too little for half of a batch.

    Args:
      context: of the stage that trains.
      beams: the stage that searched.
      responses: that it found.
      kept: the rows of those that are not held out, `[N, ...]` each.
    """
    field, size = next(iter(context.batches.items()))
    rows = len(kept["tokens"])
    if rows >= size // 2:
        return
    asked = context.config.verifier.on_search.problems
    there = len({response.problem for response in responses})
    raise UserError(
        f"stage {context.stage}: {counted(rows, 'response')} of stage {beams} to train"
        f" on, fewer than half of {field}={size}. Of"
        f" config.verifier.on_search.problems={asked} that stage found responses to"
        f" {there}, without those that"
        f" config.limits.max_steps={context.config.limits.max_steps} cut short; raise"
        " config.limits.max_steps or config.verifier.on_search.problems"
    )
