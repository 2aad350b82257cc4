"""Process advantage verifiers in JAX (arXiv 2410.08146).

A verifier that predicts `Q^π` after each step of a response gives the progress of every
step, under the prover that takes the best of K responses, and the effective reward:

>>> import numpy as np
>>> from pav_jax import advantages, best_of_k, effective_reward
>>> q = np.array([0.1, 0.1, 0.5, 0.9])  # of the bare problem, then after each step
>>> progress = advantages(best_of_k(q, 4))
>>> progress.round(2)
array([0.  , 0.59, 0.06])
>>> effective_reward(q[1:], progress, 0.5).round(2)
array([0.1 , 0.8 , 0.93])

The names below are what a person would import. Each is loaded when it is first asked
for, so that `import pav_jax` and `pav --help` are quick.
"""

import importlib
import os

__version__ = "0.2.0"

# At the first path of any kind, etils.epath settles whether it reads buckets by
# TensorFlow.
os.environ["EPATH_USE_TF"] = "false"

_PUBLIC = {
    "Problem": "core.types",
    "Response": "core.types",
    "StepLabels": "core.types",
    "UserError": "core.errors",
    "Problems": "tasks.problems",
    "Verifier": "tools.scoring",
    "advantages": "prover",
    "beam_search": "search.beam",
    "best_of_k": "prover",
    "best_of_n": "metrics",
    "effective_reward": "prover",
    "label_steps": "labels",
    "pass_at_n": "metrics",
    "prover_terms": "prover",
    "sample_responses": "labels",
    "step_rewards": "tools.step_credit",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str):
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PUBLIC[name]}")
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
