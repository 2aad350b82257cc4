"""Stages `policy-NAME` and `labels-NAME`: provers that are other policies (Sec. 3).

A prover μ is an entry of `config.provers`. Its continuations of step prefixes, mostly
of those that the base policy π wrote, label them with `Q^μ`; stage `prm-NAME` trains a
verifier on these labels, for search and RL with a `Q^μ` that is not made of `Q^π`.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from pav_jax import labels, policy
from pav_jax.core.errors import UserError
from pav_jax.core.seeds import Stream, derive
from pav_jax.core.types import Params, Response
from pav_jax.gemma import sizes
from pav_jax.pipeline.data import OWN, fine_tune_as, with_changes
from pav_jax.pipeline.runner import StageContext
from pav_jax.pipeline.shards import in_shards
from pav_jax.pipeline.training import together
from pav_jax.storage import records
from pav_jax.tasks.problems import Problems


@dataclasses.dataclass(frozen=True)
class Prover:
    """A prover that is another policy: an entry of `config.provers`.

    Attributes:
      name: of the entry.
      n_mc: continuations by μ of every step prefix.
      from_policy: responses of π to a problem, of those in stage `rollouts`, whose
        prefixes are labelled.
      from_prover: responses of μ itself, likewise.
      policy: the stage of this run that μ is, or the folder of a stage of another run
        with the same tokenizer. Without it, μ is fine-tuned as π is.
      task: fields of `config.task` that its demonstrations change.
      model: fields of `config.model` that differ.
      sft: fields of `config.sft` that differ.
    """

    name: str
    n_mc: int
    from_policy: int = 1
    from_prover: int = 0
    policy: str = ""
    task: ConfigDict | None = None
    model: ConfigDict | None = None
    sft: ConfigDict | None = None

    @classmethod
    def of(cls, config: ConfigDict, name: str) -> "Prover":
        """The entry `config.provers.NAME`.

        Raises:
          UserError: it has unknown fields, or its values do not go together.
        """
        where = f"config.provers.{name}"
        known = [field.name for field in dataclasses.fields(cls)][1:]
        given = config.provers[name]
        if unknown := sorted(set(given) - set(known)):
            raise UserError(
                f"{where} has an unknown field {unknown[0]!r}; there are"
                f" {', '.join(known)}"
            )
        if not name.isidentifier():
            raise UserError(
                f"{where} names stages and methods; a name has letters, digits and _,"
                " and starts with no digit"
            )
        if given.get("n_mc", 0) < 1:
            raise UserError(
                f"{where} needs n_mc, continuations of a step prefix, at least 1"
            )
        made = cls(name=name, **{key: given[key] for key in given})
        if made.from_policy + made.from_prover < 1:
            raise UserError(
                f"{where} labels nothing: from_policy and from_prover are both 0"
            )
        if made.from_policy > config.rollouts.n_orm:
            raise UserError(
                f"{where}.from_policy={made.from_policy} must be at most"
                f" config.rollouts.n_orm={config.rollouts.n_orm}, the responses of π"
            )
        if made.policy and (made.task or made.sft):
            raise UserError(
                f"{where}.policy={made.policy!r} is a policy as it is; task and sft are"
                " of one that is fine-tuned, so leave out either"
            )
        made.changed(config)  # raises where a field is misspelt
        return made

    @property
    def stream(self) -> int:
        """An index of its draws; other provers have others."""
        return zlib.crc32(self.name.encode())

    def fields(self, config: ConfigDict) -> tuple[str, ...]:
        """The config fields that say which policy its fine-tuning makes.

        Of the base policy's `model` and `sft` only those that it does not change, so
        that base policies of several sizes can share it (`--reuse`).
        """
        own = [key for key in OWN if getattr(self, key) is not None]
        shared = [
            f"{section}.{key}"
            for section in ("model", "sft")
            for key in config[section]
            if key not in (getattr(self, section) or {})
        ]
        return (*(f"provers.{self.name}.{key}" for key in own), *shared)

    def needs(self, stages: Sequence[str]) -> tuple[str, ...]:
        """The stage that its parameters are of, if it is one of `stages`."""
        if not self.policy:
            return (f"policy-{self.name}",)
        return (self.policy,) if self.policy in stages else ()

    def changed(self, config: ConfigDict) -> ConfigDict:
        """The sections `task`, `model` and `sft` of `config`, as they are for it."""
        changes = {key: getattr(self, key) for key in OWN}
        return with_changes(config, changes, f"config.provers.{self.name}")

    def load(
        self, context: StageContext, problems: Problems
    ) -> tuple[Params, Problems]:
        """Its parameters, and the same problems for its architecture.

        Raises:
          UserError: there is no such policy, or it is of another architecture.
        """
        model = self.changed(context.config).model
        architecture = sizes.from_config(model, problems.tokenizer.vocab_size)
        needed = self.needs(tuple(context.inputs))
        folder = context.input(needed[0]) if needed else Path(self.policy)
        if not (folder / "params").is_dir():
            raise UserError(
                f"config.provers.{self.name}.policy={self.policy!r} is neither a stage"
                " of this run (sft, or the policy of an earlier prover), nor the folder"
                " of a stage of another run, which has params/"
            )
        params = policy.load_policy(folder, architecture, sizes.dtype_of(model))
        return params, dataclasses.replace(problems, architecture=architecture)


@together
def run_policy(context: StageContext, *, own: ConfigDict) -> None:
    """Fine-tuning of a prover's policy, as that of the base policy (App. C).

    Args:
      context: of the stage.
      own: what `Prover.changed` returns.
    """
    fine_tune_as(context, own)


def provers_of(config: ConfigDict) -> list[Prover]:
    """The entries of `config.provers`."""
    return [Prover.of(config, name) for name in config.get("provers", ())]


def run_prover_labels(context: StageContext, *, prover: Prover) -> None:
    """Monte Carlo labels `Q^μ` of step prefixes of π's responses, and of μ's own."""
    config = context.config
    problems = Problems.load(config, context.input("data"), "labels")
    params, theirs = prover.load(context, problems)
    by_policy: dict[int, list[Response]] = {}
    for response in records.read_seed_rollouts(
        context.input("rollouts"), prover.from_policy
    ):
        by_policy.setdefault(response.problem, []).append(response)
    seed = functools.partial(derive, config.seed)
    temperature = config.rollouts.temperature

    def work(part, path, ledger, advance):
        responses = [r for index in part for r in by_policy.get(index, [])]
        if prover.from_prover:
            responses += labels.sample_responses(
                params,
                theirs,
                part,
                count=prover.from_prover,
                seed=seed(Stream.PROVER_ROLLOUTS, prover.stream),
                sampling=labels.sampling_for(
                    theirs, temperature, branches=prover.from_prover
                ),
                ledger=ledger,
                profile=context.profile,
            )
        found = labels.label_steps(
            params,
            theirs,
            responses,
            n_mc=prover.n_mc,
            seed=seed(Stream.PROVER_LABELS, prover.stream),
            sampling=labels.sampling_for_labels(theirs, temperature, n_mc=prover.n_mc),
            ledger=ledger,
            profile=context.profile,
        )
        records.write_labels(records.labels_beside(path), found)
        records.write_responses(path, responses)
        for _ in part:
            advance()

    in_shards(context, range(len(problems)), config.labels.shard, "problem", work)
