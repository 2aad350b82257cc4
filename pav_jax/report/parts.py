"""The HTML pieces that sections are made of: figure, legend, table, claims."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from pav_jax.report import methods, text

# Marker shapes for legends, in a 12 × 12 box, by matplotlib marker name.
_SHAPES = {
    "o": "M6 2.4a3.6 3.6 0 1 0 .01 0z",
    "s": "M2.8 2.8h6.4v6.4H2.8z",
    "^": "M6 1.8l4.2 7.8H1.8z",
    "v": "M6 10.2L1.8 2.4h8.4z",
    "D": "M6 1.5L10.5 6 6 10.5 1.5 6z",
    "P": "M4.4 1.8h3.2v2.6h2.6v3.2H7.6v2.6H4.4V7.6H1.8V4.4h2.6z",
    "X": "M3.4 1.2L6 3.8l2.6-2.6 2.2 2.2L8.2 6l2.6 2.6-2.2 2.2L6 8.2l-2.6 2.6-2.2-2.2"
    "L3.8 6 1.2 3.4z",
    "p": "M6 1.5l4.6 3.4-1.8 5.4H3.2L1.4 4.9z",
    "h": "M6 1.4l4 2.3v4.6l-4 2.3-4-2.3V3.7z",
    "*": "M6 .8l1.6 3.5 3.8.4-2.8 2.6.8 3.8L6 9.2l-3.4 1.9.8-3.8L.6 4.7l3.8-.4z",
}


def figure(svg: str, caption: str, legend: str = "", claims: str = "") -> str:
    """A captioned figure; empty if there is no drawing.

    Args:
      svg: from `figures`.
      caption: HTML.
      legend: from `legend`.
      claims: from `claims`.

    Returns:
      A `<figure>` element.
    """
    if not svg:
        return ""
    caption = f"<figcaption>{caption}{claims}</figcaption>"
    return f"<figure>{legend}{svg}{caption}</figure>"


def legend(
    keys: Iterable[str],
    names: Mapping[str, str] | None = None,
    levels: Collection[str] = (),
) -> str:
    """The legend of a figure. Pointing at an entry fades the other methods.

    Args:
      keys: the methods shown.
      names: labels by key, for methods that are not shown by their own label.
      levels: the methods that are drawn as level dashed lines.

    Returns:
      A `<ul>` element.
    """
    entries = []
    for method in methods.ordered(keys):
        level = method.key in levels
        dashed = ' stroke-dasharray="5 3"' if level or method.dashes != "-" else ""
        shape = f'<path d="{_SHAPES[method.marker]}" transform="translate(8)"/>'
        entries.append(
            f'<li class="key {method.css}" tabindex="0">'
            f'<svg viewBox="0 0 28 12" aria-hidden="true" '
            f'style="color:var({methods.VARIABLES[method.colour]})">'
            f'<path d="M0 6H28" class="stroke"{dashed}/>{"" if level else shape}</svg>'
            f"{text.markup((names or {}).get(method.key, method.label))}</li>"
        )
    return f'<ul class="legend">{"".join(entries)}</ul>'


def highlight(keys: Iterable[str]) -> str:
    """The CSS rules that `legend` needs, one for each method on the page."""
    return "\n".join(
        f"main:has(.key.{css}:is(:hover, :focus)) .series:not(.{css}) "
        "{ opacity: 0.1; }"
        for css in (method.css for method in methods.ordered(keys))
    )


def claims(pairs: Sequence[tuple[str, str]]) -> str:
    """The paper's claims and this run's answers, side by side; all are HTML."""
    rows = "".join(
        f'<div><p><b class="who">Paper</b> {paper}</p>'
        f'<p><b class="who ours">This run</b> {ours}</p></div>'
        for paper, ours in pairs
    )
    return f'<div class="claims">{rows}</div>' if pairs else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> str:
    """A table of HTML cells whose first column names the row."""
    if not rows:
        return ""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>'
        + "".join(f"<td>{cell}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    caption = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="scroll"><table>{caption}<thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def details(summary: str, *tables: str) -> str:
    """Tables that open on a click; empty if there are none."""
    inside = "".join(tables)
    if not inside:
        return ""
    return (
        f"<details><summary>{summary}</summary>"
        f'<div class="tables">{inside}</div></details>'
    )


def section(name: str, title: str, lead: str, *content: str) -> str:
    """A section of the page with its title; empty if it has no content."""
    inside = "".join(content)
    if not inside:
        return ""
    lead = f'<p class="lead">{lead}</p>' if lead else ""
    return f'<section id="{name}"><h2>{title}</h2>{lead}{inside}</section>'
