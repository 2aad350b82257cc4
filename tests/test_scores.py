"""Scores of responses, whose prompts are read once, against one pass over each row."""

import jax
import numpy as np
import pytest
from tiny import random_params

from pav_jax import scores, verifier
from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Response
from pav_jax.gemma.architecture import tiny_gemma2

ARCHITECTURE = tiny_gemma2(
    24, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2, mlp_dim=24, window=5
)


@pytest.fixture(scope="module", params=verifier.HEADS)
def params(request):
    network = random_params(ARCHITECTURE, 0)
    params = verifier.init_verifier(
        jax.random.key(1), network, ARCHITECTURE, request.param
    )
    rng = np.random.default_rng(2)
    shape = (2, ARCHITECTURE.embed_dim)
    value, evidence = 0.3 * rng.normal(size=shape).astype(np.float32)
    head = params["head"] | {"value": value}
    if request.param == "sum":
        head["evidence"] = evidence
    return params | {"head": head}


def _responses(rng, counts):
    """`counts[i]` responses to prompt i, in an order that is not by prompt."""
    found = []
    for problem, count in enumerate(counts):
        prompt = tuple(rng.integers(1, 24, 3 + 4 * problem).tolist())
        for _ in range(count):
            tokens = tuple(rng.integers(1, 24, rng.integers(1, 20)).tolist())
            found.append(Response(problem, prompt, tokens, (), False))
    return [found[i] for i in rng.permutation(len(found))]


# With few tokens to a batch, the responses to a prompt go into several.
@pytest.mark.parametrize("tokens", [8192, 64])
def test_scores_are_those_of_whole_rows(params, tokens, monkeypatch):
    monkeypatch.setattr(scores, "_BATCH_TOKENS", tokens)
    rng = np.random.default_rng(3)
    responses = _responses(rng, (5, 1, 3))
    ends = [np.arange(len(r.tokens) + 1) for r in responses]
    ledger = Ledger()
    found = scores.score_responses(
        params, responses, ends, architecture=ARCHITECTURE, ledger=ledger
    )
    prompts = {r.prompt for r in responses}
    assert ledger == Ledger(
        scored=sum(map(len, prompts)) + sum(len(r.tokens) for r in responses)
    )
    rows = [list(r.prompt + r.tokens) for r in responses]
    whole = scores.score_rows(params, rows, widths=[32], architecture=ARCHITECTURE)
    spread = []
    for q, row, response in zip(found, whole, responses, strict=True):
        np.testing.assert_allclose(q, row[len(response.prompt) - 1 :], atol=1e-5)
        spread += q.tolist()
    assert np.std(spread) > 0.05
    last = scores.score_outcomes(
        params, responses, architecture=ARCHITECTURE, ledger=Ledger()
    )
    np.testing.assert_array_equal(last, [q[-1] for q in found])


def test_no_responses_have_no_scores():
    paid = dict(architecture=ARCHITECTURE, ledger=(ledger := Ledger()))
    assert scores.score_responses({}, [], [], **paid) == []
    found = scores.score_outcomes({}, [], **paid)
    assert found.shape == (0,) and found.dtype == np.float32
    assert ledger == Ledger()
