"""Runs `pav` commands in forks that die at a change to the file system, or at a time.

A process of its own, which has imported what the commands need and touched no device:
a fork then starts at once. Each line of its input is a JSON object, each line of its
output the exit code of what that started, negative for a signal:

- `argv`: the arguments after "pav";
- `log`: a file that what the command prints is added to;
- `signal`: the name of one, such as "SIGKILL"; without it nothing dies;
- `within`: a folder; the changes to the file system while it is there are counted;
- `change`: before which of them the signal comes, from 0;
- `after`: seconds at which the signal comes, in place of these two;
- `clock`: with "jumps", the time of day is a year ahead and a year back in turn;
- `memory`: bytes that the command may take beside what it has at its start;
- `counts`: a file for the number of changes within each folder `NAME.new` beside it.
"""

import collections
import importlib
import itertools
import json
import os
import pkgutil
import resource
import signal
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

_CHANGES = ("link", "mkdir", "rename", "replace", "rmdir", "unlink")
_YEAR = 365 * 86_400
_TICK = 1.5  # seconds that pass between two looks at the loop's clock: a save every 20


def main() -> None:
    import pav_jax

    for module in pkgutil.walk_packages(pav_jax.__path__, "pav_jax."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    print("ready", flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if not pid:
            _run(json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _run(job: dict[str, Any]) -> None:
    """Runs the command and ends this process."""
    from pav_jax import main
    from pav_jax.pipeline import attempts
    from pav_jax.train import loop

    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (0, 1, 2):
        os.dup2(log if stream else os.open(os.devnull, os.O_RDONLY), stream)
    attempts._TICK_SECONDS = 3600.0  # else changes are as many as seconds
    ticks = itertools.count()
    loop.time = types.SimpleNamespace(monotonic=lambda: _TICK * next(ticks))
    if job.get("clock") == "jumps":
        _jump()
    if "memory" in job:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + job["memory"]
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    if "after" in job:
        number = getattr(signal, job["signal"])
        timer = threading.Timer(job["after"], os.kill, (os.getpid(), number))
        timer.daemon = True
        timer.start()
    elif "signal" in job:
        _die(Path(job["within"]), job["change"], getattr(signal, job["signal"]))
    counts: collections.Counter[str] = collections.Counter()
    if "counts" in job:
        root = Path(job["counts"]).parent
        _before_changes(lambda: counts.update(p.name for p in root.glob("*.new")))
    code = main.main(job["argv"])
    if "counts" in job:
        Path(job["counts"]).write_text(json.dumps(counts))
    os._exit(code)


def _jump() -> None:
    """Sets the clock of this process by years, each time that it is looked at.

    But for Orbax, which gives a save up when its clock is ten minutes ahead; that is
    exit code 75 (`storage.artifacts.writing`).
    """
    import tqdm.std

    real, sign = time.time, itertools.cycle((1, -1))

    def now() -> float:
        orbax = sys._getframe(1).f_globals.get("__name__", "").startswith("orbax")
        return real() + (0 if orbax else next(sign) * _YEAR)

    time.time = tqdm.std.time = now
    time.time_ns = lambda: int(1e9 * now())


def _die(within: Path, change: int, number: signal.Signals) -> None:
    """Sends itself a signal before a change to the file system."""
    left = itertools.count(change, -1)

    def check() -> None:
        if within.exists() and next(left) == 0:
            os.kill(os.getpid(), number)

    _before_changes(check)


def _before_changes(hook) -> None:
    def hooked(function):
        def call(*args, **kwargs):
            hook()
            return function(*args, **kwargs)

        return call

    for name in _CHANGES:
        setattr(os, name, hooked(getattr(os, name)))


if __name__ == "__main__":
    main()
