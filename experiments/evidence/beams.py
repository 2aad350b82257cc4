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
