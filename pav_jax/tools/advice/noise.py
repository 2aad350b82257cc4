"""How much of what the labels say is chance, and would be with another `n_mc`."""

import dataclasses
import functools
import operator

import numpy as np

from pav_jax.core.types import StepLabels
from pav_jax.tools.advice.estimates import Estimate, divide, ratio_of
from pav_jax.tools.advice.labelled import Labelled


@dataclasses.dataclass(frozen=True)
class Split:
    """Another way to spend the tokens of the labels, and no more of them.

    Attributes:
      n_mc: continuations of a prefix.
      responses: labelled responses that the tokens pay for, as a multiple of those
        there are.
      reliability: the share of the variance of its `Q_mc` that is not noise.
      worth: these labels, as a multiple of those there are, if no two prefixes are
        alike: responses times reliability. None if nothing there is reliable.
      alike: the same if further responses to a problem say nothing new: reliability
        alone. None if there would be fewer problems, or nothing is reliable.
    """

    n_mc: int
    responses: float
    reliability: Estimate
    worth: Estimate | None
    alike: Estimate | None


@dataclasses.dataclass(frozen=True)
class Noise:
    """How much of what the labels say is chance.

    Attributes:
      values: the share of the variance of `Q_mc` over prefixes that is binomial noise.
      progress: the same of the mean square of `Q_mc` after a step less before it; None
        if no step changes it.
      splits: by `n_mc`, the powers of two up to four times the present one, and it.
    """

    values: Estimate
    progress: Estimate | None
    splits: tuple[Split, ...]


def noise(labelled: Labelled) -> Noise | None:
    """The noise of the labels, without bias from counts.

    A mean of n continuations, k of them correct, has variance `Q(1 - Q) / n`, of which
    `k(n - k) / (n^2 (n - 1))` is an unbiased estimate. With n' continuations the
    reliability is `V / (V + E[Q(1 - Q)] / n')`, where V is the variance of Q.

    Returns:
      None if all labels are equal, or a prefix has one continuation only, whose outcome
      does not say what is noise.
    """
    n_mc = labelled.n_mc
    if n_mc < 2:
        return None
    sums = np.stack(
        [
            sum(_noise_sums(labelled.labels[i]) for i in places)
            for places in labelled.by_problem()
        ]
    )

    def variance(t):
        return t[2] / t[0] - (t[1] / t[0]) ** 2

    values = ratio_of(sums, lambda t: _share(t[3] / t[0], variance(t)))
    progress = ratio_of(sums, lambda t: _share(t[6], t[5]))
    if values is None:
        return None
    tokens, found = _Tokens.of(labelled), []
    ns = {2**i for i in range(64) if 2**i <= 4 * n_mc} | {n_mc}
    for n in sorted(ns):
        responses = tokens.of_response(n_mc) / tokens.of_response(n)

        def reliability(t, n=n):
            true = np.maximum(variance(t) - t[3] / t[0], 0.0)
            return divide(true, true + t[4] / t[0] / n)

        def against_now(t, n=n):
            return divide(reliability(t, n), reliability(t, n_mc))

        gain = ratio_of(sums, against_now)
        times = functools.partial(operator.mul, responses)
        found.append(
            Split(
                n,
                responses,
                ratio_of(sums, reliability),
                None if gain is None else gain.through(times),
                gain if responses * labelled.n_cov >= 1 else None,
            )
        )
    return Noise(values, progress, tuple(found))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.clip(divide(part, whole), 0.0, 1.0)


def _noise_sums(labels: StepLabels) -> np.ndarray:
    """Sums over the prefixes of a response, `[7]`: 1, Q, Q squared, noise, `Q(1 - Q)`;
    over its steps: squares of differences of Q, and their noise."""
    k, n = labels.correct[:-1].astype(float), labels.count[:-1].astype(float)
    q = k / n
    spread = k * (n - k) / (n * (n - 1))
    own = np.append(spread / n, 0.0)  # the last value is the outcome, which is exact
    steps = np.diff(np.append(q, labels.correct[-1] / labels.count[-1]))
    return np.array(
        [len(q), q.sum(), (q**2).sum(), own.sum(), spread.sum()]
        + [(steps**2).sum(), (own[1:] + own[:-1]).sum()]
    )


@dataclasses.dataclass(frozen=True)
class _Tokens:
    """What labels cost: tokens decoded and prefilled, of all of them.

    Attributes:
      fixed: of the responses, and of reading them before they are continued.
      of_continuations: with one continuation of each prefix. The rest of a response is
        itself one, so it is as long as others are in the mean.
      responses: how many.
    """

    fixed: float
    of_continuations: float
    responses: int

    @classmethod
    def of(cls, labelled: Labelled) -> "_Tokens":
        """Of a run; what several responses begin with is read and continued once."""
        fixed = rest = 0
        for places in labelled.by_problem():
            fixed += len(labelled.responses[places[0]].prompt)
            seen = set()
            for i in places:
                response, ends = labelled.responses[i], labelled.labels[i].ends[:-1]
                fixed += len(response.tokens)
                new = [e for e in ends.tolist() if response.tokens[:e] not in seen]
                seen.update(response.tokens[:end] for end in new)
                rest += sum(len(response.tokens) - end for end in new)
                if new:
                    fixed += len(response.prompt) + new[-1]
        return cls(fixed, rest, len(labelled.responses))

    def of_response(self, n_mc: int) -> float:
        """Of one labelled response in the mean."""
        return (self.fixed + n_mc * self.of_continuations) / self.responses
