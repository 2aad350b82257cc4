"""Beam search: ours, which reads nothing twice, against texts resubmitted each step.

    python -m benchmarks.beam_search

The usual way: a sampler continues every kept text by C steps, from its beginning, and
the verifier reads every candidate whole. Here both run on our own engine and forward
pass, on the same devices, so the only difference is what is read again.
"""

import functools

import jax
import numpy as np

from benchmarks import harness
from benchmarks.harness import Side
from benchmarks.scoring import random_verifier
from pav_jax import prover, rollout, verifier
from pav_jax.core.ledger import Ledger
from pav_jax.distributed import sharding
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import tiny_gemma2
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.rollout import Request
from pav_jax.search.beam import beam_search
from pav_jax.search.beam_step import BeamConfig
from pav_jax.search.verifier_scorer import VerifierScorer
from pav_jax.train.batches import pad_rows

ARCHITECTURE = tiny_gemma2(512, num_layers=4, embed_dim=128, num_heads=4, mlp_dim=512)
PROBLEMS, PROMPT, STEPS, LONGEST = 2, 64, 10, 160
# One token in eight, so that a step has about eight.
STEP_ENDS = tuple(range(1, 65))
BEAMS = (4, 16)
PROVER_K = 4
_BUCKET = 32  # tokens by which the peer pads more
_score = jax.jit(verifier.step_values, static_argnames="architecture")


def main() -> list[dict[str, object]]:
    """Runs all; returns what `harness.report` did."""
    rng = np.random.default_rng(0)
    shape = (PROBLEMS, PROMPT)
    prompts = rng.integers(len(STEP_ENDS) + 1, ARCHITECTURE.vocab_size, shape).tolist()
    with harness.on_all_devices(PROBLEMS):
        return _compare(prompts)


def _compare(prompts) -> list[dict[str, object]]:
    params = sharding.place(
        forward.init_params(jax.random.key(0), ARCHITECTURE), sharding.DECODE
    )
    verifier_params = sharding.place(random_verifier(ARCHITECTURE), sharding.DECODE)
    found = []
    for beams in BEAMS:
        beam = BeamConfig(
            beams=beams,
            candidates=3,
            max_tokens=LONGEST,
            max_steps=STEPS,
            end_ids=(),
            step_end_ids=STEP_ENDS,
            rows=PROBLEMS * beams * 3,
        )
        paid = Ledger()
        ours = Side(
            "beam search",
            functools.partial(_ours, params, verifier_params, prompts, beam, paid),
        )
        peer = Side(
            "resubmitted",
            functools.partial(_resubmit, params, verifier_params, prompts, beam),
        )
        model = harness.describe(ARCHITECTURE)
        name = f"beam search, B = {beams}"
        found.append(harness.compare(name, ours, peer, unit="problems", model=model))
        # Each token sampled and scored once, and each prompt read by both models.
        ideal = 2 * (paid.decoded + paid.prefilled)
        found.append(
            harness.report(
                f"{name}: tokens processed, over ideal",
                paid.paid,
                ideal,
                unit="tokens",
                model=model,
            )
        )
    return found


def _ours(params, verifier_params, prompts, beam: BeamConfig, paid: Ledger) -> int:
    for result in beam_search(
        params,
        VerifierScorer(verifier_params, ARCHITECTURE, beam.max_tokens),
        prompts,
        range(len(prompts)),
        alpha=0.5,
        prover_k=PROVER_K,
        seed=0,
        architecture=ARCHITECTURE,
        beam=beam,
    ):
        paid += result.ledger
    return len(prompts)


def _resubmit(params, verifier_params, prompts, beam: BeamConfig) -> int:
    """One step after another for all problems; each text from its beginning."""
    sampling = SamplingConfig(
        max_tokens=beam.max_tokens,
        end_ids=beam.step_end_ids,
        trunks=len(prompts) * beam.beams,
        rows=beam.candidates,
    )
    none = Ledger()
    width = PROMPT + beam.max_tokens
    beams = [[list(prompt)] * beam.beams for prompt in prompts]
    before = [[0.5] * beam.beams for _ in prompts]
    for step in range(beam.max_steps):
        texts, candidates = [], [[] for _ in prompts]
        for problem, kept in enumerate(beams):
            for place, text in enumerate(kept):
                if len(text) < width:
                    texts.append((problem, place, text))
                else:  # has all its tokens, and does not change
                    row = (text, before[problem][place])
                    candidates[problem] += [row] * beam.candidates
        requests = [_request(*text, step, beam) for text in texts]
        for i, samples in rollout.sample(
            params, requests, architecture=ARCHITECTURE, sampling=sampling, ledger=none
        ):
            problem, place, text = texts[i]
            for tokens, length in zip(samples.tokens, samples.lengths, strict=True):
                row = text + tokens[:length].tolist()
                candidates[problem].append((row, before[problem][place]))
        rows = [row for kept in candidates for row, _ in kept]
        # As far as the longest now, by buckets, so that a few shapes are compiled.
        longest = -(-max(map(len, rows)) // _BUCKET) * _BUCKET
        padded = pad_rows(rows, min(longest, width))
        q = _score(verifier_params, padded, architecture=ARCHITECTURE)
        q = [
            values[len(row) - 1]
            for values, row in zip(np.asarray(q), rows, strict=True)
        ]
        q = np.array(q).reshape(len(prompts), -1)
        for problem, of_problem in enumerate(candidates):
            best = _best(q[problem], [value for _, value in of_problem], beam)
            beams[problem] = [of_problem[i][0] for i in best]
            before[problem] = q[problem][best].tolist()
    return len(prompts)


def _request(problem: int, place: int, text: list[int], step: int, beam) -> Request:
    """The candidate steps of one kept text."""
    count = beam.candidates
    return Request(
        trunk=text,
        prompt_length=PROMPT,
        prefixes=np.full(count, len(text)),
        keys=rollout.branch_keys(
            0, [problem] * count, [step * beam.beams + place] * count, range(count)
        ),
    )


def _best(q: np.ndarray, before: list[float], beam: BeamConfig) -> np.ndarray:
    """Candidates of highest effective reward, from their values and those before."""
    value, previous = (prover.best_of_k(x, PROVER_K) for x in (q, np.array(before)))
    score = prover.effective_reward(q, prover.advantages(value, previous), 0.5)
    return np.argsort(-score)[: beam.beams]


if __name__ == "__main__":
    main()
