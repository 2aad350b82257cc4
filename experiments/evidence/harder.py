"""Does a beam guided by a verifier of steps pay where problems are hard?

    launch/sweep.py --config=experiments/evidence/harder.py \\
        --root=runs/evidence/harder

`experiments/hard_demo.py`, the built-in task with a spread of difficulty (7% of the
base policy's responses are right, and of 128 to a problem one is for 69% of them), with
five seeds: of the policy, both verifiers, all samples and searches. One CPU core; about
35 minutes for each seed.

Written before the first of these runs (2026-11-27), and after one of seed 0
(docs/decisions.md), which made these hypotheses and so is not among the five. Names and
rules are those of `beams.py`:

- H1. At equal tokens, beams by `Q^π + αA^μ` are above the strongest of best-of-N and
  weighted votes: mean over the seeds above 0, its 95% interval (t over seeds) does not
  hold 0. Seed 0 alone: +4.8 points. The aim of this project was +8.
- H2. The same against best-of-N by the outcome verifier, the paper's reference. Seed 0:
  +7.6.
- H3. One beam is above it, and 8 beams are not. Seed 0: +11.9 and -3.9; 16 beams cost
  more tokens than 32 samples, so that nothing is there to compare them with.
- H4. No final pick lifts 16 beams by 5 points over the verifier of steps.
- H5. `A^μ` adds nothing to `Q^π`: within 2 points at equal N.

Selection: as in `beams.py`.
"""

import beams
import hard_demo
from ml_collections import ConfigDict

from pav_jax.tools.sweeps import product


def get_config(variant: str = "") -> ConfigDict:
    config = hard_demo.get_config(variant)
    config.name = "evidence_harder"
    return config


def sweep() -> list[dict]:
    return product({"seed": range(1, 6)})


def measures(results: dict) -> dict[str, float]:
    """Those of `beams.py`."""
    return beams.measures(results)
