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
from pav_jax.search import beam as search
from pav_jax.search import verifier_scorer
from pav_jax.search.beam import BeamConfig
from pav_jax.train.batches import pad_rows

ARCHITECTURE = tiny_gemma2(512, num_layers=4, embed_dim=128, num_heads=4, mlp_dim=512)
PROBLEMS, PROMPT, STEPS, LONGEST = 2, 64, 10, 160
# One token in eight, so that a step has about eight.
STEP_ENDS = tuple(range(1, 65))
BEAMS, ALPHA = (4, 16), 0.5
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
    scorer = sharding.place(random_verifier(ARCHITECTURE), sharding.DECODE)
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
            "beam search", functools.partial(_ours, params, scorer, prompts, beam, paid)
        )
        peer = Side(
            "resubmitted", functools.partial(_resubmit, params, scorer, prompts, beam)
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


def _ours(params, scorer, prompts, beam: BeamConfig, paid: Ledger) -> int:
    for found in search.beam_search(
        params,
        verifier_scorer.VerifierScorer(scorer, ARCHITECTURE, beam.max_tokens),
        prompts,
        range(len(prompts)),
        alpha=ALPHA,
        seed=0,
        architecture=ARCHITECTURE,
        beam=beam,
    ):
        paid += found.ledger
    return len(prompts)


def _resubmit(params, scorer, prompts, beam: BeamConfig) -> int:
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
        requests = [
            Request(
                trunk=text,
                prompt_length=PROMPT,
                prefixes=np.full(beam.candidates, len(text)),
                keys=rollout.branch_keys(
                    0,
                    [problem] * beam.candidates,
                    [step * beam.beams + place] * beam.candidates,
                    range(beam.candidates),
                ),
            )
            for problem, place, text in texts
        ]
        for i, samples in rollout.sample(
            params, requests, architecture=ARCHITECTURE, sampling=sampling, ledger=none
        ):
            problem, place, text = texts[i]
            for tokens, length in zip(samples.tokens, samples.lengths, strict=True):
                row = text + tokens[:length].tolist()
                candidates[problem].append((row, before[problem][place]))
        rows = [row for kept in candidates for row, _ in kept]
        q = np.asarray(_score(scorer, pad_rows(rows, width), architecture=ARCHITECTURE))
        q = np.array(
            [values[len(row) - 1] for values, row in zip(q, rows, strict=True)]
        )
        q = q.reshape(len(prompts), -1)
        for problem, of_problem in enumerate(candidates):
            previous = np.array([value for _, value in of_problem])
            after, before_it = (
                prover.best_of_k(x, beam.prover_k) for x in (q[problem], previous)
            )
            progress = prover.advantages(after, before_it)
            reward = prover.effective_reward(q[problem], progress, ALPHA)
            best = np.argsort(-reward)[: beam.beams]
            beams[problem] = [of_problem[i][0] for i in best]
            before[problem] = q[problem][best].tolist()
    return len(prompts)


if __name__ == "__main__":
    main()
