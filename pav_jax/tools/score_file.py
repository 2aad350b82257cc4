"""Scores a file of responses: `pav score`.

Input and output have a line for a line, in order. Lines are read, scored and written a
few hundred at a time, so that files may be of any length. What is written goes to
`OUTPUT.partial`, which takes its place at OUTPUT when it is complete: a run that was
killed goes on after the last whole line.

Several processes share out these pieces: whoever comes to one first scores it. Process
0 appends them in order; one whose turn has not come waits in `OUTPUT.parts/`, called by
its first line.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import itertools
import json
import math
import os
import shutil
import sys
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from tqdm import tqdm

from pav_jax.core.errors import UserError
from pav_jax.core.progress import progress
from pav_jax.distributed.processes import Processes
from pav_jax.pipeline.workers import Worker, join_workers
from pav_jax.storage import artifacts
from pav_jax.tools import scoring

KEY = "pav"  # of what is added to each line
PARTIAL = ".partial"  # ends the name of a file that is not complete

_CHUNK_LINES = 512  # that are scored together, and done again after a kill
_CHUNK_BYTES = _LONGEST = 1 << 24  # of those lines together, and of any one
_TOLD = 20  # bad lines that are told one by one

# What several processes share; in OUTPUT.parts, what the pieces there are of, and the
# lines that were done before.
_NAME, _ABOUT, _START = "score", "about.json", "start.json"


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
    processes: Processes = Processes(),  # noqa: B008
) -> Tally | None:
    """Scores each line of a JSONL file.

    Args:
      verifiers: of `Verifiers.load`.
      source: a JSON object a line, with the texts `prompt` and `response`, and
        whatever else, which is passed through.
      target: the same lines, each with an object `pav` added: `line`, counted from 1,
        `prover_k` and `verifier`; and `prompt_q`, `steps` with `text`, `q` and
        `advantage` each, and `orm`, or of a bad line `error`. Values have six decimals.
      processes: those that share the work, which all call this with the same arguments.

    Returns:
      The lines of the whole file; None in a process that does not lead.

    Raises:
      UserError: a file cannot be used, or what is at `target` already is not of these
        verifiers and that input.
      PeerStopped: another process failed.
    """
    source, target = Path(source), Path(target)
    place, flag = target.with_name(f".{target.name}.workers"), f"--output={target}"
    try:
        with join_workers(
            place, processes, lambda: _claim(source, target), flag=flag
        ) as (
            worker,
            claimed,
        ):
            parts = target.with_name(f"{target.name}.parts")
            work, tally = _Work(verifiers, source, parts, worker), None
            if worker.is_primary:
                tally = work.lead(target, *claimed)
                worker.finish(_NAME)
            elif worker.wait_for_start(_NAME):
                work.help()
                worker.wait_for_end(_NAME)
        worker.remove_folder()
    except OSError as error:
        raise UserError(
            f"cannot use {error.filename or target}: {error.strerror}"
        ) from error
    return tally


@contextlib.contextmanager
def _claim(source: Path, target: Path) -> Iterator[tuple[BinaryIO | None, int, str]]:
    """The unfinished output, for this process alone, or None where it is finished; and
    what `_survey` says of the input."""
    about = _survey(source)
    if target.exists():
        yield None, *about
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}{PARTIAL}")
    with partial.open("a+b") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing {partial}; wait until it ends"
            ) from None
        yield out, *about


class _Work:
    """What one process does of a file.

    Args:
      verifiers: those in use.
      source: the input.
      parts: the folder of pieces whose turn has not come.
      worker: who else is at work.
    """

    def __init__(
        self, verifiers: scoring.Verifiers, source: Path, parts: Path, worker: Worker
    ):
        self._verifiers, self._source = verifiers, source
        self._parts, self._worker = parts, worker
        self._bad = 0  # lines that this process has met

    def lead(
        self, target: Path, out: BinaryIO | None, total: int, digest: str
    ) -> Tally:
        """Does what is left of the file, with the help of others."""
        source, parts, worker = self._source, self._parts, self._worker
        if out is None:
            if source.samefile(target):
                raise UserError(f"{target} is the input; give another --output")
            with target.open("rb") as done, source.open("rb") as lines:
                tally, _ = _resume(done, target, lines, self._verifiers)
            if tally.lines != total:
                raise UserError(
                    f"{target} exists, with {tally.lines} lines where {source} has"
                    f" {total}; delete it, or give another --output"
                )
            return tally
        partial = Path(out.name)
        with source.open("rb") as lines:
            tally, whole = _resume(out, partial, lines, self._verifiers)
        out.truncate(whole)  # a line that a kill cut short
        about = {"input": digest, **_terms(self._verifiers)}
        if not (parts / _ABOUT).exists() or _about(parts) != about:
            shutil.rmtree(parts, ignore_errors=True)
            parts.mkdir()
            artifacts.write_json(parts / _ABOUT, about)
        artifacts.write_json(parts / _START, tally.lines)
        worker.open_stage(_NAME)
        self._score_rest(out, tally, total)
        partial.replace(target)
        shutil.rmtree(parts)
        return tally

    def help(self) -> None:
        """Scores pieces that nobody else does."""
        about = {"input": _survey(self._source)[1], **_terms(self._verifiers)}
        if _about(self._parts) != about:
            raise UserError(
                "this process was given another --input or --verifier than process 0"
            )
        start = artifacts.read_json(self._parts / _START)
        for name, first, lines in _pieces(self._source, start):
            self._worker.check()
            if self._worker.claim(name):
                self._write(name, first, lines)

    def _score_rest(self, out: BinaryIO, tally: Tally, total: int) -> None:
        """Appends all that is left to `out`, and scores what of it nobody else does."""
        worker = self._worker
        waiting: deque[str] = deque()  # pieces that come after one that is not there
        bar = progress(total=total, initial=tally.lines, unit="line", desc="score")

        def append(piece: bytes) -> None:
            out.write(piece)
            out.flush()
            os.fsync(out.fileno())
            lines = piece.splitlines()
            bad = sum("error" in json.loads(line)[KEY] for line in lines)
            tally.bad += bad
            tally.scored += len(lines) - bad
            bar.update(len(lines))

        def append_next() -> None:
            path = self._parts / waiting.popleft()
            append(path.read_bytes())
            path.unlink()

        with bar:
            for name, first, lines in _pieces(self._source, tally.lines):
                worker.check()
                if not worker.claim(name):
                    waiting.append(name)
                elif waiting or (self._parts / name).exists():
                    self._write(name, first, lines)
                    waiting.append(name)
                else:
                    append(self._score(first, lines))
                while waiting and worker.is_finished(waiting[0]):
                    append_next()
            while waiting:
                while not worker.is_finished(waiting[0]):
                    worker.wait()
                append_next()

    def _write(self, name: str, first: int, lines: list[bytes | None]) -> None:
        """Writes a piece, unless it is there from a run that was stopped."""
        path = self._parts / name
        if not path.exists():
            piece = self._score(first, lines)
            artifacts.write_atomically(path, lambda file: file.write(piece))
        self._worker.finish(name)

    def _score(self, first: int, lines: list[bytes | None]) -> bytes:
        """Some lines scored, the first of which has the number `first`."""
        records = _score_chunk(self._verifiers, lines, first)
        for record in records:
            if (error := record[KEY].get("error")) is not None:
                self._bad += 1
                _tell(record[KEY]["line"], error, self._bad)
        return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def _about(parts: Path) -> Any:
    return artifacts.read_json(parts / _ABOUT)


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


def _pieces(source: Path, start: int) -> Iterator[tuple[str, int, list[bytes | None]]]:
    """Name, first line's number, and lines of all pieces after `start` lines.

    Where a piece ends does not depend on `start`.
    """
    with source.open("rb") as file:
        first = 1
        while lines := list(_chunk(file)):
            skipped = min(max(0, start + 1 - first), len(lines))
            if skipped < len(lines):
                name = f"{first + skipped:012d}"
                yield name, first + skipped, lines[skipped:]
            first += len(lines)


def _survey(path: Path) -> tuple[int, str]:
    """Lines of a file, and a hash of what is in it."""
    with path.open("rb") as file:
        count = sum(1 for _ in _lines(file))
        file.seek(0)
        return count, hashlib.file_digest(file, "sha256").hexdigest()


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
