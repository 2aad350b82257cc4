"""GSM8K and MATH as tensorflow-datasets builders, read through `tfds.data_source`.

They are prepared once, as array_record files, from a local copy or from the network,
and then read at random without TensorFlow: TFDS imports it only for its other formats.
The files hold the published texts; how they are laid out as problems is the tasks'.
"""

import hashlib
import os
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging

from pav_jax.core.errors import UserError, unwritable

# What a reader of local files gives: split -> rows of text.
Rows = dict[str, list[dict[str, str]]]
_HEADERS = "https://raw.githubusercontent.com/openai/grade-school-math/master"
_LARGE = "https://media.githubusercontent.com/media/openai/prm800k/main"
_PATIENCE = 5.0  # seconds, for each address of a server to answer


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Nothing of ours is in TFDS's bucket. Its own method would look there, and
        leave an empty folder in the temporary directory each time."""


class _Texts(tfds.core.GeneratorBasedBuilder):
    """Rows of text fields in the splits train and test, in the order of the files.

    Args:
      read: reads a folder in the published layout.
      path: that folder; None to download it.
    """

    VERSION = tfds.core.Version("1.0.0")
    FIELDS: Sequence[str]
    FILES: dict[str, str]  # name in the folder -> where it is published

    def __init__(
        self, *, read: Callable[[Path], Rows], path: Path | None = None, **kwargs
    ):
        self._read, self._path = read, path
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return _Info(
            builder=self,
            features=tfds.features.FeaturesDict(
                {field: tfds.features.Text() for field in self.FIELDS}
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        if self._path is not None:
            rows = self._read(self._path)
        else:
            _check_reachable(self.FILES.values())
            found = dl_manager.download(self.FILES)
            folder = Path(dl_manager.download_dir) / f"{self.name}_{os.getpid()}"
            folder.mkdir(exist_ok=True)
            for name, file in found.items():
                (folder / name).write_bytes(Path(file).read_bytes())
            rows = self._read(folder)
        # TFDS refuses a split without rows.
        return {
            split: self._generate_examples(part) for split, part in rows.items() if part
        }

    def _generate_examples(self, rows) -> Iterator[tuple[int, dict[str, str]]]:
        yield from enumerate(rows)


def _check_reachable(urls: Iterable[str]) -> None:
    """Raises OSError where there is no network; TFDS takes minutes to be sure of it."""
    for url in urls:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=_PATIENCE).close()


class PavGsm8k(_Texts):
    """Cobbe et al., "Training verifiers to solve math word problems"."""

    FIELDS = ("question", "answer")
    FILES = {
        f"{split}.jsonl": f"{_HEADERS}/grade_school_math/data/{split}.jsonl"
        for split in ("train", "test")
    }


class PavMath(_Texts):
    """Hendrycks et al., MATH, in the split of Lightman et al.: 12,000 and MATH-500."""

    FIELDS = ("problem", "solution", "answer")
    FILES = {
        "train.jsonl": f"{_LARGE}/prm800k/math_splits/train.jsonl",
        "math500.jsonl": f"{_LARGE}/prm800k/math_splits/test.jsonl",
    }


def load(
    builder: type[_Texts],
    read: Callable[[Path], Rows],
    *,
    path: Path | None,
    data_dir: Path | None,
) -> Rows:
    """Prepares a dataset where it is not prepared yet, and reads it.

    Args:
      builder: which.
      read: reads a folder in its published layout, or raises UserError.
      path: a local copy, which is prepared anew when it changes; None to download.
      data_dir: where prepared data is kept; None for what TFDS says, which is
        $TFDS_DATA_DIR or ~/tensorflow_datasets.

    Raises:
      UserError: what `read` raises; or the download fails; or the disk is full, and
        then nothing is kept of what was prepared.
    """
    tfds.disable_progress_bar()
    # TFDS keeps what it has once prepared: another copy needs another name.
    name = "published" if path is None else f"local_{_fingerprint(path)}"

    def splits():
        return tfds.data_source(
            builder.name,
            data_dir=data_dir,
            builder_kwargs=dict(
                config=tfds.core.BuilderConfig(name=name, version=builder.VERSION),
                file_format="array_record",
                read=read,
                path=path,
            ),
        )

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)  # "using custom data configuration", and so on
    try:
        sources = splits()
    except UserError:
        raise
    except Exception as error:
        if path is None or unwritable(error):
            raise _explained(error, builder, data_dir) from error
        # Another process may have prepared the same meanwhile, and ours could not
        # take its place. What is wrong otherwise goes wrong again.
        sources = splits()
    finally:
        logging.set_verbosity(verbosity)
    return {
        split: [
            {field: row[field].decode() for field in builder.FIELDS}
            for row in sources.get(split, [])
        ]
        for split in ("train", "test")
    }


def _explained(
    error: Exception, builder: type[_Texts], data_dir: Path | None
) -> UserError:
    """What to say of a dataset that cannot be prepared: a full disk, or no network."""
    if reason := unwritable(error):
        place = data_dir or tfds.core.constants.DATA_DIR
        return UserError(f"cannot prepare {builder.name} in {place}: {reason}")
    return UserError(
        f"cannot download {builder.name} ({error}); give a local copy as "
        f"config.task.path, a folder with {', '.join(builder.FILES)} from "
        f"{', '.join(builder.FILES.values())}"
    )


def _fingerprint(path: Path) -> str:
    """Names a folder's place and state: the size and time of all its files."""
    digest = hashlib.blake2b(str(path.absolute()).encode(), digest_size=8)
    for file in sorted(path.rglob("*.json*")):
        stat = file.stat()
        digest.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    return digest.hexdigest()
