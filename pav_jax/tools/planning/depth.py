"""What a program takes whose layers are written out, from programs of few layers.

A layer of a kind is the same wherever it stands. So what two programs of few layers
differ by is what the layers between them take, and the rest follows by arithmetic:
exactly for operations, collectives, and weights and caches; for temporaries, which the
compiler plans as a whole, nearly. `docs/scale.md` compares both forms.
"""

import dataclasses
import re

from pav_jax.tools.planning import program

# So near the memory of a device, a program is compiled whole.
_NEAR = 0.03


@dataclasses.dataclass(frozen=True)
class Program:
    """What one compiled program does, and takes of a device.

    Attributes:
      layers: of each network in it.
      flops: of all devices.
      kept: bytes of its arguments, and of results that are not in their place.
      temporaries: bytes.
      collectives: mesh axes to bytes that a device sends.
      copies: large arrays that are copied whole: (shape, bytes, times a run).
    """

    layers: int
    flops: float
    kept: float
    temporaries: float
    collectives: dict[str, float]
    copies: list[tuple[str, int, int]]

    @property
    def total(self) -> float:
        """Bytes of a device."""
        return self.kept + self.temporaries


def extrapolate(few: Program, more: Program, layers: int) -> Program:
    """The program of `layers` layers, from two of fewer.

    Args:
      few: has the least layers.
      more: has more.
      layers: of the result.
    """
    steps = (layers - more.layers) / (more.layers - few.layers)

    def line(a: float, b: float) -> float:
        return b + (b - a) * steps

    axes = few.collectives.keys() | more.collectives.keys()
    return Program(
        layers=layers,
        flops=line(few.flops, more.flops),
        kept=round(line(few.kept, more.kept)),
        temporaries=max(
            more.temporaries, round(line(few.temporaries, more.temporaries))
        ),
        collectives={
            axis: line(few.collectives.get(axis, 0.0), more.collectives.get(axis, 0.0))
            for axis in sorted(axes)
        },
        copies=_copies(few, more, layers, line),
    )


def is_near(total: float, limit: float) -> bool:
    """Whether a program is so near the memory of a device that arithmetic won't do."""
    return abs(total - limit) < _NEAR * limit


def _copies(few: Program, more: Program, layers: int, line) -> list:
    """Copies of large arrays; those that stack layers are as large as all layers."""
    before = {shape: times for shape, _, times in few.copies}
    stacks = {_stack(shape, few.layers): times for shape, times in before.items()}
    found = []
    for shape, size, times in more.copies:
        stack = _stack(shape, more.layers)
        if shape not in before and stack in stacks:
            times = line(stacks[stack], times)
            shape, size = stack.format(layers), size * layers // more.layers
        else:
            times = line(before.get(shape, 0), times)
        if size >= program.LARGE_COPY and round(times) > 0:
            found.append((shape, size, round(times)))
    return found


def _stack(shape: str, layers: int) -> str:
    """`shape`, with a gap in place of its first dimension if that is `layers`."""
    return re.sub(rf"\[{layers}\b", "[{}", shape)
