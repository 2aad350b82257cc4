"""Do verifiers that have seen what a search finds mend wide beams?

    launch/sweep.py --config=experiments/evidence/on_search.py \\
        --root=runs/evidence/on_search

The demo, with one round more: after 400 of their 800 updates beams on training
problems, guided by the verifier of steps as it is, give outcomes of all the responses
they end with, and continuations from the steps of the two best rated. The other 400
updates of both verifiers have half of each batch of this kind. The control is
`beams.py`: the same seeds, samples, labels and number of updates, without the searches.
Two CPU cores; a quarter of an hour for each seed.

Written before the first run (2026-11-26). At first the control was trained for 1,200
updates, and this for 800 and 400; that was changed before either was run, since with
equal 800 the control is a comparison that is run anyway.

- H1. The pick at 16 beams (`picks`) is at least 10 points above the control's, and
  closes more than half of the control's distance to what the beam holds ("any").
- H2. At equal tokens beams with 8 and 16 are no longer below the strongest selection.
- H3. The verifiers are no worse on samples: AUC at the last step within 0.01.

Selection: as in `beams.py`. Tokens of the searches, of their continuations and of the
updates are in the ledger (`beams-1`, `prm`, `orm`); differences to the control are
paired by seed.
"""

import beams
import demo
from ml_collections import ConfigDict


def get_config(variant: str = "") -> ConfigDict:
    config = demo.get_config(variant)
    config.name = "evidence_on_search"
    for name in ("prm", "orm"):
        optimizer = config.verifier[name]
        half = demo.optimizer(steps=optimizer.steps // 2, learning_rate=1e-3)
        optimizer.update(dict(steps=half.steps, warmup_steps=half.warmup_steps))
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


sweep = beams.sweep


def measures(results: dict) -> dict[str, float]:
    """As of the control, and the tokens of the round."""

    def paid(*stages: str) -> int:
        kinds = ("decoded", "prefilled", "scored")  # idle rows are no tokens
        return sum(results["ledger"][s].get(kind, 0) for s in stages for kind in kinds)

    return beams.measures(results) | {
        "tokens, rollouts and labels": paid("rollouts", "labels"),
        "tokens, the round": paid("beams-1"),
    }
