"""`pav import`: published step labels, into a folder that a run can be trained on.

Lines are read and written one at a time. The folder has its name only when it is whole.
"""

import collections
import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.progress_bar import progress_bar
from pav_jax.storage import artifacts, imports
from pav_jax.storage.imports import LabelledText, Meaning
from pav_jax.tools import jsonl
from pav_jax.tools.step_formats import FORMATS, LeftOut, layout, parse


def import_labels(
    name: str, source: Path, target: Path, meaning: str | None = None
) -> str:
    """Imports a file of step labels.

    Args:
      name: of its format, one of `FORMATS`.
      source: the file; gzipped or not. A JSON object a line, or one JSON list of them.
      target: a folder that does not exist.
      meaning: what the labels mean, one of `Meaning`, where the format does not say.

    Returns:
      What was imported, and what not, in a sentence.

    Raises:
      UserError: a file cannot be used, no line of it can, `target` exists, or labels of
        this format do not mean that. Nothing is written.
    """
    form = FORMATS[name]
    means = form.meanings[0]
    if meaning is not None:
        known = [found.value for found in form.meanings]
        if meaning not in known:
            raise UserError(
                f"--meaning={meaning!r} is not what labels of --from={name} can mean,"
                f" which is {' or '.join(known)}"
            )
        means = Meaning(meaning)
    reader = _Reader(name, means, source)
    with artifacts.making(target) as new:
        imports.write(new, reader.read())
        if not reader.tally.responses:
            raise UserError(f"{source}: {reader.nothing()}; {layout(name)}")
        imports.write_about(new, reader.about())
    return str(reader.tally)


@dataclasses.dataclass
class _Tally:
    """What was found in a file so far."""

    lines: int = 0
    bad: int = 0
    left_out: collections.Counter = dataclasses.field(
        default_factory=collections.Counter
    )
    responses: int = 0
    labels: int = 0
    outcomes: list[int] = dataclasses.field(default_factory=lambda: [0, 0])
    problems: set[bytes] = dataclasses.field(default_factory=set)

    def add(self, row: LabelledText) -> None:
        self.responses += 1
        self.labels += sum(n > 0 for n in row.count[row.first :])
        self.problems.add(hashlib.blake2b(row.prompt.encode(), digest_size=16).digest())
        if row.outcome is not None:
            self.outcomes[row.outcome] += 1

    def __str__(self) -> str:
        parts = [
            f"{counted(self.responses, 'response')} to"
            f" {counted(len(self.problems), 'problem')}, with"
            f" {counted(self.labels, 'step label')}, of {counted(self.lines, 'line')}",
            *(
                f"{counted(n, 'line')} {what} left out"
                for what, n in self.left_out.items()
            ),
        ]
        if self.bad:
            parts.append(f"{counted(self.bad, 'bad line')} left out")
        return "; ".join(parts)


class _Reader:
    """Reads a file of a format, and counts what is in it.

    Args:
      name: of the format.
      meaning: of its labels.
      source: the file.
    """

    def __init__(self, name: str, meaning: Meaning, source: Path):
        self._name, self._meaning, self._source = name, meaning, source
        self._first_error, self._digest = "", ""
        self.tally = _Tally()

    def read(self) -> Iterator[LabelledText]:
        """The responses of all good rows."""
        try:
            rows = jsonl.rows(self._source, layout(self._name))
            self._digest = rows.digest
            with progress_bar(total=rows.count, unit="line", desc="import") as bar:
                for self.tally.lines, row in enumerate(rows.values, start=1):
                    yield from self._responses(row)
                    bar.update(1)
        except OSError as error:
            raise UserError(
                f"cannot read {self._source}: {error.strerror or error}"
            ) from error

    def _responses(self, row: Any) -> list[LabelledText]:
        """The responses of a row; none, and it is counted, if it cannot be used."""
        tally = self.tally
        if jsonl.is_blank(row):
            return []
        try:
            found = self._parse(row)
        except LeftOut as reason:
            tally.left_out[str(reason)] += 1
            return []
        except ValueError as error:
            tally.bad += 1
            message = f"line {tally.lines}: {error}"
            self._first_error = self._first_error or message
            jsonl.warn(f"{message}; left out", tally.bad)
            return []
        for response in found:
            tally.add(response)
        return [dataclasses.replace(some, line=tally.lines) for some in found]

    def _parse(self, row: Any) -> list[LabelledText]:
        found = parse(self._name, row)
        if self._meaning is not Meaning.MONTE_CARLO:
            for response in found:
                if max(*response.count, response.prompt_count) > 1:
                    raise ValueError(
                        f"a count above 1, where a label of --meaning="
                        f"{self._meaning.value} is one verdict"
                    )
        return found

    def nothing(self) -> str:
        """Why there is nothing to import."""
        if self._first_error:
            return f"no line can be used; {self._first_error}"
        return f"no line can be used: {self.tally}"

    def about(self) -> dict[str, Any]:
        """Of the import, as `imports.write_about` takes it."""
        tally = self.tally
        return {
            "format": self._name,
            "meaning": self._meaning.value,
            "outcome_field": FORMATS[self._name].outcome_field,
            "responses": tally.responses,
            "problems": len(tally.problems),
            "labels": tally.labels,
            "outcomes": dict(zip(("wrong", "right"), tally.outcomes, strict=True)),
            "lines": tally.lines,
            "bad_lines": tally.bad,
            "left_out": dict(tally.left_out),
            "source": {"name": self._source.name, "sha256": self._digest},
        }
