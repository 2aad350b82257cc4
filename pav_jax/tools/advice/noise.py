"""How much of what the labels say is chance, and would be with another `n_mc`."""

import dataclasses

import numpy as np

from pav_jax.core.types import StepLabels
from pav_jax.tools.advice.estimates import Estimate, divide, ratio_of
from pav_jax.tools.advice.labelled import Labelled


@dataclasses.dataclass(frozen=True)
class Split:
    """Another way to spend the tokens of the labels.

    Attributes:
      n_mc: continuations of a prefix.
      responses: labelled responses, as a multiple of those there are.
      tokens: that it costs, likewise.
      reliability: the share of the variance of its `Q_mc` that is not noise.
    """

    n_mc: int
    responses: float
    tokens: float
    reliability: Estimate


@dataclasses.dataclass(frozen=True)
class Noise:
    """How much of what the labels say is chance.

    Attributes:
      values: the share of the variance of `Q_mc` over prefixes that is binomial noise.
      progress: the same of the mean square of `Q_mc` after a step less before it; None
        if no step changes it.
      splits: the present one first; then `n_mc` halved and doubled.
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
    splits = []
    for n in (n_mc, n_mc // 2, 2 * n_mc):
        if n:

            def reliability(t, n=n):
                true = np.maximum(variance(t) - t[3] / t[0], 0.0)
                return divide(true, true + t[4] / t[0] / n)

            tokens = _response_tokens(labelled, n) / _response_tokens(labelled, n_mc)
            found = ratio_of(sums, reliability)
            splits.append(Split(n, n_mc / n, n_mc / n * tokens, found))
    return Noise(values, progress, tuple(splits))


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


def _response_tokens(labelled: Labelled, n_mc: int) -> float:
    """Tokens decoded for one labelled response, itself included, in the mean.

    The rest of a response is itself a continuation of each of its prefixes, so it is
    as long as others are in the mean.
    """
    return float(
        np.mean(
            [
                len(r.tokens) + n_mc * np.sum(len(r.tokens) - x.ends[:-1])
                for r, x in zip(labelled.responses, labelled.labels, strict=True)
            ]
        )
    )
