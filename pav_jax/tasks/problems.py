"""The problems of a split, with all that is needed to sample, grade and label them."""

import dataclasses
from collections.abc import Hashable, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.types import Grade, Problem, Response
from pav_jax.gemma import sizes
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.storage import records
from pav_jax.tasks import make_task
from pav_jax.tasks.base import Task

# A response to a problem, by the problem's index: (index, the response's token ids).
Indexed = tuple[int, Sequence[int]]


class TooLong(UserError):
    """A prompt has more tokens than `config.limits.max_prompt_tokens`."""


def encode_prompt(
    tokenizer: Tokenizer, problem: Problem, *, max_tokens: int
) -> list[int]:
    """Token ids of a prompt, the beginning-of-sequence token first.

    Raises:
      TooLong: the prompt is longer than `max_tokens`.
      UserError: it is empty, or a text that the tokenizer refuses.
    """
    if not problem.prompt.strip():
        raise UserError("a problem has an empty prompt; every problem needs a question")
    tokens = [tokenizer.bos_id, *tokenizer.encode(problem.prompt)]
    if len(tokens) > max_tokens:
        raise TooLong(
            f"a prompt has {counted(len(tokens), 'token')}, more than the {max_tokens}"
            f" that config.limits.max_prompt_tokens allows: {problem.prompt[:80]!r}..."
        )
    return tokens


def fits(tokenizer: Tokenizer, problem: Problem, max_tokens: int) -> bool:
    """Whether the prompt has no more than `max_tokens`; else raises UserError as
    `encode_prompt` does: a text that is no prompt is no long one."""
    try:
        encode_prompt(tokenizer, problem, max_tokens=max_tokens)
    except TooLong:
        return False
    return True


@dataclasses.dataclass(frozen=True, eq=False)
class Problems(Sequence[Problem]):
    """The problems of one split; a stage loads them once.

    Attributes:
      config: the stage's config; has `task`, `model` and `limits`.
      data: the folder of stage `data`.
      task: grades responses.
      tokenizer: of the policy and the verifiers.
      architecture: of the policy and the verifiers.
      is_step_end: bool `[V]`, the tokens that end a step.
      problems: the problems.
      prompts: the token ids of each problem's prompt.
    """

    config: ConfigDict
    data: Path
    task: Task
    tokenizer: Tokenizer
    architecture: TransformerConfig
    is_step_end: np.ndarray
    problems: Sequence[Problem] = ()
    prompts: Sequence[tuple[int, ...]] = ()

    @classmethod
    def load(cls, config: ConfigDict, data: Path, split: str) -> "Problems":
        """Reads a split that stage `data` wrote.

        Args:
          config: has `task`, `model` and `limits`.
          data: the folder of stage `data`.
          split: "sft", "labels", "validation" or "test".

        Raises:
          UserError: a file is missing or damaged, or the config does not fit it.
        """
        tokenizer = Tokenizer.load(data / "tokenizer.model")
        common = cls(
            config=config,
            data=data,
            task=make_task(config.task),
            tokenizer=tokenizer,
            architecture=sizes.from_config(config.model, tokenizer.vocab_size),
            is_step_end=tokenizer.step_end_mask(),
        )
        return common.split(split)

    def split(self, name: str) -> "Problems":
        """Another split of the same task, for the same tokenizer and architecture.

        Of "sft" the problems whose prompts fit `config.limits`: fine-tuning leaves out
        the others, of which the other splits have none.
        """
        problems = records.read_problems(self.data / f"{name}.jsonl")
        limit = self.config.limits.max_prompt_tokens
        if name == "sft":
            problems = [p for p in problems if fits(self.tokenizer, p, limit)]
        prompts = [
            tuple(encode_prompt(self.tokenizer, problem, max_tokens=limit))
            for problem in problems
        ]
        return dataclasses.replace(self, problems=problems, prompts=prompts)

    def first(self, count: int | None) -> "Problems":
        """The first `count` of these problems; all of them if it is None."""
        return dataclasses.replace(
            self, problems=self.problems[:count], prompts=self.prompts[:count]
        )

    def __getitem__(self, index):
        return self.problems[index]

    def __len__(self) -> int:
        return len(self.problems)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the policy's parameters."""
        return sizes.dtype_of(self.config.model)

    def grades(self, responses: Sequence[Indexed]) -> list[Grade]:
        """The grade of each response."""
        return self.task.grade_all(
            [
                (self.problems[index], self.tokenizer.decode(tokens))
                for index, tokens in responses
            ]
        )

    def are_correct(self, responses: Sequence[Indexed]) -> list[bool]:
        """Rex of each response."""
        return [grade is Grade.CORRECT for grade in self.grades(responses)]

    def facts(self, index: int, tokens: Sequence[int]) -> Hashable | None:
        """What the value of a prefix nearly depends on; None if that is unknown."""
        return self.task.facts(self.problems[index], self.tokenizer.decode(tokens))

    def answers(self, responses: Sequence[Response]) -> list[str | None]:
        """Final answers in a normal form, for voting."""
        return [self.task.answer(self.tokenizer.decode(r.tokens)) for r in responses]

    def check_steps(self, responses: Sequence[Response]) -> list[list[str]] | None:
        """A word on each step of each response; None if the task cannot tell."""
        verdicts = [
            self.task.check_steps(
                self.problems[r.problem], self.tokenizer.decode(r.tokens)
            )
            for r in responses
        ]
        return None if None in verdicts else verdicts
