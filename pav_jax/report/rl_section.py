"""The RL section of the report: how far each method improves the policy."""

from typing import Any

from pav_jax.core.counts import counted
from pav_jax.report import figures, methods, parts, text

Results = dict[str, Any]

_EFFECTIVE = text.markup("Q^π + αA^μ")


def section(results: Results) -> str:
    """Accuracy against iterations and tokens, Pass@N, and the numbers at the end."""
    improvement = results.get("improvement") or {}
    policies, curves = (
        improvement.get("policies") or {},
        improvement.get("curves") or {},
    )
    runs = counted(len(improvement.get("seeds") or []), "RL seed")
    keys = [*policies, *(key for key in curves if key not in policies)]
    passed = parts.figure(
        figures.policies_by_n(policies),
        f"<b>Pass@N</b> of the last policies on {_problems(improvement, 'problems')}, "
        f"means over {runs}. {_intervals(improvement, 'none')}",
        parts.legend(keys),
    )
    grid = _learning(improvement, keys, runs) + passed
    return parts.section(
        "improvement",
        "RL with process rewards",
        f"All runs start from the same RFT policy and {_verifiers(improvement)}: seeds "
        "differ in RL alone. Methods of one seed have the same problems and the same "
        f"random streams. PAV-RL is rewarded with {_EFFECTIVE} at every step, "
        "ORM-RL with outcomes alone.",
        f'<div class="grid">{grid}</div>' if grid else "",
        _table(improvement, policies),
        _unsolved(improvement.get("unsolved") or {}),
    )


def _problems(improvement: Results, key: str) -> str:
    """How many problems an entry is of: "320 test problems"."""
    split = (improvement.get("config") or {}).get("measured") or "test"
    return text.problems(improvement.get(key), split)


def _verifiers(improvement: Results) -> str:
    """What verifiers the runs start from: one, but for methods with another prover."""
    settings = (improvement.get("config") or {}).get("methods") or {}
    provers = {key: of["prover"] for key, of in settings.items() if of.get("prover")}
    named = [
        f"{text.markup(method.label)} (that of prover"
        f" {text.escape(provers[method.key])})"
        for method in methods.ordered(provers)
    ]
    return "the same verifier" + (f", but for {', '.join(named)}" if named else "")


def _intervals(improvement: Results, single: str) -> str:
    """What the intervals of this section are.

    Args:
      improvement: the results of RL.
      single: what SFT and RFT have.
    """
    if len(improvement.get("seeds") or []) < 2:
        return "There is no interval: one seed does not say how seeds differ."
    return (
        "Intervals are 95% t-intervals over these seeds; they say nothing of another "
        f"SFT policy or verifier. SFT and RFT, one policy each, have {single}."
    )


def _learning(improvement: Results, keys: list[str], runs: str) -> str:
    """Accuracy against iterations, and against sampled tokens."""
    policies, curves = (
        improvement.get("policies") or {},
        improvement.get("curves") or {},
    )
    legend = parts.legend(keys, levels=[key for key in policies if key not in curves])
    problems = _problems(improvement, "curve_problems")
    by_step = parts.figure(
        figures.learning(curves, policies, "step"),
        "<b>Accuracy against iterations</b>, of sampled responses to "
        f"{problems}; means over {runs}, bands from the lowest to the highest.",
        legend,
        parts.claims(_claims(improvement)),
    )
    by_tokens = parts.figure(
        figures.learning(curves, policies, "tokens"),
        "<b>Accuracy against the tokens sampled</b> for training. The tokens that the "
        "verifier scored, and those it was trained on, are in the ledger.",
        legend,
    )
    return by_step + by_tokens


def _table(improvement: Results, policies: Results) -> str:
    """Accuracies of the last policies, and how they compare with the reference."""
    against = improvement.get("against") or {}
    rows = []
    for method in methods.ordered(policies):
        policy = policies[method.key]
        row = (against.get("methods") or {}).get(method.key) or {}
        gain = text.points(row.get("gain"))
        within = text.points_interval(row.get("seed_interval"))
        rows.append(
            (
                text.markup(method.label),
                text.percent((policy.get("sampled") or {}).get("accuracy")),
                text.percent((policy.get("greedy") or {}).get("accuracy")),
                f"{gain} ({within})" if within else gain,
                text.ratio(row.get("sooner")),
                text.ratio(row.get("cheaper")),
                text.count(policy.get("length")),
            )
        )
    reference = (
        methods.ordered([against["reference"]]) if "reference" in against else []
    )
    name = text.markup(reference[0].label) if reference else "the reference"
    return parts.table(
        [
            "Policy",
            "Sampled",
            "Greedy",
            f"Points over {name}",
            "Iterations: fewer",
            "Tokens: fewer",
            "Response tokens",
        ],
        rows,
        "The last policies. Fewer iterations and tokens: how many times fewer than "
        f"{name} the means over seeds take to come to its final accuracy for the first "
        "time. A dash: not reached, there before RL, or not trained by RL. Points are "
        "differences within a seed. " + _intervals(improvement, f"those of {name}"),
    )


def _unsolved(unsolved: Results) -> str:
    """Best-of-N and beams by each policy on the problems that are hard for SFT."""
    best, beam = unsolved.get("best_of") or {}, unsolved.get("beam") or {}
    if not best:
        return ""
    ns, sizes = list(next(iter(best.values()))), list(next(iter(beam.values()), {}))
    head = [
        "Policy",
        *(f"Best of {text.escape(n)} by PAV" for n in ns),
        *(f"Beam of {text.escape(n)} by {text.markup('Q^π')}" for n in sizes),
    ]
    rows = [
        (
            text.markup(method.label),
            *(text.percent(best[method.key].get(n)) for n in ns),
            *(text.percent((beam.get(method.key) or {}).get(n)) for n in sizes),
        )
        for method in methods.ordered(best)
    ]
    return parts.details(
        f"{counted(unsolved.get('problems') or 0, 'problem')} without a correct sample "
        "of the SFT policy",
        parts.table(head, rows, _choice(unsolved.get("samples"))),
        _tokens(unsolved, sizes),
    )


def _tokens(unsolved: Results, sizes: list[str]) -> str:
    """What best-of-N and beams cost; nothing without beams to compare with.

    Args:
      unsolved: as of `_unsolved`.
      sizes: N of the beams.
    """
    both = [unsolved.get(f"{key}_tokens") or {} for key in ("best_of", "beam")]
    names = [f"{way} of {text.escape(n)}" for n in sizes for way in ("Best", "Beam")]
    rows = [
        (
            text.markup(method.label),
            *(
                text.count(_sum((of.get(method.key) or {}).get(n)))
                for n in sizes
                for of in both
            ),
        )
        for method in methods.ordered(both[1] if sizes else ())
    ]
    return parts.table(
        ["Policy", *names],
        rows,
        "Tokens that a problem costs: decoded, prefilled, and read by the verifier. "
        "Candidates that a beam drops are among them.",
    )


def _sum(tokens: Results | None) -> float | None:
    """All tokens of a problem; None if they are not known."""
    counts = list((tokens or {}).values())
    return None if None in counts or not counts else sum(counts)


def _choice(samples: int | None) -> str:
    """What chose these problems; earlier versions chose by those measured."""
    if not samples:
        return ""
    return (
        f"Chosen by {counted(samples, 'sample')} of the SFT policy for each problem. "
        "Every policy is measured on others, so SFT may solve some of them too."
    )


def _claims(improvement: Results) -> list[tuple[str, str]]:
    """The paper's claims for PAV-RL against ORM-RL, if this run has both."""
    against = improvement.get("against") or {}
    row = (against.get("methods") or {}).get("pav_rl")
    if against.get("reference") != "orm_rl" or not row:
        return []
    sooner = row.get("sooner")
    within = text.points_interval(row.get("seed_interval"))
    return [
        (
            "PAV-RL ends 7 points above ORM-RL.",
            f"{text.points(row.get('gain'))} points"
            + (f" ({within})." if within else "."),
        ),
        (
            "PAV-RL reaches ORM-RL's final accuracy in 6× (2B) or 5× (9B) fewer "
            "iterations.",
            f"In {text.fewer(sooner)} iterations, by the means over seeds."
            if sooner
            else "Does not reach it, or starts with it.",
        ),
    ]
