"""Stages `data`, `pretraining` and `sft`: problems, tokenizer, and the base policy."""

import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from pav_jax import policy
from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.types import Problem
from pav_jax.distributed import sharding
from pav_jax.gemma import sizes
from pav_jax.gemma import tokenizer as tokenizers
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.training import run_training, together
from pav_jax.storage import records
from pav_jax.tasks import make_task
from pav_jax.tasks.base import Task
from pav_jax.tasks.problems import encode_prompt, fits
from pav_jax.tasks.stored import StoredTask, prompts_of, without_copies

OWN = ("task", "model", "sft")  # sections that another policy may change
# Fields of these that a config may have.
_OPTIONAL = {"model": ("checkpoint", "dtype"), "sft": ("short_first",)}
# What gives a task more problems of a split.
_MORE = {
    "validation": "raise config.task.validation_fraction, or add problems to train on",
    "test": "add test problems",
}


def run_data(context: StageContext) -> None:
    """Problems of every split, and the tokenizer."""
    config = context.config
    task = make_task(config.task)
    problems = _choose(task, config.problems)
    tokenizer = tokenizers.from_config(
        config.tokenizer,
        [f"{p.prompt}{p.solution}" for p in problems["sft"]],
        task.vocabulary(),
    )
    limit = config.limits.max_prompt_tokens
    for problem in [*problems["validation"], *problems["test"]]:
        encode_prompt(tokenizer, problem, max_tokens=limit)
    kept = [p for p in problems["labels"] if fits(tokenizer, p, limit)]
    if not kept:
        raise UserError(
            f"none of {counted(len(problems['labels']), 'problem')} for labels fits"
            f" config.limits.max_prompt_tokens={limit}; raise it"
        )
    if dropped := len(problems["labels"]) - len(kept):
        context.log(
            f"{counted(dropped, 'problem')} longer than config.limits: not labelled"
        )
    problems["labels"] = kept
    for split, chosen in problems.items():
        records.write_problems(context.directory / f"{split}.jsonl", chosen)
    tokenizer.save(context.directory / "tokenizer.model")
    context.log(f"vocabulary of {counted(tokenizer.vocab_size, 'token')}")


def check_splits(
    needs: Mapping[str, Collection[str]], folder: Path, later: Sequence[str]
) -> None:
    """Raises UserError if a stage needs problems of a split that has none.

    Args:
      needs: the splits that stages need, by the name of the stage.
      folder: that of stage `data`.
      later: the stages that are to be run.
    """
    for stage in later:
        for split in needs.get(stage, ()):
            path = folder / f"{split}.jsonl"  # another kind of data may have none
            if path.exists() and not records.read_problems(path):
                # A number would have been refused.
                raise UserError(
                    f"config.problems.{split}=None is all {split} problems of"
                    f" config.task, which has none, and stage {stage} needs some;"
                    f" {_MORE[split]}, or end before that stage (--until)"
                )


def held_out_prompts(folder: Path) -> set[str]:
    """The prompts of the validation and test splits, `squeezed`.

    Args:
      folder: that of stage `data`.
    """
    paths = [folder / f"{split}.jsonl" for split in ("validation", "test")]
    return set().union(
        *(prompts_of(records.read_problems(path)) for path in paths if path.exists())
    )


def _choose(task: Task, counts: ConfigDict) -> dict[str, Sequence[Problem]]:
    """Problems of each split; where a count is None, all that there are.

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
                "config.problems.sft and config.problems.labels must be numbers, or"
                " config.problems.disjoint=False"
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
def run_pretraining(context: StageContext) -> None:
    """A policy that others are fine-tuned from, where nothing is published for a task:
    on other demonstrations, such as easier ones."""
    fine_tune_as(context, pretraining_of(context.config))


def pretraining_of(config: ConfigDict) -> ConfigDict:
    """The sections `task`, `model` and `sft` of `config`, as they are for pretraining.

    Raises:
      UserError: `config.pretraining` has an unknown field.
    """
    changes = config.pretraining
    if unknown := sorted(set(changes) - {"task", "sft"}):
        raise UserError(
            f"config.pretraining has an unknown field {unknown[0]!r}; it may have task"
            " and sft, fields of these sections that differ"
        )
    return with_changes(config, changes, "config.pretraining")


@together
def run_sft(context: StageContext) -> None:
    """Supervised fine-tuning of the base policy (App. C)."""
    fine_tune_as(context, context.config)


def with_changes(
    config: ConfigDict, changes: Mapping[str, ConfigDict | None], where: str
) -> ConfigDict:
    """The sections of `config` that are in `OWN`, some of their fields changed.

    Args:
      config: has some of these sections.
      changes: fields of each section.
      where: the section of the config that they are from, for messages.

    Raises:
      UserError: `model` or `sft` has no such field.
    """
    changed = ConfigDict({key: config[key].to_dict() for key in OWN if key in config})
    with changed.unlocked():
        for key in changed:
            for field, value in (changes.get(key) or {}).items():
                # A task knows its own fields, and refuses others.
                known = key == "task" or field in (*changed[key], *_OPTIONAL[key])
                if not known:
                    raise UserError(
                        f"{where}.{key} has {field!r}, which config.{key} has not"
                    )
                changed[key][field] = value
    return changed


def fine_tune_as(context: StageContext, own: ConfigDict) -> None:
    """Trains a policy on the demonstrations that a task gives of `config.problems.sft`.

    Another task than `config.task` makes its own splits. Those of its problems that are
    in this run's validation or test split are left out.

    Args:
      context: of the stage; its config has `task`, `problems.sft`, `limits` and `seed`.
        If it needs a stage `pretraining`, training starts from that one's parameters.
      own: `task`, `model` and `sft` of this policy.
    """
    config = context.config
    if own.task == config.task:
        problems = records.read_problems(context.input("data") / "sft.jsonl")
    else:
        problems = _own_problems(context, own.task)
    tokenizer = tokenizers.Tokenizer.load(context.input("data") / "tokenizer.model")
    rows, dropped = policy.demonstrations(
        tokenizer,
        problems,
        max_prompt_tokens=config.limits.max_prompt_tokens,
        max_tokens=config.limits.max_tokens,
    )
    if dropped:
        context.log(
            f"{counted(dropped, 'demonstration')} longer than config.limits: left out"
        )
    architecture = sizes.from_config(own.model, tokenizer.vocab_size)
    context.log(
        f"{counted(architecture.num_params, 'parameter')},"
        f" {counted(len(rows['tokens']), 'problem')}"
    )
    if "pretraining" in context.inputs:
        dtype = sizes.dtype_of(own.model)
        folder = context.input("pretraining")
        params = policy.load_policy(folder, architecture, dtype, sharding.TRAIN)
    else:
        params = policy.initial_policy(own.model, architecture, seed=config.seed)
    loss = functools.partial(policy.sft_loss, architecture=architecture)
    run_training(context, params, loss, [rows], own.sft)


def _own_problems(context: StageContext, task: ConfigDict) -> Sequence[Problem]:
    """Problems to train on of another task; raises UserError if none may be."""
    found = make_task(task).problems("train", context.config.problems.sft)
    kept = without_copies(found, held_out_prompts(context.input("data")))
    if found and not kept:
        raise UserError(
            f"{context.stage}: all of {counted(len(found), 'problem')} to train on are"
            " in the validation or test split of config.task; its own task (in"
            " config.pretraining, or in the entry of config.provers) needs others"
        )
    if dropped := len(found) - len(kept):
        context.log(
            f"{counted(dropped, 'problem')} of the validation or test split: left out"
        )
    return kept
