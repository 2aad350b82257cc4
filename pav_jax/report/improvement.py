"""The RL section of the report: what each method makes of the base policy."""

from typing import Any

from pav_jax.report import figures, methods, parts, text

Results = dict[str, Any]

_EFFECTIVE = text.markup("Q^π + αA^μ")


def section(results: Results) -> str:
    """Accuracy against iterations and tokens, Pass@N, and the numbers at the end."""
    found = results.get("improvement") or {}
    policies, curves = found.get("policies") or {}, found.get("curves") or {}
    over, curves_over = (
        f"{text.count(found.get(key))} test problems"
        for key in ("problems", "curve_problems")
    )
    seeds = len(found.get("seeds") or [])
    runs = f"{seeds} seed" + ("s" if seeds != 1 else "")
    keys = [*policies, *(key for key in curves if key not in policies)]
    level = [key for key in policies if key not in curves]
    legend = parts.legend(keys, levels=level)
    drawn = "".join(
        parts.figure(figures.learning(curves, policies, x), caption, legend, said)
        for x, caption, said in (
            (
                "step",
                "<b>Accuracy against iterations</b> of one sampled response to each of "
                f"{curves_over}; means over {runs}, bands from the least to the most.",
                parts.claims(_claims(found)),
            ),
            (
                "tokens",
                "<b>Accuracy against the tokens sampled</b> to train on. What the "
                "verifier read is in the ledger, and what it cost to train it.",
                "",
            ),
        )
    )
    passed = parts.figure(
        figures.policies_by_n(policies),
        f"<b>Pass@N</b> of the last policies, means over {runs}; bands are 95% "
        f"intervals over {over}.",
        parts.legend(keys),
    )
    grid = drawn + passed
    return parts.section(
        "improvement",
        "RL with process rewards",
        f"From the same RFT policy, with the same problems and draws: what rewards "
        f"of {_EFFECTIVE} at every step (PAV-RL) make of it, and what outcomes alone "
        "do. The verifier stays fixed.",
        f'<div class="grid">{grid}</div>' if grid else "",
        _table(found, policies),
        _unsolved(found.get("unsolved") or {}),
    )


def _table(found: Results, policies: Results) -> str:
    against = found.get("against") or {}
    rows = []
    for method in methods.ordered(policies):
        policy = policies[method.key]
        row = (against.get("methods") or {}).get(method.key) or {}
        gain = text.points(row.get("gain"))
        within = text.points_interval(row.get("ci"))
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
        "The last policies. Fewer iterations and tokens are to the accuracy that "
        f"{name} ends at; a dash is not reached.",
    )


def _unsolved(unsolved: Results) -> str:
    best = unsolved.get("best_of") or {}
    if not best:
        return ""
    ns = list(next(iter(best.values())))
    return parts.details(
        f"The {text.count(unsolved.get('problems'))} problems that no sample of the "
        "SFT policy solves",
        parts.table(
            ["Policy", *(f"Best of {text.escape(n)} by PAV" for n in ns)],
            [
                (
                    text.markup(method.label),
                    *(text.percent(best[method.key].get(n)) for n in ns),
                )
                for method in methods.ordered(best)
            ],
        ),
    )


def _claims(found: Results) -> list[tuple[str, str]]:
    """The paper's claims for PAV-RL against ORM-RL, where this run has both."""
    against = found.get("against") or {}
    row = (against.get("methods") or {}).get("pav_rl")
    if against.get("reference") != "orm_rl" or not row:
        return []
    sooner = row.get("sooner")
    within = text.points_interval(row.get("ci"))
    return [
        (
            "PAV-RL ends 7 points above ORM-RL.",
            f"{text.points(row.get('gain'))} points"
            + (f" ({within})." if within else "."),
        ),
        (
            "PAV-RL has ORM-RL's final accuracy 6× (2B) or 5× (9B) sooner.",
            f"In {text.fewer(sooner)} iterations."
            if sooner
            else "Does not reach it, or has it from the start.",
        ),
    ]
