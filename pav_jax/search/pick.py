"""The final pick: which of the responses that a search ends with is its answer.

Wide beams find responses that the scorer of the search over-rates, since it is what
chose them. Another verifier, or a vote, is not fooled by the same ones.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

# Q^π by the verifier of steps; the outcome verifier's value; the sum of both logits;
# and votes of distinct responses for their answers, weighted by either.
PICKS = ("prm", "orm", "sum", "vote_prm", "vote_orm")


@dataclasses.dataclass(frozen=True)
class Finals:
    """The responses that the search of one problem ends with.

    Attributes:
      tokens: token ids of each.
      answers: the final answer of each as text that is equal for equal answers; None
        if there is none.
      ended: whether each has ended, bool `[N]`; one that was cut short has no answer.
      prm: `Q^π` by the search's own scorer, float `[N]`.
      orm: by the outcome verifier, float `[N]`.
    """

    tokens: Sequence[Sequence[int]]
    answers: Sequence[str | None]
    ended: np.ndarray
    prm: np.ndarray
    orm: np.ndarray


def pick(finals: Finals, rule: str) -> int:
    """The place of the response that is picked.

    One that was cut short is picked only if none has ended. Where no response votes,
    the pick is that of the weight alone.

    Args:
      finals: at least one response.
      rule: one of `PICKS`.
    """
    kind, _, by = rule.rpartition("_")
    value = _value(finals, by) - 1e9 * ~np.asarray(finals.ended, bool)
    if kind != "vote":
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
        return _logit(finals.prm) + _logit(finals.orm)
    return np.asarray({"prm": finals.prm, "orm": finals.orm}[by], float)


def _logit(q: np.ndarray) -> np.ndarray:
    q = np.clip(np.asarray(q, float), 1e-7, 1 - 1e-7)  # float32 rounds to 0 and 1
    return np.log(q) - np.log1p(-q)
