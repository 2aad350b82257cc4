"""App. G: is `Q^π + αQ^μ` as reward-to-go the bad baseline that it is said to be?

    launch/sweep.py --config=experiments/paper/appg_reward_to_go.py \\
        --root=runs/paper/appg_reward_to_go

The runs of `evidence/provers.py`, whose head has the hypotheses (H8); nothing is run
again where these are finished. 20 minutes for each of five seeds on two CPU cores.

The paper: with `Q^μ` in the place of its progress the policy learns to say the problem
again and to stop, and does not improve.

The claims below are turned so that "holds" is what the paper says: progress is better.
"""

from evidence import provers
from evidence.provers import get_config, sweep  # noqa: F401

from pav_jax.tools.verdicts import Claim


def measures(results: dict) -> dict[str, float]:
    """Of progress against reward-to-go, both of the same prover."""
    found = provers.measures(results)
    first = {
        name: found[f"RL: iterations to 80%, {name}"] for name in ("pav_mu", "to_go")
    }
    out = {
        f"{name}, iteration = {step}": 100 * accuracy
        for name in ("orm_rl", "pav_mu", "to_go")
        for curve in [results["improvement"]["curves"][name]]
        for step, accuracy in zip(
            curve["step"], curve["sampled"]["seeds"][0], strict=True
        )
    }
    out["times fewer iterations to 80% by progress"] = first["to_go"] / first["pav_mu"]
    ours, theirs = (found[f"RL: at the end, {name}"] for name in ("pav_mu", "to_go"))
    out["at the end, progress over reward-to-go"] = ours - theirs
    ours, theirs = (
        found[f"RL: tokens of a response at the end, {name}"]
        for name in ("pav_mu", "to_go")
    )
    out["tokens of a response, reward-to-go over progress"] = theirs - ours
    return out


def claims() -> list[Claim]:
    return [
        Claim(
            "progress needs fewer iterations to 80% than its value as reward-to-go",
            "the latter never improves",
            "times fewer iterations to 80% by progress",
            least=2.0,
            nothing=1.0,
        ),
        Claim(
            "progress ends higher, in points",
            "the latter never improves",
            "at the end, progress over reward-to-go",
            least=10.0,
        ),
        Claim(
            "responses by reward-to-go are longer, in tokens",
            "they say the problem again",
            "tokens of a response, reward-to-go over progress",
            least=5.0,
        ),
    ]
