"""Makes docs/scale.md: the paper's experiments, planned for TPU slices.

    python -m benchmarks.scale

Needs libtpu (pip install 'pav_jax[plan]'), but no TPU. Compiling takes about three
minutes a cell on two idle cores. The compiler's answers are kept in docs/scale.json,
step by step, and are not computed again: after a change to a step function, delete its
entries. Those under "whole" are of programs of all layers, where `pav plan` has few.
"""

import json
import sys
from pathlib import Path

from pav_jax.core import config as config_lib
from pav_jax.storage import artifacts
from pav_jax.tools.planning import compiled, estimate, steps, topology

ROOT = Path(__file__).resolve().parents[1]
FOUND, PAGE = ROOT / "docs" / "scale.json", ROOT / "docs" / "scale.md"

# Size, slice, mesh, and trunks in flight on the whole slice.
CELLS = [
    ("2b", "v5e:4x4", {"fsdp": 4, "tensor": 4}, 32),
    ("2b", "v5p:2x2x4", {"fsdp": 16}, 64),
    ("2b", "v6e:4x4", {"fsdp": 4, "tensor": 4}, 64),
    ("9b", "v5e:8x8", {"fsdp": 8, "tensor": 8}, 32),
    ("9b", "v5p:4x4x4", {"fsdp": 16, "tensor": 4}, 64),
    ("9b", "v6e:8x8", {"fsdp": 8, "tensor": 8}, 64),
    ("27b", "v5e:16x16", {"fsdp": 16, "tensor": 16}, 32),
    ("27b", "v5p:4x4x4", {"fsdp": 16, "tensor": 4}, 64),
    ("27b", "v6e:8x8", {"fsdp": 8, "tensor": 8}, 32),
]
_64 = {"fsdp": 16, "tensor": 4}
# Before the last of each are rows of the batch, or trunks and rows of the engine, and
# tokens of a prompt and of its response. The last is what a plain scanned Gemma 2
# takes of a device of that slice, in GiB; see scale.template.md.
REFERENCES = [
    ("2b", "v5e:4x4", {"fsdp": 4, "tensor": 4}, "sft", (32,), (512, 512), "3.9"),
    ("9b", "v5p:4x4x4", _64, "sft", (128,), (512, 512), "5.5"),
    ("27b", "v5p:4x4x4", _64, "sft", (128,), (512, 512), "10.3"),
    ("27b", "v5p:8x8x8", {"fsdp": 64, "tensor": 8}, "sft", (1024,), (512, 512), "6.0"),
    ("27b", "v5e:4x4", {"fsdp": 4, "tensor": 4}, "sft", (128,), (512, 512), "23.07"),
    ("27b", "v5p:4x4x4", _64, "decode", (16, 16), (384, 128), "13 to 14.5"),
]
# Before the last two are tokens of a prompt and of its response. The last two are what
# the step took when attention held the scores of all pairs of tokens: GiB of
# temporaries, and in all.
LONG_ROWS = [
    ("2b", "v5e:4x4", {"fsdp": 4, "tensor": 4}, "sft", (1024, 512), "4.08", "5.91"),
    ("2b", "v5p:2x2x4", {"fsdp": 16}, "sft", (7680, 512), "22.89", "24.72"),
]
LABELS = 300_000  # the paper's, of one base policy
# Parts of stages `rollouts` and `labels`, each on one host: times the paper's labels,
# how many parts, and `labels.shard`.
PARTS = [(1, 1, 100), (1, 64, 30), (1, 1024, 12), (100, 64, 100), (100, 1024, 100)]
PART_OF, PART_CHIPS = ("2b", "v6e:4x4"), 8
_PROBLEMS = 11_520  # of MATH, that are labelled
# Measured, CPU seconds: `pav run --part` of experiments/demo.py:smoke, with all done.
_BEGINS = 4.1
_WEIGHTS = 10.5e9  # bytes of Gemma 2 2B in float32
_NETWORK = (0.5e9, 2e9)  # of them a second from a bucket to a host; assumed
_COMPILED = (
    "v5e:4x4",
    "v6e:4x4",
)  # the shortest and the longest time to compile decode
_GIB = 2**30


def load(size: str, **fields):
    """The paper's experiment with Gemma 2 of a size, some fields changed."""
    file = ROOT / "experiments" / f"gemma2_{size}_math.py"
    given = [f"--config.{name}={value}" for name, value in fields.items()]
    return config_lib.load([f"--config={file}", *given])


def load_cell(size: str, trunks: int):
    return load(size, **{"sampling.trunks": trunks})


def load_reference(size: str, step: str, batch: tuple, tokens: tuple):
    limits = ("limits.max_prompt_tokens", "limits.max_tokens")
    rows = {
        "sft": ("sft.batch_size",),
        "decode": ("sampling.trunks", "sampling.rows"),
    }[step]
    fields = dict(zip(limits + rows, tokens + batch, strict=True))
    return load(size, **{"model.dtype": "bfloat16"} | fields)


def load_long(size: str, tokens: tuple[int, int]):
    limits = ("limits.max_prompt_tokens", "limits.max_tokens")
    return load(size, **dict(zip(limits, tokens, strict=True)))


def main() -> None:
    found = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    for size, slice_, sizes, trunks in CELLS:
        config = load_cell(size, trunks)
        for name in steps.names(config):
            _find(found, f"{size} {slice_}", name, config, slice_, sizes)
    for size, slice_, sizes, name, batch, tokens, _ in REFERENCES:
        config = load_reference(size, name, batch, tokens)
        _find(found, f"reference {size} {slice_}", name, config, slice_, sizes)
    for size, slice_, sizes, name, tokens, *_ in LONG_ROWS:
        cell = f"rows of {sum(tokens)} {size} {slice_}"
        _find(found, cell, name, load_long(size, tokens), slice_, sizes)
    write_page(found)


def _find(found: dict, cell: str, name: str, config, slice_: str, sizes: dict) -> None:
    """Adds what compiling a step tells, if it is not there."""
    answers = found.setdefault(cell, {})
    if "compiled_layers" in answers.get(name, {}):
        return
    print(f"compiling {cell} {name}", file=sys.stderr)
    answer = compiled.compile_step(name, config, slice_, sizes)
    before = answers.pop(name, None)
    if before and len(answer["compiled_layers"]) > 1:
        found.setdefault(f"whole {cell}", {})[name] = before
    answers[name] = {key: value for key, value in answer.items() if key != "kept"}
    artifacts.write_json(FOUND, found)


def _whole(found: dict, cell: str, name: str) -> dict:
    """What compiling all layers of a step told."""
    return found.get(f"whole {cell}", {}).get(name) or found[cell][name]


def write_page(found: dict) -> None:
    """The page, of the steps that are there."""
    rows, labels, chips = [], [], []
    for size, slice_, sizes, trunks in CELLS:
        cell = found.get(f"{size} {slice_}", {})
        target, config = topology.parse(slice_), load_cell(size, trunks)
        mesh = " × ".join(f"{axis} {n}" for axis, n in sizes.items())
        where = f"| {size.upper()} | {slice_} | {mesh} |"
        for name, answer in cell.items():
            batch = f"{answer['tokens']:,} rows"
            if name in ("sft", "verifier"):
                batch = f"{answer['tokens'] // steps.length(config)} × "
                batch += f"{steps.length(config)} tokens"
            rows.append(f"{where} {name} | {batch} | {_memory(answer, target)} |")
        if cell.get("decode", {}).get("fits"):
            said = _labelling(config, cell["decode"], target)
            labels.append(f"{where} {said} |")
        if set(steps.names(config)) <= {n for n, a in cell.items() if a["fits"]}:
            stages = estimate.stages(config, cell, target)
            total = [sum(stage.chip_hours[i] for stage in stages) for i in (0, 1)]
            chips.append(f"{where} {_span(total)} |")
    beside = [
        _beside(cell, found.get(f"reference {cell[0]} {cell[1]}", {}))
        for cell in REFERENCES
    ]
    parts = [_parts(found, *row) for row in PARTS]
    text = (ROOT / "docs" / "scale.template.md").read_text()
    for name, lines in {
        "steps": rows,
        "labels": labels,
        "experiment": chips,
        "parts": parts,
        "times": [_times(found, *cell) for cell in CELLS],
        "long": [_long_row(cell, found) for cell in LONG_ROWS],
        "references": list(filter(None, beside)),
    }.items():
        text = text.replace(f"{{{name}}}", "\n".join(lines))
    artifacts.write_text(PAGE, text)


def _beside(cell: tuple, answers: dict) -> str | None:
    size, slice_, sizes, name, batch, tokens, reference = cell
    if name not in answers:
        return None
    answer = answers[name]
    if answer["fits"]:
        ours = f"{answer['total'] / _GIB:.2f}"
    else:
        limit = answer["limit"] / _GIB
        ours = f"refused: {answer['needed'] / _GIB:.2f} of {limit:.2f}"
    mesh = " × ".join(f"{axis} {n}" for axis, n in sizes.items())
    shape = " × ".join(map(str, (*batch, sum(tokens))))
    seconds, peak = answer["seconds"], answer["peak"] / 1e9
    return (
        f"| {size.upper()} | {slice_} | {mesh} | {name} | {shape} | {ours} |"
        f" {reference} | {seconds:.0f} | {peak:.2f} |"
    )


def _times(found: dict, size: str, slice_: str, sizes: dict, _) -> str:
    """CPU seconds of each step, of all, and how near few layers come to all."""
    cell, spent, cells = f"{size} {slice_}", [], []
    for name in ("sft", "verifier", "decode", "search"):
        now = found[cell][name]
        if "compiled_layers" not in now:
            cells.append("–")
            continue
        spent.append(now["cpu_seconds"])
        before = _whole(found, cell, name)
        if before is now:
            cells.append(f"{spent[-1]:.0f}")
        else:
            error = now["total"] / before["total"] - 1
            cells.append(
                f"{spent[-1]:.0f} ({before['cpu_seconds']:.0f}, {100 * error:+.2f}%)"
            )
    total = f"{sum(spent):.0f}" if "–" not in cells else "–"
    return f"| {size.upper()} | {slice_} | {' | '.join([*cells, total])} |"


def _long_row(cell: tuple, found: dict) -> str:
    size, slice_, sizes, name, tokens, *before = cell
    length = sum(tokens)
    answer = found[f"rows of {length} {size} {slice_}"][name]
    mesh = " × ".join(f"{axis} {n}" for axis, n in sizes.items())
    shape = f"{answer['tokens'] // length} × {length:,}"
    now = [f"{answer[part] / _GIB:.2f}" for part in ("temporaries", "total")]
    cells = [size.upper(), slice_, mesh, name, shape, *before, *now]
    return f"| {' | '.join(cells)} |"


def _memory(answer: dict, target: topology.Topology) -> str:
    parts = answer["parts"]
    cells = [f"{parts.get(name, 0) / _GIB:.2f}" for name in ("weights", "optimizer")]
    cells.append(f"{parts.get('cache', 0) / _GIB:.2f}")
    if not answer["fits"]:
        needed, limit = answer["needed"] / _GIB, answer["limit"] / _GIB
        return " | ".join([*cells, "–", f"**{needed:.2f}** of {limit:.2f}", "–", "–"])
    cells += [f"{answer[name] / _GIB:.2f}" for name in ("temporaries", "total")]
    seconds = estimate.step_seconds(answer, target)
    speed = estimate.tokens_per_second(answer, target)
    return " | ".join([*cells, _span(seconds), _span(speed)])


def _labelling(config, decode: dict, target: topology.Topology) -> str:
    """Tokens and chip-hours of the paper's labels, and slices for a day of 100×."""
    tokens = _label_tokens(config)
    slow, fast = estimate.tokens_per_second(decode, target)
    hours = tokens[0] / fast / 3600, tokens[1] / slow / 3600
    chip_hours = [target.chips * h for h in hours]
    slices = [100 * h / 24 for h in hours]
    spans = [tuple(t / 1e9 for t in tokens), hours, chip_hours, slices]
    return " | ".join(map(_span, spans))


def _label_tokens(config) -> tuple[float, float]:
    """Tokens of the continuations of the paper's labels."""
    prefixes = config.limits.max_steps
    most = LABELS * config.labels.n_mc * config.limits.max_tokens
    most *= (prefixes + 1) / (2 * prefixes)  # what a prefix leaves, on average
    return 0.3 * most, most


def _parts(found: dict, times: int, count: int, shard: int) -> str:
    """Minutes until a part begins; hours of the longest, and chip-hours of all."""
    config, target = load_cell(PART_OF[0], trunks=32), topology.parse(PART_OF[1])
    decode = found[" ".join(PART_OF)]["decode"]
    # A part does every `count`-th shard of rollouts, with the labels of these.
    shards = -(-_PROBLEMS * times // shard)
    most, working = -(-shards // count), min(shards, count)
    # A shard with fewer trunks than the grid takes as long as one that fills it.
    full = min(1.0, shard / config.sampling.trunks)
    starts, longest, paid = [], [], []
    for tokens, speed, compiling, network in zip(
        _label_tokens(config),
        reversed(estimate.tokens_per_second(decode, target)),
        [
            _whole(found, f"{PART_OF[0]} {name}", "decode")["seconds"]
            for name in _COMPILED
        ],
        reversed(_NETWORK),
        strict=True,
    ):
        length = tokens / _label_tokens(config)[1] * config.limits.max_tokens
        tokens += _PROBLEMS * config.rollouts.n_orm * length
        work = times * tokens / (speed / target.chips * PART_CHIPS) / full
        start = _BEGINS + 2 * compiling + _WEIGHTS / network  # two: rollouts, labels
        starts.append(start / 60)
        longest.append((start + work * most / shards) / 3600)
        paid.append(PART_CHIPS * (working * start + work) / 3600)
    cells = (starts, longest, paid)
    return (
        f"| {times}× | {count:,} | {shard} | {working:,} | "
        + " | ".join(map(_span, cells))
        + " |"
    )


def _span(pair) -> str:
    low, high = (f"{float(f'{x:.3g}'):,.10g}" for x in pair)
    return f"{low} to {high}"


if __name__ == "__main__":
    main()
