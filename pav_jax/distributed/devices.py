"""Are the devices there? Asked before any work, with a limit to how long it may take.

A TPU that another process holds, or a host of a pod that did not come up, makes jax
wait without end and without a word. So a child process asks, and can be ended.
"""

import dataclasses
import json
import subprocess
import sys

from pav_jax.core.counts import counted
from pav_jax.core.errors import UserError
from pav_jax.distributed.processes import Coordinator, join


def check(coordinator: Coordinator, *, expect: int | None, timeout: float) -> str:
    """Counts the devices of all processes, which must ask at the same time.

    Args:
      coordinator: of the run that is about to start.
      expect: devices there must be; None if any will do.
      timeout: seconds to wait for them.

    Returns:
      What there is, in a line.

    Raises:
      UserError: too few, too many, or no answer in time.
    """
    command = [sys.executable, "-m", __name__]
    command.append(json.dumps(dataclasses.asdict(coordinator)))
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise UserError(
            f"no answer about devices within --timeout={timeout:g} s; does another"
            " process hold them, and have all hosts started?"
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it did not say why"])[-1]
        raise UserError(f"devices cannot be used: {last.removeprefix('pav: ')}")
    found = json.loads(done.stdout.splitlines()[-1])
    devices = counted(found["devices"], f"{found['kind']} device")
    there = (
        f"{devices}, {found['local']} of them here, in"
        f" {found['processes']} process{'' if found['processes'] == 1 else 'es'}"
    )
    if expect is not None and found["devices"] != expect:
        raise UserError(f"there are {there}; --expect={expect}")
    return there


def here() -> str:
    """The devices of all processes, and jax's version: "1 cpu device, jax 0.10.1".

    To be asked after `join`.
    """
    import jax

    kind = jax.devices()[0].device_kind
    return f"{counted(jax.device_count(), f'{kind} device')}, jax {jax.__version__}"


def _tell(coordinator: Coordinator) -> None:
    """Prints what jax finds."""
    processes = join(coordinator)
    import jax

    found = {
        "devices": jax.device_count(),
        "local": jax.local_device_count(),
        "kind": jax.devices()[0].device_kind,
        "processes": processes.count,
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    _tell(Coordinator(**json.loads(sys.argv[1])))
