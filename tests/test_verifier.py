"""Verifiers: closed forms, the loss against one row a prefix, and what it ignores."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pav_jax import verifier
from pav_jax.core.types import Response
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import tiny_gemma2
from pav_jax.train.step import init_state, make_train_step

VOCAB = 24
CONFIG = tiny_gemma2(
    VOCAB, num_layers=1, embed_dim=16, num_heads=4, num_kv_heads=2, mlp_dim=24, window=5
)


@functools.cache
def _params() -> verifier.Params:
    """Random parameters of everything, the head too."""
    rng = np.random.default_rng(0)

    def init():
        key = jax.random.key(0)
        model = forward.init_params(key, CONFIG)
        return verifier.init_verifier(key, model, CONFIG)

    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(init),
    )


# Closed forms.


# The loss.

RESPONSES = [
    Response(0, (2, 5, 6), (8, 4, 7, 11, 4, 9, 3), (-1.0,) * 7, True),
    Response(0, (2, 5, 6, 13), (4, 12, 4), (-1.0,) * 3, False),
    Response(1, (2, 10), (14, 3), (-1.0,) * 2, True),
]
# Tokens of the prefix, and its soft label; not every step end has one.
STEPS = [
    [(0, 0.3), (2, 0.65), (7, 1.0)],
    [(0, 0.3), (1, 0.05), (3, 0.0)],
    [(2, 1.0)],
]


def _batch(balance=False):
    rows = verifier.verifier_rows(RESPONSES, STEPS, balance=balance)
    return jax.tree.map(jnp.asarray, rows)


@jax.jit
def _loss_and_grads(params, batch, language_weight):
    """(loss, its parts), and gradients of the loss by parameters and by labels."""

    def loss(params, value):
        return verifier.verifier_loss(
            params,
            batch | {"value": value},
            architecture=CONFIG,
            language_weight=language_weight,
        )

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(
        params, batch["value"]
    )


def _loss(batch, language_weight=0.0):
    return _loss_and_grads(_params(), batch, language_weight)[0]


_step_values = jax.jit(functools.partial(verifier.step_values, architecture=CONFIG))


@jax.jit
def _forward(tokens):
    model = _params()["network"]
    hidden = forward.hidden_states(model, tokens, architecture=CONFIG)
    return hidden, forward.logits(model, hidden, architecture=CONFIG)


def _alone(rows):
    """Hidden states and logits of each row of tokens, and nothing after it."""
    tokens = np.ones((10, 10), np.int32)
    for padded, row in zip(tokens, rows, strict=False):
        padded[: len(row)] = row
    hidden, logits = _forward(tokens)
    return np.asarray(hidden, np.float64), np.asarray(logits, np.float64)


@functools.cache
def _prefix_probabilities() -> list[float]:
    """Q of every labelled prefix, from a pass over that prefix alone.

    The head is computed by hand, in float64.
    """
    head = {k: np.asarray(v, np.float64) for k, v in _params()["head"].items()}
    rows = [
        response.prompt + response.tokens[:end]
        for response, row in zip(RESPONSES, STEPS, strict=True)
        for end, _ in row
    ]
    out = []
    for row, x in zip(rows, _alone(rows)[0], strict=False):
        x = x[: len(row)] @ head["hidden"] + head["hidden_bias"]
        x = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        # What the last token says, and the evidence of all, the prompt's too.
        logit = x[-1] @ head["value"] + head["value_bias"]
        out.append(1 / (1 + np.exp(-(logit + (x @ head["evidence"]).sum()))))
    return out


LABELS = [value for row in STEPS for _, value in row]


def _cross_entropies() -> np.ndarray:
    p, y = np.array(_prefix_probabilities()), np.array(LABELS)
    return -(y * np.log(p) + (1 - y) * np.log(1 - p))


def test_loss_equals_one_row_for_each_prefix():
    loss, parts = _loss(_batch())
    assert np.std(_prefix_probabilities()) > 0.05  # or any of them would do
    np.testing.assert_allclose(loss, _cross_entropies().mean(), rtol=0, atol=1e-5)
    assert parts["scoring"] == loss


def test_balanced_loss_is_the_mean_over_two_buckets():
    loss, _ = _loss(_batch(balance=True))
    high = np.array(LABELS) >= 0.5
    each = _cross_entropies()
    expected = 0.5 * each[high].mean() + 0.5 * each[~high].mean()
    np.testing.assert_allclose(loss, expected, rtol=0, atol=1e-5)
    assert abs(expected - each.mean()) > 1e-3


def test_step_values_are_those_of_the_prefixes():
    batch = _batch()
    values = _step_values(_params(), batch["tokens"])
    assert values.shape == batch["tokens"].shape and values.dtype == jnp.float32
    ours = [
        float(values[i, len(response.prompt) + end - 1])
        for i, (response, row) in enumerate(zip(RESPONSES, STEPS, strict=True))
        for end, _ in row
    ]
    np.testing.assert_allclose(ours, _prefix_probabilities(), rtol=0, atol=1e-5)


def test_language_loss_is_that_of_the_responses():
    loss, parts = _loss(_batch(), 0.5)
    rows = [response.prompt + response.tokens for response in RESPONSES]
    nll = []
    for response, row, logits in zip(RESPONSES, rows, _alone(rows)[1], strict=False):
        for at in range(len(response.prompt), len(row)):
            total = np.log(np.exp(logits[at - 1]).sum())
            nll.append(total - logits[at - 1, row[at]])
    np.testing.assert_allclose(parts["language"], np.mean(nll), rtol=0, atol=1e-5)
    expected = _cross_entropies().mean() + 0.5 * np.mean(nll)
    np.testing.assert_allclose(loss, expected, rtol=0, atol=2e-5)


LENGTHS = np.array([len(r.prompt) + len(r.tokens) for r in RESPONSES])
PADDING = np.arange(max(LENGTHS)) >= LENGTHS[:, None]


def test_padding_and_unlabelled_positions_have_no_effect():
    assert PADDING.any()
    batch = _batch()
    unlabelled = np.asarray(batch["weight"]) == 0
    changed = batch | {
        "tokens": jnp.where(PADDING, 21, batch["tokens"]),
        "value": jnp.where(unlabelled, 0.77, batch["value"]),
    }
    for weight in (0.0, 0.5):
        assert _loss(batch, weight)[0] == _loss(changed, weight)[0]
    tokens = jnp.where(unlabelled & ~PADDING, 21, batch["tokens"])
    assert _loss(batch)[0] != _loss(batch | {"tokens": tokens})[0]


def test_gradients_come_from_labelled_prefixes_alone():
    batch = _batch()
    # The last response without its label: a row that teaches nothing.
    batch["weight"] = batch["weight"].at[2].set(0.0)
    batch["tokens"] = jnp.where(PADDING, 21, batch["tokens"])
    _, (by_params, by_value) = _loss_and_grads(_params(), batch, 0.0)
    unlabelled = np.asarray(batch["weight"]) == 0
    assert not np.asarray(by_value)[unlabelled].any()
    assert np.asarray(by_value)[~unlabelled].all()
    moved = np.asarray(by_params["network"]["embed"]).any(axis=1)
    read = {t for r in RESPONSES[:2] for t in r.prompt + r.tokens}
    assert not {10, 14, 21} & read
    assert set(np.flatnonzero(moved)) == read


def test_a_batch_without_labels_teaches_nothing():
    batch = _batch()
    batch["weight"] = jnp.zeros_like(batch["weight"])
    (loss, _), grads = _loss_and_grads(_params(), batch, 0.0)
    assert loss == 0
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("label", [0.0, 0.3, 0.5, 1.0])
def test_the_loss_is_least_at_the_label(label):
    """The head's bias is the prediction where its other weights are zero."""
    rows = verifier.verifier_rows(RESPONSES, [[(0, label)], [], []], balance=False)
    batch = jax.tree.map(jnp.asarray, rows)
    head = jax.tree.map(jnp.zeros_like, _params()["head"])

    def loss_and_slope(logit):
        params = _params() | {"head": head | {"value_bias": jnp.float32(logit)}}
        (loss, _), (grads, _) = _loss_and_grads(params, batch, 0.0)
        return float(loss), float(grads["head"]["value_bias"])

    for p in (0.1, 0.28, 0.32, 0.9, 1 - 1e-5):
        loss, slope = loss_and_slope(math.log(p / (1 - p)))
        expected = -(label * math.log(p) + (1 - label) * math.log(1 - p))
        assert loss == pytest.approx(expected, rel=1e-4, abs=1e-6)
        assert slope == pytest.approx(p - label, abs=1e-6)
    # Far out there is neither overflow nor a vanished slope.
    loss, slope = loss_and_slope(-200.0)
    assert (loss, slope) == (pytest.approx(200 * label), pytest.approx(-label))


# Training rows.


def test_rows():
    rows = verifier.verifier_rows(RESPONSES, STEPS, balance=False)
    assert {k: (v.shape, v.dtype.name) for k, v in rows.items()} == {
        "tokens": ((3, 10), "int32"),
        "mask": ((3, 10), "float32"),
        "value": ((3, 10), "float32"),
        "weight": ((3, 10), "float32"),
    }
    for i, (response, row) in enumerate(zip(RESPONSES, STEPS, strict=True)):
        prompt, tokens = list(response.prompt), list(response.tokens)
        padding = [0] * (10 - len(prompt) - len(tokens))
        assert rows["tokens"][i].tolist() == prompt + tokens + padding
        mask = [0] * len(prompt) + [1] * len(tokens) + padding
        assert rows["mask"][i].tolist() == mask
        # A prefix's value is read at its last token: the prompt's for none.
        places = {len(prompt) + end - 1: value for end, value in row}
        assert np.flatnonzero(rows["weight"][i]).tolist() == sorted(places)
        for place, value in places.items():
            assert rows["value"][i, place] == np.float32(value)
            assert rows["weight"][i, place] == 1


def test_balanced_rows_weigh_both_halves_alike():
    plain = verifier.verifier_rows(RESPONSES, STEPS, balance=False)
    rows = verifier.verifier_rows(RESPONSES, STEPS, balance=True)
    for name in ("tokens", "mask", "value"):
        np.testing.assert_array_equal(rows[name], plain[name])
    labelled, high = plain["weight"] > 0, rows["value"] >= 0.5
    np.testing.assert_array_equal(rows["weight"] > 0, labelled)
    for half in (labelled & high, labelled & ~high):
        assert rows["weight"][half].sum() == pytest.approx(len(LABELS) / 2)
        assert len(set(rows["weight"][half].tolist())) == 1


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_balance_of_one_kind_alone(value):
    steps = [[(2, value)], [(1, value)], [(2, value)]]
    rows = verifier.verifier_rows(RESPONSES, steps, balance=True)
    weights = rows["weight"][rows["weight"] > 0]
    assert len(weights) == 3 and np.isfinite(weights).all()
    assert len(set(weights.tolist())) == 1


def test_a_plain_head_reads_the_last_token_alone():
    value = jnp.asarray(np.random.default_rng(1).normal(size=16), jnp.float32)
    params = {"network": _params()["network"], "head": {"value": value}}
    tokens = _batch()["tokens"]
    found = np.asarray(_step_values(params, tokens))
    hidden = np.asarray(_forward(np.asarray(tokens))[0], np.float64)
    expected = 1 / (1 + np.exp(-hidden @ np.asarray(value, np.float64)))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.std() > 0.2


# Training.


@pytest.mark.parametrize("head", verifier.HEADS)
def test_a_new_verifier_says_one_half(head):
    params = verifier.init_verifier(
        jax.random.key(1), _params()["network"], CONFIG, head
    )
    values = _step_values(params, _batch()["tokens"])
    np.testing.assert_array_equal(values, jnp.full_like(values, 0.5))


@pytest.mark.parametrize("head", verifier.HEADS)
def test_training_reaches_the_soft_labels(head):
    # Two rows are the same prefixes with unlike labels: their mean is best.
    responses = [RESPONSES[0], RESPONSES[1], RESPONSES[1]]
    steps = [
        [(0, 0.3), (2, 0.65), (7, 1.0)],
        [(0, 0.2), (1, 0.7), (3, 0.0)],
        [(0, 0.4), (1, 0.4), (3, 0.5)],
    ]
    targets = [{0: 0.3, 2: 0.65, 7: 1.0}, {0: 0.3, 1: 0.55, 3: 0.25}]
    batch = jax.tree.map(
        jnp.asarray, verifier.verifier_rows(responses, steps, balance=False)
    )
    model = jax.tree.map(jnp.copy, _params()["network"])  # it will be donated
    params = verifier.init_verifier(jax.random.key(1), model, CONFIG, head)
    optimizer = optax.adam(1e-2)
    loss = functools.partial(
        verifier.verifier_loss, architecture=CONFIG, language_weight=0.0
    )
    step = make_train_step(loss, optimizer)
    state = init_state(params, optimizer)
    for _ in range(120):
        state, metrics = step(state, batch)
    labels = np.array([value for row in steps for _, value in row])
    best = [targets[min(i, 1)][end] for i, row in enumerate(steps) for end, _ in row]
    best = np.clip(best, 1e-9, 1 - 1e-9)
    floor = -(labels * np.log(best) + (1 - labels) * np.log(1 - best)).mean()
    assert floor < metrics["loss"] < floor + 0.005
    values = _step_values(state.params, batch["tokens"])
    for i, row in enumerate(targets):
        for end, target in row.items():
            ours = float(values[i, len(responses[i].prompt) + end - 1])
            assert ours == pytest.approx(target, abs=0.03), (i, end)
