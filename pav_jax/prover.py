"""The paper's formulas: provers, progress, effective reward, and Theorem 3.1's terms.

`Q^π` is the base policy's value and `Q^μ` the prover's. Everything that speaks of
progress calls these functions: search, RL, scoring, evaluation and the report. They
take NumPy or JAX arrays, and give back the same kind.

Theorem 3.1 bounds from below what a small natural-policy-gradient step by
`Q^π + αA^μ` gains, so that a prover can be chosen before a verifier is trained on it.
Its two terms are means over the states that π visits:

    distinguishability   E_s Var_{a~π}[A^μ(s, a)]
    alignment            E_s E_{a~π}[A^μ(s, a) A^π(s, a)]

Within a state, `A^μ` and `Q^μ` differ by a constant and `A^π` has mean zero, so
these are the variance of `Q^μ` and its covariance with `Q^π` over the actions.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.types import Response, StepLabels

Values = Any  # float array of NumPy or JAX


def best_of_k(q: Values, k: int) -> Values:
    """The value of the prover BoK(π), elementwise (Sec. 3).

    `Q^BoK(s, a) = 1 - (1 - Q^π(s, a))^K`: no new rollouts are needed.

    Args:
      q: `Q^π`, of any shape.
      k: how many responses of π the prover takes the best of; 1 is μ = π.
    """
    return 1.0 - (1.0 - q) ** k


def advantages(values: Values, previous: Values | None = None) -> Values:
    """Progress of each step, `A^μ(s_h, a_h) = Q^μ(s_h, a_h) - Q^μ(s_{h-1}, a_{h-1})`.

    Args:
      values: the prover's `Q^μ` of the prefixes of a response, the bare problem first,
        `[..., H + 1]`; or, with `previous`, after one step.
      previous: `Q^μ` before that step, of the same shape as `values`.

    Returns:
      `[..., H]`; with `previous`, the shape of `values`.
    """
    if previous is None:
        values, previous = values[..., 1:], values[..., :-1]
    return values - previous


def effective_reward(q: Values, advantage: Values, alpha: Any) -> Values:
    """`Q^π(s_h, a_h) + αA^μ(s_h, a_h)` (Eq. 5), elementwise.

    Args:
      q: `Q^π`, or in RL the outcome, which is an unbiased sample of it.
      advantage: `A^μ`, of the same shape.
      alpha: the weight of progress.
    """
    return q + alpha * advantage


@dataclasses.dataclass(frozen=True)
class Terms:
    """The two terms of Theorem 3.1 for one prover.

    Attributes:
      distinguishability: `E_s Var_{a~π}[A^μ]`.
      alignment: `E_s E_{a~π}[A^μ A^π]`.
    """

    distinguishability: float
    alignment: float


def failure_power(labels: StepLabels, power: int) -> np.ndarray:
    """Unbiased `(1 - Q)^power` of every prefix, float64 `[H + 1]`, from its counts.

    It is the fraction of subsets of `power` continuations in which none is correct,
    `C(n - k, power) / C(n, power)`; for a whole response, whose value is its outcome,
    `1 - Rex`.

    Raises:
      UserError: a prefix has fewer continuations than `power`.
    """
    wrong, count = labels.count - labels.correct, labels.count
    if np.any(count[:-1] < power):
        raise UserError(
            f"a step prefix has {counted(count[:-1].min(), 'continuation')}, but its"
            f" value to the power of {power} cannot be estimated without bias from"
            f" fewer than {power}; raise config.labels.n_mc, or take a smaller K"
        )
    tries = np.arange(power)
    inner = np.prod(
        np.maximum(wrong[:-1, None] - tries, 0) / (count[:-1, None] - tries), axis=1
    )
    return np.append(inner, wrong[-1] / count[-1])


def aligned_progress(
    labels: StepLabels, *, k: int, prover_labels: StepLabels | None = None
) -> np.ndarray:
    """Unbiased `A^μ A^π` of each step of one response of π, float64 `[H]`.

    Its mean over the steps that π takes is the alignment: the terms' `E_s E_{a~π}` is
    that of a step, and progress is a difference along one response, so that no second
    response has to pass through a state.

    Args:
      labels: counts of π's continuations of each prefix; at least K + 1 without
        `prover_labels`, else 1.
      k: the prover's K.
      prover_labels: counts of μ's continuations of the same prefixes, at least K, if μ
        is not BoK(π).

    Raises:
      UserError: a prefix has fewer continuations.
    """
    own = 1.0 - failure_power(labels, 1)
    theirs = 1.0 - failure_power(labels if prover_labels is None else prover_labels, k)
    if prover_labels is None:
        # Both come from the same continuations, so their product would be biased.
        both = own + theirs - 1.0 + failure_power(labels, k + 1)
    else:
        both = own * theirs
    # Neighbouring prefixes have continuations of their own.
    return both[1:] + both[:-1] - own[1:] * theirs[:-1] - own[:-1] * theirs[1:]


def squared_progress(labels: StepLabels, *, k: int) -> np.ndarray:
    """Unbiased `(A^μ)^2` of each step of one response, float64 `[H]`.

    Its mean over the steps that π takes is distinguishability and the mean of
    `(E_{a~π}[A^μ])^2` over states, so a bound of distinguishability from above. For
    μ = π, whose progress has mean zero in every state, it is distinguishability.

    Args:
      labels: counts of μ's continuations of each prefix, at least 2K, or of π's if the
        prover is BoK(π).
      k: the prover's K.

    Raises:
      UserError: a prefix has fewer continuations.
    """
    fail, square = (failure_power(labels, power) for power in (k, 2 * k))
    return square[1:] + square[:-1] - 2 * fail[1:] * fail[:-1]


def prover_terms(
    responses: Sequence[Response],
    labels: Sequence[StepLabels],
    *,
    k: int,
    prover_labels: Sequence[StepLabels] | None = None,
) -> Terms:
    """The terms for the prover BoK(π), or BoK(μ), without bias from counts.

    Plugging `Q_mc` into the terms would count the noise of the labels as progress.
    Here every square and product is estimated without bias, from powers of
    `1 - Q` and from pairs of different actions, whose labels are independent.

    The average is over the states that two or more of the responses pass through,
    weighted by how often they do. With few responses to a problem those are mostly
    early states, such as the bare problem.

    Args:
      responses: of π, several to each problem.
      labels: counts of π's continuations of each of their prefixes.
      k: the prover's K.
      prover_labels: counts of μ's continuations of the same prefixes, if μ is not π.

    Raises:
      UserError: no state has two responses, or a prefix has fewer than 2K
        continuations.
    """
    states = _states(responses, labels, prover_labels or labels, k)
    visits, variances, covariances = [], [], []
    for actions in states.values():
        times = np.array([times for times, _ in actions.values()], float)
        if times.sum() < 2:
            continue
        prover, square, own, cross = np.stack([e for _, e in actions.values()], 1)
        visits.append(times.sum())
        variances.append(_covariance(times, prover, prover, square))
        covariances.append(_covariance(times, prover, own, cross))
    if not visits:
        raise UserError(
            "no two labelled responses share a state, so how steps from one state"
            " differ cannot be measured; raise config.rollouts.n_cov to 2 or more"
        )
    return Terms(
        float(np.average(variances, weights=visits)),
        float(np.average(covariances, weights=visits)),
    )


def _states(
    responses: Sequence[Response],
    labels: Sequence[StepLabels],
    prover_labels: Sequence[StepLabels],
    k: int,
) -> dict[tuple, dict[tuple, list]]:
    """state -> action -> [how often it was taken, estimates of its values].

    The estimates are float64 `[4]`: `Q^μ`, its square, `Q^π`, and the product of
    `Q^μ` and `Q^π`, each without bias.
    """
    states: dict[tuple, dict[tuple, list]] = {}
    for response, own, other in zip(responses, labels, prover_labels, strict=True):
        own_q = 1.0 - failure_power(own, 1)
        fail_k, fail_2k = failure_power(other, k), failure_power(other, 2 * k)
        prover = 1.0 - fail_k
        square = 1.0 - 2.0 * fail_k + fail_2k
        # Both come from the same continuations, so their product would be biased.
        if other is own:
            cross = own_q - fail_k + failure_power(own, k + 1)
        else:
            cross = prover * own_q
        estimates = np.stack([prover, square, own_q, cross], axis=1)
        for step in range(1, len(own.ends)):
            start, stop = own.ends[step - 1], own.ends[step]
            state = (response.problem, response.prompt, response.tokens[:start])
            actions = states.setdefault(state, {})
            action = response.tokens[start:stop]
            actions.setdefault(action, [0, estimates[step]])[0] += 1
    return states


def _covariance(
    times: np.ndarray, left: np.ndarray, right: np.ndarray, product: np.ndarray
) -> float:
    """Unbiased covariance over the actions of one state.

    Args:
      times: how often each action was taken, `[A]`, in all at least twice.
      left: unbiased values of each action, `[A]`.
      right: the same of the other quantity.
      product: unbiased values of the product of the two, `[A]`.
    """
    total = times.sum()
    # Ordered pairs of different responses. Two with the same action share its
    # labels, and so take the estimate of the product and not a product of estimates.
    different = np.sum(times * left) * np.sum(times * right) - np.sum(
        times**2 * left * right
    )
    same = np.sum(times * (times - 1.0) * product)
    pairs = (different + same) / (total * (total - 1.0))
    return float(np.sum(times * product) / total - pairs)
