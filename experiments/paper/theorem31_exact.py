"""Theorem 3.1 where values are exact: do a prover's terms say what an update gains?

    pav lab --config=experiments/paper/theorem31_exact.py \\
        --workdir=runs/paper/theorem31_exact

A laboratory: a tree of 5 steps with 4 ways at each state, two steps in five of them
wrong, from a policy that is a table of random logits. 15 provers: BoK(π) for K = 1 to
64; policies near π, and far from it, that like right steps more or less. Of each the
exact terms, and the accuracy after updates by `A^π + A^μ` less that after as many
updates by outcomes alone. The updates: natural policy gradient, a small and a large
step, and ten; the plain policy gradient; and Adam, one step and ten. Twenty trees.
Hardware: one CPU core; a minute.

The paper: a small natural-policy-gradient step gains at least distinguishability and
alignment together; so provers are to be ranked by their sum.

Written before the first run (2026-11-27). By the performance difference lemma, to first
order in the step, a natural update by `A^π + αA^μ` gains `E_s Var[A^π] + α alignment`:
so what μ adds to outcomes is its alignment, and distinguishability is in none of it.
Expected:

  1. small natural step: alignment ranks provers almost as their gain does (above 0.95);
     the sum less well, and distinguishability worst;
  2. large steps and ten of them: alignment still best, but below 0.95;
  3. plain gradient: alignment above 0.8, since states count by their visits twice;
  4. Adam takes out the scale of the rewards: no term above 0.7.

A first run counted what follows a wrong step as if it could still be right; the measure
"gain over its first order", which has to be near 1, showed it. Only that was changed.

Selection: nothing. Rank correlations are over the provers of a seed, intervals over
seeds.
"""

import numpy as np
from ml_collections import ConfigDict

from pav_jax.tools.verdicts import Claim

UPDATES = {
    "natural_small": dict(rule="natural", size=0.1, count=1),
    "natural_large": dict(rule="natural", size=5.0, count=1),
    "natural_ten": dict(rule="natural", size=1.0, count=10),
    "gradient": dict(rule="gradient", size=10.0, count=1),
    "adam": dict(rule="adam", size=0.1, count=1),
    "adam_ten": dict(rule="adam", size=0.1, count=10),
}


def get_config(variant: str = "") -> ConfigDict:
    config = ConfigDict()
    config.name = "theorem31_exact"
    config.laboratory = "update"
    config.seeds = tuple(range(20))
    config.steps = 5  # H
    config.branching = 4  # B, steps from each state
    config.wrong = 0.4  # of the steps
    config.spread = 1.5  # deviation of the logits of π, and of other policies
    config.alpha = 1.0
    config.best_of = (1, 2, 4, 8, 16, 32, 64)  # K of BoK(π)
    # Provers that are other policies: what is added to the logits of right steps, of π
    # itself and of a policy drawn anew.
    config.near = (-1.0, 1.0, 2.0, 4.0)
    config.far = (0.0, 1.0, 2.0, 4.0)
    config.updates = ConfigDict(UPDATES)
    if variant == "smoke":
        config.seeds = (0, 1)
        config.steps = 3
    elif variant:
        raise ValueError(f"no variant {variant!r}; there is smoke")
    return config


def measures(results: dict) -> dict[str, list[float]]:
    """Of each seed: rank correlations, the gain with each BoK(π) over outcomes alone in
    points, and the small step's gain over its bound."""
    out = {}
    for cell, ranks in zip(results["cells"], results["ranks"], strict=True):
        for name, of in ranks.items():
            out[f"rank correlation of {name} and gain, {cell['update']}"] = of
    for cell in results["cells"]:
        gain = 100 * (np.array(cell["after"]) - np.array(cell["outcome"]))
        by_k = {k: gain[:, cell["provers"].index(f"Bo{k}(π)")] for k in cell["best_of"]}
        for k, points in by_k.items():
            out[f"gain with BoK, {cell['update']}, K = {k}"] = list(points)
        for k, less in ((8, 4), (16, 8)):
            name = f"gain with Bo{k} over Bo{less}, {cell['update']}"
            out[name] = list(by_k[k] - by_k[less])
    (cell,) = (one for one in results["cells"] if one["update"] == "natural_small")
    apart, aligned, before, after, own = (
        np.asarray(cell[name])
        for name in ("distinguishability", "alignment", "before", "after", "variance")
    )
    # The terms are means over the depths of a response, the gain is a sum over them.
    gained = (after - before) / (cell["size"] * cell["steps"])
    first_order = gained / (own + cell["alpha"] * aligned)
    out["gain over its first order, mean of provers"] = list(first_order.mean(axis=1))
    least = (gained / (apart + aligned)).min(axis=1)
    out["gain over both terms together, the least of the provers"] = list(least)
    return out


def claims() -> list[Claim]:
    words = {
        "natural_small": "in a small natural step",
        "adam_ten": "in ten steps of Adam",
    }
    return [
        Claim(
            f"{name} ranks provers as their gain does {words[update]}",
            "(a bound, no number)",
            f"rank correlation of {name} and gain, {update}",
            least=0.95 if name == "alignment" else 0.5,
        )
        for update in words
        for name in ("distinguishability", "alignment", "sum")
    ]
