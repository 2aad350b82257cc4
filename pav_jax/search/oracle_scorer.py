"""A near-exact value that needs no verifier, as a control.

Where a task has a step checker, the value of a prefix is nearly a function of a
few facts: has an error been made, how many steps are still needed, how many are
left. The oracle is the mean of Monte Carlo labels over prefixes that share these
facts. Search with it tells "does the method help" from "did the verifier learn".
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

import jax.numpy as jnp
import numpy as np

from pav_jax.search.beam import Beams

# (problem index, response token ids) -> the facts
State = Callable[[int, Sequence[int]], Hashable]


class Oracle:
    """`Q^π` as the mean label over prefixes in the same state.

    Args:
      samples: (state, correct continuations, continuations) of labelled prefixes.
    """

    def __init__(self, samples: Iterable[tuple[Hashable, int, int]]):
        totals: dict[Hashable, list[int]] = defaultdict(lambda: [0, 0])
        for state, correct, count in samples:
            totals[state][0] += correct
            totals[state][1] += count
        everything = np.sum(list(totals.values()), axis=0)
        self._mean = everything[0] / everything[1]
        self._totals = dict(totals)

    def value(self, state: Hashable) -> float:
        """`Q^π`, drawn to the overall mean by two pseudo-counts."""
        correct, count = self._totals.get(state, (0, 0))
        return (correct + 2 * self._mean) / (count + 2)


class OracleScorer:
    """Scores candidates of a beam search by an oracle; a `search.Scorer`.

    Args:
      oracle: the values.
      state: the facts about a prefix.
      problems: the problem index of each prompt, in the order of the search.
    """

    def __init__(self, oracle: Oracle, state: State, problems: Sequence[int]):
        self._oracle = oracle
        self._state = state
        self._waiting = list(problems)
        self._batch: list[int] = []

    def begin(self, prompts: np.ndarray, lengths: np.ndarray, rows: int):
        real = int(np.count_nonzero(lengths))
        self._batch, self._waiting = self._waiting[:real], self._waiting[real:]
        self._groups = len(prompts)
        values = np.zeros(self._groups, np.float32)
        values[:real] = [self._value(problem, ()) for problem in self._batch]
        return jnp.asarray(values)

    def score(self, beams: Beams):
        tokens, lengths = np.asarray(beams.tokens), np.asarray(beams.length)
        values = np.zeros(lengths.shape, np.float32)
        for g, problem in enumerate(self._batch):
            for r, length in enumerate(lengths[g]):
                values[g, r] = self._value(problem, tokens[g, r, :length].tolist())
        return jnp.asarray(values)

    def _value(self, problem: int, tokens: Sequence[int]) -> float:
        return self._oracle.value(self._state(problem, tokens))

    def keep(self, parents, used) -> None:
        """Nothing to move: values are a function of the tokens."""

    @property
    def scored(self) -> np.ndarray:
        return np.zeros(self._groups, int)
