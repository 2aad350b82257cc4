"""RL with process rewards (Sec. 5): each iteration samples, scores and updates.

An iteration is a function of the state and of its number: its problems are a row of a
permutation, and the sampler's keys come from a seed of the iteration. So
`train.loop.fit` resumes it bit for bit. Processes that train as one
(`distributed/collectives.py`) draw what a single one would: each samples and scores a
slice of the problems, and then all of them do the update.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from pav_jax import labels
from pav_jax.core.counts import round_up
from pav_jax.core.ledger import Ledger
from pav_jax.core.profile import Profile
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Params, Response
from pav_jax.distributed import collectives, mesh
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.rl import rewards
from pav_jax.rl import update as rl
from pav_jax.rl.monitor import RLMonitor
from pav_jax.rl.problem_counts import check_sizes
from pav_jax.rl.refresh import Refresher
from pav_jax.rl.rewards import Objective, Scored
from pav_jax.rl.update import RLState
from pav_jax.scores import score_responses
from pav_jax.tasks.problems import Problems
from pav_jax.train import loop
from pav_jax.train.batches import Batches
from pav_jax.train.scalars import OpenLog, open_none
from pav_jax.train.step import make_optimizer

_SHOWN = 4  # problems for which a measurement saves one response
_WIDTHS = 8  # most padded widths of a batch; each one is compiled


def count_correct(
    policy: Params,
    problems: Problems,
    indices: Sequence[int],
    *,
    temperature: float,
    count: int,
    seed: int,
) -> int:
    """How many of `count` responses to each of some problems are correct."""
    responses = labels.sample_responses(
        policy,
        problems,
        indices,
        count=count,
        seed=seed,
        sampling=labels.sampling_for(problems, temperature, branches=count),
        ledger=Ledger(),
    )
    return sum(response.correct for response in responses)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """One RL run: what it trains, on what, and where it writes.

    On a mesh of several processes each makes one, of the same arguments.

    Attributes:
      objective: the method.
      settings: `config.rl.training`: `steps`, `warmup_steps`, `learning_rate`,
        `final_learning_rate`, `weight_decay`, `clip_norm` of the optimizer;
        `value_learning_rate`; `problems` in an iteration and `samples` of each;
        `max_kl`, nats a token; `measure_every`, iterations, and `measure_samples` of
        each problem then; `min_accuracy`, a fraction of the initial policy's.
      train: the problems to train on.
      measured: the problems of the curves.
      validation: the problems whose accuracy may stop the run; the same object as
        `measured` if the curves are of them.
      initial: the policy to start from and stay near, on the mesh by `TRAIN` rules.
      verifier: predicts `Q^π`, or the value of `objective.prover`; None for a method
        that uses none. A frozen one is on this process's own mesh by `DECODE` rules;
        one to refresh, or for the baseline to start from, is where `initial` is.
      seed: of the problems and the draws.
      directory: gets the files of `train.loop.fit` and of `RLMonitor`.
      name: of the run, in messages.
      refresh: `config.rl.refresh`, for a method with `refresh_every`.
    """

    objective: Objective
    settings: ConfigDict
    train: Problems
    measured: Problems
    validation: Problems
    initial: Params
    verifier: Params | None
    seed: int
    directory: Path
    name: str
    refresh: ConfigDict | None = None

    def fit(
        self,
        *,
        open_log: OpenLog = open_none,
        profile: Profile = Profile(),  # noqa: B008
    ) -> RLState:
        """Trains to the last iteration, from the newest checkpoint if there is one.

        Args:
          open_log: opens the log that gets metrics and accuracies too.
          profile: of the iterations.

        Raises:
          UserError: an iteration or a refresh needs more problems than there are, or
            they cannot be split among the processes; or a metric is not finite, the
            policy went too far from the initial one, or its accuracy fell; names the
            iteration and the last checkpoint.
          Terminated: on SIGTERM, once the iterations done are saved.
          PeerStopped: another process got SIGTERM; likewise.
        """
        refresh = self.refresh if self.objective.refresh_every else None
        check_sizes(self.train, self.settings, refresh)
        optimizers, architecture = self._optimizers(), self.train.architecture
        samples = self.settings.samples
        update = rl.make_update(
            self.objective, optimizers, architecture=architecture, group=samples
        )
        return loop.fit(
            rl.init_state(
                self.initial,
                self.objective,
                optimizers,
                architecture=architecture,
                verifier=self.verifier,
            ),
            functools.partial(profile.step, self._iterate, update),
            steps=self.settings.steps,
            directory=self.directory,
            description=self.name,
            unit="iteration",
            ahead=0,
            log_every=1,
            shown="accuracy",
            monitor=RLMonitor(self.settings, self.directory, self.measure),
            open_log=open_log,
        )

    def _optimizers(self) -> rl.Optimizers:
        value = ConfigDict(self.settings)
        value.learning_rate = self.settings.value_learning_rate
        return make_optimizer(self.settings), make_optimizer(value)

    # One iteration.

    def _iterate(
        self, update, state: RLState, step: int
    ) -> tuple[RLState, Mapping[str, float]]:
        """Iteration `step`, from 0: the new state, and the metrics of all processes."""
        start = time.monotonic()
        ledger = Ledger()
        if self._is_refreshed(step):
            state = self._refresh(state, step, ledger)
        own = collectives.process_slice(self.settings.problems)
        policy, verifier = self._on_own_mesh(state)
        with collectives.local_mesh():
            scored = self.roll_out(policy, step, ledger, verifier=verifier, own=own)
        del policy, verifier  # the update needs their memory
        longest, counts = self._count(scored, ledger)
        batch = rewards.make_batch(
            scored.responses,
            scored.ends,
            scored.process,
            length=self._width(longest),
        )
        state, metrics = update(state, self.initial, collectives.global_batch(batch))
        metrics = {name: float(x) for name, x in jax.device_get(metrics).items()}
        seconds = time.monotonic() - start
        responses = counts.pop("responses")
        return state, metrics | {
            "accuracy": counts.pop("correct") / responses,
            "response_steps": counts.pop("steps") / responses,
            "response_tokens": counts.pop("tokens") / responses,
            **counts,
            "seconds": seconds,
            "tokens_per_second": counts["decoded"] / seconds,
        }

    def _on_own_mesh(self, state: RLState) -> tuple[Params, Params | None]:
        """The current policy and verifier, on this process's own mesh."""
        policy = collectives.gather_params(state.policy)
        if state.verifier is None:
            return policy, self.verifier
        return policy, collectives.gather_params(state.verifier)

    def _count(self, scored: Scored, ledger: Ledger) -> tuple[int, dict[str, int]]:
        """The longest prompt and response together, and sums, over all processes."""
        responses = scored.responses
        tokens = sum(len(r.tokens) for r in responses)
        counts = {
            "responses": len(responses),
            "correct": sum(r.correct for r in responses),
            "steps": sum(map(len, scored.ends)),
            "tokens": tokens,
            "decoded": ledger.decoded,
            "prefilled": ledger.prefilled,
            "scored": ledger.scored,
            "trained": ledger.trained + tokens,
        }
        longest = max(len(r.prompt) + len(r.tokens) for r in responses)
        # All wait here for the slowest, before they compute as one.
        rows = collectives.all_gather([longest, *counts.values()])
        sums = rows[:, 1:].sum(axis=0, dtype=np.int64).tolist()
        return int(rows[:, 0].max()), dict(zip(counts, sums, strict=True))

    def _width(self, longest: int) -> int:
        """T of a batch: of few widths, the first that holds the longest response."""
        limits = self.train.config.limits
        most = limits.max_prompt_tokens + limits.max_tokens
        unit = -(-most // _WIDTHS)
        return min(most, round_up(longest, unit))

    def _is_refreshed(self, step: int) -> bool:
        every = self.objective.refresh_every
        return bool(every) and step > 0 and step % every == 0

    def _refresh(self, state: RLState, step: int, ledger: Ledger) -> RLState:
        seed = derive(self.seed, Stream.RL_REFRESH, step)
        policy = collectives.gather_params(state.policy)
        verifier = self._refresher(state.verifier, policy, seed=seed, ledger=ledger)
        return dataclasses.replace(state, verifier=verifier)

    @functools.cached_property
    def _refresher(self) -> Refresher:
        return Refresher(self.train, self.refresh)

    # Responses and their rewards.

    def roll_out(
        self,
        policy: Params,
        step: int,
        ledger: Ledger,
        *,
        verifier: Params | None = None,
        own: slice = slice(None),  # noqa: B008
    ) -> Scored:
        """Samples and scores what iteration `step`, from 0, trains on.

        Args:
          policy: on the active mesh, by `DECODE` rules.
          step: the iteration.
          ledger: counts are added to it.
          verifier: scores in place of the trainer's, if given.
          own: which of the iteration's problems.
        """
        responses = self._sample(policy, step, ledger, own)
        ends = [labels.step_ends(r.tokens, self.train.is_step_end) for r in responses]
        if not self.objective.has_step_rewards:
            nothing = [np.zeros(len(stops), np.float32) for stops in ends]
            return Scored(responses, ends, nothing, None)
        if self.objective.uses_verifier:
            verifier = verifier or self.verifier
            q, values = self._predict(verifier, responses, ends, ledger)
        else:
            q, values = self._estimate(policy, responses, step, ledger)
        process = [rewards.process_rewards(value, self.objective) for value in values]
        return Scored(responses, ends, process, q)

    def _sample(
        self, policy: Params, step: int, ledger: Ledger, own: slice
    ) -> list[Response]:
        samples = self.settings.samples
        batches = Batches(
            {"problem": np.arange(len(self.train))},
            batch_size=self.settings.problems,
            seed=derive(self.seed, Stream.RL_PROBLEMS),
        )
        problems = batches(step)["problem"].tolist()
        # A batch that reaches into the next epoch may have a problem twice. Of the
        # whole batch, so that what is drawn does not depend on the processes.
        firsts = [
            samples * problems[:place].count(problem)
            for place, problem in enumerate(problems)
        ]
        problems, firsts = problems[own], firsts[own]
        shards = mesh.row_shards(jax.sharding.get_mesh())
        return labels.sample_responses(
            policy,
            self.train,
            problems,
            count=samples,
            seed=derive(self.seed, Stream.RL_RESPONSES, step),
            sampling=SamplingConfig(
                max_tokens=self.train.config.limits.max_tokens,
                end_ids=self.train.tokenizer.end_ids,
                trunks=round_up(len(problems), shards),
                rows=samples,
            ),
            ledger=ledger,
            firsts=firsts,
        )

    def _predict(
        self,
        verifier: Params,
        responses: list[Response],
        ends: list[np.ndarray],
        ledger: Ledger,
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What a verifier predicts of every prefix (`Scored.q`), and `Q^μ`, which is
        BoK of it."""
        q = score_responses(
            verifier,
            responses,
            [np.append(0, stops) for stops in ends],
            architecture=self.train.architecture,
            ledger=ledger,
        )
        values = [
            rewards.predicted_values(x, response.correct, self.objective)
            for x, response in zip(q, responses, strict=True)
        ]
        return q, values

    def _estimate(
        self, policy: Params, responses: list[Response], step: int, ledger: Ledger
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """`Q^π` and `Q^μ` of every prefix, by continuations of the policy."""
        n_mc = self.objective.n_mc
        steps = labels.label_steps(
            policy,
            self.train,
            responses,
            n_mc=n_mc,
            seed=derive(self.seed, Stream.RL_LABELS, step),
            sampling=labels.sampling_for_labels(self.train, 1.0, n_mc=n_mc),
            ledger=ledger,
        )
        values = [rewards.sampled_values(x, self.objective) for x in steps]
        return [x.q for x in steps], values

    # Measurements.

    def measure(self, state: RLState) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Accuracies of all processes: "greedy" and "sampled" of the measured problems,
        and "validation", sampled; and in the primary process, some training responses
        with the rewards of their steps."""
        samples = self.settings.measure_samples
        policy, verifier = self._on_own_mesh(state)
        on_measured = self._counter(policy, self.measured)
        on_validation = self._counter(policy, self.validation)
        with collectives.local_mesh():
            greedy = on_measured(temperature=0.0, count=1)
            sampled = on_measured(temperature=1.0, count=samples)
            validation = sampled
            if self.validation is not self.measured:
                validation = on_validation(temperature=1.0, count=samples)
            shown = []
            if collectives.is_primary():
                shown = self._examples(policy, int(state.step), verifier)
        counts = collectives.all_gather([greedy, sampled, validation]).sum(axis=0)
        greedy, sampled, validation = counts.tolist()
        accuracies = {
            "greedy": greedy / len(self.measured),
            "sampled": sampled / (len(self.measured) * samples),
            "validation": validation / (len(self.validation) * samples),
        }
        return accuracies, shown

    def _counter(self, policy: Params, problems: Problems) -> Callable[..., int]:
        """`count_correct` of this process's slice of some problems."""
        own = collectives.process_slice(len(problems))
        return functools.partial(
            count_correct,
            policy,
            problems,
            range(len(problems))[own],
            seed=derive(self.seed, Stream.RL_MEASURE),
        )

    def _examples(
        self, policy: Params, step: int, verifier: Params | None
    ) -> list[dict[str, Any]]:
        """A response to each of the first few problems of iteration `step`."""
        # No fewer problems than an iteration has here: another grid would be compiled.
        most = max(_SHOWN, collectives.process_slice(self.settings.problems).stop)
        scored = self.roll_out(
            policy, step, Ledger(), verifier=verifier, own=slice(most)
        )
        places = range(0, len(scored.responses), self.settings.samples)
        return [scored.example(place, self.train) for place in places[:_SHOWN]]
