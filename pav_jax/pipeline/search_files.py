"""What one beam search found on all problems: a file of stage `search`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.search.pick import AGGREGATED, PICKS, Finals, pick
from pav_jax.storage import artifacts

_USES_ORM = ("orm", "sum", "vote_orm")  # the picks that the outcome verifier reads for


@dataclasses.dataclass(frozen=True)
class Searched:
    """The responses that the search of each problem ends with, and what it cost.

    Attributes:
      rows: for each problem: `responses`, `answers`, `correct`, `ended`, `prm` and
        `orm`, and those of `AGGREGATED`, a list each; `tokens`, those decoded,
        prefilled and scored; and `orm_tokens`, those that the outcome verifier reads of
        the responses.
    """

    rows: Sequence[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> "Searched":
        """Reads the file of a search."""
        return cls(artifacts.read_json(path))

    def outcomes(self, rule: str) -> np.ndarray:
        """Whether the picked response is correct, float `[P]`; `rule` as in `pick`."""
        return np.array(
            [row["correct"][pick(_finals(row), rule)] for row in self.rows], float
        )

    @property
    def rules(self) -> list[str]:
        """The rules that there are scores for; older files lack `AGGREGATED`."""
        return [*PICKS, *(rule for rule in AGGREGATED if rule in self.rows[0])]

    def any_correct(self) -> np.ndarray:
        """Whether any of the responses is correct, float `[P]`: Pass@N of the beam."""
        return np.array([max(row["correct"]) for row in self.rows], float)

    def tokens(self, rule: str) -> np.ndarray:
        """Tokens decoded, prefilled and scored, float `[P, 3]`."""
        tokens = np.array([row["tokens"] for row in self.rows], float)
        if rule in _USES_ORM:
            tokens[:, 2] += [row["orm_tokens"] for row in self.rows]
        return tokens


def _finals(row: dict[str, Any]) -> Finals:
    return Finals(
        tokens=row["responses"],
        answers=row["answers"],
        ended=np.array(row["ended"], bool),
        scores={
            name: np.array(row[name])
            for name in ("prm", "orm", *AGGREGATED)
            if name in row
        },
    )
