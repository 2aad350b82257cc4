"""Lines of JSONL files that others wrote: of any number, and perhaps not JSON."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

_CHUNK_LINES = 512
_CHUNK_BYTES = _LONGEST = 1 << 24  # of the lines of a chunk together, and of any one


class Survey(NamedTuple):
    """The number of lines of a file, and the SHA-256 of its bytes."""

    lines: int
    digest: str


def survey(path: Path) -> Survey:
    """Reads a whole file, without holding it."""
    with path.open("rb") as file:
        count = sum(1 for _ in lines(file))
        file.seek(0)
        return Survey(count, hashlib.file_digest(file, "sha256").hexdigest())


def lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines with their ends; None for one that is too long to be held."""
    while line := file.readline(_LONGEST):
        if len(line) < _LONGEST or line.endswith(b"\n"):
            yield line
        else:
            while (rest := file.readline(_LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield None


class Chunk(NamedTuple):
    """Lines, as `lines` gives them, and the number of the first, counted from 1."""

    first: int
    lines: list[bytes | None]

    @property
    def name(self) -> str:
        """For a file with what comes of it; names sort as their chunks do."""
        return f"{self.first:012d}"


def chunks(source: Path, start: int) -> Iterator[Chunk]:
    """The chunks after `start` lines; where one ends does not depend on `start`."""
    with source.open("rb") as file:
        first = 1
        while chunk := list(_next_lines(file)):
            skipped = min(max(0, start + 1 - first), len(chunk))
            if skipped < len(chunk):
                yield Chunk(first + skipped, chunk[skipped:])
            first += len(chunk)


def _next_lines(file: BinaryIO) -> Iterator[bytes | None]:
    size = 0
    for line in itertools.islice(lines(file), _CHUNK_LINES):
        yield line
        size += len(line or b"")
        if size >= _CHUNK_BYTES:
            return


def parse(line: bytes | None) -> dict[str, Any]:
    """The JSON object of a line.

    Args:
      line: from `lines`.

    Raises:
      ValueError: if it is no JSON object, with the reason.
    """

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    def finite(text: str) -> float:
        return float(text) if math.isfinite(float(text)) else refuse(text)

    if line is None:
        raise ValueError(f"longer than {_LONGEST} bytes")
    try:
        row = json.loads(line.decode(), parse_constant=refuse, parse_float=finite)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from error
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def text_field(row: dict[str, Any], field: str) -> str:
    """A field of a row; raises ValueError if it is missing or not a text."""
    if not isinstance(row.get(field), str):
        raise ValueError(f"no text field {field!r}")
    return row[field]
