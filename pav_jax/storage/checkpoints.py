"""Checkpoints through Orbax: training states to resume from, and final parameters."""

import contextlib
import logging
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from pav_jax.core.errors import UserError, exhausted, unwritable
from pav_jax.distributed import mesh, sharding
from pav_jax.distributed.collectives import all_gather
from pav_jax.distributed.processes import is_loss
from pav_jax.storage.artifacts import writing

_KEPT = 2  # of the newest checkpoints


def _orbax():
    # Seconds of import that labelling and search of a laptop run can do without.
    import orbax.checkpoint as ocp

    # What it logs as an error, a traceback from each of its threads, it raises too.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    return ocp


def _this_process(ocp) -> Any:
    """Options with which this process saves or loads without the others."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index,
        active_processes={index},
        barrier_sync_key_prefix=f"process-{index}",
    )


def _savers(ocp) -> Any:
    """Options with which all processes of the active mesh save together.

    If the mesh is of this process alone, it saves by itself.
    """
    if not mesh.spans_processes():
        return _this_process(ocp)
    # All are named: without names, Orbax waits for them by a collective computation.
    everyone = set(range(jax.process_count()))
    return ocp.options.MultiprocessingOptions(active_processes=everyone)


def _savable(tree: Any) -> Any:
    """`tree` as Orbax takes it.

    In a run of many processes it refuses arrays that are on the devices of one of them.
    """
    if jax.process_count() == 1 or mesh.spans_processes():
        return tree
    return jax.tree.map(np.array, tree)


def _sealed(state: Any) -> dict[str, Any]:
    """A state with a checksum: a damaged checkpoint may read without an error."""
    return {"state": state, "checksum": _checksum(state)}


@jax.jit
def _checksum(tree: Any) -> jax.Array:
    """A checksum of all bits, uint32 scalar; it does not depend on the sharding."""
    total = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
        total = 31 * total + jnp.sum(bits, dtype=jnp.uint32)
    return total


class Checkpoints:
    """The newest checkpoints of one training run.

    Saves are asynchronous. Each is written to a temporary name and renamed, so that a
    kill or a full disk leaves the previous checkpoint whole. What cannot be written is
    a UserError of the next `save`, or of `close`. The processes of the active mesh call
    all methods together.

    Args:
      directory: of the checkpoints; made if need be.
    """

    def __init__(self, directory: pathlib.Path):
        ocp = _orbax()
        self._ocp = ocp
        self._directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEPT,
            cleanup_tmp_directories=True,
            create=False,
            multiprocessing_options=_savers(ocp),
        )
        with writing(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    def restore(self, state: Any) -> Any | None:
        """The newest state that can be read, or None if there is none.

        A checkpoint that cannot be read is renamed to `corrupt-STEP`, with a message.

        Args:
          state: has the structure, shapes, dtypes and shardings of the result.
        """
        like = _sealed(state)
        while (step := self._newest()) >= 0:
            sealed, why = None, "another process cannot"
            try:
                sealed = self._read(step, like)
            except Exception as error:  # Orbax and TensorStore raise many kinds
                if exhausted(error) or unwritable(error):  # it may be whole
                    raise
                why = str(error).strip() or type(error).__name__
            if all_gather(sealed is not None).all():
                if _sealed(sealed["state"])["checksum"] == sealed["checksum"]:
                    return sealed["state"]
                why = "its checksum is wrong"
            self._set_aside(step, why)
        return None

    def _newest(self) -> int:
        """The newest step that the primary sees; -1 if it sees none."""
        return int(all_gather(max(self._manager.all_steps(), default=-1))[0])

    def _read(self, step: int, like: Any) -> Any:
        # Each process by itself: if one cannot, the others must not wait for it.
        with _checkpointer(self._ocp, _this_process) as checkpointer:
            return checkpointer.restore(self._directory / str(step) / "default", like)

    def _set_aside(self, step: int, why: str) -> None:
        """Renames a checkpoint that cannot be read.

        If it stayed, it would count as the newest, and push out one that can be read.
        """
        path = self._directory / str(step)
        aside = path.with_name(f"corrupt-{step}")
        tqdm.write(
            f"checkpoint {path} cannot be read; it is now {aside.name}, and an older"
            f" one is tried ({why.splitlines()[0][:200]})",
            file=sys.stderr,
        )
        if jax.process_index() == 0:
            path.rename(aside)
        all_gather(True)  # wait for that
        self._manager.reload()

    def save(self, step: int, state: Any) -> None:
        """Starts to save a state, which may be donated once this returns.

        Raises:
          UserError: if this state, or the one before, cannot be written.
        """
        args = self._ocp.args.StandardSave(_savable(_sealed(state)))
        with writing(self._directory):
            self._manager.save(step, args=args)

    def close(self) -> None:
        """Waits until all saves are on disk; raises UserError if one cannot be."""
        with writing(self._directory):
            self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, _, error: BaseException | None, *__) -> None:
        if error is None or not is_loss(error):  # else it would wait for the lost one
            self.close()


def _checkpointer(ocp, processes: Callable[[Any], Any]) -> Any:
    return ocp.StandardCheckpointer(multiprocessing_options=processes(ocp))


def save_params(path: pathlib.Path, params: Any) -> None:
    """Writes a tree of arrays to `path`, a folder that must not exist.

    Raises:
      UserError: if the disk is full, or the path cannot be written; there is no folder
        `path` then.
    """
    ocp = _orbax()
    with writing(path), _checkpointer(ocp, _savers) as checkpointer:
        checkpointer.save(path.absolute(), _savable(params))


def load_params(
    path: pathlib.Path, like: Any, rules: sharding.Rules = sharding.DECODE
) -> Any:
    """Reads parameters with the structure, shapes and dtypes of `like`.

    Args:
      path: the folder that `save_params` wrote.
      like: a tree of arrays or of their shapes.
      rules: where the parameters go on the active mesh: `DECODE` to sample and score,
        `TRAIN` to train on.

    Raises:
      UserError: if there is no checkpoint, it is damaged, or it has another structure.
    """
    # Placed explicitly: what wrote the checkpoint may have had other devices.
    like = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        like,
        sharding.shardings(like, rules),
    )
    with _reading(path) as checkpointer:
        _check_names(_stored_names(checkpointer, path), like, path)
        return checkpointer.restore(path.absolute(), like)


def stored_names(path: pathlib.Path) -> set[str]:
    """The names of the arrays that `save_params` wrote, such as head/value.

    Raises:
      UserError: if there is no checkpoint, or it is damaged.
    """
    with _reading(path) as checkpointer:
        return _stored_names(checkpointer, path)


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[Any]:
    """Within, what cannot be read of a checkpoint is a UserError."""
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}; run the stage that writes it")
    ocp = _orbax()
    try:
        with _checkpointer(ocp, _this_process) as checkpointer:
            yield checkpointer
    except UserError:
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds
        if exhausted(error):
            raise
        raise UserError(
            f"the checkpoint {path} cannot be read as the architecture that the"
            f" config describes: {error}"
        ) from error


def _stored_names(checkpointer: Any, path: pathlib.Path) -> set[str]:
    return _names(checkpointer.metadata(path.absolute()).item_metadata.tree)


def _names(tree: Any) -> set[str]:
    return {
        jax.tree_util.keystr(key, simple=True, separator="/")
        for key, _ in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def _check_names(stored: set[str], like: Any, path: pathlib.Path) -> None:
    """Raises UserError if parameters are missing or unknown, and names them."""
    wanted = _names(like)
    if stored == wanted:
        return
    differences = [
        f"{word} {', '.join(sorted(names)[:4])}{' and more' if len(names) > 4 else ''}"
        for word, names in (("lacks", wanted - stored), ("has", stored - wanted))
        if names
    ]
    raise UserError(
        f"the checkpoint {path} {' and '.join(differences)}, unlike what the config"
        " describes: it is of another architecture, or an earlier version of this"
        f" program wrote it; if so, delete {path.parent} and run its stage again"
    )
