"""Exports a trained policy or verifier, for other tools and other machines.

The folder has `policy/`, a checkpoint of the gemma package, and `head/`, if it is a
verifier; or it is a Hugging Face folder (`hugging_face_folder.py`). Both have
`tokenizer.model`, and `about.json` with what `pav score` needs: `fields` of the config,
`prover_k`, `stage` and its `fingerprint`.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pav_jax import verifier
from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.core.types import Params
from pav_jax.distributed import sharding
from pav_jax.gemma import checkpoint, forward, sizes
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.pipeline.manifest import MANIFEST, read_manifest
from pav_jax.policy import load_policy
from pav_jax.storage import artifacts, workdir
from pav_jax.storage.checkpoints import load_params, save_params, stored_names
from pav_jax.tools import hugging_face_folder
from pav_jax.verifier import load_verifier

ABOUT = "about.json"
BESIDE = (workdir.SETTINGS, "data")  # what is read of a run beside a stage's folder
_PROVER_POLICY = "policy-"  # and the name of an entry of config.provers
_VERIFIERS = ("prm", "orm")  # stages; the others with parameters are policies
_SECTIONS = ("model", "limits")  # of the config, as far as `pav score` needs it


def export_stage(folder: Path, output: Path, form: str = "gemma") -> None:
    """Exports what a stage of a run has trained.

    Args:
      folder: of the stage, such as runs/demo/prm or runs/demo/sft.
      output: a folder that does not exist.
      form: "gemma", of the gemma package, or "hf", a Hugging Face folder.

    Raises:
      UserError: if the stage is not finished or trains nothing, `output` exists, or
        the format cannot express it; nothing is left there then.
    """
    if not (folder / "params").is_dir() or not (folder / MANIFEST).exists():
        raise UserError(
            f"{folder} is not the folder of a finished stage that trains, such as"
            " runs/demo/prm or runs/demo/sft"
        )
    manifest = read_manifest(folder)
    fields = _own_fields(manifest)
    root = folder.absolute().parent
    load = load_verifier if is_verifier(manifest["stage"]) else load_policy
    with artifacts.as_written(folder, "pav run"):
        tokenizer = Tokenizer.load(root / "data" / "tokenizer.model")
        config = config_lib.unflatten(fields)
        architecture = sizes.from_config(config.model, tokenizer.vocab_size)
        dtype = sizes.dtype_of(config.model)
        settings = artifacts.read_json(root / workdir.SETTINGS)["config"]
        prover_k = settings["verifier.prover_k"]
    about = {
        "stage": manifest["stage"],
        "fingerprint": manifest["fingerprint"],
        "prover_k": prover_k,
        "fields": fields,
    }
    with artifacts.making(output) as new:
        params = load(folder, architecture, dtype)
        if form == "hf":
            hugging_face_folder.write(new, params, architecture, tokenizer)
        else:
            _write_gemma(new, params, architecture, config.model)
        tokenizer.save(new / "tokenizer.model")
        artifacts.write_json(new / ABOUT, about)


def _own_fields(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `_SECTIONS` that a stage was trained with, flattened.

    For the policy of an entry of `config.provers` those that the entry changes are in
    `provers.NAME.model`, as `Prover.fields` has them.
    """
    fields, stage = manifest["fields"], manifest["stage"]
    if stage.startswith(_PROVER_POLICY):
        own = f"provers.{stage.removeprefix(_PROVER_POLICY)}."
        fields = fields | {
            name.removeprefix(own): value
            for name, value in fields.items()
            if name.startswith(own)
        }
    return {
        name: value
        for name, value in fields.items()
        if any(config_lib.within(name, section) for section in _SECTIONS)
    }


def _write_gemma(
    path: Path, params: Params, architecture: TransformerConfig, model: ConfigDict
) -> None:
    """Writes a checkpoint of the gemma package, and a verifier's head beside it."""
    if "name" in model and not model.get("shrunk"):
        architecture = sizes.by_name(model.name)  # with its spare embeddings
    if "head" in params:
        write_verifier(path, params, architecture=architecture)
    else:
        checkpoint.write(path / "policy", params, architecture=architecture)


def is_verifier(stage: str) -> bool:
    """Whether a stage trains a verifier, perhaps of a round or another prover."""
    return stage.split("-")[0] in _VERIFIERS


def read_about(folder: Path) -> dict[str, Any]:
    """The content of `about.json` in an exported folder.

    Raises:
      UserError: if it is damaged, or a policy was exported.
    """
    about = artifacts.read_json(folder / ABOUT)
    if not isinstance(about, dict) or not is_verifier(about.get("stage", "")):
        raise UserError(f"{folder} holds no verifier; export the stage prm of a run")
    return about


def write_verifier(
    path: Path, params: Params, *, architecture: TransformerConfig
) -> None:
    """Writes a policy's checkpoint into `path/policy`, and the head into `path/head`.

    Args:
      path: a folder; neither of the two may exist.
      params: the verifier.
      architecture: as for `checkpoint.write`.
    """
    checkpoint.write(path / "policy", params["network"], architecture=architecture)
    save_params(path / "head", {"head": params["head"]})


def read_verifier(
    path: Path, *, architecture: TransformerConfig, dtype: jnp.dtype = jnp.float32
) -> Params:
    """Reads an exported verifier, of either format.

    Args:
      path: the folder; `policy` in it may also be a Hugging Face folder.
      architecture: of the policy.
      dtype: of the policy's parameters; the head is float32.

    Returns:
      The parameters, placed by `DECODE` on the active mesh.

    Raises:
      UserError: if a part is missing, damaged, or of another architecture.
    """
    like = forward.param_shapes(architecture, dtype)
    is_hugging_face = (path / hugging_face_folder.HEAD).exists()
    network = checkpoint.read(
        path if is_hugging_face else path / "policy",
        architecture=architecture,
        dtype=dtype,
        shardings=sharding.shardings(like, sharding.DECODE),
    )
    names, load = stored_names, load_params
    head = path / "head"
    if is_hugging_face:
        names, load = hugging_face_folder.head_names, hugging_face_folder.load_head
        head = path / hugging_face_folder.HEAD
    init = functools.partial(
        verifier.init_verifier,
        architecture=architecture,
        head=verifier.head_of(names(head)),
    )
    like = {"head": jax.eval_shape(init, jax.random.key(0), network)["head"]}
    return {"network": network, **load(head, like)}
