"""The compiler's answers, kept on disk: the same question is answered at once.

In the folder `plans` of `$PAV_SCRATCH` or `~/.cache/pav_jax`. A question is what the
step function depends on: its part of the config, the slice, the mesh, the versions of
what compiles it, and the source of this package that it is made from.
"""

import functools
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pav_jax
from pav_jax.core.errors import UserError
from pav_jax.core.versions import version
from pav_jax.storage import artifacts, buckets

_PACKAGES = ("jax", "jaxlib", "libtpu", "optax")
# Where the program of a step function comes from, as a test holds.
_SOURCES = (
    "core",
    "prover.py",
    "distributed",
    "gemma",
    "train",
    "policy.py",
    "verifier.py",
    "search",
    "rl",
    "pipeline/beams.py",
    "tools/planning",
)
# Settings of the compiler. The folder of compiled programs changes none of them.
_PREFIXES = ("JAX_", "XLA_", "LIBTPU_")
_NO_SETTINGS = ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR")


def find(request: dict[str, Any]) -> dict[str, Any] | None:
    """The answer to a request if it is kept and whole, with `kept` set; or None."""
    try:
        entry = json.loads(_file(request).read_text())
        answer, digest = entry["answer"], entry["digest"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return answer | {"kept": True} if digest == _digest(answer) else None


def keep(request: dict[str, Any], answer: dict[str, Any]) -> None:
    """Keeps an answer. If that cannot be written, says so, and it is not kept."""
    entry = {"answer": answer, "digest": _digest(answer)}
    try:
        artifacts.write_json(_file(request), entry)
    except UserError as error:
        print(f"this answer is not kept: {error}", file=sys.stderr)


def _file(request: dict[str, Any]) -> Path:
    question = {
        "request": request,
        "versions": {name: version(name) for name in _PACKAGES},
        "settings": {
            name: value
            for name, value in os.environ.items()
            if name.startswith(_PREFIXES) and name not in _NO_SETTINGS
        },
        "source": _source(),
    }
    return buckets.scratch_root() / "plans" / f"{_digest(question)}.json"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@functools.cache
def _source() -> str:
    """A digest of the source that step functions are made from."""
    digest, root = hashlib.sha256(), Path(pav_jax.__file__).parent
    for file in sources():
        digest.update(f"{file.relative_to(root)}\0".encode())
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()


def sources() -> list[Path]:
    """The files of it."""
    paths = [Path(pav_jax.__file__).parent / name for name in _SOURCES]
    files = [sorted(p.rglob("*.py")) if p.is_dir() else [p] for p in paths]
    return sum(files, [])
