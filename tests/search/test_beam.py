"""Beam search: against a slow one in plain Python, its company, and what it pays."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pav_jax import rollout, verifier
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import tiny_gemma2
from pav_jax.gemma.sampling import sample_token
from pav_jax.search import beam as search
from pav_jax.search import rows as candidates
from pav_jax.search import verifier_scorer
from pav_jax.search.beam import BeamConfig, beam_search
from pav_jax.search.oracle_scorer import Oracle, OracleScorer
from pav_jax.search.verifier_scorer import VerifierScorer

VOCAB, END, NEWLINES = 12, 3, (4, 5)
# The window is shorter than the prompts; steps are longer than one chunk at times.
CONFIG = tiny_gemma2(
    VOCAB, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2, mlp_dim=24, window=5
)


def _beam(beams=2, candidates=3, **changes) -> BeamConfig:
    """One batch for all three problems, unless `rows` says otherwise."""
    fields = dict(
        beams=beams,
        candidates=candidates,
        max_tokens=24,
        max_steps=4,
        end_ids=(END,),
        step_end_ids=NEWLINES,
        temperature=1.3,
        rows=3 * beams * candidates,
    )
    return BeamConfig(**fields | changes)


BEAM = _beam()
_RNG = np.random.default_rng(0)
PROMPTS = [_RNG.integers(0, VOCAB, n).tolist() for n in (9, 6, 12)]
PROBLEM_IDS = [11, 2_000_000_000, 7]
SEED = 5


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    """Half of the time to compile, of which there is more than of all else."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    # jax 0.10 has the flag but no attribute to read it by; it is off by default.
    jax.config.update("jax_disable_most_optimizations", False)


def _random(init, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(init),
    )


@functools.cache
def _policy():
    return _random(lambda: forward.init_params(jax.random.key(0), CONFIG), 0)


@functools.cache
def _verifier():
    """Another network, whose values differ much between prefixes."""

    def init():
        key = jax.random.key(0)
        model = forward.init_params(key, CONFIG)
        return verifier.init_verifier(key, model, CONFIG)

    params = _random(init, 1)
    head = params["head"]
    # The evidence of many tokens adds up: large terms would settle every Q.
    scales = {"value": 4.0, "evidence": 0.2}
    head = head | {name: scale * head[name] for name, scale in scales.items()}
    return params | {"head": head}


def _verifier_scorer(beam=BEAM):
    return VerifierScorer(_verifier(), CONFIG, beam.max_tokens)


def _search(scorer, *, beam=BEAM, alpha=0.5, which=(0, 1, 2), seed=SEED):
    return list(
        beam_search(
            _policy(),
            scorer,
            [PROMPTS[i] for i in which],
            [PROBLEM_IDS[i] for i in which],
            alpha=alpha,
            seed=seed,
            architecture=CONFIG,
            beam=beam,
        )
    )


# Uncached passes, over rows of one width.

_WIDTH = 40


@jax.jit
def _uncached_value(tokens, last):
    values = verifier.step_values(_verifier(), tokens[None], architecture=CONFIG)
    return values[0, last]


def _value(problem, tokens):
    """The verifier's Q of a prefix, by a pass over the whole of it."""
    row = [*PROMPTS[problem], *tokens]
    padded = np.zeros(_WIDTH, np.int32)
    padded[: len(row)] = row
    return float(_uncached_value(padded, len(row) - 1))


@functools.partial(jax.jit, static_argnames="temperature")
def _uncached_token(row, length, root, digest, r, position, *, temperature):
    hidden = forward.hidden_states(_policy(), row[None], architecture=CONFIG)
    logits = forward.logits(_policy(), hidden[0, length - 1], architecture=CONFIG)
    key = jax.random.fold_in(jax.random.wrap_key_data(root), digest)
    key = jax.random.key_data(jax.random.fold_in(key, r))
    token, _ = sample_token(
        key[None], position[None], logits[None], temperature=temperature
    )
    return token[0]


@functools.cache
def _sample_step(problem, tokens, r, beam):
    """Row r's next step after `tokens`, a token at a time; and whether it ended."""
    root = rollout.branch_keys(SEED, [PROBLEM_IDS[problem]], [0], [0])[0]
    digest = 0
    for token in tokens:
        digest = (digest * 1_000_003 + token + 1) % 2**32
    prompt, start = PROMPTS[problem], len(tokens)
    tokens = list(tokens)
    while True:
        row = np.zeros(_WIDTH, np.int32)
        row[: len(prompt) + len(tokens)] = [*prompt, *tokens]
        token = _uncached_token(
            row,
            len(prompt) + len(tokens),
            root,
            np.uint32(digest),
            r,
            np.int32(len(tokens) - start),
            temperature=beam.temperature,
        )
        tokens.append(int(token))
        if tokens[-1] in beam.end_ids or len(tokens) >= beam.max_tokens:
            return tuple(tokens), True
        if tokens[-1] in beam.step_end_ids:
            return tuple(tokens), False


@dataclasses.dataclass(frozen=True)
class State:
    tokens: tuple[int, ...]
    q: float
    score: float = 0.0
    done: bool = False


def _slow_search(problem, value, *, alpha, beam):
    """Beam search as the paper has it.

    Returns:
      The answer's state; the states kept after each step; tokens sampled.
    """
    prover = lambda q: 1 - (1 - q) ** beam.prover_k  # noqa: E731
    rows = [State((), value(problem, ()))] * (beam.beams * beam.candidates)
    kept, history, decoded = [], [], 0
    for _ in range(beam.max_steps):
        candidates = []
        for r, state in enumerate(rows):
            if state.done:
                candidates.append(state)
                continue
            tokens, done = _sample_step(problem, state.tokens, r, beam)
            decoded += len(tokens) - len(state.tokens)
            q = value(problem, tokens)
            score = q + alpha * (prover(q) - prover(state.q))
            candidates.append(State(tokens, q, score, done))
        distinct, copies, seen = [], [], set()
        for state in candidates:
            (copies if state.tokens in seen else distinct).append(state)
            seen.add(state.tokens)
        order = [*sorted(distinct, key=lambda s: -s.score)]
        order += sorted(copies, key=lambda s: -s.score)
        kept = order[: beam.beams]
        history.append(kept)
        rows = [state for state in kept for _ in range(beam.candidates)]
        if all(state.done for state in kept):
            break
    ended = [s for s in kept if s.tokens[-1] in beam.end_ids]
    return max(ended or kept, key=lambda s: s.q), history, decoded


@dataclasses.dataclass
class Step:
    """What a scorer saw at one step: arrays of the candidates, `[G, R, ...]`."""

    tokens: np.ndarray
    start: np.ndarray
    length: np.ndarray
    done: np.ndarray
    before: np.ndarray
    q: np.ndarray
    parents: np.ndarray | None = None

    def text(self, g, r):
        return tuple(self.tokens[g, r, : self.length[g, r]].tolist())

    def candidates(self, g):
        return [self.text(g, r) for r in range(self.length.shape[1])]

    def kept(self, g, candidates):
        return [self.text(g, r) for r in self.parents[g, ::candidates]]


class Recorder:
    """A scorer that notes what goes through another one."""

    def __init__(self, inner):
        self.inner = inner
        self.batches = []  # of each batch: prompts, lengths, bare values, steps

    def begin(self, prompts, lengths, rows):
        bare = self.inner.begin(prompts, lengths, rows)
        self.batches.append((prompts.copy(), lengths.copy(), np.array(bare), []))
        return bare

    def score(self, beams):
        fields = [beams.tokens, beams.start, beams.length, beams.done, beams.q]
        fields = [np.array(field) for field in fields]  # they will be donated
        q = self.inner.score(beams)
        self.batches[-1][-1].append(Step(*fields, np.array(q)))
        return q

    def keep(self, parents, used):
        self.batches[-1][-1][-1].parents = np.array(parents)
        self.inner.keep(parents, used)

    @property
    def scored(self):
        return self.inner.scored

    @property
    def steps(self):
        """The steps of the only batch."""
        [(_, _, _, steps)] = self.batches
        return steps


class Function:
    """A scorer by a function of (problem, tokens), for searches of one batch."""

    def __init__(self, value, which=(0, 1, 2)):
        self._value = value
        self._which = which

    def begin(self, prompts, lengths, rows):
        self._groups = len(prompts)
        values = [self._value(problem, ()) for problem in self._which]
        return jnp.array(np.resize(values, self._groups), jnp.float32)

    def score(self, beams):
        tokens, length = np.asarray(beams.tokens), np.asarray(beams.length)
        values = np.zeros(length.shape, np.float32)
        for g, problem in enumerate(self._which):
            for r, n in enumerate(length[g]):
                values[g, r] = self._value(problem, tuple(tokens[g, r, :n].tolist()))
        return jnp.asarray(values)

    def keep(self, parents, used):
        pass

    @property
    def scored(self):
        return np.zeros(self._groups, int)


@functools.cache
def _recorded(alpha=0.5, beam=BEAM):
    recorder = Recorder(_verifier_scorer(beam))
    return _search(recorder, alpha=alpha, beam=beam), recorder


# What is found.


@pytest.mark.parametrize(("beams", "candidates"), [(1, 3), (2, 3), (3, 2)])
def test_equals_a_slow_search_without_caches(beams, candidates):
    beam = _beam(beams, candidates)
    for alpha in (0.0, 0.5):
        found, recorder = _recorded(alpha, beam)
        for problem, ours in enumerate(found):
            best, history, decoded = _slow_search(
                problem, _value, alpha=alpha, beam=beam
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


def test_values_are_those_of_an_uncached_pass():
    compared, lengths = 0, set()
    _, recorder = _recorded()
    [(_, prompt_lengths, bare, steps)] = recorder.batches
    assert prompt_lengths[:3].tolist() == [len(prompt) for prompt in PROMPTS]
    for g in range(3):
        assert bare[g] == pytest.approx(_value(g, ()), abs=1e-4)
        for step in steps:
            for r in range(6):
                expected = _value(g, step.text(g, r))
                assert step.q[g, r] == pytest.approx(expected, abs=1e-4)
                compared += 1
                lengths.add(step.length[g, r] - step.start[g, r])
    assert compared >= 3 * 6 * 3
    # Steps of none, of some and of more tokens than the verifier reads at once.
    assert 0 in lengths and 1 in lengths and max(lengths) > candidates.CHUNK
    # The values differ far more than the tolerance.
    assert np.std([step.q[:3] for step in steps]) > 0.1


def test_the_longest_steps_go_on_without_the_others(monkeypatch):
    """And find what they do in the company of all, as the slow search says."""
    modules = {"decode_steps": search, "read_steps": verifier_scorer}
    widths = {name: set() for name in modules}

    def noted(name, function):
        def call(*args, width, **static):
            widths[name].add(width)
            return function(*args, width=width, **static)

        return call

    for name, module in modules.items():
        monkeypatch.setattr(module, name, noted(name, getattr(module, name)))
    found = _search(_verifier_scorer())
    assert found == _recorded()[0]
    for name in widths:
        assert widths[name] == {6, 2}, name


@pytest.mark.parametrize(
    ("left", "width", "expected"),
    [(48, 48, 48), (13, 48, 48), (12, 48, 12), (4, 48, 12), (3, 48, 3), (1, 12, 3)],
)
def test_rows_go_on_a_fourth_at_a_time(left, width, expected):
    assert candidates.next_width(left, width) == expected


def test_a_candidate_goes_on_from_its_parent():
    """Rows move with their tokens and values; what was sampled stays."""
    _, recorder = _recorded()
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
        _, recorder = _recorded(alpha)
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
    ours, _ = _recorded()
    other = _search(_verifier_scorer(), seed=SEED + 1)
    assert [f.tokens for f in ours] != [f.tokens for f in other]


# What it does not depend on.

TWO_AT_A_TIME = _beam(rows=12)


def _check_same(ours, other):
    assert ours.tokens == other.tokens
    assert ours.q == pytest.approx(other.q, abs=1e-4)
    assert ours.ledger == other.ledger


def test_neither_company_nor_rows_change_a_result():
    ours, _ = _recorded()
    # Two problems at a time, so that the last batch has a gap.
    others = _search(_verifier_scorer(), beam=TWO_AT_A_TIME)
    for one, other in zip(ours, others, strict=True):
        _check_same(one, other)
    for which in ([2], [1, 0]):
        others = _search(_verifier_scorer(), which=which)
        for problem, other in zip(which, others, strict=True):
            _check_same(ours[problem], other)


# What it pays.


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_ledger_counts_every_candidate_and_every_token_once(alpha):
    found, recorder = _recorded(alpha)
    dropped = 0
    for g, ours in enumerate(found):
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
    beam = _beam(beams, candidates)
    _, recorder = _recorded(0.5, beam)
    assert _check_beam_is_as_varied_as_can_be(recorder, beam) > 0


def test_copies_of_the_best_fill_what_is_left():
    """Steps of one token, of which few are likely: there are fewer than beams."""
    beam = _beam(4, 2, step_end_ids=tuple(range(VOCAB)), max_steps=1, temperature=0.4)

    def value(problem, tokens):
        """Values so close that only care tells them apart."""
        return 0.5 + 1e-3 * sum(tokens)

    by_place = 0
    for seed in range(8):  # what is drawn differs between releases of jax
        recorder = Recorder(Function(value))
        _search(recorder, beam=beam, alpha=0.0, seed=seed)
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

    recorder = Recorder(Function(value))
    _search(recorder, beam=_beam(3, 2), alpha=0.5)
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
        recorder = Recorder(Function(value))
        _search(recorder, alpha=alpha)
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
    beam = _beam(6, 1, max_tokens=5, max_steps=2)

    def value(problem, tokens):
        return 0.1 if END in tokens else 0.9 - len(tokens) / 100

    recorder = Recorder(Function(value))
    found = _search(recorder, beam=beam)
    cut = stopped = 0
    for g, ours in enumerate(found):
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
    beam = _beam(max_tokens=7, max_steps=2, end_ids=())

    seen = set()
    for seed, sign in itertools.product(range(4), (-1, 1)):

        def value(problem, tokens, sign=sign):
            return 0.5 + sign * len(tokens) / 100  # short ones first, or long ones

        recorder = Recorder(Function(value))
        found = _search(recorder, beam=beam, seed=seed)
        assert len(recorder.steps) <= 2
        last = recorder.steps[-1]
        for g, ours in enumerate(found):
            kept = last.kept(g, 3)
            for text in kept:
                steps = sum(token in NEWLINES for token in text)
                assert len(text) <= 7 and steps <= 2
                assert len(text) == 7 or (steps == 2 and text[-1] in NEWLINES)
                seen.add((len(text) == 7, steps))
            # None has an answer: the best of them all the same.
            assert tuple(ours.tokens) in kept
            assert ours.q == pytest.approx(max(value(g, text) for text in kept))
    assert {(True, 0), (True, 1), (False, 2)} <= seen


# Other scorers.


def _facts(problem, tokens):
    """How many newlines, whether it ended, and the parity of it all."""
    newlines = sum(token in NEWLINES for token in tokens)
    return (problem, newlines, END in tokens, sum(tokens) % 3)


def _oracle():
    rng = np.random.default_rng(0)
    return Oracle(
        ((problem, newlines, ended, rest), int(rng.integers(0, 11)), 10)
        for problem in range(3)
        for newlines in range(4)
        for ended in (False, True)
        for rest in range(3)
    )


def test_an_oracle_is_the_mean_of_its_labels():
    samples = [("a", 3, 10), ("b", 1, 1), ("a", 0, 5), ("b", 0, 4)]
    oracle = Oracle(iter(samples))
    mean = 4 / 20
    assert oracle.value("a") == pytest.approx((3 + 2 * mean) / 17)
    assert oracle.value("b") == pytest.approx((1 + 2 * mean) / 7)
    assert oracle.value("never seen") == pytest.approx(mean)


def test_search_by_an_oracle():
    """Its problems are told apart across batches too; a model reads nothing."""
    beam = TWO_AT_A_TIME
    oracle = _oracle()

    def value(problem, tokens):
        return oracle.value(_facts(problem, tokens))

    found = _search(OracleScorer(oracle, _facts, range(3)), beam=beam, alpha=0.5)
    for problem, ours in enumerate(found):
        best, _, decoded = _slow_search(problem, value, alpha=0.5, beam=beam)
        assert ours.tokens == list(best.tokens)
        assert ours.q == pytest.approx(best.q, abs=1e-6)
        assert (ours.ledger.decoded, ours.ledger.scored) == (decoded, 0)
