"""Fig. 5a: a verifier of steps as ORM, and search by its value alone.

    launch/sweep.py --config=experiments/paper/fig05a_verifiers.py \\
        --root=runs/paper/fig05a_verifiers

The runs of `evidence/beams.py`: nothing is run again where these are finished. A
quarter of an hour for each of five seeds on two CPU cores.

The paper: best-of-N by the PAV is 4 points above best-of-N by the ORM; beams by
`Q^π + αA^μ` need 8 times less compute than beams by `Q^π`.

Written before these measures were taken (2026-11-27), and after the accuracies of
`evidence/beams.py` were known, where verifiers have equal training: PAV as ORM is below
the ORM there at N = 32, and beams by progress are within 2 points of beams by `Q^π`.
Selection: as there.
"""

from evidence.beams import get_config, sweep  # noqa: F401

from pav_jax.tools.verdicts import Claim


def measures(results: dict) -> dict[str, float]:
    """In points."""
    rows = {(row["method"], row["n"]): row["accuracy"] for row in results["search"]}
    shown = ("best_of_n_orm", "best_of_n_pav", "beam_q", "beam_pav", "beam_oracle")
    out = {
        f"{method}, N = {n}": 100 * accuracy
        for (method, n), accuracy in rows.items()
        if method in shown
    }
    ns = results["config"]["search.ns"]
    beams = results["config"]["search.beams"]
    for name, over, under, counts in (
        ("PAV as ORM over the ORM", "best_of_n_pav", "best_of_n_orm", ns),
        ("beams by progress over beams by Q^π", "beam_pav", "beam_q", beams),
    ):
        gains = [100 * (rows[over, n] - rows[under, n]) for n in counts if n > 1]
        out[f"{name}, mean of all N above 1"] = sum(gains) / len(gains)
        out[f"{name}, largest N"] = gains[-1]
    return out


def claims() -> list[Claim]:
    return [
        Claim(
            "PAV as ORM is above the ORM, mean of N = 2 to 32",
            "4 points",
            "PAV as ORM over the ORM, mean of all N above 1",
            least=4.0,
        ),
        Claim(
            "the same at N = 32",
            "4 points",
            "PAV as ORM over the ORM, largest N",
            least=4.0,
        ),
        Claim(
            "beams by progress are above beams by `Q^π`, mean of N = 2 to 16",
            "8 times less compute",
            "beams by progress over beams by Q^π, mean of all N above 1",
            least=4.0,
        ),
    ]
