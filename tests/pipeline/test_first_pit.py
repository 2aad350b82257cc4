"""Labels up to first pits as a part of stage `labels`: what is drawn, kept and paid."""

import itertools
import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny import random_params
from toy_problems import ARCHITECTURE, ToyProblems

from pav_jax import labels
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.seeds import Stream, derive
from pav_jax.pipeline import labelling, verifiers
from pav_jax.pipeline.first_pit import read_pits
from pav_jax.pipeline.runner import StageContext
from pav_jax.storage import records

N_MC, N_PIT, N_COV = 2, 4, 2
CONFIG = ConfigDict(
    dict(
        seed=0,
        limits=dict(max_prompt_tokens=8, max_tokens=10, max_steps=8),
        rollouts=dict(temperature=1.0, n_cov=N_COV),
        sampling=dict(trunks=4, rows=4),
        labels=dict(
            n_mc=N_MC,
            shard=2,
            first_pit=dict(threshold=0.5, n_mc=N_PIT, responses=3),
        ),
    )
)
PROBLEMS = ToyProblems(CONFIG)


@pytest.fixture(scope="module")
def rollouts():
    return labels.sample_responses(
        random_params(ARCHITECTURE),
        PROBLEMS,
        range(len(PROBLEMS.prompts)),
        count=N_COV,
        seed=derive(0, Stream.ROLLOUTS),
        sampling=labels.sampling_for(PROBLEMS, 1.0, branches=8),
        ledger=Ledger(),
    )


def _run(folder, rollouts, **changes):
    """The stage with some settings; its folder."""
    config = ConfigDict(CONFIG.to_dict())
    config.labels.update(changes)
    of_rollouts = folder.with_name("rollouts")
    for path in (folder, of_rollouts):
        path.mkdir(exist_ok=True)
    records.write_responses(records.shard_path(of_rollouts, 0), rollouts)
    inputs = {"data": folder, "sft": folder, "rollouts": of_rollouts}
    with pytest.MonkeyPatch.context() as patch:
        policy = random_params(ARCHITECTURE)
        patch.setattr(labelling.Problems, "load", lambda *_: PROBLEMS)
        patch.setattr(labelling, "load_policy", lambda *_: policy)
        labelling.run_labels(StageContext("labels", config.lock(), folder, inputs))
    return folder


@pytest.fixture(scope="module")
def finished(rollouts, tmp_path_factory):
    return _run(tmp_path_factory.mktemp("run") / "labels", rollouts)


def _draw(response, ends, n_mc, stream):
    """Continuations of prefixes of one response, and what they cost."""
    ledger = Ledger()
    [(_, continued)] = labels.continue_prefixes(
        random_params(ARCHITECTURE),
        PROBLEMS,
        [response],
        [ends],
        n_mc=n_mc,
        seed=derive(0, stream),
        sampling=labels.sampling_for(PROBLEMS, 1.0, branches=8 * n_mc),
        ledger=ledger,
    )
    return continued, ledger


def test_seed_rollouts_have_the_labels_that_they_have_without_it(
    finished, rollouts, tmp_path
):
    settings = CONFIG.labels.first_pit.to_dict() | dict(n_mc=0)
    without = _run(tmp_path / "labels", rollouts, first_pit=settings)
    assert read_pits(without) == ([], [])
    ours, theirs = (records.read_all_labels(folder) for folder in (finished, without))
    assert len(ours) == len(rollouts)
    for one, other in zip(ours, theirs, strict=True):
        for name in ("ends", "correct", "count"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_the_verifier_of_steps_is_trained_on_both(finished, rollouts, monkeypatch):
    given = []
    monkeypatch.setattr(verifiers, "_train_verifier", lambda *args: given.append(args))
    inputs = {"rollouts": finished.with_name("rollouts"), "labels": finished}
    config = ConfigDict(CONFIG.to_dict() | dict(verifier=dict(prm=dict(steps=1))))
    verifiers.run_prm(StageContext("prm", config.lock(), finished, inputs))
    [(_, [data], *_)] = given
    responses, found = read_pits(finished)
    assert responses and data.responses == [*rollouts, *responses]
    steps = [list(zip(x.ends, x.q, strict=True)) for x in found]
    assert data.steps[len(rollouts) :] == steps


@pytest.mark.parametrize("change", ["mixed up", "fewer"])
def test_labels_of_other_responses_are_not_trained_on(
    finished, rollouts, monkeypatch, change
):
    sizes = [len(rollout.tokens) for rollout in rollouts]
    first, second = 0, next(i for i, size in enumerate(sizes) if size != sizes[0])
    mixed = list(rollouts)
    mixed[first], mixed[second] = mixed[second], mixed[first]
    read = mixed if change == "mixed up" else rollouts[1:]
    monkeypatch.setattr(records, "read_seed_rollouts", lambda *_: read)
    monkeypatch.setattr(verifiers, "_train_verifier", lambda *_: pytest.fail("trains"))
    inputs = {"rollouts": finished.with_name("rollouts"), "labels": finished}
    config = ConfigDict(CONFIG.to_dict() | dict(verifier=dict(prm=dict(steps=1))))
    with pytest.raises(UserError, match="stage labels are not of .* of stage rollouts"):
        verifiers.run_prm(StageContext("prm", config.lock(), finished, inputs))


def test_what_is_labelled_and_paid(finished, rollouts):
    """Every label again, from draws of its own; and the ledger from their tokens."""
    total, high, searched, seen, drawn = Ledger(), {}, set(), set(), set()
    for rollout, explored in zip(
        rollouts, records.read_all_labels(finished), strict=True
    ):
        names = [(rollout.problem, rollout.tokens[:e]) for e in explored.ends[:-1]]
        # What rollouts share is drawn once.
        new = [e for e, n in zip(explored.ends, names, strict=False) if n not in drawn]
        drawn |= set(names)
        if new:
            _, ledger = _draw(rollout, np.array(new), N_MC, Stream.LABELS)
            total += ledger
        stops = []
        for end in explored.ends[:-1][explored.q[:-1] >= 0.5]:
            if (prefix := (rollout.problem, rollout.tokens[:end])) not in seen:
                seen.add(prefix)
                stops.append(int(end))
        if not stops:
            continue
        continued, ledger = _draw(rollout, stops, N_PIT, Stream.FIRST_PIT)
        total += ledger
        high[rollout.problem, rollout.tokens] = stops, continued.correct.sum(1).tolist()
        for wholes, correct in zip(continued.wholes, continued.correct, strict=True):
            wrong = itertools.compress(wholes, ~correct)
            searched |= {(rollout.problem, tokens) for tokens in wrong}
    assert len(high) >= 3
    pits = early = 0
    for response, found in zip(*read_pits(finished), strict=True):
        key = response.problem, response.tokens
        if key in high:
            assert (found.ends.tolist(), found.correct.tolist()) == high.pop(key)
            assert set(found.count) == {N_PIT}
            continue
        assert key in searched
        for end, correct, count in zip(*vars(found).values(), strict=True):
            if end == len(response.tokens):
                assert (correct, count) == (0, 1)
                continue
            again, ledger = _draw(response, [end], N_PIT, Stream.FIRST_PIT)
            total += ledger
            assert (correct, count) == (again.correct.sum(), N_PIT)
        pits += found.correct[-1] == 0
        early += found.correct[-1] == 0 and found.ends[-1] < len(response.tokens)
    assert not high
    assert pits >= 3 and early >= 1  # else little was looked at
    paid = json.loads((finished / "ledger.json").read_text())
    assert (paid["decoded"], paid["prefilled"]) == (total.decoded, total.prefilled)


def test_resumed_in_other_shards_it_is_the_same(finished, rollouts, tmp_path):
    """Problems whose shard is done are not labelled again; shards do not matter."""
    other = _run(tmp_path / "labels", rollouts, shard=5)
    stopped = list(finished.glob("*00001*"))
    before = {p.name: p.read_bytes() for p in finished.glob("*.npz")}
    assert len(stopped) >= 2
    for path in stopped:
        path.unlink()
    _run(finished, rollouts)
    assert {p.name: p.read_bytes() for p in finished.glob("*.npz")} == before
    for ours, theirs in zip(read_pits(finished), read_pits(other), strict=True):
        assert str(ours) == str(theirs)
