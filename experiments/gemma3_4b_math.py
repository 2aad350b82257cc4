"""Sec. 4 with Gemma 3 4B on MATH; see math_paper.py. The paper has no such policy.

    pav run --config=experiments/gemma3_4b_math.py --workdir=runs/gemma3_4b_math

Hardware: one host with 8 accelerators of 80 GB, such as 8 H100s. Parameters, gradients
and Adam take 62 GB in float32; sampling keeps the 16 GB of weights on each.

Cost: 1e9 tokens sampled and 2e19 FLOPs of training; about two days on 8 H100s.

Expected: the paper claims nothing for it. The settings are those of Gemma 2 2B.
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
