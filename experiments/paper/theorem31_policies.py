"""Theorem 3.1 with provers that are other policies, where success is rare.

    launch/sweep.py --config=experiments/paper/theorem31_policies.py \\
        --root=runs/paper/theorem31_policies --reuse=runs/evidence/equal_labels

`experiments/sparse_rl.py`, where about one response in two hundred is right: the terms
of BoK(π) for K = 1, 4 and 16 and of two other policies, from labels of 32 continuations
(`config.rl.provers`), and PAV-RL by each of them from the same policy. The others are
fine-tuned on demonstrations that take a wrong turn at one fork in two (`mid`) and in
four (`mu`), where those of π do at nearly nine in ten; their verifiers are trained on 4
continuations of the step prefixes that π writes. Two CPU cores; a quarter of an hour of
one for a seed with the stages of `evidence/equal_labels.py`.

The paper: improvement is at least the sum of distinguishability and alignment, and a
complementary prover can be better than any BoK(π).

Written before the first run (2026-11-27), knowing `theorem31_terms.py`, whose provers
are BoK of one policy, and `evidence/provers.py`, where RL by `mu` came to 80% sooner
than by Bo4. Measures are those of `theorem31_terms.py`, over five provers of a seed.
Expected: the terms rise from K = 1 to 16, and those of `mid` and `mu` are above all
BoK(π); gains are in the same order, so the rank correlation of each term is 0.5 to 0.8,
and is told from 0; `mu` gains 2 to 8 points more than K = 16. In a seed in which
nothing is learnt ranks are noise. Selection: nothing.
"""

import sparse_rl
from ml_collections import ConfigDict
from paper.theorem31_terms import TERMS, of_provers, while_learning

from pav_jax.tools.sweeps import product
from pav_jax.tools.verdicts import Claim

METHODS = {  # by each prover
    "K = 1": "sft_prover",
    "K = 4": "pav_rl",
    "K = 16": "prover_16",
    "mid": "pav_mid",
    "mu": "pav_mu",
}


def get_config(variant: str = "") -> ConfigDict:
    config = sparse_rl.get_config(variant)
    config.name = "paper_theorem31_policies"
    rl = config.rl
    pav_rl = dict(reward="progress", baseline="value", alpha=1.0)
    with config.unlocked():
        config.provers = {
            name: dict(n_mc=4, task=dict(wrong_turns=turns), sft=dict(steps=1_000))
            for name, turns in (("mu", 0.25), ("mid", 0.5))
        }
        rl.methods = dict(
            orm_rl=dict(reward="outcome", baseline="value"),
            sft_prover=pav_rl | dict(prover_k=1),
            pav_rl=pav_rl | dict(prover_k=4),
            prover_16=pav_rl | dict(prover_k=16),
            pav_mid=pav_rl | dict(prover="mid"),
            pav_mu=pav_rl | dict(prover="mu"),
        )
        rl.provers = dict(problems=64, responses=4, n_mc=32, ks=(1, 4, 16))
    config.search.update(dict(samples=4, beams=(4,), ns=(1, 2, 4)))
    config.search.update(dict(alphas=(0.0, 0.5), prover_ks=(4,)))
    if variant == "smoke":
        for prover in config.provers.values():
            prover.sft.update(dict(steps=20, warmup_steps=5))
        rl.provers.update(dict(problems=4, responses=2, n_mc=4, ks=(1,)))
        with config.unlocked():
            for name in ("pav_rl", "prover_16"):
                del rl.methods[name]
    return config


def sweep() -> list[dict]:
    return product({"seed": range(5)})


def measures(results: dict) -> dict[str, float]:
    """The terms, gains in points, and their rank correlations."""
    found = results["improvement"]
    terms = {
        row.get("prover", f"K = {row['prover_k']}"): row for row in found["provers"]
    }
    base = while_learning(found["curves"]["orm_rl"])
    gains = {
        name: while_learning(found["curves"][method]) - base
        for name, method in METHODS.items()
        if name in terms and method in found["curves"]
    }
    out = of_provers(terms, gains)
    if "K = 16" in gains:  # not in :smoke
        out["mu over K = 16, points"] = gains["mu"] - gains["K = 16"]
    return out


def claims() -> list[Claim]:
    return [
        *(
            Claim(
                f"{name} ranks provers as their gain in RL does, other policies among"
                " them",
                "(a bound, no number)",
                f"rank correlation of {name} and gain",
                least=0.5,
            )
            for name in (*TERMS, "their sum")
        ),
        Claim(
            "A prover that is another policy gains more than BoK(π), K = 16",
            "(complementary provers can)",
            "mu over K = 16, points",
            least=2.0,
        ),
    ]
