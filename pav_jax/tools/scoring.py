"""A trained verifier, for anybody's problems and responses.

The parameters are on the active mesh, if there is one (`pav_jax.distributed.mesh`).
"""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.core.types import Params, Problem
from pav_jax.gemma import sizes
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.labels import step_ends
from pav_jax.pipeline.manifest import MANIFEST, read_manifest
from pav_jax.prover import advantages, best_of_k
from pav_jax.scores import score_rows
from pav_jax.storage import artifacts, buckets, workdir
from pav_jax.tasks.problems import encode_prompt
from pav_jax.tasks.stored import plain_text
from pav_jax.tools import export
from pav_jax.verifier import load_verifier

_NARROWEST = 32  # tokens; rows are padded to this, or twice, four times, ... as many


@dataclasses.dataclass(frozen=True)
class Step:
    """One step and its scores.

    Attributes:
      text: the step, without the newline that ends it.
      q: `Q^π` after it, in [0, 1].
      advantage: `A^μ` of it, in [-1, 1]; of the first step, over the bare problem.
    """

    text: str
    q: float
    advantage: float


@dataclasses.dataclass(frozen=True)
class Scores:
    """The scores of one response.

    Attributes:
      prompt_q: `Q^π` of the bare problem.
      steps: its steps, in order.
      orm: the ORM's score of the whole response; None without an ORM.
    """

    prompt_q: float
    steps: tuple[Step, ...]
    orm: float | None


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A problem and a response to it as tokens.

    Attributes:
      tokens: both, with the tokens that begin and end them.
      ends: int32 `[H + 1]`, tokens up to the end of the prompt and of each step.
    """

    tokens: list[int]
    ends: np.ndarray


@dataclasses.dataclass(frozen=True)
class Verifier:
    """A PRM, with its run's ORM if there is one, that scores texts.

    >>> verifier = Verifier.load("runs/demo")
    >>> (scores,) = verifier.score(["What is 1 + 1?"], ["1 + 1\\nis 2"])
    >>> [step.text for step in scores.steps]
    ['1 + 1', 'is 2']
    >>> progress = [step.advantage for step in scores.steps]

    Attributes:
      prm: predicts `Q^π` at each step.
      orm: predicts the outcome of a whole response; None if there is none.
      architecture: of both.
      tokenizer: of both.
      is_step_end: bool `[V]`, tokens that end a step.
      max_tokens: of a prompt and a response together, as far as it was trained.
      prover_k: progress is measured under `μ = BoK(π)` of this K.
      fingerprint: the same for the same parameters only.
    """

    prm: Params
    orm: Params | None
    architecture: TransformerConfig
    tokenizer: Tokenizer
    is_step_end: np.ndarray
    max_tokens: int
    prover_k: int
    fingerprint: str

    @classmethod
    def load(
        cls, directory: str | os.PathLike[str], prover_k: int | None = None
    ) -> "Verifier":
        """Reads the verifier of a run, or one that was exported.

        Args:
          directory: the workdir of a run, for its PRM, and its ORM if that is trained;
            or the folder of one of the two, such as runs/demo/prm, or a folder that
            `pav export` wrote, for that one alone. Any of them may be in a bucket.
          prover_k: in place of the run's own.

        Raises:
          UserError: if there is no verifier, or it cannot be used.
        """
        with fetched(os.fspath(directory)) as folder:
            is_export = (folder / export.ABOUT).exists()
            with artifacts.as_written(directory, "pav run, or pav export"):
                source = _exported(folder) if is_export else _trained(folder)
                config = config_lib.unflatten(source.fields)
                tokenizer = Tokenizer.load(source.tokenizer)
                architecture = sizes.from_config(config.model, tokenizer.vocab_size)
                dtype = sizes.dtype_of(config.model)
                limits = config.limits
                max_tokens = limits.max_prompt_tokens + limits.max_tokens
                most = source.prover_k if prover_k is None else prover_k
                if type(max_tokens) is not int or type(most) is not int:
                    raise TypeError("limits and prover_k are whole numbers")
            params = [
                source.read(path, architecture=architecture, dtype=dtype)
                for path in source.folders
            ]
        return cls(
            prm=params[0],
            orm=params[1] if len(params) > 1 else None,
            architecture=architecture,
            tokenizer=tokenizer,
            is_step_end=tokenizer.step_end_mask(),
            max_tokens=max_tokens,
            prover_k=most,
            fingerprint=config_lib.digest(source.fingerprints),
        )

    def __post_init__(self):
        if self.prover_k < 1:
            raise UserError(f"prover_k={self.prover_k} must be at least 1")

    def score(self, prompts: Sequence[str], responses: Sequence[str]) -> list[Scores]:
        """Scores responses; the PRM and the ORM each read a response once.

        Args:
          prompts: a problem for each response, as the run's own task would put it.
          responses: steps separated by newlines; see `encode`.

        Returns:
          The scores, in order.

        Raises:
          UserError: from `encode`.
        """
        pairs = zip(prompts, responses, strict=True)
        return self.score_encoded([self.encode(*pair) for pair in pairs])

    def encode(self, prompt: str, response: str) -> Encoded:
        """Tokens as the verifier was trained on them.

        The prompt ends in one newline, and the response, whose steps are separated by
        newlines, in none: there the end token stands, as for a response that is
        complete.

        Blank lines of the response are left out, so that "a\\n\\nb" has the two steps
        and the values of "a\\nb"; a response of nothing else is one step, the end token
        alone. A newline may be written as "\\r\\n", and a byte order mark at the
        beginning of a text is skipped.

        Raises:
          UserError: if the prompt is blank, the vocabulary cannot represent a text, or
            there are more tokens than the verifier was trained for.
        """
        prompt, response = plain_text(prompt), plain_text(response)
        problem = Problem(prompt.rstrip("\n") + "\n", answer="")
        start = encode_prompt(self.tokenizer, problem, max_tokens=self.max_tokens)
        steps = [line for line in response.split("\n") if line.strip()]
        rest = self.tokenizer.encode("\n".join(steps))
        rest.append(self.tokenizer.eos_id)
        if len(start) + len(rest) > self.max_tokens:
            raise UserError(
                f"the prompt has {len(start)} tokens and the response {len(rest)},"
                f" together more than the {self.max_tokens} that the verifier was"
                " trained for"
            )
        stops = step_ends(rest, self.is_step_end)
        return Encoded(start + rest, len(start) + np.concatenate([[0], stops]))

    def score_encoded(self, encoded: Sequence[Encoded]) -> list[Scores]:
        """Scores what `encode` made, in order."""
        outcomes = self._read(self.orm, encoded) if self.orm else [None] * len(encoded)
        return [
            self._scores(row, q, None if o is None else float(o[-1]))
            for row, q, o in zip(encoded, self.values(encoded), outcomes, strict=True)
        ]

    def values(self, encoded: Sequence[Encoded]) -> list[np.ndarray]:
        """`Q^π` at each of the `ends` of what is encoded, float32 `[H + 1]`, in order;
        the ORM is not asked."""
        found = self._read(self.prm, encoded)
        return [q[row.ends - 1] for row, q in zip(encoded, found, strict=True)]

    def _read(self, params: Params, encoded: Sequence[Encoded]) -> list[np.ndarray]:
        """The predictions of either verifier after each token."""
        widths = [_NARROWEST]
        while widths[-1] < self.max_tokens:
            widths.append(min(2 * widths[-1], self.max_tokens))
        rows = [row.tokens for row in encoded]
        return score_rows(params, rows, widths=widths, architecture=self.architecture)

    def _scores(self, row: Encoded, q: np.ndarray, orm: float | None) -> Scores:
        progress = advantages(best_of_k(q, self.prover_k))
        texts = [
            self.tokenizer.decode(row.tokens[start:stop]).rstrip("\n")
            for start, stop in zip(row.ends, row.ends[1:], strict=False)
        ]
        steps = zip(texts, q[1:].tolist(), progress.tolist(), strict=True)
        return Scores(float(q[0]), tuple(Step(*step) for step in steps), orm)


# Where a verifier is, and what is known of it there.


@dataclasses.dataclass(frozen=True)
class _Source:
    """What `Verifier.load` reads.

    Attributes:
      folders: of the PRM, or of the PRM and the ORM.
      read: the parameters in one of them, of an architecture and a dtype.
      fields: of the config that they were trained with, flattened.
      tokenizer: the tokenizer's file.
      prover_k: the run's own.
      fingerprints: of what is in `folders`.
    """

    folders: Sequence[Path]
    read: Callable[..., Params]
    fields: Mapping[str, Any]
    tokenizer: Path
    prover_k: int
    fingerprints: Sequence[str]


def _exported(directory: Path) -> _Source:
    """What `pav export` wrote."""
    about = export.read_about(directory)
    return _Source(
        folders=[directory],
        read=export.read_verifier,
        fields=about["fields"],
        tokenizer=directory / "tokenizer.model",
        prover_k=about["prover_k"],
        fingerprints=[about["fingerprint"]],
    )


def _trained(directory: Path) -> _Source:
    """What a run has trained: its workdir, or the folder of one stage."""
    if _is_stage(directory):
        stage = read_manifest(directory)["stage"]
        if not export.is_verifier(stage):
            raise UserError(
                f"{directory} holds no verifier: it is of stage {stage}; give the"
                " workdir of a run, or the folder of its stage prm or orm"
            )
    root = _root(directory)
    data = root / "data"
    folders = [directory] if _is_stage(directory) else _stages(directory)
    manifests = [read_manifest(folder) for folder in folders]
    tokens = read_manifest(data)["fingerprint"]
    for manifest in manifests:
        if manifest["needs"].get("data") != tokens:
            raise UserError(
                f"the verifier {root / manifest['stage']} was not trained on the"
                f" tokens of {data}; run the experiment again"
            )
    settings = artifacts.read_json(root / workdir.SETTINGS)["config"]
    return _Source(
        folders=folders,
        read=load_verifier,
        fields=manifests[0]["fields"],
        tokenizer=data / "tokenizer.model",
        prover_k=settings["verifier.prover_k"],
        fingerprints=[manifest["fingerprint"] for manifest in manifests],
    )


def _stages(root: Path) -> list[Path]:
    """The folders of a run's PRM and, if it is trained, ORM."""
    prm, orm = root / "prm", root / "orm"
    if not _is_stage(prm):
        raise UserError(
            f"{root} holds no finished verifier; give the workdir of a run that is"
            " through with stage prm, or the folder of that stage"
        )
    return [prm, orm] if _is_stage(orm) else [prm]


def _is_stage(folder: Path) -> bool:
    return (folder / MANIFEST).exists()


def _root(directory: Path) -> Path:
    """The workdir that a verifier's folder is in, or is."""
    return directory.absolute().parent if _is_stage(directory) else directory


@contextlib.contextmanager
def fetched(directory: str) -> Iterator[Path]:
    """The folder of a verifier; if it is in a bucket, a copy of what is read of it."""
    if not buckets.is_remote(directory):
        yield Path(directory)
        return
    if buckets.exists(f"{directory}/{export.ABOUT}"):
        copy = buckets.to_read(directory)
    elif buckets.exists(f"{directory}/{MANIFEST}"):
        copy = buckets.to_read(directory, beside=export.BESIDE)
    else:
        copy = buckets.to_read(directory, parts=(*export.BESIDE, "prm", "orm"))
    with copy as folder:
        yield folder


def mesh_of(directory: Path) -> dict[str, int]:
    """The `mesh` section of the run that a verifier is of; empty if it has none."""
    settings = _root(directory) / workdir.SETTINGS
    if not settings.exists():  # exported
        return {}
    with artifacts.as_written(settings, "pav run"):
        return {
            name.removeprefix("mesh."): int(size)
            for name, size in artifacts.read_json(settings)["config"].items()
            if config_lib.within(name, "mesh") and name != "mesh"
        }
