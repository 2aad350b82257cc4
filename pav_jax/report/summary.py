"""The run in words, whether its numbers agree with the paper or not."""

from typing import Any

from pav_jax.core.counts import counted
from pav_jax.report import text

Results = dict[str, Any]

_BEAMS = {
    "beam_q": "Beam search by Q^π",
    "beam_pav": "Beam search by the effective reward",
}


# In docs/evidence.md the same experiment differs by more than 10 points between seeds.
_ONE_SEED = (
    "Intervals are over the problems of this one run: with another seed, which trains"
    " another policy and other verifiers, a number may differ by more than its interval"
    " says."
)


def headline(results: Results) -> str:
    """The one sentence under the title: what rewarding progress did."""
    difference = _equal_tokens(results).get("beam_pav")
    if difference is None:
        return "Process advantage verifiers: what this run measured."
    return text.markup(_comparison(results, "beam_pav") + ".")


def paragraph(results: Results) -> str:
    """The run in one paragraph of HTML."""
    sentences = [
        _base(results),
        *(_beam(results, key) for key in _BEAMS),
        _alpha(results.get("alpha") or {}),
        _verifier(results.get("verifier") or {}),
        _ONE_SEED,
    ]
    return " ".join(text.markup(sentence) for sentence in sentences if sentence)


def uncertainty(results: Results, method: str) -> str:
    """How uncertain the difference at equal tokens is, in words.

    The interval of the difference, if the results have one; else the half-width of the
    interval of best-of-N's accuracy, which gives the scale of the noise.
    """
    efficiency = results.get("compute_efficiency") or {}
    bounds = (efficiency.get("points_ci") or {}).get(method)
    if text.known(bounds):
        return f"95% interval over problems {text.points_interval(bounds)}"
    width = _reference_half_width(results)
    if width is None:
        return ""
    return f"each accuracy is known to about ±{text.decimal(100 * width, 1)}"


def settled(results: Results, method: str) -> bool | None:
    """Whether the difference at equal tokens has a sign beyond the noise.

    None if the results have no interval to judge it by.
    """
    efficiency = results.get("compute_efficiency") or {}
    difference = _equal_tokens(results).get(method)
    bounds = (efficiency.get("points_ci") or {}).get(method)
    if text.known(bounds):
        return bounds[0] > 0 or bounds[1] < 0
    width = _reference_half_width(results)
    if width is None or difference is None:
        return None
    return abs(difference) > width


def reference(results: Results) -> str:
    """What beam search is compared with, in words."""
    efficiency = results.get("compute_efficiency") or {}
    if "paper" not in efficiency:  # results of before 0.2
        return "best-of-N by the outcome verifier"
    return efficiency["reference"]


def papers(results: Results, method: str) -> str:
    """The difference at equal tokens to the paper's own reference, in words."""
    efficiency = (results.get("compute_efficiency") or {}).get("paper") or {}
    difference = (efficiency.get("points_at_equal_tokens") or {}).get(method)
    if difference is None:
        return ""
    bounds = (efficiency.get("points_ci") or {}).get(method)
    doubt = f" ({text.points_interval(bounds)})" if text.known(bounds) else ""
    return (
        "over the paper's reference, best-of-N by the outcome verifier, it has"
        f" {text.points(difference)} points{doubt}"
    )


def weights_above_zero(alpha: dict[str, Any]) -> str:
    """At how many positive α the accuracy is above that of Q alone.

    "6 of 10 positive weights", or nothing if the grid does not have both.
    """
    grid = [
        (row.get("alpha"), row.get("accuracy"))
        for row in alpha.get("grid") or []
        if row.get("alpha") is not None and row.get("accuracy") is not None
    ]
    alone = [accuracy for weight, accuracy in grid if weight == 0]
    others = [accuracy for weight, accuracy in grid if weight > 0]
    if not alone or not others:
        return ""
    better = sum(accuracy > alone[0] for accuracy in others)
    return f"{better} of {counted(len(others), 'positive weight')}"


def _base(results: Results) -> str:
    base = results.get("base") or {}
    if base.get("accuracy") is None:
        return ""
    bounds = text.interval(base.get("ci"))
    problems = text.problems(results.get("problems"), "test")
    sentence = f"The base policy solves {text.percent(base['accuracy'])} of {problems}"
    sentence += " with one sample"
    if bounds:
        sentence += f" (95% interval {bounds})"
    if base.get("greedy") is not None:
        sentence += f" and {text.percent(base['greedy'])} greedily"
    most = max((int(n) for n in base.get("pass_at") or {}), default=None)
    if most is not None and base["pass_at"].get(str(most)) is not None:
        solved = text.percent(base["pass_at"][str(most)])
        one = "the one sample" if most == 1 else f"at least one of {most} samples"
        sentence += f"; for {solved}, {one} is correct"
    return sentence + "."


def _beam(results: Results, key: str) -> str:
    """Beam search against best-of-N, at equal tokens and at equal accuracy."""
    efficiency = results.get("compute_efficiency") or {}
    difference = _equal_tokens(results).get(key)
    parts = []
    if difference is not None:
        parts.append(_comparison(results, key))
    best = f"the best {text.percent(efficiency.get('accuracy'))} of these"
    subject = "it" if parts else _BEAMS[key]
    if efficiency.get("accuracy") is not None and key in efficiency:
        if efficiency[key] is None:
            reach = f"{subject} is not shown to reach {best}"
        else:
            reach = (
                f"{subject} reaches {best} with {text.fewer(efficiency[key])} tokens"
            )
        parts.append(reach)
    if papers_own := papers(results, key):
        parts.append(papers_own)
    return "; ".join(parts) + "." if parts else ""


def _comparison(results: Results, key: str) -> str:
    difference = _equal_tokens(results)[key]
    name = _BEAMS[key]
    size = text.decimal(abs(100 * difference), 1)
    if float(size) == 0:
        where = "level with"
    else:
        where = f"{size} points {'above' if difference > 0 else 'below'}"
    sentence = f"{name} is {where} {reference(results)} at equal tokens"
    doubt = uncertainty(results, key)
    if settled(results, key) is False:
        doubt += ", which leaves the sign open"
    return sentence + (f" ({doubt})" if doubt else "")


def _alpha(alpha: dict[str, Any]) -> str:
    chosen = alpha.get("chosen")
    if chosen is None:
        return ""
    if chosen == 0:
        sentence = "The grid over α chose 0: progress added nothing to Q^π there"
    else:
        sentence = f"The grid over α, the weight of progress, chose {chosen:g}"
        if alpha.get("prover_k"):
            pick = (alpha.get("pick") or {}).get("beam_pav")
            sentence += f" with prover Bo{alpha['prover_k']} and final pick {pick!r}"
    if better := weights_above_zero(alpha):
        sentence += f"; accuracy is above that of Q^π alone at {better}"
    return sentence + "."


def _verifier(verifier: dict[str, Any]) -> str:
    auc = verifier.get("auc_within_problem") or {}
    if auc.get("last") is None:
        return ""
    sentence = (
        "Within a problem, the process verifier separates correct from wrong responses "
        f"with an AUC of {text.decimal(auc['last'], 3)} at the last step"
    )
    if auc.get("middle") is not None:
        sentence += f" and {text.decimal(auc['middle'], 3)} at the middle step"
    orm = (verifier.get("orm") or {}).get("auc_last")
    if orm is not None:
        sentence += f" (outcome verifier: {text.decimal(orm, 3)} at the last step)"
    return sentence + "."


def _equal_tokens(results: Results) -> dict[str, Any]:
    efficiency = results.get("compute_efficiency") or {}
    return efficiency.get("points_at_equal_tokens") or {}


def _reference_half_width(results: Results) -> float | None:
    rows = [
        row
        for row in results.get("search") or []
        if row.get("method") == "best_of_n_orm"
        and row.get("accuracy") is not None
        and text.known(row.get("ci"))
    ]
    if not rows:
        return None
    low, high = max(rows, key=lambda row: row["accuracy"])["ci"]
    return (high - low) / 2
