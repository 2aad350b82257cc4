"""Lines of JSONL files that others wrote: of any number, and perhaps not JSON.

Or the rows of one JSON list, where `rows` reads it.

A file may be gzipped. A byte order mark, which some programs put in front, is skipped.
"""

import codecs
import gzip
import hashlib
import itertools
import json
import math
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from tqdm import tqdm

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError

_CHUNK_LINES = 512
_CHUNK_BYTES = _LONGEST = 1 << 24  # of the lines of a chunk together, and of any one
_LOOKED_AT = 20  # lines that say what a file is
_SHOWN_ERRORS = 20  # bad lines that each get a message
_GZIP = b"\x1f\x8b"
_SIGNATURES = {
    codecs.BOM_UTF16_LE: "UTF-16 text",
    codecs.BOM_UTF16_BE: "UTF-16 text",
    b"PK\x03\x04": "a ZIP archive or a spreadsheet",
    b"PAR1": "a Parquet file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ": "an xz file",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
}
_LAYOUT = (
    "expected one JSON object a line, in UTF-8, with the texts 'prompt' and 'response';"
    " the file may be gzipped"
)


class Survey(NamedTuple):
    """The number of lines of a file, and the SHA-256 of its bytes as they are."""

    lines: int
    digest: str


def survey(path: Path, layout: str = _LAYOUT) -> Survey:
    """Reads a whole file, without holding it.

    Args:
      path: of the file.
      layout: what would be right, for messages.

    Raises:
      UserError: at once, if the file is of another kind, such as CSV; or it is damaged.
    """
    try:
        with opened(path) as file:
            if kind := _other_kind(file):
                raise UserError(f"{path} {kind}; {layout}")
            file.seek(0)
            count = sum(1 for _ in lines(file))
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"the gzipped file {path} is damaged: {error}") from error
    with path.open("rb") as file:
        return Survey(count, hashlib.file_digest(file, "sha256").hexdigest())


class Rows(NamedTuple):
    """The number of rows of a file, the SHA-256 of its bytes, and the rows: of lines,
    as `lines` gives them; of a JSON list, its values."""

    count: int
    digest: str
    values: Iterator[Any]


def rows(path: Path, layout: str) -> Rows:
    """The rows of a file of JSON objects, one a line, or of one JSON list of them.

    Arguments and errors are those of `survey`; a list is held as a whole.
    """
    try:
        with opened(path) as file:
            start = file.read(64).removeprefix(codecs.BOM_UTF8).lstrip()
            is_list = start.startswith(b"[") and not start.startswith(b"[[")
            if is_list:
                file.seek(0)
                content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"the gzipped file {path} is damaged: {error}") from error
    if not is_list:
        return Rows(*survey(path, layout), _lines_of(path))
    try:
        values = _loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} starts as a JSON list, but is not JSON ({error}); {layout}"
        ) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    # None is a line that is too long.
    values = [b"null" if value is None else value for value in values]
    return Rows(len(values), digest, iter(values))


def _lines_of(path: Path) -> Iterator[bytes | None]:
    with opened(path) as file:
        yield from lines(file)


def is_blank(row: Any) -> bool:
    """Whether a row of `rows` is a line without anything, which is passed over."""
    return isinstance(row, bytes) and not row.strip()


def warn(message: str, number: int) -> None:
    """Prints why a line is bad, and what becomes of it, if it is among the first of
    these.

    Args:
      message: for the user.
      number: of this bad line among the bad ones, counted from 1.
    """
    if number <= _SHOWN_ERRORS:
        more = "; more such lines are not shown" if number == _SHOWN_ERRORS else ""
        tqdm.write(" ".join(f"{message}{more}".split()), file=sys.stderr)


def opened(path: Path) -> BinaryIO:
    """A file, open to read what is in it, decompressed if need be."""
    with path.open("rb") as file:
        is_gzipped = file.read(len(_GZIP)) == _GZIP
    return gzip.open(path) if is_gzipped else path.open("rb")


def _other_kind(file: BinaryIO) -> str:
    """What a file is, as "looks like ...", if not of JSON objects; else ""."""
    filled = (line for line in lines(file) if line is None or line.strip())
    head = list(itertools.islice(filled, _LOOKED_AT))
    if not head:
        return "holds no lines"
    start = (head[0] or b"").removeprefix(codecs.BOM_UTF8).strip()
    for signature, kind in _SIGNATURES.items():
        if start.startswith(signature):
            return f"looks like {kind}"
    if b"\0" in start[:4]:
        return "looks like UTF-16 text or a binary file"
    # Inside of such a file a line may be an object by chance.
    if start in (b"{", b"[") or start.startswith(b"[") and not _is_json(start):
        return "looks like one JSON value over several lines"
    if any(_is_object(line) for line in head):
        return ""
    if start.startswith(b"["):
        return "looks like one JSON list"
    if re.match(rb"[^{]*\b(prompt|response)\b", start) and re.search(rb"[,;\t]", start):
        return "looks like a table, such as CSV"
    return f"holds no JSON object in its first {counted(len(head), 'line')}"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _is_object(line: bytes | None) -> bool:
    try:
        parse(line)
    except ValueError:
        return False
    return True


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
    with opened(source) as file:
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

    if line is None:
        raise ValueError(f"longer than {_LONGEST} bytes")
    try:
        row = _loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from error
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def as_object(row: Any) -> dict[str, Any]:
    """The JSON object that a row of `rows` is; errors are those of `parse`."""
    if row is None or isinstance(row, bytes):
        return parse(row)
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    return row


def _loads(text: bytes) -> Any:
    """A JSON value; raises ValueError if it is none, or has a number that is not
    finite."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    def finite(text: str) -> float:
        return float(text) if math.isfinite(float(text)) else refuse(text)

    return json.loads(
        text.decode("utf-8-sig"), parse_constant=refuse, parse_float=finite
    )


def text_field(row: dict[str, Any], field: str) -> str:
    """A field of a row; raises ValueError if it is missing or not a text."""
    if not isinstance(row.get(field), str):
        raise ValueError(f"no text field {field!r}")
    return row[field]
