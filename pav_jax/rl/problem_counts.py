"""Whether there are the problems that RL asks for, before anything is sampled."""

from collections.abc import Sized

from ml_collections import ConfigDict

from pav_jax.core.errors import UserError
from pav_jax.distributed import collectives


def check_count(problems: Sized, count: int, field: str) -> None:
    """Raises UserError if a field of the config asks for more problems than there are.

    Args:
      problems: those for labels, as stage `data` left them.
      count: the field's value.
      field: its dotted name.
    """
    if count > len(problems):
        raise UserError(
            f"config.{field}={count} must be at most {len(problems)}: so many problems"
            " for labels (config.problems.labels) fit config.limits"
        )


def check_sizes(
    problems: Sized, training: ConfigDict, refresh: ConfigDict | None
) -> None:
    """Raises UserError if an iteration, or a refresh, has not the problems it needs.

    Args:
      problems: to train on.
      training: `config.rl.training`.
      refresh: `config.rl.refresh`; None if the verifier is not refreshed.
    """
    processes = collectives.process_count()
    check_count(problems, training.problems, "rl.training.problems")
    if training.problems % processes:
        raise UserError(
            f"config.rl.training.problems={training.problems} has to be a multiple of"
            f" the {processes} processes, each of which samples as many"
        )
    if refresh is None:
        return
    check_count(problems, refresh.problems, "rl.refresh.problems")
    if refresh.problems < processes:
        raise UserError(
            f"config.rl.refresh.problems={refresh.problems} must be at least one for"
            f" each of {processes} processes"
        )
