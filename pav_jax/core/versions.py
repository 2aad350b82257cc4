"""Versions of installed packages."""

import contextlib
import importlib.metadata


def version(package: str) -> str | None:
    """The version of a package; None if it is not installed as one."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None
