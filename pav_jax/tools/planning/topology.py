"""TPU slices: what users and the compiler call them, and what they can do."""

import dataclasses
import math
import re

from pav_jax.core.errors import UserError


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the maker publishes of one chip, and what its compiler leaves for use.

    Attributes:
      flops: bfloat16 operations a second of one device.
      bandwidth: of a device's HBM, bytes a second.
      link: a device's part of one inter-chip link, bytes a second and direction.
      hbm: bytes that a program may use of a device, as the compiler states when it
        runs out.
      dimensions: of the torus.
      accelerator: as GKE labels nodes that have such chips.
      devices: as which jax sees one chip.
    """

    flops: float
    bandwidth: float
    link: float
    hbm: float
    dimensions: int
    accelerator: str
    devices: int = 1


_GIB = 2**30
CHIPS = {
    "v5e": Chip(197e12, 819e9, 4.5e10, 15.75 * _GIB, 2, "tpu-v5-lite-podslice"),
    "v5p": Chip(459e12, 2765e9, 9e10, 95.73 * _GIB, 3, "tpu-v5p-slice"),
    "v6e": Chip(918e12, 1640e9, 9e10, 31.24 * _GIB, 2, "tpu-v6e-slice"),
    # Ironwood: a chip has two dies, each a device with half of everything.
    "tpu7x": Chip(
        2307e12 / 2, 7380e9 / 2, 9e10 / 2, 94.75 * _GIB, 3, "tpu7x", devices=2
    ),
}

# The largest slice of each, along each dimension of the torus.
_LARGEST = {
    "v5e": (16, 16),
    "v5p": (16, 16, 24),
    "v6e": (16, 16),
    "tpu7x": (16, 24, 24),
}
_ALIASES = {"v5litepod": "v5e"}


@dataclasses.dataclass(frozen=True)
class Topology:
    """One slice.

    Attributes:
      kind: a key of `CHIPS`.
      shape: chips along each dimension of the torus.
    """

    kind: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        """As the compiler calls it."""
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @property
    def chip(self) -> Chip:
        return CHIPS[self.kind]

    @property
    def devices(self) -> int:
        """As many as jax sees."""
        return self.chips * self.chip.devices

    @property
    def hosts(self) -> int:
        """Machines: of four chips each, but eight of a plane's are one machine."""
        alone = 8 if self.chip.dimensions == 2 else 4
        return 1 if self.chips <= alone else self.chips // 4

    def larger(self) -> "Topology | None":
        """The slice of twice the chips; None if this is the largest."""
        wanted = 2 * self.chips
        shape = _shape(self.kind, wanted)
        return None if shape is None else Topology(self.kind, shape)


def parse(name: str, flag: str = "--topology") -> Topology:
    """The slice that a name means.

    Args:
      name: "v5p:4x4x4", as the compiler says; or "v5litepod-16", "v6e-256" (chips) or
        "v5p-128" (cores, two a chip), as the cloud does. TPU7x has only the first.
      flag: that gave the name, for messages.

    Raises:
      UserError: there is no such slice.
    """
    kind, separator, size = re.fullmatch(r"([^:-]*)([:-]?)(.*)", name).groups()
    kind = _ALIASES.get(kind, kind)
    if kind not in CHIPS:
        raise UserError(
            f"{flag}={name}: there is no TPU {kind!r}; there are"
            f" {', '.join(CHIPS)}, such as v5e:4x4, v5litepod-16, v5p-128 or v6e-256"
        )
    if separator == "-" and size.isdigit() and kind != "tpu7x":
        cores = 2 if kind == "v5p" else 1
        shape = _shape(kind, int(size) // cores) if int(size) % cores == 0 else None
    elif separator == ":" and re.fullmatch(r"\d+(x\d+)*", size):
        shape = tuple(int(part) for part in size.split("x"))
        if not _exists(kind, shape):
            shape = None
    else:
        shape = None
    if shape is None:
        example = {
            "v5p": "v5p:4x4x4 or v5p-128",
            "tpu7x": "tpu7x:4x4x4",
        }.get(kind, f"{kind}:4x4 or {kind}-16")
        raise UserError(f"{flag}={name} is no slice of {kind}; write {example}")
    return Topology(kind, shape)


def _exists(kind: str, shape: tuple[int, ...]) -> bool:
    largest = _LARGEST[kind]
    return len(shape) == len(largest) and all(
        size <= most and (size % 4 == 0 or size in (1, 2))
        for size, most in zip(shape, largest, strict=True)
    )


def _shape(kind: str, chips: int) -> tuple[int, ...] | None:
    """The shape of a slice of so many chips: a cube as nearly as doubling gives."""
    if chips < 1 or chips & (chips - 1):
        return None
    dimensions = CHIPS[kind].dimensions
    shape = [1] * dimensions
    at = dimensions - 1
    # From the last dimension back, as the cloud names them: 2x4, 4x4, 2x2x4.
    if dimensions == 3 and chips >= 4:
        shape, chips, at = [2, 2, 1], chips // 4, 2
    while chips > 1:
        shape[at] *= 2
        chips //= 2
        at = (at - 1) % dimensions
    shape = sorted(shape) if min(shape) > 1 or dimensions == 2 else shape
    return tuple(shape) if _exists(kind, tuple(shape)) else None
