"""Sec. 4 with Gemma 3 4B on MATH: a policy that the paper does not have.

    pav run --config=experiments/gemma3_4b_math.py --workdir=runs/gemma3_4b_math \\
        --config.task.path=MATH --config.model.checkpoint=WEIGHTS \\
        --config.tokenizer.path=WEIGHTS/tokenizer.model

MATH holds train/, test/ and math500.jsonl, as published; WEIGHTS is a checkpoint of the
gemma package or of Hugging Face.

Hardware: one host with 8 accelerators of 80 GB, such as 8 H100s. Parameters, gradients
and Adam take 62 GB in float32, and sampling holds the 16 GB of weights on each.

Cost, estimated from token counts and not measured: 1e9 tokens sampled, most of them for
labels, and 2e19 FLOPs of training: about two days on 8 H100s.

Expected: the paper claims nothing for it. The settings are those of Gemma 2 2B.

`:smoke` runs every stage of Sec. 4 in about a minute on a CPU, with a tiny policy of
the same kind and a few problems, and shows only that they run.
"""

import math_paper
from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    return math_paper.get_config(
        variant,
        name="gemma3_4b",
        sft_learning_rate=5e-6,
        mesh=dict(fsdp=-1),
        trunks=16,
    )
