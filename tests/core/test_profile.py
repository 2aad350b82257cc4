"""Profiles: which steps are in the trace, and what is said of it."""

import jax
import jax.numpy as jnp
import pytest

from pav_jax.core.profile import Profile, Trace


@jax.jit
def _double(x):
    return x * 2


def _traced(folder) -> list[int]:
    """The numbers of the steps in the only trace, as jax reads it."""
    (path,) = folder.glob("plugins/profile/*/*.xplane.pb")
    return [
        dict(event.stats)["step_num"]
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes
        for line in plane.lines
        for event in line.events
        if event.name == "sft"
    ]


def _run(profile, steps):
    x = jnp.ones(3)
    for _ in range(steps):
        x = profile.step(_double, x)
    profile.close()
    return x


@pytest.mark.parametrize(
    ("steps", "traced", "words"),
    [
        (7, [3, 4, 5], "a profile of steps 3 to 5 of its loop"),
        (4, [3, 4], "a profile of steps 3 to 4 of its loop"),  # the loop ended
    ],
)
def test_what_is_traced(tmp_path, steps, traced, words):
    said = []
    x = _run(Trace(tmp_path / "sft", "sft", 3, said.append), steps)
    assert x.tolist() == [2.0**steps] * 3
    assert _traced(tmp_path / "sft") == traced
    (line,) = said
    assert line.startswith(words) and f"xprof --logdir={tmp_path}/sft " in line


def test_a_loop_too_short(tmp_path):
    said = []
    _run(Trace(tmp_path / "sft", "sft", 3, said.append), 2)
    assert not list(tmp_path.iterdir())
    assert said[0].startswith("no profile, since its loop had no more than 2 steps")


def test_a_stage_without_a_loop_says_nothing(tmp_path):
    said = []
    _run(Trace(tmp_path / "data", "data", 3, said.append), 0)
    assert not said and not list(tmp_path.iterdir())


def test_a_step_that_fails_leaves_no_trace_open(tmp_path):
    profile = Trace(tmp_path / "sft", "sft", 3, print)
    with pytest.raises(ZeroDivisionError):
        for _ in range(3):
            profile.step(lambda x: 1 / x, 1 if profile._begun < 2 else 0)
    profile.close()
    _run(Trace(tmp_path / "again", "sft", 1, print), 3)
    assert _traced(tmp_path / "again") == [3]


def test_without_a_trace_a_step_is_a_call():
    assert Profile().step(divmod, 7, 2) == (3, 1)
    assert not Profile.is_on and Trace.is_on
