"""The final pick: which of the responses that a search ends with is its answer.

Wide beams find responses that the scorer of the search over-rates, since it is what
chose them. Another verifier, or a vote, is not fooled by the same ones.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from pav_jax.metrics import AGGREGATIONS, aggregate

# Q^π by the verifier of steps; the outcome verifier's value; the sum of both logits;
# and votes of distinct responses for their answers, weighted by either. One of them is
# chosen on validation problems.
PICKS = ("prm", "orm", "sum", "vote_prm", "vote_orm")
# Q^π of all steps made one: what others pick by, and the report has beside these.
AGGREGATED = tuple(f"prm_{name}" for name in AGGREGATIONS if name != "last")


@dataclasses.dataclass(frozen=True)
class Finals:
    """The responses that the search of one problem ends with.

    Attributes:
      tokens: token ids of each.
      answers: the final answer of each as text that is equal for equal answers; None
        if there is none.
      ended: whether each has ended, bool `[N]`; one that was cut short has no answer.
      scores: by name, float `[N]` each: `prm`, `Q^π` by the search's own scorer;
        `orm`, by the outcome verifier; and those of `AGGREGATED` that are known.
    """

    tokens: Sequence[Sequence[int]]
    answers: Sequence[str | None]
    ended: np.ndarray
    scores: Mapping[str, np.ndarray]


def aggregated(values: Sequence[Sequence[float]]) -> dict[str, np.ndarray]:
    """The scores of responses by each of `AGGREGATED`, float64 `[N]` each.

    Args:
      values: `Q^π` after each step of each of N responses.
    """
    scores = aggregate(values)
    return {rule: scores[rule.removeprefix("prm_")] for rule in AGGREGATED}


def pick(finals: Finals, rule: str) -> int:
    """The place of the response that is picked.

    One that was cut short is picked only if none has ended. Where no response votes,
    the pick is that of the weight alone.

    Args:
      finals: at least one response.
      rule: one of `PICKS` or `AGGREGATED`.
    """
    by = rule.removeprefix("vote_")
    value = _value(finals, by) - 1e9 * ~np.asarray(finals.ended, bool)
    if by == rule:
        return int(np.argmax(value))
    weight = _value(finals, by)
    votes: dict[str, float] = {}
    seen = set()
    for place, (tokens, answer) in enumerate(
        zip(finals.tokens, finals.answers, strict=True)
    ):
        # Copies of a response are one vote.
        if finals.ended[place] and answer is not None and tuple(tokens) not in seen:
            seen.add(tuple(tokens))
            votes[answer] = votes.get(answer, 0.0) + float(weight[place])
    if not votes:
        return int(np.argmax(value))
    winner = max(votes, key=votes.__getitem__)
    wins = np.array([answer == winner for answer in finals.answers])
    return int(np.argmax(np.where(wins, value, -np.inf)))


def _value(finals: Finals, by: str) -> np.ndarray:
    """What responses are compared by, float64 `[N]`."""
    if by == "sum":
        return _logit(finals.scores["prm"]) + _logit(finals.scores["orm"])
    return np.asarray(finals.scores[by], float)


def _logit(q: np.ndarray) -> np.ndarray:
    q = np.clip(np.asarray(q, float), 1e-7, 1 - 1e-7)  # float32 rounds to 0 and 1
    return np.log(q) - np.log1p(-q)
