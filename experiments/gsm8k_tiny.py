"""Every stage on real GSM8K problems, with a tiny policy.

    pav run --config=experiments/gsm8k_tiny.py --workdir=runs/gsm8k_tiny \\
        --config.task.path=DIR

DIR holds the published train.jsonl and test.jsonl. Hardware: 2 CPU cores; about
10 minutes. A quarter of a million parameters trained for minutes do not learn
grade-school mathematics: accuracy is near zero, and is reported as such. This
shows that real text goes through every stage: a tokenizer learnt from it, ragged
prompts, decimal answers on `####` lines.
"""

import demo
from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    config = demo.get_config(variant)
    config.name = "gsm8k_tiny"
    config.task = dict(
        name="gsm8k",
        path="data/gsm8k",
        validation_fraction=0.05,
    )
    config.tokenizer = dict(vocab_size=1024)
    config.limits = dict(max_prompt_tokens=400, max_tokens=192, max_steps=10)
    if variant == "smoke":
        return config
    config.problems = dict(sft=4_000, labels=300, validation=40, test=100)
    config.sft.steps = 200
    config.labels.update(dict(n_mc=2, shard=100))
    for section in (config.verifier.prm, config.verifier.orm):
        section.update(dict(steps=100, warmup_steps=25, batch_size=16))
    config.evaluation.update(dict(n=4, oracle_problems=16, oracle_n_mc=8))
    config.search.update(
        dict(samples=8, ns=(1, 2, 4, 8), beams=(1, 4), alphas=(0.0, 0.5))
    )
    return config
