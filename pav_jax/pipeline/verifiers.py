"""Stages `prm`, `orm` and `evaluation`: verifiers, and how well they tell."""

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Sequence

import jax
import numpy as np
from ml_collections import ConfigDict

from pav_jax import labels, metrics, verifier
from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.progress_bar import progress_bar
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Grade, Params, Response, StepLabels
from pav_jax.distributed import sharding
from pav_jax.pipeline import by_problem, first_pit, imported, on_search
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import write_ledger
from pav_jax.pipeline.training import HeldOut, run_training, together
from pav_jax.policy import load_policy
from pav_jax.prover import advantages, best_of_k, effective_reward
from pav_jax.scores import score_responses
from pav_jax.storage import artifacts, records
from pav_jax.tasks.problems import Problems
from pav_jax.verifier import load_verifier

_ALPHAS = (0.0, 0.2, 0.5, 1.0)  # of effective rewards that predict the outcome


@dataclasses.dataclass(frozen=True)
class Labelled:
    """Responses, and what is known of their steps.

    Attributes:
      responses: whole responses.
      steps: (response tokens in the prefix, value) of the labelled ones of each.
    """

    responses: Sequence[Response]
    steps: Sequence[Sequence[tuple[int, float]]]

    @classmethod
    def of_steps(
        cls, responses: Sequence[Response], found: Sequence[StepLabels]
    ) -> "Labelled":
        """Every labelled step prefix, by its continuations."""
        return cls(responses, [verifier.labelled_steps(x) for x in found])

    @classmethod
    def of_outcomes(cls, responses: Sequence[Response]) -> "Labelled":
        """The outcome, at the last token."""
        return cls(responses, [[(len(r.tokens), float(r.correct))] for r in responses])


@together
def run_prm(
    context: StageContext, *, start: str | None = None, beams: str | None = None
) -> None:
    """The verifier of `Q^π` at every step, from which `Q^BoK` and `A^μ` follow.

    Args:
      context: of the stage.
      start: the stage whose verifier is trained further; a new one by default.
      beams: the stage whose responses are half of each batch, if there is a `start`.
    """
    config = context.config
    if "rollouts" in context.inputs:
        responses, found = records.read_labelled_rollouts(
            context.input("rollouts"), context.input("labels"), config.rollouts.n_cov
        )
        to_pits, of_pits = first_pit.read_pits(context.input("labels"))
        data = [Labelled.of_steps([*responses, *to_pits], [*found, *of_pits])]
    else:  # config.labels.from
        found = records.read_labelled(context.input("labels"))
        data = [Labelled.of_steps(*found)]
    if beams:
        settings = config.verifier.on_search
        folder = context.input(beams)
        found = on_search.read_labels(folder, settings)
        records.check_pairs(folder, found[0], folder, found[1])
        data.append(Labelled.of_steps(*found))
    _train_verifier(context, data, config.verifier.prm, start, beams)


@together
def run_prover_prm(context: StageContext, *, name: str) -> None:
    """The verifier of `Q^μ` of a prover that is another policy, as `run_prm`."""
    folder = context.input(f"labels-{name}")
    found = records.read_labelled(folder)
    records.check_pairs(folder, found[0], folder, found[1])
    optimizer = context.config.verifier.prm
    _train_verifier(context, [Labelled.of_steps(*found)], optimizer)


@together
def run_orm(
    context: StageContext, *, start: str | None = None, beams: str | None = None
) -> None:
    """The outcome verifier: the label of a whole response at its last token.

    Arguments are those of `run_prm`.
    """
    if "rollouts" in context.inputs:
        responses = [records.read_all_responses(context.input("rollouts"))]
    else:  # config.labels.from
        responses = [imported.read_outcomes(context.input("labels"))]
    if beams:
        responses.append(records.read_all_responses(context.input(beams)))
    data = [Labelled.of_outcomes(some) for some in responses]
    _train_verifier(context, data, context.config.verifier.orm, start, beams)


def _train_verifier(
    context: StageContext,
    data: Sequence[Labelled],
    optimizer: ConfigDict,
    start: str | None = None,
    beams: str | None = None,
) -> None:
    """Trains on sets of labels, each of which has an equal part of a batch."""
    config = context.config
    problems = Problems.load(config, context.input("data"), "labels")
    searched = on_search.held_out(problems.prompts, config.verifier)
    kept, held_out = _split(data, config, searched)
    if start:
        on_search.check_found(context, beams, data[1].responses, kept[1])
        optimizer = _shorter(optimizer, config.verifier.on_search.steps)
        params = load_verifier(
            context.input(start), problems.architecture, problems.dtype, sharding.TRAIN
        )
    else:
        network = load_policy(
            context.input("sft"), problems.architecture, problems.dtype, sharding.TRAIN
        )
        params = verifier.init_verifier(
            jax.random.key(config.seed),
            network,
            problems.architecture,
            config.verifier.get("head", "sum"),
        )
    loss = functools.partial(
        verifier.verifier_loss,
        architecture=problems.architecture,
        language_weight=config.verifier.language_weight,
    )
    held_out = HeldOut(
        held_out,
        functools.partial(verifier.scoring_loss, architecture=problems.architecture),
        batch_size=optimizer.batch_size,
    )
    run_training(context, params, loss, kept, optimizer, held_out=held_out)


def _shorter(optimizer: ConfigDict, steps: int) -> ConfigDict:
    """The same optimizer for fewer steps, with the same part of them to warm up, and
    at least one if there are any."""
    warmup = optimizer.warmup_steps
    warmup = warmup and max(1, warmup * steps // optimizer.steps)
    changed = optimizer.to_dict() | dict(steps=steps, warmup_steps=warmup)
    return ConfigDict(changed)


def _split(
    data: Sequence[Labelled],
    config: ConfigDict,
    searched: frozenset[tuple[int, ...]],
) -> tuple[list[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Training rows of each set, and those held out of all of them: of the last
    problems of the first set, and of the prompts `searched`."""
    responses = [response for some in data for response in some.responses]
    steps = [row for some in data for row in some.steps]
    # Together, so that all have one width.
    rows = verifier.verifier_rows(responses, steps, balance=config.verifier.balance)
    kept, apart, first = [], [], 0
    # By their prompts, as sets may number problems in their own ways.
    held = searched | _held_out(data[0].responses, config.verifier.held_out)
    for some in data:
        places = np.arange(first, first := first + len(some.responses))
        is_held = np.array([r.prompt in held for r in some.responses], bool)
        kept.append({name: array[places[~is_held]] for name, array in rows.items()})
        apart += places[is_held].tolist()
    return kept, {name: array[apart] for name, array in rows.items()}


def _held_out(
    responses: Sequence[Response], fraction: float
) -> frozenset[tuple[int, ...]]:
    """Prompts of the last problems, a fraction of all. Every round of a verifier has
    the same, and is trained on none of them.

    Raises:
      UserError: none would be left to train on.
    """
    problems = sorted({response.problem for response in responses})
    count = math.ceil(fraction * len(problems))
    if count >= len(problems):
        raise UserError(
            f"config.verifier.held_out={fraction:g} leaves none of"
            f" {counted(len(problems), 'labelled problem')} to train on"
        )
    last = problems[len(problems) - count]
    return frozenset(r.prompt for r in responses if r.problem >= last)


def run_evaluation(context: StageContext) -> None:
    """How well the verifiers tell good from bad, within a problem."""
    config = context.config
    problems = Problems.load(config, context.input("data"), "validation")
    policy = load_policy(context.input("sft"), problems.architecture, problems.dtype)
    ledger = Ledger()
    responses = labels.sample_responses(
        policy,
        problems,
        range(len(problems)),
        count=config.evaluation.n,
        seed=derive(config.seed, Stream.EVALUATION),
        sampling=labels.sampling_for(
            problems, config.search.temperature, branches=config.evaluation.n
        ),
        ledger=ledger,
        profile=context.profile,
    )
    ends = [labels.prefix_ends(r, problems.is_step_end) for r in responses]
    q, outcome = (
        score_responses(
            load_verifier(context.input(name), problems.architecture, problems.dtype),
            responses,
            ends,
            architecture=problems.architecture,
            ledger=ledger,
        )
        for name in ("prm", "orm")
    )
    verdicts = problems.check_steps(responses)
    results = _told_apart(problems, responses, q, outcome, verdicts)
    k = config.verifier.prover_k
    results["prediction"] = _predictions(responses, q, k)
    chosen = _first_responses(responses, config.evaluation)
    exact = _near_exact(
        context, policy, problems, [responses[i] for i in chosen], ledger
    )
    predicted = np.concatenate([q[i][:-1] for i in chosen])
    results |= metrics.calibration(predicted, exact)
    results["prediction_where_exact"] = _predictions_where_exact(
        [responses[i] for i in chosen], [q[i] for i in chosen], exact, k
    )
    viewer = [
        _viewed(problems, responses[i], q[i], near, k=k)
        for i, near in zip(chosen, exact, strict=True)
    ]
    sums = {
        "last": by_problem.outcome_pairs(responses, q),
        "orm_last": by_problem.outcome_pairs(responses, outcome),
        "squared_errors": by_problem.squared_errors(
            [responses[i] for i in chosen], [q[i] for i in chosen], exact
        ),
    }
    if verdicts is not None:
        sums["error_so_far_same_step"] = by_problem.error_pairs(responses, q, verdicts)
    artifacts.write_json(context.directory / "by_problem.json", sums)
    artifacts.write_json(context.directory / "viewer.json", viewer)
    artifacts.write_json(context.directory / "evaluation.json", results)
    write_ledger(context.directory, ledger)


def _told_apart(
    problems: Problems,
    responses: Sequence[Response],
    q: Sequence[np.ndarray],
    outcome: Sequence[np.ndarray],
    verdicts: Sequence[Sequence[str]] | None,
) -> dict:
    """AUC of the PRM's `q` and the ORM's `outcome`, failures and grades."""
    auc = metrics.outcome_auc(responses, q)
    if verdicts is not None:
        pooled, same_step = metrics.error_auc(responses, q, verdicts)
        auc |= {"error_so_far": pooled, "error_so_far_same_step": same_step}
    return {
        "auc_within_problem": auc,
        "orm": {"auc_last": metrics.outcome_auc(responses, outcome)["last"]},
        "failures": failures(responses, verdicts) if verdicts else {},
        "grades": _count_grades(
            problems.grades([(r.problem, r.tokens) for r in responses])
        ),
        "problems": len(problems),
    }


def _count_grades(grades: Sequence[Grade]) -> dict[str, int]:
    """Responses of each grade, by its value."""
    return {grade.value: grades.count(grade) for grade in Grade}


def failures(responses: Sequence[Response], verdicts: Sequence[Sequence[str]]) -> dict:
    """Fractions of responses by outcome: correct, or the kind of their first error."""
    kinds = Counter(
        "correct"
        if response.correct
        else next((word for word in words if word != "good"), "no answer")
        for response, words in zip(responses, verdicts, strict=True)
    )
    return {kind: count / len(responses) for kind, count in kinds.most_common()}


def _predictions(
    responses: Sequence[Response], q: Sequence[np.ndarray], k: int
) -> list[dict]:
    """Errors of predicting the outcome from `Q^π + αA^μ`, for each α (Fig. 10)."""
    progress = [advantages(best_of_k(values, k)) for values in q]
    rows = []
    for alpha in _ALPHAS:
        rewards = [
            effective_reward(values[1:], gained, alpha)
            for values, gained in zip(q, progress, strict=True)
        ]
        rows.append(
            {"alpha": alpha, "error": metrics.outcome_error(responses, rewards)}
        )
    return rows


def _predictions_where_exact(
    responses: Sequence[Response],
    q: Sequence[np.ndarray],
    exact: Sequence[StepLabels],
    k: int,
) -> list[dict]:
    """Fig. 10 of responses with near-exact values: by the verifier, and by these."""
    by_verifier = _predictions(responses, q, k)
    near_exact = _predictions(responses, [values.q for values in exact], k)
    return [
        {"alpha": row["alpha"], "by_verifier": row["error"], "near_exact": by["error"]}
        for row, by in zip(by_verifier, near_exact, strict=True)
    ]


def _first_responses(responses: Sequence[Response], settings: ConfigDict) -> list[int]:
    """Which responses get near-exact values: some of some problems."""
    return [
        i
        for i, response in enumerate(responses)
        if response.problem < settings.oracle_problems
        and i % settings.n < settings.oracle_n
    ]


def _near_exact(
    context: StageContext,
    policy: Params,
    problems: Problems,
    responses: Sequence[Response],
    ledger: Ledger,
) -> list[StepLabels]:
    """Labels of so many continuations that their noise is small."""
    config = context.config
    n_mc = config.evaluation.oracle_n_mc
    with progress_bar(total=len(responses), unit="rollout", desc=context.stage) as bar:
        return labels.label_steps(
            policy,
            problems,
            responses,
            n_mc=n_mc,
            seed=derive(config.seed, Stream.ORACLE),
            sampling=labels.sampling_for_labels(
                problems, config.search.temperature, n_mc=n_mc
            ),
            ledger=ledger,
            advance=bar.update,
            profile=context.profile,
        )


def _viewed(
    problems: Problems, response: Response, q: np.ndarray, exact: StepLabels, *, k: int
) -> dict:
    """A response as the step viewer shows it: text, Q, progress and Monte Carlo Q."""
    progress = advantages(best_of_k(q, k))
    steps = [
        {
            "text": problems.tokenizer.decode(
                response.tokens[exact.ends[step - 1] : exact.ends[step]]
            ).rstrip("\n"),
            "q": float(q[step]),
            "advantage": float(progress[step - 1]),
            "q_mc": float(exact.q[step]),
        }
        for step in range(1, len(exact.ends))
    ]
    problem = problems[response.problem]
    return {
        "prompt": problem.prompt.strip(),
        "answer": problem.answer,
        "correct": response.correct,
        "steps": steps,
    }
