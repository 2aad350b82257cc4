"""What a search found, as a second set of a verifier's data."""

import types
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from pav_jax.core import config as config_lib
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.types import Response
from pav_jax.pipeline import on_search, stages, verifiers
from pav_jax.pipeline.runner import StageContext
from pav_jax.search.beam import SearchResult
from pav_jax.storage import records


def _responses(problems, first_token):
    """One of each problem, whose prompt says which it is."""
    return [
        Response(number, (100 + prompt,), (first_token, 2), (0.0, 0.0), prompt % 2 == 0)
        for number, prompt in problems
    ]


def _config(name="orm", **optimizer):
    """50 of 100 problems are searched."""
    settings = dict(batch_size=8, steps=80, warmup_steps=8) | optimizer
    searched = dict(rounds=1, problems=50, steps=20, labelled=2)
    made = dict(held_out=0.1, balance=False, language_weight=0.0, on_search=searched)
    config = dict(verifier=made | {name: settings}, limits=dict(max_steps=6), seed=0)
    return ConfigDict(config).lock()


@pytest.fixture
def train(monkeypatch, tmp_path):
    """What a round of a verifier is trained on: rows of each set, those held out, and
    the optimizer. No network is there."""
    problems = types.SimpleNamespace(
        prompts=[(100 + i,) for i in range(100)], architecture=None, dtype=None
    )
    monkeypatch.setattr(verifiers.Problems, "load", lambda *_: problems)
    for module, name in (
        (verifiers, "load_policy"),
        (verifiers, "load_verifier"),
        (verifiers.verifier, "init_verifier"),
    ):
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr(verifiers, "HeldOut", lambda rows, *_, **__: rows)
    seen = []
    monkeypatch.setattr(
        verifiers,
        "run_training",
        lambda _, params, loss, kept, optimizer, held_out: seen.append(
            (kept, held_out, optimizer)
        ),
    )

    def train(config, *data, name="orm"):
        stage, rounds = (name, ("orm-0", "beams-1")) if data[1:] else (f"{name}-0", ())
        context = StageContext(
            stage,
            config,
            tmp_path,
            dict.fromkeys(("data", "sft", *rounds), tmp_path),
            batches={f"config.verifier.{name}.batch_size": 8},
        )
        sets = [verifiers.Labelled.of_outcomes(some) for some in data]
        verifiers._train_verifier(context, sets, config.verifier[name], *rounds)
        return seen.pop()

    return train


@pytest.mark.parametrize("numbered", ["alike", "in another way"])
def test_what_is_held_out_of_one_set_is_held_out_of_all(train, numbered):
    """Beams on half of the problems, whose last ones the others have in the middle."""
    rollouts = _responses(((i, i) for i in range(100)), 3)
    offset = 0 if numbered == "alike" else 1_000  # as labels of others are numbered
    beams = _responses(((i + offset, i) for i in range(50)), 4)
    (of_rollouts, of_beams), held_out, _ = train(_config(), rollouts, beams)
    prompts = [set(rows["tokens"][:, 0]) for rows in (of_rollouts, of_beams, held_out)]
    assert prompts[2] == {*range(145, 150), *range(190, 200)}
    assert not prompts[0] & prompts[2] and not prompts[1] & prompts[2]
    assert len(held_out["tokens"]) == 15 + 5  # both sets' responses to 45 to 49
    assert (len(of_rollouts["tokens"]), len(of_beams["tokens"])) == (85, 45)


@pytest.mark.parametrize("numbered", ["alike", "in another way"])
def test_what_is_held_out_in_a_later_round_is_held_out_in_the_first(train, numbered):
    """Later rounds go on from its parameters. What a search will find is not known
    then, and has no part in it: here nothing of the last problems."""
    offset = 0 if numbered == "alike" else 1_000
    rollouts = _responses(((i + offset, i) for i in range(100)), 3)
    (first,), apart, _ = train(_config(), rollouts)
    beams = _responses(((i, i) for i in range(42)), 4)
    (again, of_beams), later, _ = train(_config(), rollouts, beams)
    held_out = {*range(145, 150), *range(190, 200)}
    for rows in (apart, later):
        assert set(rows["tokens"][:, 0]) == held_out
    for rows in (first, again):
        assert set(rows["tokens"][:, 0]) == set(range(100, 200)) - held_out
    assert len(of_beams["tokens"]) == 42


def test_without_searches_the_last_problems_alone_are_held_out(train):
    values = _config().to_dict()
    del values["verifier"]["on_search"]
    rollouts = _responses(((i, i) for i in range(100)), 3)
    (kept,), held_out, _ = train(ConfigDict(values), rollouts)
    assert set(held_out["tokens"][:, 0]) == set(range(190, 200))
    assert len(kept["tokens"]) == 90


def test_the_first_round_depends_on_what_is_searched():
    """On how many problems, and on no other field of the searches."""
    path = Path(__file__).parents[2] / "experiments" / "evidence" / "on_search.py"
    config = config_lib.call(str(path), "get_config", "smoke")
    made = {stage.name: stage for stage in stages.stages(config)}
    for name in ("prm", "orm"):
        first = config_lib.select(config, made[f"{name}-0"].fields)
        assert first.verifier.on_search.to_dict() == dict(problems=16)
        assert "verifier.on_search" in made[name].fields
    with config.unlocked():
        del config.verifier["on_search"]
    for stage in stages.stages(config):
        if stage.name in ("prm", "orm"):
            assert not any("on_search" in field for field in stage.fields)
            assert stage.revision == 0


@pytest.mark.parametrize(
    ("found", "rows", "there"),
    [
        ([], "0 responses", 0),
        ([3], "1 response", 1),
        ([3] * 3, "3 responses", 1),
        ([1, 2, 3, 48], "3 responses", 4),  # the last is held out
    ],
)
def test_a_search_that_finds_too_little(train, found, rows, there):
    rollouts = _responses(((i, i) for i in range(100)), 3)
    words = (
        f"stage orm: {rows} of stage beams-1 to train on, fewer than half of"
        f" config.verifier.orm.batch_size=8. Of config.verifier.on_search.problems=50"
        f" that stage found responses to {there}, without those that"
        " config.limits.max_steps=6 cut short; raise"
    )
    with pytest.raises(UserError, match=words):
        train(_config(), rollouts, _responses(zip(found, found, strict=True), 4))


def test_a_search_that_finds_just_enough(train):
    """Of one problem, too."""
    rollouts = _responses(((i, i) for i in range(100)), 3)
    (_, of_beams), _, _ = train(_config(), rollouts, _responses([(3, 3)] * 4, 4))
    assert len(of_beams["tokens"]) == 4


@pytest.mark.parametrize(("warmup", "shorter"), [(0, 0), (1, 1), (3, 1), (40, 10)])
def test_the_same_part_of_a_later_round_warms_up(train, warmup, shorter):
    rollouts, beams = (_responses(((i, i) for i in range(50)), n) for n in (3, 4))
    _, _, optimizer = train(_config(warmup_steps=warmup), rollouts, beams)
    assert (optimizer.steps, optimizer.warmup_steps) == (20, shorter)


def test_a_response_that_was_cut_short_is_not_wrong():
    problems = types.SimpleNamespace(
        prompts=[(7,)],
        are_correct=lambda texts: [tokens[0] == 3 for _, tokens in texts],
    )
    found = SearchResult(
        tokens=[3, 2],
        q=0.5,
        # Right; cut after max_steps; cut after max_tokens, as the policy is, too.
        responses=[[3, 2], [4, 4], [5, 5, 5, 5], [3, 2]],
        values=[0.5, 0.9, 0.7, 0.4],
        step_values=[[0.5]] * 4,
        ended=[True, False, False, True],
        ledger=Ledger(),
    )
    kept = on_search._responses(problems, [0], [found], 4)
    assert [(r.tokens, r.correct) for r in kept] == [
        ((5, 5, 5, 5), False),
        ((3, 2), True),
    ]
    np.testing.assert_array_equal(kept[0].log_probs, 0)


def test_a_shard_of_which_all_were_cut_short_is_empty_and_read_again(tmp_path):
    path = records.shard_path(tmp_path, 0)
    records.write_responses(path, [])
    records.write_labels(records.labels_beside(path), [])
    assert on_search.read_labels(tmp_path, ConfigDict(dict(labelled=2))) == ([], [])
    assert records.read_all_responses(tmp_path) == []
