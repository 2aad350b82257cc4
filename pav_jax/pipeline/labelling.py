"""Stages `rollouts` and `labels`: seed rollouts, and Monte Carlo labels (Sec. 4.2)."""

from pav_jax import labels
from pav_jax.core.seeds import Stream, derive
from pav_jax.pipeline.first_pit import label_to_pits
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import in_shards
from pav_jax.policy import load_policy
from pav_jax.storage import records
from pav_jax.tasks.problems import Problems


def run_rollouts(context: StageContext) -> None:
    """Seed rollouts of the base policy, with their outcomes."""
    config = context.config
    count = config.rollouts.n_orm
    problems = Problems.load(config, context.input("data"), "labels")
    policy = load_policy(context.input("sft"), problems.architecture, problems.dtype)

    def work(part, path, ledger, advance):
        responses = labels.sample_responses(
            policy,
            problems,
            part,
            count=count,
            seed=derive(config.seed, Stream.ROLLOUTS),
            sampling=labels.sampling_for(
                problems, config.rollouts.temperature, branches=count
            ),
            ledger=ledger,
            advance=advance,
            profile=context.profile,
        )
        records.write_responses(path, responses)

    in_shards(context, range(len(problems)), config.labels.shard, "problem", work)


def run_labels(context: StageContext) -> None:
    """Monte Carlo labels of every step prefix of the seed rollouts; with
    `config.labels.first_pit` of other responses too, up to their first pits."""
    config = context.config
    n_mc = config.labels.n_mc
    problems = Problems.load(config, context.input("data"), "labels")
    policy = load_policy(context.input("sft"), problems.architecture, problems.dtype)
    seed_rollouts = records.read_seed_rollouts(
        context.input("rollouts"), config.rollouts.n_cov
    )
    if config.labels.get("first_pit", {}).get("n_mc"):
        label_to_pits(context, policy, problems, seed_rollouts)
        return
    # By their places among those of all problems: a part has only some of them.
    n_cov = config.rollouts.n_cov
    rollouts = {
        rollout.problem * n_cov + place % n_cov: rollout
        for place, rollout in enumerate(seed_rollouts)
    }

    def work(part, path, ledger, advance):
        found = labels.label_steps(
            policy,
            problems,
            [rollouts[i] for i in part],
            n_mc=n_mc,
            seed=derive(config.seed, Stream.LABELS),
            sampling=labels.sampling_for_labels(
                problems, config.rollouts.temperature, n_mc=n_mc
            ),
            ledger=ledger,
            advance=advance,
            profile=context.profile,
        )
        records.write_labels(path, found)

    places = range(len(problems) * n_cov)
    in_shards(context, places, config.labels.shard, "rollout", work, siblings=n_cov)
