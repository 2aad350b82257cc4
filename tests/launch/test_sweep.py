"""Sweeps: their runs, ports, results and seeds, with a stand-in for pav."""

import json
import runpy
import shlex
import sys

import pytest
import yaml
from cloud import LAUNCH, TPU, Cloud
from stand_in import Bucket, contents

from pav_jax.core.errors import UserError
from pav_jax.tools import kept_measures, sweeps


@pytest.fixture
def cloud(tmp_path):
    return Cloud(tmp_path)


CONFIG = """
import ml_collections
from pav_jax.tools.sweeps import product, zipped

def get_config(variant=""):
    model = dict(layers=2, width=16)
    return ml_collections.ConfigDict(
        dict(name="demo", seed=0, lr=0.1, ns=(1,), model=model)
    )

def sweep():
    sizes = zipped({"model.layers": (2, 4), "model.width": (16, 32)})
    return product({"seed": range(2)}, sizes)
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "demo.py"
    path.write_text(CONFIG)
    return path


def test_measures_have_intervals_over_seeds_for_each_arm(config, sweep, tmp_path):
    """Two seeds: t with one degree of freedom, 12.706, times half the difference."""
    config.write_text(
        CONFIG
        + """
def measures(results):
    return {"twice": 2 * results["base"]["accuracy"]}
"""
    )
    runs = sweeps.load(str(config))
    done = [
        (run, {"base": {"accuracy": 0.1 * run.config["model.layers"] + place}})
        for run in runs
        for place in [0.01 * run.config["seed"]]
    ]
    found = sweeps.over_seeds(sweeps.measure(str(config), done))
    assert [row.arm for row in found] == [
        {"model.layers": 2, "model.width": 16},
        {"model.layers": 4, "model.width": 32},
    ]
    for row, base in zip(found, (0.4, 0.8), strict=True):
        assert row.name == "twice" and row.values == pytest.approx(
            {0: base, 1: base + 0.02}
        )
        assert row.mean == pytest.approx(base + 0.01)
        half = 12.7062047 * 0.01
        assert row.interval == pytest.approx((base + 0.01 - half, base + 0.01 + half))
    alone = sweeps.over_seeds(sweeps.measure(str(config), done[:1]))
    assert alone[0].interval is None and sweeps.over_seeds([]) == []
    # Some numbers are not of every run.
    some = [({"seed": 0}, {"a": 1.0}), ({"seed": 1}, {"a": 3.0, "b": 5.0})]
    a, b = sweeps.over_seeds(some)
    assert (a.mean, b.mean) == (2.0, 5.0)
    assert b.values == {1: 5.0} and b.interval is None
    (tmp_path / "code").write_text("0")
    sweep()
    lines = (tmp_path / "root" / "seeds.md").read_text().splitlines()
    assert lines[2].startswith("| model.layers=2, model.width=16 | twice | 0.25 |")


def test_a_measure_that_a_run_has_not_is_left_out(config, tmp_path):
    """As an AUC is None where no problem has a right and a wrong response."""
    config.write_text(
        CONFIG
        + """
def measures(results):
    return {"auc": results["auc"], "brier": 0.25}
"""
    )
    runs = [run for run in sweeps.load(str(config)) if run.point["model.layers"] == 2]
    done = [(run, {"auc": auc}) for run, auc in zip(runs, (None, 0.75), strict=True)]
    found = sweeps.measure(str(config), done)
    assert [measures for _, measures in found] == [
        {"auc": None, "brier": 0.25},
        {"auc": 0.75, "brier": 0.25},
    ]
    rows = {row.name: row for row in sweeps.over_seeds(found)}
    assert rows["auc"].values == {1: 0.75} and rows["auc"].interval is None
    assert "| auc | 0.75 | – | 0.75 |" in sweeps.seeds_table(list(rows.values()))
    kept_measures.write(tmp_path / "kept.json", {}, found)
    assert kept_measures.read(tmp_path / "kept.json", {}).found == found
    alone = sweeps.over_seeds(sweeps.measure(str(config), done[:1]))
    assert [row.name for row in alone] == ["brier"]


def test_a_sweep_may_know_the_variant(config):
    assert len(sweeps.load(f"{config}:smoke")) == 4  # this one does not
    smoke = 'def sweep(variant=""):\n    if variant: return [{"seed": 7}]'
    config.write_text(CONFIG.replace("def sweep():", smoke))
    assert [run.point for run in sweeps.load(f"{config}:smoke")] == [{"seed": 7}]
    assert len(sweeps.load(str(config))) == 4


def test_product_and_zip():
    zipped = sweeps.zipped({"a": (1, 2), "b": (3, 4)})
    assert zipped == [{"a": 1, "b": 3}, {"a": 2, "b": 4}]
    assert sweeps.product({"x": (0, 1), "y": (5,)}, zipped) == [
        {"x": x, "y": 5, **point} for x in (0, 1) for point in zipped
    ]
    assert sweeps.product() == [{}]
    with pytest.raises(ValueError):
        sweeps.zipped({"a": (1, 2), "b": (3,)})
    with pytest.raises(ValueError, match="the same field"):
        sweeps.product({"a": (1,)}, zipped)


def test_runs_of_a_sweep(config):
    runs = sweeps.load(str(config))
    assert [run.name for run in runs] == [
        f"seed={seed},model.layers={layers},model.width={width}"
        for seed in (0, 1)
        for layers, width in ((2, 16), (4, 32))
    ]
    assert runs[3].changes == (
        *("--config.seed=1", "--config.model.layers=4", "--config.model.width=32"),
    )
    assert runs[3].config["model.width"] == 32
    assert len({run.short_name for run in runs}) == 4
    assert all(run.short_name.startswith("demo-") for run in runs)


@pytest.mark.parametrize(
    "points, words",
    [
        ("[]", "returns no points"),
        ("3", "returns no points"),
        ("[3]", "has the point 3"),
        ("[{'sed': 1}]", "did you mean 'seed'"),
        ("[{'seed': 'x'}]", "takes an int"),
        ("[{'seed': 1}, {'seed': 1}]", "the same point twice"),
        ("1 / 0", "ZeroDivisionError"),
    ],
)
def test_sweeps_that_make_no_sense(config, points, words):
    config.write_text(CONFIG + f"\n\ndef sweep():\n    return {points}\n")
    with pytest.raises(UserError, match=words):
        sweeps.load(str(config))


def test_names_are_fit_for_folders(config):
    config.write_text(CONFIG + "\ndef sweep():\n    return [{'ns': (1, 2)}, {}]\n")
    name, base = (run.name for run in sweeps.load(str(config)))
    assert "/" not in name and " " not in name and base == "base"


# Stands for pav: makes the results of the run whose workdir it is given.
PAV = """#!{python} -IS
import json, pathlib, sys
here = pathlib.Path({folder!r})
flag = next(a for a in sys.argv if a.startswith("--workdir="))
workdir = pathlib.Path(flag.partition("=")[2])
with (here / "calls").open("a") as calls:
    calls.write(workdir.name + "\\n")
assert f"--reuse={{workdir.parent}}" in sys.argv, sys.argv
config = json.loads((here / "configs").read_text())[workdir.name]
if config["seed"] == 1 and config["model.width"] == 32:
    sys.exit(int((here / "code").read_text()))
accuracy = 0.25 + 0.125 * config["seed"]
row = dict(method="beam_pav", ci=[0.0, accuracy])
results = dict(
    base=dict(accuracy=0.125),
    search=[row | dict(n=n, accuracy=accuracy / n) for n in (2, 1)],
    verifier=dict(auc_within_problem=dict(last=0.75)),
    config=config,
)
(workdir / "report").mkdir(parents=True)
(workdir / "report" / "results.json").write_text(json.dumps(results))
"""


@pytest.fixture
def sweep(config, tmp_path, monkeypatch, capfd):
    """Runs the sweep; returns its exit code, the runs it started, and what it said."""
    main = runpy.run_path(str(LAUNCH / "sweep.py"))["main"]
    pav, calls = tmp_path / "pav", tmp_path / "calls"
    pav.write_text(PAV.format(python=sys.executable, folder=str(tmp_path)))
    pav.chmod(0o755)
    monkeypatch.setenv("PAV", str(pav))
    configs = {run.name: run.config for run in sweeps.load(str(config))}
    (tmp_path / "configs").write_text(json.dumps(configs))

    def run(*arguments):
        calls.write_text("")
        capfd.readouterr()
        code = main([f"--config={config}", f"--root={tmp_path / 'root'}", *arguments])
        return code, calls.read_text().splitlines(), capfd.readouterr()

    return run


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_runs_at_a_time_is_a_mistake(sweep, tmp_path, jobs):
    code, ran, said = sweep(f"--jobs={jobs}")
    assert (code, ran) == (2, [])
    assert said.err == f"sweep: --jobs={jobs} must be at least 1\n"
    assert not (tmp_path / "root").exists()


def test_two_configs_are_a_mistake(sweep, capfd):
    with pytest.raises(SystemExit, match="2"):
        sweep("--config=other.py")
    assert "give --config once" in capfd.readouterr().err


def test_sweep_goes_on_and_collects(sweep, config, tmp_path):
    root = tmp_path / "root"
    names = [run.name for run in sweeps.load(str(config))]
    (tmp_path / "code").write_text("2")
    code, ran, said = sweep("--jobs=2")
    assert code == 1 and sorted(ran) == sorted(names)
    assert f"{names[3]} ended with exit code 2" in said.err
    head, *rows = [
        line.split("\t") for line in (root / "sweep.tsv").read_text().splitlines()
    ]
    assert head[:4] == ["seed", "model.layers", "model.width", "run"]
    assert rows[0][:5] == ["0", "2", "16", "done", "0.125"]
    cell = dict(zip(head, rows[2], strict=True))
    assert cell["beam_pav"] == "0.188 [0.000, 0.375] N=2"
    assert cell["beam_q"] == "" and cell["auc_last"] == "0.750"
    assert rows[3][:4] == ["1", "4", "32", "not finished"]
    assert "| 1 | 4 | 32 | not finished |" in (root / "sweep.md").read_text()
    assert b"<svg" in (root / "sweep.svg").read_bytes()

    # Only what failed is run again, and an outside stop has its own code.
    (tmp_path / "code").write_text("75")
    assert sweep("--", "--attempts=1")[:2] == (75, names[3:])
    # Results of another config do not count as this run's.
    path = root / names[0] / "report" / "results.json"
    results = json.loads(path.read_text())
    results["config"]["lr"] = 0.2
    path.write_text(json.dumps(results))
    code, ran, said = sweep("--collect")
    assert code == 0 and not ran
    assert said.out.count("not finished") == 2


def test_a_sweep_whose_results_cannot_be_seen(sweep, config, tmp_path):
    """Since --root is not where --workdirs is; such runs would be done again."""
    elsewhere = f"--workdirs={tmp_path / 'elsewhere'}"
    code, ran, said = sweep(f"--root={tmp_path / 'root'}", elsewhere)
    assert code == 1 and len(ran) == 4
    assert said.err.count("is done, but its results are not in") == 3


def test_runs_of_a_sweep_have_ports_of_their_own(sweep, tmp_path):
    """Also those that begin when others have ended."""
    _, _, said = sweep(
        *(f"--root={tmp_path / 'root'}", "--jobs=2", "--dry_run"),
        *("--", "--processes=2"),
    )
    ports = {w for line in said.out.splitlines() for w in line.split() if "coord" in w}
    assert len(ports) == 4


def test_a_sweep_of_intervals_that_rounding_cut_short(sweep, config, tmp_path):
    """As earlier versions wrote them, of 320 right outcomes and of 500 wrong ones."""
    for run in sweeps.load(str(config)):
        found = [("beam_q", 1.0, [0.988, 1 - 1e-16]), ("beam_pav", 0.0, [1e-19, 0.008])]
        results = dict(base=dict(accuracy=0.5), config=run.config)
        results["search"] = [
            dict(method=method, n=4, accuracy=accuracy, ci=bounds)
            for method, accuracy, bounds in found
        ]
        results["verifier"] = dict(auc_within_problem={})
        folder = tmp_path / "root" / run.name / "report"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results))
    assert sweep("--collect")[0] == 0
    assert b"<svg" in (tmp_path / "root" / "sweep.svg").read_bytes()


def test_a_sweep_in_a_bucket(sweep, config, contents_of_bucket):
    """Results are found there, and the table is put there."""
    runs = sweeps.load(str(config))
    for run in runs[:3]:
        results = dict(base=dict(accuracy=0.5), search=[], config=run.config)
        results["verifier"] = dict(auc_within_problem={})
        path = f"gs://bucket/run/{run.name}/report/results.json"
        Bucket().pipe_file(path, json.dumps(results).encode())
    code, ran, said = sweep("--root=gs://bucket/run", "--collect")
    assert code == 0 and not ran
    assert said.out.count("done") == 3 and said.out.count("not finished") == 1
    found = contents_of_bucket()
    assert found["sweep.md"].decode() == said.out and b"<svg" in found["sweep.svg"]
    code, _, said = sweep("--root=gs://bucket/run", "--dry_run")
    assert code == 0 and "4 runs, 1 to do" in said.err
    assert f"--workdir=gs://bucket/run/{runs[3].name}" in said.out
    assert "--reuse" not in said.out


contents_of_bucket = pytest.fixture(contents)


def test_sweep_on_other_machines(config, cloud, tmp_path):
    common = [f"--config={config}", f"--root={tmp_path / 'root'}", "--dry_run"]
    done = cloud.run(
        "sweep.py", *common, "--on=tpu_vm", "--workdirs=/mnt/pav/s", "--", *TPU[1:]
    )
    assert done.returncode == 0, done.stderr
    created = [line for line in done.stdout.splitlines() if " create " in line]
    names = [run.short_name for run in sweeps.load(str(config))]
    assert [shlex.split(line)[5] for line in created] == names
    assert "--workdir=/mnt/pav/s/seed=0,model.layers=2,model.width=16" in done.stdout
    assert "--reuse=/mnt/pav/s " in done.stdout
    gke = ["--type=v5p-128", "--image=x", "--claim=share"]
    done = cloud.run(
        "sweep.py", *common, "--on=gke", "--workdirs=/mnt/pav/s", "--", *gke
    )
    assert done.returncode == 0, done.stderr
    jobsets = list(yaml.safe_load_all(done.stdout))
    assert [jobset["metadata"]["name"] for jobset in jobsets] == names
