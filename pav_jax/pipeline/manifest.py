"""The manifest of a finished stage: its terms, its files, and a fingerprint of both.

The terms are the config fields that the stage depends on, the fingerprints of its
inputs, prints of files that it read and no stage made (`external_files.py`), and a
revision of the stage. The same terms give the same files.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pav_jax
from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.storage import artifacts

MANIFEST = "manifest.json"
STARTED = "started.json"  # of a stage that is not finished
_ABSENT = object()  # The value of a config field that is not there.


def make_manifest(
    stage: str,
    terms: Mapping[str, Any],
    folder: Path,
    seconds: float,
    made_on: Sequence[str] = (),
) -> dict[str, Any]:
    """The manifest of a stage whose files are all in `folder`; see `read_manifest`."""
    manifest = {"stage": stage, **terms, "files": _inventory(folder)}
    manifest["fingerprint"] = _fingerprint(manifest)
    how = {"made_on": list(made_on), "version": pav_jax.__version__}
    return manifest | {"seconds": seconds} | how


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished stage.

    Returns:
      `stage`; `fields`, the config values that it depends on; `needs`, the fingerprints
      of its inputs; `files`, bytes and sha256 by relative path; `fingerprint` of these.
      Beside them `outside`, prints of files that no stage made, by config field and
      name, if it read any, which older manifests lack; `revision` of the stage, if it
      is not 0; `seconds`, of all attempts together; `made_on`, the devices and jax's
      version of each attempt that computed; `version`, of pav_jax.

    Raises:
      UserError: it is missing or damaged.
    """
    path = folder / MANIFEST
    manifest = artifacts.read_json(path)
    try:
        intact = manifest["fingerprint"] == _fingerprint(manifest)
        intact = intact and _is_manifest(manifest)
    except (KeyError, TypeError, ValueError, AttributeError):
        intact = False
    if not intact:
        raise UserError(f"{path} is damaged; delete it and run again")
    return manifest


def renew(path: Path) -> None:
    """Notes that a file of a finished stage was written again by this program.

    Of a stage without a manifest, or with a damaged one, nothing is noted.
    """
    folder = path.parent
    if not (folder / MANIFEST).exists():
        return
    try:
        manifest = read_manifest(folder)
    except UserError:
        return
    manifest["files"] |= {path.name: _entry(path)}
    manifest["fingerprint"] = _fingerprint(manifest)
    artifacts.write_json(folder / MANIFEST, manifest)


def _is_manifest(manifest: Mapping[str, Any]) -> bool:
    """Whether the parts are of the types that they have, and files are in the folder.

    Others wrote the manifests of `--reuse` and of what is downloaded; a name such as
    "../../x" would be written outside of the workdir.
    """
    parts = [manifest[name] for name in ("fields", "needs", "files")]
    return (
        isinstance(manifest["stage"], str)
        and all(isinstance(part, dict) for part in parts)
        and float(manifest["seconds"]) >= 0
        and all(isinstance(x, dict) for x in manifest.get("outside", {}).values())
        and isinstance(manifest.get("revision", 0), int)
        and isinstance(manifest.get("made_on", []), list)
        and all(isinstance(place, str) for place in manifest.get("made_on", []))
        and all(
            is_inside(name)
            and isinstance(file["bytes"], int)
            and isinstance(file["sha256"], str)
            for name, file in manifest["files"].items()
        )
    )


def is_inside(name: str) -> bool:
    """Whether a relative name, joined to a folder, stays in the folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts


def difference(old: dict, terms: dict) -> str:
    """What changed between two terms of a stage; empty if nothing did."""
    changes = []
    for name in sorted(old["fields"].keys() | terms["fields"].keys()):
        before, now = (t["fields"].get(name, _ABSENT) for t in (old, terms))
        if before is _ABSENT:
            changes.append(f"{name} is new")
        elif now is _ABSENT:
            changes.append(f"{name} is gone")
        elif before != now:
            changes.append(f"{name} changed from {_brief(before)} to {_brief(now)}")
    if changes:
        more = f" (and {len(changes) - 1} more)" if len(changes) > 1 else ""
        return changes[0] + more
    ran = [n for n, f in terms["needs"].items() if old["needs"].get(n) != f]
    if ran:
        return f"{' and '.join(ran)} ran again"
    if old["needs"] != terms["needs"]:
        return "it needs fewer stages"
    revision = old.get("revision", 0) - terms.get("revision", 0)
    if revision:
        age = "an older" if revision < 0 else "a newer"
        return f"it was made by {age} version of this stage"
    return _other_content(old.get("outside", {}), terms.get("outside", {}))


def _other_content(old: Mapping[str, Mapping], now: Mapping[str, Mapping]) -> str:
    """Which file that no stage made has changed; of those that only one knows, none:
    older manifests lack them, and they need not be there once the stage is done."""
    for field in sorted(old.keys() & now.keys()):
        before, after = old[field], now[field]
        for name in sorted(before.keys() | after.keys()):
            if name not in before:
                return f"{name} in config.{field} is new"
            if name not in after:
                return f"{name} in config.{field} is gone"
            if before[name] != after[name]:
                return f"{name} in config.{field} changed"
    return ""


def damage(folder: Path, files: Mapping[str, Mapping[str, Any]]) -> str:
    """The first file that is not as in the manifest, and how; sizes are checked first,
    since hashing takes long."""
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        size = path.stat().st_size
        if size != expected["bytes"]:
            return f"{name} is damaged (size {size}, expected {expected['bytes']})"
    for name, expected in files.items():
        if _sha256(folder / name) != expected["sha256"]:
            return f"{name} is damaged (its content changed)"
    return ""


def _inventory(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.relative_to(folder).as_posix(): _entry(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / STARTED
    }


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _fingerprint(manifest: Mapping[str, Any]) -> str:
    """A digest of a manifest, but for its time, devices and version. What came of
    another revision, or of files that no stage made, is in its own files: if these are
    the same, later stages stand."""
    keys = ("stage", "fields", "needs", "files")
    return config_lib.digest({key: manifest[key] for key in keys})


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
