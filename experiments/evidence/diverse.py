"""Does a beam in subtrees hold, and find, more than one whose states all compete?

    launch/sweep.py --config=experiments/evidence/diverse.py \\
        --root=runs/evidence/diverse

The demo. A beam of N states as N / 4 subtrees of 4, each of which keeps its own best
("beam_diverse"), beside the beam in which all N compete ("beam_pav"): the same α, K,
pick, draws of the first step, and nearly the same tokens. Two CPU cores; a quarter of
an hour for each seed, or five minutes with the stages of `beams.py`, which
`make evidence` takes (`launch/sweep.py --reuse=runs/evidence/beams`).

A text that is a candidate of an earlier subtree comes last in a later one (`search/
beam_step.py`), so that subtrees are kept apart, and are not independent beams.

Written before the first run (2026-11-26):

- H1. With 16 beams one response is right for at most 2 points more of the problems:
  those that compete have one for 97% of them already.
- H2. What is picked by the rule of validation is within 3 points, since the pick and
  not the beam is what fails wide beams.
- H3. With 8 beams the subtrees lose: two lines of four find less than one of eight.

Selection: α of 0 and 0.4, K = 1 and the pick on validation problems, for beams that
compete; the subtrees take the same.
"""

import demo
from ml_collections import ConfigDict

from pav_jax.tools.sweeps import product


def get_config(variant: str = "") -> ConfigDict:
    config = demo.get_config(variant)
    config.name = "evidence_diverse"
    config.search.update(dict(alphas=(0.0, 0.4), prover_ks=(1,)))
    with config.unlocked():
        config.search.subtree = 4  # states of a subtree
    if variant == "smoke":
        config.search.subtree = 1
    else:
        config.search.beams = (8, 16)
    return config


def sweep() -> list[dict]:
    return product({"seed": range(5)})


def measures(results: dict) -> dict[str, float]:
    """Points of subtrees over beams that compete: as picked, and of any response."""
    rows = {(row["method"], row["n"]): row for row in results["search"]}
    held = {
        (row["method"], row["n"]): row["accuracy"]
        for row in results["picks"]
        if row["pick"] == "any"
    }
    out = {}
    for n in results["config"]["search.beams"]:
        if ("beam_diverse", n) not in rows:
            continue
        ours, theirs = (rows[method, n] for method in ("beam_diverse", "beam_pav"))
        out[f"picked, {n} beams"] = 100 * (ours["accuracy"] - theirs["accuracy"])
        any_right = held["beam_diverse", n] - held["beam_pav", n]
        out[f"any is right, {n} beams"] = 100 * any_right
        out[f"tokens over those of the other, {n} beams"] = (
            ours["tokens"] / theirs["tokens"]
        )
    return out
