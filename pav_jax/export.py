"""What a run gives away: policies and verifiers as checkpoints of the gemma package."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp

from pav_jax import verifier
from pav_jax.gemma import checkpoint
from pav_jax.gemma.config import TransformerConfig
from pav_jax.gemma.forward import Params
from pav_jax.train.checkpoint import load_params, save_params
from pav_jax.verifier import VerifierParams


def write_verifier(
    path: Path, params: VerifierParams, *, config: TransformerConfig
) -> None:
    """Writes a policy's checkpoint into `path/policy`, and the head into `path/head`.

    Args:
      path: a folder; neither of the two may exist.
      params: the verifier.
      config: the architecture, as for `checkpoint.write`.
    """
    checkpoint.write(path / "policy", params["model"], config=config)
    save_params(path / "head", params["head"])


def read_verifier(
    path: Path,
    *,
    config: TransformerConfig,
    dtype: jnp.dtype = jnp.float32,
    shardings: Params | None = None,
) -> VerifierParams:
    """Reads what `write_verifier` wrote; `policy` may also be of Hugging Face.

    Args:
      path: the folder.
      config: the architecture.
      dtype: of the policy's parameters; the head is float32.
      shardings: of the policy's parameters, as for `checkpoint.read`.

    Raises:
      UserError: a part is missing, damaged, or of another architecture.
    """
    model = checkpoint.read(
        path / "policy", config=config, dtype=dtype, shardings=shardings
    )
    init = functools.partial(verifier.init_verifier, config=config)
    like = jax.eval_shape(init, jax.random.key(0), model)["head"]
    return {"model": model, "head": load_params(path / "head", like)}
