"""Sec. 4, and with `:rl` Sec. 5, with Gemma 2 9B on MATH; see math_paper.py.

    pav run --config=experiments/gemma2_9b_math.py --workdir=runs/gemma2_9b_math

Hardware: one host with 8 accelerators of 80 GB, such as 8 H100s. Parameters, gradients
and Adam take 150 GB in float32.

Cost: 1e9 tokens sampled and 4e19 FLOPs of training; about three days on 8 H100s, and a
day or two more with `:rl`.

Expected (Fig. 4 and 5): 10× less compute than best-of-128; the grid chooses α = 0.5. RL
by PAV ends 15 points above RFT and 7 above ORM-RL, whose accuracy it reaches 5× sooner.
"""

import math_paper
from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    return math_paper.get_config(
        variant,
        name="gemma2_9b",
        sft_learning_rate=5e-6,
        mesh=dict(fsdp=-1, tensor=2),
        trunks=16,
        rl=dict(steps=5_000, alpha=3.0),
    )
