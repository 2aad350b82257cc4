"""Best-of-16: ragged responses to each prompt, by our engine and by Tunix's `Sampler`.

    python -m benchmarks.best_of_n

In a batch, a row that has ended waits for the longest one; in our grid it goes on to
the next response.
"""

import functools

import jax
import numpy as np

from benchmarks import harness, peers
from benchmarks.harness import Side
from benchmarks.labelling import ARCHITECTURE
from pav_jax import rollout
from pav_jax.core.types import Params
from pav_jax.gemma import forward
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.rollout import Request

PROMPTS, PROMPT, SAMPLES, LONGEST = 96, 64, 16, 128
# About one token in fifty, so that lengths are anything from 1 to the longest.
ENDS = tuple(range(1, 11))
# The peer samples one batch of 128 rows a round: another would go at the same rate.
PEERS = 8  # prompts
SAMPLING = SamplingConfig(
    max_tokens=LONGEST, end_ids=ENDS, trunks=32, rows=4, trunks_per_group=8
)


def main() -> list[dict[str, object]]:
    """Runs it if Tunix is installed; returns what `harness.report` did."""
    name = "best-of-16, Tunix Sampler"
    params = forward.init_params(jax.random.key(0), ARCHITECTURE)
    rng = np.random.default_rng(0)
    prompts = rng.integers(len(ENDS) + 1, ARCHITECTURE.vocab_size, (PROMPTS, PROMPT))
    try:
        peer = _tunix(params, prompts[:PEERS])
    except ImportError as error:
        harness.skip(name, error)
        return []
    ours = Side("engine", functools.partial(_ours, params, prompts))
    model = harness.describe(ARCHITECTURE)
    return [harness.compare(name, ours, peer, unit="tokens", model=model)]


def _ours(params: Params, prompts: np.ndarray) -> int:
    keys = functools.partial(rollout.branch_keys, 0)
    requests = [
        Request(
            trunk=prompt.tolist(),
            prompt_length=PROMPT,
            prefixes=np.full(SAMPLES, PROMPT),
            keys=keys([i] * SAMPLES, [0] * SAMPLES, range(SAMPLES)),
        )
        for i, prompt in enumerate(prompts)
    ]
    ledger = harness.sample(
        params, requests, architecture=ARCHITECTURE, sampling=SAMPLING
    )
    print(f"  occupancy {ledger.decoded / ledger.slots:.3f}")
    return ledger.decoded


def _tunix(params: Params, prompts: np.ndarray) -> Side:
    sampler = peers.tunix_sampler(params, ARCHITECTURE, PROMPT + LONGEST)
    rows = list(np.repeat(prompts, SAMPLES, axis=0))

    def run():
        out = sampler(
            rows,
            max_generation_steps=LONGEST,
            max_prompt_length=PROMPT,
            eos_tokens=list(ENDS),
            temperature=1.0,
            top_p=1.0,
            seed=0,
        )
        # What it returns has no end token, which it drew and we count.
        lengths = np.array([len(tokens) for tokens in out.tokens])
        return int(np.minimum(lengths + 1, LONGEST).sum())

    return Side("Tunix Sampler", run)


if __name__ == "__main__":
    main()
