"""Fields of a laboratory's config misspelt, missing, of a wrong type, out of range.

Each is told at once by its name, in one paragraph, before anything is measured or
written. Which values are right is written here by hand.
"""

import functools
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict
from spoilt_fields import misspelt, names, wrong_types

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.laboratories import runner
from pav_jax.main import main

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
CONFIGS = {
    "planted": EXPERIMENTS / "evidence" / "planted.py",
    "quality": EXPERIMENTS / "evidence" / "verifier_quality.py",
    "tree": EXPERIMENTS / "evidence" / "tree.py",
    "update": EXPERIMENTS / "paper" / "theorem31_exact.py",
}
# Of which 0 means something, by the last part of the name; of an error's also those
# that its kind does not have.
ZERO = ("alpha", "n_mc", "sft_steps", "size", "level", "noise", "wrong", "spread")
SIGNED = ("near", "far")  # tuples of numbers that may be below 0
# Fields of a variant, which may have none of them.
OPTIONAL = "variants."
SETS = [  # tuples of which 0 may be one
    "seeds",
    "alphas",
    "planted",
    *SIGNED,
]


@functools.cache
def _full(laboratory: str) -> dict[str, Any]:
    """The fields of a config that is right, by their dotted names."""
    config = config_lib.call(str(CONFIGS[laboratory]), "get_config", "smoke").to_dict()
    if laboratory == "planted":
        config["base"]["n_mc"] = 3
        config["variants"]["paper"] = dict(config["base"])
    values = config_lib.flatten(ConfigDict(config))
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in values.items()
    }


FIELDS = [
    (laboratory, field)
    for laboratory in CONFIGS
    for field in _full(laboratory)
    if field != "name"  # what reads the file asks for it
]


def _refusal(laboratory: str, changes: dict[str, Any], without: str = "") -> str:
    """What a config is refused with; "" if it is not."""
    values = {k: v for k, v in _full(laboratory).items() if k != without} | changes
    try:
        runner.check(config_lib.unflatten(values))
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("laboratory", CONFIGS)
@pytest.mark.parametrize("variant", ["", "smoke"])
def test_the_configs_of_the_evidence_are_right(laboratory, variant):
    path = str(CONFIGS[laboratory])
    arguments = [variant] if variant else []
    runner.check(config_lib.call(path, "get_config", *arguments))
    assert len(FIELDS) > 70 and not _refusal(laboratory, {})


@pytest.mark.parametrize("laboratory, field", FIELDS)
def test_misspelt(laboratory, field):
    wrong = misspelt(field)
    message = _refusal(laboratory, {wrong: _full(laboratory)[field]}, without=field)
    if field == "laboratory":  # which fields there are is not known without
        assert "the config has no field 'laboratory'; it is one of 'planted'" in message
    else:
        assert f"no config field {wrong!r}; did you mean {field!r}?" in message


@pytest.mark.parametrize("laboratory, field", FIELDS)
def test_of_a_wrong_type(laboratory, field):
    wrong = wrong_types(_full(laboratory)[field])
    for value in wrong:
        message = _refusal(laboratory, {field: value})
        assert names(message, field), value
    message = _refusal(laboratory, {f"{field}.inner": 1}, without=field)
    assert names(message, field) and ("section" in message or field == "laboratory")


@pytest.mark.parametrize("laboratory, field", FIELDS)
def test_missing(laboratory, field):
    message = _refusal(laboratory, {}, without=field)
    if field.startswith(OPTIONAL):
        assert not message
    else:
        assert f"the config has no field {field!r}; it is " in message


@pytest.mark.parametrize("laboratory, field", FIELDS)
def test_out_of_range(laboratory, field):
    right, last = _full(laboratory)[field], field.rpartition(".")[2]
    wrong: list[Any] = []
    if type(right) in (int, float):
        wrong = [type(right)(-3)] + [type(right)(0)] * (last not in ZERO)
    elif isinstance(right, str):
        wrong = [right + "x"]
    elif isinstance(right, tuple):
        wrong = [(-1,)] * (last not in SIGNED) + [(0,)] * (last not in SETS)
        wrong += [()] * (last != "gammas") + [right * 2] * (last != "planted")
        wrong += [(-101.0,)] * (last in SIGNED)
    if last in ("lowest", "highest"):
        wrong.append(1.0)
    if last in ("level", "size", "wrong") and not field.startswith("updates."):
        wrong.append(1.5)
    for value in wrong:
        assert names(_refusal(laboratory, {field: value}), field), value
    if last in ZERO and type(right) in (int, float):
        assert not _refusal(laboratory, {field: type(right)(0)})


@pytest.mark.parametrize(
    "laboratory, changes, words",
    [
        ("planted", {"task.planted": (3, 14)}, "(3, 14) must be of tokens below 14"),
        ("planted", {"task.length": 4}, "planted=(3, 6, 0, 3, 5) must have at most"),
        ("planted", {"variants.short.gammas": ()}, "variants.short has gammas=() and"),
        ("planted", {"base.exact_q": True}, "variants.short has exact_q=True, which"),
        ("planted", {"variants": 3}, "config.variants must be a section"),
        ("planted", {"variants.paper": 3}, "config.variants.paper is 3; it must be a"),
        ("planted", {"seeds": (1,)}, "config.seeds has no two seeds"),
        ("tree", {"lowest": 0.7}, "config.lowest=0.7 must be below config.highest=0.6"),
        ("tree", {"alphas": (0.5, 1.0)}, "alphas=(0.5, 1.0) must have 0"),
        ("tree", {"alphas": (0.0,)}, "config.alphas=(0.0,) must have 0, which"),
        ("tree", {"beams": (1,)}, "config.beams=(1,) must have a number above 1"),
        ("tree", {"errors.rare.kind": "none"}, "errors.rare has kind='none' and size"),
        (
            "tree",
            {"errors.rare.kind": "persistent"},
            "errors.rare has level=0.9, which",
        ),
        ("tree", {"errors.rare.size": 2.0}, "of kind='rare' it is at most 1"),
        ("tree", {"errors": 3}, "config.errors must be a section"),
        ("quality", {"lowest": 0.7}, "lowest=0.7 must be below config.highest=0.6"),
        ("quality", {"errors.rare.sizes": (0.3, 0.1)}, "(0.3, 0.1), which must rise"),
        ("quality", {"errors.rare.sizes": (0.3, 2.0)}, "of kind='rare' they are at"),
        ("quality", {"errors.rare.kind": "persistent"}, "rare has level=0.9, which"),
        (
            "quality",
            {
                "errors.exact": dict(kind="persistent", sizes=(1.0,), level=0.0),
            },
            "config.errors.exact is the name of exact values",
        ),
        (
            "update",
            {"best_of": (1,), "near": (0.5,), "far": ()},
            "config.far is (); it must be",
        ),
        ("update", {"steps": 9}, "config.steps=9 are 262,144 responses; at most"),
        ("update", {"updates.adam.rule": "sgd"}, "it must be one of 'natural', 'grad"),
    ],
)
def test_fields_that_do_not_go_together(laboratory, changes, words):
    values = {
        field: value
        for field, value in _full(laboratory).items()
        if not any(config_lib.within(field, name) for name in changes)
    }
    with pytest.raises(UserError) as caught:
        runner.check(config_lib.unflatten(values | changes))
    assert words in str(caught.value)


def test_no_entries_and_two_that_are_the_same():
    values = {k: v for k, v in _full("tree").items() if not k.startswith("errors.")}
    with pytest.raises(UserError, match="config.errors must be a section, with"):
        runner.check(config_lib.unflatten(values))
    other = {
        k.replace("errors.rare", "errors.other"): v for k, v in _full("tree").items()
    }
    assert "is the same as config.errors." in _refusal("tree", other)


@pytest.mark.parametrize(
    "laboratory, change, words",
    [
        ("tree", "--config.beams=(0,)", "config.beams is (0,); it must be a tuple of"),
        ("planted", "--config.task.length=0", "config.task.length is 0; it must be a"),
        ("planted", "--config.base.gama=(1.0,)", "did you mean 'base.gammas'?"),
    ],
)
def test_the_command_tells_it_in_one_paragraph(
    laboratory, change, words, tmp_path, capsys
):
    config = f"--config={CONFIGS[laboratory]}:smoke"
    assert main(["lab", config, f"--workdir={tmp_path / 'out'}", change]) == 2
    out, err = capsys.readouterr()
    assert not out and err.startswith("pav: ") and err.count("\n") == 1
    assert words in err and not (tmp_path / "out").exists()
