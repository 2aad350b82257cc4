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
    assert len(steps) == len(problems.graded) == len(done) == len(responses)
    graded = [
        _graded_for(response, labelled.ends, problems.graded, n_mc)
        for response, labelled in zip(responses, steps, strict=True)
    ]
    return steps, graded, ledger


def _graded_for(response, ends, calls, n_mc) -> tuple:
    """The call that graded the continuations of a response's prefixes, in order.

    Equal prefixes have equal continuations, so more than one call may be it.
    """
    starts = [response.tokens[:end] for end in ends[:-1] for _ in range(n_mc)]
    matching = {
        tuple(texts)
        for texts in calls
        if len(texts) == len(starts)
        and all(
            problem == response.problem and tokens[: len(start)] == start
            for (problem, tokens), start in zip(texts, starts, strict=True)
        )
    }
    [texts] = matching
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


def test_labelling_reads_each_response_once():
    responses, _ = _responses()
    found, graded, ledger = _labelled()
    decoded = prefixes = trunks = 0
    for response, steps, texts in zip(responses, found, graded, strict=True):
        trunks += len(response.prompt) + int(steps.ends[-2])  # the last prefix read
        starts = np.repeat(steps.ends[:-1], N_MC)
        assert len(texts) == len(starts)
        decoded += sum(len(t) for _, t in texts) - int(starts.sum())
        prefixes += int(starts.sum()) + len(starts) * len(response.prompt)
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


def sampling(branches, **grid):
    """On a grid of 6 trunks with 8 rows each."""
    fields = dict(sampling=dict(trunks=6, rows=8) | grid, limits=dict(max_tokens=4))
    tokenizer = types.SimpleNamespace(end_ids=(1,))
    problems = types.SimpleNamespace(config=ConfigDict(fields), tokenizer=tokenizer)
    return labels.sampling_for(problems, 1.0, branches=branches)


@pytest.mark.parametrize(
    ("branches", "expected"),
    [(9, (6, 8, 3)), (8, (6, 8, 3)), (5, (9, 5, 3)), (3, (15, 3, 3)), (1, (48, 1, 3))],
)
def test_the_grid_has_no_row_to_spare_and_whole_groups(branches, expected):
    found = sampling(branches, trunks_per_group=3)
    assert (found.trunks, found.rows, found.trunks_per_group) == expected


def test_every_device_has_a_group_of_trunks(monkeypatch):
    monkeypatch.setattr(labels.mesh, "row_shards", lambda mesh: 4)
    assert [sampling(n).trunks for n in (8, 7, 2, 1)] == [4, 4, 24, 48]
