"""Every kind of stage, RL among them, as small as they come: for runs that die."""

import sys
from pathlib import Path

from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "experiments"))

import rl_demo


def get_config(variant: str = "") -> ConfigDict:
    config = rl_demo.get_config("smoke")
    config.name = "small"
    config.problems.update(dict(sft=4_000, labels=32, validation=6, test=6))
    config.model.update(dict(num_layers=2, embed_dim=32, num_heads=1, mlp_dim=64))
    config.sft.update(dict(steps=300, warmup_steps=30))
    config.labels.shard = 8
    rl = config.rl
    with config.unlocked():
        rl.methods = dict(pav_rl=rl.methods.pav_rl)
        rl.final.reference = "pav_rl"
    rl.final.update(dict(problems=4, samples=4, unsolved=4))
    return config
