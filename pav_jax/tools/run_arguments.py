"""The arguments of the `pav` commands that run experiments; see `arguments.py`."""

import argparse


def add_run(commands) -> None:
    parser = commands.add_parser(
        "run",
        help="run an experiment, or what is left of it",
        description="Runs the stages of an experiment. Finished stages are skipped; a"
        " run that was stopped goes on where it was.",
        epilog="Any field of the config can be changed: --config.FIELD=VALUE, such as"
        " --config.seed=1.",
        allow_abbrev=False,
    )
    add_config(parser)
    parser.add_argument(
        "--workdir", required=True, metavar="DIR", help="where results go"
    )
    parser.add_argument("--until", metavar="STAGE", help="the last stage to run")
    parser.add_argument(
        "--reuse",
        action="append",
        default=[],
        metavar="DIR",
        help="take stages that another run has finished with equal fields and inputs;"
        " its workdir, or a folder of workdirs; may be given several times",
    )
    parser.add_argument(
        "--profile",
        type=int,
        default=0,
        metavar="N",
        help="trace N steps of the loop of each stage that runs, for xprof, into"
        " profiles/STAGE of the workdir; stages that are done are not run again",
    )
    parser.add_argument(
        "--log_to",
        choices=("tensorboard", "wandb", "none"),
        default="tensorboard",
        help="where the scalars of trainings go, besides metrics.jsonl: events/STAGE of"
        " the workdir for TensorBoard, Weights & Biases (pip install wandb), or"
        " nowhere; default: tensorboard",
    )
    parser.add_argument(
        "--part",
        metavar="I/N",
        help="do part I, from 0, of N of the shards of the stage --until, such as"
        " labels; pav merge then makes the stage of all parts",
    )
    add_coordinator(parser)
    parser.set_defaults(command="run", takes_changes=True)


def add_merge(commands) -> None:
    parser = commands.add_parser(
        "merge",
        help="make a stage of its parts, which pav run --part did",
        description="Makes a stage of its parts: the same files as those of one"
        " machine. Refuses parts that are missing, damaged, or of another config or"
        " policy. Give the config, and changes of its fields, as to pav run.",
        allow_abbrev=False,
    )
    add_config(parser)
    parser.add_argument("--workdir", required=True, metavar="DIR")
    parser.add_argument("--until", required=True, metavar="STAGE")
    parser.add_argument("--parts", required=True, type=int, metavar="N", help="of all")
    parser.set_defaults(command="merge", takes_changes=True)


def add_report(commands) -> None:
    parser = commands.add_parser(
        "report",
        help="make the page of a finished run again",
        description="Makes the page of a finished run again.",
        allow_abbrev=False,
    )
    parser.add_argument("--workdir", required=True, metavar="DIR")
    parser.set_defaults(command="report", takes_changes=False)


def add_lab(commands) -> None:
    parser = commands.add_parser(
        "lab",
        help="run a laboratory: a claim of the paper where values are exact",
        description="Runs a laboratory, a small task whose values are known exactly:"
        " those of experiments/evidence. Cells that are measured are kept; a run that"
        " was stopped goes on where it was.",
        epilog="Any field of the config can be changed: --config.FIELD=VALUE.",
        allow_abbrev=False,
    )
    add_config(parser)
    parser.add_argument(
        "--workdir",
        required=True,
        metavar="DIR",
        help="where results.json, table.md and figure.svg go",
    )
    parser.set_defaults(command="lab", takes_changes=True)


def add_plan(commands) -> None:
    parser = commands.add_parser(
        "plan",
        help="say whether an experiment fits a TPU slice, and what it takes there",
        description="Compiles the step functions of an experiment for a TPU slice,"
        " without a TPU, and says whether they fit. Times and costs are modelled. Exit"
        " code: 0 if all fits, 1 if something does not, 2 if that is not known. Needs"
        " libtpu: pip install 'pav_jax[plan]'.",
        epilog="Any field of the config can be changed: --config.FIELD=VALUE.",
        allow_abbrev=False,
    )
    add_config(parser)
    parser.add_argument(
        "--topology", required=True, metavar="NAME", help="such as v5p:4x4x4 or v5p-128"
    )
    parser.add_argument(
        "--search", action="store_true", help="try all meshes; the best comes first"
    )
    parser.add_argument(
        "--json", action="store_true", help="print a JSON list of plans"
    )
    parser.set_defaults(command="plan", takes_changes=True)


def add_devices(commands) -> None:
    parser = commands.add_parser(
        "devices",
        help="say what devices there are, or that they do not answer",
        description="Says what devices there are. With many processes, each must ask.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--expect", type=int, metavar="N", help="devices there must be, in all"
    )
    parser.add_argument(
        "--timeout", type=float, default=300, metavar="SECONDS", help="default: 300"
    )
    add_coordinator(parser)
    parser.set_defaults(command="devices", takes_changes=False)


class _Once(argparse.Action):
    """Refuses an option that is given twice; argparse would take the last one."""

    def __call__(self, parser, namespace, values, option_string=None):
        if (first := getattr(namespace, self.dest)) is not None:
            parser.error(f"give {option_string} once; it is {first} and {values}")
        setattr(namespace, self.dest, values)


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", required=True, action=_Once, metavar="FILE[:VARIANT]"
    )


def add_coordinator(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "many processes",
        "Processes of one run work in one folder that all of them see. They also read"
        " JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.",
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0; auto: the environment tells all three (TPU, GKE,"
        " Slurm)",
    )
    group.add_argument("--num_processes", type=int, metavar="N")
    group.add_argument("--process_id", type=int, metavar="I")
