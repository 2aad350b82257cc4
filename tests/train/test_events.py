"""Event files: what TensorBoard's own reader finds in them."""

import subprocess
import sys
import time

from pav_jax.train.events import Events

READ = """
import sys
sys.modules["tensorflow"] = None  # its import fails
from tensorboard.backend.event_processing import event_accumulator
found = event_accumulator.EventAccumulator(sys.argv[1])
found.Reload()
for tag in sorted(found.Tags()["scalars"]):
    print(tag, [(event.step, event.value) for event in found.Scalars(tag)])
"""

# An attempt that is killed once its steps are on disk, and never closes the file.
KILLED = """
import os, pathlib, sys, time
from pav_jax.train.events import Events
directory = pathlib.Path(sys.argv[1])
events = Events(directory, 2)
events.scalars(3, {"kl": 16.0})
events.scalars(4, {"kl": 32.0})
deadline = time.monotonic() + 60
while sum(path.read_bytes().count(b"kl") for path in directory.iterdir()) < 5:
    assert time.monotonic() < deadline
    time.sleep(0.05)
assert "tensorflow" not in sys.modules
print("written", flush=True)
os.kill(os.getpid(), 9)
"""


def test_events_of_three_attempts(tmp_path, monkeypatch):
    """The clock goes back by a year before each."""
    now, year = time.time(), 365 * 86_400
    monkeypatch.setattr(time, "time", lambda: now + year)
    first = Events(tmp_path, 0)
    first.scalars(1, {"kl": 0.5})
    first.scalars(2, {"kl": 0.25, "greedy": 1.0})
    first.scalars(3, {"kl": 8.0})  # after the last checkpoint
    first.close()
    command = [sys.executable, "-c", KILLED, tmp_path]
    killed = subprocess.run(command, capture_output=True, text=True)
    assert killed.stdout == "written\n", killed.stderr
    monkeypatch.setattr(time, "time", lambda: now - year)
    third = Events(tmp_path, 3)  # a checkpoint of step 3 was whole
    third.scalars(4, {"kl": 0.125})
    third.close()
    assert len(list(tmp_path.iterdir())) == 3
    found = subprocess.run(
        [sys.executable, "-c", READ, tmp_path], capture_output=True, text=True
    )
    assert found.stdout.splitlines() == [
        "greedy [(2, 1.0)]",
        "kl [(1, 0.5), (2, 0.25), (3, 16.0), (4, 0.125)]",
    ], found.stderr
