"""The planted task against enumeration of all responses of a shorter version."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import FrozenConfigDict

from pav_jax.laboratories import planted, planted_rl
from pav_jax.laboratories.planted import Task

TASK = Task(length=4, vocabulary=4, planted=(0, 0, 1))
EVERY = np.array(list(itertools.product(range(4), repeat=4)), np.int32)


def right(tokens) -> bool:
    """Whether the planted sequence appears before the end, by looking for it."""
    text = "".join(map(str, tokens)).split(str(TASK.end))[0]
    return "".join(map(str, TASK.planted)) in text


def matched(tokens) -> int | None:
    """How much of `y*` the last tokens are; 3 once it was there, None if ended."""
    if right(tokens):
        return 3
    if TASK.end in tokens:
        return None
    return max(k for k in range(3) if tuple(tokens[len(tokens) - k :]) == (0, 0, 1)[:k])


def probability(tokens, given: int, gamma: float) -> float:
    """That `μ_γ` goes on from the first `given` tokens with the others."""
    product = 1.0
    for place in range(given, len(tokens)):
        weights = np.ones(4)
        known = matched(tokens[:place])
        if known is not None:
            weights[TASK.end if known == 3 else TASK.planted[known]] = gamma
        product *= (weights / weights.sum())[tokens[place]]
    return product


def test_states_are_those_of_the_text():
    states = np.asarray(planted.states(TASK, jnp.asarray(EVERY)))
    for tokens, found in zip(EVERY, states, strict=True):
        expected = [matched(tokens[:place]) for place in range(5)]
        assert list(found) == [4 if k is None else k for k in expected]


@pytest.mark.parametrize("gamma", [1.0, 6.0])
def test_values_are_the_mean_over_all_continuations(gamma):
    found = planted.prover_values(TASK, gamma, after="end")
    states = np.asarray(planted.states(TASK, jnp.asarray(EVERY)))
    for tokens, of_tokens in zip(EVERY[::7], states[::7], strict=True):
        for given in range(5):
            beginning = tuple(tokens[:given])
            expected = sum(
                probability(other, given, gamma) * right(other)
                for other in EVERY
                if tuple(other[:given]) == beginning
            )
            assert found[given, of_tokens[given]] == pytest.approx(expected, rel=1e-5)


def test_prover_samples_as_it_says():
    table = planted.prover(TASK, 6.0, after="end")
    tokens = planted.sample_prover(TASK, table, jax.random.key(0), 20_000)
    rate = np.mean([right(response) for response in np.asarray(tokens)])
    expected = float(planted.prover_values(TASK, 6.0, after="end")[0, 0])
    assert rate == pytest.approx(expected, abs=4 * (expected / 20_000) ** 0.5)


def test_the_end_and_all_after_it_are_masked():
    tokens = jnp.array([[0, 3, 1, 3], [0, 1, 2, 0]])
    masked = planted.trained(TASK, tokens, with_end=False)
    assert masked.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]
    assert planted.trained(TASK, tokens, with_end=True)[0].tolist() == [1, 1, 0, 0]


CONFIG = FrozenConfigDict(
    dict(batch_size=20_000, n_mc=0, exact_q=False, train_end=True)
)


def _params(policy):
    no_tokens = jnp.zeros((4, 1), jnp.int32)
    params = policy.init(jax.random.key(1), 1, lambda _, token: token, no_tokens)
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(tree, moved)


POLICIES = [planted_rl.Made(TASK, units=3), planted_rl.Table(TASK)]


@pytest.mark.parametrize("policy", POLICIES, ids=["made", "table"])
def test_policy_is_autoregressive_and_samples_what_it_scores(policy):
    params = _params(policy)
    every = jnp.asarray(EVERY)
    scored = planted_rl.log_probs(policy, params, every)
    np.testing.assert_allclose(np.exp(scored.sum(axis=1)).sum(), 1, rtol=1e-5)
    # Those that share their first tokens share their log-probabilities.
    np.testing.assert_allclose(scored[0:4, :3], scored[0:1, :3].repeat(4, axis=0))
    tokens, given = planted_rl.sample(policy, params, jax.random.key(0), 20_000)
    again = planted_rl.log_probs(policy, params, tokens)
    np.testing.assert_allclose(given, again, rtol=1e-5, atol=1e-5)
    places = np.asarray(tokens) @ np.array([64, 16, 4, 1])
    rates = np.bincount(places, minlength=256) / 20_000
    expected = np.exp(scored.sum(axis=1))
    assert np.abs(rates - expected).max() < 5 * (expected.max() / 20_000) ** 0.5


@pytest.mark.parametrize("policy", POLICIES, ids=["made", "table"])
def test_gradient_is_that_of_the_exact_objective(policy):
    """Eq. 4 summed over all responses, by their probabilities.

    With rewards `Rex + αA^μ` its expectation is the gradient of
    `Σ_y π(y) Σ_h r_h(y) log π(a_h|s_h)` where `π(y)` and the rewards are constants.
    """
    params, every, alpha = _params(policy), jnp.asarray(EVERY), 2.0
    exact = planted.prover_values(TASK, 6.0, after="end")
    states = planted.states(TASK, every)
    values = exact[jnp.arange(5)[None], states]
    outcome = jnp.array([right(tokens) for tokens in EVERY], jnp.float32)
    rewards = outcome[:, None] + alpha * (values[:, 1:] - values[:, :-1])
    mask = planted.trained(TASK, every, with_end=True)
    weights = jnp.exp(planted_rl.log_probs(policy, params, every).sum(axis=1))

    def objective(params):
        scored = planted_rl.log_probs(policy, params, every)
        return -(weights[:, None] * rewards * mask * scored).sum()

    progress = planted_rl.progress_of(TASK, 6.0, after="end", n_mc=0)
    found, rate = jax.grad(
        lambda params: planted_rl.policy_loss(
            policy, params, jax.random.key(5), progress, alpha, config=CONFIG
        ),
        has_aux=True,
    )(params)
    assert rate == pytest.approx(float((weights * outcome).sum()), abs=0.02)
    expected = jax.grad(objective)(params)
    difference = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), found, expected)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert max(map(float, jax.tree.leaves(difference))) < 0.1 * largest


def test_exact_q_is_the_mean_of_the_outcome():
    """Both rewards have one expected gradient, and the exact one has less noise."""
    policy = POLICIES[1]
    base = np.log(planted.prover(TASK, 6.0, after="end"))
    logits = jnp.broadcast_to(jnp.asarray(base, jnp.float32), (4, 5, 4))
    progress = planted_rl.progress_of(TASK, 6.0, after="end", n_mc=0)

    def gradient(exact_q):
        config = FrozenConfigDict(CONFIG.to_dict() | {"exact_q": exact_q})

        def loss(logits):
            params = {"params": {"logits": logits}}
            key = jax.random.key(3)
            return planted_rl.policy_loss(
                policy, params, key, progress, 0.0, config=config
            )[0]

        return jax.grad(loss)(logits)

    outcome, exact = gradient(False), gradient(True)
    assert float(jnp.abs(exact).max()) > 0.1
    np.testing.assert_allclose(outcome, exact, atol=0.012)


def test_estimates_are_means_of_that_many_outcomes():
    progress = planted_rl.progress_of(TASK, 6.0, after="end", n_mc=5)
    states = planted.states(TASK, jnp.zeros((20_000, 4), jnp.int32))
    found = np.asarray(planted_rl.estimate(jax.random.key(0), states, progress, n_mc=5))
    exact = np.asarray(progress[0])[np.arange(5), np.asarray(states)[0]]
    np.testing.assert_allclose(found * 5, np.round(found * 5), atol=1e-5)
    np.testing.assert_allclose(found.mean(axis=0), exact, atol=0.01)
    np.testing.assert_allclose(found.var(axis=0), exact * (1 - exact) / 5, atol=0.003)


def test_run_learns_where_outcomes_are_frequent():
    config = FrozenConfigDict(
        dict(
            batch_size=32, n_mc=0, exact_q=False, train_end=False, tabular=True,
            sft_after="end", sft_gamma=6.0, optimizer="adam", learning_rate=0.1,
            iterations=60, measured=1_000, sft_steps=0, sft_learning_rate=0.0,
        )
    )  # fmt: skip
    keys = jax.random.split(jax.random.key(0), 2)
    progress = planted_rl.progress_of(TASK, 6.0, after="end", n_mc=0)
    curve, before, after = planted_rl.run(keys, progress, 1.0, task=TASK, config=config)
    expected = float(planted.prover_values(TASK, 6.0, after="end")[0, 0])
    np.testing.assert_allclose(before / 1_000, expected, atol=0.06)
    assert curve.shape == (2, 60) and (after > 900).all()
