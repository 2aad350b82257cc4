"""Sec. 4, and with `:rl` Sec. 5, with Gemma 2 2B on MATH; see math_paper.py.

    pav run --config=experiments/gemma2_2b_math.py --workdir=runs/gemma2_2b_math

Hardware: one host with 8 accelerators of 40 GB or more, such as 8 A100s. Parameters,
gradients and Adam take 42 GB in float32; sampling keeps the 10 GB of weights on each.

Cost: 1e9 tokens sampled and 1e19 FLOPs of training; about a day on 8 H100s, and one
more with `:rl`.

Expected (Fig. 4 and 5): 10× less compute than best-of-128; the grid chooses α = 0.5. RL
by PAV ends 11 points above RFT and 7 above ORM-RL, whose accuracy it reaches 6× sooner.
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
