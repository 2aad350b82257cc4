"""Fig. 6b: seed rollouts or continuations, for the same number of samples?

    launch/sweep.py --config=experiments/paper/fig06b_budget.py \\
        --root=runs/paper/fig06b_budget

The demo's task. A budget is the samples that a problem's labels take: `n_cov` responses
times `n_mc` continuations of each of their prefixes. 800 problems; a budget of 8, with
(n_cov, n_mc) of (8, 1), (4, 2), (2, 4) and (1, 8), and one of 32 with twice as many.
All arms of a seed have the same policy. Two CPU cores; about six minutes for each of 24
runs, of which three are of SFT for the first of a seed.

The paper: at a small budget coverage wins (n_cov > n_mc), at a large one low noise of
the labels does (n_mc > n_cov).

Written before the first run (2026-11-27). Expected: coverage wins at both budgets, as a
verifier of this size averages over prefixes that are alike. Selection: nothing; of each
verifier the parameters of least loss on held-out problems are kept, as everywhere.
The verdict is by the intervals of the arms, at each budget the highest AUC "no error so
far, same step": nothing is told apart so. The claims below, which pair arms by seed,
were added after the run, on the same day.
"""

import demo
from ml_collections import ConfigDict

from pav_jax.tools.sweeps import product, zipped
from pav_jax.tools.verdicts import Claim

SIBLINGS = "AUC, no error so far, same step"
BEAMS = "4 beams by Q^π"


def get_config(variant: str = "") -> ConfigDict:
    config = demo.get_config(variant)
    config.name = "paper_fig06b"
    config.rollouts.update(dict(n_cov=2, n_orm=16))
    config.search.update(dict(beams=(4,), alphas=(0.0, 0.5), prover_ks=(4,)))
    config.search.update(dict(alpha_beams=4, samples=4, ns=(1, 2, 4)))
    if variant != "smoke":
        config.problems.update(dict(labels=800, test=160))
        config.verifier.prm = demo.optimizer(400, 1e-3)
        config.verifier.orm = demo.optimizer(400, 1e-3)
        config.evaluation.oracle_problems = 24
    return config


def sweep() -> list[dict]:
    splits = {
        "rollouts.n_cov": (8, 4, 2, 1, 16, 8, 4, 2),
        "labels.n_mc": (1, 2, 4, 8, 2, 4, 8, 16),
    }
    return product({"seed": range(3)}, zipped(splits))


def measures(results: dict) -> dict[str, float]:
    """AUCs of the verifier of steps as they are, accuracies in points."""
    verifier = results["verifier"]
    auc = verifier["auc_within_problem"]
    rows = {(row["method"], row["n"]): row["accuracy"] for row in results["search"]}
    return {
        "AUC, middle": auc["middle"],
        SIBLINGS: auc["error_so_far_same_step"],
        "Brier score": verifier["brier"],
        BEAMS: 100 * rows["beam_q", 4],
    }


def claims() -> list[Claim]:
    """What the paper says of the two ends of each budget, paired by seed."""
    ends = (("a small budget", (8, 1), (1, 8)), ("a large budget", (2, 16), (16, 2)))
    return [
        Claim(
            f"{budget}: {_times(*better)} is above {_times(*worse)}, {words}",
            "(more at the same budget)",
            measure,
            least=least,
            arm=_arm(*better),
            less=_arm(*worse),
        )
        for budget, better, worse in ends
        for words, measure, least in (
            ("AUC among prefixes of as many steps", SIBLINGS, 0.01),
            ("4 beams, points", BEAMS, 1.0),
        )
    ]


def _times(n_cov: int, n_mc: int) -> str:
    return f"n_cov x n_mc = {n_cov} x {n_mc}"


def _arm(n_cov: int, n_mc: int) -> dict[str, int]:
    return {"rollouts.n_cov": n_cov, "labels.n_mc": n_mc}
