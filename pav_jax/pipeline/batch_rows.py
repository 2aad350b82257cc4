"""Rows of the batches that stages train on, which a mesh has to divide.

Each function returns them by where the config says so, as `Stage.batches` has them.
"""

from ml_collections import ConfigDict


def of(config: ConfigDict, section: str) -> dict[str, int]:
    """Rows of a batch of an optimizer, by the field."""
    return {f"config.{section}.batch_size": config[section].batch_size}


def of_sft(config: ConfigDict, where: str = "") -> dict[str, int]:
    """As `of`, of fine-tuning, which the section `where` may change."""
    changes = (config[where].get("sft") if where else None) or {}
    return of(config, f"{where}.sft" if "batch_size" in changes else "sft")


def of_rl(config: ConfigDict, method: str) -> dict[str, int]:
    """As `of`, of a method's updates, and of its verifier if that is refreshed."""
    training = config.rl.training
    count = training.problems * training.samples
    rows = {"config.rl.training.problems x samples": count}
    every = config.rl.methods[method].get("refresh_every")
    if every and every < training.steps:
        rows |= of(config, "rl.refresh")
    return rows
