"""The page of scored responses."""

import json

import pytest

from pav_jax.core.errors import UserError
from pav_jax.report import steps_page

_STEP = {"text": "1 + 1 = 2", "q": 0.75, "advantage": 0.25}
_SCORED = {"prompt": "1 + 1?", "pav": {"orm": 0.625, "steps": [_STEP]}}
_FAILED = {"prompt": "<b>?", "pav": {"error": "no <i>response</i>"}}


def _html(tmp_path, records, count=50):
    source = tmp_path / "scored.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    path = steps_page.write(source, tmp_path / "page.html", count=count)
    return path.read_text("utf-8")


def test_one_of_each(tmp_path):
    html = _html(tmp_path, [_SCORED, _FAILED])
    assert ">1 response<" in html
    assert ">1 line could not be scored<" in html
    assert "no &lt;i&gt;response&lt;/i&gt;" in html
    assert "Q 0.75" in html and "+0.25" in html and "ORM 0.62" in html


def test_many(tmp_path):
    html = _html(tmp_path, [_SCORED] * 3 + [_FAILED] * 51, count=2)
    assert ">The first 2 of 3 responses<" in html
    assert ">51 lines could not be scored; these are the first 50<" in html
    assert html.count("no &lt;i&gt;") == 50
    assert html.count('class="response ') == 2


def test_no_table_of_lines_without_one_that_failed(tmp_path):
    assert "could not be scored" not in _html(tmp_path, [_SCORED])


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([_FAILED], "has no scored responses"),
        ([_SCORED, {"prompt": "?"}], "line 2 of .* was not written by pav score"),
        ([{"prompt": "?", "pav": {"orm": None}}], "line 1 of .* was not written"),
        ([["pav"]], "line 1 of .* was not written"),
    ],
)
def test_input_of_another_kind(tmp_path, records, words):
    with pytest.raises(UserError, match=words):
        _html(tmp_path, records)
    assert not (tmp_path / "page.html").exists()
