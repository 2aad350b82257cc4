"""Sec. 4 with Gemma 2 27B on MATH.

    pav run --config=experiments/gemma2_27b_math.py --workdir=runs/gemma2_27b_math \\
        --config.task.path=MATH --config.model.checkpoint=WEIGHTS \\
        --config.tokenizer.path=WEIGHTS/tokenizer.model

MATH holds train/, test/ and math500.jsonl, as published; WEIGHTS is a checkpoint of the
gemma package or of Hugging Face.

Hardware: one host with 8 accelerators of 141 GB, such as 8 H200s. Parameters, gradients
and Adam take 440 GB in float32; and with `tensor` each device keeps the inputs of all
layers for the whole batch, 42 GB of rows of 1,536 tokens.

Cost, estimated from token counts and not measured: 1e9 tokens sampled, most of them for
labels, and 1e20 FLOPs of training: about a week on 8 H200s.

Expected, as the paper claims it for this policy (Fig. 4 and 5), against best-of-N by
ORM: beam search by Q^π + αA^μ is 8 to 10 points more accurate at equal N, and reaches
the accuracy of best-of-128 at 5× less compute; the grid chooses α = 0.2. The paper has
no RL with this policy.

`:smoke` runs every stage of Sec. 4 in about a minute on a CPU, with a tiny policy of
the same kind and a few problems, and shows only that they run.
"""

import math_paper
from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    return math_paper.get_config(
        variant,
        name="gemma2_27b",
        sft_learning_rate=5e-7,
        mesh=dict(fsdp=-1, tensor=8),
        trunks=16,
    )
