"""The floors of the package: a module imports from floors below its own, or beside it.

Read from the sources, imports within functions included.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pav_jax"

# From the ground up. A name is a package or a module of `pav_jax`.
FLOORS = (
    "core",
    "prover",
    "distributed",
    "storage",
    "gemma",
    "tasks",
    "train",
    "metrics",
    "rollout",
    "labels",
    "first_pit",
    "policy",
    "verifier",
    "scores",
    "search",
    "rl",
    "laboratories",
    "report",
    "pipeline",
    "tools",
    "main",
)
# `python -m pav_jax`, and what `import pav_jax` offers, which is read when asked for.
ENTRANCES = ("__init__", "__main__")

SOURCES = sorted(PACKAGE.rglob("*.py"))


def _module(path: Path) -> str:
    """The dotted name below `pav_jax`; a package is its `__init__`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {_module(path) for path in SOURCES}


def _resolve(name: str) -> str | None:
    """The module of ours that a dotted name below `pav_jax` is, or is in."""
    parts = name.split(".")
    while parts:
        for candidate in (".".join(parts), ".".join([*parts, "__init__"])):
            if candidate in MODULES:
                return candidate
        parts.pop()
    return None


def imports(source: str) -> Iterator[str]:
    """The modules of ours that a source imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "pav_jax" and (found := _resolve(rest)):
                yield found


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[0])


def misplaced(module: str, imported: str) -> bool:
    """Whether one module may not import another."""
    return floor(imported) > floor(module)


GRAPH = {
    _module(path): set(imports(path.read_text())) - {_module(path)} for path in SOURCES
}


def test_every_module_has_a_floor():
    tops = {module.split(".")[0] for module in MODULES} - set(ENTRANCES)
    assert tops == set(FLOORS)


def test_nothing_is_imported_from_a_floor_above():
    assert not [
        f"{module} imports {name}"
        for module in sorted(MODULES - set(ENTRANCES))
        for name in sorted(GRAPH[module])
        if misplaced(module, name)
    ]


def test_no_cycle():
    """Depth first; a module that is met again on its own path closes a cycle."""
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for name in sorted(GRAPH[module]):
                visit(name, (*path, module))
            done.add(module)

    for module in sorted(MODULES):
        visit(module, ())


def test_the_test_sees_an_upward_import():
    (found,) = set(imports("def f():\n    from pav_jax.rl import trainer"))
    assert found == "rl.trainer"
    assert misplaced("gemma.forward", found) and not misplaced("main", found)


def test_the_root_is_small():
    """A reader who knows the paper finds its names at the root, and few others."""
    assert len(list(PACKAGE.glob("*.py"))) <= 12


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{_module(path)}.{node.name}", node.end_lineno - node.lineno + 1


def test_functions_fit_a_screen():
    found = [pair for path in SOURCES for pair in _functions(path)]
    assert not [(name, lines) for name, lines in found if lines > 60]


def test_files_are_one_sitting():
    """400 lines at most, or the head says why in a sentence with "lines"."""

    def is_long(path: Path) -> bool:
        text = path.read_text()
        head = ast.get_docstring(ast.parse(text)) or ""
        return len(text.splitlines()) > 400 and " lines" not in head

    assert not [_module(path) for path in SOURCES if is_long(path)]
