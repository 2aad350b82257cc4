"""What a program does: operations from its jaxpr, traffic from its compiled text.

The compiler's own cost analysis counts the body of a loop once. Here a loop's body
counts as often as it runs, where that is known; a loop that runs until something
happens, as decoding does, counts once, so that figures are those of one step of it.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

_DTYPE_BITS = {"pred": 8, "bf16": 16, "c64": 64, "c128": 128}
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_COLLECTIVE = re.compile(
    r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)"
    r"(-start)?\("
)
_COPY = re.compile(r" (copy|copy-start)\(")
LARGE_COPY = 64 * 2**20  # bytes


def flops(jaxpr: Any) -> float:
    """Floating-point operations of the matrix products of a jaxpr.

    Of a choice they are those of the branch with most: of attention by blocks where
    some layers are local, those of global layers.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            depth = math.prod(left[axis] for axis in contracted)
            total += 2.0 * math.prod(equation.outvars[0].aval.shape) * depth
            continue
        if equation.primitive.name == "cond":
            total += max(flops(inner) for inner in _inner(equation.params))
            continue
        times = equation.params.get("length", 1)
        if equation.primitive.name == "shard_map":
            times = _shares(equation)
        total += times * sum(flops(inner) for inner in _inner(equation.params))
    return total


def _shares(equation: Any) -> int:
    """How many devices each have a part of what a `shard_map` is given."""
    inside = equation.params["jaxpr"].invars
    return max(
        whole.aval.size // part.aval.size
        for whole, part in zip(equation.invars, inside, strict=True)
    )


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            item = getattr(item, "jaxpr", item)
            if hasattr(item, "eqns"):
                yield item


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What moves in one run of a compiled program.

    Attributes:
      collectives: mesh axes, joined by "+", to bytes that each device sends.
      copies: large arrays that are copied whole: (shape, bytes, times a run).
    """

    collectives: dict[str, float]
    copies: list[tuple[str, int, int]]


def traffic(
    text: str, mesh: jax.sharding.Mesh, smallest: float = LARGE_COPY
) -> Traffic:
    """Reads the text of a compiled program for `mesh`.

    Args:
      text: of the program.
      mesh: that it is for.
      smallest: bytes from which on an array is large.
    """
    computations = _computations(text)
    times = _times(computations)
    collectives: dict[str, float] = {}
    copies: dict[str, tuple[int, int]] = {}
    for name, lines in computations.items():
        for line in lines:
            if found := _COLLECTIVE.search(line):
                axes, size = _groups(line, mesh)
                if size > 1:
                    sent = _sent(found[1], _bytes(line, found), size)
                    if name.startswith("all-reduce-scatter"):
                        sent /= 2  # of whose result only a device's part is made
                    collectives[axes] = collectives.get(axes, 0.0) + sent * times[name]
            elif (found := _COPY.search(line)) and not _is_offload(line):
                size = _bytes(line, found)
                if size >= smallest:
                    shape = _SHAPE.search(line)[0]
                    before = copies.get(shape, (size, 0))[1]
                    copies[shape] = (size, before + times[name])
    return Traffic(collectives, [(shape, *rest) for shape, rest in copies.items()])


def _computations(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            lines = found["ENTRY" if head[1] else head[2]] = []
        else:
            lines.append(line)
    return found


def _times(computations: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation runs when the program runs once."""
    times = dict.fromkeys(computations, 0)

    def visit(name: str, count: int) -> None:
        times[name] += count
        for line in computations[name]:
            loop = re.search(r"condition=%?([\w.\-]+), body=%?([\w.\-]+)", line)
            if loop:
                visit(loop[2], count * _trips(line, computations[loop[1]]))
            called = re.findall(r"(?:calls|to_apply)=%?([\w.\-]+)", line)
            branches = re.search(r"branch_computations=\{([^}]*)\}", line)
            if branches:
                called += [b.strip().lstrip("%") for b in branches[1].split(",")]
            for inner in called:
                if inner in computations:
                    visit(inner, count)

    if "ENTRY" in computations:
        visit("ENTRY", 1)
    return times


def _trips(loop: str, condition: Sequence[str]) -> int:
    """Times a loop runs, if it counts up to a constant; else 1."""
    if stated := re.search(r'known_trip_count":\{"n":"(\d+)"', loop):
        return int(stated[1])
    root = next((line for line in condition if "ROOT" in line), "")
    if "direction=LT" not in root:
        return 1
    for operand in re.findall(r"%[\w.\-]+", root.partition("compare(")[2]):
        for line in condition:
            constant = re.search(r"constant\((\d+)\)", line)
            if constant and line.split()[0] == operand:
                return int(constant[1])
    return 1


def _bytes(line: str, found: re.Match) -> int:
    """Bytes of what an instruction gives, the last part of it if it is a pair."""
    result = line[: found.start()].partition(" = ")[2]
    shapes = _SHAPE.findall(result)
    if found[2] if found.re is _COLLECTIVE else found[1] == "copy-start":
        # (operand, result, contexts): what arrives is the second.
        shapes = [s for s in shapes if s[1]][1:2]
    return sum(_size(kind, dims) for kind, dims in shapes)


def _size(kind: str, dims: str) -> int:
    bits = _DTYPE_BITS.get(kind) or int(re.search(r"\d+", kind)[0])
    return math.prod(int(d) for d in dims.split(",") if d) * bits // 8


def _is_offload(line: str) -> bool:
    return bool(re.search(r"S\(\d\)", line.partition(" = ")[2]))  # another memory


def _sent(kind: str, size: int, devices: int) -> float:
    """Bytes that a device sends, in a ring, for a result of `size` bytes."""
    others = (devices - 1) / devices
    return {
        "all-gather": size * others,
        "all-reduce": 2 * size * others,
        "reduce-scatter": size * (devices - 1),
        "all-to-all": size * others,
        "collective-permute": float(size),
    }[kind]


def _groups(line: str, mesh: jax.sharding.Mesh) -> tuple[str, int]:
    """The mesh axes along which a collective talks, and the devices of a group."""
    group = _first_group(line)
    shape = tuple(mesh.shape.values())
    if group is None:
        group = range(math.prod(shape))
    places = np.array(np.unravel_index(np.array(list(group)), shape))
    varies = (places != places[:, :1]).any(axis=1)
    names = [name for name, is_in in zip(mesh.shape, varies, strict=True) if is_in]
    return "+".join(names), len(places[0])


def _first_group(line: str) -> list[int] | None:
    """The devices of a collective's first group, by place in the mesh; None: all."""
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line):
        return [int(pairs[1]), int(pairs[2])]
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return [int(x) for x in listed[1].split(",")]
    iota = re.search(
        r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line
    )
    if iota:
        groups, dims, order = (
            [int(x) for x in part.split(",")] if part else None
            for part in iota.groups()
        )
        ids = np.arange(math.prod(dims)).reshape(dims)
        ids = ids.transpose(order) if order else ids
        return ids.reshape(-1, groups[-1])[0].tolist()
    named = re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line)
    if named:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        axes = re.findall(r"'(\w+)'", named[2])
        ids = np.arange(math.prod(map(int, sizes.values())))
        ids = ids.reshape([int(size) for size in sizes.values()])
        index = tuple(slice(None) if axis in axes else 0 for axis in sizes)
        return ids[index].reshape(-1).tolist()
    return None
