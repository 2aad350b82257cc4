"""Do verifiers that have seen what a search finds mend wide beams?

    launch/sweep.py --config=experiments/evidence/on_search.py \\
        --root=runs/evidence/on_search

The demo, with one round more: beams on training problems, guided by the first verifier
of steps, give outcomes of all the responses they end with, and continuations from the
steps of the two best rated. Both verifiers are then trained for 400 more updates, half
of each batch of this kind. The control has no round, and as many updates in all. Two
CPU cores; about 20 minutes for each run.

Written before the first run (2026-11-26):

- H1. The pick at 16 beams (`picks`) is at least 10 points above the control's, and
  closes more than half of the control's distance to what the beam holds ("any").
- H2. At equal tokens beams with 8 and 16 are no longer below the strongest selection.
- H3. The verifiers are no worse on samples: AUC at the last step within 0.01.

Selection: as in `beams.py`. Tokens of the searches, of their continuations and of the
updates are in the ledger (`beams-1`, `prm`, `orm`).
"""

import demo
from ml_collections import ConfigDict

from pav_jax.tools.sweeps import product, zipped


def get_config(variant: str = "") -> ConfigDict:
    config = demo.get_config(variant)
    config.name = "evidence_on_search"
    with config.verifier.unlocked():
        config.verifier.on_search = dict(
            rounds=1,
            problems=1_200,  # of those that samples are labelled of
            beams=8,
            labelled=2,  # responses of a problem whose steps are labelled
            n_mc=2,  # continuations of each of these steps
            steps=400,  # more updates, of each verifier
        )
        if variant == "smoke":
            config.verifier.on_search.update(
                dict(problems=16, beams=2, labelled=1, steps=10)
            )
    return config


def sweep() -> list[dict]:
    arms = {
        "verifier.on_search.rounds": (1, 0),
        "verifier.prm.steps": (800, 1_200),
        "verifier.orm.steps": (800, 1_200),
    }
    return product({"seed": range(5)}, zipped(arms))
