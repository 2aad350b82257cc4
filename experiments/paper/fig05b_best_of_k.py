"""Fig. 5b: which BoK(π) is the best prover for search, at every N?

    launch/sweep.py --config=experiments/paper/fig05b_best_of_k.py \\
        --root=runs/paper/fig05b_best_of_k --reuse=runs/evidence/beams

The demo; beams by `Q^π + αA^μ` with μ = BoK(π), K = 1 to 32, at the paper's α = 0.5.
Two CPU cores; twenty minutes for each of three seeds, half of that with the stages of
`evidence/beams.py`.

The paper: Bo4 is the best of K = 2 to 32 at every N; Bo2 and Bo32 are worse.

Written before the first run (2026-11-27). Expected: K = 32 is worst, since it makes
nearly all values 1; K = 1, 2 and 4 are within 2 points of each other at every N.
Differences are paired by seed. Selection: the final pick on validation problems, by
the α and K of `beam_pav`; α is not chosen. Whether K should be chosen for each N: the
means over N of each K, against the best K of each N as it is known afterwards, which
favours choosing.
"""

import demo
from ml_collections import ConfigDict

from pav_jax.tools.sweeps import product
from pav_jax.tools.verdicts import Claim

KS = (1, 2, 4, 8, 16, 32)


def get_config(variant: str = "") -> ConfigDict:
    config = demo.get_config(variant)
    config.name = "paper_fig05b"
    config.search.update(dict(alphas=(0.0, 0.5), prover_ks=(4,)))
    with config.unlocked():
        config.search.bok = dict(ks=(2, 4) if variant == "smoke" else KS, alpha=0.5)
    if variant != "smoke":
        config.search.beams = (2, 4, 8, 16)
    return config


def sweep() -> list[dict]:
    return product({"seed": range(3)})


def measures(results: dict) -> dict[str, float]:
    """In points; the difference of Bo4 to every other K, at each N."""
    rows = {(row["method"], row["n"]): row["accuracy"] for row in results["search"]}
    beams, ks = (results["config"][f"search.{name}"] for name in ("beams", "bok.ks"))
    found = {k: [100 * rows[f"beam_bo{k}", n] for n in beams] for k in ks}
    out = {
        f"Bo{k}, N = {n}": value
        for k in ks
        for n, value in zip(beams, found[k], strict=True)
    }
    out |= {
        f"{method}, N = {n}": 100 * accuracy
        for (method, n), accuracy in rows.items()
        if method in ("beam_q", "beam_oracle")
    }
    mean = {k: sum(values) / len(beams) for k, values in found.items()}
    for k in ks:
        if k != 4:
            out[f"Bo4 over Bo{k}, mean of all N"] = mean[4] - mean[k]
    best = [max(of_n) for of_n in zip(*found.values(), strict=True)]
    out["the best K of each N over Bo4"] = sum(best) / len(beams) - mean[4]
    return out


def claims() -> list[Claim]:
    return [
        Claim(
            f"Bo4 is above Bo{k}, mean of N = 2 to 16",
            "better at every N",
            f"Bo4 over Bo{k}, mean of all N",
            least=1.0,
        )
        for k in KS
        if k != 4
    ]
