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


def _shape(counts, shards, monkeypatch, prompt=20, response=60):
    """Of a batch, for so many responses to each prompt, on so many devices."""
    monkeypatch.setattr(scores.mesh, "row_shards", lambda mesh: shards)
    groups, responses = {}, []
    for problem, count in enumerate(counts):
        key = (problem, *[1] * (prompt - 1))
        groups[key] = list(range(len(responses), len(responses) + count))
        responses += [Response(problem, key, (1,) * response, (), False)] * count
    shape = scores._GroupShape.of(responses, groups)
    return shape.groups, shape.members, shape.prompt, shape.response


def test_every_device_scores_whole_prompts(monkeypatch):
    # One device: as many as 8192 tokens hold, 32 + 16 * 64 each.
    assert _shape([16] * 100, 1, monkeypatch) == (4, 16, 32, 64)
    # Eight: as many on each, if there are so many; else at least one.
    assert _shape([16] * 100, 8, monkeypatch) == (32, 16, 32, 64)
    assert _shape([16] * 11, 8, monkeypatch) == (16, 16, 32, 64)
    assert _shape([16] * 3, 8, monkeypatch) == (8, 16, 32, 64)
    # A prompt that fills a batch alone, on devices of no power of two.
    assert _shape([128] * 4, 1, monkeypatch) == (1, 128, 32, 64)
    assert _shape([128] * 4, 6, monkeypatch)[0] == 6


def test_responses_of_many_lengths_have_few_shapes(monkeypatch):
    shapes = {
        _shape([4] * 16, 1, monkeypatch, prompt=40 + n, response=100 + 3 * n)
        for n in range(150)
    }
    # Multiples of 16 up to 128, then 160, 192, 224, 256, 320 and so on.
    assert {prompt for *_, prompt, _ in shapes} == {
        *range(48, 129, 16),
        *(160, 192),
    }
    assert {response for *_, response in shapes} == {
        *(112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640)
    }


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
    # A batch of 64 tokens holds two responses of up to 32.
    reads = {8192: (1, 1, 1), 64: (3, 1, 2)}[tokens]
    prompts = sum(n * (3 + 4 * problem) for problem, n in enumerate(reads))
    assert ledger == Ledger(scored=prompts + sum(len(r.tokens) for r in responses))
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
