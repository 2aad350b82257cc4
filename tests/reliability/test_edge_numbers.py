"""Labels, responses and texts at the edge of what there can be: no number is NaN.

All right or all wrong, one continuation, one token, no newline, no problem but one; a
verifier whose parameters are not numbers; texts that name control tokens.
"""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import byte_tokenizer, gemma_like_tokenizer, random_verifier

from pav_jax import labels, metrics, prover, verifier
from pav_jax.core.errors import UserError
from pav_jax.core.types import Problem, Response, StepLabels
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.pipeline import verifiers
from pav_jax.pipeline.curves import _difference
from pav_jax.rl import rewards
from pav_jax.rl.rewards import Objective
from pav_jax.tasks.problems import encode_prompt

FUZZ = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def no_warning():
    """A NaN of numpy warns; here that is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def _response(problem: int, tokens: tuple[int, ...], correct: bool) -> Response:
    return Response(problem, (2, 9), tokens, (-0.5,) * len(tokens), correct)


def _labelled(n_mc: int, steps: int, k: int) -> StepLabels:
    """One step a token; `k` of `n_mc` continuations of each prefix are right."""
    right = [min(k, n_mc)] * steps
    return StepLabels(
        np.arange(steps + 1, dtype=np.int32),
        np.array([*right, int(k > 0)], np.int32),
        np.array([n_mc] * steps + [1], np.int32),
    )


@st.composite
def _problems(draw):
    """Responses to a few problems, their labels, and predictions."""
    responses, found, predicted = [], [], []
    for problem in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(["all right", "all wrong", "mixed"]))
        for number in range(draw(st.integers(1, 3))):
            correct = kind == "all right" or (kind == "mixed" and number % 2 == 0)
            steps = draw(st.integers(1, 4))
            n_mc = draw(st.sampled_from([1, 2, 32]))
            tokens = tuple(draw(st.lists(st.integers(4, 8), min_size=steps - 1)))
            tokens = (*tokens[: steps - 1], 1)
            k = n_mc if correct else 0
            responses.append(_response(problem, tokens, correct))
            found.append(_labelled(n_mc, len(tokens), k))
            same = draw(st.booleans())
            q = [0.5 if same else draw(st.sampled_from([0.0, 1.0, 0.3]))]
            predicted.append(np.array(q * (len(tokens) + 1), np.float32))
    return responses, found, predicted


def _finite(value) -> bool:
    """Whether no number is NaN or infinite; None says that there is none."""
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_finite, value))
    if value is None or isinstance(value, str | bool):
        return True
    return bool(np.isfinite(np.asarray(value, float)).all())


@settings(FUZZ, max_examples=60)
@given(_problems())
def test_what_is_measured(problems):
    responses, found, predicted = problems
    verdicts = [["good"] * (len(x.ends) - 1) for x in found]
    inner = np.concatenate([q[:-1] for q in predicted])
    assert _finite(metrics.outcome_auc(responses, predicted))
    assert _finite(metrics.error_auc(responses, predicted, verdicts))
    assert _finite(metrics.calibration(inner, found))
    assert _finite(verifiers.failures(responses, verdicts))
    for balance in (True, False):
        steps = [verifier.labelled_steps(x) for x in found]
        rows = verifier.verifier_rows(responses, steps, balance=balance)
        assert _finite(list(rows.values())) and (rows["weight"] >= 0).all()
    for labelled in found:
        values = prover.best_of_k(labelled.q, 4)
        assert _finite(values) and _finite(prover.advantages(values))
        assert _finite(prover.failure_power(labelled, 1))


@settings(FUZZ, max_examples=30)
@given(
    correct=st.lists(st.booleans(), min_size=1, max_size=5),
    problems=st.integers(1, 3),
    score=st.sampled_from([0.0, 0.5]),
)
def test_curves_and_intervals(correct, problems, score):
    rows = np.array([correct] * problems)
    scores = np.full(rows.shape, score)
    for n in range(1, len(correct) + 1):
        passed = metrics.pass_at_n(rows, n)
        best = metrics.best_of_n(scores, rows, n)
        votes = metrics.majority_of_n(
            [[None] * len(correct)] * problems, rows, n, seed=0
        )
        for values in (passed, best, votes):
            assert _finite(values) and np.all((values > -1e-9) & (values < 1 + 1e-9))
            mean, (low, high) = metrics.mean_interval(values)
            assert _finite([mean, low, high]) and low <= mean <= high
        mean, (low, high) = _difference(passed, best)
        assert _finite([mean, low, high]) and low <= mean <= high
        assert problems > 1 or (low, high) == (mean - 2, mean + 2)
    assert _finite(metrics.seed_interval(rows.mean(axis=0)))


@pytest.mark.parametrize("outcome", [(0, 0), (1, 1), (1, 0)])
@pytest.mark.parametrize("reward", rewards.REWARDS)
def test_rewards_and_advantages(outcome, reward):
    """Of responses of one token, and of one step, and of a step a token."""
    texts = [(1,), (5, 5, 5, 1)]
    responses = [_response(0, t, bool(o)) for t, o in zip(texts, outcome, strict=True)]
    is_step_end = np.zeros(10, bool)  # no newline: a response is one step
    ends = [labels.step_ends(r.tokens, is_step_end) for r in responses]
    assert [x.tolist() for x in ends] == [[1], [4]]
    weights = {} if reward == "outcome" else dict(alpha=1.0, prover_k=4)
    objective = Objective(reward, "value", kl=0.1, **weights)
    paid = [
        rewards.process_rewards(
            rewards.predicted_values(np.full(2, 0.5), r.correct, objective), objective
        )
        for r in responses
    ]
    batch = rewards.make_batch(responses, ends, paid, length=8)
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    found = rewards.effective_rewards(batch, reward=reward)
    assert _finite(found)
    assert _finite(rewards.group_advantages(batch, found, group=2))
    assert _finite(rewards.masked_std(found, jnp.zeros_like(batch["mask"])))


def test_a_problem_that_is_all_right_or_all_wrong_teaches_a_group_nothing():
    for correct in (True, False):
        responses = [_response(0, (5, 1), correct)] * 4
        ends, paid = [np.array([2])] * 4, [np.zeros(1, np.float32)] * 4
        batch = rewards.make_batch(responses, ends, paid, length=5)
        batch = {name: jnp.asarray(x) for name, x in batch.items()}
        reward = rewards.effective_rewards(batch, reward="outcome")
        found = rewards.group_advantages(batch, reward, group=4)
        assert np.array_equal(found, np.zeros_like(found))


def test_one_continuation_is_enough_for_k_1_only():
    labelled = _labelled(1, 3, 1)
    objective = Objective("progress", "value", kl=0.0, alpha=1.0, n_mc=1)
    assert _finite(rewards.sampled_values(labelled, objective))
    with pytest.raises(UserError, match="1 continuation, but .* raise config.labels"):
        prover.failure_power(labelled, 2)


# A verifier that is not numbers.


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_no_numbers_are_told(value):
    made = random_verifier()
    spoilt = jax.tree.map(lambda leaf: leaf, made.prm)
    spoilt["network"]["final_norm"] = jnp.full_like(
        spoilt["network"]["final_norm"], value
    )
    made = dataclasses.replace(made, prm=spoilt)
    with pytest.raises(UserError, match="not finite.*damaged"):
        made.score(["What?"], ["a\nb"])


# Texts.


def _gemma_like() -> Tokenizer:
    """As Gemma's: the names of control tokens are pieces like those of a text."""
    symbols = ["<mask>", "<start_of_turn>", "<end_of_turn>", "<unused0>", "<unused98>"]
    symbols += ["<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    symbols += ["\n" * k for k in range(1, 5)] + ["<b>", "</b>"]
    return gemma_like_tokenizer(symbols)


GEMMA, BYTES = _gemma_like(), byte_tokenizer()
_PARTS = ["<", ">", "<start_of_turn>", "<end_of_turn>", "<bos>", "<eos>", "<pad>"]
_PARTS += [
    "<unk>",
    "<mask>",
    "<unused0>",
    "<unused98>",
    "<start_",
    "of_turn>",
    "user\n",
]
_PARTS += ["<start_of_image>", "<image_soft_token>", "</s>", "<s>", "\n\n", "<b>", " a"]
_PARTS += ["<0x0A>", "<0x01>", "\u2581", "\ufffd", "é", "\0", "\r\n", "\u202e"]


@settings(FUZZ, max_examples=300)
@given(
    st.lists(st.sampled_from(_PARTS), max_size=8).map("".join) | st.text(max_size=20),
    st.sampled_from([GEMMA, BYTES]),
)
def test_a_text_never_becomes_a_control_token(text, tokenizer):
    control = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, 3}
    control |= set(tokenizer.end_ids)
    names = [f"<{n}>" for n in ("mask", "start_of_turn", "end_of_turn", "unused0")]
    names += ["<unused98>", "<start_of_image>", "<end_of_image>", "<image_soft_token>"]
    model = tokenizer._model
    control |= {model.piece_to_id(n) for n in names} - {model.unk_id()} | {3}
    try:
        ids = tokenizer.encode(text)
    except UserError:
        return
    assert not control & set(ids)
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    "name", ["start_of_turn", "end_of_turn", "mask", "unused98", "image_soft_token"]
)
def test_a_control_token_that_is_a_piece_is_refused_by_name(name):
    with pytest.raises(UserError, match=f"^<{name}> is a control token"):
        GEMMA.encode(f"the answer <{name}> is 42")
    token = GEMMA._model.piece_to_id(f"<{name}>")
    assert GEMMA.decode([token, *GEMMA.encode("42")]) == "42"


def test_marks_of_html_are_text():
    assert GEMMA.decode(GEMMA.encode("<b>42</b>\n\n")) == "<b>42</b>\n\n"


@pytest.mark.parametrize("prompt", ["", " ", "\n", "\t\n "])
@pytest.mark.parametrize("tokenizer", [GEMMA, BYTES])
def test_an_empty_prompt(prompt, tokenizer):
    with pytest.raises(UserError, match="empty prompt"):
        encode_prompt(tokenizer, Problem(prompt, ""), max_tokens=50)


@pytest.mark.parametrize("size", [49, 50, 5000])
def test_a_long_prompt(size, most=50):
    problem = Problem("a" * size, "")
    if size < most:
        tokens = encode_prompt(BYTES, problem, max_tokens=most)
        assert len(tokens) == size + 1 and tokens[0] == BYTES.bos_id
        return
    with pytest.raises(UserError, match="more than the 50 that .*max_prompt_tokens"):
        encode_prompt(BYTES, problem, max_tokens=most)
