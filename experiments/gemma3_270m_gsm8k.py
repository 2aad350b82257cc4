"""Every stage on GSM8K with real weights: Gemma 3 270M, on one accelerator.

    make real-weights        # or take Google's own; see README.md
    pav run --config=experiments/gemma3_270m_gsm8k.py --workdir=runs/gemma3_270m \\
        --config.task.path=GSM8K

GSM8K has the published train.jsonl and test.jsonl. Hardware: one accelerator of 80 GB,
such as an H100.

Cost: ten minutes by arithmetic, and measured on no accelerator. Some 20 million tokens
are sampled, scored and trained on, which takes 400 seconds at a third of the rates that
an H200 had with Gemma 2 2B, scaled by parameters (benchmarks/accelerator.md); and some
fifteen programs are compiled.

Expected: a policy of this size solves few problems, so labels are mostly zero; `pav
advise` says what that is worth. No claim of the paper is about it.

`:smoke` runs every stage once with the real weights on eight problems, in 6 GB of a
CPU's memory, and shows only that everything runs. Without weights,
config.model.shrunk=True makes a tiny policy of the same family:

    --config.model.checkpoint= --config.model.shrunk=True \\
    --config.tokenizer.path=ANY.model
"""

from ml_collections import ConfigDict


def optimizer(steps: int, learning_rate: float) -> ConfigDict:
    return ConfigDict(
        dict(
            steps=steps,
            batch_size=32,
            learning_rate=learning_rate,  # peak
            final_learning_rate=0.0,  # as a fraction of the peak
            warmup_steps=steps // 10,
            weight_decay=0.0,
            clip_norm=1.0,
        )
    )


def get_config(variant: str = "") -> ConfigDict:
    config = ConfigDict()
    config.name = "gemma3_270m_gsm8k"
    config.seed = 0
    config.task = dict(name="gsm8k", path="data/gsm8k", validation_fraction=0.05)
    # Problems of fine-tuning are labelled too, as in the paper's experiments.
    config.problems = dict(sft=7_000, labels=1_500, validation=200, test=200)
    config.problems.disjoint = False
    config.limits = dict(
        max_prompt_tokens=256,  # all of GSM8K
        max_tokens=256,  # 99% of the published solutions have 220 or fewer
        max_steps=12,  # a step is a line
    )
    config.tokenizer = dict(path="checkpoints/gemma3_270m/tokenizer.model")
    config.model = dict(
        name="gemma3_270m",
        checkpoint="checkpoints/gemma3_270m",
        shrunk=False,
        dtype="float32",
    )
    config.sft = optimizer(440, 1e-5)  # two passes
    config.rollouts = dict(n_cov=2, n_orm=8, temperature=1.0)
    config.labels = dict(n_mc=8, shard=250)
    config.labels["from"] = ""  # or labels of others: a folder that pav import wrote
    config.verifier = dict(
        prm=optimizer(400, 1e-5),
        orm=optimizer(400, 1e-5),
        language_weight=0.0,
        held_out=0.05,  # of the labelled problems
        balance=True,  # two buckets, sampled evenly
        prover_k=4,  # Bo4(π)
    )
    config.evaluation = dict(n=8, oracle_problems=24, oracle_n=2, oracle_n_mc=32)
    config.search = dict(
        samples=32,
        ns=(1, 2, 4, 8, 16, 32),
        beams=(1, 4, 16),
        candidates=3,  # C
        alphas=(0.0, 0.3, 0.6),
        prover_ks=(4,),
        alpha_beams=4,
        temperature=1.0,
    )
    config.sampling = dict(trunks=64, rows=8)
    if variant == "smoke":
        _shrink(config)
    elif variant:
        raise ValueError(f"no variant {variant!r}; there is 'smoke'")
    return config


def _shrink(config: ConfigDict) -> None:
    """Eight problems, and little of everything: the vocabulary makes a CPU slow."""
    config.problems.update(dict(sft=4, labels=4, validation=2, test=2))
    config.limits.update(dict(max_tokens=48, max_steps=4))
    for section in (config.sft, config.verifier.prm, config.verifier.orm):
        section.update(dict(steps=2, warmup_steps=1, batch_size=2))
    # Two responses to a problem everywhere, so that stages use the same programs.
    config.rollouts.update(dict(n_cov=1, n_orm=2))
    config.labels.update(dict(n_mc=2, shard=4))
    config.verifier.held_out = 0.25
    config.evaluation.update(dict(n=2, oracle_problems=1, oracle_n=1, oracle_n_mc=2))
    config.search.update(dict(samples=2, ns=(1, 2), beams=(2,), alphas=(0.0, 0.5)))
    config.search.alpha_beams = 2
    config.sampling.update(dict(trunks=4, rows=2))
