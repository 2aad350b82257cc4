"""One command for all evidence, with a stand-in for pav."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from pav_jax.core import config as config_lib
from pav_jax.tools import sweeps

LAUNCH = Path(__file__).resolve().parents[2] / "launch"

SWEEP = '''"""Is a sweep better?

    launch/sweep.py --config=...

Ten seeds. One CPU core; a quarter of
an hour in all. Two more hours for the rest.
"""

from ml_collections import ConfigDict

def get_config(variant=""):
    return ConfigDict(dict(name="arms", seed=0))

def sweep():
    return [{"seed": 0}, {"seed": 1}]

def measures(results):
    return {"twice": 2 * results["base"]["accuracy"]}
'''

LABORATORY = '''"""Where values are exact."""

from ml_collections import ConfigDict

def get_config(variant=""):
    return ConfigDict(dict(name="exact", laboratory="tree", seeds=(0, 1)))
'''

# Stands for pav: makes the results that are missing, but for seed 1 as "code" says.
PAV = """#!{python} -IS
import json, os, pathlib, signal, sys, time
here = pathlib.Path({folder!r})
flag = next(a for a in sys.argv if a.startswith("--workdir="))
workdir = pathlib.Path(flag.partition("=")[2])
with (here / "calls").open("a") as calls:
    calls.write(sys.argv[1] + " " + workdir.name + "\\n")
with (here / "reused").open("a") as reused:
    places = [a.partition("=")[2] for a in sys.argv if a.startswith("--reuse=")]
    reused.write(" ".join(map(os.path.basename, places)) + "\\n")
code = (here / "code").read_text()
config = json.loads((here / "configs").read_text())[workdir.name]
if sys.argv[1] == "lab":
    if code == "TERM":
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / "results.json").write_text(json.dumps(dict(config=config)))
    (workdir / "table.md").write_text("| exact |\\n")
    sys.exit()
if config["seed"] == 1 and code != "0":
    sys.exit(int(code))
accuracy = 0.25 + 0.125 * config["seed"]
(workdir / "report").mkdir(parents=True)
results = dict(base=dict(accuracy=accuracy), search=[], config=config)
results["verifier"] = dict(auc_within_problem=dict())
(workdir / "report" / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture
def evidence(tmp_path, monkeypatch, capfd):
    """Runs the command; returns its exit code, calls of pav, and what it said."""
    configs, calls, pav = (tmp_path / name for name in ("evidence", "calls", "pav"))
    configs.mkdir()
    (configs / "arms.py").write_text(SWEEP)
    (configs / "exact.py").write_text(LABORATORY)
    runs = sweeps.load(str(configs / "arms.py"))
    exact = config_lib.load([f"--config={configs / 'exact.py'}"])
    known = {run.name: run.config for run in runs}
    known["exact"] = config_lib.flatten(exact)
    (tmp_path / "configs").write_text(json.dumps(known))
    pav.write_text(PAV.format(python=sys.executable, folder=str(tmp_path)))
    pav.chmod(0o755)
    monkeypatch.setenv("PAV", str(pav))
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(LAUNCH / "evidence.py"))["main"]
    monkeypatch.setitem(main.__globals__, "CONFIGS", Path("evidence").resolve())

    def run(*arguments, code="0"):
        calls.write_text("")
        (tmp_path / "code").write_text(code)
        capfd.readouterr()
        return main(arguments), calls.read_text().splitlines(), capfd.readouterr()

    return run


def test_all_is_run_and_goes_on(evidence, tmp_path):
    code, ran, said = evidence(code="2")
    assert code == 1 and ran == ["run seed=0", "run seed=1", "lab exact"]
    assert "evidence: arms ended with exit code 1" in said.err
    assert "One CPU core; a quarter of an hour in all." in said.err
    path = tmp_path / "runs" / "evidence" / "evidence.md"
    page = path.read_text()
    # A table of what is there, and what is not.
    assert "## arms: Is a sweep better?\n" in page
    assert "    launch/sweep.py --config=evidence/arms.py --root=runs/evidence/" in page
    assert "Not finished: 1 of 2 runs done." in page
    assert "| all | twice | 0.5 | – | 0.5 |" in page
    assert page.endswith(
        "## exact: Where values are exact.\n\n    pav lab --config=evidence/exact.py"
        " --workdir=runs/evidence/exact\n\n| exact |\n"
    )

    # Only what is left, of what is asked for; the page has all.
    code, ran, _ = evidence("arms")
    assert code == 0 and ran == ["run seed=1"]
    page = path.read_text()
    assert "Not finished" not in page and "| exact |" in page
    assert "| all | twice | 0.625 |" in page and "| 0.5, 0.75 |" in page

    # A table of another config is not that of this one.
    config = tmp_path / "evidence" / "exact.py"
    config.write_text(LABORATORY.replace("(0, 1)", "(0, 1, 2)"))
    assert evidence("exact")[0] == 0  # which measures the old one here
    assert path.read_text().endswith("Not finished.\n")


def test_sweeps_take_stages_of_each_other(evidence, tmp_path):
    (tmp_path / "evidence" / "later.py").write_text(SWEEP)
    assert evidence("arms")[0] == 0  # alone: there is no other yet
    assert evidence("later")[0] == 0
    lines = (tmp_path / "reused").read_text().splitlines()
    assert lines == ["arms", "arms", "later arms", "later arms"]


def test_measures_are_kept_when_the_runs_are_gone(evidence, tmp_path):
    """As in another clone, which then runs what is left."""
    kept = tmp_path / "tables" / "arms.json"
    assert evidence("arms", "--tables=tables", code="2")[0] == 1
    shutil.rmtree(tmp_path / "runs")
    (tmp_path / "code").write_text("0")
    code, ran, said = evidence("--collect", "--tables=tables")
    path = tmp_path / "runs" / "evidence" / "evidence.md"
    assert (code, ran, said.err) == (0, [], "") and said.out.endswith("evidence.md\n")
    page = path.read_text()
    assert "Not finished: 1 of 2 runs done." in page
    assert "| all | twice | 0.5 | – | 0.5 |" in page

    run = sweeps.load(str(tmp_path / "evidence" / "arms.py"))[1]
    results = dict(base=dict(accuracy=0.375), config=run.config)
    report = tmp_path / "runs" / "evidence" / "arms" / run.name / "report"
    report.mkdir(parents=True)
    (report / "results.json").write_text(json.dumps(results))
    assert evidence("--collect", "--tables=tables")[0] == 0
    assert "| all | twice | 0.625 |" in path.read_text()
    table = (tmp_path / "tables" / "arms.md").read_text()
    assert (
        table.startswith("# Is a sweep better?\n\n| arm |") and "| 0.5, 0.75 |" in table
    )
    runs = json.loads(kept.read_text())["runs"]
    assert runs == [
        {"fields": {"seed": s}, "measures": {"twice": 0.5 + 0.25 * s}} for s in (0, 1)
    ]

    # Numbers of another config are not of this one; a new field says nothing.
    shutil.rmtree(tmp_path / "runs")
    config = tmp_path / "evidence" / "arms.py"
    config.write_text(SWEEP.replace("seed=0)", "seed=0, width=8)"))
    assert evidence("--collect", "--tables=tables")[0] == 0
    assert "| 0.5, 0.75 |" in path.read_text()
    config.write_text(SWEEP.replace('"arms"', '"legs"'))
    assert evidence("--collect", "--tables=tables")[0] == 0
    page, said = (
        path.read_text(),
        "arms.json is of another config: name is 'arms' there",
    )
    assert f"Not finished: 0 of 2 runs done.\n\n{said}, and 'legs' now.\n" in page
    assert json.loads(kept.read_text())["runs"] == runs  # still there
    results["config"] = sweeps.load(str(config))[1].config
    report.mkdir(parents=True)
    (report / "results.json").write_text(json.dumps(results))
    assert evidence("--collect", "--tables=tables")[0] == 0
    assert "It is left as it is" in path.read_text()
    assert json.loads(kept.read_text())["runs"] == runs

    kept.write_text('{"runs": []}')
    code, _, said = evidence("--collect", "--tables=tables")
    assert code == 2 and "does not hold what runs have measured" in said.err


def test_committed_pages_are_what_the_kept_measures_give(tmp_path, monkeypatch):
    """Without any run: in another place, which has the configs and docs alone."""
    for folder in ("experiments", "docs"):
        shutil.copytree(LAUNCH.parent / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(LAUNCH / "evidence.py"))["main"]
    made = [tmp_path / "docs" / "paper.md"]
    for name in ("paper", "evidence"):
        tables = Path("docs") / name
        made += [
            tmp_path / tables / f"{path.stem}.md" for path in tables.glob("*.json")
        ]
        page = f"docs/{name}.md" if name == "paper" else "evidence.md"
        folder = f"--configs=experiments/{name}"
        assert main([folder, f"--page={page}", f"--tables={tables}", "--collect"]) == 0
    assert len(made) > 15
    for path in made:
        committed = LAUNCH.parent / path.relative_to(tmp_path)
        assert path.read_text() == committed.read_text(), path.name


def test_a_stop_ends_what_is_running(evidence, tmp_path):
    code, ran, _ = evidence("exact", code="TERM")
    assert code == 143 and ran == ["lab exact"]
    assert not (tmp_path / "runs" / "evidence" / "evidence.md").exists()


def test_smoke_has_a_folder_of_its_own(evidence, tmp_path):
    assert evidence("exact", "--smoke")[0] == 0
    page = (tmp_path / "runs" / "evidence-smoke" / "evidence.md").read_text()
    assert "--config=evidence/exact.py:smoke" in page and "0 of 2 runs done" in page


FIGURE = (
    SWEEP
    + """
from pav_jax.tools.verdicts import Claim

def measures(results):
    accuracy = results["base"]["accuracy"]
    return {f"accuracy, N = {n}": n * accuracy for n in (1, 2, 4)}

def claims():
    return [Claim("It rises", "0.5", "accuracy, N = 1", least=0.3)]
"""
)


def test_figures_of_a_paper(evidence, tmp_path):
    """What another folder has run with the same config is not run again."""
    paper = tmp_path / "paper"
    paper.mkdir()
    figure = FIGURE.replace("Ten seeds.", "The paper: it\nrises.\n\nTen seeds.")
    (paper / "fig1.py").write_text(figure)
    (paper / "page.md").write_text("# Mine\n\n{fig1}\n\nWhy.\n")
    arguments = ("--configs=paper", "--page=docs/mine.md")
    code, ran, _ = evidence(*arguments)
    assert code == 0 and ran == ["run seed=0", "run seed=1"]
    table = (
        "| It rises | 0.5 | 0.312 [-0.482, 1.11] | 0; 0.3 | 2 | few seeds |\n\n"
        "![Is a sweep better?](mine/fig1.svg)\n\n"
        "Every measure: [fig1.md](mine/fig1.md).\n\nWhy.\n"
    )
    page = (tmp_path / "docs" / "mine.md").read_text()
    assert page.startswith("# Mine\n\n## fig1: Is a sweep better?\n")
    assert "\n\nThe paper: it\nrises.\n\n" in page
    assert "--root=runs/paper/fig1" in page and page.endswith(table)
    assert (
        "| all | accuracy, N = 4 | 1.25 |"
        in (tmp_path / "docs" / "mine" / "fig1.md").read_text()
    )
    assert b"<svg" in (tmp_path / "docs" / "mine" / "fig1.svg").read_bytes()

    shutil.rmtree(tmp_path / "runs" / "paper")
    assert evidence("arms")[1] == ["run seed=0", "run seed=1"]
    code, ran, _ = evidence(*arguments)
    page = (tmp_path / "docs" / "mine.md").read_text()
    assert code == 0 and ran == []
    # Its command is the same wherever the runs were made.
    assert "--root=runs/paper/fig1" in page and page.endswith(table)


def test_a_number_that_no_run_has_is_no_mistake(evidence, tmp_path):
    """Nor is it one when the runs are gone; a name that `measures()` has not is."""
    paper = tmp_path / "paper"
    paper.mkdir()
    figure = FIGURE.replace("n * accuracy", "None")
    (paper / "fig1.py").write_text(figure)
    arguments = ("--configs=paper", "--page=mine.md")
    row = "| It rises | 0.5 |  | 0; 0.3 |  | not run |"
    for wanted in (["run seed=0", "run seed=1"], []):
        code, ran, _ = evidence(*arguments, *["--collect"] * (not wanted))
        assert code == 0 and ran == wanted
        assert row in (tmp_path / "mine.md").read_text()
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
    (paper / "fig1.py").write_text(figure.replace('"accuracy, N = 1"', '"acuracy"'))
    code, _, said = evidence(*arguments, "--collect")
    assert code == 2 and "about 'acuracy', which measures() has not" in said.err
    assert "it has accuracy, N = 1, accuracy, N = 2" in said.err


def test_a_measure_that_kept_runs_have_not_is_not_run(evidence, tmp_path):
    """It came later, and the claim says so; the kept file stays as it is."""
    paper = tmp_path / "paper"
    paper.mkdir()
    (paper / "fig1.py").write_text(FIGURE)
    arguments = ("--configs=paper", "--page=mine.md")
    assert evidence(*arguments)[0] == 0
    shutil.rmtree(tmp_path / "runs")
    kept = (tmp_path / "mine" / "fig1.json").read_bytes()
    later = 'Claim("Also", "1", "depth", least=1.0, added_later=True)]'
    (paper / "fig1.py").write_text(
        FIGURE.replace("least=0.3)]", f"least=0.3), {later}")
    )
    assert evidence(*arguments, "--collect")[0] == 0
    page = (tmp_path / "mine.md").read_text()
    assert "| Also | 1 |  | 0; 1 |  | not run |" in page
    assert "| It rises | 0.5 | 0.312 [-0.482, 1.11] | 0; 0.3 | 2 | few seeds |" in page
    assert (tmp_path / "mine" / "fig1.json").read_bytes() == kept


def test_every_figure_of_the_paper_has_a_place_on_the_page(capsys):
    main = runpy.run_path(str(LAUNCH / "evidence.py"))["main"]
    folder = LAUNCH.parent / "experiments" / "paper"
    page = (folder / "page.md").read_text()
    assert main([f"--configs={folder}", "--list"]) == 0
    said = capsys.readouterr().out
    names = [path.stem for path in folder.glob("[!_]*.py")]
    assert sorted(re.findall(r"^\{(.*)\}$", page, re.M)) == sorted(names)
    assert "not known" not in said and len(names) == 14


def test_mistakes(evidence):
    code, ran, said = evidence("exact", "arm")
    assert code == 2 and not ran
    assert said.err == (
        "evidence: there is no config 'arm' in evidence; there are: arms, exact\n"
    )
    code, ran, said = evidence("--root=gs://bucket/run")
    assert code == 2 and not ran and "give a folder of this machine" in said.err


def test_every_config_says_its_time(capsys):
    main = runpy.run_path(str(LAUNCH / "evidence.py"))["main"]
    assert main(["--list"]) == 0
    said = capsys.readouterr().out
    for path in main.__globals__["CONFIGS"].glob("[!_]*.py"):
        assert f"\n{path.stem}: " in f"\n{said}"
    assert "not known" not in said and "/tree.py --workdir=runs/evidence/tree" in said
