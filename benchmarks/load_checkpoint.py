"""Peak memory of reading a checkpoint, on one CPU device.

    python -m benchmarks.load_checkpoint [--gigabytes=1.2] [--dtype=bfloat16]

Writes a checkpoint of random bfloat16 weights, Gemma 2 2B's shapes with fewer layers,
in each format, and reads each in a process of its own. On a CPU the parameters are host
memory too, so the figure that counts is the peak beyond them: it should be about the
largest tensor (the embedding table), and not a second copy.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import peers
from pav_jax.core.types import Params
from pav_jax.gemma import checkpoint, forward, sizes
from pav_jax.gemma.architecture import TransformerConfig


def sized(gigabytes: float) -> TransformerConfig:
    """Gemma 2 2B with as many layers as it takes, and a tenth of its vocabulary."""
    architecture = dataclasses.replace(sizes.by_name("gemma2_2b"), vocab_size=25_600)
    one, two = (
        dataclasses.replace(architecture, layers=architecture.layers[:n]).num_params
        for n in (1, 2)
    )
    count = max(2, round((gigabytes * 1e9 / 2 - one) / (two - one)) + 1)
    return dataclasses.replace(architecture, layers=architecture.layers[:count])


def random_params(architecture: TransformerConfig) -> Params:
    """A tree of bfloat16 arrays."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(
            rng.standard_normal(leaf.shape, np.float32), jnp.bfloat16
        ),
        jax.eval_shape(lambda: forward.init_params(jax.random.key(0), architecture)),
    )


def write(folder: Path, architecture: TransformerConfig) -> None:
    """The same weights in the package's nested and stacked formats and in HF's."""
    from orbax import checkpoint as ocp

    params = random_params(architecture)
    checkpoint.write(folder / "nested", params, architecture=architecture)

    layers = {k: np.asarray(v) for k, v in params["layers"].items()}
    tree = {
        "transformer/embedder": {"input_embedding": params["embed"]},
        "transformer/final_norm": {"scale": params["final_norm"]},
    }
    for place in range(2):
        prefix = f"transformer/stacked_layers/attention_type_{place}"
        part = {k: v[place::2] for k, v in layers.items()}
        for leaf, name in {
            "q": "attn/q_einsum/w",
            "kv": "attn/kv_einsum/w",
            "o": "attn/attn_vec_einsum/w",
            "gate": "mlp/gating_einsum/w",
            "down": "mlp/linear/w",
            "pre_attn_norm": "pre_attention_norm/scale",
            "post_attn_norm": "post_attention_norm/scale",
            "pre_mlp_norm": "pre_ffw_norm/scale",
            "post_mlp_norm": "post_ffw_norm/scale",
        }.items():
            module, _, last = name.rpartition("/")
            tree[f"{prefix}/{module}"] = {last: part[leaf]}
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / "stacked", tree)

    (folder / "hf").mkdir()
    peers.save(folder / "hf", params, architecture)


def memory(field: str) -> int:
    """Bytes of a field of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def read(path: Path, architecture, dtype) -> dict[str, float]:
    """Reads one, and watches this process's own memory (not the files it maps)."""
    jnp.zeros(1).block_until_ready()
    before, peak, done = memory("RssAnon"), [0], threading.Event()

    def watch():
        while not done.wait(0.002):
            peak[0] = max(peak[0], memory("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    params = checkpoint.read(path, architecture=architecture, dtype=dtype)
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    return {
        "parameters_gb": size / 1e9,
        "peak_beyond_start_gb": (peak[0] - before) / 1e9,
        "peak_beyond_parameters_gb": (peak[0] - before - size) / 1e9,
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.2)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--read", help=argparse.SUPPRESS)
    options = parser.parse_args()
    architecture = sized(options.gigabytes)
    if options.write:
        write(Path(options.write), architecture)
        return
    if options.read:
        found = read(Path(options.read), architecture, jnp.dtype(options.dtype))
        print(json.dumps({k: round(v, 3) for k, v in found.items()}))
        return
    table = 2 * architecture.vocab_size * architecture.embed_dim  # bytes
    gate = 2 * 2 * architecture.mlp_dim * architecture.embed_dim
    stacked = gate * -(-architecture.num_layers // 2)
    print(
        f"{architecture.num_layers} layers, {architecture.num_params * 2 / 1e9:.2f} GB"
        f" on disk; largest tensors: {max(table, gate) / 1e9:.2f} GB (stacked:"
        f" {stacked / 1e9:.2f} GB)"
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.load_checkpoint"]
        command += [f"--gigabytes={options.gigabytes}", f"--dtype={options.dtype}"]
        subprocess.run([*command, f"--write={folder}"], check=True)
        for name in ("nested", "stacked", "hf"):
            print(f"{name:8}", end="", flush=True)
            subprocess.run([*command, f"--read={folder}/{name}"], check=True)


if __name__ == "__main__":
    main()
