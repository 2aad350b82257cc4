"""What a policy is paid in RL: Eq. 5 for every token (Sec. 5), and GRPO's advantages.

The gradient of Eq. 4 is `Σ_h ∇log π(a_h|s_h) (Q^π(s_h, a_h) + αA^μ(s_h, a_h))`, an
expectation over responses of π. REINFORCE replaces `Q^π` by Rex, an unbiased sample of
it. So a token is paid in two ways:

- The outcome, given at the end, is paid to every token (reward-to-go).
- The process reward of a step is paid to the tokens of that step only. Eq. 4 takes the
  states as the previous policy visits them, so a step gets no credit for the progress
  of later ones. (Summed over later steps, progress would telescope to the outcome less
  a baseline, and change only the scale.)

Two rewards are controls, for what the paper's should be better than:

- "value_to_go" is the paper's bad one: `Q^μ` in place of `A^μ`, and a step is paid that
  of all steps after it as well (`process_to_go` says what this teaches). `Q^μ` paid to
  its own step alone would be no control: it is `A^μ` plus a function of the state, so
  its gradient is that of Eq. 4.
- "matched" is the outcome in another scale. With μ = π, the policy as it is, the
  gradient is `1 + α` times that of the outcome alone; this shows what a change of scale
  does.

Shape letters: B responses, T tokens of prompt and response, H steps of a response.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pav_jax.core.errors import UserError
from pav_jax.core.types import Batch, Response, StepLabels
from pav_jax.prover import advantages, best_of_k, effective_reward, failure_power
from pav_jax.tasks.problems import Problems
from pav_jax.train.batches import pad_rows

REWARDS = ("outcome", "progress", "value_to_go", "matched")
BASELINES = ("value", "group", "verifier")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What a policy is trained on.

    Attributes:
      reward: "outcome" is Rex alone (ORM-RL); "progress" adds `αA^μ` (PAV-RL, Eq. 5);
        "value_to_go" adds `αQ^μ` of this step and of all later ones, which the paper
        finds to be bad; "matched" is Rex, scaled in each batch to the standard
        deviation that "progress" has.
      baseline: "value" is learnt for each token; "group" is the mean outcome of a
        problem's responses, and divides by their standard deviation (GRPO); "verifier"
        is learnt as "value" is, from the verifier's parameters on, which is a control:
        what a verifier gives to RL without process rewards.
      kl: weight of the KL divergence to the initial policy, per token.
      alpha: weight of the process reward, above 0; with reward="outcome" 0, as n_mc is,
        and prover_k 1, since there is none.
      prover_k: the prover is BoK with this K: of the SFT policy, whose `Q` a frozen
        verifier predicts, or with `n_mc` of the policy as it is. So 1 is the SFT
        policy, the paper's prover for RL; and with `n_mc` it is μ = π.
      prover: the entry of `config.provers` whose verifier predicts `Q^μ`; "" is the
        verifier of the SFT policy.
      n_mc: continuations of every step prefix, by the current policy, whose outcomes
        replace the verifier; at least `prover_k`. 0 uses the verifier.
      refresh_every: iterations after which the verifier is trained further, on rollouts
        of the current policy; 0 keeps it frozen. Not with a `prover`, whose value it
        would no longer predict.

    Raises:
      UserError: a name is unknown, or the fields do not go together.
    """

    reward: str
    baseline: str
    kl: float
    alpha: float = 0.0
    prover_k: int = 1
    prover: str = ""
    n_mc: int = 0
    refresh_every: int = 0

    def __post_init__(self):
        if self.reward == "value":
            raise UserError(
                'reward="value" of an RL method is no more: Q^μ paid to its own step'
                ' alone is reward="progress" in expectation, and so no control. Write'
                ' reward="value_to_go", which adds up Q^μ over later steps'
            )
        for name, known in (("reward", REWARDS), ("baseline", BASELINES)):
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name} {getattr(self, name)!r} of an RL method is unknown;"
                    f" there are {', '.join(known)}"
                )
        if (self.reward, self.baseline) == ("matched", "group"):
            raise UserError(
                'reward="matched" of an RL method scales the outcome, which'
                ' baseline="group" has already divided by its spread; use'
                ' baseline="value"'
            )
        if (self.reward, self.baseline) == ("value_to_go", "group"):
            raise UserError(
                'reward="value_to_go" of an RL method pays longer responses more, and'
                ' baseline="group" takes nothing off process rewards; use'
                ' baseline="value"'
            )
        if self.baseline == "verifier" and self.has_step_rewards:
            raise UserError(
                f'baseline="verifier" of an RL method predicts the outcome, and'
                f' reward="{self.reward}" is more than that; use baseline="value"'
            )
        if self.prover and not self.uses_verifier:
            raise UserError(
                f"prover={self.prover!r} of an RL method that uses no verifier: its"
                " reward is the outcome, or it has n_mc continuations"
            )
        if 0 < self.n_mc < self.prover_k:
            raise UserError(
                f"n_mc={self.n_mc} of an RL method is too few: the value of"
                f" Bo{self.prover_k} cannot be estimated without bias from fewer"
                f" than {self.prover_k} continuations; raise n_mc, or lower prover_k"
            )
        if self.refresh_every and not (self.uses_verifier and self.has_step_rewards):
            raise UserError(
                f"refresh_every={self.refresh_every} of an RL method that uses no"
                " verifier: its reward is the outcome, or it has n_mc continuations"
            )
        if self.refresh_every and self.prover:
            raise UserError(
                f"refresh_every={self.refresh_every} of an RL method with"
                f" prover={self.prover!r}: the verifier would be trained on rollouts of"
                " the policy that RL trains, and no longer predict the value of that"
                " prover; leave out either"
            )
        self._check_weights()

    def _check_weights(self) -> None:
        """Raises UserError if process rewards weigh nothing, or fields of them are
        given where there are none."""
        if self.has_step_rewards and not self.alpha:
            raise UserError(
                f'reward="{self.reward}" of an RL method pays no process rewards with'
                " alpha=0, which is the default; set alpha, such as to 1, or write"
                ' reward="outcome"'
            )
        for name, none in (("alpha", 0), ("n_mc", 0), ("prover_k", 1)):
            value = getattr(self, name)
            if value != none and not self.has_step_rewards:
                raise UserError(
                    f'{name}={value:g} of an RL method with reward="outcome", which'
                    " pays no process rewards; leave it out, or write"
                    ' reward="progress"'
                )

    @property
    def has_step_rewards(self) -> bool:
        """Whether steps have rewards of their own, beside the outcome."""
        return self.reward != "outcome"

    @property
    def uses_verifier(self) -> bool:
        """Whether it is given a verifier."""
        by_steps = self.has_step_rewards and not self.n_mc
        return by_steps or self.baseline == "verifier"


def predicted_values(q: np.ndarray, correct: bool, objective: Objective) -> np.ndarray:
    """`Q^μ` of each prefix from a verifier's predictions, float32 `[H + 1]`.

    Args:
      q: predicted values of a response's prefixes, `[H + 1]`, the bare prompt first:
        `Q^π`, or that prover's if `objective.prover` names one.
      correct: Rex.
      objective: has `prover_k`.
    """
    q = np.array(q, np.float32)
    # By definition; a prediction here is what a policy would learn to exploit.
    q[-1] = correct
    return best_of_k(q, objective.prover_k)


def sampled_values(labels: StepLabels, objective: Objective) -> np.ndarray:
    """`Q^μ` of each prefix from counts of continuations, float32 `[H + 1]`.

    The estimate is unbiased, and so is the gradient. `best_of_k` of an estimate of
    `Q^π` would not be, since it is not linear.
    """
    return (1.0 - failure_power(labels, objective.prover_k)).astype(np.float32)


def process_rewards(value: np.ndarray, objective: Objective) -> np.ndarray:
    """The process reward of each step, float32 `[H]`: `αA^μ` (Eq. 5 without its `Q^π`).

    With `reward="value_to_go"` it is `αQ^μ` after the step; `effective_rewards` adds
    those of later steps.

    Args:
      value: `Q^μ` of a response's prefixes, `[H + 1]`, the bare prompt first.
      objective: has `reward` and `alpha`.
    """
    paid = value[1:] if objective.reward == "value_to_go" else advantages(value)
    return np.float32(objective.alpha) * paid


@dataclasses.dataclass(frozen=True)
class Scored:
    """Responses of one iteration, and the process rewards of their steps.

    Attributes:
      responses: those to one problem are side by side.
      ends: response tokens up to the end of each step, int `[H]` for each.
      process: the process reward of each step, float32 `[H]` for each.
      q: `Q^π` of the prefixes, by continuations or by the verifier, which predicts the
        prover's `Q` if `Objective.prover` names one; float32 `[H + 1]` for each. None
        if the method pays the outcome only.
    """

    responses: list[Response]
    ends: list[np.ndarray]
    process: list[np.ndarray]
    q: list[np.ndarray] | None

    def example(self, place: int, problems: Problems) -> dict[str, Any]:
        """One response as text, with the rewards of its steps.

        Args:
          place: its index among the responses.
          problems: those that the responses are to.

        Returns:
          `prompt`, `answer`, `correct`, and `steps`: `text`, `reward` and, if values
          are known, `q` after the step, of each.
        """
        response, ends = self.responses[place], self.ends[place]
        starts = np.append(0, ends[:-1])
        decode = problems.tokenizer.decode
        steps = [
            {
                "text": decode(response.tokens[start:stop]).rstrip("\n"),
                "reward": float(self.process[place][h]),
            }
            | ({} if self.q is None else {"q": float(self.q[place][h + 1])})
            for h, (start, stop) in enumerate(zip(starts, ends, strict=True))
        ]
        problem = problems[response.problem]
        return {
            "prompt": problem.prompt.strip(),
            "answer": problem.answer,
            "correct": response.correct,
            "steps": steps,
        }


def make_batch(
    responses: Sequence[Response],
    ends: Sequence[np.ndarray],
    process: Sequence[np.ndarray],
    *,
    length: int,
) -> Batch:
    """The arrays of a batch of responses.

    Args:
      responses: those to one problem are side by side.
      ends: response tokens up to the end of each step, int `[H]` for each.
      process: reward of each step, float32 `[H]` for each.
      length: T, at least the longest prompt and response together.

    Returns:
      `tokens` int32; `mask` float32, 1 on response tokens; `step_end` bool, at the
      last token of each step; `process_reward` float32, that of the step; `outcome`
      float32, Rex at the response's last token; `sampled` float32, the sampler's
      log-probabilities of response tokens; all `[B, T]`.
    """
    shape = (len(responses), length)
    floats = {
        name: np.zeros(shape, np.float32)
        for name in ("mask", "process_reward", "outcome", "sampled")
    }
    step_end = np.zeros(shape, bool)
    for i, (response, stops, paid) in enumerate(
        zip(responses, ends, process, strict=True)
    ):
        first, last = len(response.prompt), len(response.prompt + response.tokens)
        floats["mask"][i, first:last] = 1.0
        floats["sampled"][i, first:last] = response.log_probs
        floats["outcome"][i, last - 1] = response.correct
        step_end[i, first + stops - 1] = True
        floats["process_reward"][i, first + stops - 1] = paid
    rows = [response.prompt + response.tokens for response in responses]
    return {"tokens": pad_rows(rows, length), "step_end": step_end, **floats}


def outcome_to_go(batch: Batch) -> jax.Array:
    """Rex at every token of the response, float32 `[B, T]`; 0 elsewhere."""
    to_go = jnp.cumsum(batch["outcome"][:, ::-1], axis=1)[:, ::-1]
    return to_go * batch["mask"]


def step_process_reward(batch: Batch) -> jax.Array:
    """The process reward of the step that a token is in, float32 `[B, T]`."""
    length = batch["tokens"].shape[1]
    places = jnp.where(batch["step_end"], jnp.arange(length)[None], length)
    # The first step end at or after a token; padding has none, and gets no reward.
    end = jax.lax.cummin(places, axis=1, reverse=True)
    paid = jnp.take_along_axis(
        batch["process_reward"], jnp.minimum(end, length - 1), axis=1
    )
    return jnp.where(end < length, paid, 0.0) * batch["mask"]


def process_to_go(batch: Batch) -> jax.Array:
    """The process rewards of a token's step and of all later steps, float32 `[B, T]`.

    With values for process rewards this is the paper's bad baseline. The gradient is
    that of `E[Rex + α Σ_h Q^μ(s_h, a_h)]`, a sum that grows with each step in a state
    of high value, whatever the step does for the outcome. A step that restates the
    problem keeps the value v of its state and makes the response longer by one, so it
    earns αv more than an answer at once (`A^μ` pays it nothing): the policy learns to
    restate. Paid to its own step only, `Q^μ` is `A^μ` plus an amount that is the same
    for every step out of a state, and so favours none.
    """
    mask = batch["mask"]
    paid = (batch["process_reward"] * mask)[:, ::-1]
    return jnp.cumsum(paid, axis=1)[:, ::-1] * mask


def effective_rewards(batch: Batch, *, reward: str) -> jax.Array:
    """The reward of each token, float32 `[B, T]`: `Rex + αA^μ` of its step (Eq. 5).

    Args:
      batch: of `make_batch`.
      reward: `Objective.reward`; the controls are paid otherwise.
    """
    outcome = outcome_to_go(batch)
    if reward == "outcome":
        return outcome
    to_go = reward == "value_to_go"
    process = process_to_go(batch) if to_go else step_process_reward(batch)
    # α is in the batch's process rewards already, so the weight is 1.
    both = effective_reward(outcome, process, 1.0)
    if reward != "matched":
        return both
    mask = batch["mask"]
    spread, wanted = masked_std(outcome, mask), masked_std(both, mask)
    return outcome * jnp.where(spread > 0, wanted / jnp.maximum(spread, 1e-6), 1.0)


def masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the tokens of the mask, float32 scalar; 0 if there are none."""
    return jnp.sum(values * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def masked_std(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Standard deviation over the tokens of the mask, float32 scalar."""
    centred = values - masked_mean(values, mask)
    return jnp.sqrt(masked_mean(jnp.square(centred), mask))


def group_advantages(batch: Batch, rewards: jax.Array, *, group: int) -> jax.Array:
    """GRPO's advantages, with process rewards added, float32 `[B, T]`.

    The outcome is centred and divided by its standard deviation among the responses to
    a problem. Process rewards are not: they have a baseline of their own, the value of
    the state before the step.

    Args:
      batch: B responses, the `group` of a problem side by side.
      rewards: of `effective_rewards`, `[B, T]`; the outcome in them is not scaled.
      group: responses to each problem.
    """
    outcome = jnp.sum(batch["outcome"], axis=1).reshape(-1, group)
    mean = jnp.mean(outcome, axis=1, keepdims=True)
    spread = jnp.std(outcome, axis=1, keepdims=True)
    relative = ((outcome - mean) / (spread + 1e-4)).reshape(-1, 1)
    return (relative + rewards - outcome_to_go(batch)) * batch["mask"]
