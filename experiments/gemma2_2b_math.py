"""Sec. 4, and with `:rl` Sec. 5, with Gemma 2 2B on MATH.

    pav run --config=experiments/gemma2_2b_math.py --workdir=runs/gemma2_2b_math \\
        --config.task.path=MATH --config.model.checkpoint=WEIGHTS \\
        --config.tokenizer.path=WEIGHTS/tokenizer.model

MATH holds train/, test/ and math500.jsonl, as published; WEIGHTS is a checkpoint of the
gemma package or of Hugging Face.

Hardware: one host with 8 accelerators of 40 GB or more, such as 8 A100s. Parameters,
gradients and Adam take 42 GB in float32, and sampling holds the 10 GB of weights on
each.

Cost, estimated from token counts and not measured: 1e9 tokens sampled, most of them for
labels, and 1e19 FLOPs of training: about a day on 8 H100s, and a day more with `:rl`.

Expected, as the paper claims it for this policy (Fig. 4 and 5), against best-of-N by
ORM: beam search by Q^π + αA^μ is 8 to 10 points more accurate at equal N, and reaches
the accuracy of best-of-128 at 10× less compute; the grid chooses α = 0.5. RL by PAV
ends 11 points over RFT and 7 over ORM-RL, whose accuracy it has 6× sooner.

`:rl` adds Sec. 5 and may be given the same workdir. `:smoke` runs every stage of Sec. 4
in about a minute on a CPU, with a tiny policy of the same kind and a few problems, and
shows only that they run.
"""

import math_paper
from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    return math_paper.get_config(
        variant,
        name="gemma2_2b",
        sft_learning_rate=5e-6,
        mesh=dict(fsdp=-1),
        trunks=32,
        rl=dict(steps=10_000, alpha=5.0),
    )
