"""Fields of a config that are right by themselves and wrong together."""

import math
from collections.abc import Iterator

from ml_collections import ConfigDict

from pav_jax.core.counts import counted

_BEFORE_VERIFIERS = ("data", "pretraining", "sft", "rollouts", "labels")
_BEFORE_RL = ("sft", "rft")  # policies that RL's are compared with, by their names
_OF_ROWS = ("batch_size", "short_first")  # fields that say which rows are in a batch
_OWN_SIZE = ("num_layers", "embed_dim", "num_heads", "mlp_dim")


def contradictions(config: ConfigDict, until: str | None = None) -> Iterator[str]:
    """What is wrong with a field in view of another, a sentence each.

    Args:
      config: of an experiment, whose fields are right by themselves.
      until: the last stage that is to be run; None for all.
    """
    for section in _trainings(config):
        steps, warmup = (config[section][f] for f in ("steps", "warmup_steps"))
        if warmup >= steps:
            yield (
                f"config.{section}.warmup_steps={warmup} must be fewer than"
                f" config.{section}.steps={steps}"
            )
    for where, changes in _other_policies(config):
        sft = {f: changes.get(f, config.sft[f]) for f in ("warmup_steps", "steps")}
        if sft["warmup_steps"] >= sft["steps"]:
            yield (
                f"with config.{where}.sft warmup_steps={sft['warmup_steps']} must be"
                f" fewer than steps={sft['steps']}"
            )
    rollouts, search, evaluation = config.rollouts, config.search, config.evaluation
    if rollouts.n_cov > rollouts.n_orm:
        yield (
            f"config.rollouts.n_cov={rollouts.n_cov} must be at most"
            f" config.rollouts.n_orm={rollouts.n_orm}: seed rollouts are the first of"
            " the responses"
        )
    if max(search.ns) > search.samples:
        yield (
            f"config.search.ns={tuple(search.ns)} must be at most"
            f" config.search.samples={search.samples}, of which they are parts"
        )
    if max(search.alphas) <= 0:
        yield (
            f"config.search.alphas={tuple(search.alphas)} has no number above 0 to"
            " choose from"
        )
    if evaluation.oracle_n > evaluation.n:
        yield (
            f"config.evaluation.oracle_n={evaluation.oracle_n} must be at most"
            f" config.evaluation.n={evaluation.n}, of which they are the first"
        )
    if not config.labels.get("from") and "n_mc" not in config.labels:
        yield (
            "the config has no field 'labels.n_mc', continuations of a step prefix, 1"
            " or more; only labels of others (config.labels.from) do without"
        )
    yield from _of_problems(config)
    trains = until not in _BEFORE_VERIFIERS
    if trains:
        yield from _of_rows(config)
    yield from _of_model(config.get("model", ConfigDict()))
    if "rl" in config:
        yield from _of_rl(config.rl)
        if trains:
            yield from _of_rl_problems(config.rl, config.problems.labels)


def _of_problems(config: ConfigDict) -> Iterator[str]:
    problems, grid = config.problems, config.sampling
    tokenizer = config.get("tokenizer", ConfigDict())
    if ("path" in tokenizer) == ("vocab_size" in tokenizer):
        yield (
            "config.tokenizer needs either the path of a SentencePiece model or the"
            " vocab_size of one to learn, and not both"
        )
    if problems.get("disjoint", True) and None in (problems.sft, problems.labels):
        yield (
            "config.problems.sft and config.problems.labels must be numbers, or"
            " config.problems.disjoint=False"
        )
    if problems.sft is not None:
        yield from _of_demonstrations(config, problems.sft)
    if "on_search" in config.verifier and problems.labels is not None:
        most = int(problems.labels * (1 - config.verifier.held_out))
        if (asked := config.verifier.on_search.problems) > most:
            yield (
                f"config.verifier.on_search.problems={asked} must be at most {most}:"
                " the others of config.problems.labels are held out by"
                " config.verifier.held_out"
            )
    if grid.trunks % (together := grid.get("trunks_per_group", 1)):
        yield (
            f"config.sampling.trunks={grid.trunks} has to be a multiple of"
            f" config.sampling.trunks_per_group={together}"
        )


def _of_demonstrations(config: ConfigDict, count: int) -> Iterator[str]:
    """Fine-tunings that cannot have the rows of a batch, of so many demonstrations."""
    for where, changes in (("", ConfigDict()), *_other_policies(config)):
        own = {f: f"{where}.sft" if where and f in changes else "sft" for f in _OF_ROWS}
        size, short = (changes.get(f, config.sft.get(f)) for f in _OF_ROWS)
        of_batch = f"config.{own['batch_size']}.batch_size={size}"
        if size > count:
            yield f"{of_batch} must be at most config.problems.sft={count}"
        if not short:
            continue
        section = f"config.{own['short_first']}.short_first"
        if missing := {"steps", "fraction"} - set(short):
            yield f"{section} needs steps and fraction; it has no {min(missing)}"
        elif (rows := math.ceil(short.fraction * count)) < size:
            yield (
                f"{section}.fraction={short.fraction:g} of"
                f" config.problems.sft={count} is {counted(rows, 'row')}, fewer than"
                f" {of_batch}"
            )


def _of_rows(config: ConfigDict) -> Iterator[str]:
    """Trainings that cannot have the rows of a batch, however many of the problems and
    responses are of use. Of labels of others nothing is known here."""
    verifier, rollouts = config.verifier, config.rollouts
    if "on_search" in verifier:
        yield from _of_rows_found(verifier)
    if (labels := config.problems.labels) is None:
        return
    owns, provers = not config.labels.get("from"), config.get("provers", {})
    kept = labels - math.ceil(verifier.held_out * labels)
    searched = verifier.on_search.problems if "on_search" in verifier else 0
    of_own = kept - math.ceil(verifier.held_out * searched)  # in every round
    if kept < 1 and (owns or provers):
        yield (
            f"config.verifier.held_out={verifier.held_out:g} leaves none of"
            f" config.problems.labels={labels} to train on; raise the latter"
        )
        return
    # What trains on rows, a part of it, how many of each problem, and of how many.
    most = []
    if owns and not config.labels.get("first_pit", {}).get("n_mc"):
        most.append(("verifier.prm", "rollouts.n_cov", rollouts.n_cov, of_own))
    if owns:
        most.append(("verifier.orm", "rollouts.n_orm", rollouts.n_orm, of_own))
    for name, prover in provers.items():
        count = prover.get("from_policy", 1) + prover.get("from_prover", 0)
        if count:  # else it labels nothing, as `Prover.of` says
            parts = f"provers.{name}: from_policy + from_prover"
            most.append(("verifier.prm", parts, count, kept))
    for section, parts, count, some in most:
        if (size := config[section].batch_size) > some * count:
            yield (
                f"config.{section}.batch_size={size} must be at most {some * count}:"
                f" {count} (config.{parts}) of each of {some} of"
                f" config.problems.labels={labels}, the others of which are held out by"
                " config.verifier.held_out"
            )
    of_all = labels * rollouts.n_orm
    if "rl" in config and (size := config.rl.rft.batch_size) > of_all:
        yield (
            f"config.rl.rft.batch_size={size} must be at most {of_all}:"
            f" config.rollouts.n_orm={rollouts.n_orm} responses to each of"
            f" config.problems.labels={labels}"
        )


def _of_rows_found(verifier: ConfigDict) -> Iterator[str]:
    """As `_of_rows`, of what searches find, which is half of each batch."""
    search = verifier.on_search
    kept = search.problems - math.ceil(verifier.held_out * search.problems)
    if kept < 1:
        yield (
            f"config.verifier.held_out={verifier.held_out:g} leaves none of"
            f" config.verifier.on_search.problems={search.problems} to train on"
        )
        return
    of_each = {"prm": min(search.labelled, search.beams), "orm": search.beams}
    for name, count in of_each.items():
        size = verifier[name].batch_size
        if size < 2:
            yield (
                f"config.verifier.{name}.batch_size={size} must be 2 or more with"
                " config.verifier.on_search: half of each batch is what a search found"
            )
        if size // 2 > kept * count:
            fields = "beams" if name == "orm" else "labelled, of beams"
            yield (
                f"half of config.verifier.{name}.batch_size={size} must be at most"
                f" {kept * count}: {count} responses (config.verifier.on_search:"
                f" {fields}) to each of {kept} of"
                f" config.verifier.on_search.problems={search.problems}, the others of"
                " which are held out by config.verifier.held_out"
            )


def _other_policies(config: ConfigDict) -> Iterator[tuple[str, ConfigDict]]:
    """The sections of policies that are fine-tuned otherwise, and how."""
    sections = {f"provers.{name}": p for name, p in config.get("provers", {}).items()}
    if "pretraining" in config:
        sections["pretraining"] = config.pretraining
    for where, section in sections.items():
        yield where, section.get("sft") or ConfigDict()


def _trainings(config: ConfigDict) -> Iterator[str]:
    """The sections of optimizers."""
    yield from ("sft", "verifier.prm", "verifier.orm")
    if "rl" in config:
        yield from ("rl.rft", "rl.training")
        yield from ("rl.refresh",) if "refresh" in config.rl else ()


def _of_model(model: ConfigDict) -> Iterator[str]:
    if "name" in model:
        return
    for field in _OWN_SIZE:
        if field not in model:
            yield (
                f"the config has no field 'model.{field}'; config.model needs"
                f" {', '.join(_OWN_SIZE)}, or the name of a published size"
            )
            return
    width, heads = model.embed_dim, model.num_heads
    if width < 2 * heads or width // heads % 2:
        yield (
            f"config.model.embed_dim={width} gives each of config.model.num_heads="
            f"{heads} the size {width // heads}, which must be even, and 2 or more"
        )
    if heads % model.get("num_kv_heads", heads):
        yield (
            f"config.model.num_kv_heads={model.num_kv_heads} must divide"
            f" config.model.num_heads={heads}"
        )


def _of_rl(rl: ConfigDict) -> Iterator[str]:
    if not rl.get("methods"):
        yield "config.rl.methods is empty; RL needs a method"
    for method in rl.methods:
        if not method.isidentifier() or method in _BEFORE_RL:
            yield (
                f"config.rl.methods.{method} names stages and policies; a name has"
                " letters, digits and _, starts with no digit, and is none of"
                f" {', '.join(_BEFORE_RL)}"
            )
    yield from _of_final(rl.final, rl.methods)
    if "provers" in rl and 2 * max(rl.provers.ks) > rl.provers.n_mc:
        yield (
            f"config.rl.provers.ks={tuple(rl.provers.ks)} must be at most half of"
            f" config.rl.provers.n_mc={rl.provers.n_mc}, since a value to the power of"
            " 2K is estimated"
        )
    for method, settings in rl.methods.items():
        if settings.get("refresh_every") and "refresh" not in rl:
            yield (
                f"config.rl.methods.{method}.refresh_every={settings.refresh_every}"
                " needs a section config.rl.refresh"
            )
        if settings.get("baseline") == "group" and rl.training.samples < 2:
            yield (
                f'config.rl.methods.{method}.baseline="group" needs'
                f" config.rl.training.samples={rl.training.samples} to be 2 or more:"
                " one response to a problem is its own mean, so its outcome teaches"
                " nothing"
            )


def _of_final(final: ConfigDict, methods: ConfigDict) -> Iterator[str]:
    """How the policies of RL methods are measured at the end."""
    if max(final.ns) > final.samples:
        yield (
            f"config.rl.final.ns={tuple(final.ns)} must be at most"
            f" config.rl.final.samples={final.samples}, of which they are parts"
        )
    if max(final.ns) > final.unsolved:
        yield (
            f"config.rl.final.ns={tuple(final.ns)} must be at most"
            f" config.rl.final.unsolved={final.unsolved}, the responses of the SFT"
            " policy, of which they are parts"
        )
    if not set(final.get("beams", ())) <= set(final.ns):
        yield (
            f"config.rl.final.beams={tuple(final.beams)} must be among"
            f" config.rl.final.ns={tuple(final.ns)}: a beam of N is compared with the"
            " best of N samples"
        )
    if final.reference not in methods:
        yield (
            f"config.rl.final.reference={final.reference!r} is none of"
            f" config.rl.methods: {', '.join(methods)}"
        )


def _of_rl_problems(rl: ConfigDict, labels: int | None) -> Iterator[str]:
    """Args: labels: how many problems there are; None if that is not known yet."""
    asked = {"training.problems": rl.training.problems}
    if "provers" in rl:
        asked["provers.problems"] = rl.provers.problems
    refreshed = any(method.get("refresh_every") for method in rl.methods.values())
    if refreshed and "refresh" in rl:
        asked["refresh.problems"] = rl.refresh.problems
        if rl.refresh.batch_size > rl.refresh.problems:
            yield (
                f"config.rl.refresh.batch_size={rl.refresh.batch_size} must be at most"
                f" config.rl.refresh.problems={rl.refresh.problems}, each of which"
                " gives a row"
            )
    for field, count in asked.items():
        if labels is not None and count > labels:
            yield (
                f"config.rl.{field}={count} must be at most"
                f" config.problems.labels={labels}"
            )
