"""Problems, responses and labels on disk."""

import collections
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pav_jax.core.errors import UserError
from pav_jax.core.types import Problem, Response, StepLabels
from pav_jax.storage import artifacts

_AGAIN = "pav run"  # what makes such files


def write_problems(path: Path, problems: Sequence[Problem]) -> None:
    """Writes one problem a line."""
    artifacts.write_jsonl(path, (vars(problem) for problem in problems))


def read_problems(path: Path) -> list[Problem]:
    """The problems that `write_problems` wrote; raises UserError if damaged."""
    records = artifacts.read_jsonl(path)
    with artifacts.as_written(path, _AGAIN):
        problems = [Problem(**record) for record in records]
        if not all(isinstance(x, str) for p in problems for x in vars(p).values()):
            raise TypeError("a problem's fields are texts")
    return problems


def _ragged(name: str, rows: Sequence, dtype) -> dict[str, np.ndarray]:
    """Rows of different lengths: all in one array, and int64 `[R]` where each stops."""
    stops = np.cumsum([len(row) for row in rows])
    parts = [np.asarray(row, dtype) for row in rows]
    flat = np.concatenate([np.zeros(0, dtype), *parts])  # there may be none
    return {name: flat, f"{name}_stops": stops.astype(np.int64)}


def _rows(arrays: dict[str, np.ndarray], name: str, kind: str) -> list[np.ndarray]:
    """The ragged rows of a name; raises ValueError if they are not whole.

    Args:
      arrays: of a file.
      name: of the rows.
      kind: of their values, as of `np.dtype.kind`.
    """
    flat, stops = arrays[name], arrays[f"{name}_stops"]
    ascend = stops.dtype.kind == "i" and np.all(np.diff(stops, prepend=0) >= 0)
    if flat.ndim != 1 or flat.dtype.kind != kind or stops.ndim != 1 or not ascend:
        raise ValueError(f"{name} is no list of rows")
    if (stops[-1] if len(stops) else 0) != len(flat):
        raise ValueError(f"the rows of {name} do not end where it ends")
    return np.split(flat, stops[:-1]) if len(stops) else []


def write_responses(path: Path, responses: Sequence[Response]) -> None:
    """Writes the responses of one shard, R of them.

    The arrays: `problem` int32 `[R]`; `correct` bool `[R]`; and, ragged, `prompt` and
    `tokens` int32 and `log_probs` float32.
    """
    artifacts.write_arrays(
        path,
        {
            "problem": np.array([r.problem for r in responses], np.int32),
            "correct": np.array([r.correct for r in responses], bool),
            **_ragged("prompt", [r.prompt for r in responses], np.int32),
            **_ragged("tokens", [r.tokens for r in responses], np.int32),
            **_ragged("log_probs", [r.log_probs for r in responses], np.float32),
        },
    )


def read_responses(path: Path) -> list[Response]:
    """The responses of one shard; raises UserError if it is missing or damaged."""
    arrays = artifacts.read_arrays(path)
    with artifacts.as_written(path, _AGAIN):
        columns = zip(
            arrays["problem"].tolist(),
            (tuple(row.tolist()) for row in _rows(arrays, "prompt", "i")),
            (tuple(row.tolist()) for row in _rows(arrays, "tokens", "i")),
            (tuple(row.tolist()) for row in _rows(arrays, "log_probs", "f")),
            arrays["correct"].tolist(),
            strict=True,
        )
        return [Response(*row) for row in columns]


def write_labels(path: Path, labels: Sequence[StepLabels]) -> None:
    """Writes the labels of one shard, in the order of its responses.

    The arrays: `ends`, `correct` and `count`, all ragged and int32, with an entry
    for each labelled prefix of a response, the shortest first.
    """
    artifacts.write_arrays(
        path,
        {
            **_ragged("ends", [x.ends for x in labels], np.int32),
            **_ragged("correct", [x.correct for x in labels], np.int32),
            **_ragged("count", [x.count for x in labels], np.int32),
        },
    )


def read_labels(path: Path) -> list[StepLabels]:
    """The labels of one shard; raises UserError if it is missing or damaged."""
    arrays = artifacts.read_arrays(path)
    with artifacts.as_written(path, _AGAIN):
        columns = (_rows(arrays, name, "i") for name in ("ends", "correct", "count"))
        found = [StepLabels(*row) for row in zip(*columns, strict=True)]
        for labels in found:
            sizes = {len(labels.ends), len(labels.correct), len(labels.count)}
            if len(sizes) > 1:
                raise ValueError("the labels of a response are not one a prefix")
        correct, count = arrays["correct"], arrays["count"]
        if np.any((correct < 0) | (correct > count) | (count < 1)):
            raise ValueError("a label counts more successes than continuations")
    return found


def shards(directory: Path) -> list[Path]:
    """The files of a stage's shards, in order."""
    return sorted(directory.glob("shard-*.npz"))


def shard_path(directory: Path, index: int) -> Path:
    """The file of a shard, counted from 0."""
    return directory / f"shard-{index:05d}.npz"


def beside(path: Path, prefix: str) -> Path:
    """The file beside a shard's whose name has `prefix` in place of "shard-"."""
    return path.with_name(path.name.replace("shard-", prefix))


def labels_beside(path: Path) -> Path:
    """The file of the labels of the responses in a shard's file."""
    return beside(path, "labels-")


def read_all_responses(directory: Path) -> list[Response]:
    """The responses of all shards, problem by problem."""
    return [r for path in shards(directory) for r in read_responses(path)]


def read_seed_rollouts(directory: Path, n_cov: int) -> list[Response]:
    """The first `n_cov` responses of each problem: those that are labelled."""
    return list(first_of_each(read_all_responses(directory), n_cov))


def first_of_each(responses: Iterable[Response], count: int) -> Iterator[Response]:
    """The first `count` responses of each problem, in the order in which they come."""
    seen: collections.Counter[int] = collections.Counter()
    for response in responses:
        seen[response.problem] += 1
        if seen[response.problem] <= count:
            yield response


def read_all_labels(directory: Path) -> list[StepLabels]:
    """The labels of all shards, in the order of `read_seed_rollouts`."""
    return [x for path in shards(directory) for x in read_labels(path)]


def read_labelled_rollouts(
    rollouts: Path, labels: Path, n_cov: int
) -> tuple[list[Response], list[StepLabels]]:
    """The seed rollouts of a run, and their labels.

    Args:
      rollouts: the folder of the stage.
      labels: the folder of the stage that labelled them.
      n_cov: responses of each problem that are labelled, `config.rollouts.n_cov`.

    Raises:
      UserError: the labels are of other rollouts, or a file is damaged.
    """
    responses, found = read_seed_rollouts(rollouts, n_cov), read_all_labels(labels)
    check_pairs(rollouts, responses, labels, found)
    return responses, found


def check_pairs(
    directory: Path,
    responses: Sequence[Response],
    of_labels: Path,
    labels: Sequence[StepLabels],
) -> None:
    """Raises UserError if labels are not of the responses that they are paired with.

    They are so by their order alone. Of one's own labels (but for those up to first
    pits) the last is of the whole response.

    Args:
      directory: the folder of the stage that the responses are of.
      responses: in order.
      of_labels: the folder of the stage that the labels are of.
      labels: in order.
    """
    sizes = [len(response.tokens) for response in responses]
    if sizes != [int(each.ends[-1]) for each in labels]:
        raise UserError(
            f"labels of stage {of_labels.name} are not of the responses of stage"
            f" {directory.name}; remove the folder {of_labels.name} of the run, and run"
            " again"
        )


def read_labelled(directory: Path) -> tuple[list[Response], list[StepLabels]]:
    """The responses of a stage that has their labels beside them, and the labels.

    Responses without a label, of which only the outcome was imported, are left out.
    """
    paths = [labels_beside(path) for path in shards(directory)]
    found = [x for path in paths for x in read_labels(path)]
    pairs = zip(read_all_responses(directory), found, strict=True)
    labelled = [(response, x) for response, x in pairs if len(x.ends)]
    return [r for r, _ in labelled], [x for _, x in labelled]
