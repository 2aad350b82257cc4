"""The arguments of each `pav` command; `commands.py` says what is done with them."""

import argparse

from pav_jax.tools import run_arguments


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Adds all commands to the parser of `pav`."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        run_arguments.add_run,
        run_arguments.add_merge,
        run_arguments.add_report,
        _add_score,
        _add_show,
        _add_judge,
        _add_import,
        _add_labels,
        _add_advise,
        _add_export,
        run_arguments.add_lab,
        run_arguments.add_plan,
        run_arguments.add_devices,
    ):
        add(commands)


def _add_score(commands) -> None:
    parser = commands.add_parser(
        "score",
        help="score the steps of your own responses",
        description="Scores every step of the responses in a file with a run's"
        " verifiers: Q, progress, and the ORM's score of the whole. A run that was"
        " stopped goes on where it was.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--verifier",
        required=True,
        metavar="DIR",
        help="workdir of a run; or a verifier in it, such as runs/demo/prm; or one that"
        " pav export wrote",
    )
    parser.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="a JSON object a line, with the texts prompt and response; response has a"
        " step a line; may be gzipped",
    )
    parser.add_argument(
        "--output",
        required=True,
        metavar="FILE",
        help="the same lines, each with the scores as an object pav",
    )
    parser.add_argument(
        "--prover_k",
        type=int,
        metavar="K",
        help="progress under the best-of-K prover; default: the run's",
    )
    _add_mesh(parser)
    run_arguments.add_coordinator(parser)
    parser.set_defaults(command="score", takes_changes=False)


def _add_judge(commands) -> None:
    parser = commands.add_parser(
        "judge",
        help="say how well a verifier finds errors, and picks the best response",
        description="Judges a verifier as the field does. processbench and relations:"
        " how often the first step whose value is below a threshold is the first error,"
        " how often no step is flagged where there is none, and F1, the harmonic mean"
        " of both. The threshold is chosen on other problems than those reported."
        " best_of_n: the accuracy of the best of N responses by the last, the least,"
        " the product or the mean of the values of their steps.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--verifier",
        metavar="DIR",
        help="as for pav score; best_of_n of a scored file needs none",
    )
    parser.add_argument(
        "--on", required=True, choices=("processbench", "relations", "best_of_n")
    )
    parser.add_argument(
        "--input",
        required=True,
        metavar="PATH",
        help="processbench: a folder of its files, such as gsm8k.json, or one file."
        " relations: the workdir of a run of that task. best_of_n: the workdir of a"
        " run, or what pav score wrote, with the field correct (true or false), or"
        " answer (the reference answer)",
    )
    parser.add_argument(
        "--threshold_on",
        metavar="SUBSET",
        help="of several files of processbench, that of the threshold; default: gsm8k."
        " Where there is one file, it is chosen on half of its problems",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="where the numbers go, too, as JSON"
    )
    _add_mesh(parser)
    parser.set_defaults(command="judge", takes_changes=False)


def _add_import(commands) -> None:
    parser = commands.add_parser(
        "import",
        help="take step labels that others have published",
        description="Reads a published file of step labels into a folder of which"
        " verifiers are trained: pav run --config.labels.from=DIR. Bad lines are named"
        " and left out.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--from",
        dest="format",
        required=True,
        choices=("prm800k", "math_shepherd", "trl", "processbench", "jsonl"),
        help="the format of the file; jsonl is our own: prompt, steps, and correct and"
        " count of each step",
    )
    parser.add_argument(
        "--input",
        required=True,
        metavar="FILE",
        help="as published: a JSON object a line, or a JSON list; may be gzipped",
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="a folder that does not exist"
    )
    parser.add_argument(
        "--meaning",
        metavar="WHAT",
        help="of the labels, where the format does not say: monte_carlo (k of n"
        " continuations are right; default of jsonl), any_of_n (one of several is),"
        " prefix (nothing is wrong so far), or step (the step is right; default of"
        " trl)",
    )
    parser.set_defaults(command="import_labels", takes_changes=False)


def _add_labels(commands) -> None:
    parser = commands.add_parser("labels", help="write a run's step labels for others")
    parser = parser.add_subparsers(metavar="COMMAND", required=True).add_parser(
        "export",
        help="as Parquet and JSONL, with a data card",
        description="Writes the step labels of a run as Parquet and JSONL, with a data"
        " card, for pandas and datasets.load_dataset.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--labels", required=True, metavar="RUN", help="the workdir of a run"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="a folder that does not exist"
    )
    parser.set_defaults(command="export_labels", takes_changes=False)


def _add_export(commands) -> None:
    parser = commands.add_parser(
        "export",
        help="write a trained policy or verifier for other tools",
        description="Writes what a stage has trained as a checkpoint of the gemma"
        " package, for gm.ckpts.load_params and the package's models, or as a Hugging"
        " Face folder, for transformers and others; of a verifier also its head. pav"
        " score reads both.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--stage", required=True, metavar="DIR", help="such as runs/demo/prm"
    )
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="a folder that does not exist"
    )
    parser.add_argument(
        "--format",
        choices=("gemma", "hf"),
        default="gemma",
        help="of the checkpoint: the gemma package's (default), or Hugging Face's",
    )
    parser.set_defaults(command="export", takes_changes=False)


def _add_show(commands) -> None:
    parser = commands.add_parser(
        "show",
        help="make a page of scored responses",
        description="Makes a page that shows each step of scored responses, coloured"
        " by Q or by progress.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--input", required=True, metavar="FILE", help="written by pav score"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="default: the input's name, with .html"
    )
    parser.add_argument(
        "--count",
        type=int,
        default=200,
        metavar="N",
        help="responses to show, from the first; default: 200",
    )
    parser.set_defaults(command="show", takes_changes=False)


def _add_advise(commands) -> None:
    parser = commands.add_parser(
        "advise",
        help="say what the labels of a run advise: prover, n_mc, beams or selection",
        description="Says what the labels of a run advise, with intervals over"
        " problems: which prover, how noisy the labels are, whether they teach, whether"
        " a verifier tells steps apart, and whether beams or selection among samples"
        " (best-of-N, votes) are the better buy. Runs no model.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--labels",
        required=True,
        metavar="DIR",
        help="workdir of a run with the stages rollouts and labels, or its folder"
        " labels",
    )
    parser.add_argument(
        "--verifier",
        metavar="DIR",
        help="workdir of a run with the stage evaluation, or its folder prm",
    )
    parser.add_argument(
        "--tokens",
        type=float,
        metavar="N",
        help="tokens a problem that you would pay at test time; default: every width"
        " of beams that the run measured",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the same as one JSON object"
    )
    parser.set_defaults(command="advise", takes_changes=False)


def _add_mesh(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="the mesh of devices, such as fsdp=-1,tensor=2; default: the run's",
    )
