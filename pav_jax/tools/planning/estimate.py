"""How long a step takes and an experiment costs: modelled, not measured.

Times are ranges. The low end lets computing, memory and links work at once, each at
what the maker publishes; the high end lets them wait for each other, each at the
fraction of it that large programs reach.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.tools.planning.topology import Topology

_REACHED = {"flops": 0.4, "bandwidth": 0.6, "link": 0.5}
# A response is at most `max_tokens` long, and at least about this fraction of it.
_SHORTEST = 0.3

# Training problems of published tasks: MATH less MATH-500, GSM8K.
_PUBLISHED = {"math": 12_000, "gsm8k": 7_473}

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Stage:
    """What one stage of an experiment takes.

    Attributes:
      name: of the stage.
      work: what it does, in words.
      hours: (low, high), on the slice.
      chip_hours: (low, high).
    """

    name: str
    work: str
    hours: Range
    chip_hours: Range


def step_seconds(answer: dict[str, Any], topology: Topology) -> Range:
    """Seconds of one step: of training, or of a token in every row of the engine.

    Of search, a token in every row, a pass of the verifier and a stretch of copying.
    The last two come once in several tokens, so that this is up to twice too long.

    Args:
      answer: of `compiled.compile_step`, for a step that fits.
      topology: the slice.
    """
    chip = topology.chip
    # Arguments are read and written once, and what is temporary as well.
    moved = sum(answer["parts"].values()) + 2 * answer["temporaries"]
    if "optimizer" in answer["parts"]:
        moved += answer["parts"]["weights"] + answer["parts"]["optimizer"]
    times = {
        "flops": answer["flops"] / topology.devices / chip.flops,
        "bandwidth": moved / chip.bandwidth,
        # Both directions of one ring.
        "link": sum(answer["collectives"].values()) / (2 * chip.link),
    }
    return max(times.values()), sum(times[name] / _REACHED[name] for name in times)


def tokens_per_second(answer: dict[str, Any], topology: Topology) -> Range:
    """Tokens trained or sampled a second by the whole slice, (low, high)."""
    low, high = step_seconds(answer, topology)
    return answer["tokens"] / high, answer["tokens"] / low


class _Work:
    """Collects the stages of an experiment, with the hours that each takes.

    Args:
      answers: of `compiled.compile_step` for each step function; all fit.
      topology: the slice that all stages run on.
    """

    def __init__(self, answers: dict[str, dict[str, Any]], topology: Topology):
        self.stages: list[Stage] = []
        self._answers, self._chips = answers, topology.chips
        self._seconds = {name: step_seconds(a, topology) for name, a in answers.items()}

    def trains(self, name: str, step: str, count: int) -> None:
        """A stage of `count` training steps."""
        self._add(name, f"{count:,} steps", count, count, step)

    def samples(
        self, name: str, what: str, tokens: float, step: str = "decode"
    ) -> None:
        """A stage that samples at most so many tokens."""
        # Rows are refilled, so that nearly all of them are always at work.
        most = tokens / self._answers[step]["tokens"]
        work = f"{what}, at most {tokens / 1e6:,.1f} M tokens"
        self._add(name, work, _SHORTEST * most, most, step)

    def _add(self, name: str, work: str, low: float, high: float, step: str) -> None:
        seconds = self._seconds[step]
        hours = low * seconds[0] / 3600, high * seconds[1] / 3600
        chip_hours = self._chips * hours[0], self._chips * hours[1]
        self.stages.append(Stage(name, work, hours, chip_hours))


def stages(
    config: ConfigDict, answers: dict[str, dict[str, Any]], topology: Topology
) -> list[Stage]:
    """What each stage takes.

    Args:
      config: the experiment's.
      answers: of `compiled.compile_step` for each step function; all fit.
      topology: the slice that all stages run on.

    Returns:
      The stages that train or sample much, in order.
    """
    work = _Work(answers, topology)
    problems = {
        split: _problems(config, split) for split in ("labels", "validation", "test")
    }
    search, most = config.search, config.limits.max_tokens
    work.trains("sft", "sft", config.sft.steps)
    if not config.labels.get("from") or "rl" in config or "provers" in config:
        responses = problems["labels"] * config.rollouts.n_orm
        work.samples("rollouts", f"{responses:,} responses", responses * most)
    if not config.labels.get("from"):
        _label(work, config, problems["labels"])
    work.trains("prm", "verifier", config.verifier.prm.steps)
    work.trains("orm", "verifier", config.verifier.orm.steps)
    samples = problems["test"] * search.samples
    work.samples("samples", f"{samples:,} responses", samples * most)
    beams = problems["test"] * 2 * sum(search.beams)
    beams += problems["validation"] * len(search.alphas) * search.alpha_beams
    beams *= search.candidates
    work.samples("search", f"{beams:,} candidate beams", beams * most, "search")
    if "rl" in config:
        training = config.rl.training
        runs = len(config.rl.methods) * len(config.rl.seeds) * training.steps
        drawn = runs * training.problems * training.samples
        work.samples("rl: sampling", f"{drawn:,} responses", drawn * most)
        work.trains("rl: updates", "rl", runs)
    return work.stages


def _label(work: _Work, config: ConfigDict, problems: int) -> None:
    """Adds what the labels of seed rollouts of so many problems take."""
    limits, most = config.limits, config.limits.max_tokens
    prefixes = problems * config.rollouts.n_cov * limits.max_steps
    # A continuation of the h-th of H prefixes has the rest of the response left.
    rest = (limits.max_steps + 1) / (2 * limits.max_steps)
    work.samples(
        "labels",
        f"{prefixes * config.labels.n_mc:,} continuations of {prefixes:,} prefixes",
        prefixes * config.labels.n_mc * most * rest,
    )
    if n_mc := config.labels.get("first_pit", {}).get("n_mc"):
        # The states of a seed rollout, and prefixes of the wrong responses from them.
        prefixes *= 1 + config.labels.first_pit.responses
        work.samples(
            "labels: first pits",
            f"{prefixes * n_mc:,} continuations of {prefixes:,} prefixes",
            prefixes * n_mc * most * rest,
        )


def _problems(config: ConfigDict, split: str) -> int:
    """Problems of a split, also where the config takes all of a published task's."""
    if config.problems[split] is not None:
        return config.problems[split]
    if config.task.name not in _PUBLISHED:
        raise UserError(
            f"config.problems.{split} is None, which means all, and how many that is"
            " cannot be known without the data; give a number"
        )
    held_out = int(_PUBLISHED[config.task.name] * config.task.validation_fraction)
    if split == "validation":
        return held_out
    return _PUBLISHED[config.task.name] - held_out
