"""Beam search on problems, as a config says it, and what it found as rows of a file."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pav_jax.core.types import Params, Response
from pav_jax.pipeline.runner import StageContext
from pav_jax.search.beam import Scorer, SearchResult, beam_search
from pav_jax.search.beam_step import BeamConfig
from pav_jax.search.pick import aggregated
from pav_jax.search.verifier_scorer import VerifierScorer
from pav_jax.tasks.problems import Problems
from pav_jax.verifier import load_verifier


def read_scorer(
    context: StageContext, problems: Problems, stage: str
) -> VerifierScorer:
    """Scores by the verifier that a stage trained."""
    params = load_verifier(context.input(stage), problems.architecture, problems.dtype)
    most = context.config.limits.max_tokens
    return VerifierScorer(params, problems.architecture, most)


def beam_config(
    config: ConfigDict,
    beams: int,
    *,
    end_ids: tuple[int, ...],
    step_end_ids: tuple[int, ...],
    subtrees: int = 1,
) -> BeamConfig:
    """How an experiment searches.

    Args:
      config: has `limits`, and `candidates` and `temperature` of `search`.
      beams: N.
      end_ids: tokens that end a response.
      step_end_ids: tokens that end a step.
      subtrees: parts of the beam, each of which keeps its own best.
    """
    return BeamConfig(
        beams=beams,
        candidates=config.search.candidates,
        max_tokens=config.limits.max_tokens,
        max_steps=config.limits.max_steps,
        end_ids=end_ids,
        step_end_ids=step_end_ids,
        temperature=config.search.temperature,
        subtrees=subtrees,
    )


def widest(config: ConfigDict) -> int:
    """The beams of the widest search of an experiment, in whichever stage."""
    widths = [*config.search.beams, config.search.alpha_beams]
    if "on_search" in config.verifier:
        widths.append(config.verifier.on_search.beams)
    if "rl" in config:
        widths += config.rl.final.get("beams", ())
    return max(widths)


def search(
    context: StageContext,
    problems: Problems,
    indices: Sequence[int],
    policy: Params,
    scorer: Scorer,
    *,
    beams: int,
    seed: int,
    alpha: float = 0.0,
    prover_k: int = 1,
    prover_scorer: Scorer | None = None,
    subtrees: int = 1,
) -> Iterator[SearchResult]:
    """Searches some of the problems; by `Q^π` alone unless `alpha` is given.

    Args:
      context: of the stage; its config is that of `beam_config`.
      problems: of a split.
      indices: which of them.
      policy: parameters, on the active mesh.
      scorer: gives `Q^π`; an index that it gets is a place in `indices`.
      beams: N.
      seed: names the draws.
      alpha, prover_k, prover_scorer: as of `search.beam.beam_search`.
      subtrees: parts of the beam.
    """
    return beam_search(
        policy,
        scorer,
        [problems.prompts[i] for i in indices],
        [problems[i].id for i in indices],
        alpha=alpha,
        prover_k=prover_k,
        seed=seed,
        architecture=problems.architecture,
        beam=beam_config(
            context.config,
            beams,
            end_ids=problems.tokenizer.end_ids,
            step_end_ids=tuple(np.flatnonzero(problems.is_step_end).tolist()),
            subtrees=subtrees,
        ),
        prover_scorer=prover_scorer,
        profile=context.profile,
    )


def responses_of(
    problems: Problems, indices: Sequence[int], found: Sequence[SearchResult]
) -> list[Response]:
    """All N responses to each problem that was searched; their outcomes are not known,
    and False."""
    return [
        Response(i, problems.prompts[i], tuple(tokens), (), False)
        for i, result in zip(indices, found, strict=True)
        for tokens in result.responses
    ]


def rows(
    problems: Problems, indices: Sequence[int], found: Sequence[SearchResult]
) -> list[dict[str, Any]]:
    """The rows of `Searched`, without what the outcome verifier says."""
    responses = responses_of(problems, indices, found)
    correct = problems.are_correct([(r.problem, r.tokens) for r in responses])
    answers = problems.answers(responses)
    made, first = [], 0
    for result in found:
        mine = slice(first, first := first + len(result.responses))
        paid = result.ledger
        made.append(
            {
                "responses": result.responses,
                "answers": answers[mine],
                "correct": correct[mine],
                "ended": result.ended,
                "prm": result.values,
                **{k: x.tolist() for k, x in aggregated(result.step_values).items()},
                "tokens": [paid.decoded, paid.prefilled, paid.scored],
            }
        )
    return made
