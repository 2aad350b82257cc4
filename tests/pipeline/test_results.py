"""The report's files, the words for an experiment, and the choice of responses."""

import pytest
from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.pipeline import results, runner, stages
from pav_jax.pipeline.manifest import read_manifest
from pav_jax.pipeline.runner import run_stages
from pav_jax.storage import artifacts


def test_drawing_the_page_writes_the_page_alone(tmp_path):
    artifacts.write_json(tmp_path / "results.json", {"task": "relations"})
    artifacts.write_json(tmp_path / "responses.json", [])
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    path = results.write_page(tmp_path)
    assert path == tmp_path / "index.html"
    assert "relations" in path.read_text()
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir() if p != path} == before


def test_the_page_needs_the_results(tmp_path):
    artifacts.write_json(tmp_path / "responses.json", [])
    with pytest.raises(UserError, match=r"results\.json is missing"):
        results.write_page(tmp_path)


def test_a_page_that_is_drawn_again_leaves_the_stage_finished(
    tmp_path, monkeypatch, capsys
):
    """As by a later version; the same run, and one that takes its stages."""

    def write(context):
        artifacts.write_json(context.directory / "results.json", {"task": "relations"})
        artifacts.write_json(context.directory / "responses.json", [])
        results.write_page(context.directory)

    def run(name, **reused):
        run_stages([stage], ConfigDict({"name": "x"}), tmp_path / name, **reused)
        return capsys.readouterr().err

    stage = runner.Stage("report", write, (), ("name",))
    run("ours")
    later = results.page
    monkeypatch.setattr(results, "page", lambda *given: f"{later(*given)}<!-- new -->")
    before = read_manifest(tmp_path / "ours" / "report")
    page = stages.report(tmp_path / "ours")
    assert page.read_text().endswith("<!-- new -->")
    assert "done already" in run("ours")
    assert page.read_text().endswith("<!-- new -->")
    assert "taken from" in run("theirs", reuse_from=[tmp_path / "ours"])
    after = read_manifest(tmp_path / "ours" / "report")
    assert {name for name in before if before[name] != after[name]} == {
        "files",
        "fingerprint",
    }
    # What else is in the folder is looked at as ever.
    artifacts.write_json(page.with_name("responses.json"), [1])
    with pytest.raises(UserError):
        stages.report(tmp_path / "ours")
    assert "since responses.json is damaged" in run("ours")
    # Without a manifest, or with a damaged one, a page is drawn all the same.
    manifest = page.with_name("manifest.json")
    manifest.write_text("{}")
    assert stages.report(tmp_path / "ours") == page
    assert manifest.read_text() == "{}"


def _config(number):
    return ConfigDict(
        {
            "model": {"num_layers": number, "embed_dim": 64},
            "problems": {"labels": 1000 * number},
            "rollouts": {"n_cov": number},
            "labels": {"n_mc": number},
        }
    )


def test_an_experiment_in_words():
    assert results._describe(_config(1)) == (
        "a policy of 1 layer of width 64, 1 seed rollout of each of 1,000 problems,"
        " 1 continuation of every step prefix"
    )
    config = _config(2)
    config.problems.labels = None
    config.model = {"name": "gemma2-2b", "shrunk": True}
    assert results._describe(config) == (
        "gemma2-2b, shrunk for a trial, 2 seed rollouts of every problem,"
        " 2 continuations of every step prefix"
    )


@pytest.mark.parametrize(
    ("correct", "wrong", "shown"),
    [(20, 20, (6, 6)), (2, 20, (2, 10)), (20, 2, (6, 2)), (0, 3, (0, 3))],
)
def test_the_viewer_shows_correct_and_wrong_responses(correct, wrong, shown):
    responses = [{"correct": True}] * correct + [{"correct": False}] * wrong
    chosen = [response["correct"] for response in results._choose(responses)]
    assert (chosen.count(True), chosen.count(False)) == shown
