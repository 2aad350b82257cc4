"""The engine: what it samples, that layout does not change it, and what it counts.

One long file, since most tests look at samples of the same job.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params

from pav_jax import rollout
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.profile import Profile
from pav_jax.core.types import Params
from pav_jax.gemma import decode_loop as grid_lib
from pav_jax.gemma import forward
from pav_jax.gemma import sampling as sampling_lib
from pav_jax.gemma.architecture import TransformerConfig, tiny_gemma2
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.rollout import Request, Samples

VOCAB, END = 24, (3, 7)
# The window is shorter than any trunk, so local layers cross from it to the branch.
ARCHITECTURE = tiny_gemma2(
    VOCAB, num_layers=2, embed_dim=16, num_heads=4, num_kv_heads=2, mlp_dim=24, window=5
)
SAMPLING = SamplingConfig(max_tokens=12, end_ids=END, trunks=3, rows=4)


PARAMS = random_params(ARCHITECTURE)


def _request(
    problem: int,
    trunk: Sequence[int],
    prompt_length: int,
    prefixes: Sequence[int],
    samples: int,
    seed: int = 0,
) -> Request:
    """`samples` branches from each of the prefixes."""
    prefixes = np.repeat(np.asarray(prefixes, np.int32), samples)
    keys = rollout.branch_keys(
        seed,
        np.full(len(prefixes), problem),
        [rollout.prefix_id(trunk[:length]) for length in prefixes],
        np.arange(len(prefixes)) % samples,
    )
    return Request(trunk, prompt_length, prefixes, keys)


def _labelling_job(count: int = 8) -> list[Request]:
    """Whole seed rollouts as trunks; branches from every step prefix of each."""
    rng = np.random.default_rng(5)
    requests = []
    for problem in range(count):
        prompt = int(rng.integers(6, 12))
        response = int(rng.integers(4, SAMPLING.max_tokens))
        trunk = rng.integers(0, VOCAB, prompt + response).tolist()
        steps = int(rng.integers(0, 4))
        ends = rng.choice(np.arange(1, response + 1), steps, replace=False)
        prefixes = [prompt, *sorted(int(prompt + end) for end in ends)]
        requests.append(_request(problem, trunk, prompt, prefixes, samples=3))
    return requests


def _sample(
    requests: Sequence[Request],
    sampling: SamplingConfig = SAMPLING,
    *,
    params: Params = PARAMS,
    architecture: TransformerConfig = ARCHITECTURE,
) -> tuple[list[Samples], Ledger]:
    """The samples in the order of the requests, each seen exactly once."""
    ledger = Ledger()
    found = list(
        rollout.sample(
            params,
            requests,
            architecture=architecture,
            sampling=sampling,
            ledger=ledger,
        )
    )
    assert sorted(index for index, _ in found) == list(range(len(requests)))
    return [samples for _, samples in sorted(found, key=lambda pair: pair[0])], ledger


@functools.cache
def _labelling_samples() -> tuple[list[Samples], Ledger]:
    return _sample(_labelling_job())


@functools.partial(jax.jit, static_argnames="architecture")
def _uncached_logits(params, tokens, *, architecture):
    hidden = forward.hidden_states(params, tokens, architecture=architecture)
    return forward.logits(params, hidden, architecture=architecture)


def _check_against_uncached(
    requests: Sequence[Request],
    results: Sequence[Samples],
    *,
    temperature: float,
    params: Params = PARAMS,
    architecture: TransformerConfig = ARCHITECTURE,
    atol: float = 1e-4,
) -> None:
    """Every branch's log-probs equal an uncached pass over prompt+prefix+sample."""
    rows, spans = [], []
    for request, samples in zip(requests, results, strict=True):
        for j, prefix in enumerate(request.prefixes):
            branch = samples.tokens[j, : samples.lengths[j]]
            rows.append(np.concatenate([request.trunk[:prefix], branch]))
            spans.append((prefix, branch, samples.log_probs[j]))
    tokens = np.zeros((-(-len(rows) // 64) * 64, 48), np.int32)
    for row, real in zip(tokens, rows, strict=False):
        row[: len(real)] = real
    logits = np.asarray(
        _uncached_logits(params, tokens, architecture=architecture), np.float64
    )
    assert len(spans) >= len(requests)
    for row, (prefix, branch, log_probs) in zip(logits, spans, strict=False):
        expected = row[prefix - 1 : prefix - 1 + len(branch)]
        if temperature == 0:
            np.testing.assert_array_equal(branch, expected.argmax(axis=-1))
        else:
            expected = expected / temperature
        expected = expected - np.log(np.exp(expected).sum(-1, keepdims=True))
        expected = np.take_along_axis(expected, branch[:, None], axis=-1)[:, 0]
        np.testing.assert_allclose(
            log_probs[: len(branch)], expected, rtol=0, atol=atol
        )


def _check_equal(ours: Samples, others: Samples) -> None:
    """The same tokens; the same log-probs but for rounding."""
    np.testing.assert_array_equal(ours.lengths, others.lengths)
    np.testing.assert_array_equal(ours.tokens, others.tokens)
    np.testing.assert_allclose(ours.log_probs, others.log_probs, rtol=0, atol=1e-4)


# What is sampled.


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_log_probs_equal_an_uncached_forward(temperature):
    requests = _labelling_job()
    assert len(requests) > 2 * SAMPLING.trunks  # so slots are loaded again
    assert max(len(r.prefixes) for r in requests) > 2 * SAMPLING.rows  # and rows
    if temperature == 1.0:
        results, _ = _labelling_samples()
    else:
        sampling = dataclasses.replace(SAMPLING, temperature=temperature)
        results, _ = _sample(requests, sampling)
    _check_against_uncached(requests, results, temperature=temperature)
    for samples in results:
        for values in (samples.tokens, samples.log_probs):
            past = np.arange(SAMPLING.max_tokens) >= samples.lengths[:, None]
            assert not values[past].any()
    # Long ones too, or little would have been compared.
    assert max(samples.lengths.max() for samples in results) == SAMPLING.max_tokens


@pytest.mark.slow
def test_log_probs_of_a_gemma3_in_bfloat16():
    """Half precision runs, and keeps to its own uncached forward."""
    architecture = dataclasses.replace(
        ARCHITECTURE, qk_norm=True, attn_softcap=None, final_softcap=None
    )
    params = jax.tree.map(lambda a: a.astype(jnp.bfloat16), random_params(architecture))
    requests = _labelling_job(4)
    results, _ = _sample(requests, params=params, architecture=architecture)
    assert results[0].log_probs.dtype == np.float32
    _check_against_uncached(
        requests,
        results,
        temperature=1.0,
        params=params,
        architecture=architecture,
        atol=0.1,
    )


@pytest.mark.parametrize("end_ids", [END, (), tuple(range(VOCAB))])
def test_a_branch_ends_at_an_end_token_or_at_max_tokens(end_ids):
    requests = _labelling_job()
    if end_ids == END:
        results, _ = _labelling_samples()
    else:
        results, _ = _sample(requests, dataclasses.replace(SAMPLING, end_ids=end_ids))
    ended = 0
    for request, samples in zip(requests, results, strict=True):
        room = SAMPLING.max_tokens - (request.prefixes - request.prompt_length)
        assert room.min() < SAMPLING.max_tokens or len(set(request.prefixes)) == 1
        assert (samples.lengths >= 1).all() and (samples.lengths <= room).all()
        for j, length in enumerate(samples.lengths):
            is_end = np.isin(samples.tokens[j, :length], end_ids)
            assert not is_end[:-1].any()
            assert is_end[-1] or length == room[j]
            ended += is_end[-1]
    total = sum(len(request.prefixes) for request in requests)
    if end_ids == END:
        assert 0 < ended < total
    else:
        assert ended == (total if end_ids else 0)


def test_a_prefix_with_no_room_is_refused():
    trunk = list(range(20))
    full = 5 + SAMPLING.max_tokens
    fits, does_not = ([5, length] for length in (full - 1, full))
    [samples], _ = _sample([_request(0, trunk, 5, fits, 2)])
    assert samples.lengths[2:].tolist() == [1, 1]
    with pytest.raises(UserError, match=r"request 1: .* 12 response tokens"):
        _sample([_request(0, trunk, 5, fits, 2), _request(1, trunk, 5, does_not, 2)])


def test_no_requests():
    assert _sample([]) == ([], Ledger())


# What it depends on.


@pytest.mark.parametrize(
    ("trunks", "rows", "trunks_per_group"),
    [(1, 1, 1), pytest.param(2, 3, 1, marks=pytest.mark.slow), (8, 16, 1), (6, 1, 3)],
)
def test_the_grid_does_not_change_a_sample(trunks, rows, trunks_per_group):
    sampling = dataclasses.replace(
        SAMPLING, trunks=trunks, rows=rows, trunks_per_group=trunks_per_group
    )
    ours, ledger = _labelling_samples()
    others, other_ledger = _sample(_labelling_job(), sampling)
    for one, other in zip(ours, others, strict=True):
        _check_equal(one, other)
    assert other_ledger.decoded == ledger.decoded
    assert other_ledger.prefilled == ledger.prefilled


def test_neither_order_nor_company_nor_a_second_run_changes_a_sample():
    requests, (ours, _) = _labelling_job(), _labelling_samples()
    for one, again in zip(ours, _sample(requests)[0], strict=True):
        _check_equal(one, again)
        np.testing.assert_array_equal(one.log_probs, again.log_probs)
    order = np.random.default_rng(1).permutation(len(requests))
    others, _ = _sample([requests[i] for i in order])
    for i, other in zip(order, others, strict=True):
        _check_equal(ours[i], other)
    longest = max(range(len(requests)), key=lambda i: len(requests[i].prefixes))
    shortest = min(range(len(requests)), key=lambda i: len(requests[i].trunk))
    for i in (longest, shortest):
        [alone], _ = _sample([requests[i]])
        _check_equal(ours[i], alone)
    # Half of a request's branches, in another order.
    some = np.arange(len(requests[longest].prefixes))[::-2]
    part = dataclasses.replace(
        requests[longest],
        prefixes=requests[longest].prefixes[some],
        keys=requests[longest].keys[some],
    )
    [alone], _ = _sample([part])
    whole = ours[longest]
    expected = Samples(
        *(getattr(whole, f.name)[some] for f in dataclasses.fields(whole))
    )
    _check_equal(alone, expected)


def test_each_part_of_the_key_changes_the_sample():
    base = (0, 1, 2, 3)  # seed, problem, prefix, sample index
    ids = [base, base]
    for part in range(4):
        ids += [
            tuple(base[i] + (i == part) * by for i in range(4)) for by in (1, 2**20)
        ]
    ids.append((0, 2, 1, 3))  # and not only their sum, or their set
    keys = np.concatenate([rollout.branch_keys(s, [p], [x], [i]) for s, p, x, i in ids])
    assert keys.dtype == np.uint32
    request = Request(list(range(9)), 9, np.full(len(ids), 9), keys)
    sampling = dataclasses.replace(SAMPLING, end_ids=())
    [samples], _ = _sample([request], sampling)
    np.testing.assert_array_equal(samples.tokens[0], samples.tokens[1])
    assert len({tuple(row) for row in samples.tokens.tolist()}) == len(ids) - 1


def test_branch_keys_do_not_depend_on_their_company():
    rng = np.random.default_rng(0)
    for count in (1, 63, 64, 65, 130):
        ids = rng.integers(0, 2**31, (3, count))
        keys = rollout.branch_keys(7, *ids)
        assert keys.shape == (count, 2)
        some = slice(count // 2, count // 2 + 1)
        np.testing.assert_array_equal(
            keys[some], rollout.branch_keys(7, *(part[some] for part in ids))
        )
        assert len(np.unique(keys, axis=0)) == count


def test_a_prefix_is_named_by_its_tokens():
    prefixes = [[], [0], [0, 0], [1, 2, 3], [3, 2, 1], [1, 2], [256], [1, 0]]
    ids = [rollout.prefix_id(prefix) for prefix in prefixes]
    assert len(set(ids)) == len(ids) and all(0 <= i < 2**31 for i in ids)
    assert rollout.prefix_id(np.array([1, 2, 3], np.int64)) == ids[3]


# What is counted.


def test_the_ledger_counts_what_was_processed():
    requests, (results, ledger) = _labelling_job(), _labelling_samples()
    decoded = sum(int(samples.lengths.sum()) for samples in results)
    prefilled = sum(len(request.trunk) for request in requests)
    assert (ledger.decoded, ledger.prefilled) == (decoded, prefilled)
    assert (ledger.scored, ledger.trained) == (0, 0)
    # Were each branch's prefix read for it alone, this would be no bound at all.
    alone = decoded + sum(int(request.prefixes.sum()) for request in requests)
    ideal = decoded + prefilled
    assert ledger.decoded + ledger.prefilled <= 1.05 * ideal < 0.6 * alone
    assert ledger.slots >= ledger.decoded
    # First tokens are drawn when a trunk is loaded; the others, by rows of the grid.
    firsts = sum(len(request.prefixes) for request in requests)
    assert (ledger.slots - firsts) % (SAMPLING.trunks * SAMPLING.rows) == 0


def test_a_second_job_adds_to_the_ledger():
    request, ledger = _labelling_job()[0], Ledger(decoded=5, scored=7)
    for _ in range(2):
        [(_, samples)] = rollout.sample(
            PARAMS,
            [request],
            architecture=ARCHITECTURE,
            sampling=SAMPLING,
            ledger=ledger,
        )
    assert ledger.decoded == 5 + 2 * samples.lengths.sum()
    assert ledger.prefilled == 2 * len(request.trunk)
    assert ledger.scored == 7


def test_no_row_idles_while_its_work_is_even():
    """Branches of one length, in numbers that the grid divides: all slots work."""
    trunk = list(range(10))
    requests = [
        _request(i, trunk, 10, [10], samples=2 * SAMPLING.rows)
        for i in range(2 * SAMPLING.trunks)
    ]
    results, ledger = _sample(requests, dataclasses.replace(SAMPLING, end_ids=()))
    assert all((s.lengths == SAMPLING.max_tokens).all() for s in results)
    assert ledger.decoded == ledger.slots


@pytest.mark.slow
def test_rows_and_trunks_are_refilled():
    """Ragged branches, many to a row: a grid that waited for the longest of each
    batch of rows would be busy much less."""
    rng = np.random.default_rng(2)
    requests = [
        _request(i, rng.integers(0, VOCAB, 12).tolist(), 12, [12], samples=32)
        for i in range(9)
    ]
    results, ledger = _sample(requests)
    lengths = np.concatenate([s.lengths for s in results])
    waiting = lengths.mean() / lengths.reshape(-1, SAMPLING.rows).max(axis=1).mean()
    assert ledger.decoded / ledger.slots > max(0.75, waiting + 0.1)


# What is compiled.


def test_ragged_jobs_of_one_bucket_compile_once():
    """The bucket: trunks of up to 32 tokens, and 9 to 16 branches at most."""
    # A shape of its own, so that no other test has compiled for it.
    sampling = dataclasses.replace(SAMPLING, max_tokens=11)
    rng = np.random.default_rng(4)

    def job(count, longest, most):
        requests = []
        for i in range(count):
            length = longest if i == 0 else int(rng.integers(8, longest + 1))
            branches = most if i == 0 else int(rng.integers(1, most + 1))
            trunk = rng.integers(0, VOCAB, length).tolist()
            requests.append(_request(i, trunk, 8, [8], samples=branches))
        return requests

    first, second = job(10, 17, 9), job(7, 32, 16)
    compiled = []

    def listen(event, duration, **kwargs):
        if "backend_compile" in event:
            compiled.append((event, kwargs))

    before = grid_lib.run_segment._cache_size()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        _sample(first, sampling)
        assert grid_lib.run_segment._cache_size() == before + 1
        assert len(compiled) >= 2  # the listener hears of compilations
        compiled.clear()
        _sample(second, sampling)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert grid_lib.run_segment._cache_size() == before + 1
    assert not compiled


def test_a_labelling_stage_compiles_once_a_bucket():
    """And the demo's ragged shards fall into six buckets at most."""
    demo = SamplingConfig(max_tokens=64, end_ids=END, trunks=32, rows=8)
    rng = np.random.default_rng(6)

    def shard(responses, longest_prompt, longest, most_steps, *, n_mc):
        requests = []
        for i in range(responses):
            prompt = int(rng.integers(longest_prompt - 6, longest_prompt + 1))
            response = int(rng.integers(longest // 2, longest))
            steps = min(int(rng.integers(3, most_steps + 1)), response)
            ends = np.sort(rng.choice(np.arange(1, response), steps - 1, replace=False))
            trunk = rng.integers(0, VOCAB, prompt + response).tolist()
            prefixes = [prompt, *(prompt + ends)]
            requests.append(_request(i, trunk, prompt, prefixes, samples=n_mc))
        return requests

    shards = [shard(50, 40, 64, 10, n_mc=4) for _ in range(20)]
    assert 1 <= len({rollout.capacities(s, demo) for s in shards}) <= 6

    # What is one bucket by `capacities` is one program.
    sampling = dataclasses.replace(SAMPLING, max_tokens=13)
    shards = [shard(4, longest, 10, 4, n_mc=2) for longest in (9, 20, 10, 19)]
    buckets = {rollout.capacities(s, sampling) for s in shards}
    assert len(buckets) < len(shards)
    # As a checkpoint has them, which says where they are; what jax makes does not.
    loaded = jax.device_put(PARAMS, jax.devices()[0])
    programs = (grid_lib.load, grid_lib.run_segment)
    before = [program._cache_size() for program in programs]
    for requests in shards:
        _sample(requests, sampling, params=loaded)
    found = [program._cache_size() for program in programs]
    assert np.subtract(found, before).tolist() == [len(buckets)] * 2


def test_first_tokens_are_drawn_in_blocks_of_branches(monkeypatch):
    """So that the logits of all branches of a trunk never exist; the draws are the
    same, and so is what follows."""
    requests = _labelling_job()
    whole, _ = _sample(requests)
    monkeypatch.setattr(sampling_lib, "_DRAWN", 5)  # does not divide what is compiled
    sampling = dataclasses.replace(SAMPLING, trunks=SAMPLING.trunks + 1)  # not cached
    blocks, _ = _sample(requests, sampling)
    for one, other in zip(whole, blocks, strict=True):
        _check_equal(one, other)


def test_a_segment_is_at_work_while_the_caller_grades(monkeypatch):
    """What ended is given once the next segment runs, and all of it at the end."""
    events = []
    segment = grid_lib.run_segment

    def record(*args, **kwargs):
        events.append("segment")
        return segment(*args, **kwargs)

    monkeypatch.setattr(grid_lib, "run_segment", record)
    requests = _labelling_job()
    for index, _ in rollout.sample(
        PARAMS,
        requests,
        architecture=ARCHITECTURE,
        sampling=SAMPLING,
        ledger=Ledger(),
    ):
        events.append(index)
    graded = [event for event in events if event != "segment"]
    assert sorted(graded) == list(range(len(requests)))
    assert events[:2] == ["segment"] * 2  # the second before the first is graded
    last = len(events) - events[::-1].index("segment")
    assert last < len(events)


def test_rows_in_common_wait_less():
    """Of ragged branches, where each trunk has few."""
    rng = np.random.default_rng(7)
    requests = [
        _request(i, rng.integers(0, VOCAB, 5).tolist(), 5, [5], samples=4)
        for i in range(16)
    ]
    apart = dataclasses.replace(SAMPLING, max_tokens=40, trunks=4, rows=2)
    together = dataclasses.replace(apart, trunks_per_group=4)
    (ours, alone), (others, common) = (_sample(requests, s) for s in (apart, together))
    for one, other in zip(ours, others, strict=True):
        _check_equal(one, other)
    assert common.decoded == alone.decoded
    assert common.slots < 0.9 * alone.slots


def test_the_host_waits_once_a_segment(monkeypatch):
    """Once for what a segment returns, and then to fetch what it finished."""
    counts = {"segments": 0, "waits": 0, "fetches": 0}

    def counted(name, function):
        def call(*args, **kwargs):
            counts[name] += 1
            return function(*args, **kwargs)

        return call

    for module, function, name in (
        (grid_lib, "run_segment", "segments"),
        (grid_lib, "outputs", "fetches"),
        (jax, "device_get", "waits"),
    ):
        monkeypatch.setattr(module, function, counted(name, getattr(module, function)))
    requests = _labelling_job()
    _, ledger = _sample(requests)
    assert counts["waits"] == counts["segments"] + counts["fetches"]
    assert counts["fetches"] == len(requests)  # of a grid that loads one at a time
    firsts = sum(len(request.prefixes) for request in requests)
    steps = (ledger.slots - firsts) // (SAMPLING.trunks * SAMPLING.rows)
    assert counts["segments"] <= len(requests) < steps / 2


class _Counting(Profile):
    """Counts the steps, by the name of what they run."""

    def __init__(self):
        self.steps = []

    def step(self, function, *args, **kwargs):
        self.steps.append(function.__name__)
        return super().step(function, *args, **kwargs)


def test_a_profile_sees_every_segment():
    """One until the first of three slots is free, and one for each that is filled."""
    requests, profile = _labelling_job(), _Counting()
    found = rollout.sample(
        PARAMS,
        requests,
        architecture=ARCHITECTURE,
        sampling=SAMPLING,
        ledger=Ledger(),
        profile=profile,
    )
    wanted, _ = _labelling_samples()
    for index, samples in found:
        np.testing.assert_array_equal(samples.tokens, wanted[index].tokens)
    assert set(profile.steps) == {"run_segment"}
    waiting = len(requests) - SAMPLING.trunks
    assert 2 <= len(profile.steps) <= 1 + waiting  # several may end in one
