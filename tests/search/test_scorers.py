"""Scorers of a beam search: they hold no state; an oracle is the mean of its labels."""

import dataclasses

import jax
import numpy as np
import pytest
from small_search import (
    END,
    NEWLINES,
    make_beam,
    make_scorer,
    search,
    slow_search,
)

from pav_jax.search.beam import Scorer
from pav_jax.search.oracle_scorer import Oracle, OracleScorer

# Scorers hold no state.


@dataclasses.dataclass
class Twice:
    """A scorer that asks another one everything twice, with copies of one state."""

    inner: Scorer
    asked: int = 0

    def init(self, *args):
        first = self.inner.init(*args)
        return self._equal(first, self.inner.init(*args))

    def score(self, state, beams):
        first = self.inner.score(_copy(state), beams)
        return self._equal(first, self.inner.score(state, beams))

    def keep(self, state, parents, used):
        first = self.inner.keep(_copy(state), parents, used)
        return self._equal(first, self.inner.keep(state, parents, used))

    def tokens_read(self, state):
        first = self.inner.tokens_read(state)
        return self._equal(first, self.inner.tokens_read(state))

    def _equal(self, first, second):
        jax.tree.map(np.testing.assert_array_equal, first, second)
        self.asked += 1
        return second


def _copy(state):
    return jax.tree.map(lambda array: array.copy(), state)  # a state may be donated


@dataclasses.dataclass
class Interrupted:
    """A scorer by which another search is done between any two calls."""

    inner: Scorer
    others: list = dataclasses.field(default_factory=list)

    def __getattr__(self, name):
        def call(*args):
            self.others.append(search(self.inner, which=[2, 1]))
            return getattr(self.inner, name)(*args)

        return call


def _scorers():
    oracle = _oracle()
    by_oracle = OracleScorer(lambda i, tokens: oracle.value(_facts(i, tokens)))
    return {"verifier": make_scorer(), "oracle": by_oracle}


@pytest.mark.parametrize("name", ["verifier", "oracle"])
def test_a_scorer_gives_the_same_for_the_same_state(name):
    scorer = _scorers()[name]
    twice = Twice(scorer)
    assert search(twice) == search(scorer)
    assert twice.asked >= 2 + 2 * 2  # at least two steps


@pytest.mark.parametrize("name", ["verifier", "oracle"])
def test_searches_with_one_scorer_do_not_disturb_each_other(name):
    scorer = _scorers()[name]
    interrupted = Interrupted(scorer)
    assert search(interrupted) == search(scorer)
    alone = search(scorer, which=[2, 1])
    assert len(interrupted.others) >= 2 + 2 * 2
    assert all(other == alone for other in interrupted.others)


# Other scorers.


def _facts(problem, tokens):
    """How many newlines, whether it ended, and the parity of it all."""
    newlines = sum(token in NEWLINES for token in tokens)
    return (problem, newlines, END in tokens, sum(tokens) % 3)


def _oracle():
    rng = np.random.default_rng(0)
    return Oracle(
        ((problem, newlines, ended, rest), int(rng.integers(0, 11)), 10)
        for problem in range(3)
        for newlines in range(4)
        for ended in (False, True)
        for rest in range(3)
    )


def test_an_oracle_is_the_mean_of_its_labels():
    samples = [("a", 3, 10), ("b", 1, 1), ("a", 0, 5), ("b", 0, 4)]
    oracle = Oracle(iter(samples))
    mean = 4 / 20
    assert oracle.value("a") == pytest.approx((3 + 2 * mean) / 17)
    assert oracle.value("b") == pytest.approx((1 + 2 * mean) / 7)
    assert oracle.value("never seen") == pytest.approx(mean)


def test_search_by_an_oracle():
    """Each problem has its own values, in later batches too; no model reads them."""
    beam = make_beam(rows=12)  # two problems at a time
    oracle = _oracle()

    def value(problem, tokens):
        return oracle.value(_facts(problem, tokens))

    results = search(OracleScorer(value), beam=beam, alpha=0.5)
    for problem, ours in enumerate(results):
        best, _, decoded = slow_search(problem, value, alpha=0.5, beam=beam)
        assert ours.tokens == list(best.tokens)
        assert ours.q == pytest.approx(best.q, abs=1e-6)
        assert (ours.ledger.decoded, ours.ledger.scored) == (decoded, 0)
