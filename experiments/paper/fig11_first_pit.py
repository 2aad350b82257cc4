"""Fig. 11: first pit against i.i.d. seeds, for the data of a verifier.

    launch/sweep.py --config=experiments/paper/fig11_first_pit.py \\
        --root=runs/paper/fig11_first_pit

The runs of `evidence/first_pit.py`, whose head has the hypotheses; nothing is run again
where these are finished. About seven minutes for each of 16 runs on two CPU cores.

The paper: data of first pits make a better verifier than i.i.d. seeds do, most so with
few seeds.

The claims are of differences of the same seed, as the hypotheses are. What would be an
effect (0.01 of AUC; 5 points, since less is not told from 0 with 160 problems) was
written after the run, on 2026-11-27.
"""

from evidence.first_pit import get_config, measures, sweep  # noqa: F401

from pav_jax.tools.verdicts import Claim


def claims() -> list[Claim]:
    """H1, H2 and H4 with few seeds and with many: first pit less i.i.d. seeds."""
    return [
        Claim(
            f"{seeds} seeds: data of first pits are better, {measure.split(': ')[1]}",
            "better, most so with few",
            measure,
            least=least,
            arm=_arm(pits, 4),
            less=_arm(alone, 0),
        )
        for seeds, pits, alone in (("few", 228, 400), ("many", 1_825, 3_200))
        for measure, least in (
            ("H1: AUC, no error so far, same step", 0.01),
            ("H2: AUC, middle", 0.01),
            ("H4: 4 beams by Q, pick by prm", 5.0),
        )
    ]


def _arm(problems: int, n_mc: int) -> dict[str, int]:
    return {"problems.labels": problems, "labels.first_pit.n_mc": n_mc}
