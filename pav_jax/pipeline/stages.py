"""The stages of an experiment, from problems to the report, in the order they run.

Each reads the folders of the stages it needs and writes its own; WORKSPACE.md lists the
files. Bodies of stages are in the modules beside this one, and what they do is in the
modules named after the paper's parts.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.pipeline import batch_rows, config_rules, external_files, other_provers
from pav_jax.pipeline.data import (
    check_splits,
    pretraining_of,
    run_data,
    run_pretraining,
    run_sft,
)
from pav_jax.pipeline.imported import run_imported_labels
from pav_jax.pipeline.labelling import run_labels, run_rollouts
from pav_jax.pipeline.on_search import run_beams
from pav_jax.pipeline.provers import run_provers
from pav_jax.pipeline.results import draw_again, run_report
from pav_jax.pipeline.rl import objective_of, prm_stage, run_rft, run_rl
from pav_jax.pipeline.rl_comparison import run_improvement
from pav_jax.pipeline.runner import Stage
from pav_jax.pipeline.search import run_samples, run_search
from pav_jax.pipeline.verifiers import (
    run_evaluation,
    run_orm,
    run_prm,
    run_prover_prm,
)

# Config fields that several stages read.
_MODEL = ("task", "model", "limits", "seed")
_SAMPLED = (*_MODEL, "sampling")
_VERIFIER = ("language_weight", "balance", "held_out")  # of `config.verifier`


def stages(config: ConfigDict, until: str | None = None) -> list[Stage]:
    """All stages, each after the ones it needs, of a run that ends with `until`.

    Raises:
      UserError: a field of the config is wrong (`config_rules.check`), or an entry of
        `config.provers` or `config.rl.methods` is.
    """
    config_rules.check(config, until)
    improved = _rl_stages(config) if "rl" in config else []
    return [*_training_stages(config), *improved, *_comparison_stages(config, improved)]


def report(workdir: str | os.PathLike[str]) -> Path:
    """Draws the page of a finished run again; returns its path."""
    return draw_again(Path(workdir) / "report")


def _training_stages(config: ConfigDict) -> list[Stage]:
    """From problems to the verifier of steps."""
    return [
        Stage(
            "data",
            run_data,
            (),
            ("task", "problems", "limits", "tokenizer"),
            outside=external_files.of_problems(config),
            computes=False,
            revision=1 if config.task.name in ("gsm8k", "math") else 0,
            check=functools.partial(check_splits, _splits(config)),
        ),
        *_policy_stages(config),
        *_labels_stages(config),
        *_prm_stages(config),
        *_prover_stages(config),
    ]


def _splits(config: ConfigDict) -> dict[str, tuple[str, ...]]:
    """The splits, of those that may have no problems, that stages need."""
    validation, test = ("validation",), ("test",)
    needs = {"evaluation": validation, "samples": test, "search": validation + test}
    if "rl" in config:
        of_curves = test if config.rl.measured == "test" else ()
        for stage in _rl_stages(config):
            if stage.name.startswith("rl-"):
                needs[stage.name] = validation + of_curves
        needs["improvement"] = of_curves
    return needs


def _labels_stages(config: ConfigDict) -> list[Stage]:
    """`rollouts` and `labels`; with `labels.from` only `labels`, and `rollouts` if RL
    or other provers need them."""
    rollouts = Stage(
        "rollouts",
        run_rollouts,
        ("data", "sft"),
        (*_SAMPLED, "rollouts", "labels.shard"),
        in_shards=True,
    )
    if _labels_own(config):
        # Not labels.from, so that these labels are the same as before there was one.
        fields = tuple(f"labels.{name}" for name in config.labels if name != "from")
        needs = ("data", "sft", "rollouts")
        fields = (*_SAMPLED, *fields, "rollouts")
        return [rollouts, Stage("labels", run_labels, needs, fields, in_shards=True)]
    if config.labels.get("first_pit", {}).get("n_mc"):
        raise UserError(
            "config.labels.first_pit continues rollouts of one's own, whose place"
            " config.labels.from takes; leave out either"
        )
    fields = ("limits", "labels.from", "labels.shard")
    imported = Stage(
        "labels",
        run_imported_labels,
        ("data",),
        fields,
        outside=external_files.of_labels(config.labels["from"]),
        computes=False,
        revision=1,
    )
    read = "rl" in config or config.get("provers")
    return [rollouts, imported] if read else [imported]


def _labels_own(config: ConfigDict) -> bool:
    """Whether the labels are of rollouts of this run's policy."""
    return not config.labels.get("from")


def _policy_stages(config: ConfigDict) -> list[Stage]:
    """`sft`; before it `pretraining`, if the config has it."""
    fields = (*_MODEL, "sft")
    if "pretraining" not in config:
        sft = _training("sft", run_sft, ("data",), fields, batch_rows.of_sft(config))
        return [_with_outside(sft, config, config)]
    first = (*fields, "problems.sft", "pretraining")
    rows = batch_rows.of_sft(config, "pretraining")
    pretraining = _training("pretraining", run_pretraining, ("data",), first, rows)
    needs = ("data", "pretraining")
    return [
        _with_outside(pretraining, config, pretraining_of(config)),
        _training("sft", run_sft, needs, fields, batch_rows.of_sft(config)),
    ]


def _with_outside(stage: Stage, config: ConfigDict, own: ConfigDict) -> Stage:
    """A stage that fine-tunes a policy, with the files that no stage made for it.

    Args:
      stage: the stage.
      config: of the experiment.
      own: `task` and `model` of this policy.
    """
    found = {} if "pretraining" in stage.needs else external_files.of_model(own.model)
    if own.task != config.task:  # else its problems are in stage `data`
        found = {**found, **external_files.of_task(own.task)}
    revision = 1 if own.task != config.task else 0  # no problems of the test any more
    return dataclasses.replace(stage, outside=found, revision=revision)


def _training(
    name: str,
    run: Callable[..., None],
    needs: tuple[str, ...],
    fields: tuple[str, ...],
    batches: dict[str, int],
) -> Stage:
    """A stage that all processes train in."""
    return Stage(name, run, needs, fields, collective=True, batches=batches)


def _prover_stages(config: ConfigDict) -> list[Stage]:
    """For each of `config.provers` its policy, its labels and its verifier."""
    provers = other_provers.provers_of(config)
    found = []
    for prover in provers:
        if not prover.policy:
            own = prover.changed(config)
            run = functools.partial(other_provers.run_policy, own=own)
            fields = ("task", "limits", "seed", "problems.sft", *prover.fields(config))
            name, needs = f"policy-{prover.name}", ("data",)
            needs += ("pretraining",) if "pretraining" in config else ()
            rows = batch_rows.of_sft(config, f"provers.{prover.name}")
            stage = _training(name, run, needs, fields, rows)
            found.append(_with_outside(stage, config, own))
    for prover in provers:
        run = functools.partial(other_provers.run_prover_labels, prover=prover)
        needs = ("data", "rollouts", *prover.needs(_policies(provers)))
        fields = (*_SAMPLED, "rollouts", "labels.shard", f"provers.{prover.name}")
        name = f"labels-{prover.name}"
        theirs = _of_other_runs([prover], _policies(provers))
        found.append(Stage(name, run, needs, fields, in_shards=True, outside=theirs))
        run = functools.partial(run_prover_prm, name=prover.name)
        needs, fields = ("data", "sft", name), (*_verifier(config), "verifier.prm")
        name = f"prm-{prover.name}"
        rows = batch_rows.of(config, "verifier.prm")
        found.append(_training(name, run, needs, fields, rows))
    return found


def _policies(provers: Sequence[other_provers.Prover]) -> tuple[str, ...]:
    """The stages that a prover's `policy` may name."""
    return ("sft", *(f"policy-{p.name}" for p in provers if not p.policy))


def _of_other_runs(
    provers: Sequence[other_provers.Prover], stages: Sequence[str]
) -> external_files.Outside:
    """The policies of provers that are none of `stages`, but folders of other runs."""
    found: external_files.Outside = {}
    for prover in provers:
        if not prover.needs(stages):
            found = {**found, **external_files.of_policy(prover.name, prover.policy)}
    return found


def _prm_stages(config: ConfigDict) -> list[Stage]:
    """`prm`; with `verifier.on_search` first `prm-0`, then rounds on what it finds on
    training problems: `beams-1`, `prm-1`, and so on; the last of these is `prm`."""
    needs, fields = ("labels",), ()
    if _labels_own(config):
        needs, fields = ("rollouts", "labels"), ("rollouts.n_cov",)
    rounds = [
        _verifier_stage(config, "prm", run_prm, needs, fields, number)
        for number in range(_rounds(config) + 1)
    ]
    found = rounds[:1]
    for number, stage in enumerate(rounds[1:], 1):
        found += [_beams_stage(number, prm=rounds[number - 1].name), stage]
    return found


def _orm_stages(config: ConfigDict) -> list[Stage]:
    """`orm`; with `verifier.on_search` first `orm-0`, `orm-1`, and so on."""
    needs = ("rollouts",) if _labels_own(config) else ("labels",)
    return [
        _verifier_stage(config, "orm", run_orm, needs, (), number)
        for number in range(_rounds(config) + 1)
    ]


def _verifier(config: ConfigDict) -> tuple[str, ...]:
    """The fields that every stage reads that trains a verifier."""
    # Not of the default, so that such verifiers are the same as before there was one.
    head = () if config.verifier.get("head", "sum") == "sum" else ("head",)
    return (*_MODEL, *(f"verifier.{field}" for field in (*_VERIFIER, *head)))


def _rounds(config: ConfigDict) -> int:
    return config.verifier.on_search.rounds if "on_search" in config.verifier else 0


def _verifier_stage(
    config: ConfigDict,
    name: str,
    run: Callable[..., None],
    needs: tuple[str, ...],
    fields: tuple[str, ...],
    number: int,
) -> Stage:
    """A round of training a verifier; the first one has number 0."""
    needs = ("data", "sft", *needs)
    fields += (*_verifier(config), f"verifier.{name}")
    rows, rounds = batch_rows.of(config, f"verifier.{name}"), _rounds(config)
    if number:
        # Half of each batch is what a search found.
        rows |= {f"2 x half of {field}": n // 2 * 2 for field, n in rows.items()}
        start, beams = f"{name}-{number - 1}", f"beams-{number}"
        run = functools.partial(run, start=start, beams=beams)
        needs, fields = (*needs, start, beams), (*fields, "verifier.on_search")
    elif rounds:
        fields += ("verifier.on_search.problems",)  # the last of which are held out
    name = f"{name}-{number}" if number < rounds else name
    stage = _training(name, run, needs, fields, rows)
    # What is held out of one set, and in one round, is held out of all.
    return dataclasses.replace(stage, revision=min(number, 1) + 1 if rounds else 0)


def _beams_stage(number: int, *, prm: str) -> Stage:
    return Stage(
        f"beams-{number}",
        functools.partial(run_beams, prm=prm, number=number),
        ("data", "sft", prm),
        (*_SAMPLED, "verifier.on_search", "verifier.held_out", "rollouts.temperature")
        + ("search.candidates", "search.temperature", "labels.shard"),
        in_shards=True,
        revision=1,
    )


def _comparison_stages(config: ConfigDict, improved: list[Stage]) -> list[Stage]:
    """From the outcome verifier to the page."""
    trained = [
        *_policy_stages(config),
        *_prm_stages(config),
        *_prover_stages(config),
        *_orm_stages(config),
    ]
    labels, of_labels = (), ()  # that searches by exact values are fitted on
    if _labels_own(config):
        labels, of_labels = ("rollouts", "labels"), ("rollouts.n_cov",)
    return [
        *_orm_stages(config),
        Stage(
            "evaluation",
            run_evaluation,
            ("data", "sft", "prm", "orm"),
            (*_SAMPLED, "evaluation", "search.temperature", "verifier.prover_k"),
        ),
        Stage(
            "samples",
            run_samples,
            ("data", "sft", "prm", "orm"),
            (*_SAMPLED, "search.samples", "search.temperature"),
            in_shards=True,
        ),
        Stage(
            "search",
            run_search,
            ("data", "sft", *labels, "prm", "orm")
            + tuple(f"prm-{name}" for name in config.get("provers", ())),
            (*_MODEL, "search", *of_labels),
        ),
        Stage(
            "report",
            run_report,
            ("data",)
            + tuple(stage.name for stage in (*_labels_stages(config), *trained))
            + ("evaluation", "samples", "search")
            + tuple(stage.name for stage in improved[-1:]),
            tuple(config.keys()),  # it prints them all
            computes=False,
            revision=3,
        ),
    ]


def _terms_stage(config: ConfigDict) -> Stage:
    """Theorem 3.1's terms of BoK of the SFT policy, and of other policies."""
    provers = other_provers.provers_of(config)
    own = {need for prover in provers for need in prover.needs(_policies(provers))}
    needs = ("data", "sft", "rft", *sorted(own - {"sft"}))
    fields = (*_SAMPLED, "rl.provers")
    if provers:
        fields += ("provers", "rollouts.n_orm")
    theirs = _of_other_runs(provers, _policies(provers))
    return Stage("provers", run_provers, needs, fields, outside=theirs, revision=1)


def _rl_stages(config: ConfigDict) -> list[Stage]:
    """RFT, the choice of a prover if the config has one, a stage `rl-METHOD-SEED` for
    each run, and their comparison."""
    refresh = ("rl.refresh",) if "refresh" in config.rl else ()
    known = list(config.get("provers", ()))
    for method, settings in config.rl.methods.items():
        objective_of(config, method)  # raises UserError
        if (name := settings.get("prover")) and name not in known:
            raise UserError(
                f"config.rl.methods.{method}.prover={name!r} is no entry of"
                f" config.provers; there are {', '.join(known) or 'none'}"
            )
    runs = [
        _training(
            f"rl-{method}-{seed}",
            functools.partial(run_rl, method=method, seed=seed),
            ("data", "rft", prm_stage(config.rl.methods[method].get("prover"))),
            (*_SAMPLED, "rl.training", "rl.measured", f"rl.methods.{method}")
            + (refresh if config.rl.methods[method].get("refresh_every") else ()),
            batch_rows.of_rl(config, method),
        )
        for method in config.rl.methods
        for seed in config.rl.seeds
    ]
    needs = ("data", "sft", "rollouts")
    fields, rows = (*_MODEL, "rl.rft"), batch_rows.of(config, "rl.rft")
    before = [_training("rft", run_rft, needs, fields, rows)]
    if "provers" in config.rl:
        before.append(_terms_stage(config))
    names = tuple(stage.name for stage in [*before, *runs])
    # Not without these, so that such results are the same as before there were any.
    beams = ("search.candidates", "search.temperature") * ("beams" in config.rl.final)
    return [
        *before,
        *runs,
        Stage(
            "improvement",
            run_improvement,
            ("data", "sft", "prm", *names),
            (*_SAMPLED, "rl.final", "rl.measured", "rl.seeds", "rl.methods") + beams,
            revision=1,
        ),
    ]
