"""Where problems come from; each task's module is imported when asked for."""

import importlib
import inspect

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
      UserError: the name is unknown, an argument is missing or not one of the
        task's, or the task refuses its value.
    """
    name = config.get("name")
    if name not in _TASKS:
        raise UserError(f"unknown task {name!r}; the tasks are {', '.join(_TASKS)}")
    module, class_name = _TASKS[name]
    task = getattr(importlib.import_module(module), class_name)
    arguments = {key: value for key, value in config.items() if key != "name"}
    try:
        inspect.signature(task).bind(**arguments)
    except TypeError as error:
        raise UserError(
            f"task {name!r}: {error}; it takes {inspect.signature(task)}"
        ) from error
    return task(**arguments)
