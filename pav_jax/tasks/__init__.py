"""Where problems come from; each task's module is imported when asked for."""

import importlib
import inspect
import types
import typing
from typing import Any

import ml_collections

from pav_jax.core.errors import UserError
from pav_jax.tasks.base import Task

_TASKS = {
    "relations": ("pav_jax.tasks.relations", "Relations"),
    "gsm8k": ("pav_jax.tasks.gsm8k", "Gsm8k"),
    "math": ("pav_jax.tasks.math", "Math"),
    "jsonl": ("pav_jax.tasks.math", "Jsonl"),
}


def make_task(config: ml_collections.ConfigDict) -> Task:
    """Builds the task that a configuration names.

    Args:
      config: `name`, and the named task's own arguments.

    Returns:
      The task.

    Raises:
      UserError: the name is unknown, an argument is missing, not one of the task's or
        of another type, or the task refuses its value.
    """
    name = config.get("name")
    if not isinstance(name, str) or name not in _TASKS:
        raise UserError(
            f"config.task.name is {name!r}, an unknown task; the tasks are"
            f" {', '.join(_TASKS)}"
        )
    module, class_name = _TASKS[name]
    task = getattr(importlib.import_module(module), class_name)
    arguments = {key: value for key, value in config.items() if key != "name"}
    try:
        inspect.signature(task).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"task {name!r}: {error}; it takes {inspect.signature(task)}"
        ) from error
    hints = typing.get_type_hints(task.__init__)
    for field, value in arguments.items():
        if not _fits(value, hints[field]):
            raise UserError(
                f"config.task.{field} is {value!r}; task {name!r} takes"
                f" {inspect.signature(task).parameters[field]}"
            )
    return task(**arguments)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of the type that a task's argument is annotated with."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(hint))
    kind = typing.get_origin(hint) or hint
    if kind is tuple:
        return isinstance(value, list | tuple)
    if kind is float:
        return type(value) in (int, float)
    return type(value) is kind if kind in (int, bool) else isinstance(value, kind)
