"""Configs: what loads, what is refused and in which words, and what is written down."""

import json
import os

import pytest

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError

DEMO = """
import ml_collections
from ml_collections import config_dict

VARIANTS = {"": 100, "smoke": 3}

def get_config(variant: str = ""):
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}; there is 'smoke'")
    config = ml_collections.ConfigDict()
    config.name = "demo"
    config.seed = 0
    config.sft = dict(steps=VARIANTS[variant], lr=1e-3, warm=True)
    config.labels = dict(n_mc=4, widths=(1, 2), sizes=(0.5,), words=["a"])
    config.labels.limit = config_dict.placeholder(int)
    return config
"""
FILE = "--config=experiments/demo.py"


@pytest.fixture(autouse=True)
def experiments(tmp_path, monkeypatch):
    """An experiments folder to stand beside."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    folder.joinpath("demo.py").write_text(DEMO)
    folder.joinpath("__init__.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return folder


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        config_lib.load(list(arguments))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_variant_and_changes():
    config = config_lib.load(
        [
            f"{FILE}:smoke",
            "--config.sft.lr=1",
            "--noconfig.sft.warm",
            "--config.labels.widths=(3, 4, 5)",
            "--config.labels.sizes=(1, 2.5)",
            "--config.labels.limit=7",
            "--config.seed=1",
            "--config.seed=2",
        ]
    )
    assert config.sft.to_dict() == dict(steps=3, lr=1.0, warm=False)
    assert config.labels.widths == (3, 4, 5)
    assert config.labels.limit == 7
    assert config.seed == 2


def test_a_field_with_the_name_of_a_keyword(experiments):
    """`labels.from`, which Python would not read as an attribute."""
    (experiments / "keyword.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(variant=''):\n"
        "    return ConfigDict(dict(name='x', labels={'from': '', 'shard': 3}))\n"
    )
    argument = f"--config={experiments / 'keyword.py'}"
    config = config_lib.load([argument, "--config.labels.from=runs/a b"])
    assert config.labels.to_dict() == {"from": "runs/a b", "shard": 3}
    with pytest.raises(UserError, match="did you mean 'labels.from'"):
        config_lib.load([argument, "--config.labels.form=a"])


def test_loaded_config_is_locked_and_the_next_load_is_fresh():
    config = config_lib.load([FILE, "--config.seed=5"])
    with pytest.raises(AttributeError):
        config.sft.stepz = 3
    assert config_lib.load([FILE]).seed == 0


def test_file_edited_within_the_second_is_read_again(experiments):
    before = os.stat(experiments / "demo.py")
    assert config_lib.load([FILE]).sft.steps == 100
    experiments.joinpath("demo.py").write_text(DEMO.replace("100", "200"))
    os.utime(experiments / "demo.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert config_lib.load([FILE]).sft.steps == 200


@pytest.mark.parametrize(
    "path", ["experiments/dmo.py", "experiments", "demo.py", "elsewhere/demo.py"]
)
def test_missing_file_lists_the_configs_there_are(path):
    message = refusal(f"--config={path}")
    assert path in message
    assert os.path.join("experiments", "demo.py") in message
    assert "__init__" not in message


def test_missing_file_is_found_missing_from_a_folder_below(experiments, monkeypatch):
    below = experiments.parent / "notes"
    below.mkdir()
    monkeypatch.chdir(below)
    assert "../experiments/demo.py" in refusal("--config=demo.py")


@pytest.mark.parametrize(
    "field, nearest",
    [
        ("sft.step", "sft.steps"),
        ("stf.steps", "sft.steps"),
        ("n_mc", "labels.n_mc"),
        ("sft.n_mc", "labels.n_mc"),
        ("sft.steps.more", "sft.steps"),
        ("labels.widths[0]", "labels.widths"),
    ],
)
def test_misspelt_field_gets_the_nearest_one(field, nearest):
    message = refusal(FILE, f"--config.{field}=1")
    assert f"no config field '{field}'" in message
    assert f"did you mean '{nearest}'?" in message


def test_unlike_any_field_gets_the_fields_of_its_section():
    assert "sft.lr, sft.steps, sft.warm" in refusal(FILE, "--config.sft.qqq=1")
    assert "labels, name, seed, sft" in refusal(FILE, "--config.qqq=1")


@pytest.mark.parametrize(
    "change, words",
    [
        ("sft.steps=ten", "'sft.steps' takes an int such as 100, not 'ten'"),
        ("sft.steps=1.5", "'sft.steps' takes an int"),
        ("sft.steps=", "'sft.steps' takes an int"),
        ("sft.lr=fast", "'sft.lr' takes a float such as 0.001"),
        ("sft.warm=maybe", "'sft.warm' takes a bool"),
        ("labels.limit=x", "'labels.limit' takes an int, not 'x'"),
        ("labels.widths=wide", "'labels.widths' takes a tuple such as (1, 2)"),
        ("labels.widths=(1, 2.5)", "'labels.widths' takes a tuple"),
        ("labels.words=b", "change it in the file"),
        ("sft={'steps': 1}", "'sft' is a section"),
        ("sft.steps", "write --config.sft.steps=value"),
        ("sft.lr=nan", "'sft.lr' is nan"),
        ("name=", "no name"),
    ],
)
def test_wrong_value(change, words):
    assert words in refusal(FILE, f"--config.{change}")


@pytest.mark.parametrize(
    "argument",
    ["7", "--seed=1", "--configs.seed=1", "--noconfig.seed", "-config.seed=1"],
)
def test_argument_of_another_form(argument):
    message = refusal(FILE, argument)
    assert argument in message and "write" in message


def test_config_is_asked_for_once():
    assert "0 times" in refusal()
    assert "2 times" in refusal(FILE, FILE)


def test_unknown_variant_is_told_in_the_words_of_the_file():
    message = refusal(f"{FILE}:smok")
    assert "experiments/demo.py, line 9 with variant 'smok'" in message
    assert message.endswith("there is no variant 'smok'; there is 'smoke'")


@pytest.mark.parametrize(
    "text, words",
    [
        ("def get_config():\n  return {\n", "line 2: syntax error"),
        ("import nothing_of_this_name\n", "line 1: ModuleNotFoundError"),
        ("def get_config():\n  return 1 / 0\n", "line 2: ZeroDivisionError"),
        ("config = 3\n", "KeyError: 'get_config'"),
        ("def get_config():\n  return {}\n", "returns a dict"),
    ],
)
def test_bad_file_is_told_with_its_line(experiments, text, words):
    experiments.joinpath("bad.py").write_text(text)
    message = refusal("--config=experiments/bad.py")
    assert "experiments/bad.py" in message and words in message


def test_value_that_json_lacks_is_refused(experiments):
    text = DEMO.replace("config.seed = 0", "config.sft_type = int")
    experiments.joinpath("demo.py").write_text(text)
    assert "'sft_type' holds a type" in refusal(FILE)


def test_flatten_survives_json():
    values = config_lib.flatten(config_lib.load([FILE]))
    assert json.loads(json.dumps(values)) == values
    assert values["sft.steps"] == 100
    assert values["labels.widths"] == [1, 2]
    assert values["labels.limit"] is None
    assert "sft" not in values


def test_unflatten_undoes_flatten():
    values = config_lib.flatten(config_lib.load([FILE]))
    config = config_lib.unflatten(values)
    assert config_lib.flatten(config) == values
    assert config.labels.n_mc == 4 and config.is_locked


def test_digest_is_stable_and_tells_values_apart():
    assert config_lib.digest({"b": [1, 2], "a": None}) == "ee743f2fa2570a1b"
    assert config_lib.digest({"a": None, "b": [1, 2]}) == "ee743f2fa2570a1b"
    assert config_lib.digest({"a": None, "b": [1, 3]}) != "ee743f2fa2570a1b"


def test_select_keeps_the_named_fields_only():
    config = config_lib.load([FILE])
    chosen = config_lib.select(config, ("seed", "sft.steps", "labels"))
    assert chosen.to_dict() == {
        "seed": 0,
        "sft": {"steps": 100},
        "labels": config.labels.to_dict(),
    }
    assert config_lib.select(config, ("",)).to_dict() == config.to_dict()
    assert config_lib.select(config, ()).to_dict() == {}
    with pytest.raises(AttributeError):
        chosen.sft.lr  # noqa: B018
    with pytest.raises(AttributeError):
        chosen.labels.new = 1
