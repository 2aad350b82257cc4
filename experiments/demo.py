"""The whole pipeline on a laptop, on the built-in task.

    pav run --config=experiments/demo.py --workdir=runs/demo

Hardware: 2 CPU cores; 15 minutes: two for fine-tuning, three and a half for the
verifiers, six for search. `:smoke` takes about two and shows only that everything runs.
"""

from ml_collections import ConfigDict


def optimizer(steps: int, learning_rate: float) -> ConfigDict:
    return ConfigDict(
        dict(
            steps=steps,
            batch_size=32,
            learning_rate=learning_rate,  # peak
            final_learning_rate=0.05,  # as a fraction of the peak
            warmup_steps=min(100, steps // 4),
            weight_decay=0.01,
            clip_norm=1.0,
        )
    )


def get_config(variant: str = "") -> ConfigDict:
    config = ConfigDict()
    config.name = "demo"
    config.seed = 0

    config.task = dict(
        name="relations",
        seed=0,
        min_depth=5,  # relations between the number given and the one asked
        max_depth=7,
        num_people=10,
        max_decoy=1,  # longest branch that leads nowhere
    )
    # Problems of each use; those for labels are not those of fine-tuning.
    config.problems = dict(sft=24_000, labels=6_000, validation=160, test=320)
    config.limits = dict(
        max_prompt_tokens=48,
        max_tokens=64,  # of a response
        max_steps=10,  # of a response: the paper's H
    )
    config.tokenizer = dict(vocab_size=512)  # learnt, unless the task has its own

    config.model = dict(
        num_layers=4,
        embed_dim=64,
        num_heads=2,
        mlp_dim=256,
        window=8,  # of the local layers
    )
    config.sft = optimizer(steps=2_200, learning_rate=3e-3)
    config.sft.batch_size = 16

    config.rollouts = dict(
        n_cov=1,  # seed rollouts of a problem that are labelled
        n_orm=2,  # responses of a problem that the ORM is trained on
        temperature=1.0,
    )
    config.labels = dict(
        n_mc=2,  # continuations of every step prefix
        shard=500,  # problems or rollouts in a file; a killed run repeats at most one
    )
    config.labels["from"] = ""  # or labels of others: a folder that pav import wrote
    config.verifier = dict(
        prm=optimizer(steps=800, learning_rate=1e-3),
        orm=optimizer(steps=800, learning_rate=1e-3),  # as many as the PRM
        language_weight=0.1,
        held_out=0.05,  # of the labelled problems; the best parameters on them are kept
        balance=False,  # the paper's two buckets; see docs/decisions.md
        head="sum",  # of evidence of all tokens; or "plain", of the last token alone
        prover_k=4,  # μ = BoK(π)
    )
    config.evaluation = dict(
        n=8,  # responses of a validation problem, for AUC
        oracle_problems=48,  # of those, how many get near-exact values
        oracle_n=2,  # responses of each of them
        oracle_n_mc=32,  # continuations of every prefix
    )
    config.search = dict(
        samples=32,  # responses of a test problem, for best-of-N and Pass@N
        ns=(1, 2, 4, 8, 16, 32),
        beams=(1, 2, 4, 8, 16),
        candidates=3,  # steps sampled from each state (C)
        # Chosen on validation problems, together with the final pick:
        alphas=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
        prover_ks=(1, 4),  # μ = BoK(π); the paper's is Bo4
        alpha_beams=4,  # the beams of that
        temperature=1.0,
    )
    config.sampling = dict(  # the grid of the engine
        trunks=32,
        rows=8,  # of each trunk
        trunks_per_group=4,  # trunks whose rows take each other's responses as well
    )

    if variant == "smoke":
        config.problems = dict(sft=400, labels=32, validation=12, test=12)
        config.model.update(dict(num_layers=2, embed_dim=16, num_heads=1, mlp_dim=32))
        for section in (config.sft, config.verifier.prm, config.verifier.orm):
            section.update(dict(steps=20, warmup_steps=5, batch_size=16))
        config.labels.update(dict(n_mc=2, shard=16))
        config.evaluation.update(dict(n=2, oracle_problems=4, oracle_n_mc=2))
        config.search.update(
            dict(samples=4, ns=(1, 2, 4), beams=(1, 2), alphas=(0.0, 0.5))
            | dict(prover_ks=(4,))
        )
        config.search.alpha_beams = 2
        config.sampling.update(dict(trunks=8, rows=4))
    elif variant:
        raise ValueError(f"no variant {variant!r}; there is 'smoke'")
    return config
