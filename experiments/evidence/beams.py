"""Does a beam guided by a verifier of steps beat selection among whole responses?

    launch/sweep.py --config=experiments/evidence/beams.py --root=runs/evidence/beams

The demo, with five seeds: of the policy, both verifiers, all samples and searches. Two
CPU cores; a quarter of an hour for each seed.

Written before the first run (2026-11-26):

- H1. At equal tokens, beams by `Q^π + αA^μ` are above the strongest of best-of-N and
  weighted votes (by the outcome verifier or the verifier of steps, trained for the same
  number of updates, each with its least loss on held-out problems): the mean over the
  seeds of `compute_efficiency.points_at_equal_tokens.beam_pav` is above 0, its 95%
  interval (t over seeds) does not hold 0. Expected from earlier runs with a weaker
  accounting: about +5 points.
- H2. The same against best-of-N by the outcome verifier, the paper's reference.
- H3. With 8 and 16 beams they are not above it (`by_point`).
- H4. A final pick other than the search's own verifier lifts 16 beams by at least 5
  points (`picks`).
- H5. `A^μ` adds nothing to `Q^π`: `beam_pav` less `beam_q` at equal N within 2 points.

Selection: α, the prover's K and the final pick on validation problems, with 4 beams
(`alpha.cells` has every combination). Nothing is selected on test problems but the
reference, whose method is the best of four at each N, which favours it.
"""

import demo
from ml_collections import ConfigDict

from pav_jax.tools.sweeps import product


def get_config(variant: str = "") -> ConfigDict:
    config = demo.get_config(variant)
    config.name = "evidence_beams"
    return config


def sweep() -> list[dict]:
    return product({"seed": range(5)})


def measures(results: dict) -> dict[str, float]:
    """In points, but for the AUCs and a ratio of tokens."""
    found = results["compute_efficiency"]
    rows = {(row["method"], row["n"]): row["accuracy"] for row in results["search"]}
    picks = {(r["method"], r["n"], r["pick"]): r["accuracy"] for r in results["picks"]}
    out = {}
    for name, against in (
        ("H1: over the strongest selection", found),
        ("H2: over best-of-N by the ORM", found["paper"]),
    ):
        points = against["points_at_equal_tokens"]
        if "beam_pav" in points:  # not where no beam is in selection's range
            out[name] = points["beam_pav"]
    for row in found["by_point"]:
        if row["method"] == "beam_pav":
            out[f"H3: {row['n']} beams over the strongest selection"] = row["points"]
    last = max(results["config"]["search.beams"])
    by_prm = picks["beam_pav", last, "prm"]
    for rule in ("orm", "sum", "vote_prm", "vote_orm", "any"):
        cell = picks["beam_pav", last, rule]
        out[f"H4: {last} beams, pick by {rule} over that by prm"] = cell - by_prm
    for n in results["config"]["search.beams"]:
        by_q = rows["beam_q", n]
        out[f"H5: beam_pav over beam_q, {n} beams"] = rows["beam_pav", n] - by_q
        # Above each has its own pick, of more choices for progress.
        one = picks["beam_pav", n, "prm"] - picks["beam_q", n, "prm"]
        out[f"H5: the same, {n} beams, both picked by prm"] = one
    out |= {f"{method}, N = {n}": value for (method, n), value in rows.items()}
    out = {name: 100 * value for name, value in out.items()}
    return out | {
        "AUC last, PRM": results["verifier"]["auc_within_problem"]["last"],
        "AUC last, ORM": results["verifier"]["orm"]["auc_last"],
        # As in Fig. 4: 0 if no beam is shown to reach it.
        "times fewer tokens for the best of selection": found["beam_pav"] or 0.0,
    }
