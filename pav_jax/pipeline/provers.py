"""Which prover to take for RL, from labels and before it: Theorem 3.1 at its start.

States and actions are those of the policy that RL starts from; `Q^π` is of its
continuations, and `Q^μ` of those of the base policy, which the verifier predicts, or of
another policy of `config.provers`.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from pav_jax import labels
from pav_jax.core.ledger import Ledger
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Response, StepLabels
from pav_jax.metrics import normal_interval
from pav_jax.pipeline.other_provers import provers_of
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import write_ledger
from pav_jax.policy import load_policy
from pav_jax.prover import prover_terms
from pav_jax.rl.problem_counts import check_count
from pav_jax.storage import artifacts
from pav_jax.tasks.problems import Problems


def run_provers(context: StageContext) -> None:
    """Distinguishability and alignment of provers: `provers.json`."""
    config = context.config
    wanted = config.rl.provers
    problems = Problems.load(config, context.input("data"), "labels")
    check_count(problems, wanted.problems, "rl.provers.problems")
    base, policy = (
        load_policy(context.input(name), problems.architecture, problems.dtype)
        for name in ("sft", "rft")
    )
    others = provers_of(config)
    ledger = Ledger()
    responses = labels.sample_responses(
        policy,
        problems,
        range(wanted.problems),
        count=wanted.responses,
        seed=derive(config.seed, Stream.PROVER_RESPONSES),
        sampling=labels.sampling_for(problems, 1.0, branches=wanted.responses),
        ledger=ledger,
        profile=context.profile,
    )
    label = functools.partial(
        labels.label_steps,
        responses=responses,
        n_mc=wanted.n_mc,
        sampling=labels.sampling_for_labels(problems, 1.0, n_mc=wanted.n_mc),
        ledger=ledger,
        profile=context.profile,
    )
    seed = functools.partial(derive, config.seed)
    own = label(policy, problems, seed=seed(Stream.PROVER_OWN))
    of_base = label(base, problems, seed=seed(Stream.PROVER_OTHER))
    terms = functools.partial(_terms, responses, own, group=wanted.responses)
    rows = [{"prover_k": k} | terms(of_base, k=k) for k in wanted.ks]
    for prover in others:
        params, theirs = prover.load(context, problems)
        found = label(params, theirs, seed=seed(Stream.PROVER_OTHER, prover.stream))
        rows.append({"prover": prover.name, "prover_k": 1} | terms(found, k=1))
    artifacts.write_json(
        context.directory / "provers.json",
        {"provers": rows, "problems": wanted.problems, "n_mc": wanted.n_mc},
    )
    write_ledger(context.directory, ledger)


def _terms(
    responses: Sequence[Response],
    own: Sequence[StepLabels],
    other: Sequence[StepLabels],
    *,
    k: int,
    group: int,
) -> dict[str, Any]:
    """The terms of one prover with their intervals over problems.

    Args:
      responses: of π, `group` to each problem.
      own: π's labels of them.
      other: μ's labels of them.
      k: the prover is BoK(μ).
      group: responses to a problem.

    Returns:
      `distinguishability` and `alignment`, and of each `NAME_ci`, which is None if
      there is one problem.
    """
    parts = [slice(i, i + group) for i in range(0, len(responses), group)]
    found = [
        prover_terms(responses[part], own[part], k=k, prover_labels=other[part])
        for part in parts
    ]
    row: dict[str, Any] = {}
    for name in ("distinguishability", "alignment"):
        mean, interval = normal_interval(np.array([vars(t)[name] for t in found]))
        row |= {name: mean, f"{name}_ci": interval}
    return row
