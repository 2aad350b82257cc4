"""The sections of the report, each a function from the results to HTML.

A section without any numbers is an empty string, which leaves it out of the page.
"""

from typing import Any

from pav_jax.report import claims, figures, methods, parts, tables, text

Results = dict[str, Any]

_Q, _EFFECTIVE = text.markup("Q^π"), text.markup("Q^π + αA^μ")
_PROVER_LEAD = text.markup(
    "Progress A^μ is measured under a prover μ, which can be any policy. Under a good "
    "prover, the base policy's steps differ in progress, and the steps with more of it "
    "are also better for the base policy. Labelled steps show how far both are true, "
    "before a verifier is trained."
)
_NUMBERS = "The numbers behind these figures"
_TEST, _VALIDATION = "test", "validation"  # whose problems they are


def search(results: Results) -> str:
    """Accuracy against N and tokens, Pass@N, and the choice of α."""
    rows = results.get("search") or []
    efficiency = results.get("compute_efficiency") or {}
    alpha = results.get("alpha") or {}
    base = results.get("base") or {}
    bands = (
        f"Bands are 95% intervals over {text.problems(results.get('problems'), _TEST)}."
    )
    grid = "".join(
        (
            _by_n(rows, bands),
            _by_tokens(results, rows, efficiency, bands),
            _passed(rows, base, bands),
            _weights(alpha),
        )
    )
    return parts.section(
        "search",
        "Search",
        "All methods have the same base policy and the same problems. They differ in "
        "what scores the candidates, and when: whole responses at the end, or single "
        "steps on the way.",
        f'<div class="grid">{grid}</div>' if grid else "",
        parts.details(
            _NUMBERS,
            tables.search(rows),
            tables.efficiency(efficiency),
            tables.picks(results.get("picks") or []),
            tables.alpha(alpha),
            tables.base(base),
        ),
    )


def _by_n(rows: list[Results], bands: str) -> str:
    return parts.figure(
        figures.accuracy_vs_n(rows),
        "<b>Accuracy against N</b>, the number of sampled responses (best-of-N, "
        f"voting) or of beams (beam search). {bands}",
        parts.legend(_without_oracle(rows), levels=["greedy"]),
        parts.claims(claims.equal_n(rows)),
    )


def _by_tokens(
    results: Results, rows: list[Results], efficiency: Results, bands: str
) -> str:
    arrow = (
        " The arrow leads from the best point of selection to where beam search by "
        f"{_EFFECTIVE} equals it."
    )
    return parts.figure(
        figures.accuracy_vs_tokens(rows, efficiency),
        "<b>Accuracy against compute</b>: all tokens that a problem costs, decoded, "
        "prefilled and scored, with those of pruned candidates."
        f"{arrow if efficiency.get('beam_pav') else ''} {bands}",
        parts.legend(_without_oracle(rows)),
        parts.claims(claims.tokens(results)),
    )


def _passed(rows: list[Results], base: Results, bands: str) -> str:
    selecting = [row["method"] for row in rows if row["method"] in figures.SELECTIONS]
    oracle = [row["method"] for row in rows if methods.is_oracle(row["method"])]
    return parts.figure(
        figures.pass_at_n(rows, base),
        "<b>Pass@N</b>: how often at least one of N independent samples is correct, "
        "and how often each method selects a correct one. A better verifier could at "
        f"most close the gap. {bands}",
        parts.legend((oracle or ["pass_at_n"]) + selecting),
    )


def _weights(alpha: Results) -> str:
    return parts.figure(
        figures.alpha(alpha.get("grid") or [], alpha.get("chosen")),
        f"<b>The weight of progress.</b> Accuracy of beam search by {_EFFECTIVE} for "
        f"each α, on {text.problems(alpha.get('problems'), _VALIDATION)}; the ring is "
        "the α chosen, the dotted line is α = 0: search by Q alone. Bands are 95% "
        "intervals over these problems.",
        parts.legend(["beam_pav"]),
        parts.claims(claims.alpha(alpha)),
    )


def _without_oracle(rows: list[Results]) -> list[str]:
    return [row["method"] for row in rows if not methods.is_oracle(row["method"])]


def verifier(results: Results) -> str:
    """AUC by step and calibration."""
    evaluation = results.get("verifier") or {}
    auc = evaluation.get("auc_within_problem") or {}
    bins = evaluation.get("calibration") or []
    grid = _ranks(evaluation) + _calibrated(evaluation, bins)
    return parts.section(
        "verifier",
        "Verifier",
        f"The process verifier predicts Q after each step. Search by {_Q} needs it to "
        "be right on the way, not only at the end.",
        f'<div class="grid">{grid}</div>' if grid else "",
        parts.table(["Measure", "Value"], _measures(evaluation, auc)),
        parts.details(
            _NUMBERS,
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


def _ranks(evaluation: Results) -> str:
    problems = text.problems(evaluation.get("problems"), _VALIDATION)
    has_orm = (evaluation.get("orm") or {}).get("auc_last") is not None
    outcome = " The dashed line is the outcome verifier on whole responses."
    return parts.figure(
        figures.auc_by_step(evaluation),
        "<b>Correct from wrong, step by step.</b> The chance that, of a correct and a "
        "wrong response to the same problem, the correct one has the higher score "
        f"after this step; over {problems}."
        f"{outcome if has_orm else ''}",
        _verifiers_legend(["best_of_n_pav"] + ["best_of_n_orm"] * has_orm),
    )


def _calibrated(evaluation: Results, bins: list[Results]) -> str:
    return parts.figure(
        figures.calibration(bins),
        "<b>Calibration.</b> Mean predicted Q in each bin against the mean Monte Carlo "
        "Q of the same steps, on validation problems. Larger dots, and higher bars "
        f"below them, stand for more steps.{_calibration_words(evaluation)}",
        _verifiers_legend(["best_of_n_pav"]),
    )


def _measures(evaluation: Results, auc: Results) -> list[tuple[str, str]]:
    rows = [
        ("AUC within a problem, last step", text.decimal(auc.get("last"), 3)),
        ("AUC within a problem, middle step", text.decimal(auc.get("middle"), 3)),
        ("AUC for no error so far", text.decimal(auc.get("error_so_far"), 3)),
        ("Brier score", text.decimal(evaluation.get("brier"), 4)),
        (
            "Outcome verifier: AUC, last step",
            text.decimal((evaluation.get("orm") or {}).get("auc_last"), 3),
        ),
    ]
    return [row for row in rows if row[1] != text.MISSING]


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
    drawn = parts.figure(
        figures.provers(rows),
        '<b>Which prover to measure progress under.</b> <span class="swatch apart">'
        "</span>Distinguishability: how much progress differs between steps from one "
        'state, E Var[A<sup>μ</sup>]. <span class="swatch aligned"></span>Alignment: '
        "how far it agrees with the base policy's own advantage, "
        "E[A<sup>μ</sup>A<sup>π</sup>]. Diamonds are the sums: up to a constant, a "
        "lower bound of the policy's improvement (Theorem 3.1). Estimated from "
        f"{text.problems(theory.get('problems'), 'labelled')}.",
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
    evaluation = results.get("verifier") or {}
    on = text.problems(evaluation.get("problems"), _VALIDATION)
    drawn = parts.figure(
        figures.failures(base.get("failures") or {}),
        f"<b>How the base policy's responses end</b>: all its samples on {on}.",
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
    """Settings, seeds, versions and devices: what it takes to run this again."""
    content = [
        parts.table([name, "Value"], tables.flat(results[key]))
        for key, name in (
            ("config", "Setting"),
            ("seeds", "Seed"),
            ("versions", "Version"),
            ("made_on", "Made on"),
        )
        if results.get(key)
    ]
    return parts.section(
        "settings",
        "Settings",
        'The numbers of the figures and tables are also in <a href="results.json">'
        "results.json</a>.",
        parts.details("Settings, seeds, versions and devices", *content),
    )


def _calibration_words(evaluation: Results) -> str:
    """A sentence with the Brier score and the mean gap between the bins' values."""
    words = ""
    if evaluation.get("brier") is not None:
        words += f" Brier score {text.decimal(evaluation['brier'], 4)}"
    bins = [
        (row["predicted"], row["observed"], row["count"])
        for row in evaluation.get("calibration") or []
        if None not in (row.get("predicted"), row.get("observed"), row.get("count"))
    ]
    total = sum(count for _, _, count in bins)
    if total:
        gap = sum(abs(p - o) * count for p, o, count in bins) / total
        words += f"{';' if words else ''} mean gap over the bins {text.decimal(gap, 3)}"
    return words + "." if words else ""


def _verifiers_legend(keys: list[str]) -> str:
    """A legend in which each method stands for the verifier that it uses."""
    names = {"best_of_n_pav": "Process verifier", "best_of_n_orm": "Outcome verifier"}
    return parts.legend(keys, names, levels=["best_of_n_orm"])
