"""What each number advises: the lines of `pav advise`, as text and as JSON."""

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pav_jax.core.counts import counted
from pav_jax.tools.advice import provers, siblings
from pav_jax.tools.advice.budget import Apart, Bound, Versus
from pav_jax.tools.advice.estimates import FEWEST, Estimate
from pav_jax.tools.advice.labelled import KS, Labelled, bok
from pav_jax.tools.advice.noise import Noise
from pav_jax.tools.advice.sparsity import Sparsity

_NAME, _NUMBER, _WIDTH = 27, 28, 118
_TOO_FEW = f"too few problems to tell (it takes {FEWEST})"


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of advice.

    Attributes:
      name: of the number.
      estimate: it, and its interval; None where only the reason is known.
      reason: what it is, and what follows from it.
      percent: whether text shows it in percent.
    """

    name: str
    estimate: Estimate | None
    reason: str
    percent: bool = False

    def as_json(self) -> dict[str, Any]:
        """The same as values that JSON has."""
        found = self.estimate
        return {
            "name": self.name,
            "value": None if found is None else found.value,
            "interval": None if found is None else found.interval,
            "reason": self.reason,
        }

    def text(self) -> str:
        """The same for a screen."""
        number = "-" if self.estimate is None else _shown(self.estimate, self.percent)
        head = f"  {self.name:<{_NAME}} {number:<{_NUMBER}} "
        return textwrap.fill(
            self.reason,
            _WIDTH,
            initial_indent=head,
            subsequent_indent=" " * (_NAME + _NUMBER + 4),
        )


def _shown(found: Estimate, percent: bool) -> str:
    """A number and its interval, for a screen."""

    def written(value):
        return f"{value:.1%}" if percent else f"{value:.3g}"

    if found.interval is None:
        return f"{written(found.value)} (no interval)"
    low, high = map(written, found.interval)
    return f"{written(found.value)} [{low}, {high}]"


def prover_lines(labelled: Labelled) -> Iterator[Line]:
    """Terms of Theorem 3.1, and which K their sum prefers."""
    found = provers.candidates(labelled)
    for candidate in found:
        name = candidate.name
        yield Line(
            f"{name} distinguishability",
            candidate.distinguishability,
            "how much its progress differs between steps of a state",
        )
        yield Line(
            f"{name} alignment",
            candidate.alignment,
            "how it agrees with A of π itself: what a small natural step gains by it",
        )
    if choice := provers.preference(found):
        name = f"sum: {choice.best} less {choice.second}"
        if choice.margin.above_zero:
            reason = f"take {choice.best}: its sum is above that of every other"
        elif choice.margin.tells:
            reason = "no preference: these two are not shown to differ"
        else:
            reason = f"no preference: {_TOO_FEW}"
        yield Line(name, choice.margin, reason)
    if labelled.n_cov < 2:
        yield Line(
            "no terms",
            None,
            f"config.rollouts.n_cov={labelled.n_cov}: how steps of one state differ"
            " takes two responses of a problem or more; raise it to 2",
        )
    missing = [k for k in KS if 2 * k > labelled.n_mc]
    if missing:
        yield Line(
            " to ".join(dict.fromkeys((bok(missing[0]), bok(missing[-1])))),
            None,
            f"BoK takes config.labels.n_mc=2K: {2 * missing[0]} for {bok(missing[0])};"
            f" it is {labelled.n_mc}",
        )


def noise_lines(labelled: Labelled, found: Noise | None) -> Iterator[Line]:
    """How much of the labels is chance, and what other splits would give."""
    if found is None:
        if labelled.n_mc < 2:
            reason = "one outcome does not say what is noise; config.labels.n_mc=2 does"
        else:
            reason = "all labels are equal: there is nothing to tell apart"
        yield Line("noise of Q", None, reason)
        return
    reason = "of the variance of Q_mc over prefixes is binomial noise"
    yield Line("noise of Q", found.values, reason, True)
    reason = "of the mean square of what a step changes Q_mc by"
    yield Line("noise of progress", found.progress, reason, True)
    now, *others = found.splits
    for split in others:
        gain = split.reliability.value / max(now.reliability.value, 1e-12)
        reason = (
            f"reliability then ({now.reliability.value:.1%} now), of"
            f" {split.responses:g} times the responses for {split.tokens:.2f} times the"
            f" tokens: worth {gain * split.responses:.2f} times these labels"
        )
        if split.responses * labelled.n_cov >= 1:  # else it has fewer problems
            reason += f", or {gain:.2f} if responses to a problem are all alike"
        yield Line(f"with n_mc={split.n_mc}", split.reliability, reason, True)


def sparsity_lines(labelled: Labelled, found: Sparsity) -> Iterator[Line]:
    """Whether the labels teach anything, and whose would."""
    yield Line("base rate", found.base, "responses of π that are correct", True)
    for name, seen, chance in (
        ("problems", found.problems, found.problems_by_chance),
        ("prefixes", found.prefixes, found.prefixes_by_chance),
    ):
        reason = f"no correct continuation; {_shown(chance, True)} by chance if all"
        reason += f" {name} were alike{_more(seen, chance)}"
        yield Line(f"{name} without success", seen, reason, True)
    own = found.progress.get("π")
    if own is None:
        reason = "config.labels.n_mc=1 does not tell progress from noise; 2 does"
        yield Line("progress of a step", None, reason)
        return
    few = found.problems.tells and found.problems.interval[0] > 0.5
    if not own.tells:
        reason = f"whether these labels teach: {_TOO_FEW}"
    elif own.interval == (0.0, 0.0):
        reason = "these labels teach nothing: no step changes Q_mc"
    elif not own.above_zero:
        reason = "not shown to teach: whether steps change Q is left open"
    elif few:
        part = 1 - found.problems.value
        reason = f"these labels teach, but on {part:.0%} of the problems only"
    else:
        reason = "these labels teach: steps change the chance of success"
    yield Line("mean square of A, π", own, reason)
    if own.tells and (few or not own.above_zero):
        yield _teacher(labelled, found)


def _more(seen: Estimate, chance: Estimate) -> str:
    """What a share above that by chance says."""
    if not (seen.tells and chance.tells):
        return ""
    return "; some have next to none" if seen.interval[0] > chance.interval[1] else ""


def _teacher(labelled: Labelled, found: Sparsity) -> Line:
    """Which prover's labels would teach, if its own do not, or on few problems."""
    taught = {name: x for name, x in found.progress.items() if x.above_zero}
    if others := [name for name in taught if name in labelled.others]:
        name = max(others, key=lambda name: taught[name].value)
        reason = f"the prover {name} teaches: its Q differs between steps"
        return Line(f"mean square of A, {name}", taught[name], reason)
    rate = found.base.value
    if rate > 0.5:
        return Line("a prover that would", None, "success is common: harder problems")
    if rate == 0:
        reason = (
            "no BoK differs where π never succeeds: an entry of config.provers that is"
            " a stronger policy"
        )
        return Line("a prover that would", None, reason)
    # d Q^BoK / d Q at the base rate: how much further apart it takes two values.
    apart = {k: k * (1 - rate) ** (k - 1) for k in KS}
    wanted = max(KS, key=apart.__getitem__)
    reason = (
        f"at this base rate Bo{wanted} takes values {apart[wanted]:.1f} times as far"
        f" apart as π; config.labels.n_mc={2 * wanted} tells whether they differ, or"
        " config.provers has a stronger policy"
    )
    ks = [k for k in KS[1:] if bok(k) in taught]
    if not ks:
        return Line("a prover that would", None, reason)
    if ks[-1] >= wanted:
        reason = "its Q differs between steps; of no higher K is that shown"
    else:
        reason = f"its Q differs between steps; {reason}"
    return Line(f"mean square of A, {bok(ks[-1])}", taught[bok(ks[-1])], reason)


def verifier_lines(
    evaluation: Mapping[str, Any], viewer: Sequence[Mapping]
) -> Iterator[Line]:
    """Whether a verifier tells steps of one place apart."""
    for name, is_sibling in (("same step", False), ("siblings", True)):
        order, pairs = siblings.told_apart(viewer, siblings=is_sibling)
        where = "after the same steps" if is_sibling else "with as many steps before"
        reason = f"of {counted(pairs, 'pair')} {where} are ordered by Q as by Monte"
        yield Line(f"order, {name}", order, f"{reason} Carlo: {_verdict(order)}", True)
    auc = evaluation["auc_within_problem"]
    for key, reason in (
        (
            "error_so_far_same_step",
            "AUC against no error so far, with as many steps; stage evaluation"
            " writes no interval",
        ),
        ("last", "AUC of whole responses, which best-of-N follows; likewise"),
    ):
        if auc.get(key) is not None:
            yield Line(key, Estimate(auc[key], None), reason)
    reason = "error of Q (root mean square) against near-exact values; likewise"
    yield Line("q_rmse", Estimate(evaluation["q_rmse"], None), reason)


def _verdict(order: Estimate | None) -> str:
    if order is None or not order.tells:
        return _TOO_FEW
    low, high = order.interval
    if low > 0.5:
        return "told apart, so search and RL can follow it"
    if high < 0.5:
        return "the wrong way round; search and RL would follow errors"
    return (
        "not shown to be told apart (chance is 50%); more problems may show it, and if"
        " they are not, search and RL follow noise"
    )


def versus_lines(found: Sequence[Versus]) -> Iterator[Line]:
    """Beams against selection among samples, as the run measured them."""
    for at in found:
        tokens = f"{at.tokens:,.0f} tokens"
        if at.points is None:
            low, high = at.measured
            place = "fewer" if at.tokens < low else "more"
            yield Line(
                f"{at.method}, {tokens}",
                at.beam,
                f"{place} than where both were measured ({low:,.0f} to {high:,.0f}): no"
                " comparison",
                True,
            )
        else:
            reason = f"{at.method} less the strongest selection ({at.selection}):"
            reason += f" {_buy(at.points)}"
            if at.beam and at.reference:
                found = f"{at.beam.value:.1%} to {at.reference.value:.1%}"
                reason += f" ({found})"
            yield Line(f"points, {tokens}", at.points, reason, True)
        if at.points is None and at.reference:
            reason = f"the strongest ({at.selection}), as measured"
            yield Line(f"selection, {tokens}", at.reference, reason, True)


def _buy(points: Estimate) -> str:
    if not points.tells:
        return _TOO_FEW
    if points.above_zero:
        return "beams are the better buy"
    if points.interval[1] < 0:
        return "selection is the better buy"
    return "no difference shown; selection is simpler"


def apart_lines(found: Apart) -> Iterator[Line]:
    """Beams, and the nearest selection, where their tokens have nothing in common."""
    least, most = found.measured
    for tokens, accuracy in found.beams.items():
        reason = (
            f"{'fewer' if tokens < least else 'more'} than any selection was measured"
            f" at ({least:,.0f} to {most:,.0f}): no comparison"
        )
        yield Line(f"{found.method}, {tokens:,.0f} tokens", accuracy, reason, True)
    for tokens, (name, accuracy) in found.selections.items():
        reason = (
            f"the strongest ({name}) at the {'least' if tokens == least else 'most'}"
        )
        name = f"selection, {tokens:,.0f} tokens"
        yield Line(name, accuracy, f"{reason} tokens", True)


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
    cost = counted(bound.tokens, "token")
    reason = (
        f"a bound, since {why}: best of {bound.n} or a vote (about {cost}) is right at"
        f" most as often as Pass@{bound.n}"
    )
    if bound.n > bound.samples:
        reason += f", itself bounded from {counted(bound.samples, 'response')} each"
    reason += "; whether beams are a better buy is not known"
    yield Line(f"best of {bound.n}, at most", bound.accuracy, reason, True)
