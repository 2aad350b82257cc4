"""Progress of each step as a reward, for trainers that are not ours.

A trainer has texts, and tokens of its own tokenizer; a verifier reads texts. So what a
step is paid is kept by its characters, and laid on whatever tokens they are.

Shape letters: H steps of a response, T tokens of it.
"""

import bisect
import dataclasses
import functools
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from pav_jax.core.errors import UserError
from pav_jax.core.types import Problem
from pav_jax.prover import advantages, best_of_k
from pav_jax.tasks.problems import encode_prompt
from pav_jax.tasks.stored import plain_text
from pav_jax.tools.scoring import Encoded, Verifier

Span = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class StepRewards:
    """What the steps of one response are paid.

    Every token of a step is paid the whole reward of the step, as `pav run` does in RL;
    it is not divided among them. For the log-probability of a step is the sum of those
    of its tokens, and Eq. 4 multiplies it by the reward.

    A token is in the step in which it starts, also if it ends in the next one. A token
    of no characters, such as the end token, is where the token before it is. Between
    steps, which `step_ends` may leave to others, such as a tool, tokens are paid 0.

    Attributes:
      spans: int32 `[H, 2]`, where each step starts and ends, in characters of the
        response as it was given. Blank text after a step is part of it.
      rewards: float32 `[H]`, `αA^μ` of each; of a response that cannot be scored, 0.
      length: characters of the response.
    """

    spans: np.ndarray
    rewards: np.ndarray
    length: int

    def on_offsets(self, offsets: Sequence[Span]) -> np.ndarray:
        """The reward of each token, by the characters that it stands for.

        Args:
          offsets: start and end of each token, in characters of the response:
            `offset_mapping` of a tokenizer of Hugging Face, for the response alone.

        Returns:
          float32 `[T]`.

        Raises:
          UserError: an offset is outside the response.
        """
        pairs = np.asarray(offsets, np.int64).reshape(-1, 2)
        if pairs.size and (pairs.min() < 0 or pairs.max() > self.length):
            raise UserError(
                f"an offset is outside the {self.length} characters of the response;"
                " give the offset_mapping of the response alone, without the prompt"
            )
        starts, stops = pairs.T
        # The last token up to here that has characters; before the first, that one.
        real = np.flatnonzero(starts < stops)
        if not len(real):
            real = np.arange(len(pairs))
        before = np.searchsorted(real, np.arange(len(pairs)), side="right") - 1
        starts = starts[real[np.maximum(before, 0)]]
        step = np.searchsorted(self.spans[:, 0], starts, side="right") - 1
        # An empty response is one step, whose only token starts at its end.
        inside = (step >= 0) & (starts < np.maximum(self.spans[step, 1], 1))
        return np.where(inside, self.rewards[step], np.float32(0))

    def on_tokens(
        self, tokens: Sequence[int], decode: Callable[[Sequence[int]], str]
    ) -> np.ndarray:
        """The reward of each token, where only token ids are known, as after sampling.

        To tokenize the text again might give other tokens. Instead prefixes are
        decoded, some for each step.

        Args:
          tokens: ids, the end token included, padding not.
          decode: text of ids, special tokens left out; of all it is the response.

        Returns:
          float32 `[T]`.

        Raises:
          UserError: the tokens do not decode to the response.
        """
        tokens = list(tokens)
        if (total := len(decode(tokens))) != self.length:
            raise UserError(
                f"the tokens decode to {total} characters, and the response has"
                f" {self.length}; leave out padding, and decode without special tokens,"
                " as for the response"
            )

        def length(count: int) -> int:
            return len(decode(tokens[:count]))

        def whole(count: int) -> int:
            # A character of which only some bytes are there decodes to this, or more.
            return len(decode(tokens[:count]).rstrip("\ufffd"))

        def first_from(place: int) -> int:
            """The first token with characters that starts at a place or after it."""
            first = bisect.bisect_left(range(len(tokens)), place, key=whole)
            before = length(first)
            while first < len(tokens) and length(first + 1) == before:
                first += 1
            return first

        paid = np.zeros(len(tokens), np.float32)
        for (start, stop), reward in zip(self.spans, self.rewards, strict=True):
            first = first_from(start) if start else 0
            paid[first : first_from(stop)] = reward
        return paid


def step_rewards(
    prompts: Sequence[str],
    responses: Sequence[str],
    verifier: Verifier,
    alpha: float,
    prover_k: int,
    *,
    step_ends: Sequence[Sequence[Span]] | None = None,
    outcomes: Sequence[float] | None = None,
    unscorable: Literal["raise", "zero"] = "raise",
) -> list[StepRewards]:
    """The process reward `αA^μ` of each step (Sec. 5; Eq. 5 without its `Q^π`).

    >>> from pav_jax import Verifier, step_rewards
    >>> verifier = Verifier.load("runs/demo")
    >>> (paid,) = step_rewards(["What is 1 + 1?"], ["1 + 1\\nis 2"], verifier, 3.0, 4)
    >>> paid.spans.tolist()
    [[0, 6], [6, 10]]
    >>> len(paid.on_offsets([(0, 5), (5, 8), (8, 10)]))  # of tokens of any tokenizer
    3

    Add it to the outcome, or to what the trainer makes of it. Do not add it up over a
    response: the sum is `Q^μ` of the whole less that of the prompt, so of the steps
    nothing would be left.

    Args:
      prompts: a problem for each response, as for `Verifier.score`.
      responses: steps separated by newlines, the end token left out.
      verifier: predicts `Q^π`; of Eq. 5 that of the SFT policy.
      alpha: the weight of progress.
      prover_k: the prover is BoK(π) of this K.
      step_ends: of each response where its steps start and end, in characters, in
        order; a step may be a turn. In place of newlines. Text between two steps is
        read and not paid: the progress of a step is over the value just before it. A
        verifier knows values after newlines, so it reads one after each of these texts.
      outcomes: of each response, 0 or 1 or between: the value of the whole response, in
        place of the prediction, which a policy would learn to exploit. Give them
        wherever they are known.
      unscorable: what is done about a response, or its prompt, that the verifier cannot
        read, such as one too long. "raise"; or "zero", for trainers, whose policy may
        write anything: its steps are paid 0, and a `logging.warning` a call counts such
        responses.

    Returns:
      The rewards of each response, in order.

    Raises:
      UserError: these arguments do not go together; or, if unscorable is "raise", from
        `Verifier.encode`.
    """
    _check(prompts, responses, alpha, prover_k, step_ends, outcomes, unscorable)
    spans = _spans(responses, step_ends)
    cut = _by_lines if step_ends is None else _by_spans
    read = _read(cut, verifier, prompts, responses, spans, unscorable)
    known = [None] * len(read) if outcomes is None else outcomes
    rewards = map(functools.partial(_rewards, alpha, prover_k), spans, read, known)
    lengths = map(len, responses)
    return [StepRewards(*paid) for paid in zip(spans, rewards, lengths, strict=True)]


def _check(
    prompts, responses, alpha, prover_k, step_ends, outcomes, unscorable
) -> None:
    """Raises UserError for arguments of `step_rewards` that are no good."""
    given = {"responses": responses, "step_ends": step_ends, "outcomes": outcomes}
    for name, values in given.items():
        if values is not None and len(values) != len(prompts):
            raise UserError(f"{len(prompts)} prompts, but {len(values)} {name}")
    if not np.isfinite(alpha):
        raise UserError(f"alpha={alpha} is not a number")
    if prover_k < 1:
        raise UserError(f"prover_k={prover_k} must be at least 1")
    if unscorable not in ("raise", "zero"):
        raise UserError(f"unscorable={unscorable!r} must be 'raise' or 'zero'")
    for place, outcome in enumerate(outcomes if outcomes is not None else ()):
        if not 0 <= outcome <= 1:
            raise UserError(
                f"outcome {place} is {outcome}; from 0, wrong, to 1, right, is valid"
            )


def _spans(
    responses: Sequence[str], step_ends: Sequence[Sequence[Span]] | None
) -> list[np.ndarray]:
    """The steps of each response, int32 `[H, 2]`, as the caller says, or its lines."""
    if step_ends is None:
        return [_lines(response) for response in responses]
    found = []
    for place, pair in enumerate(zip(responses, step_ends, strict=True)):
        try:
            found.append(_whole(*pair))
        except UserError as error:
            raise UserError(f"response {place}: {error}") from error
    return found


def _lines(response: str) -> np.ndarray:
    """The steps that `Verifier.encode` finds, one a line that is not blank."""
    mark = len(response) - len(response.removeprefix("\ufeff"))
    lines = re.compile(r"[^\n]*\n|[^\n]+").finditer(response, mark)
    starts = [line.start() for line in lines if line.group().strip()]
    bounds = [0, *starts[1:], len(response)]
    return np.array(list(zip(bounds, bounds[1:], strict=False)), np.int32)


# How a response is cut into steps: its tokens, with the ends of all its pieces; and int
# [H], which of the ends is that of each step.
_Cut = tuple[Encoded, np.ndarray]


def _read(
    cut: Callable[[Verifier, str, str, np.ndarray], _Cut],
    verifier: Verifier,
    prompts: Sequence[str],
    responses: Sequence[str],
    spans: Sequence[np.ndarray],
    unscorable: str,
) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """The values of each response at the ends of its pieces, and which of them are of
    its steps, `[H]`; None if the verifier cannot read it."""
    found: list[_Cut | None] = []
    errors: list[str] = []
    for place, of_one in enumerate(zip(prompts, responses, spans, strict=True)):
        try:
            found.append(cut(verifier, *of_one))
        except UserError as error:
            errors.append(f"response {place}: {error}")
            if unscorable == "raise":
                raise UserError(errors[0]) from error
            found.append(None)
    if errors:
        logging.warning(
            "step_rewards: %d of %d responses cannot be scored, and their steps are"
            " paid 0, such as %s",
            *(len(errors), len(found), errors[0]),
        )
    values = iter(verifier.values([encoded for encoded, _ in filter(None, found)]))
    return [one and (next(values), one[1]) for one in found]


def _rewards(
    alpha: float,
    prover_k: int,
    spans: np.ndarray,
    read: tuple[np.ndarray, np.ndarray] | None,
    outcome: float | None,
) -> np.ndarray:
    """`αA^μ` of each step of a response, float32 `[H]`; 0 if it was not read."""
    if read is None:
        return np.zeros(len(spans), np.float32)
    q, after = np.array(read[0], np.float32), read[1]
    if outcome is not None:
        q[after[-1]] = outcome
    of_prover = best_of_k(q, prover_k)
    progress = advantages(of_prover[after], of_prover[after - 1])
    return (np.float32(alpha) * progress).astype(np.float32)


def _by_lines(
    verifier: Verifier, prompt: str, response: str, spans: np.ndarray
) -> _Cut:
    encoded = verifier.encode(prompt, response)
    if len(encoded.ends) != len(spans) + 1:
        raise UserError(
            f"the verifier's tokens end {len(encoded.ends) - 1} steps in a response of"
            f" {len(spans)} lines: {response[:80]!r}; give step_ends"
        )
    return encoded, np.arange(1, len(encoded.ends))


def _by_spans(
    verifier: Verifier, prompt: str, response: str, spans: np.ndarray
) -> _Cut:
    pieces, after, place = [], [], 0
    for start, stop in spans:
        if place < start:
            pieces.append(response[place:start])
        pieces.append(response[start:stop])
        after.append(len(pieces))
        place = stop
    prompt = plain_text(prompt).rstrip("\n") + "\n"
    tokens = encode_prompt(
        verifier.tokenizer, Problem(prompt, answer=""), max_tokens=verifier.max_tokens
    )
    ends = [len(tokens)]
    for number, piece in enumerate(pieces, start=1):
        # By itself, so that no token spans the end of a step.
        text = plain_text(piece).rstrip("\n")
        if number == len(pieces) and place == len(response):
            tokens += [*verifier.tokenizer.encode(text), verifier.tokenizer.eos_id]
        else:
            tokens += verifier.tokenizer.encode(text + "\n")
        ends.append(len(tokens))
    if len(tokens) > verifier.max_tokens:
        raise UserError(
            f"with its prompt it has {len(tokens)} tokens, more than the"
            f" {verifier.max_tokens} that the verifier was trained for"
        )
    return Encoded(tokens, np.array(ends, np.int32)), np.array(after)


def _whole(response: str, spans: Sequence[Span]) -> np.ndarray:
    """The spans, int32 `[H, 2]`, each with the blank text after it.

    Raises:
      UserError: they are not steps of the response.
    """
    if not len(spans):
        raise UserError("step_ends are empty; a response has at least one step")
    try:
        given = np.array([(int(start), int(stop)) for start, stop in spans])
    except (TypeError, ValueError):
        raise UserError(
            "step_ends are not a list of (start, end), in characters"
        ) from None
    last: Any = 0
    for number, (start, stop) in enumerate(given):
        if not last <= start <= stop <= len(response):
            raise UserError(
                f"step {number} of step_ends is ({start}, {stop}), which is not within"
                f" {last} and {len(response)}, the end of the one before and of the"
                " response"
            )
        if not response[start:stop].strip():
            raise UserError(f"step {number} of step_ends, ({start}, {stop}), is blank")
        last = stop
    if not response[: given[0, 0]].strip():
        given[0, 0] = 0
    for number, following in enumerate([*given[1:, 0], len(response)]):
        between = response[given[number, 1] : following]
        given[number, 1] += len(between) - len(between.lstrip())
    return given.astype(np.int32)
