"""First pits: against their definition, on trees of responses."""

import numpy as np
import pytest

from pav_jax.core.types import Response, StepLabels
from pav_jax.first_pit import (
    Branch,
    first_pits,
    high_value_states,
    known_counts,
    wrong_branches,
)
from pav_jax.labels import Continued

NEWLINE, END, N_MC = 9, 3, 4
IS_STEP_END = np.arange(12) == NEWLINE


def _response(problem: int, tokens, correct=False) -> Response:
    tokens = tuple(int(token) for token in tokens)
    return Response(problem, (5, 6), tokens, (0.0,) * len(tokens), correct)


def _ends(response: Response) -> list[int]:
    newlines = [i + 1 for i, token in enumerate(response.tokens) if token == NEWLINE]
    return [0, *newlines, len(response.tokens)]


def _count(problem: int, tokens) -> tuple[int, int]:
    """What a sampler finds, a function of the prefix; 0 for one in three."""
    draw = np.random.default_rng([problem, *tokens]).integers(-1, N_MC)
    return max(0, int(draw)), N_MC


def _trees(seed: int) -> tuple[list[Branch], dict]:
    """Wrong responses to two problems with many prefixes in common, and what is known
    of a rollout to each."""
    rng = np.random.default_rng(seed)

    def response(problem: int, steps: int) -> Response:
        inner = [t for _ in range(steps - 1) for t in (rng.integers(1, 3), NEWLINE)]
        return _response(problem, [*inner, 1, END])

    known = {}
    for problem in range(2):
        rollout = response(problem, 5)
        known |= {(problem, rollout.tokens[:end]): (1, 2) for end in _ends(rollout)}
        known[problem, rollout.tokens] = (0, 1)
    branches = {}
    while len(branches) < 12:
        wrong = response(int(rng.integers(2)), int(rng.integers(1, 6)))
        start = int(rng.choice(_ends(wrong)[:-1]))
        branches[wrong.problem, wrong.tokens] = Branch(wrong, start)
    return list(branches.values()), known


def _kept(branch: Branch, known: dict) -> list[tuple]:
    """By the definition: prefixes after the start, up to the first with Q_mc = 0."""
    problem, tokens = branch.response.problem, branch.response.tokens
    found = []
    for end in _ends(branch.response):
        if end <= branch.start:
            continue
        found.append((problem, tokens[:end]))
        if end == len(tokens):
            break
        if known.get(found[-1], _count(*found[-1]))[0] == 0:
            break
    return found


@pytest.mark.parametrize("seed", range(8))
def test_labels_are_those_up_to_the_first_pit_each_once(seed):
    branches, known = _trees(seed)
    asked = []

    def label(prefixes):
        of_now = [(r.problem, r.tokens[:end]) for r, end in prefixes]
        asked.extend(of_now)
        return [_count(*prefix) for prefix in of_now]

    before = dict(known)
    pits = first_pits(branches, IS_STEP_END, known, label)
    assert known == before
    rows = {}
    for response, labels in pits:
        assert all(np.diff(labels.ends) > 0)
        assert all(labels.correct[:-1] > 0)  # nothing after a pit
        for end, *count in zip(*vars(labels).values(), strict=True):
            prefix = response.problem, response.tokens[:end]
            assert prefix not in rows
            rows[prefix] = tuple(count)
    wholes = {(b.response.problem, b.response.tokens) for b in branches}
    kept = {prefix for branch in branches for prefix in _kept(branch, known)}
    assert rows == {
        prefix: (0, 1) if prefix in wholes else _count(*prefix)
        for prefix in kept - known.keys()
    }
    # No continuation is spent on a whole response, on what is known, or twice.
    assert len(asked) == len(set(asked)) and set(asked) == rows.keys() - wholes
    order = [id(response) for response, _ in pits]
    assert order == [i for b in branches if (i := id(b.response)) in order]


def test_the_trees_have_all_cases():
    """Else the test above shows little."""
    ended = early = shared = was_known = 0
    for seed in range(8):
        branches, known = _trees(seed)
        kept = [_kept(branch, known) for branch in branches]
        ends = [len(b.response.tokens) for b in branches]
        ended += sum(len(k[-1][1]) == n for k, n in zip(kept, ends, strict=True))
        early += sum(len(k[-1][1]) < n for k, n in zip(kept, ends, strict=True))
        every = [prefix for some in kept for prefix in some]
        shared += len(every) - len(set(every))
        was_known += len(known.keys() & set(every))
    assert min(ended, early, shared, was_known) >= 4


def test_nothing_to_search():
    def label(prefixes):
        raise AssertionError("labels were asked for")

    assert first_pits([], IS_STEP_END, {}, label) == []
    whole = _response(0, [1, END])  # one step, and so its pit
    [(response, labels)] = first_pits([Branch(whole, 0)], IS_STEP_END, {}, label)
    assert response is whole
    assert [x.tolist() for x in vars(labels).values()] == [[2], [0], [1]]
    assert all(x.dtype == np.int32 for x in vars(labels).values())


def test_the_first_response_has_the_label_of_a_prefix():
    steps = [(1, NEWLINE, n, NEWLINE, 1, END) for n in (1, 2)]
    branches = [Branch(_response(0, tokens), 0) for tokens in steps]
    pits = first_pits(
        branches, IS_STEP_END, {}, lambda prefixes: [(1, 2)] * len(prefixes)
    )
    assert [labels.ends.tolist() for _, labels in pits] == [[2, 4, 6], [4, 6]]
    assert [labels.count.tolist() for _, labels in pits] == [[2, 2, 1], [2, 1]]


A, B, C, D = ((1, 2, n, END) for n in (1, 2, 4, 5))


@pytest.mark.parametrize(
    ("most", "expected"),
    [(9, [(B, 2), (C, 1), (D, 0)]), (2, [(B, 2), (C, 1)]), (0, [])],
)
def test_wrong_continuations(most, expected):
    """The longest prefix first, and each response once."""
    continued = Continued(
        stops=np.array([0, 1, 2]),
        wholes=[[A, D, A, D], [C, B, C, A], [A, B, A, B]],
        correct=np.array([[1, 0, 1, 0], [0, 0, 0, 1], [1, 0, 1, 0]], bool),
    )
    found = wrong_branches(_response(0, A, correct=True), continued, most)
    assert [(branch.response.tokens, branch.start) for branch in found] == expected
    for branch in found:
        assert not branch.response.correct and branch.response.prompt == (5, 6)
        assert len(branch.response.log_probs) == len(branch.response.tokens)


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.5, [(0, [0, 4]), (1, [4])]),
        (0.6, [(0, [4])]),
        (0.2, [(0, [0, 2, 4]), (1, [4])]),
    ],
)
def test_states_of_high_value(threshold, expected):
    """Each prefix once, and no whole response, however right it is."""
    steps = [(1, NEWLINE, n, NEWLINE, 1, END) for n in (1, 2)]
    responses = [_response(0, tokens, correct=True) for tokens in steps]
    counts = [(2, 1, 3), (2, 1, 2)]
    labels = [
        StepLabels(
            np.array([0, 2, 4, 6], np.int32),
            np.array([*correct, 1], np.int32),
            np.array([4, 4, 4, 1], np.int32),
        )
        for correct in counts
    ]
    found = high_value_states(responses, labels, threshold)
    places = [(responses.index(r), stops.tolist()) for r, stops in found]
    assert places == expected


def test_counts_of_a_labelled_response():
    labels = StepLabels(*(np.array(x, np.int32) for x in ([0, 2], [1, 0], [2, 1])))
    assert known_counts(_response(7, [1, END]), labels) == {
        (7, ()): (1, 2),
        (7, (1, END)): (0, 1),
    }
