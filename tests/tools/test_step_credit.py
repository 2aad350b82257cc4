"""`pav_jax.step_rewards`: against our own RL, and against plain loops."""

import doctest

import jax
import numpy as np
import pytest
from tiny import random_verifier

from pav_jax import UserError, step_rewards, verifier
from pav_jax.core.types import Response
from pav_jax.rl import rewards as rl_rewards
from pav_jax.rl.rewards import Objective
from pav_jax.tools import step_credit
from pav_jax.tools.scoring import Verifier
from pav_jax.tools.step_credit import StepRewards

ALPHA, K = 3.0, 4
PROMPTS = ["What is 1 + 1?", "And 2 + 2\n", "Say it."]
RESPONSES = ["1 + 1\nis 2", "x", "one\ntwo is longer\n\n  \nthree\n"]
SPANS = [
    [(0, 6), (6, 10)],
    [(0, 1)],
    [(0, 4), (4, 22), (22, 28)],  # blank lines are of the step before
]


@pytest.fixture(scope="module")
def judge():
    return random_verifier()


_step_values = jax.jit(verifier.step_values, static_argnames="architecture")


def _q(judge, text: str) -> np.ndarray:
    """Q before and after each character of a text, and after the end token."""
    ids = [judge.tokenizer.bos_id, *judge.tokenizer.encode(text)]
    ids.append(judge.tokenizer.eos_id)
    row = np.zeros((1, judge.max_tokens), np.int32)
    row[0, : len(ids)] = ids
    q = _step_values(judge.prm, row, architecture=judge.architecture)
    return np.asarray(q[0, : len(ids)])


@pytest.mark.parametrize("outcomes", [None, [1, 0, 0.25]])
def test_rewards_are_those_of_our_rl(judge, outcomes):
    found = step_rewards(PROMPTS, RESPONSES, judge, ALPHA, K, outcomes=outcomes)
    scores = judge.score(PROMPTS, RESPONSES)
    objective = Objective("progress", "group", kl=0.0, alpha=ALPHA, prover_k=K)
    for place, (paid, row) in enumerate(zip(found, scores, strict=True)):
        assert paid.spans.tolist() == [list(span) for span in SPANS[place]]
        q = np.array([row.prompt_q, *(step.q for step in row.steps)])
        last = q[-1] if outcomes is None else outcomes[place]
        value = rl_rewards.predicted_values(q, last, objective)
        expected = rl_rewards.process_rewards(value, objective)
        np.testing.assert_allclose(paid.rewards, expected, atol=1e-6)
        assert paid.rewards.dtype == np.float32
        by_hand = [
            ALPHA * ((1 - before) ** K - (1 - after) ** K)
            for before, after in zip(q, [*q[1:-1], last], strict=False)
        ]
        np.testing.assert_allclose(paid.rewards, by_hand, atol=1e-5)
        # Why they must not be summed: of the steps between, nothing is left.
        total = ALPHA * ((1 - q[0]) ** K - (1 - last) ** K)
        assert paid.rewards.sum() == pytest.approx(total, abs=1e-5)
    assert len({round(float(r), 4) for paid in found for r in paid.rewards}) == 6


def test_tokens_are_paid_as_in_our_rl(judge):
    """With the verifier's own tokens the two are the same, token for token."""
    prompts, texts = PROMPTS[:2], ["1 + 1\nis 2\nso", "x"]
    found = step_rewards(prompts, texts, judge, ALPHA, K)
    encoded = [judge.encode(*pair) for pair in zip(prompts, texts, strict=True)]
    starts = [int(row.ends[0]) for row in encoded]
    responses = [
        Response(0, tuple(row.tokens[:n]), tuple(row.tokens[n:]), (0.0,), False)
        for row, n in zip(encoded, starts, strict=True)
    ]
    batch = rl_rewards.make_batch(
        responses,
        [row.ends[1:] - n for row, n in zip(encoded, starts, strict=True)],
        [paid.rewards for paid in found],
        length=40,
    )
    expected = np.asarray(rl_rewards.step_process_reward(batch))
    for place, (paid, response) in enumerate(zip(found, responses, strict=True)):
        text = texts[place]
        offsets = [*((i, i + 1) for i in range(len(text))), (0, 0)]  # and the end token
        row = expected[place, starts[place] :][: len(offsets)]
        np.testing.assert_array_equal(paid.on_offsets(offsets), row)
        tokens = paid.on_tokens(response.tokens, judge.tokenizer.decode)
        np.testing.assert_array_equal(tokens, row)


def _paid_by_loop(paid, pieces):
    """Tokens that are texts, some of them empty, one after the other."""
    out, place, last = [], 0, None
    real = [piece for piece in pieces if piece]
    for piece in pieces:
        if piece or last is None:
            start = place
            last = 0.0
            for (first, stop), reward in zip(paid.spans, paid.rewards, strict=True):
                if first <= start < stop or (not real and paid.length == 0):
                    last = reward
        place += len(piece)
        out.append(last)
    return np.array(out, np.float32)


def test_any_tokens():
    """Tokens that span the ends of steps, or have no characters, against a loop."""
    rng = np.random.default_rng(0)
    text = "".join(chr(97 + i % 26) for i in range(40))
    for spans in ([(0, 40)], [(0, 7), (7, 8), (8, 40)], [(3, 9), (9, 20), (25, 39)]):
        paid = StepRewards(
            np.array(spans, np.int32),
            np.arange(1, len(spans) + 1, dtype=np.float32),
            len(text),
        )
        for _ in range(30):
            cuts = np.sort(rng.integers(0, 41, size=rng.integers(0, 25)))
            bounds = [0, *cuts.tolist(), 40]
            offsets = list(zip(bounds, bounds[1:], strict=False))
            while offsets[0][0] == offsets[0][1]:  # see the docstring: it has no before
                offsets = offsets[1:]
            pieces = [text[start:stop] for start, stop in offsets]
            expected = _paid_by_loop(paid, pieces)
            np.testing.assert_array_equal(paid.on_offsets(offsets), expected)
            as_special = [(0, 0) if a == b else (a, b) for a, b in offsets]
            np.testing.assert_array_equal(paid.on_offsets(as_special), expected)
            ids = list(range(len(pieces)))

            def decode(some, pieces=pieces):
                return "".join(pieces[i] for i in some)

            np.testing.assert_array_equal(paid.on_tokens(ids, decode), expected)
    assert paid.on_offsets([]).shape == (0,)


def test_a_character_of_several_tokens(judge):
    """Bytes decode to a character only together, which is of the step it is in."""
    steps = ["ab\n", "\u65e5 2\u65e5\n", "\u00e9\n", "\u65e5"]
    (paid,) = step_rewards(["?"], ["".join(steps)], judge, ALPHA, K)
    tokens = judge.tokenizer.encode("".join(steps))
    assert len(tokens) == len("".join(steps).encode())
    found = paid.on_tokens(tokens, judge.tokenizer.decode)
    expected = np.repeat(paid.rewards, [len(step.encode()) for step in steps])
    np.testing.assert_array_equal(found, expected)


def test_an_empty_response_is_the_end_token(judge):
    (paid,) = step_rewards(["?"], [""], judge, ALPHA, K, outcomes=[1.0])
    before = _q(judge, "?\n")[2]
    expected = [ALPHA * (1 - before) ** K]
    np.testing.assert_allclose(paid.on_offsets([(0, 0)]), expected, atol=1e-5)
    tokens = paid.on_tokens([judge.tokenizer.eos_id], judge.tokenizer.decode)
    np.testing.assert_allclose(tokens, expected, atol=1e-5)


def test_a_step_is_a_turn(judge):
    """Turns of several lines, and a tool that answers between them."""
    prompt, text = "Add.", "I call\nadd(1,2)\n[3]\nIt is 3.\nSo 3.\n"
    turns = [(0, 15), (20, 34)]
    assert [text[a:b] for a, b in turns] == ["I call\nadd(1,2)", "It is 3.\nSo 3."]
    (paid,) = step_rewards([prompt], [text], judge, ALPHA, K, step_ends=[turns])
    assert paid.spans.tolist() == [[0, 16], [20, 35]]
    q = _q(judge, f"{prompt}\n{text}"[:-1])  # the end token is where the newline was
    start = len(prompt) + 1
    values = [q[start], q[start + 16], q[start + 20], q[start + 35]]
    by_hand = [
        ALPHA * ((1 - values[0]) ** K - (1 - values[1]) ** K),
        ALPHA * ((1 - values[2]) ** K - (1 - values[3]) ** K),
    ]
    np.testing.assert_allclose(paid.rewards, by_hand, atol=1e-5)
    chars = paid.on_offsets([(i, i + 1) for i in range(len(text))])
    np.testing.assert_array_equal(chars[:16], paid.rewards[0])
    np.testing.assert_array_equal(chars[16:20], 0)  # the tool
    np.testing.assert_array_equal(chars[20:], paid.rewards[1])


def test_spans_of_lines_are_the_lines(judge):
    texts = ["1 + 1\nis 2", "x", "one\ntwo is longer\nthree"]
    spans = [[(0, 5), (6, 10)], [(0, 1)], [(0, 3), (4, 17), (18, 23)]]
    plain = step_rewards(PROMPTS, texts, judge, ALPHA, K)
    found = step_rewards(PROMPTS, texts, judge, ALPHA, K, step_ends=spans)
    for one, other in zip(plain, found, strict=True):
        np.testing.assert_array_equal(one.spans, other.spans)
        np.testing.assert_allclose(one.rewards, other.rewards, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"responses": ["x"]}, "2 prompts, but 1 responses"),
        ({"outcomes": [1]}, "2 prompts, but 1 outcomes"),
        ({"outcomes": [1, 2]}, "outcome 1 is 2; from 0"),
        ({"outcomes": [1, float("nan")]}, "outcome 1 is nan"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"unscorable": "skip"}, "unscorable='skip' must be 'raise' or 'zero'"),
        ({"prover_k": 0}, "prover_k=0 must be at least 1"),
        ({"responses": ["x", "y" * 99]}, "response 1: the prompt has"),
        ({"step_ends": [[(0, 1)]]}, "2 prompts, but 1 step_ends"),
        ({"step_ends": [[(0, 1)], []]}, "response 1: step_ends are empty"),
        ({"step_ends": [[(0, 1)], [3]]}, "response 1: step_ends are not a list of"),
        ({"step_ends": [[(0, 1)], [(0, 1, 2)] * 2]}, "are not a list of"),
        ({"step_ends": [[(0, 2)], [(0, 1)]]}, "response 0: step 0 .* within 0 and 1"),
        ({"step_ends": [[(0, 1)], [(0, 2), (1, 3)]]}, "step 1 .*within 2 and 3"),
        ({"step_ends": [[(0, 1)], [(0, 1), (1, 2)]]}, r"step 1 .*\(1, 2\), is blank"),
        (
            {"responses": ["x", "y" * 99], "step_ends": [[(0, 1)], [(0, 99)]]},
            "response 1: with its prompt it has 103 tokens, more than the 100",
        ),
    ],
)
def test_bad_arguments(judge, changes, words):
    given = {"prompts": ["?", "?"], "responses": ["x", "y z"], "verifier": judge}
    given |= {"alpha": ALPHA, "prover_k": K} | changes
    with pytest.raises(UserError, match=words):
        step_rewards(**given)


def test_what_cannot_be_scored_is_paid_nothing(judge, caplog):
    """And the others of the batch are paid what they are without it."""
    bad = "so \u2581\nis 2\n"  # which a vocabulary of SentencePiece never has
    prompts = ["?", PROMPTS[0], "?", "?", "\u2581"]
    texts = [bad, RESPONSES[0], "\u2581", "y\n" * 50, "x"]
    outcomes = [1, 0.5, 0, 1, 1]
    with pytest.raises(UserError, match="response 0: the vocabulary cannot represent"):
        step_rewards(prompts, texts, judge, ALPHA, K, outcomes=outcomes)
    found = step_rewards(
        prompts, texts, judge, ALPHA, K, outcomes=outcomes, unscorable="zero"
    )
    (record,) = caplog.records
    words = "4 of 5 responses cannot be scored, and their steps are paid 0, such as"
    assert f"{words} response 0: the vocabulary" in record.getMessage()
    (alone,) = step_rewards(prompts[1:2], texts[1:2], judge, ALPHA, K, outcomes=[0.5])
    np.testing.assert_array_equal(found[1].spans, alone.spans)
    np.testing.assert_allclose(found[1].rewards, alone.rewards, atol=1e-6)
    assert np.all(alone.rewards != 0)
    assert found[0].spans.tolist() == [[0, 5], [5, 10]]
    assert [len(paid.rewards) for paid in found] == [2, 2, 1, 50, 1]
    for place in (0, 2, 3, 4):
        paid, text = found[place], texts[place]
        assert paid.length == len(text) and paid.rewards.dtype == np.float32
        for tokens in (
            paid.rewards,
            paid.on_offsets([(i, i + 1) for i in range(len(text))]),
            paid.on_tokens(range(len(text)), lambda ids, t=text: t[: len(ids)]),
        ):
            assert not tokens.any() and tokens.dtype == np.float32
    caplog.clear()
    (paid,) = step_rewards(["?"], ["\u2581"], judge, ALPHA, K, unscorable="zero")
    assert paid.rewards.tolist() == [0]
    assert "1 of 1 responses" in caplog.text


def test_what_cannot_be_scored_of_given_steps(judge, caplog):
    """Bad steps are the caller's mistake, and are told all the same."""
    given = dict(verifier=judge, alpha=ALPHA, prover_k=K, unscorable="zero")
    texts, spans = ["y" * 99, "a b"], [[(0, 9), (20, 99)], [(0, 2), (2, 3)]]
    found = step_rewards(["?", "?"], texts, step_ends=spans, **given)
    assert [paid.spans.tolist() for paid in found] == [
        list(map(list, s)) for s in spans
    ]
    assert found[0].rewards.tolist() == [0, 0] and np.all(found[1].rewards != 0)
    assert "1 of 2 responses" in caplog.text
    assert "response 0: with its prompt it has 105 tokens" in caplog.text
    with pytest.raises(UserError, match="response 1: step 0 of step_ends is"):
        step_rewards(["?", "?"], texts, step_ends=[spans[0], [(0, 4)]], **given)


def test_offsets_of_another_text(judge):
    (paid,) = step_rewards(["?"], ["ab"], judge, ALPHA, K)
    with pytest.raises(UserError, match="outside the 2 characters"):
        paid.on_offsets([(0, 1), (1, 3)])
    with pytest.raises(UserError, match="decode to 3 characters, and the response has"):
        paid.on_tokens(judge.tokenizer.encode("abc"), judge.tokenizer.decode)


def test_the_example_in_the_docstring(judge, monkeypatch):
    monkeypatch.setattr(Verifier, "load", lambda *_: judge)
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(step_credit.step_rewards, globs={})
    failed, attempted = doctest.DocTestRunner().run(example)
    assert (failed, attempted) == (0, 5)
