"""Does a verifier learn more from first pits than from i.i.d. seeds (App. D, Fig. 11)?

    launch/sweep.py --config=experiments/evidence/first_pit.py \\
        --root=runs/evidence/first_pit

The demo with few labels: one seed rollout to each problem, two continuations of each of
its prefixes. Two arms, at two budgets of tokens (decoded and prefilled, of stages
`rollouts` and `labels` together):

- i.i.d. seeds: 400 or 3,200 problems, `labels.first_pit.n_mc=0`;
- first pit: 228 or 1,825 problems, labelled the same, and what that saves goes into
  four continuations of each state of high value and of prefixes up to the first pits.

The numbers of problems are by arithmetic, so that tokens are equal: with the demo's
policy (seed 0) a problem took 396 tokens without pits (its first 800 problems) and 694
with them (626 of these). A new problem for each seed is the best that i.i.d. seeds can
do here; the paper's come several to a problem. The fields of `first_pit` were set
before any verifier was trained, and are not tuned. All arms of a seed have the same
policy. Two CPU cores; about seven minutes for each of 16 runs, of which three are of
SFT.

Written before the first run (2026-11-26). Differences are first pit less i.i.d., of
the same seed (column "by seed"): their mean over four seeds, its 95% interval by t.

- H1. With few seeds the AUC within a problem of "no error so far", among prefixes of
  as many steps, is higher: the interval of the difference is above 0.
- H2. The same of the AUC against the outcome in the middle of a response.
- H3. Both differences are smaller with many seeds than with few ("most so with few").
- H4. Four beams by `Q^π`, of which the verifier of steps picks the last, are more
  accurate with few seeds (the paper's measure). Over 160 problems a standard error is
  4 points, so that less than some 5 points will not be told from 0.
- H5. The verifier is no less calibrated: Brier score within 0.01 at both budgets,
  since no label is biased, though the states are not those of i.i.d. responses.

A run counts if its tokens are within 5% of the other arm's of the same seed and
budget; if not, that is said beside the result. Selection: nothing. No α, K or pick is
chosen for what is measured; of each verifier the parameters of least loss on held-out
problems (a tenth, by the arm's own labels) are kept, as everywhere.
"""

import demo
from ml_collections import ConfigDict

from pav_jax.tools.sweeps import product, zipped


def get_config(variant: str = "") -> ConfigDict:
    config = demo.get_config(variant)
    config.name = "evidence_first_pit"
    config.rollouts.n_orm = 1
    with config.labels.unlocked():
        config.labels.first_pit = dict(
            threshold=0.5,  # the value from which on a state is of high value
            n_mc=4,  # further continuations of it, and of prefixes up to a pit
            responses=4,  # wrong ones that are searched for each seed rollout, at most
        )
    config.verifier.held_out = 0.1
    config.search.update(dict(beams=(4,), alphas=(0.0, 0.5), prover_ks=(4,)))
    config.search.update(dict(alpha_beams=4, samples=4, ns=(1, 2, 4)))
    if variant == "smoke":
        return config
    config.problems.update(dict(labels=228, test=160))
    config.verifier.update(
        dict(prm=demo.optimizer(400, 1e-3), orm=demo.optimizer(400, 1e-3))
    )
    config.evaluation.oracle_problems = 24
    return config


def sweep(variant: str = "") -> list[dict]:
    labels = (32, 24, 48, 40) if variant == "smoke" else (400, 228, 3_200, 1_825)
    arms = {
        "problems.labels": labels,
        "labels.first_pit.n_mc": (0, 4, 0, 4),
    }
    return product({"seed": range(4)}, zipped(arms))


def measures(results: dict) -> dict[str, float]:
    """AUCs and the Brier score as they are, accuracies in points."""
    verifier = results["verifier"]
    auc = verifier["auc_within_problem"]
    rows = {(row["method"], row["n"]): row["accuracy"] for row in results["search"]}
    picks = {(r["method"], r["n"], r["pick"]): r["accuracy"] for r in results["picks"]}
    tokens = sum(
        results["ledger"][stage][kind]
        for stage in ("rollouts", "labels")
        for kind in ("decoded", "prefilled")
    )
    return {
        "tokens of rollouts and labels": tokens,
        "H1: AUC, no error so far, same step": auc["error_so_far_same_step"],
        "H2: AUC, middle": auc["middle"],
        "AUC, last": auc["last"],
        "H4: 4 beams by Q, pick by prm": 100 * picks["beam_q", 4, "prm"],
        "best of 4 by prm": 100 * rows["best_of_n_pav", 4],
        "H5: Brier score": verifier["brier"],
    }
