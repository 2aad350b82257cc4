"""The RL loop: sample, score, update; measures, saves, resumes and stops.

Everything that an iteration depends on is a function of the state and of how many
came before: the problems are a row of a permutation, the sampler's keys are folded
from a seed of the iteration. So a run that was interrupted goes on to the same bits,
and processes that train as one (`collectives.py`) draw what one would: each samples and
scores its share of the problems, and all of them do the update.
"""

import contextlib
import dataclasses
import functools
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from pav_jax import labels
from pav_jax import verifier as verifier_lib
from pav_jax.core.errors import UserError
from pav_jax.core.ledger import Ledger
from pav_jax.core.progress import progress
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Params, Response
from pav_jax.distributed import collectives, mesh, signals
from pav_jax.distributed.agreement import Agreement, Word
from pav_jax.distributed.collectives import all_gather
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.rl import update as rl
from pav_jax.rl.refresh import Refresher
from pav_jax.rl.update import Objective, RLState
from pav_jax.storage.checkpoints import Checkpoints
from pav_jax.tasks.problems import Problems
from pav_jax.train.batches import Batches
from pav_jax.train.events import Events
from pav_jax.train.loop import forget_after
from pav_jax.train.step import make_optimizer

_SAVE_EVERY = 30.0  # seconds: what a kill may cost
_SHOWN = 4  # problems, a response to each of which is written down at a measurement
_WIDTHS = 8  # of batches, at most: each is a compilation


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
class Scored:
    """Responses of one iteration, and what their steps are paid.

    Attributes:
      responses: those to one problem side by side.
      ends: response tokens up to the end of each step, int `[H]` for each.
      process: the process reward of each step, float32 `[H]` for each.
      q: `Q^π` of the prefixes, as the verifier or continuations have it, float32
        `[H + 1]` for each; None where steps are not paid.
    """

    responses: list[Response]
    ends: list[np.ndarray]
    process: list[np.ndarray]
    q: list[np.ndarray] | None


@dataclasses.dataclass(frozen=True)
class Trainer:
    """One RL run: what it trains, on what, and where it writes.

    On a mesh of several processes all make one of the same arguments.

    Attributes:
      objective: the method.
      settings: `steps`, `warmup_steps`, `learning_rate`, `final_learning_rate`,
        `weight_decay`, `clip_norm` of the optimizer; `value_learning_rate`; `problems`
        and `samples` of each in an iteration; `max_kl`, nats a token; `measure_every`,
        iterations, and `measure_samples` of each problem then; `min_accuracy`, a part
        of the initial policy's.
      train: the problems to train on.
      test: the problems to measure on.
      initial: the policy to start from and stay near, where training has it.
      verifier: predicts `Q^π`; None for a method that reads none. Where sampling has it
        if it is frozen, on the process's own mesh; else where training has it.
      seed: names problems and draws.
      directory: gets `checkpoints/`, `metrics.jsonl`, `accuracy.jsonl` and
        `responses.jsonl`; process 0 writes the last three.
      name: what messages call the run.
      refresh: `Refresher`'s settings, where the method has `refresh_every`.
    """

    objective: Objective
    settings: ConfigDict
    train: Problems
    test: Problems
    initial: Params
    verifier: Params | None
    seed: int
    directory: Path
    name: str
    refresh: ConfigDict | None = None

    def fit(self) -> RLState:
        """Trains to the last iteration, from the newest checkpoint if there is one.

        Raises:
          UserError: the loss stopped being finite, the policy went too far from the
            initial one, or its accuracy fell; names the iteration and the last
            checkpoint before it. Or the problems of an iteration cannot be shared out.
          Terminated: on SIGTERM, once the iterations done are saved.
          PeerStopped: another process got SIGTERM; likewise.
        """
        self._check_shares()
        optimizers = self._optimizers()
        update = rl.make_update(
            self.objective,
            optimizers,
            architecture=self.train.architecture,
            group=self.settings.samples,
        )
        state = rl.init_state(
            self.initial,
            self.objective,
            optimizers,
            architecture=self.train.architecture,
            verifier=self.verifier,
        )
        with Checkpoints(self.directory / "checkpoints") as checkpoints:
            state = checkpoints.restore(state) or state
            return self._loop(state, update, checkpoints)

    def _check_shares(self) -> None:
        processes = collectives.process_count()
        if (problems := self.settings.problems) % processes:
            raise UserError(
                f"config.rl.training.problems={problems} has to be a multiple of the"
                f" {processes} processes, each of which samples as many"
            )
        if self.objective.refresh_every and self.refresh.problems < processes:
            raise UserError(
                f"config.rl.refresh.problems={self.refresh.problems} must be at least"
                f" one for each of {processes} processes"
            )

    def _optimizers(self):
        value = ConfigDict(self.settings)
        value.learning_rate = self.settings.value_learning_rate
        return make_optimizer(self.settings), make_optimizer(value)

    def _loop(self, state: RLState, update, checkpoints: Checkpoints) -> RLState:
        first, steps = int(state.step), self.settings.steps
        cut = all_gather(collectives.is_primary() and self._forget_after(first))[0]
        accuracies = self._accuracies()
        if cut:
            accuracies.append(self._measure(state)["sampled"])
        saved, at = time.monotonic(), first
        agree, word = Agreement(late=0), Word.GO_ON
        bar = progress(
            total=steps,
            initial=first,
            unit="iteration",
            desc=self.name,
            disable=not collectives.is_primary(),
        )
        events = Events(self.directory if collectives.is_primary() else None, first)
        with bar, contextlib.closing(events), signals.deferred() as stopped:
            for step in range(first, steps):
                state, metrics = self._iterate(state, update)
                bar.set_postfix(accuracy=f"{metrics['accuracy']:.2f}")
                bar.update()
                done = step + 1
                if problem := self._trouble(metrics):
                    raise self._stop(problem, done, at)
                self._append("metrics", {"step": done, **metrics})
                events.write(done, metrics)
                if self._is_measured(done):
                    row = self._measure(state)
                    events.write(done, row)
                    accuracies.append(row["sampled"])
                    if problem := self._fall(accuracies):
                        raise self._stop(problem, done, at)
                due = time.monotonic() - saved > _SAVE_EVERY
                word = Word.SAVE if due else Word.GO_ON
                word = agree(Word.LEAVE if stopped() else word)
                if word is not Word.GO_ON:
                    checkpoints.save(done, state)
                    saved, at = time.monotonic(), done
                if word is Word.LEAVE:
                    checkpoints.close()
                    break
        if word is Word.LEAVE:
            raise signals.PeerStopped("another process was terminated; all have saved")
        return state

    def _forget_after(self, step: int) -> bool:
        """Drops what was written of later iterations, and says whether that step's
        measurement is to be done again."""
        for name in ("metrics", "accuracy"):
            forget_after(self._file(name), step)
        # The accuracy is the last that is written of a measurement.
        measured = self._file("accuracy").read_text().splitlines()
        cut = self._is_measured(step) and not any(
            json.loads(line)["step"] == step for line in measured
        )
        forget_after(self._file("responses"), step - 1 if cut else step)
        return cut

    def _is_measured(self, step: int) -> bool:
        return step % self.settings.measure_every == 0 or step == self.settings.steps

    def _trouble(self, metrics: dict[str, float]) -> str:
        """Why the run must stop, if it must."""
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            return f"{', '.join(bad)} stopped being finite"
        if metrics["kl"] > self.settings.max_kl:
            return (
                f"the KL divergence to the initial policy is {metrics['kl']:.3g} nats a"
                f" token, above max_kl={self.settings.max_kl:g},"
            )
        return ""

    def _accuracies(self) -> list[float]:
        """Those measured before, of sampled responses, the initial policy's first."""
        rows = map(json.loads, self._file("accuracy").read_text().splitlines())
        return [row["sampled"] for row in rows]

    def _fall(self, accuracies: list[float]) -> str:
        """Why the run must stop, if what was measured says so.

        Twice in a row: one measurement of few problems may be chance.
        """
        first, *rest = accuracies
        if len(rest) > 1 and max(rest[-2:]) < self.settings.min_accuracy * first:
            return (
                f"accuracy has fallen to {rest[-2]:.3g} and {rest[-1]:.3g}, below"
                f" min_accuracy={self.settings.min_accuracy:g} of the initial policy's"
                f" {first:.3g},"
            )
        return ""

    def _stop(self, problem: str, step: int, saved: int) -> UserError:
        last = f"of iteration {saved}, in {self.directory / 'checkpoints'}"
        return UserError(
            f"{self.name}: {problem} at iteration {step}; the last checkpoint before"
            f" that is {last if saved else 'the initial policy'}. Lower the learning"
            " rate or alpha, or raise kl"
        )

    # One iteration.

    def _iterate(self, state: RLState, update) -> tuple[RLState, dict[str, float]]:
        start = time.monotonic()
        ledger = Ledger()
        if self._is_refreshed(state):
            state = self._refresh(state, ledger)
        own, step = collectives.process_slice(self.settings.problems), int(state.step)
        policy, verifier = self._fetch(state)
        with collectives.local_mesh():
            scored = self.roll_out(policy, step, ledger, verifier=verifier, own=own)
        del policy, verifier  # which the update needs the memory of
        longest, counts = self._count(scored, ledger)
        batch = rl.make_batch(
            scored.responses,
            scored.ends,
            scored.process,
            length=self._width(longest),
        )
        state, found = update(state, self.initial, collectives.global_batch(batch))
        metrics = {name: float(x) for name, x in jax.device_get(found).items()}
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

    def _fetch(self, state: RLState) -> tuple[Params, Params | None]:
        """Policy and verifier as they are, on this process's own mesh."""
        if state.verifier is None:
            return collectives.gather_params(state.policy), self.verifier
        return collectives.gather_params(state.policy), collectives.gather_params(
            state.verifier
        )

    def _count(self, scored: Scored, ledger: Ledger) -> tuple[int, dict[str, int]]:
        """The longest prompt and response, and sums, over all processes."""
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
        told = all_gather([longest, *counts.values()])
        sums = told[:, 1:].sum(axis=0, dtype=np.int64).tolist()
        return int(told[:, 0].max()), dict(zip(counts, sums, strict=True))

    def _width(self, longest: int) -> int:
        """Of a batch: few widths, and none much wider than the longest response."""
        limits = self.train.config.limits
        most = limits.max_prompt_tokens + limits.max_tokens
        unit = -(-most // _WIDTHS)
        return min(most, -(-longest // unit) * unit)

    def _is_refreshed(self, state: RLState) -> bool:
        every, step = self.objective.refresh_every, int(state.step)
        return bool(every) and step > 0 and step % every == 0

    def _refresh(self, state: RLState, ledger: Ledger) -> RLState:
        seed = derive(self.seed, Stream.RL_REFRESH, int(state.step))
        policy = collectives.gather_params(state.policy)
        verifier = self._refresher(state.verifier, policy, seed=seed, ledger=ledger)
        return dataclasses.replace(state, verifier=verifier)

    @functools.cached_property
    def _refresher(self) -> Refresher:
        return Refresher(self.train, self.refresh)

    def roll_out(
        self,
        policy: Params,
        step: int,
        ledger: Ledger,
        *,
        verifier: Params | None = None,
        own: slice = slice(None),  # noqa: B008
    ) -> Scored:
        """Samples and scores what iteration `step`, counted from 0, trains on.

        `verifier` is one to score by in place of the trainer's; `own` are the problems
        of the iteration to do that for.
        """
        settings = self.settings
        batches = Batches(
            {"problem": np.arange(len(self.train))},
            batch_size=settings.problems,
            seed=derive(self.seed, Stream.RL_PROBLEMS),
        )
        problems = batches(step)["problem"][own].tolist()
        share = mesh.row_shards(jax.sharding.get_mesh())
        responses = labels.sample_responses(
            policy,
            self.train,
            problems,
            count=settings.samples,
            seed=derive(self.seed, Stream.RL_RESPONSES, step),
            sampling=SamplingConfig(
                max_tokens=self.train.config.limits.max_tokens,
                end_ids=self.train.tokenizer.end_ids,
                trunks=-(-len(problems) // share) * share,
                rows=settings.samples,
            ),
            ledger=ledger,
        )
        ends = [labels.step_ends(r.tokens, self.train.is_step_end) for r in responses]
        if not self.objective.is_paid_by_step:
            nothing = [np.zeros(len(stops), np.float32) for stops in ends]
            return Scored(responses, ends, nothing, None)
        if self.objective.reads_verifier:
            q = verifier_lib.score_responses(
                verifier or self.verifier,
                responses,
                [np.append(0, stops) for stops in ends],
                architecture=self.train.architecture,
                ledger=ledger,
            )
            values = [
                rl.predicted_values(x, response.correct, self.objective)
                for x, response in zip(q, responses, strict=True)
            ]
        else:
            n_mc = self.objective.n_mc
            found = labels.label_steps(
                policy,
                self.train,
                responses,
                n_mc=n_mc,
                seed=derive(self.seed, Stream.RL_LABELS, step),
                sampling=labels.sampling_for(
                    self.train,
                    1.0,
                    branches=self.train.config.limits.max_steps * n_mc,
                ),
                ledger=ledger,
            )
            q = [x.q for x in found]
            values = [rl.sampled_values(x, self.objective) for x in found]
        process = [rl.process_rewards(value, self.objective) for value in values]
        return Scored(responses, ends, process, q)

    # What is written down.

    def _measure(self, state: RLState) -> dict[str, float]:
        """Test accuracy, and some responses with what their steps are paid."""
        settings, step = self.settings, int(state.step)
        own = collectives.process_slice(len(self.test))
        policy, verifier = self._fetch(state)
        count = functools.partial(
            count_correct,
            policy,
            self.test,
            range(len(self.test))[own],
            seed=derive(self.seed, Stream.RL_MEASURE),
        )
        with collectives.local_mesh():
            greedy = count(temperature=0.0, count=1)
            sampled = count(temperature=1.0, count=settings.measure_samples)
        if collectives.is_primary():
            # No fewer than it trains on: another grid would be compiled.
            most = max(_SHOWN, collectives.process_slice(settings.problems).stop)
            with collectives.local_mesh():
                scored = self.roll_out(
                    policy, step, Ledger(), verifier=verifier, own=slice(most)
                )
            for i in range(0, len(scored.responses), settings.samples)[:_SHOWN]:
                self._append("responses", {"step": step, **self._shown(scored, i)})
        greedy, sampled = all_gather([greedy, sampled]).sum(axis=0).tolist()
        problems = len(self.test)
        row = {
            "greedy": greedy / problems,
            "sampled": sampled / (problems * settings.measure_samples),
        }
        self._append("accuracy", {"step": step, **row})
        return row

    def _shown(self, scored: Scored, i: int) -> dict[str, Any]:
        response, ends = scored.responses[i], scored.ends[i]
        starts = np.append(0, ends[:-1])
        decode = self.train.tokenizer.decode
        steps = [
            {
                "text": decode(response.tokens[start:stop]).rstrip("\n"),
                "reward": float(scored.process[i][h]),
            }
            | ({} if scored.q is None else {"q": float(scored.q[i][h + 1])})
            for h, (start, stop) in enumerate(zip(starts, ends, strict=True))
        ]
        problem = self.train[response.problem]
        return {
            "prompt": problem.prompt.strip(),
            "answer": problem.answer,
            "correct": response.correct,
            "steps": steps,
        }

    def _file(self, name: str) -> Path:
        return self.directory / f"{name}.jsonl"

    def _append(self, name: str, row: dict[str, Any]) -> None:
        if collectives.is_primary():
            with self._file(name).open("a") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
