"""Checkpoints through Orbax: training states that resume, and final parameters."""

import logging
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from pav_jax import mesh
from pav_jax.errors import UserError


def _orbax():
    # Seconds of import that labelling and search of a laptop run can do without.
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    return ocp


def _by_itself(ocp) -> Any:
    """That a process of many saves and loads without the others, as it trains."""
    index = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=index,
        active_processes={index},
        barrier_sync_key_prefix=f"process-{index}",
    )


def _savable(tree: Any) -> Any:
    """`tree`, as Orbax takes it: of many processes, no arrays on one of them only."""
    if jax.process_count() == 1:
        return tree
    return jax.tree.map(np.array, tree)


class Checkpoints:
    """The newest checkpoints of one training run.

    Saves are asynchronous, written to a temporary name and renamed, so that a
    kill leaves the previous checkpoint whole.
    """

    def __init__(self, directory: pathlib.Path, *, keep: int = 2):
        ocp = _orbax()
        self._args = ocp.args
        self._directory = directory.absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                cleanup_tmp_directories=True,
                create=False,
                multiprocessing_options=_by_itself(ocp),
            ),
        )

    def restore(self, state: Any) -> Any | None:
        """The newest whole state, shaped and placed like `state`; None if none.

        One that cannot be read is named and set aside, as `corrupt-STEP`.
        """
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                return self._manager.restore(
                    step, args=self._args.StandardRestore(state)
                )
            except Exception as error:  # Orbax and TensorStore raise many kinds
                self._set_aside(step, error)
        return None

    def _set_aside(self, step: int, error: Exception) -> None:
        """Else it would count as the newest, and whole ones make room for it."""
        path = self._directory / str(step)
        aside = path.with_name(f"corrupt-{step}")
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        tqdm.write(
            f"checkpoint {path} cannot be read; it is now {aside.name}, and an older"
            f" one is tried ({why[:200]})",
            file=sys.stderr,
        )
        path.rename(aside)
        self._manager.reload()

    def save(self, step: int, state: Any) -> None:
        """Starts to save; the state may be donated once this returns."""
        self._manager.save(step, args=self._args.StandardSave(_savable(state)))

    def close(self) -> None:
        """Waits for saves under way."""
        self._manager.close()


def _checkpointer(ocp) -> Any:
    return ocp.StandardCheckpointer(multiprocessing_options=_by_itself(ocp))


def save_params(path: pathlib.Path, params: Any) -> None:
    """Writes a tree of arrays; `path` must not exist."""
    ocp = _orbax()
    with _checkpointer(ocp) as checkpointer:
        checkpointer.save(path.absolute(), _savable(params))


def load_params(path: pathlib.Path, like: Any) -> Any:
    """Reads parameters with the structure, shapes and dtypes of `like`.

    They go where sampling and scoring have them; training moves them.

    Raises:
      UserError: there is none, it is damaged, or it has another structure.
    """
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}; run the stage that writes it")
    ocp = _orbax()
    # Of this process: what wrote it may have been another's device.
    like = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
        like,
        mesh.shardings(like, mesh.DECODE),
    )
    try:
        with _checkpointer(ocp) as checkpointer:
            return checkpointer.restore(path.absolute(), like)
    except Exception as error:  # Orbax and TensorStore raise many kinds
        raise UserError(
            f"the checkpoint {path} cannot be read as the architecture that the"
            f" config describes: {error}"
        ) from error
