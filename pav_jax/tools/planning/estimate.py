"""How long a step takes and an experiment costs: modelled, not measured.

Times are ranges. The low end lets computing, memory and links work at once, each at
what the maker publishes; the high end lets them wait for each other, each at the
fraction of it that large programs reach.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from pav_jax.pipeline.data import pretraining_of
from pav_jax.pipeline.other_provers import Prover, provers_of
from pav_jax.tools.planning import amounts, steps
from pav_jax.tools.planning.topology import Topology

_REACHED = {"flops": 0.4, "bandwidth": 0.6, "link": 0.5}
# A response is at most `max_tokens` long, and at least about this fraction of it.
_SHORTEST = 0.3

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
      config: the experiment's.
      answers: of `compiled.compile_step` for each step function; all fit.
      topology: the slice that all stages run on.
    """

    def __init__(
        self,
        config: ConfigDict,
        answers: dict[str, dict[str, Any]],
        topology: Topology,
    ):
        self.stages: list[Stage] = []
        self.config = config
        self._answers, self._chips = answers, topology.chips
        self._seconds = {name: step_seconds(a, topology) for name, a in answers.items()}

    def trains(
        self, name: str, step: str, count: int, batch_size: int | None = None
    ) -> None:
        """A stage of `count` training steps; of the compiled batch by default."""
        compiled = steps.rows(step, self.config)
        times = count * (batch_size or compiled) / compiled
        self._add(name, f"{count:,} steps", times, times, step)

    def fine_tunes(self, name: str, sft: ConfigDict) -> None:
        """A stage of fine-tuning."""
        self.trains(name, "sft", sft.steps, sft.batch_size)

    def samples(
        self,
        name: str,
        what: str,
        tokens: float,
        step: str = "decode",
        least: float = _SHORTEST,
    ) -> None:
        """A stage that samples at most so many tokens, and a fraction at least."""
        # Rows are refilled, so that nearly all of them are always at work.
        most = tokens / self._answers[step]["tokens"]
        work = f"{what}, at most {tokens / 1e6:,.1f} M tokens"
        self._add(name, work, least * most, most, step)

    def responds(self, name: str, count: int) -> None:
        """A stage that samples so many responses."""
        tokens = count * self.config.limits.max_tokens
        self.samples(name, f"{count:,} responses", tokens)

    def labels(self, name: str, prefixes: int, n_mc: int, responses: int = 0) -> None:
        """A stage that continues prefixes, and samples responses, some of them its own.

        Args:
          name: of the stage.
          prefixes: all those of some responses.
          n_mc: continuations of each.
          responses: that are sampled as well.
        """
        limits = self.config.limits
        # A continuation of the h-th of H prefixes has the rest of the response left.
        rest = (limits.max_steps + 1) / (2 * limits.max_steps)
        what = f"{prefixes * n_mc:,} continuations of {prefixes:,} prefixes"
        if responses:
            what = f"{responses:,} responses, {what}"
        tokens = (responses + prefixes * n_mc * rest) * limits.max_tokens
        self.samples(name, what, tokens)

    def searches(self, name: str, candidates: int, least: float = _SHORTEST) -> None:
        """A stage that searches with so many candidate beams."""
        tokens = candidates * self.config.limits.max_tokens
        self.samples(name, f"{candidates:,} candidate beams", tokens, "search", least)

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
      The stages that train or sample much, in order, but for those of
      `amounts.not_counted`.

    Raises:
      UserError: the config takes all problems of a task, and how many is not known.
    """
    work = _Work(config, answers, topology)
    if "pretraining" in config:
        own = pretraining_of(config)
        work.fine_tunes("pretraining", own.sft)
    work.fine_tunes("sft", config.sft)
    _label(work)
    _train_verifiers(work, "prm")
    for prover in provers_of(config):
        _follow(work, prover)
    _train_verifiers(work, "orm")
    _evaluate(work)
    # One of each problem is greedy.
    samples = amounts.problems(config, "test") * (config.search.samples + 1)
    work.responds("samples", samples)
    work.searches("search", amounts.searched(config))
    if "rl" in config:
        _improve(work)
    return work.stages


def _label(work: _Work) -> None:
    """Adds rollouts, and labels of those whose steps are labelled."""
    config = work.config
    problems = amounts.problems(config, "labels")
    if not config.labels.get("from") or "rl" in config or "provers" in config:
        work.responds("rollouts", problems * config.rollouts.n_orm)
    if config.labels.get("from"):
        return
    prefixes = problems * config.rollouts.n_cov * config.limits.max_steps
    work.labels("labels", prefixes, config.labels.n_mc)
    if n_mc := config.labels.get("first_pit", {}).get("n_mc"):
        # The states of a seed rollout, and prefixes of the wrong responses from them.
        prefixes *= 1 + config.labels.first_pit.responses
        work.labels("labels: first pits", prefixes, n_mc)


def _train_verifiers(work: _Work, name: str) -> None:
    """Adds stage `prm` or `orm`, with its earlier rounds; `prm` with the searches."""
    settings = work.config.verifier.get("on_search", {})
    optimizer, rounds = work.config.verifier[name], settings.get("rounds", 0)
    for number in range(rounds + 1):
        if number and name == "prm":
            beams = settings.problems * settings.beams
            work.searches(f"beams-{number}", beams * work.config.search.candidates)
            labelled = min(settings.labelled, settings.beams) * settings.problems
            prefixes = labelled * work.config.limits.max_steps
            work.labels(f"beams-{number}: labels", prefixes, settings.n_mc)
        count = settings.steps if number else optimizer.steps
        stage = name if number == rounds else f"{name}-{number}"
        work.trains(stage, "verifier", count, optimizer.batch_size)


def _follow(work: _Work, prover: Prover) -> None:
    """Adds a prover's policy, its labels and its verifier, which is of π's size."""
    config = work.config
    if amounts.is_compiled(prover, config):
        if not prover.policy:
            work.fine_tunes(f"policy-{prover.name}", prover.changed(config).sft)
        problems = amounts.problems(config, "labels")
        own = problems * prover.from_prover
        prefixes = problems * prover.from_policy + own
        prefixes *= config.limits.max_steps
        work.labels(f"labels-{prover.name}", prefixes, prover.n_mc, own)
    optimizer = config.verifier.prm
    work.trains(f"prm-{prover.name}", "verifier", optimizer.steps)


def _evaluate(work: _Work) -> None:
    """Adds responses to validation problems, and near-exact values of some of them."""
    settings = work.config.evaluation
    problems = amounts.problems(work.config, "validation")
    some = min(problems, settings.oracle_problems) * min(settings.n, settings.oracle_n)
    prefixes = some * work.config.limits.max_steps
    responses = problems * settings.n
    work.labels("evaluation", prefixes, settings.oracle_n_mc, responses)


def _improve(work: _Work) -> None:
    """Adds what Sec. 5 takes."""
    config, rl = work.config, work.config.rl
    training, seeds, most = rl.training, len(rl.seeds), config.limits.max_steps
    work.fine_tunes("rft", rl.rft)
    if terms := rl.get("provers"):
        known = [p for p in provers_of(config) if amounts.is_compiled(p, config)]
        responses = terms.problems * terms.responses
        # By the policy that RL starts from, by the base policy, and by each prover.
        prefixes = (2 + len(known)) * responses * most
        work.labels("provers", prefixes, terms.n_mc, responses)
    methods, batch = list(rl.methods.values()), training.problems * training.samples
    runs = len(methods) * seeds
    work.responds("rl: sampling", runs * training.steps * batch)
    for name, method in rl.methods.items():
        if n_mc := method.get("n_mc"):
            prefixes = seeds * training.steps * batch * most
            work.labels(f"rl: labels of {name}", prefixes, n_mc)
    work.trains("rl: updates", "rl", runs * training.steps)
    times = amounts.measurements(training)
    work.responds("rl: measuring", runs * times * amounts.measured(config))
    if times := seeds * amounts.refreshes(methods, training.steps):
        fresh, responses = rl.refresh, times * rl.refresh.problems
        work.labels("rl: refreshing", responses * most, fresh.n_mc, responses)
        count = times * fresh.steps
        work.trains("rl: refreshed", "verifier", count, fresh.batch_size)
    work.responds("improvement", amounts.improved(config))
    if candidates := amounts.searched_unsolved(config):
        # Of all problems at most; how many SFT never solves is not known.
        work.searches("improvement: unsolved", candidates, least=0.0)
