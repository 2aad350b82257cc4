"""A stand-in for gcloud that records what it is told, and runs launchers beside it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

LAUNCH = Path(__file__).resolve().parents[1] / "launch"

# A cloud in a folder: each line of the file "states" is what one look at the TPU shows,
# the last one again and again; so do "progress" for the run, and "create_error".
FAKE = """#!{python} -IS
import pathlib, shlex, sys
here = pathlib.Path({folder!r})
arguments = sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(shlex.join(["gcloud", *arguments]) + "\\n")

def next_line(name):
    lines = (here / name).read_text().splitlines()
    if len(lines) > 1:
        (here / name).write_text("\\n".join(lines[1:]))
    return lines[0]

def fail(text):
    print(text, file=sys.stderr)
    sys.exit(1)

words = " ".join(arguments)
if " create " in f" {{words}} ":
    error = here / "create_error"
    if error.exists() and (text := next_line("create_error")) != "OK":
        fail(text)
    (here / "made").touch()
elif " delete " in f" {{words}} ":
    (here / "made").unlink(missing_ok=True)
elif "describe" in arguments:
    state = next_line("states")
    if state == "ABSENT":
        fail("ERROR: NOT_FOUND: no such thing")
    print(state)
elif (text := here / "fails").exists() and text.read_text() in words:
    fail("broken pipe")
elif "ssh" in arguments and "run.code ]" in words:
    code = next_line("progress")
    if code == "unreachable":
        fail("ssh: connection refused")
    print(code)
elif "pav devices" in words and (here / "devices_error").exists():
    fail((here / "devices_error").read_text())
"""


class Cloud:
    def __init__(self, folder):
        self._folder = folder
        path = folder / "gcloud"
        path.write_text(FAKE.format(python=sys.executable, folder=str(folder)))
        path.chmod(0o755)

    def set(self, **files):
        for name, text in files.items():
            (self._folder / name).write_text(text)

    def run(self, script, *arguments):
        self._folder.joinpath("calls").write_text("")
        folders = self._folder, Path(sys.executable).parent, os.environ["PATH"]
        path = os.pathsep.join(map(str, folders))
        return subprocess.run(
            [LAUNCH / script, *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"PATH": path},
            timeout=300,
        )

    @property
    def calls(self):
        lines = self._folder.joinpath("calls").read_text().splitlines()
        return [shlex.split(line) for line in lines]

    @property
    def verbs(self):
        """What was done to the TPU, in order, without the looks."""
        known = ("create", "delete", "scp", "ssh")
        found = [next((w for w in known if w in call), None) for call in self.calls]
        return [verb for verb in found if verb]

    @property
    def made(self):
        return (self._folder / "made").exists()


PLACE = ["--zone=us-central1-a", "--project=mine"]
NFS = "--nfs=10.0.0.2:/pav"
TPU = ["--name=demo-1", "--type=v5litepod-16", *PLACE, NFS, "--poll=0"]
