"""What flows between the modules: problems, responses, labels of steps, batches."""

import dataclasses
import enum
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # the processes that grade start without jax
    import jax

# Arrays [B, ...] by name, of one training step.
Batch = dict[str, "jax.Array"]
# A tree of arrays. A policy's is that of `gemma.forward.init_params`; a verifier's and
# a value baseline's are {"network": a policy's, "head": its head's}.
Params = dict[str, Any]


class Grade(enum.Enum):
    """How a response fared; only CORRECT earns Rex = 1."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    TIMED_OUT = "timed_out"  # beyond the bounds that a grader sets


@dataclasses.dataclass(frozen=True)
class Problem:
    """A question with a checkable final answer.

    Attributes:
      prompt: the question as the policy reads it, up to and including the
        newline after which the response starts.
      answer: the reference answer `y*`, in the task's own notation.
      solution: a demonstration, one step a line, the final answer on the last
        line, without a trailing newline. Empty where none is known.
    """

    prompt: str
    answer: str
    solution: str = ""

    @property
    def id(self) -> int:
        """A 31-bit hash of the prompt: the problem's name in sampling keys."""
        digest = hashlib.blake2b(self.prompt.encode(), digest_size=4).digest()
        return int.from_bytes(digest, "little") & 0x7FFF_FFFF


@dataclasses.dataclass(frozen=True)
class Response:
    """A response of the policy to a problem, as token ids.

    Attributes:
      problem: index of the problem in its list.
      prompt: the prompt's token ids.
      tokens: the response's token ids, its end token included.
      log_probs: of `tokens`, under the policy that sampled them.
      correct: Rex.
    """

    problem: int
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    correct: bool


@dataclasses.dataclass(frozen=True)
class StepLabels:
    """Counts for the prefixes of one response, the bare prompt first.

    In a row of `first_pit`, of some of its prefixes only, and not of the prompt.

    Attributes:
      ends: int32 `[H + 1]`, response tokens in each prefix; `ends[0] == 0`.
      correct: int32 `[H + 1]`, continuations that ended with Rex = 1.
      count: int32 `[H + 1]`, continuations; 1 for the whole response, whose
        value is its own outcome.
    """

    ends: np.ndarray
    correct: np.ndarray
    count: np.ndarray

    @property
    def q(self) -> np.ndarray:
        """`Q_mc`, float32 `[H + 1]`."""
        return (self.correct / self.count).astype(np.float32)
