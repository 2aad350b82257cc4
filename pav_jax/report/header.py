"""The top of the page: title, finding, headline numbers, paragraph."""

from typing import Any

from pav_jax.report import methods, summary, text

Results = dict[str, Any]

_EFFECTIVE = text.markup("Q^π + αA^μ")


def header(results: Results, contents: str) -> str:
    """The top of the page as HTML; `contents` is the HTML of its links."""
    task = text.escape(results.get("task", "a task"))
    description = text.escape(results.get("description", ""))
    return (
        '<header><p class="kicker">Process advantage verifiers · '
        '<a href="https://arxiv.org/abs/2410.08146">arXiv 2410.08146</a></p>'
        f"<h1>Rewarding progress on <em>{task}</em></h1>"
        f'<p class="finding">{summary.headline(results)}</p>'
        f'<p class="description">{description}</p>{_numbers(results)}'
        f'<p class="abstract">{summary.paragraph(results)}</p>{contents}</header>'
    )


def _numbers(results: Results) -> str:
    """The headline numbers, as a list of terms."""
    base = results.get("base") or {}
    efficiency = results.get("compute_efficiency") or {}
    rows = results.get("search") or []
    cells = []
    if base.get("accuracy") is not None:
        note = _joined("one sample", _whole(text.interval(base.get("ci"))))
        cells.append(("Base policy", text.percent(base["accuracy"]), note, ""))
    for key in ("best_of_n_orm", "beam_pav"):
        last = _at_largest_n(rows, key)
        if last:
            method = methods.find(key)
            note = _joined(f"N = {last['n']}", _whole(text.interval(last.get("ci"))))
            value = text.percent(last["accuracy"])
            name = text.markup(method.label)
            cells.append((name, value, note, methods.VARIABLES[method.colour]))
    difference = (efficiency.get("points_at_equal_tokens") or {}).get("beam_pav")
    if difference is not None:
        doubt = summary.uncertainty(results, "beam_pav")
        doubt = doubt.removeprefix("95% interval over problems ")
        note = _joined("points over the strongest selection", doubt)
        cells.append(("At equal tokens", text.points(difference), note, "--beam-pav"))
    if "beam_pav" in efficiency:
        saved = efficiency["beam_pav"]
        if saved is None:
            value, note = "not shown", f"beam by {_EFFECTIVE}, at any N"
        else:
            more = text.fewer(saved)
            value, word = more.split(" ", 1)
            note = f"{word} tokens, beam by {_EFFECTIVE}"
        cells.append(("To equal the strongest", value, note, "--beam-pav"))
    auc = (results.get("verifier") or {}).get("auc_within_problem") or {}
    if auc.get("last") is not None:
        value = text.decimal(auc["last"], 3)
        cells.append(("Verifier AUC", value, "within a problem, last step", ""))
    items = "".join(
        f'<div style="--mark:var({mark or "--rule"})"><dt>{name}</dt>'
        f'<dd class="big">{value}</dd><dd class="note">{note}</dd></div>'
        for name, value, note, mark in cells
    )
    return f'<dl class="strip-numbers">{items}</dl>' if items else ""


def _joined(*words: str) -> str:
    return " · ".join(word for word in words if word)


def _at_largest_n(rows: list[Results], key: str) -> Results | None:
    of_method = [
        row
        for row in rows
        if row["method"] == key
        and row.get("n") is not None
        and row.get("accuracy") is not None
    ]
    return max(of_method, key=lambda row: row["n"], default=None)


def _whole(words: str) -> str:
    """Words that stay on one line."""
    return f"<span>{words}</span>" if words else ""
