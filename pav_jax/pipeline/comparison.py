"""The stages that compare: verifiers on held-out responses, and search methods."""

import functools

import numpy as np
from ml_collections import ConfigDict

from pav_jax import draws, evaluation, labels
from pav_jax.core.ledger import Ledger
from pav_jax.core.progress import progress
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import in_shards, once, write_ledger
from pav_jax.search import oracle_scorer
from pav_jax.search.beam import BeamConfig, Scorer, beam_search
from pav_jax.search.verifier_scorer import VerifierScorer
from pav_jax.storage import artifacts, records
from pav_jax.tasks import problems

# Seeds of the draws, apart for each use (1 and 2 are the training data's).
_SEED_VALIDATION, _SEED_ORACLE, _SEED_TEST, _SEED_BEAMS = 3, 4, 5, 6
_SHARD = 80  # problems


def run_evaluation(context: StageContext) -> None:
    """How well the verifiers tell good from bad, within a problem."""
    config = context.config
    lab = problems.Lab.load(config, context.input("data"), "validation")
    params = lab.load_policy(context.input("sft"))
    prm = lab.load_verifier(context.input("prm"))
    orm = lab.load_verifier(context.input("orm"))
    ledger = Ledger()
    responses = draws.sample(
        params,
        lab,
        range(len(lab.problems)),
        count=config.evaluation.n,
        seed=config.seed + _SEED_VALIDATION,
        sampling=lab.sampling(config.search.temperature, branches=config.evaluation.n),
        ledger=ledger,
    )
    ends = [
        np.concatenate([[0], labels.step_ends(r.tokens, lab.is_step_end)])
        for r in responses
    ]
    q, outcome = (
        evaluation.score_responses(v, responses, ends, config=lab.model, ledger=ledger)
        for v in (prm, orm)
    )
    auc = evaluation.outcome_auc(responses, q)
    verdicts = lab.grader.check(responses)
    if verdicts is not None:
        pooled, same_step = evaluation.error_auc(responses, q, verdicts)
        auc |= {"error_so_far": pooled, "error_so_far_same_step": same_step}
    results = {
        "auc_within_problem": auc,
        "orm": {"auc_last": evaluation.outcome_auc(responses, outcome)["last"]},
        "failures": evaluation.failures(responses, verdicts) if verdicts else {},
        "grades": evaluation.count_grades(
            lab.grader.grades([(r.problem, r.tokens) for r in responses])
        ),
        "problems": len(lab.problems),
    }

    # Near-exact values of every step of a few responses: many continuations.
    chosen = [
        i
        for i, r in enumerate(responses)
        if r.problem < config.evaluation.oracle_problems
        and i % config.evaluation.n < config.evaluation.oracle_n
    ]
    exact: list[labels.StepLabels | None] = [None] * len(chosen)
    labelled = labels.label_steps(
        params,
        [responses[i] for i in chosen],
        [lab.problems[responses[i].problem].id for i in chosen],
        n_mc=config.evaluation.oracle_n_mc,
        seed=config.seed + _SEED_ORACLE,
        is_step_end=lab.is_step_end,
        are_correct=lab.grader.are_correct,
        config=lab.model,
        sampling=lab.sampling(
            config.search.temperature,
            branches=config.limits.max_steps * config.evaluation.oracle_n_mc,
        ),
        ledger=ledger,
    )
    for index, found in progress(
        iterable=labelled, total=len(chosen), unit="rollout", desc=context.stage
    ):
        exact[index] = found
    predicted = np.concatenate([q[i][:-1] for i in chosen])
    results |= evaluation.calibration(predicted, exact)
    artifacts.write_json(
        context.directory / "viewer.json",
        [
            {
                "prompt": lab.problems[responses[i].problem].prompt.strip(),
                "answer": lab.problems[responses[i].problem].answer,
                "correct": responses[i].correct,
                "steps": _viewer_steps(lab, responses[i], q[i], exact[place], config),
            }
            for place, i in enumerate(chosen)
        ],
    )
    artifacts.write_json(context.directory / "evaluation.json", results)
    write_ledger(context.directory, ledger)


def _viewer_steps(lab, response, q, exact, config) -> list[dict]:
    """Text, Q, progress and Monte Carlo value of each step of a response."""
    k = config.verifier.prover_k
    prover = 1 - (1 - q) ** k
    steps = []
    for step in range(1, len(exact.ends)):
        span = response.tokens[exact.ends[step - 1] : exact.ends[step]]
        steps.append(
            {
                "text": lab.tokenizer.decode(span).rstrip("\n"),
                "q": float(q[step]),
                "advantage": float(prover[step] - prover[step - 1]),
                "q_mc": float(exact.q[step]),
            }
        )
    return steps


def run_samples(context: StageContext) -> None:
    """Responses to the test problems, scored by both verifiers; and greedy ones."""
    config = context.config
    lab = problems.Lab.load(config, context.input("data"), "test")
    params = lab.load_policy(context.input("sft"))
    prm = lab.load_verifier(context.input("prm"))
    orm = lab.load_verifier(context.input("orm"))

    def work(part, path, ledger, advance):
        count, seed = config.search.samples, config.seed + _SEED_TEST
        responses = draws.sample(
            params,
            lab,
            part,
            count=count,
            seed=seed,
            sampling=lab.sampling(config.search.temperature, branches=count),
            ledger=ledger,
        )
        greedy = draws.sample(
            params,
            lab,
            part,
            count=1,
            seed=seed,
            sampling=lab.sampling(0.0, branches=1),
            ledger=Ledger(),
        )
        last = [np.array([len(r.tokens)]) for r in responses]
        scores = {
            name: np.concatenate(
                evaluation.score_responses(
                    v, responses, last, config=lab.model, ledger=ledger
                )
            )
            for name, v in (("prm", prm), ("orm", orm))
        }
        shape = (len(part), config.search.samples)
        arrays = {
            "correct": np.array([r.correct for r in responses]),
            "length": np.array([len(r.tokens) for r in responses]),
            **scores,
        }
        arrays = {name: array.reshape(shape) for name, array in arrays.items()}
        arrays["prompt_length"] = np.array([len(lab.prompts[i]) for i in part])
        arrays["greedy"] = np.array([r.correct for r in greedy])
        arrays["greedy_length"] = np.array([len(r.tokens) for r in greedy])
        artifacts.write_arrays(path, arrays)
        answers = np.array(lab.grader.answers(responses), object).reshape(shape)
        artifacts.write_json(path.with_suffix(".answers.json"), answers.tolist())
        for _ in part:
            advance()

    in_shards(context, range(len(lab.problems)), _SHARD, "problem", work)


def run_search(context: StageContext) -> None:
    """Beam search: α is chosen on validation problems, then every N on test."""
    config, data = context.config, context.input("data")
    search = config.search
    validation = problems.Lab.load(config, data, "validation")
    test = problems.Lab.load(config, data, "test")
    params = test.load_policy(context.input("sft"))
    prm = test.load_verifier(context.input("prm"))
    scorer = VerifierScorer(prm, test.model, config.limits.max_tokens)

    def run(name: str, lab: problems.Lab, beams: int, alpha: float, by: Scorer):
        """Searches all problems; [problem][correct, decoded, prefilled, scored]."""
        search = functools.partial(
            _search, context, lab, params, by, name, beams=beams, alpha=alpha
        )
        return once(context.directory / f"{name}.json", search)

    grid = []
    for alpha in search.alphas:
        name = f"validation-{search.alpha_beams}-alpha-{alpha:g}"
        rows = run(name, validation, search.alpha_beams, alpha, scorer)
        grid.append((float(np.mean([row[0] for row in rows])), alpha))
    # Best progress weight; α = 0 is its own method, so it is not a choice here.
    chosen = max((pair for pair in grid if pair[1] > 0), key=lambda pair: pair[0])[1]
    for beams in search.beams:
        run(f"beam_q-{beams}", test, beams, 0.0, scorer)
        run(f"beam_pav-{beams}", test, beams, chosen, scorer)
    found = _fit_oracle(context)
    if found is not None:
        for beams in search.beams[:3]:
            everyone = range(len(test.problems))
            by = oracle_scorer.OracleScorer(found, test.grader.state, everyone)
            run(f"beam_oracle-{beams}", test, beams, 0.0, by)
    artifacts.write_json(
        context.directory / "search.json",
        {"alpha": chosen, "oracle": found is not None},
    )


def _search(
    context, lab, params, scorer, name: str, *, beams: int, alpha: float
) -> list[list]:
    config: ConfigDict = context.config
    beam = BeamConfig(
        beams=beams,
        candidates=config.search.candidates,
        max_tokens=config.limits.max_tokens,
        max_steps=config.limits.max_steps,
        end_ids=(lab.tokenizer.eos_id,),
        step_end_ids=tuple(np.flatnonzero(lab.is_step_end).tolist()),
        temperature=config.search.temperature,
        prover_k=config.verifier.prover_k,
    )
    searches = beam_search(
        params,
        scorer,
        lab.prompts,
        [problem.id for problem in lab.problems],
        alpha=alpha,
        seed=config.seed + _SEED_BEAMS,
        config=lab.model,
        beam=beam,
    )
    total = len(lab.problems)
    found = list(progress(iterable=searches, total=total, unit="problem", desc=name))
    correct = lab.grader.are_correct([(i, f.tokens) for i, f in enumerate(found)])
    return [
        [right, f.ledger.decoded, f.ledger.prefilled, f.ledger.scored]
        for right, f in zip(correct, found, strict=True)
    ]


def _fit_oracle(context: StageContext) -> oracle_scorer.Oracle | None:
    """The oracle of the labelled training rollouts; None without a checker."""
    lab = problems.Lab.load(context.config, context.input("data"), "labels")
    steps = _labelled(context)
    if lab.grader.state(steps[0][0].problem, ()) is None:
        return None
    return oracle_scorer.Oracle(
        (lab.grader.state(response.problem, response.tokens[:end]), correct, count)
        for response, found in steps
        for end, correct, count in zip(
            found.ends.tolist(),
            found.correct.tolist(),
            found.count.tolist(),
            strict=True,
        )
    )


def _labelled(context) -> list[tuple[labels.Response, labels.StepLabels]]:
    """Seed rollouts with their labels, of the training problems."""
    responses = records.read_seed_rollouts(
        context.input("rollouts"), context.config.rollouts.n_cov
    )
    found = records.read_all_labels(context.input("labels"))
    return list(zip(responses, found, strict=True))
