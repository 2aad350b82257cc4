"""A small beam search for tests, and a slow one in plain Python to compare it with."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax import prover, rollout, verifier
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import tiny_gemma2
from pav_jax.gemma.sampling import sample_token
from pav_jax.search.beam import Scorer, beam_search
from pav_jax.search.beam_step import BeamConfig
from pav_jax.search.verifier_scorer import VerifierScorer

VOCAB, END, NEWLINES = 12, 3, (4, 5)
# The window is shorter than the prompts; steps are longer than one chunk at times.
CONFIG = tiny_gemma2(
    VOCAB, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2, mlp_dim=24, window=5
)


def make_beam(beams=2, candidates=3, **changes) -> BeamConfig:
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


BEAM = make_beam()
PROVER_K = 4
_RNG = np.random.default_rng(0)
PROMPTS = [_RNG.integers(0, VOCAB, n).tolist() for n in (9, 6, 12)]
PROBLEM_IDS = [11, 2_000_000_000, 7]
SEED = 5


def _random(init, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(init),
    )


@functools.cache
def policy():
    return _random(lambda: forward.init_params(jax.random.key(0), CONFIG), 0)


@functools.cache
def verifier_params():
    """Another network, whose values differ much between prefixes."""

    def init():
        key = jax.random.key(0)
        network = forward.init_params(key, CONFIG)
        return verifier.init_verifier(key, network, CONFIG)

    params = _random(init, 1)
    head = params["head"]
    # The evidence of many tokens adds up: large terms would settle every Q.
    scales = {"value": 4.0, "evidence": 0.2}
    head = head | {name: scale * head[name] for name, scale in scales.items()}
    return params | {"head": head}


def make_scorer(beam=BEAM):
    return VerifierScorer(verifier_params(), CONFIG, beam.max_tokens)


@functools.cache
def prover_params():
    """A verifier of another prover: the same network, whose head has other signs."""
    params = verifier_params()
    head = dict(params["head"])
    head["value"] = head["value"][::-1]
    return params | {"head": head}


def search(scorer, *, beam=BEAM, alpha=0.5, which=(0, 1, 2), seed=SEED, **more):
    return list(
        beam_search(
            policy(),
            scorer,
            [PROMPTS[i] for i in which],
            [PROBLEM_IDS[i] for i in which],
            alpha=alpha,
            prover_k=PROVER_K,
            seed=seed,
            architecture=CONFIG,
            beam=beam,
            **more,
        )
    )


# Uncached passes, over rows of one width.

_WIDTH = 40


@jax.jit
def _uncached_value(params, tokens, last):
    values = verifier.step_values(params, tokens[None], architecture=CONFIG)
    return values[0, last]


def verifier_value(problem, tokens, params=verifier_params):
    """A verifier's Q of a prefix, by a pass over the whole of it."""
    row = [*PROMPTS[problem], *tokens]
    padded = np.zeros(_WIDTH, np.int32)
    padded[: len(row)] = row
    return float(_uncached_value(params(), padded, len(row) - 1))


@functools.partial(jax.jit, static_argnames="temperature")
def _uncached_token(row, length, root, digest, r, position, *, temperature):
    hidden = forward.hidden_states(policy(), row[None], architecture=CONFIG)
    logits = forward.logits(policy(), hidden[0, length - 1], architecture=CONFIG)
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
    prover_q: float
    score: float = 0.0
    done: bool = False


def slow_search(problem, value, *, alpha, beam, prover_value=None):
    """Beam search as the paper has it; the prover is BoK of what `prover_value` is of,
    by default what `value` is of.

    Returns:
      The answer's state; the states kept after each step, the last ones last; tokens
      sampled.
    """
    prover_value = prover_value or value
    bare = State((), value(problem, ()), prover_value(problem, ()))
    rows = [bare] * (beam.beams * beam.candidates)
    kept, history, decoded = [], [], 0
    for _ in range(beam.max_steps):
        candidates = []
        for r, state in enumerate(rows):
            if state.done:
                candidates.append(state)
                continue
            tokens, done = _sample_step(problem, state.tokens, r, beam)
            decoded += len(tokens) - len(state.tokens)
            q, prover_q = value(problem, tokens), prover_value(problem, tokens)
            progress = prover.advantages(
                prover.best_of_k(prover_q, PROVER_K),
                prover.best_of_k(state.prover_q, PROVER_K),
            )
            score = prover.effective_reward(q, progress, alpha)
            candidates.append(State(tokens, q, prover_q, score, done))
        kept = _best(candidates, beam)
        history.append(kept)
        rows = [state for state in kept for _ in range(beam.candidates)]
        if all(state.done for state in kept):
            break
    ended = [s for s in kept if s.tokens[-1] in beam.end_ids]
    return max(ended or kept, key=lambda s: s.q), history, decoded


def _best(candidates, beam):
    """The best of each subtree, in order; of equal ones the first."""
    seen, ranked = set(), []
    for state in candidates:
        ranked.append((state.tokens in seen, -state.score, state))
        seen.add(state.tokens)
    rows, width = len(candidates) // beam.subtrees, beam.beams // beam.subtrees
    kept = []
    for first in range(0, len(candidates), rows):
        order = sorted(ranked[first : first + rows], key=lambda row: row[:2])
        kept += [state for *_, state in order[:width]]
    return kept


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


@dataclasses.dataclass
class Recorder:
    """A scorer that notes what goes through another one, for one search."""

    inner: Scorer
    # Of each batch: prompts, lengths, bare values, steps.
    batches: list[tuple] = dataclasses.field(default_factory=list)

    def init(self, prompts, lengths, problems, rows):
        state, q = self.inner.init(prompts, lengths, problems, rows)
        self.batches.append((prompts.copy(), lengths.copy(), np.array(q), []))
        return state, q

    def score(self, state, beams):
        fields = [beams.tokens, beams.start, beams.length, beams.done, beams.q]
        fields = [np.array(field) for field in fields]  # they will be donated
        q, state = self.inner.score(state, beams)
        self.batches[-1][-1].append(Step(*fields, np.array(q)))
        return q, state

    def keep(self, state, parents, used):
        self.batches[-1][-1][-1].parents = np.array(parents)
        return self.inner.keep(state, parents, used)

    def tokens_read(self, state):
        return self.inner.tokens_read(state)

    @property
    def steps(self):
        """The steps of the only batch."""
        [(_, _, _, steps)] = self.batches
        return steps


@functools.cache
def recorded(alpha=0.5, beam=BEAM):
    recorder = Recorder(make_scorer(beam))
    return search(recorder, alpha=alpha, beam=beam), recorder
