"""The outcome that the example for TRL pays; TRL need not be installed."""

import importlib.util
import sys
from pathlib import Path
from unittest import mock

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "trl_grpo.py"


@pytest.fixture
def example(monkeypatch):
    """The module of the example, without what it trains with."""
    for name in ("torch", "datasets"):
        monkeypatch.setitem(sys.modules, name, mock.MagicMock())
    trl = mock.MagicMock(GRPOTrainer=object)
    monkeypatch.setitem(sys.modules, "trl", trl)
    spec = importlib.util.spec_from_file_location("trl_grpo_alone", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "right", "outcome"),
    [
        ("1 + 1 = 2\nAnswer: 2", 2, 1.0),
        ("Answer: 2\n\n", "2", 1.0),
        ("2", "2", 1.0),
        ("It takes 3 days", "3 days", 1.0),
        ("Answer: 12", 2, 0.0),
        ("Answer: -2", 2, 0.0),
        ("Answer: 1.2", 2, 0.0),
        ("It takes 13 days", "3 days", 0.0),
        ("Answer: 2\nwait", 2, 0.0),
        ("", 2, 0.0),
    ],
)
def test_an_answer_is_its_last_words(example, text, right, outcome):
    found = example.last_line_is_right([text], answer=[right], prompts=["?"])
    assert found == [outcome]
