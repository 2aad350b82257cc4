"""What a search found, as a second set of a verifier's data."""

import types

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Response
from pav_jax.pipeline import on_search, verifiers
from pav_jax.search.beam import SearchResult
from pav_jax.storage import records


def _responses(problems, first_token):
    """One of each problem, whose prompt says which it is."""
    return [
        Response(number, (100 + prompt,), (first_token, 2), (0.0, 0.0), prompt % 2 == 0)
        for number, prompt in problems
    ]


@pytest.mark.parametrize("numbered", ["alike", "in another way"])
def test_what_is_held_out_of_one_set_is_held_out_of_all(numbered):
    """Beams on half of the problems, whose last ones the others have in the middle."""
    config = ConfigDict(dict(verifier=dict(held_out=0.1, balance=False)))
    rollouts = _responses(((i, i) for i in range(100)), 3)
    offset = 0 if numbered == "alike" else 1_000  # as labels of others are numbered
    beams = _responses(((i + offset, i) for i in range(50)), 4)
    data = [verifiers.Labelled.of_outcomes(some) for some in (rollouts, beams)]
    (of_rollouts, of_beams), held_out = verifiers._split(data, config)
    prompts = [set(rows["tokens"][:, 0]) for rows in (of_rollouts, of_beams, held_out)]
    assert prompts[2] == {*range(145, 150), *range(190, 200)}
    assert not prompts[0] & prompts[2] and not prompts[1] & prompts[2]
    assert len(held_out["tokens"]) == 15 + 5  # both sets' responses to 45 to 49
    assert (len(of_rollouts["tokens"]), len(of_beams["tokens"])) == (85, 45)


def test_a_response_that_was_cut_short_is_not_wrong():
    problems = types.SimpleNamespace(
        prompts=[(7,)],
        are_correct=lambda texts: [tokens[0] == 3 for _, tokens in texts],
    )
    found = SearchResult(
        tokens=[3, 2],
        q=0.5,
        # Right; cut after max_steps; cut after max_tokens, as the policy is, too.
        responses=[[3, 2], [4, 4], [5, 5, 5, 5], [3, 2]],
        values=[0.5, 0.9, 0.7, 0.4],
        step_values=[[0.5]] * 4,
        ended=[True, False, False, True],
        ledger=Ledger(),
    )
    kept = on_search._responses(problems, [0], [found], 4)
    assert [(r.tokens, r.correct) for r in kept] == [
        ((5, 5, 5, 5), False),
        ((3, 2), True),
    ]
    np.testing.assert_array_equal(kept[0].log_probs, 0)


def test_a_shard_of_which_all_were_cut_short_is_empty_and_read_again(tmp_path):
    path = records.shard_path(tmp_path, 0)
    records.write_responses(path, [])
    records.write_labels(records.labels_beside(path), [])
    assert on_search.read_labels(tmp_path, ConfigDict(dict(labelled=2))) == ([], [])
    assert records.read_all_responses(tmp_path) == []
