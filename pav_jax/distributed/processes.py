"""The processes of one run: who they are, and how they join `jax.distributed`."""

import dataclasses
import os

from pav_jax.core.errors import UserError

AUTO = "auto"
# jax's own default changed in 0.8.1; launchers and tests that name a port name this.
PORT = 8476

# What jax says where another process is gone: the means by which CPUs compute together,
# and the service by which processes meet and wait.
_SIGNS_OF_LOSS = ("gloo", "coordination service", "barrier")

# A process that has been silent for so long counts as dead, and the others stop.
_HEARTBEAT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
      index: 0 for the one that owns the workdir.
      count: of all processes.
    """

    index: int = 0
    count: int = 1


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of an experiment's shards, which one process does alone.

    Attributes:
      index: from 0.
      count: of all parts.
    """

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Of `--part=I/N`; raises UserError if it is none."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal()):
            raise UserError(f"--part={text} is no part; write I/N, such as 0/64")
        part = cls(int(index), int(count))
        if part.index >= part.count:
            raise UserError(
                f"--part={text} is no part; those of {part.count} are"
                f" 0/{part.count} to {part.count - 1}/{part.count}"
                if part.count
                else f"--part={text} is no part; there must be at least one"
            )
        return part

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, number: int) -> bool:
        """Whether the shard of that number, from 0, is this part's."""
        return number % self.count == self.index


@dataclasses.dataclass(frozen=True)
class Coordinator:
    """How this process finds the others; as given, nothing looked up yet.

    Attributes:
      address: HOST:PORT of process 0, "auto" to ask the environment (TPU, GKE, Slurm),
        or None for a run of one process.
      num_processes: of the run; None if "auto" tells.
      process_id: of this one; None if "auto" tells.
    """

    address: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    @classmethod
    def of(
        cls,
        address: str | None = None,
        num_processes: int | None = None,
        process_id: int | None = None,
    ) -> "Coordinator":
        """From flags and, for those not given, `JAX_COORDINATOR_ADDRESS`,
        `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`.

        Raises:
          UserError: they do not go together.
        """
        env = os.environ
        address = address or env.get("JAX_COORDINATOR_ADDRESS")
        if num_processes is None:
            num_processes = _integer(env, "JAX_NUM_PROCESSES")
        if process_id is None:
            process_id = _integer(env, "JAX_PROCESS_ID")
        numbers = (num_processes, process_id)
        if address is None and numbers != (None, None):
            raise UserError(
                "--num_processes and --process_id need --coordinator=HOST:PORT, the"
                " address of process 0"
            )
        if address not in (None, AUTO):
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit():
                raise UserError(
                    f"--coordinator={address} has no port; write HOST:PORT, such as"
                    f" 10.0.0.1:{PORT}, or {AUTO}"
                )
            if None in numbers:
                raise UserError(
                    f"--coordinator={address} needs --num_processes and --process_id"
                )
        if None not in numbers and not 0 <= process_id < num_processes:
            raise UserError(
                f"--process_id={process_id} must be from 0 to {num_processes - 1},"
                f" since --num_processes={num_processes}"
            )
        return cls(address, num_processes, process_id)


def is_loss(error: BaseException) -> bool:
    """Whether a computation of several processes failed since one of them is gone."""
    import jax

    kinds = (jax.errors.JaxRuntimeError, ValueError)  # jax raises either
    if not isinstance(error, kinds) or isinstance(error, UserError):
        return False
    return any(sign in str(error).lower() for sign in _SIGNS_OF_LOSS)


def join(coordinator: Coordinator) -> Processes:
    """Meets the other processes; to be called before jax computes anything.

    Raises:
      UserError: they cannot be found, within jax's five minutes.
    """
    if coordinator.address is None:
        return Processes()
    import jax

    # It takes SIGTERM for itself; ours is in signals.py.
    jax.config.update("jax_enable_preemption_service", False)
    auto = coordinator.address == AUTO
    try:
        jax.distributed.initialize(
            None if auto else coordinator.address,
            coordinator.num_processes,
            coordinator.process_id,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"cannot join the other processes by --coordinator={coordinator.address}:"
            f" {error}"
        ) from error
    return Processes(jax.process_index(), jax.process_count())


def _integer(env, name: str) -> int | None:
    if name not in env:
        return None
    try:
        return int(env[name])
    except ValueError:
        raise UserError(
            f"{name}={env[name]!r} in the environment is no number"
        ) from None
