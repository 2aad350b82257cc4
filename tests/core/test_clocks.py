"""No result depends on the time of day, which may be set back or ahead by years.

What a run leaves when the clock jumps is tested in `tests/reliability/test_kills.py`.
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "pav_jax"
CLOCKS = {"time", "time_ns", "localtime", "gmtime", "now", "today", "utcnow"}
TIMES = {"st_mtime", "st_mtime_ns", "st_ctime", "st_ctime_ns", "st_atime", "getmtime"}
# Where the time of day is read, and why that is no harm.
MAY = {
    "train/events.py": {"time"},  # shown to people; files are in the order of numbers
    "storage/mirror.py": {"st_mtime_ns"},  # whether a file changed; see test_mirror.py
    "tasks/datasets.py": {"st_mtime_ns"},  # whether a user's file changed
}


def _read(path: Path) -> set[str]:
    """Names of clocks and times of files that a module uses."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            of_clock = isinstance(node.value, ast.Name) and node.value.id in (
                "time",
                "datetime",
                "date",
            )
            if node.attr in TIMES or (of_clock and node.attr in CLOCKS):
                found.add(node.attr)
        if isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime"):
            found |= {alias.name for alias in node.names}
    return found


def test_who_reads_the_time_of_day():
    paths = {
        path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")
    }
    uses = {name: found for name, path in paths.items() if (found := _read(path))}
    assert uses == MAY
