"""The tables behind the figures: every number of the results, written out."""

from typing import Any

from pav_jax.report import methods, parts, text

Results = dict[str, Any]


def search(rows: list[Results]) -> str:
    """Accuracy and tokens of every method at every N."""
    order = {m.key: i for i, m in enumerate(methods.ordered(r["method"] for r in rows))}
    labels = {m.key: m.label for m in methods.ordered(order)}
    cells = [
        (
            text.markup(labels[row["method"]]),
            text.count(row.get("n")),
            text.percent(row.get("accuracy")),
            text.interval(row.get("ci")) or text.MISSING,
            *(
                text.count(row.get(key))
                for key in ("tokens", "decoded", "prefilled", "scored")
            ),
        )
        for row in sorted(rows, key=lambda r: (order[r["method"]], r.get("n") or 0))
    ]
    head = ["Method", "N", "Accuracy", "95% interval", "Tokens"]
    return parts.table(
        [*head, "Decoded", "Prefilled", "Scored"],
        cells,
        "Search. Tokens are means over the problems.",
    )


def efficiency(efficiency: Results) -> str:
    """Beam search against each reference: tokens saved, points at equal tokens."""
    papers = efficiency.get("paper")
    shown = (
        " A beam is shown to reach it where no part of the 95% interval of the "
        "difference, problem by problem, is below zero; a difference that is the same "
        "for all problems shows nothing."
    )
    return _against(efficiency, shown) + (_against(papers) if papers else "")


def _against(efficiency: Results, more: str = "") -> str:
    at_equal = efficiency.get("points_at_equal_tokens") or {}
    bounds = efficiency.get("points_ci") or {}
    cells = []
    for key in ("beam_q", "beam_pav"):
        if key in efficiency or key in at_equal:
            saved = efficiency.get(key)
            cells.append(
                (
                    text.markup(methods.find(key).label),
                    "not shown" if saved is None else text.ratio(saved),
                    text.points(at_equal.get(key)),
                    text.points_interval(bounds.get(key)) or text.MISSING,
                )
            )
    reference = text.escape(efficiency.get("reference", ""))
    accuracy = text.percent(efficiency.get("accuracy"))
    return parts.table(
        ["Method", "Tokens saved", "Points at equal tokens", "95% interval"],
        cells,
        f"Against {reference}, {accuracy}. Tokens saved: its tokens divided by the "
        f"method's, at that accuracy.{more}",
    )


_ANY = "any"  # whether any response is right


def picks(rows: list[Results]) -> str:
    """Accuracy of samples and of each beam search by each rule of the final pick."""
    rules = [
        rule for rule in dict.fromkeys(row["pick"] for row in rows) if rule != _ANY
    ]
    rules.append(_ANY)
    searches = dict.fromkeys((row["method"], row["n"]) for row in rows)
    by_cell = {(r["method"], r["n"], r["pick"]): r["accuracy"] for r in rows}
    cells = [
        (
            text.markup(methods.ordered([method])[0].label),
            str(n),
            *(text.percent(by_cell.get((method, n, rule))) for rule in rules),
        )
        for method, n in searches
    ]
    return parts.table(
        ["Method", "N", *rules],
        cells,
        "The final pick: accuracy by each rule. “prm” is the value after the last "
        "step, “prm_min” the least of all steps, and so on; “sum” is of the logits of "
        "both verifiers; “any” is Pass@N.",
    )


def alpha(alpha: Results) -> str:
    """Accuracy for each weight of progress, prover and final pick."""
    cells = [
        (
            f"{row['alpha']:g}" if row.get("alpha") is not None else text.MISSING,
            f"Bo{row['prover_k']}" if row.get("prover_k") else text.MISSING,
            row.get("pick") or text.MISSING,
            text.percent(row.get("accuracy")),
            text.interval(row.get("ci")) or text.MISSING,
        )
        for row in alpha.get("cells") or alpha.get("grid") or []
    ]
    head = ["α", "Prover", "Final pick", "Accuracy", "95% interval"]
    return parts.table(head, cells, "The grid, on validation problems.")


def base(base: Results) -> str:
    """Accuracies of the base policy."""
    cells = [
        ("One sample", text.percent(base.get("accuracy"))),
        ("Greedy", text.percent(base.get("greedy"))),
    ]
    cells += [
        (f"Pass@{text.escape(n)}", text.percent(solved))
        for n, solved in (base.get("pass_at") or {}).items()
    ]
    cells = [cell for cell in cells if cell[1] != text.MISSING]
    return parts.table(["Base policy", "Accuracy"], cells)


def grades(counts: Results, caption: str) -> str:
    """How many responses have each grade."""
    total = sum(count for count in counts.values() if count is not None)
    cells = [
        (
            text.escape(grade.replace("_", " ").capitalize()),
            text.count(count),
            text.percent(count / total if total and count is not None else None),
        )
        for grade, count in counts.items()
    ]
    return parts.table(["Grade", "Responses", "Fraction"], cells, caption)


def ledger(ledger: Results) -> str:
    """Tokens of each stage, by kind."""
    kinds = ("decoded", "prefilled", "scored", "trained")
    cells = [
        (text.escape(stage), *(text.count(spent.get(kind)) for kind in kinds))
        for stage, spent in ledger.items()
    ]
    if len(cells) > 1:
        totals = [
            sum(spent.get(kind) or 0 for spent in ledger.values()) for kind in kinds
        ]
        cells.append(("All stages", *(text.count(total) for total in totals)))
    head = ["Stage", *(kind.capitalize() for kind in kinds)]
    return parts.table(head, cells, "The ledger: tokens by stage.")


def flat(nested: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested mapping as rows of dotted names and values."""
    if isinstance(nested, dict) and nested:
        rows = []
        for key, value in nested.items():
            rows += flat(value, f"{prefix}.{key}" if prefix else str(key))
        return rows
    return [(text.escape(prefix), text.escape(nested))]
