"""The command line: what it passes on, what it says, and its exit codes."""

import contextlib
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
from stand_in import Bucket, contents

import pav_jax.pipeline
from pav_jax.core.errors import UserError
from pav_jax.main import Terminated, main
from pav_jax.pipeline.runner import Stage

ROOT = Path(__file__).resolve().parents[1]

CONFIG = """
import ml_collections

def get_config(variant=""):
    return ml_collections.ConfigDict(dict(name="demo", seed=0, variant=variant))
"""


@pytest.fixture
def pipeline(monkeypatch, tmp_path):
    """A pipeline of two stages that note what they see; stands beside demo.py."""
    fake = types.ModuleType("pav_jax.pipeline.stages")
    fake.seen = []

    def run(context):
        fake.seen.append((context.stage, context.config.to_dict()))

    def stages(config, *_):
        fields = ("seed", "variant")
        return [Stage("one", run, (), fields), Stage("two", run, ("one",), fields)]

    fake.stages = stages
    fake.report = lambda workdir: fake.seen.append(("report", str(workdir)))
    monkeypatch.setitem(sys.modules, "pav_jax.pipeline.stages", fake)
    monkeypatch.setattr(pav_jax.pipeline, "stages", fake, raising=False)
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("demo.py").write_text(CONFIG)
    return fake


RUN = ["run", "--config=demo.py:small", "--workdir=out"]


def test_run(pipeline, tmp_path):
    assert main([*RUN, "--config.seed=3"]) == 0
    fields = {"seed": 3, "variant": "small"}
    assert pipeline.seen == [("one", fields), ("two", fields)]
    assert (tmp_path / "out" / "two" / "manifest.json").exists()


def test_run_takes_stages_of_others(pipeline, capsys):
    assert main(RUN) == 0
    assert main([*RUN[:2], "--workdir=other", "--reuse=.", "--reuse=out"]) == 0
    assert len(pipeline.seen) == 2
    assert main([*RUN, "--reuse=uot"]) == 2
    assert "--reuse=uot is not a folder" in capsys.readouterr().err


def test_run_until(pipeline):
    assert main([*RUN, "--until=one"]) == 0
    assert [stage for stage, _ in pipeline.seen] == ["one"]


def test_report_in_a_bucket(pipeline, bucket):
    Bucket().pipe_file("gs://bucket/run/report/results.json", b"found")
    Bucket().pipe_file("gs://bucket/run/sft/params", b"not needed")

    def report(workdir):
        page = workdir / "report" / "index.html"
        page.write_bytes(page.with_name("results.json").read_bytes())
        assert [path.name for path in workdir.iterdir()] == ["report"]
        if (page.parent / "manifest.json").exists():
            (page.parent / "manifest.json").write_text("of the new page")
        return page

    pipeline.report = report
    assert main(["report", "--workdir=gs://bucket/run"]) == 0
    assert bucket()["report/index.html"] == b"found"
    assert "report/manifest.json" not in bucket()
    Bucket().pipe_file("gs://bucket/run/report/manifest.json", b"of the old page")
    assert main(["report", "--workdir=gs://bucket/run"]) == 0
    assert bucket()["report/manifest.json"] == b"of the new page"


bucket = pytest.fixture(contents)


def test_report(pipeline):
    assert main(["report", "--workdir=out"]) == 0
    assert pipeline.seen == [("report", "out")]


def test_a_bucket_that_does_not_answer_is_tried_again_by_launchers(capsys, bucket):
    Bucket.left = 0
    run = ["--config=experiments/demo.py:smoke", "--workdir=gs://bucket/run"]
    assert main(["run", *run]) == 75
    assert "pav: cannot use gs://bucket/run: Lost" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, words",
    [
        ([], "COMMAND"),
        (["fly"], "'fly'"),
        (["run"], "--config, --workdir"),
        ([*RUN, "--until=three"], "'three'"),
        ([*RUN, "--config.sed=3"], "did you mean 'seed'?"),
        ([*RUN, "--config.seed", "3"], "write --config.seed=value"),
        ([*RUN, "--conf=x.py"], "'--conf=x.py' is not understood"),
        ([*RUN, "extra"], "'extra' is not understood"),
        (["run", "--config=demu.py", "--workdir=out"], "demu.py does not exist"),
        (["report", "--workdir=out", "--config.seed=3"], "--config.seed=3"),
        (
            [*RUN, "--config=other.py"],
            "give --config once; it is demo.py:small and other.py; see pav run --help",
        ),
        (["plan", *RUN[1:2], "--topology=v5p-8", RUN[1]], "give --config once"),
        (["lab", *RUN[1:], "--config", "demo.py"], "give --config once"),
        (["merge", *RUN[1:], "--until=x", "--parts=2", RUN[1]], "give --config once"),
    ],
)
def test_mistakes_are_one_paragraph(pipeline, capsys, argv, words):
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("pav: ") and err.count("\n") == 1
    assert words in err
    assert not os.path.exists("out") and not pipeline.seen


def test_message_of_many_lines_becomes_one_paragraph(pipeline, capsys):
    def stages(config, *_):
        raise UserError("first line\n  second line")

    pipeline.stages = stages
    assert main(RUN) == 2
    assert capsys.readouterr().err == "pav: first line second line\n"


def test_other_errors_keep_their_traceback(pipeline):
    pipeline.stages = lambda config, *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        main(RUN)


@pytest.mark.parametrize("error, code", [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_stopped(pipeline, capsys, error, code):
    def stages(config, *_):
        raise error

    pipeline.stages = stages
    assert main(RUN) == code
    assert "the same command goes on from here" in capsys.readouterr().err


@pytest.mark.parametrize("stop, code", [(KeyboardInterrupt, 130), (Terminated, 143)])
@pytest.mark.parametrize("failure", [RuntimeError, OSError, UserError])
def test_a_failure_while_it_is_stopped(pipeline, capsys, stop, code, failure):
    """As a thread that is joined before it was started."""

    def stages(config, *_):
        try:
            try:
                raise stop
            finally:
                raise failure("cannot join thread before it is started")
        except failure:
            raise failure("nor the other one")  # noqa: B904

    pipeline.stages = stages
    assert main(RUN) == code
    assert "the same command goes on from here" in capsys.readouterr().err


def test_a_failure_after_a_stop_that_was_handled_is_a_bug(pipeline):
    def stages(config, *_):
        with contextlib.suppress(KeyboardInterrupt):
            raise KeyboardInterrupt
        raise RuntimeError("something else")

    pipeline.stages = stages
    with pytest.raises(RuntimeError, match="something else"):
        main(RUN)


def test_sigterm_handler_is_put_back(pipeline):
    before = signal.getsignal(signal.SIGTERM)
    assert main(RUN) == 0
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_fails_since_it_is_terminated(pipeline, capsys):
    """Libraries that are interrupted say that a file cannot be read, or the like."""

    def stages(config, *_):
        try:
            signal.raise_signal(signal.SIGTERM)
        except Terminated:
            raise UserError("the file cannot be read") from None

    pipeline.stages = stages
    assert main(RUN) == 143
    assert "the same command goes on from here" in capsys.readouterr().err
    pipeline.stages = lambda config, *_: []  # the next command is another
    assert main(["run", "--config=absent.py", "--workdir=out"]) == 2


# Waits in a stage, in a process of its own; what the stage cleans up is printed.
WAITING = """
import signal, sys, time, types
from pav_jax.pipeline.runner import Stage

# As at a terminal: a shell starts what it runs in the background with Ctrl-C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

def run(context):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)

pipeline = types.ModuleType("pav_jax.pipeline.stages")
sys.modules["pav_jax.pipeline.stages"] = pipeline
pipeline.stages = lambda config, *_: [Stage("one", run, (), ("seed",))]

from pav_jax.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_stops_a_stage(tmp_path, number, code):
    config = tmp_path / "demo.py"
    config.write_text(CONFIG)
    argv = ["run", f"--config={config}", f"--workdir={tmp_path / 'out'}"]
    with subprocess.Popen(
        [sys.executable, "-c", WAITING, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
    assert process.returncode == code
    assert out == "cleaned up\n"
    assert err.splitlines()[-1].endswith("the same command goes on from here")
    assert "Traceback" not in err


SWALLOWING = """
import os, signal, sys, time, types
from pav_jax.pipeline.runner import Stage

class Deaf:
    def __del__(self):  # Python drops what is raised in here
        print("ready", flush=True)
        time.sleep(1)

def run(context):
    Deaf()
    time.sleep(60)

pipeline = types.ModuleType("pav_jax.pipeline.stages")
sys.modules["pav_jax.pipeline.stages"] = pipeline
pipeline.stages = lambda config, *_: [Stage("one", run, (), ("seed",))]

from pav_jax.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_swallowed_sigterm_is_not_lost(tmp_path):
    config = tmp_path / "demo.py"
    config.write_text(CONFIG)
    argv = ["run", f"--config={config}", f"--workdir={tmp_path / 'out'}"]
    with subprocess.Popen(
        [sys.executable, "-c", SWALLOWING, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=300)
    assert process.returncode == 143
    assert err.splitlines()[-1].endswith("the same command goes on from here")


def test_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "pav_jax", "run", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0
    assert "--workdir" in done.stdout
