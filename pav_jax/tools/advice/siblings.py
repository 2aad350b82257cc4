"""Whether a verifier tells steps apart that are taken at the same place."""

from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.tools.advice.estimates import Estimate, divide, ratio_of, share_of


def told_apart(
    viewer: Sequence[Mapping], *, siblings: bool
) -> tuple[Estimate | None, int]:
    """How often a verifier orders two steps as Monte Carlo values do.

    Args:
      viewer: responses as in `viewer.json`: `prompt`, and `steps` with `text`, `q` and
        `q_mc`.
      siblings: whether the steps before must be the same. Otherwise they are equally
        many.

    Returns:
      The share of pairs whose Monte Carlo values differ, ties of Q counting half; None
      if there is none. And how many pairs there are.
    """
    places: dict[str, dict[tuple, dict[str, tuple]]] = {}
    for index, response in enumerate(viewer):
        before: tuple[str, ...] = ()
        for step in response["steps"]:
            key = before if siblings else (len(before),)
            here = places.setdefault(response["prompt"], {}).setdefault(key, {})
            # The same step of two responses is no pair of siblings.
            name = step["text"] if siblings else str(index)
            here.setdefault(name, (step["q"], step["q_mc"]))
            before = (*before, step["text"])
    sums = np.array(
        [
            np.sum([_ordered(list(steps.values())) for steps in by_key.values()], 0)
            for by_key in places.values()
        ]
    ).reshape(-1, 2)
    return share_of_pairs(sums), int(sums[:, 1].sum())


def share_of_pairs(sums: np.ndarray) -> Estimate | None:
    """The share of pairs in the right order, over problems.

    Args:
      sums: of each problem pairs in the right order and all pairs, `[P, 2]`; an AUC
        within problems is such a share.

    Returns:
      None if there is no pair.
    """
    sums = sums[sums[:, 1] > 0]
    if not len(sums):
        return None
    shares = sums[:, 0] / sums[:, 1]
    if np.all((shares == 0) | (shares == 1)) and len(np.unique(shares)) == 1:
        return share_of(shares)  # resampling equal shares has no width
    return ratio_of(sums, lambda t: divide(t[0], t[1]))


def _ordered(steps: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Pairs in the right order, and all pairs."""
    q, truth = np.array(steps, float).T
    wanted = np.sign(truth[:, None] - truth[None, :])
    right = (1 + wanted * np.sign(q[:, None] - q[None, :])) / 2
    above = wanted > 0
    return float(right[above].sum()), float(above.sum())
