"""RL: exact gradients on a task small enough to enumerate, and what is ignored.

The task: a vocabulary of 4 (1 ends the response, 2 ends a step) and responses of at
most 3 tokens, so 40 of them. The policy is a real network, whose probability of every
response is known; so are the gradient of Eq. 4, by differentiating it, and the mean
of the estimator, as a sum over responses.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pav_jax import labels, verifier
from pav_jax.core.errors import UserError
from pav_jax.core.types import Response
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import tiny_gemma2
from pav_jax.rl import update
from pav_jax.rl.rewards import (
    Objective,
    effective_rewards,
    group_advantages,
    make_batch,
    predicted_values,
    process_rewards,
    process_to_go,
    sampled_values,
    step_process_reward,
)

EOS, MOST, VOCAB = 1, 3, 4
IS_STEP_END = np.array([False, False, True, False])
PROMPT = (0, 3)
LENGTH = len(PROMPT) + MOST + 1  # with a column of padding in every row
CONFIG = tiny_gemma2(VOCAB, num_layers=1, embed_dim=8, num_heads=1, mlp_dim=8)


def _enumerate():
    found = []
    for tokens in itertools.product(range(VOCAB), repeat=MOST):
        cut = tokens.index(EOS) + 1 if EOS in tokens else MOST
        if tokens[:cut] not in found:
            found.append(tokens[:cut])
    return found


TEXTS = _enumerate()
RIGHT = np.random.default_rng(0).random(len(TEXTS)) < 0.4
ENDS = [labels.step_ends(text, IS_STEP_END) for text in TEXTS]
RESPONSES = [
    Response(0, PROMPT, text, (-1.0,) * len(text), bool(right))
    for text, right in zip(TEXTS, RIGHT, strict=True)
]


def _objective(**changes):
    fields = dict(reward="progress", baseline="value", kl=0.0) | changes
    if fields["reward"] != "outcome":
        fields = dict(alpha=0.7) | fields
    return Objective(**fields)


@functools.cache
def _params(seed):
    params = forward.init_params(jax.random.key(seed), CONFIG)
    return params | {"embed": 0.6 * params["embed"]}  # no action is near certain


@jax.jit
def _log_probs(params, batch):
    return update.response_log_probs(params, batch, architecture=CONFIG)


@functools.cache
def _probabilities():
    """P(y) of every response, float64."""
    batch = _batch(_objective(reward="outcome"))
    sums = jnp.sum(_log_probs(_params(0), batch) * batch["mask"], axis=1)
    return np.exp(np.asarray(sums, np.float64))


def _own_values():
    """Q^π of every prefix of every response, by enumeration."""
    chances = _probabilities()

    def value(prefix):
        inside = [text[: len(prefix)] == prefix for text in TEXTS]
        return np.sum((chances * RIGHT)[inside]) / np.sum(chances[inside])

    return [
        np.array([value(text[:end]) for end in [0, *ends]])
        for text, ends in zip(TEXTS, ENDS, strict=True)
    ]


def _prover_values():
    """Q^μ of some other policy: any number, but one for each prefix, and of a whole
    response its outcome."""
    rng = np.random.default_rng(1)
    table = dict(zip(TEXTS, np.float64(RIGHT), strict=True))
    for text, ends in zip(TEXTS, ENDS, strict=True):
        for end in [0, *ends]:
            table.setdefault(text[:end], rng.random())
    return [
        np.array([table[text[:end]] for end in [0, *ends]])
        for text, ends in zip(TEXTS, ENDS, strict=True)
    ]


def _paid(q, correct, objective):
    values = predicted_values(q, correct, objective)
    return process_rewards(values, objective)


def _batch(objective, q=None, length=LENGTH):
    process = [np.zeros(len(ends), np.float32) for ends in ENDS]
    if q is not None:
        process = [
            _paid(values, response.correct, objective)
            for values, response in zip(q, RESPONSES, strict=True)
        ]
    batch = make_batch(RESPONSES, ENDS, process, length=length)
    return jax.tree.map(jnp.asarray, batch)


def _steps():
    """(state, action) -> a response that has it, where, and which step of it."""
    return {
        (text[:start], text[start:stop]): (row, start, stop, h)
        for row, (text, ends) in enumerate(zip(TEXTS, ENDS, strict=True))
        for h, (start, stop) in enumerate(itertools.pairwise([0, *ends]))
    }


@jax.jit
@jax.grad
def _objective_gradient(params, batch, before, during, row, progress):
    """Of Rex, and of `progress` `[S]` of every step at the states of π' = π."""
    log_probs = update.response_log_probs(params, batch, architecture=CONFIG)
    rex = jnp.sum(jnp.exp(jnp.sum(log_probs * batch["mask"], 1)) * RIGHT)
    visit = jnp.exp(jnp.sum(log_probs[row] * before, axis=1))
    action = jnp.exp(jnp.sum(log_probs[row] * during, axis=1))
    return rex + jnp.sum(jax.lax.stop_gradient(visit) * action * progress)


def _exact_gradient(q=None, alpha=0.0):
    """Of Eq. 4, by differentiating it."""
    rows, starts, stops, hs = map(np.array, zip(*_steps().values(), strict=True))
    places = np.arange(LENGTH)[None] - len(PROMPT)
    starts, stops = starts[:, None], stops[:, None]
    progress = np.zeros(len(rows))
    if q is not None:
        progress += [q[r][h + 1] - q[r][h] for r, h in zip(rows, hs, strict=True)]
    return _objective_gradient(
        _params(0),
        _batch(_objective(reward="outcome")),
        jnp.float32((places >= 0) & (places < starts)),
        jnp.float32((places >= starts) & (places < stops)),
        rows,
        jnp.float32(alpha * progress),
    )


@jax.jit
def _mean_gradient(params, batch, rewards, baseline, chances):
    """Mean of the estimator over responses, as the loss gives it."""

    def loss(params):
        log_probs = update.response_log_probs(params, batch, architecture=CONFIG)
        # A mean over all 40, each as often as the policy gives it.
        weight = (chances * len(TEXTS)).reshape(-1, 1)
        return update.policy_loss(
            log_probs, log_probs, weight * (rewards - baseline), batch["mask"], kl=0.0
        )

    return jax.tree.map(jnp.negative, jax.grad(loss)(params))


_rewards = jax.jit(effective_rewards, static_argnames="reward")
_values = jax.jit(
    functools.partial(update.token_values, baseline="value", architecture=CONFIG)
)


def _estimate(batch, reward, baseline=None):
    rewards = _rewards(batch, reward=reward)
    baseline = jnp.zeros_like(rewards) if baseline is None else baseline
    chances = jnp.asarray(_probabilities(), jnp.float32)
    return _mean_gradient(_params(0), batch, rewards, baseline, chances)


def _check_near(ours, exact, rtol=2e-4):
    ours, exact = (
        np.concatenate([x.ravel() for x in jax.tree.leaves(t)]) for t in (ours, exact)
    )
    assert np.linalg.norm(exact) > 1e-2
    assert np.linalg.norm(ours - exact) < rtol * np.linalg.norm(exact)


# Gradients.


def test_the_probabilities_sum_to_one():
    assert len(TEXTS) == 40
    assert np.sum(_probabilities()) == pytest.approx(1.0, abs=1e-5)
    assert 0.2 < np.sum(_probabilities() * RIGHT) < 0.8
    assert max(len(ends) for ends in ENDS) == 3


def test_outcome_gradient():
    ours = _estimate(_batch(_objective(reward="outcome")), "outcome")
    _check_near(ours, _exact_gradient())


@pytest.mark.parametrize("alpha", [0.7, 5.0])
def test_effective_reward_gradient(alpha):
    q = _prover_values()
    objective = _objective(alpha=alpha)
    ours = _estimate(_batch(objective, q), "progress")
    _check_near(ours, _exact_gradient(q, alpha))


def test_a_prover_that_is_the_policy_changes_only_the_scale():
    objective = _objective(alpha=1.5)
    ours = _estimate(_batch(objective, _own_values()), "progress")
    outcome = _exact_gradient()
    _check_near(ours, jax.tree.map(lambda g: 2.5 * g, outcome))


def test_the_provers_value_paid_to_its_own_step_is_no_control():
    """It is `αA^μ` plus a function of the state: the gradient is that of Eq. 4."""
    q, alpha = _prover_values(), 1.5
    paid = [np.float32(alpha * values[1:]) for values in q]
    batch = jax.tree.map(jnp.asarray, make_batch(RESPONSES, ENDS, paid, length=LENGTH))
    _check_near(_estimate(batch, "progress"), _exact_gradient(q, alpha))


def test_value_to_go_gradient():
    """Of `E[Rex + α Σ_h Q^μ(s_h, a_h)]`, the states being those of π and not of π'."""
    q, alpha = _prover_values(), 1.5
    objective = _objective(alpha=alpha, reward="value_to_go")
    batch = _batch(objective, q)
    totals = RIGHT + alpha * np.array([np.sum(values[1:]) for values in q])

    @jax.jit
    @jax.grad
    def exact(params):
        log_probs = update.response_log_probs(params, batch, architecture=CONFIG)
        chances = jnp.exp(jnp.sum(log_probs * batch["mask"], axis=1))
        return jnp.sum(chances * totals)

    wanted = exact(_params(0))
    _check_near(_estimate(batch, "value_to_go"), wanted)
    with pytest.raises(AssertionError):  # and this is not Eq. 4's
        _check_near(_exact_gradient(q, alpha), wanted, rtol=0.1)


@pytest.mark.parametrize("reward", ["outcome", "progress", "value_to_go"])
def test_value_to_go_teaches_to_restate(reward):
    """The paper's failure, in closed form.

    Each step either restates the problem, with probability r, or answers, and then is
    right with probability v; the fourth step answers. So every state has the value v,
    E[Rex] is v for every r, and a response has `1 + r + r² + r³` steps on average.
    """
    r, v, alpha, most = 0.6, 0.3, 2.0, 4
    weight = dict(alpha=0.0 if reward == "outcome" else alpha)
    objective = _objective(reward=reward, **weight)
    found = 0.0
    for restated in range(most):
        forced = restated == most - 1
        chance = r**restated * (1.0 if forced else 1 - r)
        # d/dr of the log-probability of each step.
        score = np.array([1 / r] * restated + [0.0 if forced else -1 / (1 - r)])
        ends = np.arange(1, restated + 2)
        for correct in (True, False):
            text = (2,) * restated + (EOS,)
            response = Response(0, PROMPT, text, (-1.0,) * len(text), correct)
            q = np.full(restated + 2, v)
            paid = _paid(q, correct, objective)
            if not objective.has_step_rewards:
                paid = np.zeros_like(paid)
            batch = make_batch([response], [ends], [paid], length=LENGTH + 2)
            tokens = np.asarray(_rewards(batch, reward=reward))[batch["mask"] > 0]
            found += chance * (v if correct else 1 - v) * np.sum(score * tokens)
    # Of α v E[steps]; the others have nothing to say about r.
    wanted = alpha * v * (1 + 2 * r + 3 * r**2) if reward == "value_to_go" else 0.0
    assert found == pytest.approx(wanted, abs=1e-5)


def test_a_baseline_changes_no_mean():
    """It may depend on all that is before a token, but the token itself."""
    value = update.init_value(_params(1), CONFIG)
    value["head"]["w"] = jnp.linspace(-1.0, 2.0, CONFIG.embed_dim)
    batch = _batch(_objective(), _prover_values())
    baseline = _values(value, batch)
    assert np.std(np.asarray(baseline)[np.asarray(batch["mask"]) > 0]) > 0.3
    _check_near(_estimate(batch, "progress", baseline), _estimate(batch, "progress"))


@functools.cache
def _verifier():
    """A verifier whose head is not at its start, where Q is 0.5 everywhere."""
    made = verifier.init_verifier(jax.random.key(3), _params(1), CONFIG)
    head = dict(made["head"])
    head["value"] = jnp.linspace(-1.0, 2.0, CONFIG.embed_dim)
    head["evidence"] = jnp.linspace(0.5, -0.3, CONFIG.embed_dim)
    return made | {"head": head}


def test_a_verifier_as_baseline():
    """It starts from a verifier's Q before each token, changes no gradient, learns."""
    batch = _batch(_objective(reward="outcome"))
    objective = _objective(kl=0.0, reward="outcome", baseline="verifier")
    state = update.init_state(
        _params(0), objective, SGD, architecture=CONFIG, verifier=_verifier()
    )
    assert state.verifier is None  # not a second copy
    values = jax.jit(
        functools.partial(update.token_values, baseline="verifier", architecture=CONFIG)
    )(state.value, batch)
    q = jax.jit(functools.partial(verifier.step_values, architecture=CONFIG))(
        _verifier(), batch["tokens"]
    )
    np.testing.assert_allclose(values[:, 1:], q[:, :-1], rtol=1e-6)
    assert np.std(q) > 0.05
    _check_near(_estimate(batch, "outcome", values), _exact_gradient())
    step = update.make_update(objective, SGD, architecture=CONFIG, group=4)
    _, first = step(state, _params(1), batch)
    error = jnp.square(values - _rewards(batch, reward="outcome"))
    mean = jnp.sum(error * batch["mask"]) / jnp.sum(batch["mask"])
    assert first["value_error"] == pytest.approx(float(mean), rel=1e-4)


def test_the_kl_gradient():
    """Of KL(π || π_0) at each state visited, summed over the vocabulary."""
    batch = _batch(_objective())
    chances = jnp.asarray(_probabilities(), jnp.float32).reshape(-1, 1)
    initial = _log_probs(_params(1), batch)

    def exact(params):
        both = [
            jax.nn.log_softmax(
                forward.logits(
                    p,
                    forward.hidden_states(p, batch["tokens"], architecture=CONFIG),
                    architecture=CONFIG,
                )
            )
            for p in (params, _params(1))
        ]
        kl = jnp.sum(jnp.exp(both[0]) * (both[0] - both[1]), axis=-1)
        return jnp.sum(chances * kl[:, :-1] * batch["mask"][:, 1:])

    def ours(params):
        log_probs = update.response_log_probs(params, batch, architecture=CONFIG)
        # The loss is a sum over rows of what is linear in the mask.
        mask = batch["mask"] * chances * len(TEXTS)
        return update.policy_loss(log_probs, initial, 0.0 * mask, mask, kl=1.0)

    _check_near(*(jax.jit(jax.grad(f))(_params(0)) for f in (ours, exact)))


# Rewards.


def test_process_rewards_by_hand():
    q = np.array([0.5, 0.25, 0.75], np.float32)
    right, wrong = (functools.partial(_paid, q, correct) for correct in (True, False))
    ours = right(_objective(alpha=2.0))
    np.testing.assert_allclose(ours, [-0.5, 1.5])
    assert ours.dtype == np.float32
    np.testing.assert_allclose(wrong(_objective(alpha=2.0)), [-0.5, -0.5])
    bo2 = _objective(alpha=1.0, prover_k=2)
    np.testing.assert_allclose(right(bo2), [0.4375 - 0.75, 1.0 - 0.4375])
    bad = _objective(alpha=2.0, reward="value_to_go")
    np.testing.assert_allclose(right(bad), [0.5, 2.0])
    assert q[-1] == 0.75  # not written to


def test_values_by_continuations():
    counts = labels.StepLabels(
        np.array([0, 2, 5]), np.array([1, 3, 0]), np.array([4, 4, 1])
    )
    ours = sampled_values(counts, _objective(prover_k=2, n_mc=4))
    # Of the pairs of continuations, 3 of 6 hold the only right one; then all do.
    np.testing.assert_allclose(ours, [0.5, 1.0, 0.0])
    assert ours.dtype == np.float32
    own = sampled_values(counts, _objective(prover_k=1, n_mc=4))
    np.testing.assert_allclose(own, [0.25, 0.75, 0.0])
    with pytest.raises(UserError, match="n_mc=3 .* Bo4 .* fewer than 4"):
        _objective(prover_k=4, n_mc=3)
    with pytest.raises(UserError, match="refresh_every=9 .* no verifier"):
        _objective(n_mc=4, refresh_every=9)
    with pytest.raises(UserError, match="prover='mu' .* no verifier"):
        _objective(n_mc=4, prover="mu")
    with pytest.raises(UserError, match="refresh_every=9 .* prover='mu': .* either"):
        _objective(prover="mu", refresh_every=9)
    with pytest.raises(UserError, match='baseline="verifier" .* reward="progress"'):
        _objective(baseline="verifier")


def _one():
    """Steps of 2, 1 and 2 tokens; the prompt has two, and padding follows."""
    response = Response(0, PROMPT, (3, 2, 2, 0, 1), (-1.0,) * 5, True)
    ends = labels.step_ends(response.tokens, IS_STEP_END)
    paid = np.array([0.3, -0.1, 0.25], np.float32)
    return make_batch([response], [ends], [paid], length=9)


def test_rewards_reach_their_own_steps():
    batch = _one()
    assert {str(x.dtype) for x in batch.values()} == {"int32", "bool", "float32"}
    np.testing.assert_array_equal(
        batch["process_reward"][0], np.float32([0, 0, 0, 0.3, -0.1, 0, 0.25, 0, 0])
    )
    assert batch["outcome"][0].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert batch["mask"][0].tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]
    own = step_process_reward(batch)
    expected = np.float32([[0, 0, 0.3, 0.3, -0.1, 0.25, 0.25, 0, 0]])
    np.testing.assert_array_equal(own, expected)
    ours = _rewards(batch, reward="progress")
    np.testing.assert_allclose(ours, expected + batch["mask"])
    assert ours.dtype == jnp.float32


def test_rewards_to_go_reach_their_own_steps_and_those_before():
    """Against a loop over steps; what padding holds is not counted."""
    batch = _batch(_objective(reward="value_to_go"), _prover_values())
    outside = np.asarray(batch["mask"]) == 0
    paid = np.where(outside, 9.0, batch["process_reward"]).astype(np.float32)
    expected = np.zeros_like(paid)
    for row, ends in enumerate(ENDS):
        for h, (start, stop) in enumerate(itertools.pairwise([0, *ends])):
            later = sum(paid[row, len(PROMPT) + end - 1] for end in ends[h:])
            expected[row, len(PROMPT) + start : len(PROMPT) + stop] = later
    ours = process_to_go(batch | {"process_reward": paid})
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(
        _rewards(batch, reward="value_to_go"),
        (expected + RIGHT[:, None]) * batch["mask"],
        atol=1e-6,
    )


def test_a_moved_step_boundary_moves_its_reward():
    moved = _one()
    for name in ("step_end", "process_reward"):
        moved[name] = moved[name].copy()
    moved["step_end"][0, 3], moved["step_end"][0, 2] = False, True
    moved["process_reward"][0, 3], moved["process_reward"][0, 2] = 0.0, 0.3
    ours = step_process_reward(moved)
    np.testing.assert_array_equal(
        ours, np.float32([[0, 0, 0.3, -0.1, -0.1, 0.25, 0.25, 0, 0]])
    )


def test_the_matched_outcome_has_the_spread_of_progress():
    batch = _batch(_objective(alpha=3.0), _prover_values())
    on = np.asarray(batch["mask"]) > 0
    rewards = {
        name: np.asarray(_rewards(batch, reward=name))[on]
        for name in ("outcome", "progress", "matched")
    }
    assert np.std(rewards["progress"]) > 1.2 * np.std(rewards["outcome"])
    assert np.std(rewards["matched"]) == pytest.approx(
        np.std(rewards["progress"]), 1e-4
    )
    ratio = rewards["matched"][rewards["outcome"] > 0]
    np.testing.assert_allclose(ratio, ratio[0])
    # Where all outcomes are alike there is no spread to match.
    batch["outcome"] = jnp.zeros_like(batch["outcome"])
    assert not np.any(_rewards(batch, reward="matched"))


def test_group_advantages_by_hand():
    rows = [
        RESPONSES[i] for i in (*np.flatnonzero(RIGHT)[:1], *np.flatnonzero(~RIGHT)[:5])
    ]
    ends = [labels.step_ends(r.tokens, IS_STEP_END) for r in rows]
    paid = [np.full(len(e), 0.125, np.float32) for e in ends]
    batch = make_batch(rows, ends, paid, length=LENGTH)
    rewards = _rewards(batch, reward="progress")
    ours = np.asarray(group_advantages(batch, rewards, group=3))
    mean, spread = 1 / 3, np.sqrt(2) / 3
    wanted = [(1 - mean) / spread, -mean / spread, -mean / spread, 0, 0, 0]
    expected = (np.array(wanted)[:, None] + 0.125) * batch["mask"]
    np.testing.assert_allclose(ours, expected, atol=1e-3)


def test_unknown_names():
    with pytest.raises(UserError, match="'pav'.*outcome, progress"):
        _objective(reward="pav")
    with pytest.raises(UserError, match="'none'.*value, group"):
        _objective(baseline="none")


def test_controls_have_no_group_baseline():
    with pytest.raises(UserError, match='"matched".*use baseline="value"'):
        _objective(reward="matched", baseline="group")
    with pytest.raises(UserError, match='"value_to_go".*use baseline="value"'):
        _objective(reward="value_to_go", baseline="group")


@pytest.mark.parametrize("reward", ["progress", "value_to_go", "matched"])
def test_process_rewards_that_weigh_nothing(reward):
    """They would be ORM-RL by another name, as a method without alpha was."""
    words = f'reward="{reward}" .* alpha=0, which .* write reward="outcome"'
    with pytest.raises(UserError, match=words):
        _objective(reward=reward, alpha=0.0)
    with pytest.raises(UserError, match=words):
        Objective(reward=reward, baseline="value", kl=0.0)


@pytest.mark.parametrize("baseline", ["value", "group", "verifier"])
@pytest.mark.parametrize(("name", "value"), [("alpha", 0.5), ("n_mc", 4)])
def test_fields_of_process_rewards_where_there_are_none(baseline, name, value):
    with pytest.raises(UserError, match=rf'{name}={value} .* reward="outcome", which'):
        _objective(reward="outcome", baseline=baseline, **{name: value})
    with pytest.raises(UserError, match=r'prover_k=4 .* reward="outcome", which'):
        _objective(reward="outcome", baseline=baseline, prover_k=4)
    nothing = dict(alpha=0.0, n_mc=0, prover_k=1)  # as they are by default
    plain = _objective(reward="outcome", baseline=baseline)
    assert _objective(reward="outcome", baseline=baseline, **nothing) == plain


def test_the_former_control_is_refused():
    words = 'reward="value" .* reward="progress" .*Write reward="value_to_go"'
    with pytest.raises(UserError, match=words):
        _objective(reward="value")


# One update.

SGD = (optax.sgd(0.1), optax.sgd(0.3))
OBJECTIVE = _objective(kl=0.1)


@functools.cache
def _update(baseline):
    objective = _objective(kl=0.1, baseline=baseline)
    return update.make_update(objective, SGD, architecture=CONFIG, group=4)


def _state(baseline="value"):
    objective = _objective(kl=0.1, baseline=baseline)
    state = update.init_state(_params(0), objective, SGD, architecture=CONFIG)
    if baseline == "value":  # not zero everywhere
        state.value["head"]["w"] = jnp.linspace(-1.0, 2.0, CONFIG.embed_dim)
    return state


def _full():
    return _batch(OBJECTIVE, _prover_values())


def test_an_update_by_hand():
    batch = _full()
    new, metrics = _update("value")(_state(), _params(1), batch)
    rewards = _rewards(batch, reward="progress")
    initial = _log_probs(_params(1), batch)
    mask = batch["mask"]

    def value_loss(value):
        error = jnp.square(_values(value, batch) - rewards)
        return jnp.sum(error * mask) / jnp.sum(mask)

    initial_value = _state().value
    values = _values(initial_value, batch)

    def loss(params):
        log_probs = update.response_log_probs(params, batch, architecture=CONFIG)
        gain = (rewards - values) * log_probs
        cost = 0.05 * (log_probs - initial) ** 2
        return jnp.sum(jnp.where(mask > 0, cost - gain, 0.0)) / len(TEXTS)

    @jax.jit
    def expected():
        return jax.grad(loss)(_params(0)), jax.grad(value_loss)(initial_value)

    policy, value = expected()
    for old, grads, found, rate in (
        (_params(0), policy, new.policy, 0.1),
        (initial_value, value, new.value, 0.3),
    ):
        jax.tree.map(
            lambda p, g, f, rate=rate: np.testing.assert_allclose(
                f, p - rate * g, atol=2e-5
            ),
            old,
            grads,
            found,
        )
    assert new.step == 1
    gap = np.abs(np.asarray(_log_probs(_params(0), batch)) + 1.0)  # the sampler's: -1
    assert metrics["log_prob_gap"] == pytest.approx(float(np.max(gap * mask)), rel=1e-4)
    assert float(metrics["value_error"]) == pytest.approx(
        float(value_loss(initial_value)), 1e-4
    )
    ratio = np.asarray(_log_probs(_params(0), batch) - initial)
    assert float(metrics["kl"]) == pytest.approx(
        float(np.sum(ratio * mask) / np.sum(mask)), rel=1e-4
    )


def test_at_the_initial_policy_there_is_no_kl():
    _, metrics = _update("value")(_state(), _params(0), _full())
    assert metrics["kl"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("baseline", ["value", "group"])
def test_what_is_after_the_end_changes_nothing(baseline):
    batch = _full()
    outside = np.asarray(batch["mask"]) == 0
    outside[:, : len(PROMPT)] = False
    noise = np.random.default_rng(2)
    changed = {name: np.array(x) for name, x in batch.items()}
    changed["tokens"][outside] = noise.integers(0, VOCAB, outside.sum())
    for name in ("process_reward", "sampled"):
        changed[name][outside] = noise.normal(size=outside.sum())
    changed["step_end"][outside] = True
    assert np.any(changed["tokens"] != np.asarray(batch["tokens"]))
    ours = _update(baseline)(_state(baseline), _params(1), batch)
    again = _update(baseline)(_state(baseline), _params(1), changed)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("field", ["tokens", "process_reward", "outcome", "mask"])
def test_what_is_before_the_end_counts(field):
    batch = {name: np.array(x) for name, x in _full().items()}
    row = max(range(len(TEXTS)), key=lambda i: len(ENDS[i]))
    place = len(PROMPT) + ENDS[row][0] - 1
    # A copy: the update may still be reading the arrays that it was given.
    changed = batch | {field: batch[field].copy()}
    changed[field][row, place] = (batch[field][row, place] + 1) % VOCAB
    ours, again = (
        _update("value")(_state(), _params(1), rows)[0].policy
        for rows in (batch, changed)
    )
    moved = jax.tree.map(lambda a, b: float(jnp.max(jnp.abs(a - b))), ours, again)
    assert max(jax.tree.leaves(moved)) > 1e-4
