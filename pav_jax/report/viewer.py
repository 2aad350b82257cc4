"""The step viewer: responses with every step coloured by its Q or its progress.

A model wrote all the text that is shown here, so all of it is escaped. The viewer needs
no script: radio buttons choose the colouring, and CSS does the rest with the numbers
in the style of each step.
"""

from typing import Any

from pav_jax.report import text

_OPEN = 2  # Responses that are open at first; the others show their strip of colours.
_PIT = -0.1  # A step with progress of at most this is marked as the largest drop.
_GIST = 90  # Characters of the prompt in the line of a closed response.

_RADIOS = """
<input type="radio" name="colour" id="by-q" checked>
<input type="radio" name="colour" id="by-progress">
<input type="radio" name="kind" id="kind-all" checked>
<input type="radio" name="kind" id="kind-right">
<input type="radio" name="kind" id="kind-wrong">
"""
_COLOURS = """
<div class="choice"><span>Colour by</span>
<label for="by-q">Q</label><label for="by-progress">progress</label></div>
"""
_KINDS = """
<div class="choice"><span>Show</span><label for="kind-all">all</label>
<label for="kind-right">correct</label><label for="kind-wrong">wrong</label></div>
"""
_SCALES = """
<div class="scale scale-q"><span>0</span><i></i><span>Q = 1</span></div>
<div class="scale scale-a"><span>−0.5</span><i></i><span>+0.5</span></div>
"""


def viewer(responses: list[dict[str, Any]]) -> str:
    """The responses and the controls as HTML; empty if there are no responses.

    A response was not graded if its `correct` is None or missing. It is then shown with
    its `orm`, or with its last Q if it has no `orm`.
    """
    if not responses:
        return ""
    graded = any(response.get("correct") is not None for response in responses)
    controls = _COLOURS + (_KINDS if graded else "") + _SCALES
    shown = "".join(
        _response(response, place < _OPEN) for place, response in enumerate(responses)
    )
    return (
        f'<div class="viewer">{_RADIOS}<div class="controls">{controls}</div>'
        f"{shown}</div>"
    )


def _response(response: dict[str, Any], opened: bool) -> str:
    steps = response.get("steps") or []
    kind, badge = _badge(response, steps)
    falls = [step.get("advantage") or 0.0 for step in steps]
    deepest = min(falls, default=0.0)
    pit = falls.index(deepest) if deepest <= _PIT else None
    prompt = str(response.get("prompt", "")).strip()
    gist = " ".join(prompt.split())
    if len(gist) > _GIST:
        gist = gist[:_GIST].rstrip() + "…"
    strip = "".join(f"<i{_worth(step)}></i>" for step in steps)
    measured = any(step.get("q_mc") is not None for step in steps)
    rows = "".join(
        _step(step, place == pit, measured) for place, step in enumerate(steps)
    )
    notes = []
    if response.get("answer") is not None:
        quote = f'<span class="quote">{text.escape(response["answer"])}</span>'
        notes.append(f"Reference answer: {quote}")
    if response.get("orm") is not None:
        notes.append(f"ORM {text.decimal(response['orm'])}")
    answer = f'<p class="answer">{" · ".join(notes)}</p>' if notes else ""
    return (
        f'<details class="response {kind}"{" open" if opened else ""}>'
        f'<summary><span class="badge">{badge}</span>'
        f'<span class="gist" dir="auto">{text.escape(gist)}</span>'
        f'<span class="strip" aria-hidden="true">{strip}</span></summary>'
        f'<div class="quote prompt" dir="auto">{text.escape(prompt)}</div>'
        f'<ol class="steps">{rows}</ol>'
        f"{answer}</details>"
    )


def _badge(response: dict[str, Any], steps: list[dict[str, Any]]) -> tuple[str, str]:
    """The CSS class of a response, and its badge."""
    correct = response.get("correct")
    if correct is not None:
        return ("right", "✓ correct") if correct else ("wrong", "✗ wrong")
    if response.get("orm") is not None:
        return "ungraded", f"ORM {text.decimal(response['orm'])}"
    return "ungraded", f"Q {text.decimal(steps[-1].get('q') if steps else None)}"


def _step(step: dict[str, Any], pit: bool, measured: bool) -> str:
    """One step; `measured` if any step of the response has a Monte Carlo value."""
    quote = str(step.get("text", "")).strip("\n") or "(empty)"
    q, truth = step.get("q"), step.get("q_mc")
    tick = words = ""
    if truth is not None:
        words = f"MC {text.decimal(truth)}"
        tick = f'<i class="truth" style="--t:{_unit(truth)}"></i>'
    # Empty and not left out, so that the columns of a response line up.
    beside = f'<span class="mc">{words}</span>' if measured else ""
    note = '<span class="pit">largest drop</span>' if pit else ""
    return (
        f'<li{_worth(step, "step")}><span class="quote" dir="auto">'
        f'{text.escape(quote)}</span><span class="worth">{note}'
        f'<span class="chip">{text.decimal(step.get("advantage"), signed=True)}</span>'
        f'<span class="meter"><i class="fill"></i>{tick}</span>'
        f'<span class="q">Q {text.decimal(q)}</span>{beside}</span></li>'
    )


def _worth(step: dict[str, Any], css: str = "") -> str:
    """The attributes that colour a step: its CSS class and variables."""
    q, advantage = step.get("q"), step.get("advantage") or 0.0
    sign = "up" if advantage >= 0 else "down"
    # Progress is coloured up to ±0.5, where the scale ends.
    strength = _unit(abs(advantage) / 0.5)
    classes = f"{css} {sign}".strip()
    return f' class="{classes}" style="--q:{_unit(q or 0.0)};--a:{strength}"'


def _unit(value: float) -> str:
    return f"{min(1.0, max(0.0, float(value))):.3f}"
