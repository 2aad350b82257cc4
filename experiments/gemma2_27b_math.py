"""Sec. 4 with Gemma 2 27B on MATH; see math_paper.py.

    pav run --config=experiments/gemma2_27b_math.py --workdir=runs/gemma2_27b_math

Hardware: one host with 8 accelerators of 141 GB, such as 8 H200s. Parameters, gradients
and Adam take 440 GB in float32; and with `tensor` each device keeps the inputs of all
layers for the whole batch, 42 GB for rows of 1,536 tokens.

Cost: 1e9 tokens sampled and 1e20 FLOPs of training; about a week on 8 H200s.

Expected (Fig. 4 and 5): 5× less compute than best-of-128; the grid chooses α = 0.2. The
paper has no RL with this policy.
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
