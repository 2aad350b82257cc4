"""First pits: which states get labels (App. D).

I.i.d. seed rollouts seldom reach a late state of high value, and so show few of the
mistakes that lose one. Here labelled rollouts lead the way: continuations that start
at a state of high value and end wrong hold such a mistake, and their steps are labelled
up to the first pit, the first prefix with `Q_mc = 0`. All after it is lost already.

What the paper leaves open, and what is done here:

- What explores: labels of every step prefix of the seed rollouts. All are kept, those
  after a pit too: they are paid for.
- Which responses are searched: wrong ones among further continuations of the states of
  high value. The continuations are labels as well, so that none is drawn for the search
  alone.
- How the pit is found: prefixes are labelled in their order until one has no correct
  continuation. It is the first pit for certain, and every continuation is of a prefix
  that is kept. Bisection needs fewer labels where the pit is far, but assumes that
  `Q_mc` stays 0, which few continuations do not warrant, and spends some on prefixes
  that are dropped.
- What is added up: the labels that chose a state are too high on average, and those of
  states that they passed over too low. So further counts of a state are not added to
  them; they are a row of their own. Each row is then without bias, and the loss, which
  is linear in the label, adds them up. Nor is a label biased by the search: whether a
  prefix is labelled depends on draws from shorter ones alone.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pav_jax.core.types import Response, StepLabels
from pav_jax.labels import Continued, prefix_ends

# (correct, count) of a prefix.
Count = tuple[int, int]
# A problem, and the response tokens of a prefix.
Prefix = tuple[int, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Branch:
    """A wrong response that went through a state of high value.

    Attributes:
      response: the whole of it.
      start: response tokens in that state.
    """

    response: Response
    start: int


def high_value_states(
    responses: Sequence[Response], labels: Sequence[StepLabels], threshold: float
) -> list[tuple[Response, np.ndarray]]:
    """Which step prefixes have `Q_mc >= threshold`, of the responses that have any.

    Returns:
      A response, and the tokens in each such prefix, int32 `[S]`, whole responses not
      among them. A prefix of several responses is given with the first.
    """
    states, seen = [], set()
    for response, found in zip(responses, labels, strict=True):
        stops = []
        for end in found.ends[:-1][found.q[:-1] >= threshold].tolist():
            if (prefix := _prefix(response, end)) not in seen:
                seen.add(prefix)
                stops.append(end)
        if stops:
            states.append((response, np.array(stops, np.int32)))
    return states


def wrong_branches(response: Response, continued: Continued, most: int) -> list[Branch]:
    """Wrong continuations of a response's states of high value, at most `most`.

    Those of the longest prefixes come first, since i.i.d. responses seldom get so far.
    No two are the same. Their log-probabilities are not kept, and 0.
    """
    branches: dict[tuple[int, ...], Branch] = {}
    columns = (continued.stops, continued.wholes, continued.correct)
    for stop, wholes, correct in reversed(list(zip(*columns, strict=True))):
        for tokens in itertools.compress(wholes, ~correct):
            wrong = dataclasses.replace(
                response, tokens=tokens, log_probs=(0.0,) * len(tokens), correct=False
            )
            branches.setdefault(tokens, Branch(wrong, int(stop)))
    return list(branches.values())[:most]


def known_counts(response: Response, labels: StepLabels) -> dict[Prefix, Count]:
    """The counts of a labelled response's prefixes, as `first_pits` has them."""
    rows = zip(labels.ends, labels.correct.tolist(), labels.count.tolist(), strict=True)
    return {
        (response.problem, response.tokens[:end]): (correct, count)
        for end, correct, count in rows
    }


def first_pits(
    branches: Sequence[Branch],
    is_step_end: np.ndarray,
    known: Mapping[Prefix, Count],
    label: Callable[[Sequence[tuple[Response, int]]], Sequence[Count]],
) -> list[tuple[Response, StepLabels]]:
    """Labels wrong responses from a state of high value up to their first pit.

    A response all of whose prefixes have correct continuations has its pit at its end,
    which needs none: it is wrong.

    Args:
      branches: the responses, and the states to start from.
      is_step_end: bool `[V]`, the tokens that end a step.
      known: counts of prefixes that are labelled already, and not again.
      label: draws continuations of prefixes, each given as a response and its tokens
        in the prefix; returns the counts of each.

    Returns:
      The responses with their labels, of prefixes after the start, up to the pit and
      with it, that neither `known` nor an earlier response has. A response without
      any is left out.
    """
    known = dict(known)
    ends = [prefix_ends(branch.response, is_step_end) for branch in branches]
    ways = [e[e > b.start].tolist() for e, b in zip(ends, branches, strict=True)]
    rows: list[list[tuple[int, int, int]]] = [[] for _ in branches]
    active, depth = list(range(len(branches))), 0
    while active:
        # Each response's next prefix; the first response that comes to one has it.
        prefixes = [_prefix(branches[i].response, ways[i][depth]) for i in active]
        new: dict[Prefix, int] = {}
        for i, prefix in zip(active, prefixes, strict=True):
            if prefix not in known:
                new.setdefault(prefix, i)
        inner = {p: i for p, i in new.items() if len(p[1]) < ways[i][-1]}
        asked = [
            (branches[i].response, len(tokens)) for (_, tokens), i in inner.items()
        ]
        known |= dict.fromkeys(new, (0, 1))  # what whole responses keep: they are wrong
        known |= zip(inner, label(asked) if asked else (), strict=True)
        for prefix, i in new.items():
            rows[i].append((len(prefix[1]), *known[prefix]))
        active = [i for i, p in zip(active, prefixes, strict=True) if known[p][0] > 0]
        depth += 1
    return [
        (branch.response, StepLabels(*np.array(row, np.int32).T))
        for branch, row in zip(branches, rows, strict=True)
        if row
    ]


def _prefix(response: Response, end: int) -> Prefix:
    return response.problem, response.tokens[:end]
