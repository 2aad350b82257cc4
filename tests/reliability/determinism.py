"""What is equal, bit for bit, between two ways of running the same config and seed.

    .venv/bin/python tests/reliability/determinism.py [--only=NAME] [--python=PATH]

The small experiment on one device is the reference. Each variant runs all its stages
anew, in a process of its own; the table, which docs/reliability.md has, says which
stages have the same files, and the largest difference of parameters where they do not:
of SFT, which is first and depends on no sample, and of any stage.
With `--python`, one variant more is run by another Python, which may have another jax:

    make setup PYTHON=python3.12 VENV=.venv-3.12
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nursery import ROOT, differences, params_of, run_of

VARIANTS = {
    "the same again": ({}, []),
    "2 devices": ({"devices": 2}, []),
    "4 devices": ({"devices": 4}, []),
    "8 devices": ({"devices": 8}, []),
    "another batch of samples": (
        {},
        ["--config.sampling.trunks=4", "--config.sampling.rows=2"],
    ),
    "other shards": ({}, ["--config.labels.shard=16"]),
    "fewer optimisations by XLA": ({"plain": True}, []),
    "a CPU without AVX-512": ({"isa": "AVX2"}, []),
    "a CPU without AVX2": ({"isa": "AVX"}, []),
}
OTHER = "another Python"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=[*VARIANTS, OTHER], help="of the variants")
    parser.add_argument("--python", help="path of another Python, with its own jax")
    arguments = parser.parse_args()
    variants = dict(VARIANTS)
    if arguments.python:
        variants[OTHER] = ({"python": os.path.abspath(arguments.python)}, [])
    elif arguments.only == OTHER:
        parser.error("--python=PATH says which other one")
    if arguments.only:
        variants = {arguments.only: variants[arguments.only]}
    with tempfile.TemporaryDirectory(prefix="pav_determinism_") as folder:
        root = Path(folder)
        _run(root / "reference", {}, [])
        print("| variant | stages that differ | largest difference of SFT | of any |")
        print("|---|---|---|---|")
        for name, (how, changes) in variants.items():
            workdir = root / name.replace(" ", "_")
            _run(workdir, how, changes)
            files = differences(root / "reference", workdir)
            stages = list(dict.fromkeys(file.split("/")[0] for file in files))
            stages = [stage for stage in stages if stage != "report"]
            shown = ", ".join(stages) or "none"
            gaps = _gaps(root / "reference", workdir)
            print(
                f"| {name} | {shown} | {gaps['sft']:.1e} | {max(gaps.values()):.1e} |",
                flush=True,
            )


def _run(workdir: Path, how: dict, changes: list[str]) -> None:
    flags = f"--xla_force_host_platform_device_count={how.get('devices', 1)}"
    if "isa" in how:
        flags += f" --xla_cpu_max_isa={how['isa']}"
    cache = workdir.with_name(f"compiled{how.get('isa', '')}")
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "XLA_FLAGS": flags,
        "PYTHONPATH": str(ROOT),
    }
    if "isa" in how:  # oneDNN, within jaxlib, chooses its own
        environment["ONEDNN_MAX_CPU_ISA"] = how["isa"]
    if how.get("plain"):
        environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    command = [
        how.get("python", sys.executable),
        "-m",
        "pav_jax",
        *run_of(workdir),
        *changes,
    ]
    subprocess.run(command, env=environment, cwd=ROOT, check=True, capture_output=True)


def _gaps(reference: Path, workdir: Path) -> dict[str, float]:
    """The largest difference of a parameter, by stage."""
    gaps = {}
    for path in sorted(workdir.glob("*/params")):
        theirs = params_of(reference / path.parent.name / "params")
        gaps[path.parent.name] = max(
            float(np.abs(np.asarray(array, np.float64) - theirs[name]).max(initial=0.0))
            for name, array in params_of(path).items()
        )
    return gaps


if __name__ == "__main__":
    main()
