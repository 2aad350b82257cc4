"""Labels of many rollouts with few continuations each, or of few with many.

    launch/sweep.py --config=experiments/demo_sweep.py --root=runs/demo_sweep

Hardware: 2 CPU cores; four runs, each of the demo's length. `:smoke` takes minutes in
all, and shows only that everything runs.
"""

import demo
from ml_collections import ConfigDict

from pav_jax.tools.sweeps import product, zipped


def get_config(variant: str = "") -> ConfigDict:
    config = demo.get_config(variant)
    config.name = "demo_sweep"
    return config


def sweep() -> list[dict]:
    # As many continuations in all, in both ways.
    spent = zipped({"labels.n_mc": (2, 4), "rollouts.n_cov": (2, 1)})
    return product({"seed": (0, 1)}, spent)
