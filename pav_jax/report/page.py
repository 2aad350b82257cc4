"""Writes the report: `results.json`, and `index.html`, which needs nothing else.

The page is one file with no script and no request to anywhere; its content
security policy forbids both, so a response that is shown on it can do neither.
"""

import importlib.resources
import json
import math
import os
from pathlib import Path
from typing import Any

from pav_jax.report import header, improvement, parts, sections, text
from pav_jax.report.viewer import viewer

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_VIEWER_LEAD = (
    "Each step of a response, coloured by what the verifier says: its value Q, or the "
    "progress A<sup>μ</sup> it makes. The bar is the predicted Q; the mark on it is "
    "the Monte Carlo value, where it was measured."
)


def write_report(
    results: dict[str, Any], responses: list[dict[str, Any]], directory: Path
) -> Path:
    """Writes the results and the page that shows them.

    All accuracies, shares, intervals and differences are fractions; the page
    shows percentages and points. A number may be None or NaN anywhere, and every
    entry but `task` may be missing: what is missing is left out of the page.

    Beside the entries of the stages, these are shown where they are present:
    `compute_efficiency.points_ci`, `{method: [low, high]}`, the intervals of
    `points_at_equal_tokens`; and `problems` in `alpha`, `verifier` and `theory`,
    for those that were measured on other problems than the search.

    Args:
      results: the numbers of the run, as nested dicts and lists.
      responses: responses for the step viewer, each `{prompt, answer, correct,
        steps: [{text, q, advantage, q_mc}]}`.
      directory: where to write; made if it is not there.

    Returns:
      The path of `index.html`.
    """
    results = _plain(results)
    html = page(results, _plain(responses))
    directory.mkdir(parents=True, exist_ok=True)
    numbers = json.dumps(results, indent=1, allow_nan=False)
    _replace(directory / "results.json", numbers + "\n")
    _replace(directory / "index.html", html)
    return directory / "index.html"


def page(results: dict[str, Any], responses: list[dict[str, Any]]) -> str:
    """The whole page as HTML. Numbers are finite or None."""
    steps = parts.section(
        "steps", "Responses, step by step", _VIEWER_LEAD, viewer(responses)
    )
    shown = {
        "search": ("Search", sections.search(results)),
        "improvement": ("RL", improvement.section(results)),
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
    """A page with the report's style and policy; all three are HTML or CSS."""
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


def _replace(path: Path, content: str) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)


def _plain(value: Any) -> Any:
    """`value` as JSON can hold it: array scalars to numbers, NaN to None."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy and JAX, neither imported here.
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
