"""Event files: what TensorBoard's own reader finds in them."""

import subprocess
import sys

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


def test_events_of_two_attempts(tmp_path):
    first = Events(tmp_path, 0)
    first.write(1, {"kl": 0.5})
    first.write(2, {"kl": 0.25, "greedy": 1.0})
    first.write(3, {"kl": 8.0})  # after the last checkpoint
    first.close()
    second = Events(tmp_path, 2)
    second.write(3, {"kl": 0.125})
    second.close()
    found = subprocess.run(
        [sys.executable, "-c", READ, tmp_path], capture_output=True, text=True
    )
    assert found.stdout.splitlines() == [
        "greedy [(2, 1.0)]",
        "kl [(1, 0.5), (2, 0.25), (3, 0.125)]",
    ], found.stderr


def test_tensorflow_is_not_imported(tmp_path):
    script = (
        "import pathlib, sys; from pav_jax.train.events import Events\n"
        "Events(pathlib.Path(sys.argv[1]), 0).close()\n"
        "print('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", script, tmp_path]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "False\n"
