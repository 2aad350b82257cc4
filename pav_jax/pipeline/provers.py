"""Which prover to take for RL, from labels and before it: Theorem 3.1 at its start.

States and actions are those of the policy that RL starts from; `Q^π` is of its
continuations, and `Q^μ` of those of the base policy, which the verifier predicts.
"""

import numpy as np

from pav_jax import labels
from pav_jax.core.ledger import Ledger
from pav_jax.core.seeds import Stream, derive
from pav_jax.metrics import mean_interval
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import write_ledger
from pav_jax.policy import load_policy
from pav_jax.prover import prover_terms
from pav_jax.storage import artifacts
from pav_jax.tasks.problems import Problems


def run_provers(context: StageContext) -> None:
    """Distinguishability and alignment of BoK of the base policy: `provers.json`."""
    config = context.config
    wanted = config.rl.provers
    problems = Problems.load(config, context.input("data"), "labels")
    base, policy = (
        load_policy(context.input(name), problems.architecture, problems.dtype)
        for name in ("sft", "rft")
    )
    ledger = Ledger()
    responses = labels.sample_responses(
        policy,
        problems,
        range(wanted.problems),
        count=wanted.responses,
        seed=derive(config.seed, Stream.PROVER_RESPONSES),
        sampling=labels.sampling_for(problems, 1.0, branches=wanted.responses),
        ledger=ledger,
    )
    own, other = (
        labels.label_steps(
            params,
            problems,
            responses,
            n_mc=wanted.n_mc,
            seed=derive(config.seed, stream),
            sampling=labels.sampling_for(
                problems, 1.0, branches=config.limits.max_steps * wanted.n_mc
            ),
            ledger=ledger,
        )
        for params, stream in (
            (policy, Stream.PROVER_OWN),
            (base, Stream.PROVER_OTHER),
        )
    )
    # A problem at a time, since the intervals are over problems.
    step = wanted.responses
    groups = [slice(i, i + step) for i in range(0, len(responses), step)]
    rows = []
    for k in wanted.ks:
        terms = [
            prover_terms(responses[group], own[group], k=k, prover_labels=other[group])
            for group in groups
        ]
        row = {"prover_k": k}
        for name in ("distinguishability", "alignment"):
            mean, interval = mean_interval(np.array([vars(t)[name] for t in terms]))
            row |= {name: mean, f"{name}_ci": interval}
        rows.append(row)
    artifacts.write_json(
        context.directory / "provers.json",
        {"provers": rows, "problems": wanted.problems, "n_mc": wanted.n_mc},
    )
    write_ledger(context.directory, ledger)
