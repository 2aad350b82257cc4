"""What `pav advise` says of beams and of selection among samples."""

from collections.abc import Iterator, Sequence

from pav_jax.core.counts import counted
from pav_jax.tools.advice.budget import Apart, Bound, Versus
from pav_jax.tools.advice.estimates import TOO_FEW, Estimate
from pav_jax.tools.advice.line import Line, written


def versus_lines(found: Sequence[Versus]) -> Iterator[Line]:
    """Beams against selection among samples, as the run measured them."""
    for at in found:
        tokens = f"{at.tokens:,.0f} tokens"
        if at.points is None:
            low, high = at.measured
            place = "fewer" if at.tokens < low else "more"
            reason = f"{place} than were compared ({low:,.0f} to {high:,.0f} tokens)"
            yield Line(f"{at.method}, {tokens}", at.beam, reason, True)
            if at.reference:
                reason = f"the strongest ({at.selection}), as measured"
                yield Line(f"selection, {tokens}", at.reference, reason, True)
            continue
        reason, detail = _buy(at.points), at.method
        if at.beam and at.reference:
            beam, other = (
                written(x.value, percent=True) for x in (at.beam, at.reference)
            )
            reason += f" ({at.selection}: {other})"
            detail += f" {beam}"
        detail += f" less the strongest selection ({at.selection})"
        yield Line(f"points, {tokens}", at.points, reason, True, detail)


def _buy(points: Estimate) -> str:
    if not points.tells:
        return TOO_FEW
    if points.above_zero:
        return "beams are the better buy"
    if points.interval[1] < 0:
        return "selection is the better buy"
    return "no difference shown"


def apart_lines(found: Apart) -> Iterator[Line]:
    """Beams, and the nearest selection, where their tokens have nothing in common."""
    least, most = found.measured
    for tokens, accuracy in found.beams.items():
        place = "fewer" if tokens < least else "more"
        reason = f"{place} than any selection had: no comparison"
        detail = f"selection was measured at {least:,.0f} to {most:,.0f} tokens"
        name = f"{found.method}, {tokens:,.0f} tokens"
        yield Line(name, accuracy, reason, True, detail)
    for tokens, (name, accuracy) in found.selections.items():
        place = "least" if tokens == least else "most"
        reason = f"the strongest ({name}) at the {place} tokens"
        yield Line(f"selection, {tokens:,.0f} tokens", accuracy, reason, True)


def bound_lines(bound: Bound, why: str) -> Iterator[Line]:
    """What selection can reach at most, where no beams were measured.

    Args:
      bound: of Pass@N.
      why: there is only this.
    """
    if not bound.n:
        reason = "the budget is less than one response, read by a verifier"
        yield Line("selection", None, reason)
        return
    reason = f"Pass@{bound.n}, a bound, since {why}; of beams nothing is known"
    detail = (
        f"best of {bound.n} or a vote (about {counted(bound.tokens, 'token')}) is right"
        f" at most as often as Pass@{bound.n}"
    )
    if bound.n > bound.samples:
        detail += f", itself bounded from {counted(bound.samples, 'response')} each"
    yield Line(f"best of {bound.n}, at most", bound.accuracy, reason, True, detail)
