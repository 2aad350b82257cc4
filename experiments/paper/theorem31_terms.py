"""Theorem 3.1: do a prover's terms say how much RL gains with it?

    launch/sweep.py --config=experiments/paper/theorem31_terms.py \\
        --root=runs/paper/theorem31_terms --reuse=runs/paper/fig07_08_rl

`experiments/rl_demo.py` with `:provers`: the terms of BoK(π) for K = 1, 2, 4, 8 and 16
from labels of many continuations, and PAV-RL by each of them from the same policy.
Two CPU cores; about an hour and a half for a seed, and five to ten minutes with the
stages of `fig07_08_rl.py`.

The paper: improvement is at least the sum of distinguishability and alignment, for a
small step of natural policy gradient (Theorem 3.1); BoK raises distinguishability while
`Q^π = O(1/K)`, and a large K takes it away (Remark 3.1).

Written before the first run (2026-11-27). Measured: over the provers of a seed, the
rank correlation of each term, and of their sum, with the mean accuracy of iterations 20
to 50 less ORM-RL's. With five provers a rank correlation is coarse (one of 120 orders
has +1). Expected: no correlation that is told from 0: Adam takes out the scale of
`A^μ`, and the theorem is of another optimiser. Selection: nothing. Two of the five
seeds were added when the first was seen, since `fig07_08_rl.py` had their stages.
"""

import rl_demo
from ml_collections import ConfigDict
from scipy.stats import spearmanr

from pav_jax.tools.sweeps import product
from pav_jax.tools.verdicts import Claim

TERMS = ("distinguishability", "alignment")


def get_config(variant: str = "") -> ConfigDict:
    variants = "provers,smoke" if variant == "smoke" else "provers"
    config = rl_demo.get_config(variants)
    config.name = "paper_theorem31"
    config.rl.seeds = (0,)
    if variant != "smoke":
        config.search.update(dict(samples=4, beams=(4,), ns=(1, 2, 4)))
        config.search.update(dict(alphas=(0.0, 0.5), prover_ks=(4,)))
    return config


def sweep() -> list[dict]:
    return product({"seed": range(5)})


def measures(results: dict) -> dict[str, float]:
    """The terms, gains in points, and their rank correlations."""
    found = results["improvement"]
    terms = {row["prover_k"]: row for row in found["provers"] if "prover" not in row}
    methods = {1: "sft_prover", 4: "pav_rl"}
    base = while_learning(found["curves"]["orm_rl"])
    gains = {}
    for k in terms:
        method = methods.get(k, f"prover_{k}")
        if method in found["curves"]:
            gains[f"K = {k}"] = while_learning(found["curves"][method]) - base
    return of_provers({f"K = {k}": row for k, row in terms.items()}, gains)


def of_provers(terms: dict, gains: dict[str, float]) -> dict[str, float]:
    """The measures of some provers.

    Args:
      terms: a row of the table of terms for each prover, by its name.
      gains: points over ORM-RL, for the provers that RL was run with.
    """
    out = {}
    for name, gain in gains.items():
        out[f"gain over ORM-RL, {name}"] = gain
        for term in TERMS:
            out[f"{term} x 1000, {name}"] = 1000 * terms[name][term]
    for words, of in (
        *((term, lambda row, term=term: row[term]) for term in TERMS),
        ("their sum", lambda row: sum(row[term] for term in TERMS)),
    ):
        if len(gains) > 2 and len(set(gains.values())) > 1:  # not in :smoke
            values = [of(terms[name]) for name in gains]
            rank = spearmanr(values, list(gains.values())).statistic
            out[f"rank correlation of {words} and gain"] = float(rank)
    return out


def while_learning(curve: dict) -> float:
    """Accuracy in percent, the mean of iterations 20 to 50."""
    pairs = zip(curve["step"], curve["sampled"]["seeds"][0], strict=True)
    values = [value for step, value in pairs if 20 <= step <= 50]
    return 100 * sum(values) / max(len(values), 1)


def claims() -> list[Claim]:
    return [
        Claim(
            f"{name} ranks provers as their gain in RL does",
            "(a bound, no number)",
            f"rank correlation of {name} and gain",
            least=0.5,
        )
        for name in (*TERMS, "their sum")
    ]
