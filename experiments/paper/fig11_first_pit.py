"""Fig. 11: first pit against i.i.d. seeds, for the data of a verifier.

    launch/sweep.py --config=experiments/paper/fig11_first_pit.py \\
        --root=runs/paper/fig11_first_pit

The runs of `evidence/first_pit.py`, whose head has the hypotheses; nothing is run again
where these are finished. About seven minutes for each of 16 runs on two CPU cores.

The paper: data of first pits make a better verifier than i.i.d. seeds do, most so with
few seeds.

Both arms of a budget are in one sweep, so differences are of arms and not within a run:
there is no verdict by rule. docs/evidence.md has those by seed.
"""

from evidence.first_pit import get_config, measures, sweep  # noqa: F401
