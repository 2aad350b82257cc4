"""Scores a file of responses: `pav score`.

The output has a line for each line of the input, in order. Lines are read, scored and
written in chunks of a few hundred, so that files may be of any length. What is written
goes to `OUTPUT.partial`, which is renamed to OUTPUT when it is complete: a run that was
killed goes on after the last whole line.

Several processes divide the chunks among themselves: who claims a chunk first scores
it. The primary appends them to the output in order. A chunk whose turn has not come
waits in `OUTPUT.parts/`, in a file named after the number of its first line.
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from pav_jax.core.errors import UserError
from pav_jax.core.progress_bar import progress_bar
from pav_jax.distributed.processes import Processes
from pav_jax.pipeline.workers import Worker, join_workers
from pav_jax.storage import artifacts, buckets
from pav_jax.tools import jsonl
from pav_jax.tools.scoring import Verifier

KEY = "pav"  # the field that is added to each line
PARTIAL = ".partial"  # ends the name of a file that is not complete

_STAGE = "score"  # as the workers call it
# In OUTPUT.parts: what its chunks depend on, and how many lines were done before.
_TERMS, _START = "about.json", "start.json"


@dataclasses.dataclass
class Tally:
    """How many lines were scored, and how many could not be."""

    scored: int = 0
    bad: int = 0

    @property
    def lines(self) -> int:
        return self.scored + self.bad

    def add(self, added: dict[str, Any]) -> None:
        """Counts a line, by what was added to it."""
        if "error" in added:
            self.bad += 1
        else:
            self.scored += 1

    def __str__(self) -> str:
        """Such as "3 responses scored; 1 line could not be, ..."."""
        text = f"{self.scored:,} response{'' if self.scored == 1 else 's'} scored"
        if self.bad == 1:
            text += f"; 1 line could not be, and has a {KEY}.error there"
        elif self.bad:
            text += f"; {self.bad:,} lines could not be, and have a {KEY}.error there"
        return text


def score_file(
    verifier: Verifier,
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    processes: Processes = Processes(),  # noqa: B008
) -> Tally | None:
    """Scores each line of a JSONL file.

    Args:
      verifier: of `Verifier.load`.
      source: a JSON object a line, with the texts `prompt` and `response`; other
        fields are kept. In UTF-8; gzipped or not.
      target: the same lines, each with an object `pav` added: `line`, counted from 1,
        `prover_k` and `verifier`; and `prompt_q`, `steps` with `text`, `q` and
        `advantage` each, and `orm`, or `error` if the line is bad. Values have six
        decimals.
      processes: all that call this, with the same arguments, to do it together.

    Returns:
      The lines of the whole file; None in a process that is not the primary.

    Raises:
      UserError: if a file cannot be used, `source` is empty or of another kind, or
        `target` exists and was made with another verifier or input.
      PeerStopped: if another process failed.
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
            job, tally = _Job(verifier, source, target, worker), None
            if worker.is_primary:
                tally = job.run_as_primary(*claimed)
                worker.finish(_STAGE)
            elif worker.wait_for_start(_STAGE):
                job.help()
                worker.wait_for_end(_STAGE)
        worker.remove_folder()
    except OSError as error:
        raise UserError(
            f"cannot use {error.filename or target}: {error.strerror or error}"
        ) from error
    return tally


@contextlib.contextmanager
def _claim(
    source: Path, target: Path
) -> Iterator[tuple[BinaryIO | None, jsonl.Survey]]:
    """The unfinished output, for this process alone, and a survey of the input.

    The output is None if it is finished.
    """
    survey = jsonl.survey(source)
    partial = target.with_name(f"{target.name}{PARTIAL}")
    for path in (target, partial):
        if buckets.same(str(path), str(source)):
            raise UserError(f"{path} is the input; give another --output")
    if target.exists():
        yield None, survey
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("a+b") as out:
        try:
            fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing {partial}; wait until it ends"
            ) from None
        yield out, survey


class _Job:
    """What one process does of a file.

    Args:
      verifier: that scores.
      source: the input.
      target: the output.
      worker: this process among those that work on the file.
    """

    def __init__(self, verifier: Verifier, source: Path, target: Path, worker: Worker):
        self._verifier, self._worker = verifier, worker
        self._source, self._target = source, target
        self._parts = target.with_name(f"{target.name}.parts")
        self._bad = 0  # lines that this process has met

    def run_as_primary(self, out: BinaryIO | None, survey: jsonl.Survey) -> Tally:
        """Does what is left of the file, with the help of the other processes."""
        if out is None:
            return self._check_finished(survey)
        partial = Path(out.name)
        tally, size = _resume(out, partial, self._source, self._verifier)
        out.truncate(size)  # a line that a kill cut short
        terms = self._part_terms(survey)
        if not (self._parts / _TERMS).exists() or self._kept_terms() != terms:
            shutil.rmtree(self._parts, ignore_errors=True)
            self._parts.mkdir()
            artifacts.write_json(self._parts / _TERMS, terms)
        artifacts.write_json(self._parts / _START, tally.lines)
        self._worker.open_stage(_STAGE)
        self._score_rest(out, tally, survey.lines)
        partial.replace(self._target)
        shutil.rmtree(self._parts)
        return tally

    def _check_finished(self, survey: jsonl.Survey) -> Tally:
        """The tally of an output that exists, if it is of this input and verifier."""
        source, target = self._source, self._target
        with target.open("rb") as done:
            tally, _ = _resume(done, target, source, self._verifier)
        if tally.lines != survey.lines:
            raise UserError(
                f"{target} exists, with {tally.lines} lines where {source} has"
                f" {survey.lines}; delete it, or give another --output"
            )
        return tally

    def help(self) -> None:
        """Scores chunks that no other process has claimed."""
        if self._kept_terms() != self._part_terms(jsonl.survey(self._source)):
            raise UserError(
                "this process was given another --input or --verifier than process 0"
            )
        start = artifacts.read_json(self._parts / _START)
        for chunk in jsonl.chunks(self._source, start):
            self._worker.check()
            if self._worker.claim(chunk.name):
                self._write(chunk)

    def _score_rest(self, out: BinaryIO, tally: Tally, total: int) -> None:
        """Appends to `out` all chunks that are left, those of other processes too."""
        worker = self._worker
        waiting: deque[str] = deque()  # chunks to append, of which the first is missing
        bar = progress_bar(total=total, initial=tally.lines, unit="line", desc="score")

        def append(text: bytes) -> None:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
            lines = text.splitlines()
            for line in lines:
                tally.add(json.loads(line)[KEY])
            bar.update(len(lines))

        def append_next() -> None:
            path = self._parts / waiting.popleft()
            append(path.read_bytes())
            path.unlink()

        with bar:
            for chunk in jsonl.chunks(self._source, tally.lines):
                worker.check()
                if not worker.claim(chunk.name):
                    waiting.append(chunk.name)
                elif waiting or (self._parts / chunk.name).exists():
                    self._write(chunk)
                    waiting.append(chunk.name)
                else:
                    append(self._score(chunk))
                while waiting and worker.is_finished(waiting[0]):
                    append_next()
            while waiting:
                while not worker.is_finished(waiting[0]):
                    worker.wait()
                append_next()

    def _write(self, chunk: jsonl.Chunk) -> None:
        """Writes a chunk of the output, unless an earlier run has."""
        path = self._parts / chunk.name
        if not path.exists():
            text = self._score(chunk)
            artifacts.write_bytes(path, text)
        self._worker.finish(chunk.name)

    def _score(self, chunk: jsonl.Chunk) -> bytes:
        """The lines of the output for a chunk of the input."""
        records = _score_lines(self._verifier, chunk.lines, chunk.first)
        for record in records:
            if (error := record[KEY].get("error")) is not None:
                self._bad += 1
                line = record[KEY]["line"]
                jsonl.warn(f"line {line}: {error}; skipped", self._bad)
        return b"".join(json.dumps(record).encode() + b"\n" for record in records)

    def _part_terms(self, survey: jsonl.Survey) -> dict[str, Any]:
        return {"input": survey.digest, **_terms(self._verifier)}

    def _kept_terms(self) -> Any:
        return artifacts.read_json(self._parts / _TERMS)


# Scoring of lines.


def _score_lines(
    verifier: Verifier, lines: list[bytes | None], first: int
) -> list[dict[str, Any]]:
    """The records of some lines, which are counted from `first`."""
    records, encoded, places, terms = [], [], [], _terms(verifier)
    for number, line in enumerate(lines, start=first):
        row: dict[str, Any] = {}
        added = {"line": number}
        try:
            row = _row(line)
            texts = [jsonl.text_field(row, name) for name in ("prompt", "response")]
            encoded.append(verifier.encode(*texts))
            places.append(number - first)
        except ValueError as error:  # which a UserError is
            added["error"] = str(error)
        records.append(row | {KEY: added | terms})
    scored = verifier.score_encoded(encoded) if encoded else []
    for place, scores in zip(places, scored, strict=True):
        records[place][KEY] |= _rounded(dataclasses.asdict(scores))
    return records


def _row(line: bytes | None) -> dict[str, Any]:
    """The object of a line of the input, without what an earlier scoring added."""
    row = jsonl.parse(line)
    row.pop(KEY, None)
    return row


def _terms(verifier: Verifier) -> dict[str, Any]:
    """What the numbers depend on beside the line."""
    return {"prover_k": verifier.prover_k, "verifier": verifier.fingerprint}


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_rounded(item) for item in value]
    return round(value, 6) if isinstance(value, float) else value


def _resume(
    done: BinaryIO, path: Path, source: Path, verifier: Verifier
) -> tuple[Tally, int]:
    """The whole lines of an output, counted, and their size in bytes.

    Args:
      done: the file `path`, of an earlier run.
      path: its name, for messages.
      source: the input.
      verifier: the one in use.

    Raises:
      UserError: if it is of another input or verifier, or not of `pav score`.
    """
    tally, size = Tally(), 0
    other = "; delete it, or give another --output"
    done.seek(0)
    with jsonl.opened(source) as file:
        lines = jsonl.lines(file)
        for line in done:
            if not line.endswith(b"\n"):
                break
            number = tally.lines + 1
            record, added = _split(line)
            if added.get("line") != number:
                raise UserError(
                    f"line {number} of {path} was not written by pav score{other}"
                )
            try:
                row = _row(next(lines, b""))
            except ValueError:
                row = {}
            if record != row:
                raise UserError(f"line {number} of {path} is of another input{other}")
            if not _terms(verifier).items() <= added.items():
                raise UserError(f"{path} is of another verifier or prover_k{other}")
            tally.add(added)
            size += len(line)
    return tally, size


def _split(line: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """A line of the output as the input's object and what was added to it.

    Both are empty if the line is not of `pav score`.
    """
    try:
        record = json.loads(line)
        added = record.pop(KEY)
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return {}, {}
    return (record, added) if isinstance(added, dict) else ({}, {})
