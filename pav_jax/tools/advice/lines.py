"""What the numbers of labels and of a verifier advise: the lines of `pav advise`."""

from collections.abc import Iterator, Sequence

from pav_jax.core.counts import counted
from pav_jax.tools.advice import provers, siblings
from pav_jax.tools.advice.estimates import TOO_FEW, Estimate
from pav_jax.tools.advice.labelled import KS, Labelled, bok
from pav_jax.tools.advice.line import Line, shown, written
from pav_jax.tools.advice.noise import Noise, Split
from pav_jax.tools.advice.provers import Candidate, Preference
from pav_jax.tools.advice.sparsity import Sparsity
from pav_jax.tools.advice.verifier import Evaluated

_NO_SUMS = "; no sums by problem kept"
# Where a measure of a verifier is from, by its source.
_FROM = {
    "": "of stage evaluation, whose by_problem.json has the sums of each problem",
    "samples": "of stage samples, on test problems: stage evaluation has no"
    " by_problem.json",
    "viewer": "of the inner steps in viewer.json: stage evaluation has no"
    " by_problem.json",
    "no sums": "of stage evaluation, which has no by_problem.json, so that there is no"
    " interval; made again by this version (its folder removed) it has",
}
FEW_PAIRS = 100  # of steps, below which a line says that they are few
_EXACT = "where values are exact (docs/paper.md, theorem31_exact)"


def prover_lines(labelled: Labelled) -> Iterator[Line]:
    """Terms of Theorem 3.1, and which prover each of them prefers, for which step."""
    found = provers.candidates(labelled)
    for candidate in found:
        yield from _candidate_lines(candidate)
    if not found:
        reason = "config.labels.n_mc=1 does not tell progress from noise; 2 does"
        yield Line("no terms", None, reason)
    missing = [k for k in KS if k >= labelled.n_mc]
    if missing:
        yield Line(
            " to ".join(dict.fromkeys((bok(missing[0]), bok(missing[-1])))),
            None,
            f"BoK takes config.labels.n_mc=2K: {2 * missing[0]} for {bok(missing[0])};"
            f" it is {labelled.n_mc}",
            detail="its alignment alone takes K + 1",
        )
    if len(found) < 2:
        return
    if choice := provers.by_alignment(found):
        yield Line(
            f"alignment: {choice.best} less {choice.second}",
            choice.margin,
            "for a small natural step, whose gain alignment ranks (correlation 1.00):"
            f" {_best(choice)}",
            detail="to first order such a step gains by alignment alone; its rank"
            f" correlation with the gain is 0.998 [0.997, 1.000] {_EXACT}",
        )
    yield _sum_line(labelled, found)
    yield Line(
        "with Adam",
        None,
        "no term ranks provers by their gain",
        detail="rank correlations with the gain in ten steps: of the sum -0.17 [-0.41,"
        " 0.07], of alignment 0.14 [-0.07, 0.35], of distinguishability -0.23 [-0.47,"
        f" 0.01], {_EXACT}",
    )


def _candidate_lines(found: Candidate) -> Iterator[Line]:
    """The terms of a prover: one line for the screen, and each term for JSON."""
    name, known = f"{found.name} distinguishability", found.distinguishability
    terms = []
    if known is not None:
        where = "every step"
        if found.total:
            where = "the states that two responses share, mostly early ones"
        terms.append((name, known, f"E_s Var[A] over steps from a state, at {where}"))
    for end, bound in (("least", found.at_least), ("most", found.at_most)):
        if bound is not None:
            terms.append((f"{name}, at {end}", bound, "a bound, over every step"))
    yield Line(
        f"{found.name} alignment",
        found.alignment,
        _distinguishability(found),
        detail="E_s E[A^μ A^π], over every step: what a small natural step gains by"
        " this prover, to first order",
    )
    for name, estimate, reason in terms:
        yield Line(name, estimate, reason, screen=False)


def _distinguishability(found: Candidate) -> str:
    known, low, high = found.distinguishability, found.at_least, found.at_most
    if known is not None:
        at = " at shared states" if found.total else ""
        own = "; μ = π changes nothing" if found.name == bok(1) else ""
        return f"D {shown(known)}{at}{own}"
    if low is not None and high is not None:
        ends = sorted((low.value, high.value))  # they may cross by chance
        text = f"D {written(ends[0])} to {written(ends[1])}"
        if low.interval and high.interval:
            least, most = zip(low.interval, high.interval, strict=True)
            text += f" [{written(min(least))}, {written(max(most))}]"
        return f"{text}, bounds"
    if high is not None:
        return f"D at most {shown(high)}"
    return "D is not known" if low is None else f"D at least {shown(low)}"


def _best(choice: Preference) -> str:
    if choice.margin.above_zero:
        return f"{choice.best} is best"
    return "none shown best" if choice.margin.tells else TOO_FEW


def _sum_line(labelled: Labelled, found: Sequence[Candidate]) -> Line:
    """Which prover the sum prefers, or why it does not say."""
    detail = (
        "a large natural step is ranked by the sum, rank correlation 0.94 [0.91, 0.98],"
        f" and by distinguishability, 0.93, {_EXACT}; a small one worse than by"
        " alignment, 0.88 [0.81, 0.95]"
    )
    what = "for a large natural step, whose gain the sum ranks (correlation 0.94)"
    if choice := provers.preference(found):
        reason = f"{what}: {_best(choice)}"
        if not all(candidate.total for candidate in found):
            reason += " of those with D"
        detail += "; both terms are at the states that two responses share"
        name = f"sum: {choice.best} less {choice.second}"
        return Line(name, choice.margin, reason, detail=detail)
    takes = "for a large natural step config.rollouts.n_cov=2 tells it"
    detail += (
        "; of a prover that is another policy distinguishability takes from_policy=2 in"
        " config.provers as well"
    )
    if choice := provers.by_bounds(found):
        reason = f"{what}: {_best(choice)}"
        if choice.margin.tells and not choice.margin.above_zero:
            reason = f"at least, with D between its bounds; {takes}"
        detail += "; the number is the least that it can be, by the bounds"
        name = f"sum: {choice.best} less {choice.second}"
        return Line(name, choice.margin, reason, detail=detail)
    if labelled.n_mc < 2:
        takes = takes.replace("tells it", "and config.labels.n_mc=2 tell it")
    return Line("sum", None, f"D is not known; {takes}", detail=detail)


def noise_lines(labelled: Labelled, found: Noise | None) -> Iterator[Line]:
    """How much of the labels is chance, and what other splits would give."""
    if found is None:
        if labelled.n_mc < 2:
            reason = "one outcome does not say what is noise; config.labels.n_mc=2 does"
        else:
            reason = "all labels are equal: nothing to tell apart"
        yield Line("noise of Q", None, reason)
        return
    reason = "of the variance of Q_mc"
    if found.progress is not None:
        reason += f"; of A: {shown(found.progress, percent=True)}"
    detail = "binomial noise, as a share of the variance over prefixes"
    yield Line("noise of Q", found.values, reason, True, detail)
    reason = "of the mean square of what a step changes Q_mc by"
    yield Line("noise of progress", found.progress, reason, True, screen=False)
    best = max(found.splits, key=lambda s: s.worth.value if s.worth else 0.0)
    for split in found.splits:
        near = split.n_mc >= labelled.n_mc / 4
        yield from _split_lines(labelled, split, screen=near or split is best)


def _split_lines(labelled: Labelled, split: Split, *, screen: bool) -> Iterator[Line]:
    """A split of the same tokens: one line for the screen, and each number for JSON."""
    name = f"n_mc={split.n_mc}"
    count = counted(split.responses * len(labelled.responses), "response")
    if split.n_mc == labelled.n_mc:
        yield Line(name, split.reliability, f"{count}: as it is", True, screen=screen)
        return
    if split.worth is None:
        reason = f"{count}: nothing is reliable, whatever n_mc"
    elif split.alike is None:
        reason = f"{count}: worth {shown(split.worth)}"
    else:
        alike, worth = split.alike.value, split.worth.value
        reason = f"{count}: worth {worth:.2f}, or {alike:.2f} if all alike"
    detail = (
        f"{split.responses:.3f} times the labelled responses for the same tokens, which"
        " are that many times the problems, or, of the same problems,"
        f" config.rollouts.n_cov={split.responses * labelled.n_cov:.2f}"
    )
    yield Line(name, split.reliability, reason, True, detail, screen)
    for estimate, what in (
        (split.worth, "if no two prefixes are alike"),
        (split.alike, "if further responses to a problem say nothing new"),
    ):
        if estimate is not None:
            reason = f"times these labels, {what}"
            yield Line(f"worth of {name}", estimate, reason, screen=False)


def sparsity_lines(labelled: Labelled, found: Sparsity) -> Iterator[Line]:
    """Whether the labels teach anything, and whose would."""
    yield Line("base rate", found.base, "responses of π that are correct", True)
    for name, seen, chance in (
        ("problems", found.problems, found.problems_by_chance),
        ("prefixes", found.prefixes, found.prefixes_by_chance),
    ):
        reason = f"{shown(chance, percent=True)} by chance{_more(seen, chance)}"
        detail = (
            "without a correct continuation, and what that would be if all were alike"
        )
        yield Line(f"{name} never solved", seen, reason, True, detail)
    own = found.progress.get("π")
    if own is None:
        reason = "config.labels.n_mc=1 does not tell progress from noise; 2 does"
        yield Line("progress of a step", None, reason)
        return
    few = found.problems.tells and found.problems.interval[0] > 0.5
    if not own.tells:
        reason = f"whether these labels teach: {TOO_FEW}"
    elif own.interval == (0.0, 0.0):
        reason = "these labels teach nothing: no step changes Q_mc"
    elif not own.above_zero:
        reason = "not shown to teach: whether steps change Q is open"
    elif few:
        part = 1 - found.problems.value
        reason = f"these labels teach, but on {part:.0%} of problems only"
    else:
        reason = "these labels teach: steps change success"
    yield Line("mean square of A, π", own, reason)
    if own.tells and (few or not own.above_zero):
        yield _teacher(labelled, found)


def _more(seen: Estimate, chance: Estimate) -> str:
    """What a share above that by chance says."""
    if not (seen.tells and chance.tells):
        return ""
    return "; some next to none" if seen.interval[0] > chance.interval[1] else ""


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


def verifier_lines(found: Evaluated) -> Iterator[Line]:
    """Whether a verifier tells steps of one place apart, and whole responses."""
    for name, is_sibling in (("same step", False), ("siblings", True)):
        order, pairs = siblings.told_apart(found.viewer, siblings=is_sibling)
        where = "after the same steps" if is_sibling else "as many steps in"
        few, detail = "", ""
        if 0 < pairs < FEW_PAIRS:
            few = " (few)"
            detail = (
                "config.evaluation.oracle_n and config.evaluation.oracle_problems give"
                " more pairs"
            )
        reason = f"of {counted(pairs, 'pair')}{few} {where}: {_verdict(order)}"
        if not pairs:
            reason = f"no pair {where} differs in value"
        yield Line(f"order, {name}", order, reason, True, detail)
    same_step, source = found.auc("error_so_far_same_step")
    if same_step is not None:
        reason = "AUC of no error so far"
        reason += _NO_SUMS if source == "no sums" else ", with as many steps"
        yield Line("error_so_far_same_step", same_step, reason, detail=_FROM[source])
    last, source = found.auc("last")
    orm, _ = found.auc("orm_last")
    if last is not None:
        reason = f"AUC of responses{_NO_SUMS if source == 'no sums' else ''}"
        if orm is not None:
            reason += f"; of the ORM {shown(orm)}"
        yield Line("last", last, reason, detail=_FROM[source])
    if orm is not None:
        reason = "AUC of responses by the ORM, which best-of-N follows"
        yield Line("orm_last", orm, reason, detail=_FROM[source], screen=False)
    error, source = found.q_error()
    reason = "error of Q, root mean square"
    reason += _NO_SUMS if source == "no sums" else ", near-exact values"
    yield Line("q_rmse", error, reason, detail=_FROM[source])


def _verdict(order: Estimate | None) -> str:
    if order is None or not order.tells:
        return TOO_FEW
    low, high = order.interval
    if low > 0.5:
        return "told apart"
    if high < 0.5:
        return "the wrong way round; search and RL would follow errors"
    return "not shown to be told apart (chance is 50%)"
