"""Long stages in pieces: a piece that is on disk is not done again."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pav_jax.core.ledger import Ledger
from pav_jax.core.progress import progress
from pav_jax.pipeline.runner import StageContext
from pav_jax.storage import artifacts, records


def write_ledger(directory: Path, ledger: Ledger) -> None:
    artifacts.write_json(directory / "ledger.json", vars(ledger))


def read_ledger(directory: Path) -> Ledger:
    return Ledger(**artifacts.read_json(directory / "ledger.json"))


def in_shards(
    context: StageContext,
    indices: Sequence[int],
    size: int,
    unit: str,
    work: Callable[[list[int], Path, Ledger, Callable[[], Any]], None],
) -> None:
    """Does the work shard by shard, and sums the ledgers.

    With several processes, each shard is done by the one that comes to it first.

    Args:
      context: of the stage.
      indices: what to share out.
      size: indices in a shard.
      unit: what the progress bar counts.
      work: does (indices, shard to write, ledger to add to, call after each).
    """
    worker = context.worker
    parts = {
        records.shard_path(context.directory, number): list(indices[at : at + size])
        for number, at in enumerate(range(0, len(indices), size))
    }
    paid = {path: path.with_suffix(".json") for path in parts}
    with progress(
        total=len(indices), unit=unit, desc=context.stage, disable=not worker.is_primary
    ) as bar:

        def advance() -> None:
            bar.update()
            worker.check()

        def claim_of(path: Path) -> str:
            return f"{context.stage}-{path.stem}"

        others = []
        for path, part in parts.items():
            if not worker.claim(claim_of(path)):
                others.append(path)
                continue
            # The ledger is written last: with it the shard is complete.
            if paid[path].exists():
                bar.update(len(part))
            else:
                ledger = Ledger()
                work(part, path, ledger, advance)
                artifacts.write_json(paid[path], vars(ledger))
            worker.close(claim_of(path))
        if not worker.is_primary:
            return
        for path in others:
            while not worker.closed(claim_of(path)):
                worker.pause()
            bar.update(len(parts[path]))
    total = Ledger()
    for path in parts:
        total += Ledger(**artifacts.read_json(paid[path]))
    write_ledger(context.directory, total)


def once(path: Path, make: Callable[[], Any]) -> Any:
    """The JSON at `path`, made first if it is not there."""
    if not path.exists():
        artifacts.write_json(path, make())
    return artifacts.read_json(path)
