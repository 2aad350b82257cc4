"""The sections of the report, each a function from the results to HTML.

A section whose numbers are missing is an empty string, and so is left out.
"""

from typing import Any

from pav_jax.report import claims, figures, methods, parts, tables, text

Results = dict[str, Any]

_Q, _EFFECTIVE = text.markup("Q^π"), text.markup("Q^π + αA^μ")
_PROVER_LEAD = text.markup(
    "Progress A^μ is measured under a prover μ, and any policy can be one. A good one "
    "tells the base policy's steps apart and agrees with it on which are better; both "
    "can be computed from labelled steps before a verifier is trained."
)


def search(results: Results) -> str:
    """Accuracy against N and tokens, Pass@N, and the choice of α."""
    rows = results.get("search") or []
    efficiency = results.get("compute_efficiency") or {}
    alpha = results.get("alpha") or {}
    base = results.get("base") or {}
    bands = f"Bands are 95% intervals over {_problems(results)}."
    plain = [row["method"] for row in rows if not methods.is_oracle(row["method"])]
    by_n = parts.figure(
        figures.accuracy_vs_n(rows),
        "<b>Accuracy against N</b>, the number of sampled responses (best-of-N, "
        f"voting) or of beams (beam search). {bands}",
        parts.legend(plain, levels=["greedy"]),
        parts.claims(claims.equal_n(rows)),
    )
    by_tokens = parts.figure(
        figures.accuracy_vs_tokens(rows, efficiency),
        "<b>Accuracy against compute</b>: all tokens a problem costs, decoded, "
        "prefilled and scored, with the candidates that were pruned. The arrow below "
        f"leads from best-of-N's best point to where beam search by {_EFFECTIVE} "
        f"equals it. {bands}",
        parts.legend(plain),
        parts.claims(claims.token(results)),
    )
    selecting = [
        row["method"]
        for row in rows
        if row["method"] in ("majority", "best_of_n_orm", "best_of_n_pav")
    ]
    oracle = [row["method"] for row in rows if methods.is_oracle(row["method"])]
    passed = parts.figure(
        figures.pass_at_n(rows, base),
        "<b>Pass@N</b>: how often at least one of N independent samples is right, "
        "and what each way of picking one of them finds. The gap is what a better "
        f"verifier could still win. {bands}",
        parts.legend((oracle or ["pass_at_n"]) + selecting),
    )
    on = alpha.get("problems")
    where = f"{text.count(on)} validation problems" if on else "validation problems"
    weights = parts.figure(
        figures.alpha(alpha.get("grid") or [], alpha.get("chosen")),
        f"<b>The weight of progress.</b> Accuracy of beam search by {_EFFECTIVE} for "
        f"each α, on {where}; the ring is the α chosen, the dotted line α = 0, which "
        "is Q alone. Bands are 95% intervals over these problems.",
        parts.legend(["beam_pav"]),
        parts.claims(claims.alpha(alpha)),
    )
    grid = "".join((by_n, by_tokens, passed, weights))
    return parts.section(
        "search",
        "Search",
        "Every method gets the same base policy and the same problems. What differs "
        "is what scores the candidates, and when: whole responses at the end, or "
        "steps on the way.",
        f'<div class="grid">{grid}</div>' if grid else "",
        parts.details(
            "The numbers behind these figures",
            tables.search(rows),
            tables.efficiency(efficiency),
            tables.alpha(alpha),
            tables.base(base),
        ),
    )


def verifier(results: Results) -> str:
    """AUC by step and calibration."""
    found = results.get("verifier") or {}
    auc = found.get("auc_within_problem") or {}
    bins = found.get("calibration") or []
    on = _problems({"problems": found.get("problems")})
    has_orm = (found.get("orm") or {}).get("auc_last") is not None
    keys = ["best_of_n_pav"] + ["best_of_n_orm"] * has_orm
    outcome = " The dashed line is the outcome verifier on whole responses."
    ranks = parts.figure(
        figures.auc_by_step(found),
        "<b>Telling right from wrong, step by step.</b> The chance that, of two "
        "responses to the same problem, the one that ends right has the higher score "
        f"after this step; mean over {on}.{outcome if has_orm else ''}",
        _verifiers_legend(keys),
    )
    calibrated = parts.figure(
        figures.calibration(bins),
        "<b>Calibration.</b> Mean predicted Q in each bin against the mean Monte "
        "Carlo Q of the same steps. The area of a dot, and the bar below it, is the "
        f"number of steps; from {on}.{_calibration_words(found)}",
        _verifiers_legend(["best_of_n_pav"]),
    )
    rows = [
        ("AUC within a problem, last step", text.decimal(auc.get("last"), 3)),
        ("AUC within a problem, middle step", text.decimal(auc.get("middle"), 3)),
        ("AUC for an error so far", text.decimal(auc.get("error_so_far"), 3)),
        ("Brier score", text.decimal(found.get("brier"), 4)),
        (
            "Outcome verifier: AUC, last step",
            text.decimal((found.get("orm") or {}).get("auc_last"), 3),
        ),
    ]
    rows += [
        (text.escape(label), text.decimal(value, 3))
        for label, value in (found.get("oracle") or {}).items()
    ]
    rows = [row for row in rows if row[1] != text.MISSING]
    grid = ranks + calibrated
    return parts.section(
        "verifier",
        "Verifier",
        f"The process verifier predicts Q at each step. Search by {_Q} needs it right "
        "on the way, not only at the end.",
        f'<div class="grid">{grid}</div>' if grid else "",
        parts.table(["Measure", "Value"], rows),
        parts.details(
            "The numbers behind these figures",
            parts.table(
                ["Step", "AUC within a problem"],
                [
                    (str(step), text.decimal(value, 3))
                    for step, value in enumerate(auc.get("by_step") or [], 1)
                ],
            ),
            parts.table(
                ["Predicted", "Observed", "Steps"],
                [
                    (
                        text.decimal(row.get("predicted"), 3),
                        text.decimal(row.get("observed"), 3),
                        text.count(row.get("count")),
                    )
                    for row in bins
                ],
            ),
        ),
    )


def prover(results: Results) -> str:
    """The terms of Theorem 3.1 for each prover."""
    theory = results.get("theory") or {}
    rows = theory.get("provers") or []
    terms = [
        (row["prover"], row.get("distinguishability"), row.get("alignment"))
        for row in rows
    ]
    sums = {
        name: apart + aligned
        for name, apart, aligned in terms
        if apart is not None and aligned is not None
    }
    digits = text.digits_for(
        value for _, *pair in terms for value in pair if value is not None
    )
    pairs = []
    if sums:
        best = max(sums, key=sums.__getitem__)
        pairs.append(
            (
                "Bo4 is the best prover of K = 2 to 32 in search; Bo2 and Bo32 are "
                "worse.",
                f"{text.escape(best)} has the largest sum of the two terms "
                f"({text.decimal(sums[best], digits)}).",
            )
        )
    on = theory.get("problems")
    where = f"{text.count(on)} labelled problems" if on else "labelled problems"
    drawn = parts.figure(
        figures.provers(rows),
        '<b>Which prover to measure progress under.</b> <span class="swatch apart">'
        "</span>Distinguishability: how much progress differs between steps from one "
        'state, E Var[A<sup>μ</sup>]. <span class="swatch aligned"></span>Alignment: '
        "whether it points where the base policy's own advantage does, "
        "E[A<sup>μ</sup>A<sup>π</sup>]. Diamonds are the sums, which up to a constant "
        f"bound the policy's improvement from below (Theorem 3.1). From {where}.",
        claims=parts.claims(pairs),
    )
    numbers = parts.table(
        ["Prover", "Distinguishability", "Alignment", "Sum"],
        [
            (
                text.escape(name),
                text.decimal(apart, digits),
                text.decimal(aligned, digits),
                text.decimal(sums.get(name), digits),
            )
            for name, apart, aligned in terms
        ],
    )
    body = f'<div class="beside">{drawn}{numbers}</div>' if rows else ""
    return parts.section("prover", "Choosing a prover", _PROVER_LEAD, body)


def base_policy(results: Results) -> str:
    """How the base policy's responses end, and how they were graded."""
    base = results.get("base") or {}
    on = _problems({"problems": (results.get("verifier") or {}).get("problems")})
    drawn = parts.figure(
        figures.failures(base.get("failures") or {}),
        "<b>How the base policy's responses end</b>, as shares of all its samples on "
        f"{on}.",
    )
    grades = tables.grades(
        base.get("grades") or {}, f"How the base policy's samples on {on} were graded."
    )
    body = f'<div class="beside">{drawn}{grades}</div>' if drawn or grades else ""
    return parts.section("base", "Base policy", "", body)


def cost(results: Results) -> str:
    """Wall time and tokens by stage."""
    stages = results.get("stages") or {}
    total = sum(spent for spent in stages.values() if spent is not None)
    drawn = parts.figure(
        figures.stages(stages),
        f"<b>Wall time by stage</b>, {text.duration(total)} in all.",
    )
    ledger = tables.ledger(results.get("ledger") or {})
    body = f'<div class="beside">{drawn}{ledger}</div>' if drawn or ledger else ""
    return parts.section("cost", "Cost", "", body)


def settings(results: Results) -> str:
    """Everything needed to run this again."""
    content = [
        parts.table([name, "Value"], tables.flat(results[key]))
        for key, name in (
            ("config", "Setting"),
            ("seeds", "Seed"),
            ("versions", "Version"),
        )
        if results.get(key)
    ]
    return parts.section(
        "settings",
        "Settings",
        'The numbers of the figures and tables are also in <a href="results.json">'
        "results.json</a>.",
        parts.details("Settings, seeds and versions", *content),
    )


def _problems(results: Results) -> str:
    count = results.get("problems")
    if not count:
        return "the held-out problems"
    return f"{text.count(count)} held-out problems"


def _calibration_words(found: Results) -> str:
    """Brier score, and the mean gap that the bins show."""
    words = ""
    if found.get("brier") is not None:
        words += f" Brier score {text.decimal(found['brier'], 4)}"
    bins = [
        (row["predicted"], row["observed"], row["count"])
        for row in found.get("calibration") or []
        if None not in (row.get("predicted"), row.get("observed"), row.get("count"))
    ]
    total = sum(count for _, _, count in bins)
    if total:
        gap = sum(abs(p - o) * count for p, o, count in bins) / total
        words += f"{';' if words else ''} mean gap over the bins {text.decimal(gap, 3)}"
    return words + "." if words else ""


def _verifiers_legend(keys: list[str]) -> str:
    """A legend in which the methods stand for the verifiers they use."""
    names = {"best_of_n_pav": "Process verifier", "best_of_n_orm": "Outcome verifier"}
    return parts.legend(keys, names, levels=["best_of_n_orm"])
