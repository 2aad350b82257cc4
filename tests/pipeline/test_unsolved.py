"""Who solves what the SFT policy never does: by best-of-N, and by beams."""

import functools
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import small_search
from ml_collections import ConfigDict
from small_search import CONFIG, END, NEWLINES, PROBLEM_IDS, PROMPTS, VOCAB

from pav_jax.core.ledger import Ledger
from pav_jax.core.profile import Profile
from pav_jax.core.seeds import Stream, derive
from pav_jax.pipeline import beams as beams_lib
from pav_jax.pipeline import unsolved
from pav_jax.pipeline.search_files import Searched

HARD, SIZES = [0, 2], (1, 2)
POLICIES = ["sft", "rl-pav_rl-0"]
SEED = 3


class _Problems(list):
    """Those of `small_search`, which has only prompts."""

    architecture, dtype, prompts = CONFIG, None, PROMPTS
    tokenizer = SimpleNamespace(end_ids=(END,))
    is_step_end = np.isin(np.arange(VOCAB), NEWLINES)

    def are_correct(self, responses):
        return [(problem + sum(tokens)) % 2 == 0 for problem, tokens in responses]

    def answers(self, responses):
        return [str(sum(response.tokens)) for response in responses]


PROBLEMS = _Problems(SimpleNamespace(id=number) for number in PROBLEM_IDS)


def _policy(name):
    """The SFT policy is another one than RL's, which is that of `small_search`."""
    scale = 0.5 if name.name == "sft" else 1.0
    return jax.tree.map(lambda leaf: scale * leaf, small_search.policy())


@pytest.fixture
def context(tmp_path, monkeypatch):
    """Of a stage `improvement`, with the networks of `small_search`."""
    loaded = []

    def load_policy(path, *_):
        loaded.append(path.name)
        return _policy(path)

    monkeypatch.setattr(unsolved, "load_policy", load_policy)
    prm = small_search.verifier_params()
    monkeypatch.setattr(beams_lib, "load_verifier", lambda *_: prm)
    beam = small_search.make_beam(1, 3)
    config = dict(
        seed=SEED,
        limits=dict(max_tokens=beam.max_tokens, max_steps=beam.max_steps),
        search=dict(candidates=beam.candidates, temperature=beam.temperature),
        rl=dict(final=dict(beams=SIZES)),
    )
    return SimpleNamespace(
        directory=tmp_path,
        config=ConfigDict(config),
        profile=Profile(),
        input=lambda name: tmp_path / name,
        loaded=loaded,
    )


def _slowly(problem, size, stream, monkeypatch):
    """The same search without caches, by draws of a stream."""
    with monkeypatch.context() as patch:
        patch.setattr(small_search, "SEED", derive(SEED, stream))
        fresh = functools.cache(small_search._sample_step.__wrapped__)
        patch.setattr(small_search, "_sample_step", fresh)
        beam = small_search.make_beam(size, 3)
        return small_search.slow_search(
            problem, small_search.verifier_value, alpha=0.0, beam=beam
        )


def test_problems_without_a_right_response():
    correct = np.array([[0, 1], [0, 0], [1, 1], [0, 0]], bool)
    assert unsolved.never_solved(correct).tolist() == [1, 3]


@pytest.mark.parametrize("size", SIZES)
def test_beams_are_those_of_a_slow_search(context, monkeypatch, size):
    """By `Q^π` alone, on the unsolved problems, by draws of their own."""
    found = unsolved.search_all(context, PROBLEMS, POLICIES, HARD)
    assert list(found) == POLICIES and list(found["sft"]) == list(SIZES)
    by_rl = found[POLICIES[1]][size]
    assert len(by_rl.rows) == len(HARD)
    for row, problem, outcome in zip(
        by_rl.rows, HARD, by_rl.outcomes("prm"), strict=True
    ):
        best, history, decoded = _slowly(problem, size, Stream.RL_BEAMS, monkeypatch)
        assert row["responses"] == [list(state.tokens) for state in history[-1]]
        read = len(PROMPTS[problem])
        assert row["tokens"] == [decoded, read, read + decoded]
        assert outcome == ((problem + sum(best.tokens)) % 2 == 0)
        others = [stream for stream in Stream if stream != Stream.RL_BEAMS]
        assert derive(SEED, Stream.RL_BEAMS) not in [derive(SEED, s) for s in others]
    # Draws of what chose these problems would be others.
    _, history, _ = _slowly(HARD[0], size, Stream.RL_UNSOLVED, monkeypatch)
    assert by_rl.rows[0]["responses"] != [list(s.tokens) for s in history[-1]]
    assert found["sft"][size].rows != by_rl.rows


def test_the_ledger_has_all_beams(context):
    found = unsolved.search_all(context, PROBLEMS, POLICIES, HARD)
    rows = [row for by in found.values() for x in by.values() for row in x.rows]
    assert len(rows) == len(POLICIES) * len(SIZES) * len(HARD)
    decoded, prefilled, scored = (
        sum(row["tokens"][i] for row in rows) for i in (0, 1, 2)
    )
    assert prefilled == 4 * sum(len(PROMPTS[problem]) for problem in HARD)
    expected = Ledger(decoded=decoded, prefilled=prefilled, scored=scored)
    assert unsolved.ledger_of(found) == expected and decoded > 0
    assert unsolved.ledger_of({}) == Ledger()


def test_what_is_on_disk_is_not_searched_again(context):
    first = unsolved.search_all(context, PROBLEMS, POLICIES, HARD)
    assert context.loaded == POLICIES  # each once, for beams of every N
    lost = context.directory / f"{POLICIES[1]}-beams-2.json"
    files = {path: path.read_bytes() for path in context.directory.iterdir()}
    assert len(files) == 4
    lost.unlink()
    again = unsolved.search_all(context, PROBLEMS, POLICIES, HARD)
    assert again == first and context.loaded == [*POLICIES, POLICIES[1]]
    assert {path: path.read_bytes() for path in context.directory.iterdir()} == files


def test_nothing_is_searched_without_sizes_or_problems(context):
    assert unsolved.search_all(context, PROBLEMS, POLICIES, []) == {}
    del context.config.rl.final.beams
    assert unsolved.search_all(context, PROBLEMS, POLICIES, HARD) == {}
    assert context.loaded == []


# What is made of them, worked out by hand.


def _samples(correct, length=4):
    correct = np.array(correct, bool)
    length = np.full(correct.shape, length)
    return {"correct": correct, "prm": np.zeros(correct.shape), "length": length}


def _searched(*rows):
    """Of beams of two, whose second response is picked."""
    return Searched(
        [
            dict(
                responses=[[1], [2]],
                answers=["1", "2"],
                correct=[not right, right],
                ended=[True, True],
                prm=[0.1, 0.9],
                tokens=tokens,
            )
            for right, tokens in rows
        ]
    )


CHOICE = _samples([[0, 1], [0, 0], [0, 0]])
PROMPT_TOKENS = np.array([100, 10, 30])


def test_best_of_samples():
    one, other = _samples([[0, 0], [1, 1], [0, 1]]), _samples([[0, 0]] * 3, length=6)
    found = unsolved.compared(CHOICE, {"rl": [one, other]}, {}, PROMPT_TOKENS, (1, 2))
    assert (found["problems"], found["samples"]) == (2, 2)
    # Of the last two problems: seeds 0 and 1 have means of 3/4 and 0.
    assert found["best_of"]["rl"] == pytest.approx({"1": 3 / 8, "2": 3 / 8})
    # A sample has 4 tokens or 6, and a prompt 10 or 30; a verifier reads them all.
    assert found["best_of_tokens"]["rl"] == {
        "1": dict(decoded=5.0, prefilled=20.0, scored=25.0),
        "2": dict(decoded=10.0, prefilled=20.0, scored=30.0),
    }
    assert "beam" not in found and "beam_tokens" not in found
    none = unsolved.compared(_samples([[1]]), {"rl": [one]}, {}, PROMPT_TOKENS, (1,))
    assert none == {"problems": 0}


def test_beams_of_two_seeds():
    beams = [
        {2: _searched((True, [10, 10, 20]), (False, [30, 30, 60]))},
        {2: _searched((True, [50, 10, 60]), (True, [10, 30, 40]))},
    ]
    samples = {"rl": [CHOICE, CHOICE]}
    found = unsolved.compared(CHOICE, samples, {"rl": beams}, PROMPT_TOKENS, (1,))
    assert found["beam"] == {"rl": {"2": 3 / 4}}
    assert found["beam_tokens"] == {
        "rl": {"2": dict(decoded=25.0, prefilled=20.0, scored=45.0)}
    }
