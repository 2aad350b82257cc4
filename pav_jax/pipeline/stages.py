"""The stages of an experiment, from problems to the report.

Each reads the folders of the stages it needs and writes its own; WORKSPACE.md
lists the files. The work itself is in the modules named after the paper's parts.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from pav_jax import labels, policy, verifier
from pav_jax.core.errors import UserError
from pav_jax.distributed import mesh
from pav_jax.pipeline import improvement
from pav_jax.pipeline.comparison import run_evaluation, run_samples, run_search
from pav_jax.pipeline.results import run_report, write_page
from pav_jax.pipeline.runner import Stage, StageContext
from pav_jax.pipeline.shards import in_shards
from pav_jax.pipeline.training import run_training, together
from pav_jax.storage import records
from pav_jax.tasks import make_task
from pav_jax.tasks import problems as experiment
from pav_jax.tasks.base import Problem, Task
from pav_jax.tasks.stored import StoredTask

# Seeds of the draws, apart for each use.
_SEED_ROLLOUTS, _SEED_LABELS = 1, 2


def stages(config: ConfigDict) -> list[Stage]:
    """All stages, each after the ones it needs."""
    model = ("task", "model", "limits", "seed")
    sampled = (*model, "sampling")
    improved = improvement.stages(config) if "rl" in config else []
    return [
        Stage("data", run_data, (), ("task", "problems", "limits", "tokenizer")),
        Stage("sft", run_sft, ("data",), (*model, "sft"), shared=True),
        Stage(
            "rollouts",
            run_rollouts,
            ("data", "sft"),
            (*sampled, "rollouts", "labels.shard"),
            shared=True,
        ),
        Stage(
            "labels",
            run_labels,
            ("data", "sft", "rollouts"),
            (*sampled, "labels", "rollouts"),
            shared=True,
        ),
        Stage(
            "prm",
            run_prm,
            ("data", "sft", "rollouts", "labels"),
            (*model, "verifier.prm", "verifier.language_weight")
            + ("verifier.balance", "rollouts.n_cov"),
            shared=True,
        ),
        *improved,
        Stage(
            "orm",
            run_orm,
            ("data", "sft", "rollouts"),
            (*model, "verifier.orm", "verifier.language_weight", "verifier.balance"),
            shared=True,
        ),
        Stage(
            "evaluation",
            run_evaluation,
            ("data", "sft", "prm", "orm"),
            (*sampled, "evaluation", "search.temperature", "verifier.prover_k"),
        ),
        Stage(
            "samples",
            run_samples,
            ("data", "sft", "prm", "orm"),
            (*sampled, "search.samples", "search.temperature"),
            shared=True,
        ),
        Stage(
            "search",
            run_search,
            ("data", "sft", "rollouts", "labels", "prm"),
            (*model, "search", "verifier.prover_k", "rollouts.n_cov"),
        ),
        Stage(
            "report",
            run_report,
            ("data", "sft", "rollouts", "labels", "prm", "orm")
            + ("evaluation", "samples", "search")
            + tuple(stage.name for stage in improved[-1:]),
            tuple(config.keys()),  # it prints them all
        ),
    ]


def report(workdir: str | os.PathLike[str]) -> Path:
    """Draws the page of a finished run again; returns its path."""
    return write_page(Path(workdir) / "report")


def run_data(context: StageContext) -> None:
    """Problems of every use, and the tokenizer."""
    config = context.config
    task = make_task(config.task)
    problems = _choose(task, config.problems)
    tokenizer = experiment.make_tokenizer(
        config.tokenizer,
        [f"{p.prompt}{p.solution}" for p in problems["sft"]],
        task.vocabulary(),
    )
    limit = config.limits.max_prompt_tokens
    for problem in [*problems["validation"], *problems["test"]]:
        policy.encode_prompt(tokenizer, problem, max_tokens=limit)
    kept = [p for p in problems["labels"] if policy.fits(tokenizer, p, limit)]
    if not kept:
        raise UserError(
            f"none of {len(problems['labels'])} problems for labels fits"
            f" config.limits.max_prompt_tokens={limit}; raise it"
        )
    if dropped := len(problems["labels"]) - len(kept):
        context.log(f"{dropped} problems are longer than the limits; not labelled")
    problems["labels"] = kept
    for name, chosen in problems.items():
        records.write_problems(context.directory / f"{name}.jsonl", chosen)
    tokenizer.save(context.directory / "tokenizer.model")
    context.log(f"vocabulary of {tokenizer.vocab_size} tokens")


def _choose(task: Task, counts: ConfigDict) -> dict[str, Sequence[Problem]]:
    """Problems of each use; where a count is None, all that there are.

    With `disjoint=False` labels are of the problems of fine-tuning, as in the paper;
    else of the ones that follow those.
    """

    def take(split: str, count: int | None) -> Sequence[Problem]:
        if count is None and not isinstance(task, StoredTask):
            raise UserError(
                f"config.problems must be numbers: task {task.name} has no end"
            )
        return task.problems(split, count)

    if counts.get("disjoint", True):
        if None in (counts.sft, counts.labels):
            raise UserError(
                "config.problems.sft and labels must be numbers, or disjoint=False"
            )
        train = take("train", counts.sft + counts.labels)
        sft, labelled = train[: counts.sft], train[counts.sft :]
    else:
        sft, labelled = (take("train", n) for n in (counts.sft, counts.labels))
    return {
        "sft": sft,
        "labels": labelled,
        "validation": take("validation", counts.validation),
        "test": take("test", counts.test),
    }


@together
def run_sft(context: StageContext) -> None:
    """Supervised fine-tuning of the base policy (App. C)."""
    config, data = context.config, context.input("data")
    tokenizer = experiment.load_tokenizer(data)
    rows, dropped = policy.demonstrations(
        tokenizer,
        records.read_problems(data / "sft.jsonl"),
        max_prompt_tokens=config.limits.max_prompt_tokens,
        max_tokens=config.limits.max_tokens,
    )
    if dropped:
        context.log(f"{dropped} demonstrations are longer than the limits; left out")
    model = experiment.model_config(config.model, tokenizer)
    context.log(f"{model.num_params:,} parameters, {len(rows['tokens']):,} problems")
    params = experiment.initial_policy(config.model, model, seed=config.seed)
    loss = functools.partial(policy.sft_loss, config=model)
    run_training(context, params, loss, rows, config.sft)


def run_rollouts(context: StageContext) -> None:
    """Seed rollouts of the base policy, with their outcomes."""
    config, data = context.config, context.input("data")
    if config.rollouts.n_cov > config.rollouts.n_orm:
        raise UserError(
            f"rollouts.n_cov={config.rollouts.n_cov} must be at most"
            f" rollouts.n_orm={config.rollouts.n_orm}: seed rollouts are the first"
            " of the responses that the ORM is trained on"
        )
    lab = experiment.Lab.load(config, data, "labels")
    params = lab.load_policy(context.input("sft"))

    def work(part, path, ledger, advance):
        found: list[list[labels.Response]] = [[] for _ in part]
        for index, responses in labels.sample_responses(
            params,
            [lab.prompts[i] for i in part],
            [lab.problems[i].id for i in part],
            problem_indices=part,
            count=config.rollouts.n_orm,
            seed=config.seed + _SEED_ROLLOUTS,
            are_correct=lab.grader.are_correct,
            config=lab.model,
            sampling=lab.sampling(
                config.rollouts.temperature, branches=config.rollouts.n_orm
            ),
            ledger=ledger,
        ):
            found[index] = responses
            advance()
        records.write_responses(path, [r for row in found for r in row])

    in_shards(context, range(len(lab.problems)), config.labels.shard, "problem", work)


def run_labels(context: StageContext) -> None:
    """Monte Carlo labels of every step prefix of the seed rollouts (Sec. 4.2)."""
    config, data = context.config, context.input("data")
    lab = experiment.Lab.load(config, data, "labels")
    params = lab.load_policy(context.input("sft"))
    seeds = records.read_seed_rollouts(context.input("rollouts"), config.rollouts.n_cov)

    def work(part, path, ledger, advance):
        found: list[labels.StepLabels | None] = [None] * len(part)
        chosen = [seeds[i] for i in part]
        for index, found_labels in labels.label_steps(
            params,
            chosen,
            [lab.problems[r.problem].id for r in chosen],
            n_mc=config.labels.n_mc,
            seed=config.seed + _SEED_LABELS,
            is_step_end=lab.is_step_end,
            are_correct=lab.grader.are_correct,
            config=lab.model,
            sampling=lab.sampling(
                config.rollouts.temperature,
                branches=config.limits.max_steps * config.labels.n_mc,
            ),
            ledger=ledger,
        ):
            found[index] = found_labels
            advance()
        records.write_labels(path, found)

    in_shards(context, range(len(seeds)), config.labels.shard, "rollout", work)


def _train_verifier(context, responses, steps, config) -> None:
    """Trains on (response, step labels) pairs."""
    lab = experiment.Lab.load(context.config, context.input("data"), "labels")
    balance = context.config.verifier.balance
    rows = verifier.verifier_rows(responses, steps, balance=balance)
    start = lab.load_policy(context.input("sft"), mesh.TRAIN)
    params = verifier.init_verifier(
        jax.random.key(context.config.seed), start, lab.model
    )
    loss = functools.partial(
        verifier.verifier_loss,
        config=lab.model,
        language_weight=context.config.verifier.language_weight,
    )
    run_training(context, params, loss, rows, config)


@together
def run_prm(context: StageContext) -> None:
    """The verifier of `Q^π` at every step, from which `Q^BoK` and `A^μ` follow."""
    responses = records.read_seed_rollouts(
        context.input("rollouts"), context.config.rollouts.n_cov
    )
    found = records.read_all_labels(context.input("labels"))
    steps = [list(zip(x.ends.tolist(), x.q.tolist(), strict=True)) for x in found]
    _train_verifier(context, responses, steps, context.config.verifier.prm)


@together
def run_orm(context: StageContext) -> None:
    """The outcome verifier: the label of a whole response at its last token."""
    responses = records.read_all_responses(context.input("rollouts"))
    steps = [[(len(r.tokens), float(r.correct))] for r in responses]
    _train_verifier(context, responses, steps, context.config.verifier.orm)
