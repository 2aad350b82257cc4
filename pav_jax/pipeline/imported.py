"""Stage `labels` with `config.labels.from`: step labels that others made.

It takes the place of stages `rollouts` and `labels` of one's own. What `pav import`
wrote is text; here it becomes tokens, and what its labels mean becomes values of step
prefixes, which a verifier is trained on.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.types import Problem, Response, StepLabels
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.pipeline.data import held_out_prompts
from pav_jax.pipeline.runner import StageContext
from pav_jax.storage import artifacts, buckets, imports, records
from pav_jax.storage.imports import LabelledText, Meaning
from pav_jax.tasks.stored import squeezed

_ABOUT = "about.json"
_OUTCOMES = "outcomes-"  # beside the responses of a shard

# What is done with the labels, for the log. Progress and provers are of values of a
# policy, so each says what Q is here.
_TRAINED_ON = {
    Meaning.MONTE_CARLO: "the value of a prefix is k/n",
    Meaning.ANY_OF_N: "that any of n continuations is right is trained on as value 0"
    " or 1, so Q is the value of best-of-n of the policy that continued, and not its"
    " own",
    Meaning.PREFIX: "that a prefix is right is trained on as value 0 or 1, so Q is the"
    " chance that nothing is wrong so far, and not a value of the policy",
    Meaning.STEP: "that a step is right is turned into that of the prefix up to it (all"
    " of its steps are), and trained on as value 0 or 1, so Q is the chance that"
    " nothing is wrong so far, and not a value of the policy",
}


def run_imported_labels(context: StageContext) -> None:
    """Responses and labels of `config.labels.from`, as tokens of this run.

    Those to problems of the validation and test splits are left out: the verifiers that
    are trained on these labels are evaluated there.

    Raises:
      UserError: there is no such folder, or none of its responses can be used.
    """
    config = context.config
    tokenizer = Tokenizer.load(context.input("data") / "tokenizer.model")
    # All is read again, and by another order or number of rows if what is imported has
    # changed: no shard of an attempt that was stopped may stay.
    with artifacts.writing(context.directory):
        for path in context.directory.glob("*.npz"):
            path.unlink()
    with buckets.to_read(config.labels["from"]) as folder:
        about = imports.read_about(folder)
        reader = _Reader(context, tokenizer, about["meaning"])
        held_out = held_out_prompts(context.input("data"))
        prompts = {row.prompt for row in imports.read(folder)}
        problems = _numbered({p for p in prompts if squeezed(p) not in held_out})
        part = []
        for row in reader.read(folder, problems):
            part.append(row)
            if len(part) == config.labels.shard:
                reader.write(part)
                part = []
        if part:
            reader.write(part)
    reader.report(about["format"])
    changed = {
        "meaning": about["meaning"].value,
        "from": config.labels["from"],
        "left_out_of_validation_or_test": reader.held_out,
    }
    artifacts.write_json(context.directory / _ABOUT, about | changed)


def _numbered(prompts: set[str]) -> dict[str, int]:
    """A number for each problem, in an order that does not depend on that of the file:
    the last ones are held out of training, and files are often sorted."""
    ordered = sorted(prompts, key=lambda prompt: (Problem(prompt, "").id, prompt))
    return {prompt: index for index, prompt in enumerate(ordered)}


class _Reader:
    """Turns rows of text into responses with labels, and counts what cannot be.

    Args:
      context: of the stage.
      tokenizer: of the run.
      meaning: of the labels.

    Attributes:
      held_out: responses to problems that are not to be trained on.
    """

    def __init__(self, context: StageContext, tokenizer: Tokenizer, meaning: Meaning):
        self._context, self._tokenizer, self._meaning = context, tokenizer, meaning
        self._shards = self._kept = self._labels = self._long = self._changed = 0
        self._lines = self._unlabelled = self._foreign = self._prompts = 0
        self._unknown = 0
        self._first_foreign = ""
        self.held_out = 0

    def read(
        self, folder: Path, problems: dict[str, int]
    ) -> Iterator[tuple[Response, StepLabels, bool]]:
        """Each response to one of `problems`, its labels, and whether its outcome is
        known."""
        limits = self._context.config.limits
        for row in imports.read(folder):
            if row.prompt not in problems:
                self.held_out += 1
                continue
            try:
                prompt, tokens, ends = encode(self._tokenizer, row)
            except UserError as error:
                self._foreign += 1
                self._first_foreign = self._first_foreign or str(error)
                continue
            too_long = len(prompt) > limits.max_prompt_tokens
            if too_long or len(tokens) > limits.max_tokens:
                self._long += 1
                continue
            correct, count = of_prefixes(row, self._meaning)
            own = np.arange(len(count)) > row.first
            chosen = (np.array(count) > 0) & own
            rated = (np.array(row.count) > 0) & own[1:]
            self._unknown += int(np.sum(rated & ~chosen[1:]))
            turned = np.array(row.correct) > np.array(correct[1:])
            self._changed += bool(np.any(rated & chosen[1:] & turned))
            chosen[0] = count[0] > 0 and row.first == 0
            found = StepLabels(
                ends[chosen],
                np.array(correct, np.int32)[chosen],
                np.array(count, np.int32)[chosen],
            )
            if not len(found.ends) and row.outcome is None:
                self._unlabelled += 1
                continue
            self._kept += 1
            self._labels += len(found.ends)
            self._prompts += bool(chosen[0])
            self._lines += sum("\n" in step.strip("\n") for step in row.steps)
            response = Response(
                problem=problems[row.prompt],
                prompt=prompt,
                tokens=tokens,
                log_probs=(0.0,) * len(tokens),
                correct=bool(row.outcome),
            )
            yield response, found, row.outcome is not None

    def write(self, part: Sequence[tuple[Response, StepLabels, bool]]) -> None:
        """Writes the next shard."""
        path = records.shard_path(self._context.directory, self._shards)
        self._shards += 1
        responses, found, known = zip(*part, strict=True)
        records.write_labels(records.labels_beside(path), found)
        known = {"known": np.array(known, bool)}
        artifacts.write_arrays(records.beside(path, _OUTCOMES), known)
        records.write_responses(path, responses)

    def report(self, name: str) -> None:
        """Says what was done with the rows; raises UserError if none is of use."""
        left_out = {
            "to problems of the validation or test split": self.held_out,
            "longer than config.limits (max_prompt_tokens, max_tokens)": self._long,
            f"with texts that the tokenizer has no tokens for, such as:"
            f" {self._first_foreign}": self._foreign,
            "without a label": self._unlabelled,
        }
        reasons = [
            f"{counted(count, 'response')} {what}"
            for what, count in left_out.items()
            if count
        ]
        if not self._labels:
            where = self._context.config.labels["from"]
            raise UserError(
                f"no response of config.labels.from={where!r} can be used:"
                f" {'; '.join(reasons)}"
            )
        log = self._context.log
        for reason in reasons:
            log(f"{reason}: left out")
        log(
            f"{counted(self._labels, 'label')} of {counted(self._kept, 'response')}"
            f" from {name}; {_TRAINED_ON[self._meaning]}"
        )
        if not self._prompts:
            log(
                "no bare prompt has a label, so the progress of first steps is over a"
                " value that is not trained"
            )
        if self._changed:
            log(
                f"in {counted(self._changed, 'response')} a right step follows a wrong"
                " one: its prefix is wrong"
            )
        if self._unknown:
            log(
                f"{counted(self._unknown, 'label')} of right steps that follow one"
                " without a label: left out, since whether that one is right is not"
                " known"
            )
        if self._lines:
            log(
                f"{counted(self._lines, 'step')} of several lines kept whole; search"
                " and pav score end a step at each newline"
            )


def encode(
    tokenizer: Tokenizer, row: LabelledText
) -> tuple[tuple[int, ...], tuple[int, ...], np.ndarray]:
    """A row as tokens: those of the prompt, of the response, and ends of its prefixes.

    A newline follows the prompt and each step, and the end token the last step of a
    finished response, as in the policy's own.

    Args:
      tokenizer: of the run.
      row: of `imports.read`.

    Returns:
      Token ids of the prompt; of the response; and int32 `[H + 1]`, response tokens in
      each prefix, the first 0.

    Raises:
      UserError: the vocabulary cannot represent a text.
    """
    prompt = [tokenizer.bos_id, *tokenizer.encode(row.prompt.rstrip("\n") + "\n")]
    tokens, ends = [], [0]
    for number, step in enumerate(row.steps, start=1):
        # By itself, so that no token spans the end of a step. Where none would, these
        # are the tokens of the whole text.
        if row.finished and number == len(row.steps):
            tokens += [*tokenizer.encode(step.rstrip("\n")), tokenizer.eos_id]
        else:
            tokens += tokenizer.encode(step.rstrip("\n") + "\n")
        ends.append(len(tokens))
    return tuple(prompt), tuple(tokens), np.array(ends, np.int32)


def of_prefixes(
    row: LabelledText, meaning: Meaning
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`correct` and `count` of each prefix, H + 1 each, the bare prompt first.

    A verdict on a step becomes one on the prefix: right if all of its steps are, wrong
    if one is wrong, and else not known. In a bare prompt no step is wrong.
    """
    correct, count = [row.prompt_correct], [row.prompt_count]
    if meaning in (Meaning.PREFIX, Meaning.STEP):
        correct, count = [1], [1]
    if meaning is not Meaning.STEP:
        return (*correct, *row.correct), (*count, *row.count)
    all_right, none_wrong = True, True
    for good, known in zip(row.correct, row.count, strict=True):
        all_right &= bool(known and good)
        none_wrong &= bool(good or not known)
        correct.append(int(all_right))
        count.append(int(all_right or not none_wrong))
    return tuple(correct), tuple(count)


def read_outcomes(directory: Path) -> list[Response]:
    """The responses of which it is known whether their final answer is right.

    Raises:
      UserError: an ORM cannot be trained on these, because there are none or all are
        alike.
    """
    found = []
    for path in records.shards(directory):
        known = artifacts.read_arrays(records.beside(path, _OUTCOMES))["known"]
        responses = records.read_responses(path)
        found += [r for r, is_known in zip(responses, known, strict=True) if is_known]
    outcomes = {response.correct for response in found}
    if len(outcomes) < 2:
        about = artifacts.read_json(directory / _ABOUT)
        field, name = about["outcome_field"], about["format"]
        which = "right" if True in outcomes else "wrong"
        what = f"only says of some that it is {which}" if outcomes else "has none"
        if field is None:
            what = "has no field for it"
        elif not outcomes or name != "prm800k":
            what += f", in field {field}"
        raise UserError(
            "the ORM needs responses whose final answers are right and others whose are"
            f" wrong; config.labels.from={about['from']!r}, of the format {name},"
            f" {what}. Train the PRM alone (--until=prm), or import lines of --from="
            "jsonl with the field 'outcome'"
        )
    return found
