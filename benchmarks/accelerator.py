"""How near the hot paths come to what the device can do.

    make accelerator                                     # on whatever jax sees
    python -m benchmarks.accelerator --rows=decode,sft   # some of the rows
    python -m benchmarks.accelerator --tiny              # shapes of a laptop, as a test

It needs the checkout, jax, flax, optax, orbax-checkpoint, sentencepiece, fsspec, tqdm
and ml-collections. A row is printed as soon as it is measured, and written to
`benchmarks/results/<device>.json` at once, so that a run that is cut short counts.
`benchmarks/accelerator.md` is made of these files.
"""

import argparse
import dataclasses
import json
import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

# The demo and the peer need memory of the same card.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax

from benchmarks import accelerator_sampling as sampling
from benchmarks import accelerator_training as training
from benchmarks import harness, roofline
from benchmarks.accelerator_shapes import Shapes, full, tiny

# In the order of importance: a run that is cut short has the first ones.
ROWS = {
    "decode": sampling.decode,
    "labelling": sampling.label,
    "sft": training.sft,
    "scoring": training.scoring,
    "search": sampling.search,
    "rl": training.rl,
    "demo": training.demo,
    "transformers": sampling.transformers,
}

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).with_name("accelerator.md")
_HEADER = """\
| row | rate | ms | floor, ms | set by | share of the floor | compile, s | |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS), help="which, by commas")
    parser.add_argument("--tiny", action="store_true", help="shapes of a laptop")
    parser.add_argument("--out", type=Path, help="the file of JSON; no page is made")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="no row starts after these"
    )
    asked = parser.parse_args()
    names = asked.rows.split(",")
    if unknown := set(names) - set(ROWS):
        parser.error(f"there is no row {sorted(unknown)}; there are {', '.join(ROWS)}")
    if asked.tiny and not asked.out:
        parser.error("--tiny needs --out: its figures say nothing about a device")
    shapes = tiny() if asked.tiny else full()
    device = harness.device()
    file = re.sub(r"[^a-z0-9]+", "_", device.lower()).strip("_")
    out = asked.out or RESULTS / f"{file}.json"
    found = _measure(names, shapes, device, 60 * asked.minutes, out)
    if not asked.out:
        PAGE.write_text(page())
    sys.exit(bool(found["failed"]))


def _measure(
    names: list[str],
    shapes: Shapes,
    device: str,
    most: float,
    out: Path,
) -> dict[str, Any]:
    """Measures rows, none of which starts after `most` seconds; what is in `out`."""
    end = time.perf_counter() + most
    ceilings = roofline.measure(shapes.copy, shapes.width)
    found = {
        "device": device,
        "jax": jax.__version__,
        "ceilings": dataclasses.asdict(ceilings),
        "rows": {},
        "failed": {},
    }
    print(f"{_ceilings(found)}\n{_HEADER}", flush=True)
    for name in names:
        if time.perf_counter() > end:
            found["failed"][name] = f"not started: {most / 60:g} minutes were over"
            continue
        try:
            for row in ROWS[name](shapes, ceilings):
                found["rows"][row.name] = dataclasses.asdict(row)
                print(_line(found["rows"][row.name]), flush=True)
                _write(out, found)
        except ImportError as error:
            print(f"{name}: skipped, {error}", file=sys.stderr)
        except Exception as error:  # the rows after it are measured still
            found["failed"][name] = f"{type(error).__name__}: {error}"[:500]
            traceback.print_exc()
        jax.clear_caches()
    _write(out, found)
    return found


def _write(out: Path, found: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(found, indent=1) + "\n")


def page() -> str:
    """`accelerator.md`, of all devices that were measured."""
    text = [
        "# On accelerators",
        "",
        "`make accelerator` writes this page and the files in `results/`. Gemma 2 2B,",
        "random weights in bfloat16, one device. A floor is what the work needs at",
        "least: its bytes at the speed of a copy on the card, or its operations",
        "at that of a matrix product, whichever takes longer.",
        "[NOTES.md](NOTES.md) has what was tried.",
    ]
    for file in sorted(RESULTS.glob("*.json")):
        found = json.loads(file.read_text())
        text += ["", f"## {found['device']}", "", _ceilings(found), "", _HEADER]
        text += [_line(row) for row in found["rows"].values()]
        text += [
            f"\nNot measured: {name} ({why.splitlines()[0]})."
            for name, why in found["failed"].items()
        ]
    return "\n".join(text) + "\n"


def _ceilings(found: dict[str, Any]) -> str:
    bandwidth, matmul = found["ceilings"]["bandwidth"], found["ceilings"]["matmul"]
    return (
        f"{found['device']}, jax {found['jax']}: it copies {bandwidth / 1e12:.3g} TB/s,"
        f" read and written, and multiplies {matmul / 1e12:.3g} TFLOP/s in bfloat16."
    )


def _line(row: dict[str, Any]) -> str:
    """A row of the table."""
    floor, compiled = row["floor"], row["compile"]
    cells = [
        row["name"],
        f"{row['rate']:,.4g} {row['unit']}/s",
        f"{1e3 * row['seconds']:,.4g}",
        f"{1e3 * floor:,.4g}" if floor else "–",
        row["limit"] or "–",
        f"{floor / row['seconds']:.0%}" if floor else "–",
        f"{compiled:.0f}" if compiled is not None else "–",
        row["note"],
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
