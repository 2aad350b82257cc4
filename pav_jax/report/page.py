"""The page of a run: one HTML file that needs nothing else.

It has no script and requests nothing from anywhere. Its content security policy forbids
both, so a response that is shown on it can do neither.
"""

import importlib.resources
import math
from typing import Any

from pav_jax.report import header, parts, rl_section, sections, text
from pav_jax.report.viewer import viewer

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_VIEWER_LEAD = (
    "Each step of a response, coloured by the verifier's predictions: its value Q or "
    "its progress A<sup>μ</sup>. The bar is the predicted Q; the mark on it is the "
    "Monte Carlo value, if it was measured."
)


def page(results: dict[str, Any], responses: list[dict[str, Any]]) -> str:
    """The whole page as HTML.

    All accuracies, intervals and differences are fractions; the page shows percentages
    and points. Any number may be None, and any entry may be missing except `task`: the
    page leaves out what is not there.

    `compute_efficiency.points_ci`, `{method: [low, high]}`, has the intervals of
    `points_at_equal_tokens`. `problems` in `alpha`, `verifier`, `theory` and
    `improvement` is the number of problems that they were measured on.

    Args:
      results: the numbers of the run as in results.json: nested dicts and lists, with
        finite numbers or None (see `plain`).
      responses: responses for the step viewer, each `{prompt, answer, correct,
        steps: [{text, q, advantage, q_mc}]}`.
    """
    steps = parts.section(
        "steps", "Responses, step by step", _VIEWER_LEAD, viewer(responses)
    )
    shown = {
        "search": ("Search", sections.search(results)),
        "improvement": ("RL", rl_section.section(results)),
        "verifier": ("Verifier", sections.verifier(results)),
        "prover": ("Prover", sections.prover(results)),
        "steps": ("Steps", steps),
        "base": ("Base policy", sections.base_policy(results)),
        "cost": ("Cost", sections.cost(results)),
        "settings": ("Settings", sections.settings(results)),
    }
    links = "".join(
        f'<a href="#{name}">{title}</a>'
        for name, (title, html) in shown.items()
        if html
    )
    keys = [row["method"] for row in results.get("search") or []]
    keys += list((results.get("improvement") or {}).get("policies") or {})
    title = f"Rewarding progress on {text.escape(results.get('task', 'a task'))}"
    body = [header.header(results, f"<nav>{links}</nav>")]
    body += [html for _, html in shown.values() if html]
    return document(title, "\n".join(body), parts.highlight([*keys, "pass_at_n"]))


def document(title: str, body: str, rules: str = "") -> str:
    """A whole page with the report's style and content security policy.

    Args:
      title: HTML.
      body: HTML.
      rules: CSS, after that of every page.
    """
    style = importlib.resources.files("pav_jax.report").joinpath("style.css")
    css = style.read_text(encoding="utf-8") + rules
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<title>{title}</title><link rel="icon" href="data:,">\n'
        f"<style>\n{css}\n</style></head>\n<body><main>\n{body}\n"
        "</main></body></html>\n"
    )


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: arrays as lists and numbers, NaN and inf as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy and JAX, which this module does not import.
        return plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
