"""The methods as the page shows them: name, colour, marker, order.

One method has one colour in every figure. Search and RL have no figure in common, so
their methods that are alike have the same colour: outcomes, progress. The colours
differ under the common kinds of colour blindness (the nearest two are 11 apart in
CIELAB under protanopia, deuteranopia and tritanopia), and the markers differ without
any colour. The hex values here are only names: `svg.py` replaces each by a CSS
variable, whose light and dark values are in style.css.
"""

import dataclasses
import re
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Method:
    """How one method is drawn.

    Attributes:
      key: its name in results.json.
      label: its name on the page; `text.markup` writes `Q^π` with a superscript.
      colour: the hex value that matplotlib draws it in.
      marker: a matplotlib marker.
      dashes: a matplotlib line style.
    """

    key: str
    label: str
    colour: str
    marker: str
    dashes: str = "-"

    @property
    def css(self) -> str:
        """The CSS class of all that is drawn for this method."""
        return "m-" + re.sub(r"[^a-z0-9]+", "-", self.key.lower())


_METHODS = {
    method.key: method
    for method in (
        Method("greedy", "Greedy", "#868d98", "o", "--"),
        Method("majority", "Majority vote", "#148f74", "s"),
        Method("best_of_n_orm", "Best-of-N by ORM", "#2a323d", "^"),
        Method("best_of_n_pav", "Best-of-N by PAV", "#a4327f", "v"),
        Method("beam_q", "Beam by Q^π", "#1a75bf", "D"),
        Method("beam_pav", "Beam by Q^π + αA^μ", "#d8480a", "o"),
        Method("pass_at_n", "Pass@N", "#646b77", "P", "--"),
        # Policies, of experiments with RL.
        Method("sft", "SFT", "#868d98", "s", "--"),
        Method("rft", "RFT", "#646b77", "P", "--"),
        Method("orm_rl", "ORM-RL", "#2a323d", "^"),
        Method("grpo", "GRPO", "#1a75bf", "D"),
        Method("pav_rl", "PAV-RL", "#d8480a", "o"),
    )
}
# Methods that get a spare colour, and a name that their key does not give.
_LABELS = {
    "best_of_n": "Best-of-N",
    "vote_orm": "Vote by ORM",
    "vote_pav": "Vote by PAV",
    "beam_oracle": "Beam by the oracle",
    "beam_diverse": "Beam in subtrees",
}
_EXTRA = (("#5b3fc4", "X"), ("#8f6f00", "p"), ("#3f7f1f", "h"), ("#00808f", "*"))

# The CSS variable of each drawing colour.
VARIABLES = {
    # The first method of a colour names it.
    method.colour: "--" + key.replace("_", "-")
    for key, method in reversed(_METHODS.items())
} | {colour: f"--extra-{index}" for index, (colour, _) in enumerate(_EXTRA, 1)}


def find(key: str) -> Method:
    """The method with this key.

    Raises:
      KeyError: the page has no entry for it.
    """
    return _METHODS[key]


def _label(key: str) -> str:
    """The name of a method without an entry; its key ends with the prover, if any."""
    if key in _LABELS:
        return _LABELS[key]
    for start, label in (
        ("beam_pav_", "Beam by Q^π + αA^μ, μ = "),
        ("beam_bo", "Beam by Q^π + αA^μ, μ = Bo"),
        ("beam_q_", "Beam by Q^μ, μ = "),
    ):
        if key.startswith(start):
            return label + key.removeprefix(start)
    return key.replace("_", " ").capitalize()


def is_oracle(key: str) -> bool:
    """Whether a curve is Pass@N: an upper bound, which selects by the answer."""
    return key.startswith("pass_at")


def ordered(keys: Iterable[str]) -> list[Method]:
    """The methods with these keys, each once, in the page's order.

    A key without an entry here gets the next spare colour and a label made of the key,
    so the page shows a new method without any change.
    """
    present = dict.fromkeys(keys)
    known = [method for key, method in _METHODS.items() if key in present]
    unknown = [key for key in present if key not in _METHODS]
    extra = []
    for index, key in enumerate(unknown):
        colour, marker = _EXTRA[index % len(_EXTRA)]
        extra.append(Method(key, _label(key), colour, marker))
    # Upper bounds come last.
    return sorted(known + extra, key=lambda method: is_oracle(method.key))
