"""A Python that is killed at a given change to the file system."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
_CHANGES = ("link", "mkdir", "rename", "replace", "rmdir", "unlink")


def run_here(file: str, function: str, *args: Any) -> subprocess.Popen[str]:
    """Starts a Python that calls a function of a test file with strings."""
    program = (
        "import runpy, sys; sys.path.insert(0, sys.argv[1]);"
        " runpy.run_path(sys.argv[2])[sys.argv[3]](*sys.argv[4:])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, str(HERE), file, function, *map(str, args)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
    )


def dies_at(point: int, run: Callable[..., Any], *args: Any, **kwargs: Any) -> bool:
    """Runs in a child that dies before its change number `point`; False if it ends."""
    pid = os.fork()
    if not pid:
        changes = iter(range(point + 1))

        def counted(function):
            def call(*args, **kwargs):
                if next(changes) == point:
                    os._exit(9)
                return function(*args, **kwargs)

            return call

        for name in _CHANGES:
            setattr(os, name, counted(getattr(os, name)))
        run(*args, **kwargs)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
