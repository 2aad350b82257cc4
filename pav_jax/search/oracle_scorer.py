"""A near-exact value that needs no verifier, as a control.

Where a task has a step checker, the value of a prefix is nearly a function of a few
facts: has an error been made, how many steps are still needed, how many the limit still
allows. The oracle is the mean of Monte Carlo labels over prefixes that share these
facts. Search with it tells "does the method help" from "did the verifier learn".
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable

import jax.numpy as jnp
import numpy as np


class Oracle:
    """`Q^π` as the mean label over prefixes with the same facts.

    Args:
      samples: (facts, correct continuations, continuations) of labelled prefixes.
    """

    def __init__(self, samples: Iterable[tuple[Hashable, int, int]]):
        totals: dict[Hashable, list[int]] = defaultdict(lambda: [0, 0])
        for facts, correct, count in samples:
            totals[facts][0] += correct
            totals[facts][1] += count
        everything = np.sum(list(totals.values()), axis=0)
        self._mean = everything[0] / everything[1]
        self._totals = dict(totals)

    def value(self, facts: Hashable) -> float:
        """`Q^π`, drawn to the overall mean by two pseudo-counts."""
        correct, count = self._totals.get(facts, (0, 0))
        return (correct + 2 * self._mean) / (count + 2)


@dataclasses.dataclass(frozen=True)
class OracleScorer:
    """Scores candidates by a function of problem and response; a `beam.Scorer`.

    Its state is the index of each problem, int64 `[G]`.

    Attributes:
      value: gives `Q^π` of a prefix, from the problem's index among the prompts of the
        search and the token ids of the response.
    """

    value: Callable[[int, tuple[int, ...]], float]

    def init(self, prompts, lengths, problems, rows):
        del prompts, lengths, rows
        q = np.zeros(len(problems), np.float32)
        for g in np.flatnonzero(problems >= 0):
            q[g] = self.value(int(problems[g]), ())
        return problems, jnp.asarray(q)

    def score(self, state, beams):
        tokens, lengths = np.asarray(beams.tokens), np.asarray(beams.length)
        q = np.zeros(lengths.shape, np.float32)
        for g in np.flatnonzero(state >= 0):
            for r, length in enumerate(lengths[g]):
                q[g, r] = self.value(
                    int(state[g]), tuple(tokens[g, r, :length].tolist())
                )
        return jnp.asarray(q), state

    def keep(self, state, parents, used):
        del parents, used
        return state

    def tokens_read(self, state):
        return np.zeros(len(state), int)
