"""Versions of packages, of which one may not be installed."""

import jax

from pav_jax.core.versions import version


def test_of_a_package_and_of_none():
    assert version("jax") == jax.__version__
    assert version("no-such-package") is None
