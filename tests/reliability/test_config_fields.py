"""Every field of a config misspelt, missing, of a wrong type, out of range.

Each is told at once, in one paragraph with the field's name, before a folder is made
or a stage is run. Which values are right is written here by hand, apart from the table
that the code has.
"""

import difflib
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict
from spoilt_fields import misspelt, names, wrong_types

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.main import main
from pav_jax.pipeline import stages
from pav_jax.pipeline.contradictions import contradictions

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"

# Fields of which 0 means something: none of it, or the first.
ZERO = """
seed task.seed task.wrong_turns sft.warmup_steps sft.weight_decay
sft.final_learning_rate rollouts.temperature labels.first_pit.n_mc
verifier.language_weight verifier.prm.warmup_steps verifier.prm.weight_decay
verifier.prm.final_learning_rate verifier.orm.warmup_steps verifier.orm.weight_decay
verifier.orm.final_learning_rate search.temperature provers.mu.task.wrong_turns
provers.both.from_prover rl.training.kl rl.training.weight_decay
rl.training.warmup_steps rl.training.final_learning_rate rl.training.min_accuracy
rl.rft.warmup_steps rl.rft.weight_decay rl.rft.final_learning_rate
rl.refresh.warmup_steps rl.refresh.weight_decay rl.refresh.final_learning_rate
rl.refresh.language_weight pretraining.task.wrong_turns sft.short_first.steps
pretraining.sft.short_first.steps rl.methods.pav_mc.n_mc
rl.methods.pav_refreshed.refresh_every
""".split()
# Of one nothing can be estimated, or nothing is left to train.
TWO = ["evaluation.oracle_n_mc", "rl.provers.responses", "verifier.on_search.steps"]
# Fractions and probabilities: more than 1 is wrong.
AT_MOST_ONE = ("final_learning_rate", "held_out", "wrong_turns", "fraction")
AT_MOST_ONE += ("min_accuracy", "threshold")
# Fields of which None means something: all that there are, or the default.
NONE = ["problems.sft", "problems.labels", "problems.validation", "problems.test"]
NONE += ["rl.final.problems", "task.num_people", "task.decoys", "task.min_people"]
NONE += ["pretraining.task.decoys"]


@functools.cache
def _full() -> dict[str, Any]:
    """A config with every section there is, as dotted names and values."""
    rl = config_lib.call(
        str(EXPERIMENTS / "rl_demo.py"),
        "get_config",
        "monte_carlo,refreshed,provers,smoke",
    )
    methods = ("grpo", "orm_rl", "pav_rl", "pav_mc", "pav_refreshed")
    values = {
        k: v
        for k, v in config_lib.flatten(rl).items()
        if not k.startswith("rl.methods.") or k.split(".")[2] in methods
    }
    for name in ("provers", "on_search", "first_pit"):
        path = EXPERIMENTS / "evidence" / f"{name}.py"
        other = config_lib.flatten(config_lib.call(str(path), "get_config"))
        parts = ("provers.", "verifier.on_search.", "labels.first_pit.", "pretraining.")
        values |= {k: v for k, v in other.items() if k.startswith(parts)}
    values |= {"mesh.data": -1, "sampling.trunks_per_group": 1, "search.subtree": 2}
    values |= {"search.bok.ks": (1, 4), "search.bok.alpha": 0.5}
    values |= {"model.num_kv_heads": 1, "model.dtype": "float32"}
    values |= {"sft.short_first.steps": 1, "sft.short_first.fraction": 0.5}
    values |= {"rl.final.problems": 3, "task.decoys": (1, 7)}
    values |= {"verifier.on_search.problems": 16}
    del values["task.num_people"]
    tuples = {k: tuple(v) for k, v in values.items() if isinstance(v, list)}
    return values | tuples


def _config(changes: dict[str, Any], without: str = "") -> ConfigDict:
    values = {k: v for k, v in (_full() | changes).items() if k != without}
    return config_lib.unflatten(values)


FIELDS = sorted(set(_full()) - {"name"})
NUMBERS = [f for f in FIELDS if type(_full()[f]) in (int, float)]


def _refusal(config: ConfigDict) -> str:
    """What a config is refused with; "" if it is not."""
    try:
        stages.stages(config)
    except UserError as error:
        return str(error)
    return ""


def test_the_config_that_is_spoilt_is_right():
    assert len(FIELDS) > 130
    stages.stages(_config({}))


@pytest.mark.parametrize("field", FIELDS)
def test_misspelt_in_the_file(field):
    wrong = misspelt(field)
    message = _refusal(_config({wrong: _full()[field]}, without=field))
    assert wrong.rpartition(".")[2] in message or field == "task.name"
    if not field.startswith(("task.", "provers.", "rl.methods.", "pretraining.task.")):
        assert f"did you mean '{field}'?" in message


@pytest.mark.parametrize("field", FIELDS)
def test_of_a_wrong_type(field):
    for value in wrong_types(_full()[field], none_is_right=field in NONE):
        assert names(_refusal(_config({field: value})), field), value
    section = {f"{field}.inner": 1}
    assert names(_refusal(_config(section, without=field)), field)


@pytest.mark.parametrize("field", NUMBERS)
def test_out_of_range(field):
    kind = type(_full()[field])
    wrong = [kind(-3)]
    if field not in ZERO:
        wrong.append(kind(0))
    if field.rpartition(".")[2] in AT_MOST_ONE:
        wrong.append(1.5)
    if field in ("seed", "task.seed", "provers.mu.task.seed"):
        wrong = [-3] if field == "seed" else []  # a name of a stream: any number
    if field == "mesh.data":
        wrong = [0, -2]
    if field in TWO:
        wrong.append(1)
    for value in wrong:
        assert names(_refusal(_config({field: value})), field), value
    assert field not in ZERO or stages.stages(_config({field: kind(0)}))


@pytest.mark.parametrize("field", FIELDS)
def test_missing(field):
    """Told by its name, or not needed."""
    try:
        stages.stages(_config({}, without=field))
    except UserError as error:
        assert names(str(error), field)
    else:
        optional = ("task.", "provers.", "pretraining.", "mesh.", "rl.methods.")
        optional += ("labels.from", "problems.disjoint", "sampling.trunks_per_group")
        optional += (
            "verifier.head",
            "search.subtree",
            "model.",
            "rl.final.problems",
            "rl.final.beams",
            "tokenizer.",
        )
        assert field.startswith(optional)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"sft.warmup_steps": 600}, "sft.warmup_steps=600 .*sft.steps=600"),
        ({"rl.training.warmup_steps": 9999}, "rl.training.warmup_steps=9999 .* fewer"),
        ({"rollouts.n_cov": 9}, "n_cov=9 .* config.rollouts.n_orm=2"),
        ({"search.ns": (1, 99)}, "search.ns=.* config.search.samples=4"),
        ({"search.alphas": (0.0,)}, "search.alphas=.* no number above 0"),
        ({"evaluation.oracle_n": 3}, "oracle_n=3 .* config.evaluation.n=2"),
        ({"model.num_heads": 6}, "model.embed_dim=32 .* config.model.num_heads=6"),
        ({"model.embed_dim": 2, "model.num_heads": 2}, "model.embed_dim=2 .* even"),
        ({"model.num_heads": 2, "model.num_kv_heads": 4}, "num_kv_heads=4 must divide"),
        ({"model.name": "gemma2_2b"}, "already fixes .* config.model.embed_dim"),
        ({"tokenizer.path": "a.model"}, "config.tokenizer needs either .* not both"),
        ({"rl.final.ns": (1, 999)}, "rl.final.ns=.* config.rl.final.samples=4"),
        ({"rl.final.unsolved": 1}, "rl.final.ns=.* config.rl.final.unsolved=1,"),
        (
            {"rl.final.beams": (2, 3)},
            r"rl.final.beams=\(2, 3\) .* config.rl.final.ns=\(1, 2, 4",
        ),
        ({"rl.final.reference": "ppo"}, "reference='ppo' is none of .* orm_rl"),
        ({"rl.training.samples": 1}, 'grpo.baseline="group" .*samples=1 .* 2 or more'),
        ({"rl.provers.ks": (1, 64)}, "rl.provers.ks=.* half of config.rl.provers.n_mc"),
        ({"rl.seeds": (0, 0)}, "rl.seeds .* each once"),
        ({"search.beams": ()}, "search.beams .* at least one"),
        ({"labels.from": "x"}, "first_pit .*labels.from takes; leave out either"),
        ({"rl.methods.grpo.reward": "matched"}, "grpo: reward=.matched. .* baseline"),
        ({"rl.methods.pav_rl.alpha": 0.0}, 'pav_rl: reward="progress" .* alpha=0, whi'),
        ({"rl.methods.orm_rl.alpha": 1.0}, "orm_rl: alpha=1 .* no process rewards; le"),
        ({"rl.methods.grpo.n_mc": 4}, 'grpo: n_mc=4 .*reward="outcome", which pays no'),
        ({"rl.methods.pav_mc.prover_k": 9}, "pav_mc: n_mc=4 .* Bo9"),
        ({"rl.methods.pav_rl.prover": "x"}, "prover='x' is no entry of .* mu"),
        ({"rl.methods.pav_refreshed.prover": "mu"}, "pav_refreshed: .* leave out eith"),
        ({"provers.mu.from_policy": 99}, "provers.mu.from_policy=99 .* at most"),
        ({"task.min_depth": 9}, "min_depth <= max_depth"),
        ({"sampling.trunks_per_group": 3}, "sampling.trunks=8 .* multiple"),
        ({"problems.sft": None}, "problems.sft .* must be numbers"),
        ({"sft.batch_size": 9999}, "sft.batch_size=9999 .* config.problems.sft=6000"),
        (
            {"provers.mu.sft.batch_size": 9999},
            "config.provers.mu.sft.batch_size=9999 must .* config.problems.sft=6000",
        ),
        (
            {"sft.short_first.fraction": 0.005, "sft.batch_size": 31},
            r"sft.short_first.fraction=0.005 of config.problems.sft=6000 is 30 rows,"
            " fewer than config.sft.batch_size=31",
        ),
        (
            {"pretraining.sft.short_first.fraction": 0.005}
            | {"pretraining.sft.batch_size": 31},
            "config.pretraining.sft.short_first.fraction=0.005 of .* 30 rows, fewer"
            " than config.pretraining.sft.batch_size=31",
        ),
        (
            {"provers.mu.sft.batch_size": 3001},
            "config.sft.short_first.fraction=0.5 of .* 3,000 rows, fewer than"
            " config.provers.mu.sft.batch_size=3001",
        ),
        ({"verifier.on_search.problems": 99}, "on_search.problems=99 .* at most 30"),
        (
            {"rl.provers.problems": 99},
            "rl.provers.problems=99 .* config.problems.labels=32",
        ),
        (
            {"rl.training.problems": 99},
            "training.problems=99 .* config.problems.labels=32",
        ),
        (
            {"rl.refresh.problems": 99},
            "rl.refresh.problems=99 .* config.problems.labels=32",
        ),
        ({"rl.refresh.batch_size": 99}, "batch_size=99 .* config.rl.refresh.problems="),
        ({"provers.mu.sft.steps": 30}, "provers.mu.sft warmup_steps=50 .* steps=30"),
        # Batches that cannot be filled: of 32 problems 2 are held out, and of the 16
        # that are searched 1.
        (
            {"verifier.prm.batch_size": 30, "labels.first_pit.n_mc": 0},
            r"verifier.prm.batch_size=30 .* at most 29: 1 \(config.rollouts.n_cov\)",
        ),
        ({"verifier.prm.batch_size": 31}, "at most 30: 1 .config.provers.mu: from_pol"),
        ({"verifier.orm.batch_size": 59}, "orm.batch_size=59 .* 58: 2 .*n_orm. .* 29"),
        ({"rl.rft.batch_size": 65}, "rl.rft.batch_size=65 .* 64: .*n_orm=2 .*=32"),
        (
            {"verifier.on_search.problems": 1},
            "held_out=0.05 leaves none of config.verifier.on_search.problems=1 to",
        ),
        ({"verifier.prm.batch_size": 1}, "prm.batch_size=1 .* 2 or more .*on_search"),
        ({"verifier.orm.batch_size": 1}, "orm.batch_size=1 .* 2 or more .*on_search"),
        (
            {"verifier.on_search.problems": 4, "verifier.on_search.labelled": 2},
            "half of .*prm.batch_size=16 must be at most 6: 2 responses .* 3 of .*=4,",
        ),
        (
            {"verifier.on_search.problems": 4, "verifier.on_search.labelled": 9}
            | {"verifier.on_search.beams": 2},
            "half of .*prm.batch_size=16 must be at most 6: 2 responses",
        ),
        (
            {"verifier.orm.batch_size": 40, "verifier.on_search.problems": 20}
            | {"verifier.on_search.beams": 1},
            "half of .*orm.batch_size=40 must be at most 19: 1 responses .*: beams.",
        ),
    ],
)
def test_fields_that_do_not_go_together(changes, words):
    with pytest.raises(UserError, match=words):
        stages.stages(_config(changes))


@pytest.mark.parametrize(
    "section", ["provers.mu", "provers.mu.sft", "provers.mu.task", "rl.methods.grpo"]
)
def test_what_has_to_be_a_section(section):
    values = {k: v for k, v in _full().items() if not k.startswith(f"{section}.")}
    config = config_lib.unflatten(values | {section: 3})
    assert _refusal(config) == f"config.{section} is 3; it must be a section"


@pytest.mark.parametrize(
    "section", ["rl", "rl.refresh", "rl.final", "verifier.on_search"]
)
def test_a_section_without_fields(section):
    values = {k: v for k, v in _full().items() if not k.startswith(f"{section}.")}
    config = config_lib.unflatten(values)
    holder, _, last = section.rpartition(".")
    with config.unlocked():
        (config[holder] if holder else config)[last] = ConfigDict()
    assert f"the config has no field '{section}." in _refusal(config)


@pytest.mark.parametrize("name", ["sft", "rft", "a/b", "1", "a b", "a-b", ""])
def test_names_of_rl_methods_that_name_no_stage_or_another_policy(name):
    config = _config({})
    with config.unlocked():
        config.rl.methods[name] = config.rl.methods.orm_rl
    refused = f"config.rl.methods.{name} names stages and policies; a name has letters"
    assert refused in _refusal(config) and "none of sft, rft" in _refusal(config)


def test_names_of_rl_methods_that_are_right():
    config = _config({})
    with config.unlocked():
        for name in ("sft_prover", "unsolved", "alpha_0_1", "_"):
            config.rl.methods[name] = config.rl.methods.orm_rl
    assert _refusal(config) == ""


def test_a_policy_without_a_size():
    values = {k: v for k, v in _full().items() if not k.startswith("model.")}
    assert "model" in _refusal(config_lib.unflatten(values))


def test_every_batch_that_is_trained_on_is_known():
    """What a mesh has to divide, by the field, of each stage that trains."""
    changes = {"verifier.orm.batch_size": 17, "pretraining.sft.batch_size": 8}
    changes |= {"provers.mu.sft.batch_size": 4, "sft.batch_size": 32}
    found = {s.name: s.batches for s in stages.stages(_config(changes)) if s.collective}
    prm, orm = "config.verifier.prm.batch_size", "config.verifier.orm.batch_size"
    count = _full()["rl.training.problems"] * _full()["rl.training.samples"]
    rl = {"config.rl.training.problems x samples": count}
    assert found.pop("rl-pav_refreshed-0") == rl | {"config.rl.refresh.batch_size": 4}
    never = {"rl.methods.pav_refreshed.refresh_every": _full()["rl.training.steps"]}
    (last,) = (
        s for s in stages.stages(_config(never)) if s.name == "rl-pav_refreshed-0"
    )
    assert last.batches == rl
    assert found == {
        "pretraining": {"config.pretraining.sft.batch_size": 8},
        "sft": {"config.sft.batch_size": 32},
        "policy-mu": {"config.provers.mu.sft.batch_size": 4},
        "prm-mu": {prm: 16},
        "prm-both": {prm: 16},
        "prm-0": {prm: 16},
        "prm": {prm: 16, f"2 x half of {prm}": 16},
        "orm-0": {orm: 17},
        "orm": {orm: 17, f"2 x half of {orm}": 16},
        "rft": {"config.rl.rft.batch_size": 2},
        **{f"rl-{m}-0": rl for m in ("grpo", "orm_rl", "pav_rl", "pav_mc")},
    }


# The same through the command.

_READS_JSON = """
import json
from pathlib import Path
from pav_jax.core import config as config_lib

def get_config(variant=""):
    text = Path(__file__).with_name("values.json").read_text()
    return config_lib.unflatten(json.loads(text)).unlock()
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the demo with some changes; gives the message."""
    monkeypatch.chdir(tmp_path)
    Path("made.py").write_text(_READS_JSON)
    demo = config_lib.call(str(EXPERIMENTS / "demo.py"), "get_config", "smoke")

    def run(changes: dict[str, Any], *arguments: str, command: str = "run") -> str:
        over = [name.rpartition(".")[0] for name in changes]
        values = {k: v for k, v in config_lib.flatten(demo).items() if k not in over}
        values |= changes
        Path("values.json").write_text(json.dumps(values))
        where = ["--topology=v5e-8"] if command == "plan" else ["--workdir=out"]
        assert main([command, "--config=made.py", *where, *arguments]) == 2
        out, err = capsys.readouterr()
        assert not out and err.startswith("pav: ") and err.count("\n") == 1
        assert "Traceback" not in err and not Path("out").exists()
        return err

    return run


def test_the_command_tells_them_in_one_paragraph(run):
    assert "config.labels.n_mc is 0" in run({"labels.n_mc": 0})
    assert "config.labels.n_mc is 0" in run({"labels.n_mc": 0}, command="plan")
    assert "config.mesh.data is 'all'" in run({"mesh.data": "all"})
    assert "config.sft.steps is -5" in run({}, "--config.sft.steps=-5")
    assert "did you mean 'search.beams'?" in run({"search.beamz": 3})
    assert "config.sft.steps is a section; it must be" in run({"sft.steps.a": 3})
    assert "config.task.min_depth is 'two'" in run({"task.min_depth": "two"})
    assert "config.task.name is 'sudoku', an unknown task" in run(
        {"task.name": "sudoku"}
    )


@pytest.mark.parametrize("field", sorted(_full()))
def test_misspelt_on_the_command_line(field):
    """The nearest field is named; no file is read twice to find it."""
    values = {k: v for k, v in _full().items() if k != "labels.from"}
    section, _, last = field.rpartition(".")
    wrong = f"{section}.{last[:1]}{last[2:]}x" if section else f"{last}x"
    if wrong in values:
        return
    config = config_lib.unflatten(values).unlock()
    with pytest.raises(UserError) as caught:
        config_lib._override(config, f"--config.{wrong}=1")
    message = str(caught.value)
    assert f"no config field '{wrong}'" in message
    inside = [k.rpartition(".")[2] for k in values if k.rpartition(".")[0] == section]
    if near := difflib.get_close_matches(wrong.rpartition(".")[2], inside, n=1):
        expected = f"{section}.{near[0]}".removeprefix(".")
        assert f"did you mean {expected!r}?" in message
    else:  # a short name, such as search.ns
        assert len(last) < 5


def test_a_curriculum_of_another_policy_is_whole():
    """Its fields take the place of all of config.sft.short_first."""
    missing = "pretraining.sft.short_first.fraction"
    words = "config.pretraining.sft.short_first needs steps and fraction; it has no fr"
    assert words in _refusal(_config({}, without=missing))


def test_batches_that_can_just_be_filled():
    short = {"sft.short_first.fraction": 0.005, "sft.batch_size": 30}
    assert list(contradictions(_config(short))) == []
    values = {"labels.first_pit.n_mc": 0, "verifier.prm.batch_size": 29}
    values |= {"verifier.orm.batch_size": 58, "rl.rft.batch_size": 64}
    for searched in (16, 20):  # of which one is held out
        values |= {"verifier.on_search.problems": searched}
        assert list(contradictions(_config(values))) == []
    values = {k: v for k, v in (_full() | values).items() if "on_search" not in k}
    values |= {"verifier.prm.batch_size": 30, "verifier.orm.batch_size": 60}
    assert list(contradictions(config_lib.unflatten(values))) == []


def test_a_problem_for_labels_that_is_held_out():
    values = {k: v for k, v in _full().items() if "on_search" not in k}
    config = config_lib.unflatten(values | {"problems.labels": 1})
    assert "held_out=0.05 leaves none of config.problems.labels=1 to" in _refusal(
        config
    )


def test_one_response_to_a_problem_is_enough_without_groups():
    values = {"rl.training.samples": 1, "rl.methods.grpo.baseline": "value"}
    assert list(contradictions(_config(values))) == []


def test_every_contradiction_is_of_a_config_that_is_else_right():
    assert list(contradictions(_config({}))) == []


@pytest.mark.parametrize("until", ["data", "sft", "rollouts", "labels"])
def test_a_run_that_ends_before_the_verifiers_needs_no_rows_of_theirs(until):
    demo = Path(__file__).resolve().parents[2] / "experiments" / "demo.py"
    config = config_lib.load([f"--config={demo}", "--config.problems.labels=8"])
    assert stages.stages(config, until)
    with pytest.raises(UserError, match="prm.batch_size=32 must be at most 7"):
        stages.stages(config, "prm")
