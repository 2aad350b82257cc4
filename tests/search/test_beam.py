"""Beam search: against a slow one in plain Python, its company, and what it pays."""

import dataclasses
import functools
import itertools

import numpy as np
import pytest
from small_search import (
    CONFIG,
    END,
    NEWLINES,
    PROMPTS,
    SEED,
    VOCAB,
    Recorder,
    make_beam,
    make_scorer,
    prover_params,
    recorded,
    search,
    slow_search,
    verifier_value,
)

from pav_jax.core.profile import Profile
from pav_jax.search import beam_step as step_lib
from pav_jax.search import verifier_scorer
from pav_jax.search.oracle_scorer import OracleScorer
from pav_jax.search.rows import CHUNK
from pav_jax.search.verifier_scorer import VerifierScorer

# What is found.


@pytest.mark.parametrize(("beams", "candidates"), [(1, 3), (2, 3), (3, 2)])
def test_equals_a_slow_search_without_caches(beams, candidates):
    beam = make_beam(beams, candidates)
    for alpha in (0.0, 0.5):
        results, recorder = recorded(alpha, beam)
        for problem, ours in enumerate(results):
            best, history, decoded = slow_search(
                problem, verifier_value, alpha=alpha, beam=beam
            )
            # A problem that is done waits for the others of its batch.
            for step, kept in zip(recorder.steps, history, strict=False):
                assert step.kept(problem, candidates) == [s.tokens for s in kept]
                q = step.q[problem, step.parents[problem, ::candidates]]
                np.testing.assert_allclose(q, [s.q for s in kept], rtol=0, atol=1e-4)
            assert len(recorder.steps) >= len(history)
            assert ours.tokens == list(best.tokens)
            assert ours.q == pytest.approx(best.q, abs=1e-4)
            assert ours.ledger.decoded == decoded


def test_no_problems_have_no_answers():
    assert search(OracleScorer(lambda *_: 0.5), which=()) == []


def test_a_profile_sees_every_step():
    class Counting(Profile):
        steps = 0

        def step(self, function, *args, **kwargs):
            self.steps += 1
            return super().step(function, *args, **kwargs)

    beam, profile = make_beam(2, 3), Counting()
    found = search(make_scorer(), beam=beam, profile=profile)
    results, recorder = recorded(0.5, beam)
    assert profile.steps == len(recorder.steps)
    assert [r.tokens for r in found] == [r.tokens for r in results]


def _check_like_slow(results, *, beam, **slow):
    for problem, ours in enumerate(results):
        best, history, decoded = slow_search(
            problem, verifier_value, alpha=0.5, beam=beam, **slow
        )
        assert ours.responses == [list(state.tokens) for state in history[-1]]
        np.testing.assert_allclose(ours.values, [s.q for s in history[-1]], atol=1e-4)
        assert ours.tokens == list(best.tokens)
        assert ours.ledger.decoded == decoded


def test_a_prover_of_its_own():
    """Another verifier gives the values that progress is the difference of."""
    beam = make_beam(2, 3)
    prover_value = functools.partial(verifier_value, params=prover_params)
    other = VerifierScorer(prover_params(), CONFIG, beam.max_tokens)
    results = search(make_scorer(), beam=beam, prover_scorer=other)
    _check_like_slow(results, beam=beam, prover_value=prover_value)
    alone = search(make_scorer(), beam=beam)
    assert [r.responses for r in results] != [r.responses for r in alone]
    # Both verifiers read the prompt and all candidates.
    for problem, result in enumerate(results):
        read = len(PROMPTS[problem]) + result.ledger.decoded
        assert result.ledger.scored == 2 * read


def test_subtrees_keep_to_themselves():
    beam = dataclasses.replace(make_beam(2, 3), subtrees=2)
    results = search(make_scorer(), beam=beam)
    _check_like_slow(results, beam=beam)
    together = search(make_scorer(), beam=make_beam(2, 3))
    assert [r.responses for r in results] != [r.responses for r in together]


def test_subtrees_are_equal():
    with pytest.raises(ValueError, match="2 beams are not 3 equal parts"):
        dataclasses.replace(make_beam(2, 3), subtrees=3)


def test_values_are_those_of_an_uncached_pass():
    compared, lengths = 0, set()
    _, recorder = recorded()
    [(_, prompt_lengths, bare, steps)] = recorder.batches
    assert prompt_lengths[:3].tolist() == [len(prompt) for prompt in PROMPTS]
    for g in range(3):
        assert bare[g] == pytest.approx(verifier_value(g, ()), abs=1e-4)
        for step in steps:
            for r in range(6):
                expected = verifier_value(g, step.text(g, r))
                assert step.q[g, r] == pytest.approx(expected, abs=1e-4)
                compared += 1
                lengths.add(step.length[g, r] - step.start[g, r])
    assert compared >= 3 * 6 * 3
    # Steps of no token, of some and of more tokens than the verifier reads at once.
    assert 0 in lengths and 1 in lengths and max(lengths) > CHUNK
    # The values differ far more than the tolerance.
    assert np.std([step.q[:3] for step in steps]) > 0.1


def test_the_values_of_all_steps_are_kept():
    results, _ = recorded()
    several = 0
    for problem, result in enumerate(results):
        for tokens, values in zip(result.responses, result.step_values, strict=True):
            inner = tokens[:-1]
            ends = [i + 1 for i, token in enumerate(inner) if token in NEWLINES]
            whole = [verifier_value(problem, tokens[:end]) for end in ends]
            expected = [*whole, verifier_value(problem, tokens)]
            assert values == pytest.approx(expected, abs=1e-4)
            several += len(values) > 1
    assert several >= 3
    assert [r.values for r in results] == [
        [values[-1] for values in r.step_values] for r in results
    ]


def test_the_longest_steps_go_on_without_the_others(monkeypatch):
    """And find what they do in the company of all, as the slow search says."""
    modules = {"decode_steps": step_lib, "read_steps": verifier_scorer}
    widths = {name: set() for name in modules}

    def noted(name, function):
        def call(*args, width, **static):
            widths[name].add(width)
            return function(*args, width=width, **static)

        return call

    for name, module in modules.items():
        monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    results = search(make_scorer())
    assert results == recorded()[0]
    for name in widths:
        assert widths[name] == {6, 2}, name


def test_a_candidate_goes_on_from_its_parent():
    """Rows move with their tokens and values; what was sampled stays."""
    _, recorder = recorded()
    for before, after in zip(recorder.steps, recorder.steps[1:], strict=False):
        for g in range(3):
            for r, parent in enumerate(before.parents[g]):
                text = before.text(g, parent)
                assert after.text(g, r)[: len(text)] == text
                assert after.start[g, r] == len(text)
                assert after.before[g, r] == before.q[g, parent]


def test_alpha_weighs_progress():
    """The score's order, by hand, at every step of a search."""
    kept_by = {}
    for alpha in (0.0, 0.5):
        _, recorder = recorded(alpha)
        scores = {}
        for step in recorder.steps:
            for g in range(3):
                for r, text in enumerate(step.candidates(g)):
                    if step.length[g, r] > step.start[g, r]:
                        q, before = step.q[g, r], step.before[g, r]
                        progress = (1 - before) ** 4 - (1 - q) ** 4
                        scores[g, text] = q + alpha * progress
                kept = step.kept(g, 3)
                lost = set(step.candidates(g)) - set(kept)
                worst = min(scores[g, text] for text in kept)
                assert worst >= max((scores[g, text] for text in lost), default=-1)
                kept_by.setdefault(alpha, []).append(kept)
    assert kept_by[0.0] != kept_by[0.5]


def test_each_seed_draws_its_own():
    ours, _ = recorded()
    other = search(make_scorer(), seed=SEED + 1)
    assert [f.tokens for f in ours] != [f.tokens for f in other]


# What it does not depend on.

TWO_AT_A_TIME = make_beam(rows=12)


def _check_same(ours, other):
    assert ours.tokens == other.tokens
    assert ours.q == pytest.approx(other.q, abs=1e-4)
    assert ours.ledger == other.ledger


def test_neither_company_nor_rows_change_a_result():
    ours, _ = recorded()
    # Two problems at a time, so that the last batch has a gap.
    others = search(make_scorer(), beam=TWO_AT_A_TIME)
    for one, other in zip(ours, others, strict=True):
        _check_same(one, other)
    for which in ([2], [1, 0]):
        others = search(make_scorer(), which=which)
        for problem, other in zip(which, others, strict=True):
            _check_same(ours[problem], other)


# What it pays.


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_ledger_counts_every_candidate_and_every_token_once(alpha):
    results, recorder = recorded(alpha)
    dropped = 0
    for g, ours in enumerate(results):
        sampled = sum(int((s.length[g] - s.start[g]).sum()) for s in recorder.steps)
        assert ours.ledger.decoded == sampled
        assert ours.ledger.prefilled == len(PROMPTS[g])
        # The verifier reads the prompt, and every sampled token once.
        assert ours.ledger.scored == len(PROMPTS[g]) + sampled
        assert (ours.ledger.trained, ours.ledger.slots) == (0, 0)
        ideal = 2 * (len(PROMPTS[g]) + sampled)
        assert ours.ledger.paid / ideal <= 1.05
        # Reading each candidate's whole prefix anew would be no such bound.
        again = sum(
            int((s.length[g] + len(PROMPTS[g])).sum())
            for s in recorder.steps
            if not s.done[g].all()
        )
        assert len(PROMPTS[g]) + sampled + again > 1.05 * ideal
        dropped += sampled - len(ours.tokens)
    assert dropped > 0


# Candidates that are the same.


def _check_beam_is_as_varied_as_can_be(recorder, beam):
    """Returns the number of copies there were among candidates still going on."""
    copies = 0
    for step in recorder.steps:
        for g in range(3):
            candidates = step.candidates(g)
            kept = step.kept(g, beam.candidates)
            assert len(kept) == beam.beams
            assert len(set(kept)) == min(beam.beams, len(set(candidates)))
            copies += len(candidates) - len(set(candidates))
    return copies


@pytest.mark.parametrize(("beams", "candidates"), [(2, 3), (3, 2)])
def test_copies_do_not_fill_the_beam(beams, candidates):
    beam = make_beam(beams, candidates)
    _, recorder = recorded(0.5, beam)
    assert _check_beam_is_as_varied_as_can_be(recorder, beam) > 0


def test_copies_of_the_best_fill_what_is_left():
    """Steps of one token, of which few are likely: there are fewer than beams."""
    beam = make_beam(
        4, 2, step_end_ids=tuple(range(VOCAB)), max_steps=1, temperature=0.4
    )

    def value(problem, tokens):
        """Values so close that only care tells them apart."""
        return 0.5 + 1e-3 * sum(tokens)

    by_place = 0
    for seed in range(8):  # what is drawn differs between releases of jax
        recorder = Recorder(OracleScorer(value))
        search(recorder, beam=beam, alpha=0.0, seed=seed)
        assert _check_beam_is_as_varied_as_can_be(recorder, beam) > 0
        [step] = recorder.steps
        for g in range(3):
            tokens = [text[0] for text in step.candidates(g)]
            copies = [t for r, t in enumerate(tokens) if t in tokens[:r]]
            distinct = sorted(set(tokens), reverse=True)
            places = 4 - len(distinct)
            wanted = distinct + sorted(copies, reverse=True)[: max(places, 0)]
            assert [text[0] for text in step.kept(g, 2)] == wanted[:4]
            # Would the copies that come first do as well?
            by_place += distinct + copies[: max(places, 0)] != wanted
    assert by_place > 0


# Responses that end, and those that do not.


def test_an_ended_response_keeps_its_place():
    """Ended responses are worth most here: none of them may be lost or changed."""

    def value(problem, tokens):
        return 0.6 + len(tokens) / 100 if END in tokens else 0.5 * 0.9 ** len(tokens)

    recorder = Recorder(OracleScorer(value))
    search(recorder, beam=make_beam(3, 2), alpha=0.5)
    kept_on = 0
    for g in range(3):
        best = []
        for step in recorder.steps:
            kept = step.kept(g, 2)
            ended = [text for text in kept if END in text]
            survivors = [text for text in best if text in kept]
            if len(set(ended)) < 3:
                assert survivors == best  # there was room for them
            for r, text in enumerate(step.candidates(g)):
                if text in best:
                    assert step.length[g, r] == step.start[g, r]
                    assert step.q[g, r] == np.float32(value(g, text))
                    assert step.done[g, r]
            kept_on += len(survivors)
            best = ended
    assert kept_on > 3


def test_an_ended_response_keeps_the_score_of_its_last_step():
    """Scored anew it would have made no progress, and lose to what goes on."""

    def value(problem, tokens):
        if END in tokens:
            return 0.5
        return (0.1, 0.45, 0.55)[min(sum(t in NEWLINES for t in tokens), 2)]

    stayed = {}
    for alpha in (0.0, 1.0):
        recorder = Recorder(OracleScorer(value))
        search(recorder, alpha=alpha)
        first, second = recorder.steps[:2]
        for g in range(3):
            # The one that ended at once scores 0.5 + 0.59 alpha; then those that
            # went on score 0.55 + 0.05 alpha, and there are two to replace it.
            ended = {text for text in first.kept(g, 3) if END in text}
            others = {t for t in second.candidates(g) if END not in t}
            if len(ended) == 1 and len(others) >= 2:
                stayed.setdefault(alpha, set()).add(ended <= set(second.kept(g, 3)))
    assert stayed == {0.0: {False}, 1.0: {True}}


def test_an_unfinished_response_is_taken_only_if_all_are():
    """Ended ones are worth least here. With C = 1 no candidate is dropped."""
    beam = make_beam(6, 1, max_tokens=5, max_steps=2)

    def value(problem, tokens):
        return 0.1 if END in tokens else 0.9 - len(tokens) / 100

    recorder = Recorder(OracleScorer(value))
    results = search(recorder, beam=beam)
    cut = stopped = 0
    for g, ours in enumerate(results):
        last = recorder.steps[-1].candidates(g)
        ended = [text for text in last if END in text]
        assert tuple(ours.tokens) in (ended or last)
        assert ours.q == pytest.approx(max(value(g, text) for text in ended or last))
        if ended:
            cut += sum(len(text) == 5 and END not in text for text in last)
            stopped += sum(len(text) < 5 and END not in text for text in last)
    assert cut and stopped  # by max_tokens, and by max_steps


def test_limits():
    """Nothing ends by itself, so that each response meets one of the two limits."""
    beam = make_beam(max_tokens=7, max_steps=2, end_ids=())

    seen = set()
    for seed, sign in itertools.product(range(4), (-1, 1)):

        def value(problem, tokens, sign=sign):
            return 0.5 + sign * len(tokens) / 100  # short ones first, or long ones

        recorder = Recorder(OracleScorer(value))
        results = search(recorder, beam=beam, seed=seed)
        assert len(recorder.steps) <= 2
        last = recorder.steps[-1]
        for g, ours in enumerate(results):
            kept = last.kept(g, 3)
            for text in kept:
                steps = sum(token in NEWLINES for token in text)
                assert len(text) <= 7 and steps <= 2
                assert len(text) == 7 or (steps == 2 and text[-1] in NEWLINES)
                seen.add((len(text) == 7, steps))
            # No response has an answer: the best of them is taken all the same.
            assert tuple(ours.tokens) in kept
            assert ours.q == pytest.approx(max(value(g, text) for text in kept))
    assert {(True, 0), (True, 1), (False, 2)} <= seen
