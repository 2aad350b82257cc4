"""`pav labels export`: the step labels of a run, for other tools.

The folder has `prefixes/*.parquet`, a row for each label; `responses/*.jsonl`, a row
for each response with its steps as a list, which `pav import --from=jsonl` reads too;
`tokenizer.model`, without which token ids mean nothing; and `README.md`, the data card
that the hub of Hugging Face and `datasets.load_dataset` read.

Shards are read and written one at a time. The folder has its name only when it is
whole.
"""

import collections
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.core.types import Problem, Response, StepLabels
from pav_jax.gemma.tokenizer import Tokenizer
from pav_jax.labels import prefix_ends
from pav_jax.pipeline.first_pit import read_pits_beside
from pav_jax.pipeline.manifest import MANIFEST, damage, read_manifest
from pav_jax.storage import artifacts, records, workdir
from pav_jax.tools import data_card

CARD = "README.md"
POLICY = "π"  # the name of the prover that is the base policy
_TOKENIZER = "tokenizer.model"


def export_labels(root: Path, target: Path) -> str:
    """Writes the labels of a run's stages `labels` and `labels-NAME`.

    Args:
      root: the run's workdir.
      target: a folder that does not exist.

    Returns:
      What was written, in a sentence.

    Raises:
      UserError: the run has no labels of its own policies, its stages do not go
        together, a file is damaged, or `target` exists. Nothing is written.
    """
    sources = _sources(root)
    problems = records.read_problems(root / "data" / "labels.jsonl")
    tokenizer = Tokenizer.load(root / "data" / _TOKENIZER)
    tallies = {}
    with artifacts.making(target) as new:
        for source in sources:
            writer = _Writer(source, problems, tokenizer, new)
            with artifacts.writing(new):
                writer.write()
            tallies[source.name] = writer.tally
        tokenizer.save(new / _TOKENIZER)
        name = artifacts.read_json(root / workdir.SETTINGS)["name"]
        card = data_card.text(
            name, [(source.about(), tallies[source.name]) for source in sources]
        )
        artifacts.write_text(new / CARD, card)
    total = sum(tallies.values(), collections.Counter())
    of = counted(total["responses"], "response")
    return f"{counted(total['labels'], 'label')} of {of}"


@dataclasses.dataclass(frozen=True)
class _Source:
    """A stage of a run that has labels.

    Attributes:
      folder: of the stage.
      prover: whose continuations the labels count.
      policy: the fingerprint of the stage that trained it; None if of another run.
      manifest: of the stage.
    """

    folder: Path
    prover: str
    policy: str | None
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.name

    def field(self, name: str) -> Any:
        return self.manifest["fields"][name]

    def about(self) -> dict[str, Any]:
        """What the data card says of it."""
        fields = self.manifest["fields"]
        n_mc = "labels.n_mc" if self.prover == POLICY else f"provers.{self.prover}.n_mc"
        return {
            "stage": self.name,
            "prover": self.prover,
            "policy": self.policy,
            "seed": fields["seed"],
            "n_mc": fields[n_mc],
            "temperature": fields["rollouts.temperature"],
            "task": fields["task.name"],
        }

    def shards(self) -> Iterator[list[tuple[str, Response, StepLabels]]]:
        """The rows of each shard: which kind they are, responses, and their labels."""
        if self.prover != POLICY:
            for path in records.shards(self.folder):
                found = records.read_labels(records.labels_beside(path))
                pairs = zip(records.read_responses(path), found, strict=True)
                yield [("rollout", *pair) for pair in pairs]
            return
        rollouts = self._seed_rollouts()
        for path in records.shards(self.folder):
            rows = [
                ("rollout", next(rollouts), found)
                for found in records.read_labels(path)
            ]
            pits = zip(*read_pits_beside(path), strict=True)
            yield rows + [("first_pit", *pair) for pair in pits]

    def _seed_rollouts(self) -> Iterator[Response]:
        """Those that stage `labels` has labelled, in the order of its labels."""
        shards = records.shards(self.folder.parent / "rollouts")
        responses = (r for path in shards for r in records.read_responses(path))
        return records.first_of_each(responses, self.field("rollouts.n_cov"))


def _sources(root: Path) -> list[_Source]:
    """The stages of a run that label by policies of its own."""
    found, imported = [], False
    for folder in sorted(root.glob("labels*")):
        if not (folder / MANIFEST).exists():
            continue
        manifest = read_manifest(folder)
        if "labels.from" in manifest["fields"]:
            imported = True
            continue
        for name, fingerprint in manifest["needs"].items():
            needed = read_manifest(root / name)
            if needed["fingerprint"] != fingerprint:
                raise UserError(
                    f"{folder} was made with another {name} than that of {root}; run"
                    " the experiment again"
                )
            if name in ("data", "rollouts"):  # the others are not read
                _check_files(root / name, needed)
        _check_files(folder, manifest)
        policies = set(manifest["needs"]) - {"data", "rollouts"}
        policy = manifest["needs"][policies.pop()] if policies else None
        prover = folder.name.partition("-")[2] or POLICY
        found.append(_Source(folder, prover, policy, manifest))
    if not found:
        why = (
            "its labels were imported, and who made them has them"
            if imported
            else "give the workdir of a run that is through with stage labels"
        )
        raise UserError(f"{root} holds no step labels of its own policies; {why}")
    return found


def _check_files(folder: Path, manifest: dict[str, Any]) -> None:
    """Raises UserError if a file of a stage is not as it was written."""
    if found := damage(folder, manifest["files"]):
        raise UserError(f"in {folder}, {found}; run the experiment again")


class _Writer:
    """Writes the rows of a stage.

    Args:
      source: the stage.
      problems: that the responses are to.
      tokenizer: of the run.
      folder: gets `prefixes/` and `responses/`.
    """

    def __init__(
        self,
        source: _Source,
        problems: Sequence[Problem],
        tokenizer: Tokenizer,
        folder: Path,
    ):
        self._source, self._problems, self._folder = source, problems, folder
        self._tokenizer, self._mask = tokenizer, tokenizer.step_end_mask()
        self.tally: collections.Counter[str] = collections.Counter()

    def write(self) -> None:
        """Writes a Parquet file for each shard, and one of lines for all of them."""
        from pyarrow import parquet

        name = self._source.name
        for part in ("prefixes", "responses"):
            (self._folder / part).mkdir(parents=True, exist_ok=True)
        with (self._folder / "responses" / f"{name}.jsonl").open("wb") as lines:
            for number, shard in enumerate(self._source.shards()):
                rows = [self._response(*row) for row in shard]
                for row in rows:
                    lines.write(json.dumps(row).encode() + b"\n")
                path = self._folder / "prefixes" / f"{name}-{number:05d}.parquet"
                parquet.write_table(self._table(rows), path, compression="zstd")

    def _response(
        self, kind: str, response: Response, labels: StepLabels
    ) -> dict[str, Any]:
        """A response as `pav import --from=jsonl` takes it, and what else is known."""
        ends = prefix_ends(response, self._mask)
        decode = self._tokenizer.decode
        steps = [
            decode(response.tokens[start:stop])
            for start, stop in zip(ends, ends[1:], strict=False)
        ]
        correct, count = np.zeros_like(ends), np.zeros_like(ends)
        places = np.searchsorted(ends, labels.ends)
        correct[places], count[places] = labels.correct, labels.count
        problem = self._problems[response.problem]
        self.tally["responses"] += 1
        self.tally["labels"] += len(places)
        return {
            "prompt": problem.prompt,
            "steps": steps,
            "correct": correct[1:].tolist(),
            "count": count[1:].tolist(),
            "prompt_correct": int(correct[0]),
            "prompt_count": int(count[0]),
            "finished": response.tokens[-1] in self._tokenizer.end_ids,
            "outcome": bool(response.correct),
            "problem_id": problem.id,
            "response_id": self.tally["responses"] - 1,
            "kind": kind,
            "prompt_tokens": list(response.prompt),
            "tokens": list(response.tokens),
            "ends": ends.tolist(),
            "prover": self._source.prover,
            "seed": self._source.field("seed"),
            "policy": self._source.policy,
        }

    def _table(self, rows: Sequence[dict[str, Any]]):
        """The labels of some responses, a row each."""
        import pyarrow as pa

        tokens = pa.list_(pa.int32())
        schema = pa.schema(
            {
                "problem_id": pa.int64(),
                "response_id": pa.int64(),
                "kind": pa.string(),
                "step": pa.int32(),
                "is_whole": pa.bool_(),
                "correct": pa.int32(),
                "count": pa.int32(),
                "prompt": pa.string(),
                "prefix": pa.string(),
                "prompt_tokens": tokens,
                "prefix_tokens": tokens,
                "prover": pa.string(),
                "seed": pa.int64(),
                "policy": pa.string(),
            }
        )
        labels = [label for row in rows for label in _prefixes(row)]
        return pa.Table.from_pylist(labels, schema=schema)


def _prefixes(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of a response's labelled prefixes, the bare prompt first."""
    shared = ("problem_id", "response_id", "kind", "prompt", "prompt_tokens")
    shared += ("prover", "seed", "policy")
    correct = [row["prompt_correct"], *row["correct"]]
    count = [row["prompt_count"], *row["count"]]
    for step, end in enumerate(row["ends"]):
        if count[step]:
            yield {name: row[name] for name in shared} | {
                "step": step,
                "is_whole": step == len(row["steps"]),
                "correct": correct[step],
                "count": count[step],
                "prefix": "".join(row["steps"][:step]),
                "prefix_tokens": row["tokens"][:end],
            }
