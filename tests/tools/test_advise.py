"""The command `pav advise`: what it reads, prints and refuses."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
from labelled_tree import RESULTS, tree
from stand_in import Bucket, contents
from test_imports import HEAVY_AFTER_PAV, run_python

from pav_jax.main import main
from pav_jax.pipeline.manifest import make_manifest
from pav_jax.storage import artifacts, records
from pav_jax.tools import advise

bucket = pytest.fixture(contents)


def _finish(folder, stage, fields):
    terms = {"fields": fields, "needs": {}}
    artifacts.write_json(
        folder / "manifest.json", make_manifest(stage, terms, folder, seconds=1.0)
    )


def _write(workdir, labelled, n_cov):
    """The stages of a run with these labels."""
    records.write_responses(workdir / "rollouts/shard-00000.npz", labelled.rollouts)
    _finish(workdir / "rollouts", "rollouts", {})
    records.write_labels(workdir / "labels/shard-00000.npz", labelled.labels)
    _finish(workdir / "labels", "labels", {"rollouts.n_cov": n_cov})
    for name, theirs in labelled.others.items():
        path = workdir / f"labels-{name}/shard-00000.npz"
        records.write_responses(path, labelled.responses)
        records.write_labels(records.labels_beside(path), theirs)
        _finish(path.parent, path.parent.name, {})
    return workdir


def _evaluate(workdir):
    """Stage `evaluation` with a verifier that is right of three pairs of four."""
    viewer = [
        {"prompt": str(p), "steps": [{"text": text, "q": q, "q_mc": q * (p % 4 or -1)}]}
        for p in range(40)
        for text, q in (("a", 0.1), ("b", 0.2))
    ]
    artifacts.write_json(workdir / "evaluation/viewer.json", viewer)
    artifacts.write_json(
        workdir / "evaluation/evaluation.json",
        {"auc_within_problem": {"last": 0.9, "by_step": []}, "q_rmse": 0.1},
    )


@pytest.fixture
def workdir(tmp_path):
    other = np.array([0.9, 0.2, 0.5])
    labelled = tree(40, 2, 4, other=other, n_other=2)
    _evaluate(_write(tmp_path / "run", labelled, 2))
    return tmp_path / "run"


def _json(capsys, *arguments):
    assert main(["advise", "--json", *map(str, arguments)]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def test_json_is_what_the_text_says(workdir, capsys):
    arguments = [f"--labels={workdir}", f"--verifier={workdir}/prm"]
    found = _json(capsys, *arguments)
    assert main(["advise", *arguments]) == 0
    text = capsys.readouterr().out
    assert (found["problems"], found["n_cov"], found["n_mc"]) == (40, 2, 4)
    assert "40 problems, 2 labelled responses each, 4 continuations" in text
    assert "(95% intervals over problems)" in text
    words, extra = " ".join(text.split()), []
    assert list(found)[4:] == ["provers", "noise", "sparsity", "verifier", "budget"]
    for section in list(found)[4:]:
        for line in found[section]:
            assert line["reason"]
            if line["interval"]:
                low, high = line["interval"]
                assert low <= line["value"] <= high
            if f"  {line['name']} " not in text:  # its number is in another line
                extra.append(line["name"])
                continue
            assert line["reason"] in words
            if line["interval"]:
                digits = f"{line['value']:.3g}", f"{line['value']:.1%}"
                assert any(f"{shown} [" in text for shown in digits)
    assert {"noise of progress", "worth of n_mc=8", "π distinguishability"} <= set(
        extra
    )
    names = [line["name"] for line in found["provers"]]
    assert "mu alignment" in names and "Bo2 distinguishability" in names
    for name in ("π", "Bo2", "mu"):
        (d,) = (
            x for x in found["provers"] if x["name"] == f"{name} distinguishability"
        )
        assert re.search(rf"  {name} alignment .* D {d['value']:.3g} \[", text)
    for start in ("sum: ", "alignment: ", "with Adam"):
        assert any(name.startswith(start) for name in names)
    assert "take " not in text
    order = found["verifier"][1]
    assert (order["name"], order["value"]) == ("order, siblings", 0.75)
    assert "told apart" in order["reason"]
    assert "a bound, since the run has no report yet" in found["budget"][0]["reason"]


@pytest.mark.parametrize(("n_cov", "n_mc"), [(1, 2), (2, 4), (2, 32)])
def test_all_of_it_is_one_screen(tmp_path, capsys, n_cov, n_mc):
    """Of labels of four provers, a verifier, and beams; its name is long."""
    labelled = tree(40, n_cov, n_mc, other=np.array([0.9, 0.2, 0.5]), n_other=2)
    mu = labelled.others["mu"]
    three = {"small": mu, "middle": mu, "large": mu}
    workdir = tmp_path / ("long" * 30)
    _evaluate(_write(workdir, dataclasses.replace(labelled, others=three), n_cov))
    artifacts.write_json(workdir / "report/results.json", RESULTS)
    assert main(["advise", f"--labels={workdir}", f"--verifier={workdir}"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert max(map(len, rows)) <= 100
    assert len(rows) <= 40 + 5 * (n_mc == 32)  # five provers more
    assert rows[0].startswith("...") and "longlong (95%" in rows[0]
    for title in advise.TITLES.values():
        assert title in rows


def test_responses_without_labels_count_for_the_base_rate(tmp_path, capsys):
    """As with config.rollouts.n_orm above n_cov."""
    labelled = tree(30, 2, 2)
    few = dataclasses.replace(labelled, labels=labelled.labels[::2])
    _write(tmp_path / "run", few, 1)
    found = _json(capsys, f"--labels={tmp_path}/run")
    assert found["n_cov"] == 1
    rate = np.mean([response.correct for response in labelled.rollouts])
    assert found["sparsity"][0]["value"] == pytest.approx(rate)
    assert found["budget"][0]["name"] == "best of 2, at most"


def test_the_folder_labels_is_its_workdir(workdir, capsys, monkeypatch):
    whole = _json(capsys, f"--labels={workdir}")
    assert "verifier" not in whole
    assert _json(capsys, f"--labels={workdir}/labels/") == whole
    monkeypatch.chdir(workdir)
    here = _json(capsys, "--labels=labels")
    assert here | {"labels": ""} == whole | {"labels": ""}


def test_a_run_in_a_bucket(workdir, bucket, capsys):
    for path in workdir.rglob("*"):
        if path.is_file():
            name = f"gs://bucket/run/{path.relative_to(workdir)}"
            Bucket().pipe_file(name, path.read_bytes())
    ours = ["--labels=gs://bucket/run/labels", "--verifier=gs://bucket/run"]
    found = _json(capsys, *ours)
    here = _json(capsys, f"--labels={workdir}", f"--verifier={workdir}")
    assert found == here | {"labels": "gs://bucket/run"}


def test_measured_searches_come_before_a_bound(workdir, capsys):
    artifacts.write_json(workdir / "report/results.json", RESULTS)
    (line,) = _json(capsys, f"--labels={workdir}", "--tokens=200")["budget"]
    assert line["name"] == "points, 200 tokens"
    assert line["value"] == pytest.approx(0.2)
    assert len(_json(capsys, f"--labels={workdir}")["budget"]) == 2


def test_a_search_without_a_comparison_is_not_called_none(workdir, capsys):
    """All beams cost more tokens than selection was measured at."""
    efficiency = RESULTS["compute_efficiency"] | {"by_point": []}
    apart = RESULTS | {"compute_efficiency": efficiency}
    beams = [row for row in RESULTS["search"] if row["method"] == "beam_pav"]
    dear = [row | {"tokens": 10 * row["tokens"]} for row in beams]
    others = [row for row in RESULTS["search"] if row["method"] != "beam_pav"]
    artifacts.write_json(
        workdir / "report/results.json", apart | {"search": others + dear}
    )
    for tokens in ([], ["--tokens=200"]):
        found = _json(capsys, f"--labels={workdir}", *tokens)["budget"]
        assert [(line["name"], line["value"]) for line in found] == [
            ("beam_pav, 1,000 tokens", 0.4),
            ("beam_pav, 4,000 tokens", 0.6),
            ("selection, 800 tokens", 0.5),
        ]
        more = "more than any selection had: no comparison"
        assert found[0]["reason"] == found[1]["reason"] == more
        assert found[0]["detail"] == "selection was measured at 50 to 800 tokens"
        assert (
            found[2]["reason"] == "the strongest (best-of-N by ORM) at the most tokens"
        )
        assert found[0]["interval"] == [0.3, 0.5]
    artifacts.write_json(workdir / "report/results.json", apart | {"search": others})
    (line,) = _json(capsys, f"--labels={workdir}", "--tokens=200")["budget"]
    assert "at most" in line["name"]
    assert "a bound, since the run has no beams" in line["reason"]


@pytest.mark.parametrize("problems", [1, 2, 30])
@pytest.mark.parametrize("value", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("n_cov", "n_mc"), [(1, 1), (1, 4), (3, 1), (2, 4)])
def test_hostile_labels(tmp_path, capsys, problems, value, n_cov, n_mc):
    labelled = tree(problems, n_cov, n_mc, values=np.full(3, value))
    _write(tmp_path / "run", labelled, n_cov)
    _json(capsys, f"--labels={tmp_path}/run", "--tokens=1000")
    assert main(["advise", f"--labels={tmp_path}/run"]) == 0
    out, err = capsys.readouterr()
    assert "nan" not in out and "inf" not in out and not err
    if problems == 1:
        assert "[" not in out


def _cut(workdir):
    path = workdir / "labels/shard-00000.npz"
    path.write_bytes(path.read_bytes()[:-30])


def _of_others(workdir):
    records.write_labels(workdir / "labels/shard-00000.npz", tree(3, 2, 4).labels)


def _unfinished(workdir):
    (workdir / "labels/manifest.json").unlink()


def _imported(workdir):
    _finish(workdir / "labels", "labels", {"limits": {}, "labels.from": "there"})


def _imported_alone(workdir):
    _imported(workdir)
    shutil.rmtree(workdir / "rollouts")


def _old_results(workdir):
    artifacts.write_json(workdir / "report/results.json", {"search": []})


def _old_evaluation(workdir):
    artifacts.write_json(
        workdir / "evaluation/viewer.json", [{"prompt": "p", "steps": [{"text": "a"}]}]
    )


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (None, ["--labels=WORKDIR/no"], "no finished stage rollouts"),
        (_unfinished, ["--labels=WORKDIR"], "no finished stage labels"),
        (_cut, ["--labels=WORKDIR"], "is damaged"),
        (
            _of_others,
            ["--labels=WORKDIR"],
            "are not of the responses of stage rollouts",
        ),
        (_imported, ["--labels=WORKDIR"], "needs labels of the run's own policy"),
        (
            _imported_alone,
            ["--labels=WORKDIR/labels"],
            "run without config.labels.from",
        ),
        (None, [], "--labels"),
        (None, ["--labels=WORKDIR", "--tokens=0"], "above 0"),
        (None, ["--labels=WORKDIR", "--tokens=nan"], "above 0"),
        (
            None,
            ["--labels=WORKDIR", "--verifier=nowhere"],
            "no finished stage evaluation",
        ),
        (_old_results, ["--labels=WORKDIR"], "report/results.json is not as"),
        (
            _old_evaluation,
            ["--labels=WORKDIR", "--verifier=WORKDIR"],
            "evaluation is not as this version writes it",
        ),
        (None, ["--labels=ftp://x/run"], "gs://"),
    ],
)
def test_mistakes_are_one_paragraph(workdir, capsys, change, arguments, words):
    if change:
        change(workdir)
    given = [argument.replace("WORKDIR", str(workdir)) for argument in arguments]
    assert main(["advise", *given]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("pav: ") and err.count("\n") == 1
    assert words in err


def test_it_is_quick_to_start(workdir):
    """Neither jax nor TensorFlow is loaded."""
    arguments = [f"--labels={workdir}", f"--verifier={workdir}"]
    loaded = run_python(HEAVY_AFTER_PAV, "advise", *arguments)
    assert not {"jax", "flax", "gemma", "tensorflow"} & set(loaded)


def test_every_section_has_a_title(workdir):
    found = advise.advise(str(workdir), str(workdir))
    assert set(found.sections) == set(advise.TITLES)
