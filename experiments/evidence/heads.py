"""What does a verifier lose with the plain head that other programs can serve?

    launch/sweep.py --config=experiments/evidence/heads.py \\
        --root=runs/evidence/heads --reuse=runs/evidence/beams

The demo with `verifier.head` "plain" (linear in the last token's state) and "sum" (a
hidden layer, and the evidence of all tokens), for both verifiers. Everything else is
the same: policy, labels, updates, draws. With the stages of `beams.py`, as
`make evidence` takes them, the arm "sum" is that run, and a seed of "plain" is the
training of two verifiers, and what is measured with them. Two CPU cores; a quarter of
an hour for each seed, ten minutes with these stages.

Written before the first run (2026-11-26). Expected from one run of an earlier version,
in which the plain head had a hidden layer and 400 updates: 0.79 and 0.94 at the last
step.

- H1. AUC within a problem at the last step is lower with the plain head by at least
  0.05, for the verifier of steps and for the outcome verifier.
- H2. So it is for "no error so far" among prefixes of one length (`error so far, same
  step`), by at least 0.03: the sum remembers an error, and the plain head must find it.
- H3. At the first step, where there is nothing to remember, they are within 0.02.
- H4. Best of 32 by the verifier of steps is lower with the plain head by at least 5
  points; beams lose less, since they drop a wrong step when it is made: under 5 points
  for `beam_q` with 4.
- H5. The distance to the strongest selection (`beam_pav` at equal tokens) is no smaller
  with the sum, since selection by the outcome verifier loses with its head, too.

Selection: as in `beams.py`; of each arm on validation problems, by its own verifiers.
Differences are paired by seed. No learning rate is tried for either head: the demo's
was chosen with the sum, which favours it, and the report of this says so.
"""

import demo
from ml_collections import ConfigDict

from pav_jax.tools.sweeps import product


def get_config(variant: str = "") -> ConfigDict:
    config = demo.get_config(variant)
    config.name = "evidence_heads"
    config.verifier.head = "plain"
    return config


def sweep() -> list[dict]:
    return product({"verifier.head": ("plain", "sum"), "seed": range(5)})


def measures(results: dict) -> dict[str, float]:
    """AUCs, and accuracies in points."""
    found = results["verifier"]
    auc = found["auc_within_problem"]
    out = {
        "AUC first, PRM": auc["by_step"][0],
        "AUC middle, PRM": auc["middle"],
        "AUC last, PRM": auc["last"],
        "AUC last, ORM": found["orm"]["auc_last"],
        "AUC, error so far": auc["error_so_far"],
        "AUC, error so far, same step": auc["error_so_far_same_step"],
    }
    last = max(row["n"] for row in results["search"])
    for row in results["search"]:
        method, n = row["method"], row["n"]
        if method in ("beam_q", "beam_pav") or (
            n == last and method.startswith(("best_of_n", "vote"))
        ):
            out[f"{method}, N = {n}"] = 100 * row["accuracy"]
    over = results["compute_efficiency"]["points_at_equal_tokens"]
    if "beam_pav" in over:  # not in :smoke, where no selection has as many tokens
        out["beam_pav over the strongest selection"] = 100 * over["beam_pav"]
    return out
