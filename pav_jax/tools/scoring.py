"""A finished run's verifiers, for anybody's problems and responses.

verifiers = scoring.Verifiers.load("runs/demo")
for scores in scoring.score(verifiers, prompts, responses):
    print(scores.orm, [(step.q, step.advantage) for step in scores.steps])

The verifiers are on the active mesh, if there is one (`pav_jax.distributed.mesh`).
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.core.types import Params, Problem
from pav_jax.gemma import sizes
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.labels import step_ends
from pav_jax.pipeline import runner
from pav_jax.prover import advantages, best_of_k
from pav_jax.storage import artifacts, buckets, workdir
from pav_jax.tasks.problems import encode_prompt
from pav_jax.tools import export
from pav_jax.verifier import load_verifier, score_rows

_NARROWEST = 32  # tokens; rows are padded to this, or twice, four times, ... as many


@dataclasses.dataclass(frozen=True)
class Step:
    """What a verifier says of one step.

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
    """What verifiers say of one response.

    Attributes:
      prompt_q: `Q^π` of the bare problem.
      steps: its steps, in order.
      orm: the ORM's score of the whole response; None without an ORM.
    """

    prompt_q: float
    steps: tuple[Step, ...]
    orm: float | None


@dataclasses.dataclass(frozen=True)
class Verifiers:
    """The verifiers of a run, with what turns texts into their tokens.

    Attributes:
      prm: predicts `Q^π` at each step.
      orm: predicts the outcome of a whole response; may be missing.
      architecture: of both.
      tokenizer: theirs.
      is_step_end: bool `[V]`, tokens that end a step.
      max_tokens: of a prompt and a response together, as far as they were trained.
      prover_k: progress is measured under `μ = BoK(π)` of this K.
      fingerprint: names the verifiers; the same for the same parameters only.
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
    ) -> "Verifiers":
        """Reads the verifiers of a run, or one that was exported.

        Args:
          directory: the run's workdir, for its PRM, and its ORM if it is trained; or
            the folder of a verifier in it, such as runs/demo/prm, or of one that
            `export` wrote, for that one alone.
          prover_k: in place of the run's own.

        Raises:
          UserError: there is no verifier, or it cannot be used.
        """
        directory = Path(directory)
        if (directory / export.ABOUT).exists():
            return _exported(directory, prover_k)
        root = _root(directory)
        if (directory / runner.MANIFEST).exists():
            prm, orm = directory, None
        else:
            prm, orm = directory / "prm", directory / "orm"
            if not (prm / runner.MANIFEST).exists():
                raise UserError(
                    f"{directory} holds no finished verifier; give the workdir of a run"
                    " that is through with stage prm, or the folder of that stage"
                )
            if not (orm / runner.MANIFEST).exists():
                orm = None
        manifests = [runner.read_manifest(folder) for folder in (prm, orm) if folder]
        data = root / "data"
        made = runner.read_manifest(data)["fingerprint"]
        for manifest in manifests:
            if manifest["needs"].get("data") != made:
                raise UserError(
                    f"the verifier {root / manifest['stage']} was not trained on the"
                    f" tokens of {data}; run the experiment again"
                )
        config = config_lib.unflatten(manifests[0]["fields"])
        if prover_k is None:
            settings = artifacts.read_json(root / workdir.SETTINGS)["config"]
            prover_k = settings["verifier.prover_k"]
        tokenizer = Tokenizer.load(data / "tokenizer.model")
        architecture = sizes.from_config(config.model, tokenizer.vocab_size)
        loaded = [
            load_verifier(folder, architecture, sizes.dtype_of(config.model))
            for folder in (prm, orm)
            if folder
        ]
        return cls(
            prm=loaded[0],
            orm=loaded[1] if orm else None,
            architecture=architecture,
            tokenizer=tokenizer,
            is_step_end=tokenizer.step_end_mask(),
            max_tokens=config.limits.max_prompt_tokens + config.limits.max_tokens,
            prover_k=prover_k,
            fingerprint=config_lib.digest([m["fingerprint"] for m in manifests]),
        )

    def __post_init__(self):
        if self.prover_k < 1:
            raise UserError(f"prover_k={self.prover_k} must be at least 1")


@contextlib.contextmanager
def fetched(directory: str) -> Iterator[Path]:
    """A folder for `Verifiers.load`; of one in a bucket, a copy of what that reads."""
    if not buckets.is_remote(directory):
        yield Path(directory)
        return
    if buckets.exists(f"{directory}/{export.ABOUT}"):
        found = buckets.to_read(directory)
    elif buckets.exists(f"{directory}/{runner.MANIFEST}"):
        found = buckets.to_read(directory, beside=export.BESIDE)
    else:
        found = buckets.to_read(directory, parts=(*export.BESIDE, "prm", "orm"))
    with found as folder:
        yield folder


def _exported(directory: Path, prover_k: int | None) -> Verifiers:
    """The verifier that `export` wrote."""
    about = export.read_about(directory)
    config = config_lib.unflatten(about["fields"])
    tokenizer = Tokenizer.load(directory / "tokenizer.model")
    architecture = sizes.from_config(config.model, tokenizer.vocab_size)
    dtype = sizes.dtype_of(config.model)
    return Verifiers(
        prm=export.read_verifier(directory, architecture=architecture, dtype=dtype),
        orm=None,
        architecture=architecture,
        tokenizer=tokenizer,
        is_step_end=tokenizer.step_end_mask(),
        max_tokens=config.limits.max_prompt_tokens + config.limits.max_tokens,
        prover_k=about["prover_k"] if prover_k is None else prover_k,
        fingerprint=config_lib.digest([about["fingerprint"]]),
    )


def _root(directory: Path) -> Path:
    """The workdir that a verifier's folder is in, or is."""
    is_stage = (directory / runner.MANIFEST).exists()
    return directory.absolute().parent if is_stage else directory


def mesh_of(directory: str | os.PathLike[str]) -> dict[str, int]:
    """The `mesh` section of the run that verifiers are of; empty if it has none."""
    settings = _root(Path(directory)) / workdir.SETTINGS
    if not settings.exists():  # exported
        return {}
    values = artifacts.read_json(settings)["config"]
    return {
        name.removeprefix("mesh."): size
        for name, size in values.items()
        if config_lib.within(name, "mesh") and name != "mesh"
    }


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A problem and a response to it as tokens.

    Attributes:
      tokens: both, with the tokens that begin and end them.
      ends: int32 `[H + 1]`, tokens up to the end of the prompt and of each step.
    """

    tokens: list[int]
    ends: np.ndarray


def encode(verifiers: Verifiers, prompt: str, response: str) -> Encoded:
    """Tokens as the verifiers were trained on them.

    The prompt ends in one newline, and the response, whose steps are separated by
    newlines, in none: there the end token stands, as for a response that is complete.

    Raises:
      UserError: the prompt is blank, the vocabulary cannot represent a text, or there
        are more tokens than the verifiers were trained for.
    """
    limit = verifiers.max_tokens
    problem = Problem(prompt.rstrip("\n") + "\n", answer="")
    start = encode_prompt(verifiers.tokenizer, problem, max_tokens=limit)
    rest = verifiers.tokenizer.encode(response.rstrip("\n"))
    rest.append(verifiers.tokenizer.eos_id)
    if len(start) + len(rest) > limit:
        raise UserError(
            f"the prompt has {len(start)} tokens and the response {len(rest)}, together"
            f" more than the {limit} that the verifier was trained for"
        )
    stops = step_ends(rest, verifiers.is_step_end)
    return Encoded(start + rest, len(start) + np.concatenate([[0], stops]))


def score(
    verifiers: Verifiers, prompts: Sequence[str], responses: Sequence[str]
) -> list[Scores]:
    """Scores responses, each read once by each verifier.

    Args:
      verifiers: of `Verifiers.load`.
      prompts: a problem for each response, as the run's own task would put it.
      responses: steps separated by newlines.

    Returns:
      The scores, in order.

    Raises:
      UserError: from `encode`.
    """
    pairs = zip(prompts, responses, strict=True)
    return score_encoded(verifiers, [encode(verifiers, *pair) for pair in pairs])


def score_encoded(verifiers: Verifiers, encoded: Sequence[Encoded]) -> list[Scores]:
    """Scores what `encode` made, in order."""
    widths = [_NARROWEST]
    while widths[-1] < verifiers.max_tokens:
        widths.append(min(2 * widths[-1], verifiers.max_tokens))
    rows = [row.tokens for row in encoded]

    def read(params: Params) -> list[np.ndarray]:
        return score_rows(
            params, rows, widths=widths, architecture=verifiers.architecture
        )

    outcomes = read(verifiers.orm) if verifiers.orm else [None] * len(rows)
    return [
        _scores(verifiers, row, q[row.ends - 1], None if o is None else float(o[-1]))
        for row, q, o in zip(encoded, read(verifiers.prm), outcomes, strict=True)
    ]


def _scores(
    verifiers: Verifiers, row: Encoded, q: np.ndarray, orm: float | None
) -> Scores:
    progress = advantages(best_of_k(q, verifiers.prover_k))
    texts = [
        verifiers.tokenizer.decode(row.tokens[start:stop]).rstrip("\n")
        for start, stop in zip(row.ends, row.ends[1:], strict=False)
    ]
    steps = zip(texts, q[1:].tolist(), progress.tolist(), strict=True)
    return Scores(float(q[0]), tuple(Step(*step) for step in steps), orm)
