"""The final pick, by each rule, on cases that are worked out by hand."""

import numpy as np
import pytest

from pav_jax.search.pick import AGGREGATED, PICKS, Finals, aggregated, pick


def _finals(**changes):
    fields = dict(
        tokens=[[1], [2], [3], [4]],
        answers=["7", "8", "8", "9"],
        ended=np.array([True] * 4),
    )
    scores = dict(
        prm=np.array([0.9, 0.5, 0.45, 0.1]),
        orm=np.array([0.2, 0.1, 0.1, 0.6]),
        **aggregated([[0.1, 0.9], [0.9, 0.5], [1.0, 0.45], [0.9, 0.9, 0.1]]),
    )
    for name in scores:
        scores[name] = changes.pop(name, scores[name])
    return Finals(scores=scores, **fields | changes)


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ("prm", 0),
        ("orm", 3),
        # Logits: 2.20 - 1.39; 0 - 2.20; -0.20 - 2.20; -2.20 + 0.41.
        ("sum", 0),
        ("vote_prm", 1),  # 0.9 for "7", 0.95 for "8"
        ("vote_orm", 3),  # 0.2, 0.2 and 0.6
        ("prm_min", 1),  # 0.1, 0.5, 0.45, 0.1
        ("prm_product", 1),  # 0.09, 0.45, 0.45, 0.081: the first of equal ones
        ("prm_mean", 2),  # 0.5, 0.7, 0.725, 0.63
    ],
)
def test_each_rule(rule, place):
    assert pick(_finals(), rule) == place


@pytest.mark.parametrize("rule", (*PICKS, *AGGREGATED))
def test_what_was_cut_short_is_taken_only_if_nothing_ended(rule):
    one = np.array([False, False, True, False])
    assert pick(_finals(ended=one), rule) == 2
    none = _finals(ended=np.zeros(4, bool))
    whole = {"orm": 3, "vote_orm": 3, "prm_min": 1, "prm_product": 1, "prm_mean": 2}
    assert pick(none, rule) == whole.get(rule, 0)


def test_copies_are_one_vote():
    copies = _finals(tokens=[[1], [2], [2], [4]])
    assert pick(copies, "vote_prm") == 0  # 0.9 against 0.5


def test_a_response_without_an_answer_does_not_vote():
    assert pick(_finals(answers=[None, "8", "8", "9"]), "vote_prm") == 1
    assert pick(_finals(answers=[None] * 4), "vote_orm") == 3


def test_values_that_were_rounded_to_one_still_compare():
    sure = _finals(prm=np.array([1.0, 1.0, 0.5, 0.5]), orm=np.array([0.1, 0.9, 1, 1]))
    assert pick(sure, "sum") == 1
