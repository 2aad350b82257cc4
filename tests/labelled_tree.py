"""Labels of a small tree whose values are known, for tests of `pav advise`."""

import numpy as np

from pav_jax.core.types import Response, StepLabels
from pav_jax.tools.advice.labelled import Labelled

# One step with three actions from one state; then the response ends.
POLICY, VALUES = np.array([0.5, 0.2, 0.3]), np.array([0.02, 0.1, 0.3])


def counts_of(correct, count):
    ends = np.arange(len(correct))
    return StepLabels(*(np.array(x, np.int32) for x in (ends, correct, count)))


def tree(problems, n_cov, n_mc, *, values=VALUES, other=None, n_other=0, seed=0):
    """Labels drawn with these values; `other` has those of a prover named mu."""
    rng = np.random.default_rng(seed)
    root = POLICY @ values
    responses, labels, others = [], [], []
    for problem in range(problems):
        first = rng.binomial(n_mc, root)
        after = rng.binomial(n_mc, values)
        if other is not None:
            first_other = rng.binomial(n_other, POLICY @ other)
            after_other = rng.binomial(n_other, other)
        for action in rng.choice(3, size=n_cov, p=POLICY):
            right = bool(rng.random() < values[action])
            tokens = (int(action), 9)
            responses.append(Response(problem, (1, 2), tokens, (0.0, 0.0), right))
            labels.append(counts_of([first, after[action], right], [n_mc, n_mc, 1]))
            if other is not None:
                mine = [first_other, after_other[action], right]
                others.append(counts_of(mine, [n_other, n_other, 1]))
    mu = {"mu": others} if other is not None else {}
    return Labelled(responses, labels, responses, mu)


def near(found, truth, errors=3.5):
    """Within standard errors of the truth, which are not so wide as to say nothing."""
    half = np.ptp(found.interval) / 2
    assert half < 0.35 * abs(truth) + 1e-9
    assert abs(found.value - truth) < errors * half / 1.96
    return True


def _row(method, n, tokens, name, value, interval):
    return {"method": method, "n": n, "tokens": tokens, name: value, "ci": interval}


# Of results.json, what `pav advise` reads.
RESULTS = {
    "problems": 40,
    "search": [
        _row("beam_pav", 1, 100, "accuracy", 0.4, [0.3, 0.5]),
        _row("beam_pav", 4, 400, "accuracy", 0.6, [0.5, 0.7]),
        _row("vote_orm", 1, 50, "accuracy", 0.1, [0.0, 0.2]),
        _row("best_of_n_orm", 1, 50, "accuracy", 0.0, [0.0, 0.0]),
        _row("best_of_n_orm", 8, 800, "accuracy", 0.5, [0.4, 0.6]),
    ],
    "compute_efficiency": {
        "reference_methods": {"1": "vote_orm", "8": "best_of_n_orm"},
        "by_point": [
            _row("beam_pav", 1, 100, "points", 0.2, [0.1, 0.3]),
            _row("beam_pav", 4, 400, "points", 0.2, [0.0, 0.4]),
        ],
    },
}
