"""What was paid: tokens by the kind of work."""

import dataclasses


@dataclasses.dataclass
class Ledger:
    """Tokens that went through a model, each counted once a pass.

    Attributes:
      decoded: tokens sampled, of candidates later thrown away too.
      prefilled: tokens of trunks, read once for all their branches.
      scored: tokens that a verifier read.
      trained: tokens in training batches, padding not counted.
      slots: row-steps that the decoder ran, idle ones included, so that
        `decoded / slots` is its occupancy.
    """

    decoded: int = 0
    prefilled: int = 0
    scored: int = 0
    trained: int = 0
    slots: int = 0

    def __iadd__(self, other: "Ledger") -> "Ledger":
        for field in dataclasses.fields(self):
            total = getattr(self, field.name) + getattr(other, field.name)
            setattr(self, field.name, total)
        return self

    @property
    def paid(self) -> int:
        """Tokens paid at test time."""
        return self.decoded + self.prefilled + self.scored
