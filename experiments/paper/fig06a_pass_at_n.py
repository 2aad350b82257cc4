"""Fig. 6a: does a beam by progress hold more right responses than i.i.d. samples?

    launch/sweep.py --config=experiments/paper/fig06a_pass_at_n.py \\
        --root=runs/paper/fig06a_pass_at_n

The runs of `evidence/beams.py`: nothing is run again where these are finished. A
quarter of an hour for each of five seeds on two CPU cores.

The paper: Pass@N of the final beam by `Q^π + αA^μ` is higher than that by `Q^π`, and
than that of N i.i.d. samples.

Written before these measures were taken (2026-11-27), and after Pass@16 of beams was
known to be near 96% and that of samples 85%. Expected: above samples at every N; not
above beams by `Q^π` by more than its interval. At equal N a beam costs three times the
tokens, so the same is measured against samples of as many tokens (interpolated in
log N; at most 32 samples).
"""

from evidence.beams import get_config, sweep  # noqa: F401

from pav_jax.metrics import interpolate_log
from pav_jax.tools.verdicts import Claim


def measures(results: dict) -> dict[str, float]:
    """Pass@N and its differences in points."""
    rows = {(row["method"], row["n"]): row for row in results["search"]}
    held = {
        (row["method"], row["n"]): 100 * row["accuracy"]
        for row in results["picks"]
        if row["pick"] == "any"
    }
    beams = [n for n in results["config"]["search.beams"] if n > 1]
    out, over_q, over_samples, equal_tokens = {}, [], [], []
    ns = results["config"]["search.ns"]
    samples = {n: 100 * rows["pass_at_n", n]["accuracy"] for n in ns}
    tokens = [rows["pass_at_n", n]["tokens"] for n in ns]
    for n in beams:
        for method in ("beam_q", "beam_pav"):
            out[f"Pass@N of {method}, N = {n}"] = held[method, n]
        over_q.append(held["beam_pav", n] - held["beam_q", n])
        over_samples.append(held["beam_pav", n] - samples[n])
        paid = rows["beam_pav", n]
        paid = paid["decoded"] + paid["prefilled"]  # what picks among them is not paid
        if tokens[0] <= paid <= tokens[-1]:
            same = interpolate_log(paid, tokens, list(samples.values()))
            equal_tokens.append(held["beam_pav", n] - same)
    out |= {f"Pass@N of samples, N = {n}": value for n, value in samples.items()}
    out["beams by progress over beams by Q^π"] = sum(over_q) / len(beams)
    out["beams by progress over samples, equal N"] = sum(over_samples) / len(beams)
    if equal_tokens:
        mean = sum(equal_tokens) / len(equal_tokens)
        out["beams by progress over samples, equal tokens decoded"] = mean
    return out


def claims() -> list[Claim]:
    return [
        Claim(
            "Pass@N of beams by progress over that of samples, mean of N = 2 to 16",
            "higher at every N",
            "beams by progress over samples, equal N",
            least=1.0,
        ),
        Claim(
            "the same at equal tokens decoded and prefilled",
            "(not asked there)",
            "beams by progress over samples, equal tokens decoded",
            least=1.0,
        ),
        Claim(
            "Pass@N of beams by progress over that of beams by `Q^π`",
            "higher at every N",
            "beams by progress over beams by Q^π",
            least=1.0,
        ),
    ]
