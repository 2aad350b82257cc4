"""Which prover to take for RL, from labels and before it: Theorem 3.1 at its start.

States and actions are those of the policy that RL starts from; `Q^π` is of its
continuations, and `Q^μ` of those of the base policy, which the verifier predicts.
"""

import numpy as np

from pav_jax import draws
from pav_jax import prover as theory
from pav_jax.core.ledger import Ledger
from pav_jax.metrics import mean_interval
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import write_ledger
from pav_jax.storage import artifacts
from pav_jax.tasks import problems

# Streams of draws, apart from those of other stages.
_STREAM_RESPONSES, _STREAM_OWN, _STREAM_PROVER = 106, 107, 108


def run_provers(context: StageContext) -> None:
    """Distinguishability and alignment of BoK of the base policy: `provers.json`."""
    config = context.config
    wanted = config.rl.provers
    lab = problems.Lab.load(config, context.input("data"), "labels")
    base, policy = (lab.load_policy(context.input(name)) for name in ("sft", "rft"))
    ledger = Ledger()
    responses = draws.sample(
        policy,
        lab,
        range(wanted.problems),
        count=wanted.responses,
        seed=draws.stream(config.seed, _STREAM_RESPONSES),
        sampling=lab.sampling(1.0, branches=wanted.responses),
        ledger=ledger,
    )

    own, prover = (
        draws.label(
            params,
            lab,
            responses,
            n_mc=wanted.n_mc,
            seed=draws.stream(config.seed, stream),
            ledger=ledger,
        )
        for params, stream in ((policy, _STREAM_OWN), (base, _STREAM_PROVER))
    )
    # A problem at a time, since the intervals are over problems.
    step = wanted.responses
    groups = [slice(i, i + step) for i in range(0, len(responses), step)]
    rows = []
    for k in wanted.ks:
        terms = [
            theory.prover_terms(
                responses[group], own[group], k=k, prover_labels=prover[group]
            )
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
