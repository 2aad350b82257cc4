"""Long stages in shards: a shard that is on disk is not done again."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pav_jax.core.ledger import Ledger
from pav_jax.core.progress_bar import progress_bar
from pav_jax.pipeline.runner import StageContext
from pav_jax.storage import artifacts, records

LEDGER = "ledger.json"  # of a stage; a shard has its own


def write_ledger(directory: Path, ledger: Ledger) -> None:
    """Writes the `ledger.json` of a stage."""
    artifacts.write_json(directory / LEDGER, vars(ledger))


def read_ledger(directory: Path) -> Ledger:
    """The ledger that `write_ledger` wrote.

    Raises:
      UserError: it is missing or damaged.
    """
    return Ledger(**artifacts.read_json(directory / LEDGER))


# (indices, shard to write, ledger to add to, to be called after each index)
Work = Callable[[list[int], Path, Ledger, Callable[[], Any]], None]


def in_shards(
    context: StageContext,
    indices: Sequence[int],
    size: int,
    unit: str,
    work: Work,
    siblings: int = 1,
) -> None:
    """Does the work shard by shard, and sums the ledgers.

    With several processes, a shard is done by the worker that claims it first. A part
    of an experiment does every so many shards, and sums their ledgers alone.

    Args:
      context: of the stage.
      indices: what to work on.
      size: indices in a shard.
      unit: what the progress bar counts.
      work: writes a shard.
      siblings: shards in a row that are made of one shard of an earlier stage, and so
        are of the same part.
    """
    shards = {
        records.shard_path(context.directory, number): list(indices[at : at + size])
        for number, at in enumerate(range(0, len(indices), size))
        if context.part.has(number // siblings)
    }
    worker = context.worker
    bar = progress_bar(
        total=sum(map(len, shards.values())),
        unit=unit,
        desc=context.stage,
        disable=not worker.is_primary,
    )
    with bar:
        claimed_by_others = _work_on_claims(context, shards, work, bar)
        if not worker.is_primary:
            return
        for path in claimed_by_others:
            while not worker.is_finished(_name(context, path)):
                worker.wait()
            bar.update(len(shards[path]))
    total = Ledger()
    for path in shards:
        total += Ledger(**artifacts.read_json(_ledger_path(path)))
    write_ledger(context.directory, total)


def _work_on_claims(
    context: StageContext, shards: dict[Path, list[int]], work: Work, bar: Any
) -> list[Path]:
    """Does the shards that this worker can claim; returns those of others."""
    worker, others = context.worker, []

    def advance() -> None:
        bar.update()
        worker.check()

    for path, part in shards.items():
        if not worker.claim(_name(context, path)):
            others.append(path)
            continue
        # The ledger is written last: with it the shard is complete.
        if _ledger_path(path).exists():
            bar.update(len(part))
        else:
            ledger = Ledger()
            work(part, path, ledger, advance)
            artifacts.write_json(_ledger_path(path), vars(ledger))
        worker.finish(_name(context, path))
    return others


def _name(context: StageContext, path: Path) -> str:
    """Of a shard, among the workers."""
    return f"{context.stage}-{path.stem}"


def is_ledger(path: str | Path) -> bool:
    """Whether a file is the ledger of a shard, which is there if that is complete."""
    return re.fullmatch(r"shard-\d+\.json", Path(path).name) is not None


def _ledger_path(path: Path) -> Path:
    return path.with_suffix(".json")


def once(path: Path, make: Callable[[], Any]) -> Any:
    """The JSON at `path`; made first if it is not there."""
    if not path.exists():
        artifacts.write_json(path, make())
    return artifacts.read_json(path)
