"""The responses that a verifier is judged on: of ProcessBench, and of a run."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from pav_jax import labels
from pav_jax.core import config as config_lib
from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.progress_bar import progress_bar
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Problem, Response
from pav_jax.pipeline import imported
from pav_jax.pipeline.manifest import MANIFEST
from pav_jax.policy import load_policy
from pav_jax.storage import artifacts, workdir
from pav_jax.storage.imports import LabelledText
from pav_jax.tasks.problems import Problems
from pav_jax.tools import jsonl
from pav_jax.tools.scoring import Encoded, Scores, Verifier
from pav_jax.tools.step_formats import layout, parse

RUN = (workdir.SETTINGS, "data", "sft")  # what is read of a run

# What the files of a folder end in that are read as subsets of ProcessBench.
SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")

_CHUNK = 512  # responses that are scored before the bar moves


@dataclasses.dataclass(frozen=True)
class Judged:
    """A response with the verifier's scores, and what is known of it.

    Attributes:
      problem: a hash of its prompt.
      values: float `[H]`, the value after each step.
      orm: the ORM's score; None without one.
      error: the index of the first wrong step, -1 if there is none; or None.
      correct: whether the final answer is right; or None.
    """

    problem: int
    values: np.ndarray
    orm: float | None
    error: int | None = None
    correct: bool | None = None

    @classmethod
    def of(cls, prompt: str, scores: Scores, **known: Any) -> "Judged":
        """Of what `Verifier.score` returned; `known` has `error` or `correct`."""
        values = np.array([step.q for step in scores.steps])
        return cls(Problem(prompt, "").id, values, scores.orm, **known)


def score(
    verifier: Verifier, encoded: Sequence[Encoded | None]
) -> tuple[list[Scores | None], list[str]]:
    """Scores of each, by the code of `pav score`; None of those that are left out.

    Args:
      verifier: that scores.
      encoded: what it can read; None of the others, which say why elsewhere.

    Returns:
      The scores, and a sentence on those that are too long, if there are any.
    """
    fit = [
        i
        for i, row in enumerate(encoded)
        if row is not None and len(row.tokens) <= verifier.max_tokens
    ]
    out: list[Scores | None] = [None] * len(encoded)
    with progress_bar(total=len(fit), unit="response", desc="judge") as bar:
        for first in range(0, len(fit), _CHUNK):
            part = fit[first : first + _CHUNK]
            found = verifier.score_encoded([encoded[i] for i in part])
            for i, scores in zip(part, found, strict=True):
                out[i] = scores
            bar.update(len(part))
    long = sum(row is not None for row in encoded) - len(fit)
    notes = [
        f"{counted(long, 'response')} left out, longer than the {verifier.max_tokens}"
        " tokens that the verifier was trained for"
    ]
    return out, notes if long else []


# ProcessBench.


def read_subsets(source: Path) -> dict[str, list[LabelledText]]:
    """The examples of each file of a folder, by name; or of the one file.

    Raises:
      UserError: there are none, or one is bad: a benchmark is judged whole.
    """
    if source.is_file():
        return {_name(source): _read(source)}
    paths = sorted(p for p in source.iterdir() if p.name.endswith(SUFFIXES))
    if not paths:
        raise UserError(
            f"{source} has no file that ends in {', '.join(SUFFIXES)}; the files of"
            " ProcessBench are gsm8k.json, math.json, olympiadbench.json and"
            " omnimath.json"
        )
    found: dict[str, list[LabelledText]] = {}
    for path in paths:
        if _name(path) in found:
            raise UserError(
                f"{source} has several files of the subset {_name(path)}; one is right"
            )
        found[_name(path)] = _read(path)
    return found


def _name(path: Path) -> str:
    return path.name.split(".")[0]


def _read(path: Path) -> list[LabelledText]:
    expected, found = layout("processbench", flag="--on"), []
    try:
        for number, row in enumerate(jsonl.rows(path, expected).values, start=1):
            if jsonl.is_blank(row):
                continue
            try:
                found += parse("processbench", row)
            except ValueError as error:
                raise UserError(
                    f"line {number} of {path}: {error}; {expected}"
                ) from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if not found:
        raise UserError(f"{path} holds no example; {expected}")
    return found


def score_texts(
    verifier: Verifier, name: str, rows: Sequence[LabelledText]
) -> tuple[list[Judged], list[str]]:
    """Responses of a subset with their first errors, and what was left out.

    Raises:
      UserError: the verifier can read none of them.
    """
    encoded: list[Encoded | None] = []
    foreign: list[UserError] = []
    for row in rows:
        try:
            prompt, tokens, ends = imported.encode(verifier.tokenizer, row)
            encoded.append(Encoded([*prompt, *tokens], len(prompt) + ends))
        except UserError as error:
            encoded.append(None)
            foreign.append(error)
    scores, notes = score(verifier, encoded)
    if foreign:
        notes.append(
            f"{counted(len(foreign), 'response')} left out, of other tokens than the"
            f" verifier's, such as: {foreign[0]}"
        )
    judged = [
        Judged.of(row.prompt, found, error=_first_error(row))
        for row, found in zip(rows, scores, strict=True)
        if found is not None
    ]
    notes = [f"{name}: {note}" for note in notes]
    if not judged:
        raise UserError(f"the verifier can score no response: {'; '.join(notes)}")
    return judged, notes


def _first_error(row: LabelledText) -> int:
    return row.correct.index(0) if 0 in row.correct else -1


# A run. Neither stage `evaluation` nor stage `samples` keeps its responses, but what
# they drew can be drawn again.


@dataclasses.dataclass(frozen=True)
class Run:
    """The problems and the policy of a run.

    Attributes:
      folder: its workdir.
      problems: of one of its splits.
    """

    folder: Path
    problems: Problems

    @classmethod
    def open(cls, folder: Path, split: str) -> "Run":
        """Reads a split; raises UserError if the run is not through with stage sft."""
        for part in RUN[1:]:
            if not (folder / part / MANIFEST).exists():
                raise UserError(
                    f"{folder} is not the workdir of a run that is through with stage"
                    f" sft: it has no finished {part}"
                )
        with artifacts.as_written(folder, "pav run --until=sft"):
            settings = artifacts.read_json(folder / workdir.SETTINGS)["config"]
            config = config_lib.unflatten(settings)
            return cls(folder, Problems.load(config, folder / "data", split))

    @property
    def config(self) -> ConfigDict:
        return self.problems.config

    def draw(self, verifier: Verifier, stream: Stream, count: int) -> list[Response]:
        """The responses of the policy that a stage drew by this stream.

        Raises:
          UserError: the verifier has another tokenizer than the run.
        """
        problems = self.problems
        if verifier.tokenizer.model_bytes != problems.tokenizer.model_bytes:
            raise UserError(
                f"the verifier has another tokenizer than {self.folder}, which draws"
                " tokens of its own; give a verifier of that run, or of one with the"
                " same tokenizer"
            )
        policy = load_policy(self.folder / "sft", problems.architecture, problems.dtype)
        with progress_bar(total=len(problems), unit="problem", desc="sample") as bar:
            return labels.sample_responses(
                policy,
                problems,
                range(len(problems)),
                count=count,
                seed=derive(self.config.seed, stream),
                sampling=labels.sampling_for(
                    problems, self.config.search.temperature, branches=count
                ),
                ledger=Ledger(),
                advance=bar.update,
            )

    def encode(self, response: Response) -> Encoded:
        """A response as the verifier reads it."""
        ends = labels.prefix_ends(response, self.problems.is_step_end)
        tokens = [*response.prompt, *response.tokens]
        return Encoded(tokens, len(response.prompt) + ends)


def with_verdicts(run: Run, verifier: Verifier) -> tuple[list[Judged], list[str]]:
    """Responses to the validation problems, with their first errors.

    They are those of stage `evaluation`, and the task's checker says what is an error.

    Raises:
      UserError: the task has no checker, or as `Run.draw`.
    """
    count, problems = run.config.evaluation.n, run.problems
    if problems.task.check_steps(problems[0], "") is None:
        raise UserError(
            f"the task {run.config.task.name} of {run.folder} has no checker of steps;"
            " give a run of the task relations"
        )
    responses = run.draw(verifier, Stream.EVALUATION, count)
    verdicts = problems.check_steps(responses)
    scores, notes = score(verifier, [run.encode(response) for response in responses])
    judged, unlike = [], 0
    for response, found, words in zip(responses, scores, verdicts, strict=True):
        if found is None:
            continue
        # Where a text ends in empty lines, the checker leaves them out.
        if len(found.steps) != len(words):
            unlike += 1
            continue
        error = next((h for h, word in enumerate(words) if word != "good"), -1)
        prompt = problems[response.problem].prompt
        judged.append(Judged.of(prompt, found, error=error))
    if unlike:
        notes.append(
            f"{counted(unlike, 'response')} left out, whose steps by tokens are not"
            " those of the checker"
        )
    drawn = f"{counted(count, 'response')} to each of"
    drawn += f" {counted(len(problems), 'validation problem')}"
    return judged, [f"{drawn}, drawn again as by stage evaluation", *notes]


def with_outcomes(run: Run, verifier: Verifier) -> tuple[list[Judged], list[str]]:
    """Responses to the test problems, as stage `samples` drew them; errors are as of
    `Run.draw`."""
    count, problems = run.config.search.samples, run.problems
    responses = run.draw(verifier, Stream.SAMPLES, count)
    scores, notes = score(verifier, [run.encode(response) for response in responses])
    judged = [
        Judged.of(problems[r.problem].prompt, found, correct=r.correct)
        for r, found in zip(responses, scores, strict=True)
        if found is not None
    ]
    drawn = (
        "the responses were drawn again as by stage samples, and scored as by pav"
        f" score: {run.folder} keeps no values of their steps"
    )
    return judged, [drawn, *notes]
