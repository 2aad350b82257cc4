"""Reads an experiment's config file and the command line's changes to it."""

import contextlib
import difflib
import hashlib
import inspect
import json
import keyword
import math
import os
import runpy
import sys
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_dict
from ml_collections.config_flags import config_flags

from pav_jax.core.errors import UserError

ConfigDict = config_dict.ConfigDict


def load(arguments: list[str]) -> ConfigDict:
    """The locked config that command-line arguments ask for.

    Args:
      arguments: one `--config=FILE[:variant]` and any number of
        `--config.field=value`, `--config.flag` and `--noconfig.flag`. The file
        defines `get_config(variant: str = "")` and gives the experiment a `name`.

    Raises:
      UserError: the file, the variant, a field or a value is not usable.
    """
    files = [a for a in arguments if a.startswith("--config=")]
    if len(files) != 1:
        raise UserError(f"give --config=FILE once; it was given {len(files)} times")
    path, _, variant = files[0].removeprefix("--config=").partition(":")
    config = _read(path, variant)
    for argument in arguments:
        if argument not in files:
            _override(config, argument)
    name = config.get("name")
    if not isinstance(name, str) or not name:
        raise UserError(f"{path} gives the experiment no name; set config.name in it")
    flatten(config)  # Refuses here what could not be written down later.
    return config


def flatten(config: ConfigDict) -> dict[str, Any]:
    """The fields by their dotted names, as values that JSON gives back unchanged."""
    return {
        name: _json_value(name, value)
        for name, value in sorted(_walk(config))
        if not isinstance(value, ConfigDict)
    }


def unflatten(values: Mapping[str, Any]) -> ConfigDict:
    """The locked config whose fields, by their dotted names, are `values`."""
    config = ConfigDict()
    for name, value in values.items():
        *sections, last = name.split(".")
        section = config
        for part in sections:
            if part not in section:
                section[part] = ConfigDict()
            section = section[part]
        section[last] = value
    return config.lock()


def digest(values: Any) -> str:
    """A short hash of a JSON value, the same on every machine and in every run."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def within(name: str, prefix: str) -> bool:
    """Whether the dotted `name` is `prefix` or below it, as all are below ""."""
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def select(config: ConfigDict, prefixes: Collection[str]) -> ConfigDict:
    """A locked copy with only the fields and sections named by dotted prefixes."""
    chosen = ConfigDict()
    for prefix in config if "" in prefixes else prefixes:
        *sections, last = prefix.split(".")
        source, target = config, chosen
        for section in sections:
            source = source[section]
            if section not in target:
                target[section] = ConfigDict()
            target = target[section]
        target[last] = source[last]
    return chosen.copy_and_resolve_references().lock()


def has(path: str, function: str) -> bool:
    """Whether a config file defines a function.

    Raises:
      UserError: there is no such file, or it fails.
    """
    return function in _run(path)


def takes_argument(path: str, function: str) -> bool:
    """Whether a function that a config file defines can be given an argument.

    Raises:
      UserError: there is no such file, or it fails.
    """
    return bool(inspect.signature(_run(path)[function]).parameters)


def call(path: str, function: str, argument: Any = "") -> Any:
    """What a function of a config file returns, given the argument unless it is "".

    Raises:
      UserError: there is no such file or function, or it fails.
    """
    variant = argument if isinstance(argument, str) else ""
    found = _run(path, variant)
    try:
        with _neighbours_importable(path):
            return found[function](*[argument] * (argument != ""))
    except Exception as error:  # The file is the user's: whatever it raises is news.
        raise UserError(_file_failed(path, variant, error)) from error


def _run(path: str, variant: str = "") -> dict[str, Any]:
    """What a config file defines, by name."""
    if not Path(path).is_file():
        raise UserError(_no_such_file(path))
    try:
        with _neighbours_importable(path):
            # Compiled afresh: an import's cache misses a second edit within a second.
            return runpy.run_path(path, run_name="pav_config")
    except Exception as error:
        raise UserError(_file_failed(path, variant, error)) from error


def _read(path: str, variant: str) -> ConfigDict:
    """What `get_config(variant)` of the file returns, locked."""
    config = call(path, "get_config", variant)
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"get_config() in {path} returns a {type(config).__name__}; "
            "it should return an ml_collections.ConfigDict"
        )
    return config.lock()


@contextlib.contextmanager
def _neighbours_importable(path: str) -> Iterator[None]:
    """Lets a config file build on another of its folder, or of the one above it:
    `import demo`."""
    folder = Path(path).resolve().parent
    folders = [str(folder), str(folder.parent)]
    before = set(sys.modules)
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)
        for name in set(sys.modules) - before:
            file = getattr(sys.modules[name], "__file__", None)
            if file and str(Path(file).parent) in folders:
                del sys.modules[name]  # the next config may have one of that name


def _no_such_file(path: str) -> str:
    what = f"{path} is a folder" if Path(path).is_dir() else f"{path} does not exist"
    here = Path.cwd()
    folders = [Path(path), Path(path).parent]
    folders += [parent / "experiments" for parent in (here, *here.parents)]
    for folder in folders:
        found = [
            os.path.relpath(file)
            for file in sorted(folder.glob("*.py"))
            if file.is_file() and "def get_config(" in file.read_text(errors="replace")
        ]
        if found:
            return f"config file {what}; there are: {', '.join(found)}"
    return f"config file {what}, and there is no experiments folder here"


def _file_failed(path: str, variant: str, error: Exception) -> str:
    if isinstance(error, SyntaxError) and error.filename == path:
        lines, what = [error.lineno], f"syntax error: {error.msg}"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        what = str(error)
        if not isinstance(error, ValueError):
            what = f"{type(error).__name__}: {error}"
    where = f", line {lines[-1]}" if lines else ""
    which = f" with variant {variant!r}" if variant else ""
    return f"config file {path}{where}{which}: {what}"


def _override(config: ConfigDict, argument: str) -> None:
    """Sets in place the one field that `argument` names."""
    flag, equals, text = argument.partition("=")
    switch, is_config, field = flag.partition("config.")
    if switch not in ("--", "--no") or not is_config:
        raise UserError(
            f"{argument!r} is not understood; write a change to the config as "
            "--config.field=value"
        )
    values = dict(_walk(config))
    if field not in values:
        raise UserError(_no_such_field(field, values))
    old = values[field]
    if isinstance(old, ConfigDict):
        raise UserError(f"config field {field!r} is a section; set its fields singly")
    holder, _, last = field.rpartition(".")
    section = values[holder] if holder else config
    kind = section.get_type(last)
    if switch == "--no" and (kind is not bool or equals):
        raise UserError(f"{argument} is not understood; write --config.{field}=value")
    if kind is not bool and not equals:
        raise UserError(f"{flag} needs a value; write {flag}=value")

    parsed = flags.FlagValues()  # Not the global ones: a load leaves nothing behind.
    target = config
    if keyword.iskeyword(last):  # labels.from, which config_flags read as Python
        target, argument = ConfigDict({"value": old}), f"--config.value={text}"
    try:
        config_flags.DEFINE_config_dict(
            "config", target, flag_values=parsed, sys_argv=["pav", argument]
        )
        parsed(["pav", argument])
    except config_flags.UnsupportedOperationError:
        raise UserError(
            f"config field {field!r} is {old!r} in the config file, of a type that "
            "the command line cannot set; change it in the file"
        ) from None
    except (flags.Error, TypeError, ValueError):
        raise UserError(_wrong_type(field, kind, old, text)) from None
    if target is not config:
        section[last] = target.value
    if kind is tuple and not _same_kinds(old, section[last]):
        raise UserError(_wrong_type(field, kind, old, text))


def _walk(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted name and the value of every section and every field."""
    for key in config:
        value = config[key]
        yield prefix + key, value
        if isinstance(value, ConfigDict):
            yield from _walk(value, f"{prefix}{key}.")


def _no_such_field(field: str, values: dict[str, Any]) -> str:
    """Names the nearest field, or else what the section holds."""
    section, _, last = field.rpartition(".")
    section = section if isinstance(values.get(section), ConfigDict) else ""
    inside = [name for name in values if name.rpartition(".")[0] == section]
    fields = [n for n, value in values.items() if not isinstance(value, ConfigDict)]
    # A slip in the last part, in the section's, or the right name in a wrong section.
    near = _nearest(last, [name for name in inside if name in fields])
    if not near and not section:
        near = "".join(difflib.get_close_matches(field, fields, n=1))
    if near := near or _nearest(last, fields):
        return f"there is no config field {field!r}; did you mean {near!r}?"
    return f"there is no config field {field!r}; there are: {', '.join(inside)}"


def _nearest(last: str, names: list[str]) -> str:
    """The dotted name whose last part is most like `last`; empty if none is."""
    by_last = {name.rpartition(".")[2]: name for name in reversed(names)}
    near = difflib.get_close_matches(last, by_last, n=1)
    return by_last[near[0]] if near else ""


def _wrong_type(field: str, kind: type, old: Any, text: str) -> str:
    a_kind = "an int" if kind is int else f"a {kind.__name__}"
    example = "" if old is None else f" such as {old!r}"
    return f"config field {field!r} takes {a_kind}{example}, not {text!r}"


def _same_kinds(old: tuple, new: tuple) -> bool:
    """Whether a tuple's elements have the types that its default's have."""
    kinds = {type(element) for element in old}
    if float in kinds:
        kinds.add(int)
    return not kinds or all(type(element) in kinds for element in new)


def _json_value(field: str, value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_json_value(field, element) for element in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config field {field!r} is {value}; it must be finite or None")
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise UserError(
        f"config field {field!r} holds a {type(value).__name__}; a config holds only "
        "numbers, strings, booleans, None, and tuples of these"
    )
