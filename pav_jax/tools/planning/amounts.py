"""How much the stages of an experiment sample, train and search, from its config.

These are the most that they can be: no run of RL is stopped, and each response has
`config.limits.max_steps` steps.
"""

from collections.abc import Sequence

from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.pipeline.other_provers import Prover, provers_of
from pav_jax.tasks import make_task
from pav_jax.tasks.stored import StoredTask

# Problems of published tasks, for training (MATH less MATH-500, GSM8K) and for tests.
_PUBLISHED = {"math": (12_000, 500), "gsm8k": (7_473, 1_319)}


def problems(config: ConfigDict, split: str) -> int:
    """Problems of a split, also where the config takes all of a published task's.

    Raises:
      UserError: it takes all that there are, and how many that is is not known.
    """
    if config.problems[split] is not None:
        return config.problems[split]
    if config.task.name not in _PUBLISHED:
        raise UserError(
            f"config.problems.{split} is None, which means all, and how many that is"
            " cannot be known without the data; give a number"
        )
    training, test = _PUBLISHED[config.task.name]
    task = make_task(config.task)  # knows the fraction that a config leaves out
    held_out = int(training * task.validation_fraction)
    return {"test": test, "validation": held_out}.get(split, training - held_out)


def is_compiled(prover: Prover, config: ConfigDict) -> bool:
    """Whether a prover is of the base policy's architecture, whose steps are known."""
    models = [
        {key: value for key, value in model.items() if key != "checkpoint"}
        for model in (prover.changed(config).model, config.model)
    ]
    return models[0] == models[1]


def not_counted(config: ConfigDict) -> list[str]:
    """What an experiment does and no estimate has: work of models of other sizes."""
    found = []
    for prover in provers_of(config):
        if is_compiled(prover, config):
            continue
        if not prover.policy:
            found.append(f"policy-{prover.name}")
        found.append(f"labels-{prover.name}")
        if "provers" in config.get("rl", {}):
            found.append(f"provers: labels by {prover.name}")
    return found


def searched(config: ConfigDict) -> int:
    """Candidate beams of stage `search`, of all problems."""
    search = config.search
    test, validation = problems(config, "test"), problems(config, "validation")
    # α = 0 is a search by `Q^π` alone: one, whatever the prover.
    alphas = sum(alpha > 0 for alpha in search.alphas)
    choices = 1 + alphas * len(search.prover_ks)
    choices += len(provers_of(config)) * (1 + alphas)
    beams = validation * choices * search.alpha_beams
    # Each of `beam_q` and `beam_pav`, and the same two by each prover.
    widths = 2 * (1 + len(provers_of(config))) * sum(search.beams)
    if subtree := search.get("subtree"):
        widths += sum(n for n in search.beams if n > subtree and n % subtree == 0)
    if "bok" in search:
        widths += len(search.bok.ks) * sum(search.beams)
    if _has_oracle(config):
        widths += sum(search.beams)
    return (beams + test * widths) * search.candidates


def _has_oracle(config: ConfigDict) -> bool:
    """Whether beams are also guided by values of labelled rollouts, as if exact."""
    own = not config.labels.get("from")
    return own and not isinstance(make_task(config.task), StoredTask)


def measurements(training: ConfigDict) -> int:
    """Of an RL run: at first, then every `measure_every` iterations, and at the end."""
    return 1 + -(-training.steps // training.measure_every)


def measured(config: ConfigDict) -> int:
    """Responses of one measurement of an RL run."""
    rl = config.rl
    samples = rl.training.measure_samples
    count = problems(config, rl.measured) * (1 + samples)  # and one greedy
    if rl.measured != "validation":
        count += problems(config, "validation") * samples
    return count


def refreshes(methods: Sequence[ConfigDict], steps: int) -> int:
    """Refreshes of the verifier in a run of each of these methods."""
    every = [method.get("refresh_every", 0) for method in methods]
    return sum((steps - 1) // n for n in every if n)


def _finally(config: ConfigDict) -> int:
    """Problems on which the policies of RL are measured at the end."""
    count = problems(config, config.rl.measured)
    return min(count, config.rl.final.get("problems") or count)


def searched_unsolved(config: ConfigDict) -> int:
    """Candidate beams of stage `improvement`, by SFT, RFT and each run, if SFT never
    solves any problem."""
    policies = 2 + len(config.rl.methods) * len(config.rl.seeds)
    widths = sum(config.rl.final.get("beams", ()))
    return _finally(config) * policies * widths * config.search.candidates


def improved(config: ConfigDict) -> int:
    """Responses of stage `improvement`: of every policy, and those of SFT that choose
    the problems that it never solves."""
    final, count = config.rl.final, _finally(config)
    runs = len(config.rl.methods) * len(config.rl.seeds)
    # SFT is measured on as many as choose; RFT, and each run, on `samples`.
    sampled = 2 * final.unsolved + (1 + runs) * final.samples
    return count * (sampled + 2 + runs)  # and one greedy of each policy
