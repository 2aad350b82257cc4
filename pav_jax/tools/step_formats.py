"""The formats in which step labels are published: how a row of each is read.

A row is a JSON object that others wrote. Each parser gives the responses of a row in
steps, just as the row has them: no text is split at newlines. It raises ValueError if
the row is bad, and `LeftOut` if the row is good but of no use.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

from pav_jax.storage.imports import LabelledText, Meaning
from pav_jax.tools import jsonl

Row = dict[str, Any]


class LeftOut(Exception):
    """A row that is not used; its message ends a sentence that starts "a line"."""


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of step labels.

    Attributes:
      keys: fields that each row has.
      layout: what each row is, for messages.
      parse: the responses of a row.
      meanings: what the labels may mean; the first unless the user says otherwise.
      outcome_field: which says whether the final answer is right; None without one.
    """

    keys: tuple[str, ...]
    layout: str
    parse: Callable[[Row], list[LabelledText]]
    meanings: tuple[Meaning, ...]
    outcome_field: str | None


def layout(name: str, flag: str = "--from") -> str:
    """What a file of a format, asked for by a flag, is: for messages."""
    return (
        f"{flag}={name} expects a JSON object a line, or a JSON list of them, in UTF-8,"
        f" each with {FORMATS[name].layout}; the file may be gzipped, but not Parquet"
        " (the package datasets writes JSON lines with to_json)"
    )


def parse(name: str, row: Any) -> list[LabelledText]:
    """The responses of a row of `jsonl.rows`, in a format.

    Raises:
      ValueError: the row is bad, or of another format.
      LeftOut: the row is of no use.
    """
    row = jsonl.as_object(row)
    form = FORMATS[name]
    if missing := [key for key in form.keys if key not in row]:
        others = [f"--from={name}" for name in _looks_like(row)]
        like = f"; it looks like {' or '.join(others)}" if others else ""
        raise ValueError(f"no field {missing[0]!r}{like}")
    return form.parse(row)


def _looks_like(row: Row) -> list[str]:
    """The formats whose fields a row has."""
    return [name for name, found in FORMATS.items() if row.keys() >= {*found.keys}]


def _text(row: Row, field: str) -> str:
    text = row.get(field)
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"no text in field {field!r}")
    return _clean(text, field)


def _clean(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} has half a surrogate pair") from None
    return text


def _object(row: Row, field: str) -> Row:
    if not isinstance(row.get(field), dict):
        raise ValueError(f"no JSON object in field {field!r}")
    return row[field]


def _list(row: Row, field: str, count: int | None = None) -> list[Any]:
    found = row.get(field)
    if not isinstance(found, list) or not found:
        raise ValueError(f"no list in field {field!r}")
    if count is not None and len(found) != count:
        raise ValueError(f"{count} steps, but {len(found)} of field {field!r}")
    return found


def _steps(row: Row, field: str) -> tuple[str, ...]:
    steps = _list(row, field)
    for number, step in enumerate(steps, start=1):
        if not isinstance(step, str) or not step.strip():
            raise ValueError(f"step {number} in field {field!r} is no text, or empty")
        _clean(step, f"step {number}")
    return tuple(steps)


def _flag(row: Row, field: str, default: bool | None) -> bool | None:
    value = row.get(field)
    if value is not None and not isinstance(value, bool):
        raise ValueError(f"field {field!r} is {value!r}; true or false is right")
    return default if value is None else value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# PRM800K. Trees of steps: a solution, and other completions of its prefixes.


def _prm800k(row: Row) -> list[LabelledText]:
    """The solution that was chosen, and each other completion after what is before it.

    Rows that check the labellers, who all got the same, and those that they could not
    finish are left out. A rating of 0 is of a step that is right but makes no progress.
    """
    for field in ("is_quality_control_question", "is_initial_screening_question"):
        if row.get(field) is True:
            raise LeftOut(f"with {field}")
    prompt, label = _text(_object(row, "question"), "problem"), _object(row, "label")
    reason = label.get("finish_reason")
    if reason in ("bad_problem", "give_up"):
        raise LeftOut(f"with finish_reason {reason!r}")
    solution, others = [], []
    for number, step in enumerate(_list(label, "steps"), start=1):
        if not isinstance(step, dict):
            raise ValueError(f"step {number} is no JSON object")
        choice = _choice(step, number)
        for other in _rated(step, number):
            if other != choice and other[1] is not None:
                others.append(_of_ratings(prompt, [*solution, other], len(solution)))
        if choice is None:
            break
        solution.append(choice)
    if not solution and not others:
        raise ValueError("no step has a rating")
    if any(rating is not None for _, rating in solution):
        whole = _of_ratings(prompt, solution, 0)
        if reason == "solution":  # which is one with the right answer
            whole = dataclasses.replace(whole, finished=True, outcome=True)
        others.insert(0, whole)
    return others


_Rated = tuple[str, int | None]  # a step, and its rating


def _rated(step: Row, number: int) -> list[_Rated]:
    completions = step.get("completions") or []
    if not isinstance(completions, list):
        raise ValueError(f"step {number} has no list of completions")
    found = []
    for completion in completions:
        if not isinstance(completion, dict):
            raise ValueError(f"a completion of step {number} is no JSON object")
        rating = completion.get("rating")
        if rating is not None and not (_is_int(rating) and -1 <= rating <= 1):
            raise ValueError(
                f"a rating of step {number} is {rating!r}; -1, 0 or 1 is right"
            )
        found.append((_text(completion, "text"), rating))
    return found


def _choice(step: Row, number: int) -> _Rated | None:
    """The completion that the solution goes on with; None if it ends before."""
    place, human = step.get("chosen_completion"), step.get("human_completion")
    if place is not None:
        completions = _rated(step, number)
        if not _is_int(place) or not 0 <= place < len(completions):
            raise ValueError(
                f"chosen_completion of step {number} is {place!r}, of"
                f" {len(completions)} completions"
            )
        return completions[place]
    if human is None:
        return None
    # A text in the documentation, an object with it in files. Labellers wrote one
    # where all completions were wrong, so it counts as right.
    return _text(human if isinstance(human, dict) else {"text": human}, "text"), 1


def _of_ratings(prompt: str, rated: Sequence[_Rated], first: int) -> LabelledText:
    return LabelledText(
        prompt=prompt,
        steps=tuple(text for text, _ in rated),
        correct=tuple(int(rating in (0, 1)) for _, rating in rated),
        count=tuple(int(rating is not None) for _, rating in rated),
        first=first,
        finished=False,
    )


# Math-Shepherd. Two texts: a tag ends each step of one, a sign in the other.

_TAG = "ки"
_FIRST_STEP = re.compile("step 1:", re.IGNORECASE)


def _math_shepherd(row: Row) -> list[LabelledText]:
    """The steps between the tags; the first starts with its "Step 1:".

    The last label is of the whole response, so it is also the outcome.
    """
    *pieces, rest = _text(row, "input").split(_TAG)
    label, place, signs = _text(row, "label"), 0, []
    if not pieces:
        raise ValueError(f"no tag {_TAG!r} in field 'input'")
    for number, piece in enumerate(pieces, start=1):
        if not label.startswith(piece, place):
            raise ValueError(f"input and label differ before tag {number}")
        place += len(piece) + 1
        signs.append(label[place - 1 : place])
        if signs[-1] not in ("+", "-"):
            raise ValueError(
                f"label has {signs[-1]!r} at tag {number}; '+' or '-' is right"
            )
    if rest.strip() or label[place:].strip():
        raise ValueError("there is text after the last tag")
    starts = [match.start() for match in _FIRST_STEP.finditer(pieces[0])]
    if len(starts) != 1:
        raise ValueError(
            f"'Step 1:' is {len(starts)} times before the first tag; once is right,"
            " since the question ends there"
        )
    steps = [pieces[0][starts[0] :], *pieces[1:]]
    good = tuple(int(sign == "+") for sign in signs)
    found = LabelledText(
        prompt=pieces[0][: starts[0]].strip(),
        steps=tuple(step.strip() for step in steps),
        correct=good,
        count=(1,) * len(good),
        outcome=bool(good[-1]),
    )
    _text({"prompt": found.prompt}, "prompt")
    _steps({"input": list(found.steps)}, "input")
    return [found]


# The stepwise format of TRL, ProcessBench, and our own: steps are lists.


def _trl(row: Row) -> list[LabelledText]:
    if isinstance(row.get("prompt"), list):
        raise ValueError("prompt is a list of messages; a text is right")
    prompt, steps = _text(row, "prompt"), _steps(row, "completions")
    labels = _list(row, "labels", len(steps))
    for number, label in enumerate(labels, start=1):
        if not isinstance(label, int) or label not in (0, 1):
            raise ValueError(f"label {number} is {label!r}; true or false is right")
    return [LabelledText(prompt, steps, tuple(map(int, labels)), (1,) * len(steps))]


def _processbench(row: Row) -> list[LabelledText]:
    """All steps before the first error are right, and no prefix from there on."""
    prompt, steps = _text(row, "problem"), _steps(row, "steps")
    error = row.get("label")
    if not _is_int(error) or not -1 <= error < len(steps):
        raise ValueError(
            f"label is {error!r}; the index of the first wrong step of {len(steps)},"
            " or -1, is right"
        )
    good = len(steps) if error == -1 else error
    return [
        LabelledText(
            prompt=prompt,
            steps=steps,
            correct=tuple(int(step < good) for step in range(len(steps))),
            count=(1,) * len(steps),
            outcome=_flag(row, "final_answer_correct", None),
        )
    ]


def _jsonl(row: Row) -> list[LabelledText]:
    prompt, steps = _text(row, "prompt"), _steps(row, "steps")
    correct, count = (_list(row, key, len(steps)) for key in ("correct", "count"))
    of_prompt = [row.get(f"prompt_{key}", 0) for key in ("correct", "count")]
    pairs = [of_prompt, *zip(correct, count, strict=True)]
    for number, (k, n) in enumerate(pairs):
        if not (_is_int(k) and _is_int(n) and 0 <= k <= n < 1 << 31):
            where = f"step {number}" if number else "the prompt"
            raise ValueError(
                f"{where} has correct={k!r} and count={n!r}; whole numbers with"
                " 0 <= correct <= count below 2^31 are right"
            )
    if not any(count):
        raise ValueError("no step has a count above 0")
    first = row.get("first", 0)
    if not _is_int(first) or not 0 <= first < len(steps):
        raise ValueError(f"first is {first!r}; the index of a step is right")
    response = row.get("response")
    if response is not None and response not in ("\n".join(steps), "".join(steps)):
        raise ValueError(
            "the steps, with or without newlines between them, are not the response"
        )
    return [
        LabelledText(
            prompt=prompt,
            steps=steps,
            correct=tuple(correct),
            count=tuple(count),
            first=first,
            prompt_correct=of_prompt[0],
            prompt_count=of_prompt[1],
            finished=_flag(row, "finished", True),
            outcome=_flag(row, "outcome", None),
        )
    ]


FORMATS = {
    "prm800k": Format(
        keys=("question", "label"),
        layout="the object 'question' with the text 'problem', and the object 'label'"
        " with the list 'steps' of rated completions",
        parse=_prm800k,
        meanings=(Meaning.STEP,),
        outcome_field="label.finish_reason",
    ),
    "math_shepherd": Format(
        keys=("input", "label"),
        layout=f"the text 'input', with {_TAG!r} after each step, and the text 'label',"
        " the same with '+' or '-' there",
        parse=_math_shepherd,
        meanings=(Meaning.ANY_OF_N,),
        outcome_field="label (its last sign)",
    ),
    "trl": Format(
        keys=("prompt", "completions", "labels"),
        layout="the text 'prompt', the list of texts 'completions', and the list of"
        " booleans 'labels'",
        parse=_trl,
        meanings=(Meaning.STEP, Meaning.PREFIX, Meaning.ANY_OF_N),
        outcome_field=None,
    ),
    "processbench": Format(
        keys=("problem", "steps", "label"),
        layout="the text 'problem', the list of texts 'steps', and 'label', the index"
        " of the first wrong step or -1",
        parse=_processbench,
        meanings=(Meaning.PREFIX,),
        outcome_field="final_answer_correct",
    ),
    "jsonl": Format(
        keys=("prompt", "steps", "correct", "count"),
        layout="the text 'prompt', the list of texts 'steps', and the lists of numbers"
        " 'correct' and 'count', one of each step",
        parse=_jsonl,
        meanings=tuple(Meaning),
        outcome_field="outcome",
    ),
}
