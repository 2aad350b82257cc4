#!/usr/bin/env python3
"""Runs the sweep of a config file, and puts what it found into one table and figure.

    launch/sweep.py --config=experiments/demo_sweep.py:smoke --root=runs/sweep

Each run has a folder below --root. Runs that are finished are skipped, so the same
command goes on after a stop. No stage is done twice: what another run of the sweep has
finished, with equal fields and inputs, is taken from there (unless it is in a bucket).
What follows -- goes to the launcher of each run:

    launch/sweep.py ... --on=tpu_vm --workdirs=/mnt/pav/sweep \\
        -- --type=v5litepod-16 --zone=ZONE --project=PROJECT --nfs=SERVER:/SHARE
"""

import argparse
import concurrent.futures
import io
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PYTHON = HERE.parent / ".venv" / "bin" / "python"
if __name__ == "__main__" and PYTHON.exists() and Path(sys.prefix) != PYTHON.parents[1]:
    # As for the other launchers, what `make setup` made comes before what is active.
    os.execv(PYTHON, [str(PYTHON), __file__, *sys.argv[1:]])
sys.path.insert(0, str(HERE.parent))  # a checkout need not be installed

from pav_jax.core.errors import UserError  # noqa: E402
from pav_jax.distributed.signals import (  # noqa: E402
    AGAIN,
    INTERRUPTED,
    TERMINATED,
    Terminated,
    terminable,
)
from pav_jax.storage import artifacts, buckets  # noqa: E402
from pav_jax.tools import run_arguments, sweeps  # noqa: E402

METHODS = ("majority", "best_of_n_orm", "best_of_n_pav", "beam_q", "beam_pav")
_LAUNCHERS = {"local": "local.sh", "tpu_vm": "tpu_vm.sh", "gke": "gke.py"}
_FIRST_PORT = 8476


def main(argv: list[str] | None = None) -> int:
    """Runs a command line; returns its exit code.

    It is 0; 1 if a run failed; 2 for a mistake of the user; or one of
    `pav_jax.distributed.signals`.
    """
    arguments, launcher = _parse(sys.argv[1:] if argv is None else argv)
    try:
        with terminable():
            return _sweep(arguments, launcher)
    except UserError as error:
        print("sweep:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        return INTERRUPTED


def _parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    mine, launcher = argv, []
    if "--" in argv:
        place = argv.index("--")
        mine, launcher = argv[:place], argv[place + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    run_arguments.add_config(parser)
    parser.add_argument(
        "--root", required=True, metavar="DIR", help="where results go; may be gs://..."
    )
    parser.add_argument("--on", choices=_LAUNCHERS, default="local")
    parser.add_argument(
        "--workdirs",
        metavar="DIR",
        help="where the runs' folders are for the machines that run them; default: the"
        " same as --root",
    )
    parser.add_argument(
        "--reuse",
        action="append",
        default=[],
        metavar="DIR",
        help="as of pav run, for every run; stages of this sweep are taken anyhow",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument(
        "--collect", action="store_true", help="run nothing, only make the table"
    )
    parser.add_argument("--dry_run", action="store_true", help="print the commands")
    return parser.parse_args(mine), launcher


def _sweep(arguments: argparse.Namespace, launcher: list[str]) -> int:
    if arguments.jobs < 1:
        raise UserError(f"--jobs={arguments.jobs} must be at least 1")
    runs = sweeps.load(arguments.config)
    codes: dict[str, int] = {}
    if not arguments.collect:
        left = [run for run in runs if run.results(arguments.root) is None]
        print(f"sweep: {len(runs)} runs, {len(left)} to do", file=sys.stderr)
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            futures = {}
            for place, run in enumerate(left):
                command = _command(arguments, launcher, run, place)
                futures[pool.submit(_run, arguments, run, command)] = run
            try:
                for future in concurrent.futures.as_completed(futures):
                    codes[futures[future].name] = future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list(_running):
                    process.terminate()
                raise
    if arguments.dry_run:
        return max(codes.values(), default=0)
    failed = {name: code for name, code in codes.items() if code}
    for name, code in failed.items():
        print(f"sweep: {name} ended with exit code {code}", file=sys.stderr)
    for run in runs:
        if codes.get(run.name) == 0 and run.results(arguments.root) is None:
            failed[run.name] = 1
            print(
                f"sweep: {run.name} is done, but its results are not in"
                f" {arguments.root}/{run.name}/report: --root has to show what the runs"
                " write below --workdirs",
                file=sys.stderr,
            )
    _collect(arguments, runs)
    return (AGAIN if set(failed.values()) == {AGAIN} else 1) if failed else 0


# Running.

_running: set[subprocess.Popen] = set()


def _command(arguments, launcher: list[str], run: sweeps.Run, place: int) -> list[str]:
    """The launcher's command line for one run."""
    workdirs = (arguments.workdirs or arguments.root).rstrip("/")
    command = [str(HERE / _LAUNCHERS[arguments.on])]
    if arguments.on == "local":
        # No two have the same, whichever run beside each other.
        command += ["--processes=1", f"--port={_FIRST_PORT + place}", *launcher]
    else:
        command += [f"--name={run.short_name}", *launcher]
    if arguments.on == "tpu_vm" and not buckets.is_remote(arguments.root):
        command.append(f"--fetch={Path(arguments.root) / run.name}")
    if arguments.dry_run:
        command.append("--dry_run")
    workdir = f"{workdirs}/{run.name}"
    command += ["--", f"--config={arguments.config}", f"--workdir={workdir}"]
    mine = [] if buckets.is_remote(workdirs) else [workdirs]
    command += [f"--reuse={place}" for place in [*mine, *arguments.reuse]]
    return [*command, *run.changes]


def _run(arguments, run: sweeps.Run, command: list[str]) -> int:
    """Runs one, and returns its exit code.

    If several run at a time, the output of each goes to a file of its own.
    """
    print(f"sweep: {run.name}", file=sys.stderr)
    log = None
    if arguments.jobs > 1 and not arguments.dry_run:
        folder = buckets.local_folder(arguments.root)
        folder.mkdir(parents=True, exist_ok=True)
        log = (folder / f"{run.name}.log").open("ab")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    _running.add(process)
    try:
        return process.wait()
    finally:
        _running.discard(process)
        if log is not None:
            log.close()


# Collecting.


def _collect(arguments: argparse.Namespace, runs: list[sweeps.Run]) -> None:
    """Writes sweep.tsv, sweep.md and sweep.svg below the root, and seeds.md."""
    root = arguments.root
    outcomes = [(run, run.results(root)) for run in runs]
    fields = list(dict.fromkeys(field for run in runs for field in run.point))
    head = [*fields, "run", "base", "pass_at_n", *METHODS, "auc_last"]
    rows = [_row(run, results, fields) for run, results in outcomes]
    tsv = "".join("\t".join(row) + "\n" for row in [head, *rows])
    md = "".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n"
        for row in [head, ["---"] * len(head), *rows]
    )
    files = {"sweep.tsv": tsv.encode(), "sweep.md": md.encode()}
    done = [(run, results) for run, results in outcomes if results is not None]
    if done:
        files["sweep.svg"] = _figure(done)
        if found := sweeps.measure(arguments.config, done):
            seeds = sweeps.seeds_table(sweeps.over_seeds(found))
            files["seeds.md"] = seeds.encode()
            md += "\n" + seeds
    for name, content in files.items():
        with buckets.to_write(f"{root}/{name}") as path:
            artifacts.write_bytes(path, content)
    print(md, end="")
    print(f"{len(done)} of {len(runs)} runs; {root}/sweep.tsv", file=sys.stderr)


def _best(results: dict, method: str) -> dict | None:
    """A method's results at the largest N that it was run with; None without any."""
    points = [row for row in results["search"] if row["method"] == method]
    return max(points, key=lambda row: row["n"], default=None)


def _row(run: sweeps.Run, results: dict | None, fields: list[str]) -> list[str]:
    """Accuracies with their 95% intervals; empty cells if the run is not finished."""
    row = [str(run.point.get(field, "")) for field in fields]
    if results is None:
        return [*row, "not finished", *[""] * (len(METHODS) + 3)]
    row += ["done", f"{results['base']['accuracy']:.3f}"]
    for method in ("pass_at_n", *METHODS):
        best = _best(results, method)
        cell = ""
        if best:
            low, high = best["ci"]
            cell = f"{best['accuracy']:.3f} [{low:.3f}, {high:.3f}] N={best['n']}"
        row.append(cell)
    auc = results["verifier"]["auc_within_problem"].get("last")
    return [*row, "" if auc is None else f"{auc:.3f}"]


def _figure(done: list[tuple[sweeps.Run, dict]]) -> bytes:
    """Accuracy of each method at its largest N, run by run, with 95% intervals."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(max(5, 1.2 * len(done)), 4.5))
    for place, method in enumerate(METHODS):
        points = [(i, _best(r, method)) for i, (_, r) in enumerate(done)]
        points = [(i, row) for i, row in points if row]
        if points:
            axes.errorbar(
                [i + 0.1 * (place - (len(METHODS) - 1) / 2) for i, _ in points],
                [row["accuracy"] for _, row in points],
                # In results of earlier versions rounding may leave the mean outside.
                [
                    [max(row["accuracy"] - row["ci"][0], 0) for _, row in points],
                    [max(row["ci"][1] - row["accuracy"], 0) for _, row in points],
                ],
                fmt="o",
                label=method.replace("_", " "),
            )
    base = [results["base"]["accuracy"] for _, results in done]
    axes.plot(range(len(done)), base, "k_", markersize=24, label="one sample")
    labels = [run.name.replace(",", "\n") for run, _ in done]
    axes.set_xticks(range(len(done)), labels, fontsize="small")
    axes.set_ylabel("accuracy on test problems, 95% interval")
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    file = io.BytesIO()
    figure.savefig(file, format="svg", bbox_inches="tight")
    pyplot.close(figure)
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())
