"""What a config says, as the objects that the stages work with."""

import dataclasses
from collections.abc import Hashable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pav_jax import policy, verifier
from pav_jax.core.errors import UserError
from pav_jax.distributed import mesh
from pav_jax.gemma import checkpoint as published_checkpoint
from pav_jax.gemma import forward, sizes
from pav_jax.gemma.architecture import TransformerConfig, tiny_gemma2
from pav_jax.gemma.formats import SPARE_ROWS
from pav_jax.gemma.tokenizer import Tokenizer, train_tokenizer
from pav_jax.labels import Response
from pav_jax.rollout import SamplingConfig
from pav_jax.storage import checkpoints, records
from pav_jax.tasks import make_task
from pav_jax.tasks.base import Grade, Problem, Task

_DTYPES = ("float32", "bfloat16")


def model_config(model: ConfigDict, tokenizer: Tokenizer) -> TransformerConfig:
    """The architecture of the policy, which the verifiers share.

    Args:
      model: the `name` of a published size, which may be `shrunk`, or the arguments
        of `tiny_gemma2`; and what `initial_policy` reads.
      tokenizer: has as many tokens as the architecture is to have embeddings; the
        spare ones of a published size would only be tokens that cannot be read.

    Raises:
      UserError: there is no such size, or the tokenizer is not its.
    """
    fields = {k: v for k, v in model.items() if k not in ("checkpoint", "dtype")}
    if "name" not in fields:
        return tiny_gemma2(tokenizer.vocab_size, **fields)
    if others := sorted(fields.keys() - {"name", "shrunk"}):
        raise UserError(
            f"config.model names {model.name!r}, which says all of its shape; take"
            f" out {', '.join(others)}"
        )
    published = sizes.by_name(model.name)
    if model.get("shrunk"):
        small = sizes.shrunk(published)
        return dataclasses.replace(small, vocab_size=tokenizer.vocab_size)
    if not 0 <= published.vocab_size - tokenizer.vocab_size <= SPARE_ROWS:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, and {model.name} has"
            f" {published.vocab_size} embeddings; set config.tokenizer.path to the"
            " SentencePiece model that belongs to it"
        )
    return dataclasses.replace(published, vocab_size=tokenizer.vocab_size)


def dtype_of(model: ConfigDict) -> jnp.dtype:
    """The dtype of a policy's parameters; raises UserError."""
    name = model.get("dtype", "float32")
    if name not in _DTYPES:
        raise UserError(f"config.model.dtype is {name!r}; it may be {_DTYPES}")
    return jnp.dtype(name)


def initial_policy(
    model: ConfigDict, architecture: TransformerConfig, *, seed: int
) -> forward.Params:
    """The parameters that fine-tuning starts from.

    Args:
      model: may have a `checkpoint`, the folder of a published one, in place of
        random parameters; and a `dtype`, float32 if it has none.
      architecture: what `model_config` makes of it.
      seed: of random parameters.

    Raises:
      UserError: the checkpoint cannot be read as that architecture.
    """
    dtype = dtype_of(model)
    if model.get("checkpoint"):
        path = Path(model.checkpoint)
        like = jax.eval_shape(
            lambda: forward.init_params(jax.random.key(0), architecture, dtype)
        )
        return published_checkpoint.read(
            path,
            config=architecture,
            dtype=dtype,
            shardings=mesh.shardings(like, mesh.TRAIN),
        )
    return forward.init_params(jax.random.key(seed), architecture, dtype)


def make_tokenizer(
    config: ConfigDict, texts: Sequence[str], pieces: Sequence[str]
) -> Tokenizer:
    """The tokenizer of a `path`, or one learnt from `texts`.

    Args:
      config: has either the `path` of a SentencePiece model, or a `vocab_size`.
      texts: what a learnt one is to represent.
      pieces: the task's own vocabulary, if it has one; takes the place of learning.

    Raises:
      UserError: the config has both or neither, the model cannot be read, or the
        vocabulary is too small.
    """
    if ("path" in config) == ("vocab_size" in config):
        raise UserError(
            "config.tokenizer needs either the path of a SentencePiece model or the"
            " vocab_size of one to learn, and not both"
        )
    if "path" in config:
        return Tokenizer.load(config.path)
    size = max(config.vocab_size, 4 + len(pieces)) if pieces else config.vocab_size
    return train_tokenizer(texts, vocab_size=size, pieces=pieces)


class Grader:
    """Grades token ids of responses to a list of problems.

    Args:
      task: knows what is right.
      problems: what `Response.problem` counts.
      tokenizer: turns token ids into the text that is graded.
    """

    def __init__(self, task: Task, problems: Sequence[Problem], tokenizer: Tokenizer):
        self._task = task
        self._problems = problems
        self._tokenizer = tokenizer

    def grades(self, responses: Sequence[tuple[int, Sequence[int]]]) -> list[Grade]:
        """The grade of each (problem index, response token ids)."""
        return self._task.grade_all(
            [
                (self._problems[problem], self._tokenizer.decode(tokens))
                for problem, tokens in responses
            ]
        )

    def are_correct(self, responses: Sequence[tuple[int, Sequence[int]]]) -> list[bool]:
        """Rex of each (problem index, response token ids)."""
        return [grade is Grade.CORRECT for grade in self.grades(responses)]

    def state(self, problem: int, tokens: Sequence[int]) -> Hashable | None:
        """What of a prefix its value nearly depends on; None if unknown."""
        text = self._tokenizer.decode(tokens)
        return self._task.state(self._problems[problem], text)

    def answers(self, responses: Sequence[Response]) -> list[str | None]:
        """Final answers in a normal form, for voting."""
        return [self._task.answer(self._tokenizer.decode(r.tokens)) for r in responses]

    def check(self, responses: Sequence[Response]) -> list[list[str]] | None:
        """A word on each step of each response; None if the task cannot tell."""
        verdicts = [
            self._task.check_steps(
                self._problems[r.problem], self._tokenizer.decode(r.tokens)
            )
            for r in responses
        ]
        return None if None in verdicts else verdicts


def load_tokenizer(data: Path) -> Tokenizer:
    """The tokenizer that the data stage wrote."""
    return Tokenizer.load(data / "tokenizer.model")


def load_policy(
    directory: Path,
    model: ConfigDict,
    architecture: TransformerConfig,
    use: dict[str, str | None] = mesh.DECODE,
) -> forward.Params:
    """The parameters that a policy's stage wrote, where `use` has them.

    The other arguments are as of `load_verifier`.
    """
    like = jax.eval_shape(
        lambda: forward.init_params(jax.random.key(0), architecture, dtype_of(model))
    )
    return checkpoints.load_params(directory / "params", like, use)


def load_verifier(
    directory: Path,
    model: ConfigDict,
    architecture: TransformerConfig,
    use: dict[str, str | None] = mesh.DECODE,
) -> verifier.VerifierParams:
    """The parameters that a verifier's stage wrote, where `use` has them.

    Args:
      directory: the stage's folder.
      model: may have a `dtype`.
      architecture: what `model_config` makes of it.
      use: sampling and scoring, or training.
    """

    def init():
        key = jax.random.key(0)
        policy = forward.init_params(key, architecture, dtype_of(model))
        return verifier.init_verifier(key, policy, architecture)

    return checkpoints.load_params(directory / "params", jax.eval_shape(init), use)


@dataclasses.dataclass(frozen=True)
class Lab:
    """The problems of one use, and all that is needed to work on them.

    Attributes:
      config: the stage's config; has `task`, `model` and `limits`.
      tokenizer: the policy's.
      model: the architecture of policy and verifiers.
      problems: the problems.
      prompts: their token ids.
      grader: grades responses to them.
      is_step_end: bool `[V]`, tokens that end a step.
    """

    config: ConfigDict
    tokenizer: Tokenizer
    model: TransformerConfig
    problems: list[Problem]
    prompts: list[tuple[int, ...]]
    grader: Grader
    is_step_end: np.ndarray

    @classmethod
    def load(cls, config: ConfigDict, data: Path, use: str) -> "Lab":
        """Reads the data stage's folder; `use` names one of its problem files."""
        tokenizer = load_tokenizer(data)
        problems = records.read_problems(data / f"{use}.jsonl")
        limit = config.limits.max_prompt_tokens
        return cls(
            config=config,
            tokenizer=tokenizer,
            model=model_config(config.model, tokenizer),
            problems=problems,
            prompts=[
                tuple(policy.encode_prompt(tokenizer, p, max_tokens=limit))
                for p in problems
            ],
            grader=Grader(make_task(config.task), problems, tokenizer),
            is_step_end=tokenizer.step_end_mask(),
        )

    def first(self, count: int | None) -> "Lab":
        """The lab of the first `count` of its problems; of all if it is None."""
        return dataclasses.replace(
            self, problems=self.problems[:count], prompts=self.prompts[:count]
        )

    def sampling(self, temperature: float, *, branches: int) -> SamplingConfig:
        """How responses are sampled, on a grid with no row to spare.

        Args:
          temperature: of the draws.
          branches: of each trunk; where they are fewer than `sampling.rows`, more
            trunks take the place of the rows left over, as many as make whole groups
            for every device of the active mesh.
        """
        grid = self.config.sampling
        rows, share = min(grid.rows, branches), grid.get("share", 1)
        whole = share * mesh.row_shares(jax.sharding.get_mesh())
        trunks = grid.trunks * grid.rows // rows // whole * whole
        return SamplingConfig(
            max_tokens=self.config.limits.max_tokens,
            end_ids=self.tokenizer.end_ids,
            temperature=temperature,
            trunks=max(trunks, whole),
            rows=rows,
            share=share,
        )

    def load_policy(
        self, directory: Path, use: dict[str, str | None] = mesh.DECODE
    ) -> forward.Params:
        """The parameters that a policy's stage wrote, where `use` has them."""
        return load_policy(directory, self.config.model, self.model, use)

    def load_verifier(
        self, directory: Path, use: dict[str, str | None] = mesh.DECODE
    ) -> verifier.VerifierParams:
        """The parameters that a verifier's stage wrote, where `use` has them."""
        return load_verifier(directory, self.config.model, self.model, use)
