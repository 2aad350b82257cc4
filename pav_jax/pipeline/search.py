"""Stages `samples` and `search`: best-of-N and beam search on held-out problems."""

import functools

import numpy as np
from ml_collections import ConfigDict

from pav_jax import labels
from pav_jax.core.ledger import Ledger
from pav_jax.core.progress_bar import progress
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Params
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import in_shards, once
from pav_jax.policy import load_policy
from pav_jax.scores import score_outcomes
from pav_jax.search.beam import Scorer, beam_search
from pav_jax.search.beam_step import BeamConfig
from pav_jax.search.oracle_scorer import Oracle, OracleScorer
from pav_jax.search.verifier_scorer import VerifierScorer
from pav_jax.storage import artifacts, records
from pav_jax.tasks.problems import Problems
from pav_jax.verifier import load_verifier

_SHARD = 80  # problems
_ORACLE_SIZES = 3  # the oracle searches with the first of `config.search.beams`


def run_samples(context: StageContext) -> None:
    """Responses to the test problems, scored by both verifiers; and greedy ones."""
    config = context.config
    problems = Problems.load(config, context.input("data"), "test")
    policy = load_policy(context.input("sft"), problems.architecture, problems.dtype)
    verifiers = {
        name: load_verifier(context.input(name), problems.architecture, problems.dtype)
        for name in ("prm", "orm")
    }

    def work(part, path, ledger, advance):
        draw = functools.partial(
            labels.sample_responses,
            policy,
            problems,
            part,
            seed=derive(config.seed, Stream.SAMPLES),
        )
        count = config.search.samples
        responses = draw(
            count=count,
            sampling=labels.sampling_for(
                problems, config.search.temperature, branches=count
            ),
            ledger=ledger,
        )
        greedy = draw(
            count=1,
            sampling=labels.sampling_for(problems, 0.0, branches=1),
            ledger=Ledger(),  # for comparison only
        )
        scores = {
            name: score_outcomes(
                params, responses, architecture=problems.architecture, ledger=ledger
            )
            for name, params in verifiers.items()
        }
        shape = (len(part), count)
        arrays = {
            "correct": np.array([r.correct for r in responses]),
            "length": np.array([len(r.tokens) for r in responses]),
            **scores,
        }
        arrays = {name: array.reshape(shape) for name, array in arrays.items()}
        arrays["prompt_length"] = np.array([len(problems.prompts[i]) for i in part])
        arrays["greedy"] = np.array([r.correct for r in greedy])
        arrays["greedy_length"] = np.array([len(r.tokens) for r in greedy])
        artifacts.write_arrays(path, arrays)
        answers = np.array(problems.answers(responses), object).reshape(shape)
        artifacts.write_json(path.with_suffix(".answers.json"), answers.tolist())
        for _ in part:
            advance()

    in_shards(context, range(len(problems)), _SHARD, "problem", work)


def run_search(context: StageContext) -> None:
    """Beam search: α is chosen on validation problems, then every N on test."""
    config = context.config
    search = config.search
    test = Problems.load(config, context.input("data"), "test")
    validation = test.split("validation")
    policy = load_policy(context.input("sft"), test.architecture, test.dtype)
    prm = load_verifier(context.input("prm"), test.architecture, test.dtype)
    scorer = VerifierScorer(prm, test.architecture, config.limits.max_tokens)

    def run(name: str, problems: Problems, beams: int, alpha: float, by: Scorer):
        """Searches all problems, unless the file of this name is already there."""
        make = functools.partial(
            _search, config, name, policy, problems, by, beams=beams, alpha=alpha
        )
        return once(context.directory / f"{name}.json", make)

    accuracies = {}
    for alpha in search.alphas:
        name = f"validation-{search.alpha_beams}-alpha-{alpha:g}"
        rows = run(name, validation, search.alpha_beams, alpha, scorer)
        accuracies[alpha] = float(np.mean([row[0] for row in rows]))
    # Best progress weight; α = 0 is its own method, so it is not a choice here.
    chosen = max((alpha for alpha in search.alphas if alpha > 0), key=accuracies.get)
    for beams in search.beams:
        run(f"beam_q-{beams}", test, beams, 0.0, scorer)
        run(f"beam_pav-{beams}", test, beams, chosen, scorer)
    oracle = _fit_oracle(context, test.split("labels"))
    if oracle is not None:
        by = OracleScorer(lambda i, tokens: oracle.value(test.facts(i, tokens)))
        for beams in search.beams[:_ORACLE_SIZES]:
            run(f"beam_oracle-{beams}", test, beams, 0.0, by)
    artifacts.write_json(
        context.directory / "search.json",
        {"alpha": chosen, "oracle": oracle is not None},
    )


def beam_config(
    config: ConfigDict,
    beams: int,
    *,
    end_ids: tuple[int, ...],
    step_end_ids: tuple[int, ...],
) -> BeamConfig:
    """How an experiment searches.

    Args:
      config: has `search`, `limits` and `verifier`.
      beams: one of `config.search.beams`, or `config.search.alpha_beams`.
      end_ids: tokens that end a response.
      step_end_ids: tokens that end a step.
    """
    return BeamConfig(
        beams=beams,
        candidates=config.search.candidates,
        max_tokens=config.limits.max_tokens,
        max_steps=config.limits.max_steps,
        end_ids=end_ids,
        step_end_ids=step_end_ids,
        temperature=config.search.temperature,
        prover_k=config.verifier.prover_k,
    )


def _search(
    config: ConfigDict,
    name: str,
    policy: Params,
    problems: Problems,
    scorer: Scorer,
    *,
    beams: int,
    alpha: float,
) -> list[list]:
    """Searches all problems; [correct, decoded, prefilled, scored] of each."""
    searches = beam_search(
        policy,
        scorer,
        problems.prompts,
        [problem.id for problem in problems],
        alpha=alpha,
        seed=derive(config.seed, Stream.BEAMS),
        architecture=problems.architecture,
        beam=beam_config(
            config,
            beams,
            end_ids=problems.tokenizer.end_ids,
            step_end_ids=tuple(np.flatnonzero(problems.is_step_end).tolist()),
        ),
    )
    bar = progress(iterable=searches, total=len(problems), unit="problem", desc=name)
    results = list(bar)
    correct = problems.are_correct([(i, r.tokens) for i, r in enumerate(results)])
    return [
        [right, r.ledger.decoded, r.ledger.prefilled, r.ledger.scored]
        for right, r in zip(correct, results, strict=True)
    ]


def _fit_oracle(context: StageContext, problems: Problems) -> Oracle | None:
    """The oracle of the labelled training rollouts; None without a step checker."""
    responses = records.read_seed_rollouts(
        context.input("rollouts"), context.config.rollouts.n_cov
    )
    labels_of_each = records.read_all_labels(context.input("labels"))
    if problems.facts(responses[0].problem, ()) is None:
        return None
    return Oracle(
        (problems.facts(response.problem, response.tokens[:end]), correct, count)
        for response, counts in zip(responses, labels_of_each, strict=True)
        for end, correct, count in zip(
            counts.ends.tolist(),
            counts.correct.tolist(),
            counts.count.tolist(),
            strict=True,
        )
    )
