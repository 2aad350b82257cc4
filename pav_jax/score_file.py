"""Scores a file of responses: `pav score`.

Input and output have a line for a line, in order. Lines are read, scored and written a
few hundred at a time, so that files may be of any length. What is written goes to
`OUTPUT.partial`, which takes its place at OUTPUT when it is complete: a run that was
killed goes on after the last whole line.
"""

import dataclasses
import fcntl
import itertools
import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from tqdm import tqdm

from pav_jax import scoring
from pav_jax.errors import UserError
from pav_jax.progress import progress

KEY = "pav"  # of what is added to each line

_CHUNK_LINES = 512  # that are scored together, and done again after a kill
_CHUNK_BYTES = _LONGEST = 1 << 24  # of those lines together, and of any one
_TOLD = 20  # bad lines that are told one by one


@dataclasses.dataclass
class Tally:
    """How many lines were scored, and how many could not be."""

    scored: int = 0
    bad: int = 0

    @property
    def lines(self) -> int:
        return self.scored + self.bad


def score_file(
    verifiers: scoring.Verifiers,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
) -> Tally:
    """Scores each line of a JSONL file.

    Args:
      verifiers: of `Verifiers.load`.
      source: a JSON object a line, with the texts `prompt` and `response`, and
        whatever else, which is passed through.
      target: the same lines, each with an object `pav` added: `line`, counted from 1,
        `prover_k` and `verifier`; and `prompt_q`, `steps` with `text`, `q` and
        `advantage` each, and `orm`, or of a bad line `error`. Values have six decimals.

    Returns:
      The lines of the whole file.

    Raises:
      UserError: a file cannot be used, or what is at `target` already is not of these
        verifiers and that input.
    """
    source, target = Path(source), Path(target)
    try:
        total = _count(source)
        if target.exists():
            if source.samefile(target):
                raise UserError(f"{target} is the input; give another --output")
            with target.open("rb") as done, source.open("rb") as lines:
                tally, _ = _resume(done, target, lines, verifiers)
            if tally.lines != total:
                raise UserError(
                    f"{target} exists, with {tally.lines} lines where {source} has"
                    f" {total}; delete it, or give another --output"
                )
            return tally
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.partial")
        with partial.open("a+b") as out, source.open("rb") as lines:
            try:
                fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"another process is writing {partial}; wait until it ends"
                ) from None
            tally, whole = _resume(out, partial, lines, verifiers)
            out.truncate(whole)  # a line that a kill cut short
            _score_rest(verifiers, lines, out, tally, total)
            partial.replace(target)
    except OSError as error:
        raise UserError(
            f"cannot use {error.filename or target}: {error.strerror}"
        ) from error
    return tally


def _score_rest(
    verifiers: scoring.Verifiers,
    lines: BinaryIO,
    out: BinaryIO,
    tally: Tally,
    total: int,
) -> None:
    """Scores what is left of `lines`, and appends it to `out`."""
    bar = progress(total=total, initial=tally.lines, unit="line", desc="score")
    with bar:
        while chunk := list(_chunk(lines)):
            records = _score_chunk(verifiers, chunk, tally.lines + 1)
            for record in records:
                error = record[KEY].get("error")
                if error is None:
                    tally.scored += 1
                else:
                    tally.bad += 1
                    _tell(record[KEY]["line"], error, tally.bad)
            out.write(b"".join(json.dumps(r).encode() + b"\n" for r in records))
            out.flush()
            os.fsync(out.fileno())
            bar.update(len(chunk))


def _tell(line: int, error: str, number: int) -> None:
    if number <= _TOLD:
        more = "; more such lines are not told here" if number == _TOLD else ""
        said = f"line {line}: {error}; skipped{more}"
        tqdm.write(" ".join(said.split()), file=sys.stderr)


def _score_chunk(
    verifiers: scoring.Verifiers, chunk: list[bytes | None], first: int
) -> list[dict[str, Any]]:
    """The records of some lines, the first of which has the number `first`."""
    records, encoded, places, terms = [], [], [], _terms(verifiers)
    for number, line in enumerate(chunk, start=first):
        row: dict[str, Any] = {}
        try:
            row = _parse(line)
            prompt, response = _text(row, "prompt"), _text(row, "response")
            encoded.append(scoring.encode(verifiers, prompt, response))
            places.append(number - first)
            said = {}
        except ValueError as error:  # which a UserError is
            said = {"error": str(error)}
        records.append(row | {KEY: {"line": number} | said | terms})
    scored = scoring.score_encoded(verifiers, encoded) if encoded else []
    for place, scores in zip(places, scored, strict=True):
        records[place][KEY] |= _rounded(dataclasses.asdict(scores))
    return records


def _terms(verifiers: scoring.Verifiers) -> dict[str, Any]:
    """What the numbers depend on beside the line."""
    return {"prover_k": verifiers.prover_k, "verifier": verifiers.fingerprint}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def _text(row: dict[str, Any], field: str) -> str:
    if not isinstance(row.get(field), str):
        raise ValueError(f"no text field {field!r}")
    return row[field]


def _parse(line: bytes | None) -> dict[str, Any]:
    """The JSON object of a line, less what a former scoring added to it."""

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
    row.pop(KEY, None)
    return row


# Lines of files.


def _lines(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines with their ends; None for one that is too long to be held."""
    while line := file.readline(_LONGEST):
        if len(line) < _LONGEST or line.endswith(b"\n"):
            yield line
        else:
            while (rest := file.readline(_LONGEST)) and not rest.endswith(b"\n"):
                pass
            yield None


def _chunk(file: BinaryIO) -> Iterator[bytes | None]:
    """The next lines that are scored together."""
    size = 0
    for line in itertools.islice(_lines(file), _CHUNK_LINES):
        yield line
        size += len(line or b"")
        if size >= _CHUNK_BYTES:
            return


def _count(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in _lines(file))


def _resume(
    done: BinaryIO, path: Path, lines: BinaryIO, verifiers: scoring.Verifiers
) -> tuple[Tally, int]:
    """What is in `done` already; leaves `lines` after the last line of that.

    Args:
      done: the file `path`, of an earlier run.
      path: its name, for messages.
      lines: the input.
      verifiers: those in use.

    Returns:
      Its whole lines, and their bytes.

    Raises:
      UserError: it is not of this input and these verifiers, or not of `pav score`.
    """
    tally, whole = Tally(), 0
    other = "; delete it, or give another --output"
    done.seek(0)
    for line in done:
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
            said = record.pop(KEY)
            numbered = said["line"] == tally.lines + 1
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
            numbered = False
        if not numbered:
            raise UserError(
                f"line {tally.lines + 1} of {path} was not written by pav score{other}"
            )
        try:
            row = _parse(next(_lines(lines), b""))
        except ValueError:
            row = {}
        if record != row:
            raise UserError(
                f"line {tally.lines + 1} of {path} is of another input{other}"
            )
        if any(said.get(name) != value for name, value in _terms(verifiers).items()):
            raise UserError(f"{path} is of another verifier or prover_k{other}")
        if "error" in said:
            tally.bad += 1
        else:
            tally.scored += 1
        whole += len(line)
    return tally, whole
