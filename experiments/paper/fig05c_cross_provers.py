"""Fig. 5c: is a stronger policy the better prover? Three bases by three provers.

    launch/sweep.py --config=experiments/paper/fig05c_cross_provers.py \\
        --root=runs/paper/fig05c_cross_provers

The task of the demo. Each base policy is of one of the sizes of `fig04_search.py`, and
its search is by `Q^π + αA^μ` for a μ of each of the three sizes (of its own, the same
policy): μ labels the prefixes that the base policy wrote, as many continuations of
each, and a verifier of the base policy's size learns its `Q^μ`. One CPU core; an hour
and a quarter for a seed of the three bases, with what `--reuse=runs/paper/fig04_search`
has of them.

The paper: at N = 16, 9B is the best prover for 2B, 27B for 9B, and the weaker 9B for
27B. So a prover that is stronger is better, but not for the strongest, and a policy is
not its own best prover.

Written before the first run (2026-11-27). Expected: no difference between provers that
is more than its interval, since progress itself adds a point or less in this task.
Selection: for each prover α and the final pick on validation problems, with 4 beams.
"""

import demo
from ml_collections import ConfigDict

from pav_jax.tools.sweeps import product
from pav_jax.tools.verdicts import Claim

SIZES = {
    "small": dict(
        model=dict(num_layers=2, embed_dim=48, num_heads=2, mlp_dim=192),
        sft=dict(steps=4_400, learning_rate=3e-3),
    ),
    "middle": dict(
        model=dict(num_layers=4, embed_dim=64, num_heads=2, mlp_dim=256),
        sft=dict(steps=2_200, learning_rate=3e-3),
    ),
    "large": dict(
        model=dict(num_layers=6, embed_dim=96, num_heads=3, mlp_dim=384),
        sft=dict(steps=2_200, learning_rate=1.5e-3),
    ),
}


def get_config(variant: str = "") -> ConfigDict:
    config = demo.get_config(variant)
    config.name = "paper_fig05c"
    with config.unlocked():
        config.provers = {
            name: dict(n_mc=config.labels.n_mc, **size)
            for name, size in _sizes(variant).items()
        }
    config.search.update(dict(alphas=(0.0, 0.2, 0.5), prover_ks=(4,)))
    if variant != "smoke":
        config.search.update(dict(beams=(16,), samples=16, ns=(1, 4, 16)))
    return config


def _sizes(variant: str) -> dict[str, dict]:
    if variant != "smoke":
        return SIZES
    widths = {name: 16 + 8 * place for place, name in enumerate(SIZES)}
    return {name: dict(model=dict(embed_dim=width)) for name, width in widths.items()}


def _arm(size: dict[str, dict]) -> dict[str, float]:
    """The fields that make the base policy, and so its verifiers, of a size."""
    return {
        f"{section}.{field}": value
        for section, fields in size.items()
        for field, value in fields.items()
    }


def sweep(variant: str = "") -> list[dict]:
    arms = [_arm(size) for size in _sizes(variant).values()]
    return product({"seed": range(3)}, arms)


def measures(results: dict) -> dict[str, float]:
    """In points, at the largest N."""
    rows = {(row["method"], row["n"]): row["accuracy"] for row in results["search"]}
    n = max(results["config"]["search.beams"])
    by = {name: 100 * rows[f"beam_pav_{name}", n] for name in SIZES}
    out = {f"by the {name} prover": accuracy for name, accuracy in by.items()}
    out["by Q^π alone"] = 100 * rows["beam_q", n]
    out["by Bo4 of π"] = 100 * rows["beam_pav", n]
    out["by near-exact values"] = 100 * rows["beam_oracle", n]
    for one, other in (("middle", "small"), ("large", "middle"), ("middle", "large")):
        out[f"{one} over {other} prover"] = by[one] - by[other]
    return out


def claims() -> list[Claim]:
    best = (
        ("small", "middle", "small"),
        ("middle", "large", "middle"),
        ("large", "middle", "large"),
    )
    return [
        Claim(
            f"{base} base: the {better} prover is above the {own} one, N = 16",
            "the best of three",
            f"{better} over {own} prover",
            least=1.0,
            arm=_arm(SIZES[base]),
        )
        for base, better, own in best
    ]
