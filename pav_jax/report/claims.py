"""What the paper claims for search, and what this run measured for each claim.

Each function returns pairs of HTML sentences: the paper's, and this run's.
"""

from typing import Any

from pav_jax.report import summary, text

Results = dict[str, Any]

_Q, _EFFECTIVE = text.markup("Q^π"), text.markup("Q^π + αA^μ")


def equal_n(rows: list[Results]) -> list[tuple[str, str]]:
    """Beam search and best-of-N by PAV against best-of-N by ORM, at their largest N."""
    curves = {
        key: {
            row["n"]: row["accuracy"]
            for row in rows
            if row["method"] == key
            and row.get("n") is not None
            and row.get("accuracy") is not None
        }
        for key in ("best_of_n_orm", "best_of_n_pav", "beam_pav")
    }
    pairs = []
    for key, paper in (
        (
            "beam_pav",
            f"Beam search by {_EFFECTIVE} is 8–10 points above best-of-N by ORM at "
            "equal N.",
        ),
        ("best_of_n_pav", "Best-of-N by PAV is 4 points above best-of-N by ORM."),
    ):
        shared = curves[key].keys() & curves["best_of_n_orm"].keys()
        if shared:
            n = max(shared)
            difference = curves[key][n] - curves["best_of_n_orm"][n]
            both = " against ".join(
                text.percent(curves[name][n]) for name in (key, "best_of_n_orm")
            )
            ours = f"{text.points(difference)} points at N = {n} ({both})."
            pairs.append((paper, ours))
    return pairs


def tokens(results: Results) -> list[tuple[str, str]]:
    """How many tokens beam search saves."""
    efficiency = results.get("compute_efficiency") or {}
    efficiency = efficiency.get("paper") or efficiency
    if "beam_pav" not in efficiency:
        return []
    saved, q_saved = efficiency["beam_pav"], efficiency.get("beam_q")
    if saved is None:
        reach = "Not shown to reach it at any N"
    else:
        reach = f"{text.fewer(saved)} tokens"
    difference = (efficiency.get("points_at_equal_tokens") or {}).get("beam_pav")
    if difference is not None:
        reach += f"; {text.points(difference)} points at equal tokens"
        bounds = (efficiency.get("points_ci") or {}).get("beam_pav")
        doubt = summary.uncertainty({"compute_efficiency": efficiency}, "beam_pav")
        doubt = (
            doubt if text.known(bounds) else summary.uncertainty(results, "beam_pav")
        )
        reach += f" ({doubt})" if doubt else ""
    pairs = [
        (
            f"Beam search by {_EFFECTIVE} has the accuracy of best-of-128 by ORM with "
            "10× (2B, 9B) or 5× (27B) less compute.",
            reach + ".",
        )
    ]
    if saved and q_saved:
        relative = f"{text.fewer(saved / q_saved)} tokens to that same accuracy."
    elif saved:
        relative = f"Beam search by {_Q} is not shown to reach it at any N."
    else:
        return pairs
    return [*pairs, (f"8× less compute than beam search by {_Q}.", relative)]


def alpha(alpha: Results) -> list[tuple[str, str]]:
    """Which weight of progress was chosen, and how many beat Q alone."""
    if alpha.get("chosen") is None:
        return []
    ours = f"{alpha['chosen']:g} chosen"
    if better := summary.weights_above_zero(alpha):
        ours += f"; better than α = 0 at {better}"
    paper = "0.5 (2B, 9B) and 0.2 (27B) chosen; 0.2 to 0.6 all beat Q alone."
    return [(paper, ours + ".")]
