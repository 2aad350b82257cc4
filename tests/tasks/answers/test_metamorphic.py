r"""Every answer of MATH-500, rewritten and spoilt.

What keeps the meaning of an answer must stay right, and what changes it must be wrong:
a policy is trained on these grades, and finds every text that is wrongly accepted.
"""

import re
from collections.abc import Iterator

import pytest

from pav_jax.core.types import Grade
from pav_jax.tasks import grading

NUMBER = re.compile(r"(?<![0-9.,!])[0-9]+(?![0-9,{\\!]|\.[0-9])")
PLAIN = re.compile(r"-?\d*\.?\d+")
VALUE = re.compile(r"[-+0-9a-zA-Z^. ]+|[-0-9]*\\(?:d?frac|sqrt).*")


def is_plain(gold: str) -> bool:
    """Whether an answer is a number in digits."""
    return PLAIN.fullmatch(gold) is not None


def is_value(gold: str) -> bool:
    """Whether an answer is an expression: no list, no words, no unit, no relation."""
    return not re.search(r"[=_,%$:&]|\\(text|mbox|circ|in\b|pm|begin|cup|\{)", gold)


def rewritten(gold: str) -> Iterator[tuple[str, str]]:
    """(what was done, the answer in another spelling)."""
    yield "dollars", f"${gold}$"
    yield "parentheses", rf"\({gold}\)"
    yield "box", rf"\boxed{{{gold}}}"
    yield "period", gold + "."
    yield "braces", f"{{{gold}}}"
    yield "style", rf"\displaystyle {gold}"
    yield "space", f"  {gold}\n"
    yield "spaced operators", re.sub(r"(?<=[\w}])([-+=])(?=[\w\\{])", r" \1 ", gold)
    yield "spaced commas", re.sub(r",(?=[-\\\d])(?!\\!)(?!\d{3})", r",\\ ", gold)
    yield (
        "sized",
        re.sub(r"(?<!\\left)\(", r"\\left(", gold.replace(r"\left", "")).replace(
            r"\right", ""
        ),
    )
    for command in ("dfrac", "tfrac", "cfrac"):
        yield command, re.sub(r"\\[dt]?frac", rf"\\{command}", gold)
    yield "slashes", re.sub(r"^(-?)\\d?frac\{(\d+)\}\{(\d+)\}$", r"\1\2/\3", gold)
    yield "minus", gold.replace("-", "−")
    yield "root", re.sub(r"\\sqrt\{(\d)\}", r"\\sqrt\1", gold)
    yield "fonts", re.sub(r"\\(?:text|mbox)\s*\{", r"\\textbf{", gold)
    if words := re.fullmatch(r"\\text\{([A-Za-z]+)\}", gold):
        yield "bare word", words[1]
        yield "capitals", words[1].upper()
        yield "roman", rf"\textrm{{ {words[1]} }}"
    if choice := re.fullmatch(r"\\text\{\((\w)\)\}", gold):
        yield "letter", choice[1]
        yield "bold letter", rf"\textbf{{{choice[1]}}}"
        yield "bracketed letter", rf"\mathbf{{({choice[1]})}}"
    if is_plain(gold):
        yield "unit", rf"{gold}\text{{ units}}"
        yield "words", f"{gold} square inches"
        yield "percent", rf"{gold}\%"
        yield "money", rf"\${gold}"
        yield "degrees", rf"{gold}^\circ"
    if gold.endswith(r"^\circ"):
        yield "bare", gold.removesuffix(r"^\circ")
        yield "degree word", gold.removesuffix(r"^\circ") + " degrees"
        yield "degree text", gold.removesuffix(r"^\circ") + r"\text{ degrees}"
    if is_value(gold):
        yield "label", f"x = {gold}"
        yield "function label", f"f(n) = {gold}"
        yield "reversed label", f"{gold} = k"
        yield "algebra", rf"\frac{{2({gold})}}{{2}}"
        yield "a term more", f"7+({gold})-7"
        yield "halves", rf"\frac12({gold})+0.5({gold})"
        yield "set", rf"\{{{gold}\}}"
    pair = re.fullmatch(r"\(([-\w\\]+),([-\w\\]+)\)", gold.replace(" ", ""))
    if pair and r"\infty" not in gold:
        yield "named pair", f"(x,y) = {gold}"
        yield "coordinates", f"x = {pair[1]}, y = {pair[2]}"
        yield "open interval", f"{pair[1]} < x < {pair[2]}"
    if re.fullmatch(r"-?\d+(, ?-?\d+)+", gold) and not re.fullmatch(r"\d+,\d{3}", gold):
        parts = gold.replace(" ", "").split(",")
        yield "reversed", ", ".join(parts[::-1])
        yield "and", ", ".join(parts[:-1]) + r", \text{ and } " + parts[-1]
        yield "or", " or ".join(parts)
        yield "set", rf"\{{{','.join(parts)}\}}"
    yield "brackets of a matrix", gold.replace("pmatrix", "bmatrix")
    array = re.sub(r"\\begin\{pmatrix\}", r"\\left(\\begin{array}{ccc}", gold)
    yield "array", array.replace(r"\end{pmatrix}", r"\end{array}\right)")


def spoilt(gold: str) -> Iterator[tuple[str, str]]:
    """(what was done, an answer that is another one)."""
    for match in NUMBER.finditer(gold):
        before, after = gold[: match.start()], gold[match.end() :]
        number = int(match[0])
        yield "one more", f"{before}{number + 1}{after}"
        yield "a digit more", f"{before}{number}7{after}"
        if number > 9 and not re.search(
            r"\\[dt]?frac *[0-9]?$", before
        ):  # \frac 34 is \frac 3 4
            yield "torn", f"{before}{match[0][0]} {match[0][1:]}{after}"
    if gold != "0":
        yield "negative", f"-({gold})" if is_value(gold) else f"-{gold}"
    for sign, other in (("+", "-"), ("-", "+")):
        if sign in gold[1:]:
            yield "a sign", gold[0] + gold[1:].replace(sign, other, 1)
    yield "another variable", re.sub(r"(?<![a-zA-Z\\{])[a-hj-z](?![a-zA-Z])", "q", gold)
    yield "no minus", gold.replace("-", "", 1)
    yield "half a list", gold.rpartition(",")[0] if ", " in gold else ""
    yield "brackets", gold.replace("(", "[") if r"\text" not in gold else ""
    yield "exponents", re.sub(r"\^(\d)", r" \1", gold)
    if is_value(gold) and gold != "0":
        yield "a little more", f"{gold}+10^{{-40}}"
        yield "hardly more", rf"{gold}+\frac{{1}}{{2004!}}"
        yield "imaginary", rf"({gold})\mathrm{{i}}"
        yield "a variable more", f"({gold})w"
        yield "million", rf"({gold})\text{{ million}}"
        yield "twice x", f"2x = {gold}"
        yield "x squared", f"x^2 = {gold}"
        yield "a sum of two", f"x+z = {gold}"
        yield "at least", rf"\text{{at least }} {gold}"
        yield "or more", rf"{gold}\text{{ or more}}"
        yield "not", rf"\text{{not }} {gold}"
        yield "at most", rf"x \le {gold}"
        yield "two answers", f"{gold}, 1+({gold})"
        yield "a pair", f"({gold}, {gold})"
        yield "in words", rf"\text{{the answer plus }} {gold}"
    if words := re.fullmatch(r"\\text\{([A-Za-z]{3,})\}", gold):
        yield "not the word", rf"\text{{not {words[1]}}}"
        yield "letters", words[1][::-1]
    if choice := re.fullmatch(r"\\text\{\((\w)\)\}", gold):
        yield "the next letter", chr(ord(choice[1]) + 1)
        yield "two letters", choice[1] * 2
    if gold.endswith(r"^\circ"):
        yield "another unit", gold.replace(r"^\circ", r"\text{ cm}")
        yield "radians", gold.replace(r"^\circ", r"\text{ radians}")


def same_text(gold: str, answer: str) -> bool:
    return not answer or gold.split() == answer.split()


@pytest.mark.slow
@pytest.mark.parametrize("change", [rewritten, spoilt])
def test_answers_of_math500(math500, change):
    want_correct = change is rewritten
    pairs, changes = [], []
    for gold in dict.fromkeys(row["answer"].strip() for row in math500):
        for done, answer in change(gold):
            if want_correct or not same_text(gold, answer):
                pairs.append((gold, rf"\boxed{{{answer}}}"))
                changes.append(done)
    grades = grading.grade_all(pairs)
    assert len(pairs) > 3000
    wrong = [
        (done, *pair, grade.value)
        for pair, done, grade in zip(pairs, changes, grades, strict=True)
        if (grade is Grade.CORRECT) != want_correct
    ]
    assert not wrong
