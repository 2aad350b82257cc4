"""Monte Carlo labels: where steps end, what is counted, and what that costs."""

import functools
import types

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import random_params

from pav_jax import labels, rollout, verifier
from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Params, Response, StepLabels
from pav_jax.gemma.architecture import tiny_gemma2
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.labels import step_ends
from pav_jax.rollout import Request
from pav_jax.train.batches import Batches

VOCAB, END, NEWLINES = 24, 3, (4, 9, 17, 20)
ARCHITECTURE = tiny_gemma2(
    VOCAB, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2, mlp_dim=24, window=5
)
# Trunks of up to 16 tokens and up to 16 branches: few shapes to compile.
SAMPLING = SamplingConfig(max_tokens=10, end_ids=(END,), trunks=3, rows=4)
PROBLEM_IDS = (101, 7, 2_000_000_000)
N_COV, N_MC, SEED = 2, 3, 5


@functools.cache
def _params() -> Params:
    return random_params(ARCHITECTURE)


def _is_correct(problem: int, tokens) -> bool:
    """A toy Rex that depends on the problem and on every token."""
    return (sum(tokens) + problem) % 2 == 0


class ToyProblems:
    """Three problems as `Problems` has them; keeps what it was asked to grade."""

    architecture = ARCHITECTURE
    is_step_end = np.isin(np.arange(VOCAB), NEWLINES)

    def __init__(self):
        rng = np.random.default_rng(1)
        self.prompts = [tuple(rng.integers(0, VOCAB, n).tolist()) for n in (4, 6, 5)]
        self.graded = []  # a list of (problem, tokens) for each call

    def __getitem__(self, index):
        return types.SimpleNamespace(id=PROBLEM_IDS[index])

    def are_correct(self, responses):
        self.graded.append([(problem, tuple(tokens)) for problem, tokens in responses])
        return [_is_correct(problem, tokens) for problem, tokens in responses]


# Where steps end.

TEXTS = ["a", "b c", "\n", "x\n", "\n\n", "y\nz\n\nw", "<eos>"]
HAS_NEWLINE = np.array(["\n" in text for text in TEXTS])


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        ([], []),
        ([0], [1]),
        ([0, 1, 0], [3]),  # the last step needs no newline
        ([0, 2, 1, 2, 6], [2, 4, 5]),
        ([0, 2, 1, 2], [2, 4]),  # a trailing newline starts no empty step
        ([2], [1]),
        ([2, 2, 0], [1, 2, 3]),
        # A token of several newlines ends one step, as a newline inside one does.
        ([0, 4, 1], [2, 3]),
        ([0, 5, 1, 3, 0, 4], [2, 4, 6]),
    ],
)
def test_step_ends(tokens, ends):
    found = step_ends(tokens, HAS_NEWLINE)
    assert found.tolist() == ends and found.dtype == np.int32
    assert step_ends(tuple(tokens), HAS_NEWLINE).tolist() == ends
    # Cut there, the steps are the response again.
    cuts = [0, *ends]
    steps = [tokens[a:b] for a, b in zip(cuts, ends, strict=False)]
    assert sum(steps, []) == tokens and all(steps)


# What is counted.


@functools.cache
def _responses() -> tuple[tuple[Response, ...], Ledger]:
    """Seed rollouts of three problems, and one cut by hand to a trailing newline."""
    problems, ledger, done = ToyProblems(), Ledger(), []
    rows = labels.sample_responses(
        _params(),
        problems,
        range(3),
        count=N_COV,
        seed=0,
        sampling=SAMPLING,
        ledger=ledger,
        advance=lambda: done.append(1),
    )
    assert len(done) == 3  # once for each problem
    tokens = (0, 4, 1, 1, 9)
    correct = _is_correct(1, tokens)
    rows.append(Response(1, problems.prompts[1], tokens, (-1.0,) * 5, correct))
    return tuple(rows), ledger


def _label(which, *, n_mc=N_MC, seed=SEED):
    """Labels of the chosen responses, what was graded for each, and the ledger."""
    responses = [_responses()[0][i] for i in which]
    problems, ledger, done = ToyProblems(), Ledger(), []
    steps = labels.label_steps(
        _params(),
        problems,
        responses,
        n_mc=n_mc,
        seed=seed,
        sampling=SAMPLING,
        ledger=ledger,
        advance=lambda: done.append(1),
    )
    assert len(steps) == len(done) == len(responses)
    asked, seen = [], set()
    for response, labelled in zip(responses, steps, strict=True):
        new = [p for p in _prefixes(response, labelled) if p not in seen]
        seen |= set(new)
        asked += [new] if new else []
    texts = _texts(asked, problems.graded, n_mc)
    # Nothing was drawn but these.
    assert sum(map(len, problems.graded)) == n_mc * len(texts)
    graded = [
        sum((texts[prefix] for prefix in _prefixes(response, labelled)), ())
        for response, labelled in zip(responses, steps, strict=True)
    ]
    return steps, graded, ledger


def _prefixes(response, labelled) -> list:
    """What is continued of a response, and of which problem."""
    return [(response.problem, response.tokens[:end]) for end in labelled.ends[:-1]]


def _texts(asked, calls, n_mc) -> dict:
    """What was graded of each prefix, `n_mc` texts.

    Args:
      asked: for each response that has some, the prefixes that no earlier one has.
      calls: what was graded at a time, in any order: one call for each of `asked`.
      n_mc: continuations of each prefix.
    """
    texts, left = {}, [tuple(call) for call in calls]
    # The bare prompt is a prefix of all, so the longest are found first.
    for prefixes in sorted(asked, key=lambda p: -sum(len(tokens) for _, tokens in p)):
        starts = [prefix for prefix in prefixes for _ in range(n_mc)]
        [found] = {
            call
            for call in left
            if len(call) == len(starts)
            and all(
                problem == other and tokens[: len(start)] == start
                for (other, tokens), (problem, start) in zip(call, starts, strict=True)
            )
        }
        left.remove(found)
        parts = [found[i : i + n_mc] for i in range(0, len(found), n_mc)]
        texts |= dict(zip(prefixes, parts, strict=True))
    return texts


@functools.cache
def _labelled():
    return _label(range(len(_responses()[0])))


def _sample_alone(trunk, prompt_length, prefix_length, key):
    [(_, samples)] = rollout.sample(
        _params(),
        [Request(trunk, prompt_length, np.array([prefix_length]), key)],
        architecture=ARCHITECTURE,
        sampling=SAMPLING,
        ledger=Ledger(),
    )
    [length] = samples.lengths
    return samples.tokens[0, :length].tolist(), samples.log_probs[0, :length].tolist()


def test_seed_rollouts_equal_samples_drawn_alone():
    responses, ledger = _responses()
    for i, response in enumerate(responses[:-1]):
        assert response.problem == i // N_COV
        key = rollout.branch_keys(0, [PROBLEM_IDS[i // N_COV]], [0], [i % N_COV])
        n = len(response.prompt)
        tokens, log_probs = _sample_alone(response.prompt, n, n, key)
        assert list(response.tokens) == tokens
        np.testing.assert_allclose(response.log_probs, log_probs, rtol=0, atol=1e-4)
        assert response.correct == _is_correct(i // N_COV, tokens)
    assert {response.correct for response in responses} == {True, False}
    assert ledger.decoded == sum(len(r.tokens) for r in responses[:-1])
    assert ledger.prefilled == 4 + 6 + 5


def test_counts_equal_those_of_continuations_drawn_alone():
    """Every continuation again: from its own prefix as a trunk, one at a time."""
    responses, _ = _responses()
    found, graded, _ = _labelled()
    steps, values = [], set()
    for response, ours, texts in zip(responses, found, graded, strict=True):
        ends = [0]
        for at, token in enumerate(response.tokens):
            if token in NEWLINES or at + 1 == len(response.tokens):
                ends.append(at + 1)
        assert ours.ends.tolist() == ends
        again = []
        for place, end in enumerate(ends[:-1]):
            prefix = response.tokens[:end]
            correct = 0
            for sample in range(N_MC):
                key = rollout.branch_keys(
                    SEED,
                    [PROBLEM_IDS[response.problem]],
                    [rollout.prefix_id(prefix)],
                    [sample],
                )
                trunk = response.prompt + prefix
                more, _ = _sample_alone(trunk, len(response.prompt), len(trunk), key)
                again.append((response.problem, (*prefix, *more)))
                correct += _is_correct(response.problem, [*prefix, *more])
            assert (ours.correct[place], ours.count[place]) == (correct, N_MC)
            values.add(correct)
        assert list(texts) == again  # a response is graded whole, prefix included
        # The whole response is its own outcome.
        assert (ours.correct[-1], ours.count[-1]) == (response.correct, 1)
        assert ours.q[-1] == float(response.correct)
        steps.append(len(ends) - 1)
    assert max(steps) >= 3 and min(steps) < max(steps)
    assert len(values) >= 3  # counts of several sizes were compared


def test_labels_do_not_depend_on_what_else_is_labelled():
    found, graded, _ = _labelled()
    for which in ([4], [6, 1, 3]):
        some, texts, _ = _label(which)
        for i, labelled, graded_again in zip(which, some, texts, strict=True):
            assert graded_again == graded[i]
            for ours, other in zip(
                vars(found[i]).values(), vars(labelled).values(), strict=True
            ):
                np.testing.assert_array_equal(ours, other)


def test_continuations_are_named_by_seed_problem_and_sample():
    """More continuations keep the first ones; another seed draws others."""
    _, graded, _ = _labelled()
    [more], [texts], _ = _label([2], n_mc=N_MC + 2)
    groups = [texts[i : i + N_MC + 2] for i in range(0, len(texts), N_MC + 2)]
    assert [text for group in groups for text in group[:N_MC]] == list(graded[2])
    assert more.count.tolist()[:-1] == [N_MC + 2] * (len(more.count) - 1)
    _, [others], _ = _label([2], seed=SEED + 1)
    assert others != graded[2]


def test_labelling_reads_each_response_once_and_draws_for_a_prefix_once():
    responses, _ = _responses()
    found, graded, ledger = _labelled()
    decoded = prefixes = trunks = shared = 0
    seen = set()
    for response, steps, texts in zip(responses, found, graded, strict=True):
        names = _prefixes(response, steps)
        starts = np.repeat(steps.ends[:-1], N_MC)
        assert len(texts) == len(starts)
        prefixes += int(starts.sum()) + len(starts) * len(response.prompt)
        new = [place for place, name in enumerate(names) if name not in seen]
        seen |= set(names)
        shared += len(names) - len(new)
        # The last prefix read is the last one that no earlier response has.
        trunks += len(response.prompt) + int(steps.ends[new[-1]]) if new else 0
        for place in new:
            drawn = texts[place * N_MC : (place + 1) * N_MC]
            decoded += sum(len(t) - int(steps.ends[place]) for _, t in drawn)
    assert shared >= len(responses) - len(PROBLEM_IDS)  # the bare prompt, at least
    assert ledger.prefilled == trunks
    assert ledger.decoded == decoded
    assert (ledger.decoded + ledger.prefilled) / (decoded + trunks) <= 1.05
    assert prefixes > 3 * trunks  # a read for each continuation would show
    assert (ledger.scored, ledger.trained) == (0, 0)


# From counts to training rows.


def _fraction(correct, count):
    return StepLabels(*(np.array(x, np.int32) for x in ([0, 2, 5], correct, count)))


def test_a_label_of_three_tenths_stays_so():
    found = _fraction([3, 7, 1], [10, 20, 1])
    assert found.q.dtype == np.float32
    np.testing.assert_allclose(found.q, [0.3, 0.35, 1.0], rtol=1e-6)
    response = Response(0, (2, 5, 6), (8, 4, 8, 8, 3), (-1.0,) * 5, True)
    steps = [verifier.labelled_steps(found)]
    rows = verifier.verifier_rows([response], steps, balance=False)
    batch = Batches(rows, batch_size=1, seed=0)(0)
    assert batch["value"].dtype == np.float32
    np.testing.assert_allclose(
        batch["value"], [[0, 0, 0.3, 0, 0.35, 0, 0, 1.0]], rtol=1e-6
    )
    np.testing.assert_array_equal(batch["weight"], [[0, 0, 1, 0, 1, 0, 0, 1]])


def test_every_fraction_survives():
    for n in (1, 3, 7, 20):
        for k in range(n + 1):
            found = _fraction([k, n - k, 0], [n, n, 1])
            expected = np.array([k / n, (n - k) / n, 0.0])
            np.testing.assert_allclose(found.q, expected, rtol=1e-6)


# The grid on which responses are sampled.


def sampling(branches, prompt=0, **grid):
    """On a grid of 6 trunks with 8 rows each, of responses of 4 tokens."""
    fields = dict(sampling=dict(trunks=6, rows=8) | grid)
    fields["limits"] = dict(max_prompt_tokens=prompt, max_tokens=4)
    tokenizer = types.SimpleNamespace(end_ids=(1,))
    problems = types.SimpleNamespace(config=ConfigDict(fields), tokenizer=tokenizer)
    return labels.sampling_for(problems, 1.0, branches=branches)


@pytest.mark.parametrize(
    ("branches", "expected"),
    [(9, (6, 8, 3)), (8, (6, 8, 3)), (5, (9, 5, 3)), (3, (12, 3, 3)), (1, (27, 1, 3))],
)
def test_the_grid_has_no_row_to_spare_and_whole_groups(branches, expected):
    found = sampling(branches, trunks_per_group=3)
    assert (found.trunks, found.rows, found.trunks_per_group) == expected


def test_every_device_has_a_group_of_trunks(monkeypatch):
    monkeypatch.setattr(labels.mesh, "row_shards", lambda mesh: 4)
    assert [sampling(n).trunks for n in (8, 7, 2, 1)] == [4, 4, 16, 24]


@pytest.mark.parametrize("prompt", [0, 4, 40, 4_000])
def test_no_grid_takes_more_memory_than_that_of_labels(prompt):
    """A trunk of which is a prompt and a response; the rest are the rows' responses."""
    whole = 6 * (prompt + 4 + 8 * 4)
    for branches in range(1, 9):
        found = sampling(branches, prompt)
        assert found.trunks >= 6
        size = prompt + 4 + 4 * found.rows
        # And what is left would not hold another trunk, or there are rows enough.
        assert found.trunks * size <= whole
        assert (found.trunks + 1) * size > whole or (
            (found.trunks + 1) * found.rows > 6 * 8
        )
