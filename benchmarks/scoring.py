"""Scores of all steps of whole responses: one pass against one a step prefix.

python -m benchmarks.scoring
"""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.harness import Side
from benchmarks.labelling import ARCHITECTURE, PROMPT, STEP, STEPS
from pav_jax import verifier
from pav_jax.core.types import Params
from pav_jax.gemma import forward
from pav_jax.gemma.architecture import TransformerConfig

RESPONSES = 4
ENDS = PROMPT + STEP * np.arange(1, STEPS + 1)
_score = jax.jit(verifier.step_values, static_argnames="architecture")


def main() -> list[dict[str, object]]:
    """Runs it; returns what `harness.report` did."""
    params = random_verifier(ARCHITECTURE)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, ARCHITECTURE.vocab_size, (RESPONSES, ENDS[-1])).astype(
        np.int32
    )

    def once():
        return np.asarray(_score(params, tokens, architecture=ARCHITECTURE))[
            :, ENDS - 1
        ]

    def by_prefix():
        passes = [
            _score(params, tokens[:, :end], architecture=ARCHITECTURE)[:, -1]
            for end in ENDS
        ]
        return np.stack([np.asarray(values) for values in passes], axis=1)

    np.testing.assert_allclose(once(), by_prefix(), atol=1e-5, rtol=0)
    return [
        harness.compare(
            "scoring of all steps, one forward a prefix",
            Side("one pass", lambda: len(once())),
            Side("one a prefix", lambda: len(by_prefix())),
            unit="responses",
            model=harness.describe(ARCHITECTURE),
        )
    ]


def random_verifier(
    architecture: TransformerConfig, dtype: jnp.dtype = jnp.float32
) -> Params:
    """A verifier whose values differ from token to token."""
    model = forward.init_params(jax.random.key(0), architecture, dtype)
    params = verifier.init_verifier(jax.random.key(1), model, architecture)
    # They start at zero, where all values are the same.
    shape = (2, architecture.embed_dim)
    value, evidence = 0.05 * jax.random.normal(jax.random.key(2), shape)
    return params | {"head": params["head"] | {"value": value, "evidence": evidence}}


if __name__ == "__main__":
    main()
