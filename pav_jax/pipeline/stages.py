"""The stages of an experiment, from problems to the report, in the order they run.

Each reads the folders of the stages it needs and writes its own; WORKSPACE.md lists the
files. Bodies of stages are in the modules beside this one, and what they do is in the
modules named after the paper's parts.
"""

import functools
import os
from pathlib import Path

from ml_collections import ConfigDict

from pav_jax.pipeline.data import run_data, run_sft
from pav_jax.pipeline.labelling import run_labels, run_rollouts
from pav_jax.pipeline.provers import run_provers
from pav_jax.pipeline.results import run_report, write_page
from pav_jax.pipeline.rl import run_rft, run_rl
from pav_jax.pipeline.rl_comparison import run_improvement
from pav_jax.pipeline.runner import Stage
from pav_jax.pipeline.search import run_samples, run_search
from pav_jax.pipeline.verifiers import run_evaluation, run_orm, run_prm

# Config fields that several stages read.
_MODEL = ("task", "model", "limits", "seed")
_SAMPLED = (*_MODEL, "sampling")


def stages(config: ConfigDict) -> list[Stage]:
    """All stages, each after the ones it needs."""
    improved = _rl_stages(config) if "rl" in config else []
    return [*_training_stages(), *improved, *_comparison_stages(config, improved)]


def report(workdir: str | os.PathLike[str]) -> Path:
    """Draws the page of a finished run again; returns its path."""
    return write_page(Path(workdir) / "report")


def _training_stages() -> list[Stage]:
    """From problems to the verifier of steps."""
    return [
        Stage("data", run_data, (), ("task", "problems", "limits", "tokenizer")),
        Stage("sft", run_sft, ("data",), (*_MODEL, "sft"), collective=True),
        Stage(
            "rollouts",
            run_rollouts,
            ("data", "sft"),
            (*_SAMPLED, "rollouts", "labels.shard"),
            collective=True,
        ),
        Stage(
            "labels",
            run_labels,
            ("data", "sft", "rollouts"),
            (*_SAMPLED, "labels", "rollouts"),
            collective=True,
        ),
        Stage(
            "prm",
            run_prm,
            ("data", "sft", "rollouts", "labels"),
            (*_MODEL, "verifier.prm", "verifier.language_weight")
            + ("verifier.balance", "verifier.held_out", "rollouts.n_cov"),
            collective=True,
        ),
    ]


def _comparison_stages(config: ConfigDict, improved: list[Stage]) -> list[Stage]:
    """From the outcome verifier to the page."""
    return [
        Stage(
            "orm",
            run_orm,
            ("data", "sft", "rollouts"),
            (*_MODEL, "verifier.orm", "verifier.language_weight", "verifier.balance")
            + ("verifier.held_out",),
            collective=True,
        ),
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
            collective=True,
        ),
        Stage(
            "search",
            run_search,
            ("data", "sft", "rollouts", "labels", "prm", "orm"),
            (*_MODEL, "search", "rollouts.n_cov"),
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


def _rl_stages(config: ConfigDict) -> list[Stage]:
    """RFT, the choice of a prover if the config has one, a stage `rl-METHOD-SEED` for
    each run, and their comparison."""
    refresh = ("rl.refresh",) if "refresh" in config.rl else ()
    runs = [
        Stage(
            f"rl-{method}-{seed}",
            functools.partial(run_rl, method=method, seed=seed),
            ("data", "rft", "prm"),
            (*_SAMPLED, "rl.training", "rl.measured", f"rl.methods.{method}")
            + (refresh if config.rl.methods[method].get("refresh_every") else ()),
            collective=True,
        )
        for method in config.rl.methods
        for seed in config.rl.seeds
    ]
    needs = ("data", "sft", "rollouts")
    before = [Stage("rft", run_rft, needs, (*_MODEL, "rl.rft"), collective=True)]
    if "provers" in config.rl:
        needs, fields = ("data", "sft", "rft"), (*_SAMPLED, "rl.provers")
        before.append(Stage("provers", run_provers, needs, fields))
    names = tuple(stage.name for stage in [*before, *runs])
    return [
        *before,
        *runs,
        Stage(
            "improvement",
            run_improvement,
            ("data", "sft", "prm", *names),
            (*_SAMPLED, "rl.final", "rl.measured", "rl.seeds", "rl.methods"),
        ),
    ]
