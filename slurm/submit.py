"""`python -m slurm submit`: a job, a chain of jobs, an array or a sweep, through submitit."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from intarsia.command_line import Commands, Parser
from intarsia.errors import UsageError, UserError
from intarsia.files import ROOT
from slurm.job import KINDS, JobSpec, number_of, parse_array, refuse_unknown, sweep_runs, valid_options
from training.ranks.distributed import PORTS

_SIGNAL = "USR1"  # at which training saves and stops
_EPILOG = """examples:
  python -m slurm submit train CONFIG.yaml data.shards=shards run=runs/pbe --nodes 2 --gpus-per-node 8
  python -m slurm submit train CONFIG.yaml data.shards=shards run=runs/lr --sweep optimizer.lr=1e-5,1e-4
  python -m slurm submit sample --array 0-15 -- jobs.csv --model runs/pbe/model --out edits

Options of sbatch keep their long names; the defaults are the #SBATCH lines of slurm/KIND.sh."""


def add(commands: Commands) -> None:
    """Declare `submit`; submitit knows the options of sbatch, so they are added when words are parsed."""
    parser = commands.add_parser(
        "submit",
        help="submit a job, a chain, an array or a sweep",
        description="Submit a job; the same command again continues what it did.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python -m slurm submit KIND [ARGUMENT ...] [--OPTION VALUE ...] [-- ARGUMENT ...]",
        read=_read,
    )
    parser.add_argument("kind", choices=KINDS, help="kind of job: slurm/KIND.sh runs")
    parser.add_argument(
        "arguments", nargs="*", metavar="ARGUMENT", help="argument of that script; its options after --"
    )
    parser.add_argument("--array", metavar="0-LAST[%N]", help="parts of the work, N at the same time")
    parser.add_argument(
        "--chain", type=int, default=1, metavar="N", help="N jobs, each after the previous one"
    )
    parser.add_argument(
        "--sweep", action="append", default=[], metavar="a.b=1,2", help="a run for each value"
    )
    parser.add_argument("--folder", help="folder for submitit's files and logs (default: in the run folder)")
    parser.add_argument("--local", action="store_true", help="run on this machine, without Slurm")
    parser.add_argument("--dry-run", action="store_true", help="print what would be submitted")
    parser.set_defaults(run=_run)


def _read(parser: Parser, words: Sequence[str]) -> argparse.Namespace:
    """`given`: all arguments of the script; `sbatch`: option -> value."""
    valid = valid_options()
    group = parser.add_argument_group("options of sbatch")
    for name in valid:
        group.add_argument(f"--{name}", dest=name, nargs="?", const=True, metavar="VALUE")
    ours, passed_on = _split(words)
    arguments, unknown = parser.parse_known_intermixed_args(ours)
    refuse_unknown(unknown, [*valid, "array", "chain", "sweep", "folder", "local", "dry-run"])
    arguments.given = (*arguments.arguments, *unknown, *passed_on)
    arguments.sbatch = {n: getattr(arguments, n) for n in valid if getattr(arguments, n) is not None}
    return arguments


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before `--`, and those after it."""
    words = list(argv)
    place = words.index("--") if "--" in words else len(words)
    return words[:place], words[place + 1 :]


def _run(arguments: argparse.Namespace) -> None:
    spec = _spec(arguments)
    folder = Path(arguments.folder or _folder(spec, arguments.given)).absolute()
    if arguments.dry_run:
        print(_preview(spec, folder, arguments.local))
        return
    if Path.cwd().resolve() != ROOT:
        raise UsageError(f"jobs start in the folder of this command: run it from {ROOT}")
    if not os.environ.get("CONTAINER"):  # the image has its own
        os.environ.setdefault("PYTHON", sys.executable)  # for the script; sbatch passes the environment on
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = _SIGNAL  # read when submitit is imported
    submit = _submit_here if arguments.local else _submit_to_slurm
    for line in submit(spec, folder, arguments.chain):
        print(line)


def _spec(arguments: argparse.Namespace) -> JobSpec:
    """The job of the arguments, with checked configs.

    Raises:
        UsageError: for harmful combinations, and for mistakes in a config.
    """
    given = arguments.given
    if arguments.chain < 1:
        raise UsageError(f"--chain={arguments.chain} must be at least 1")
    if arguments.sweep and (arguments.kind != "train" or arguments.array):
        raise UsageError("--sweep is only for train, and makes its own array")
    parts, at_once = sweep_runs(given, arguments.sweep) if arguments.sweep else (given,), 256
    if arguments.array:
        number, at_once = parse_array(arguments.array)
        if arguments.kind not in ("sample", "evaluate"):
            raise UsageError(
                f"--array divides sample and evaluate; for {arguments.kind} use --chain or --sweep"
            )
        parts = (given,) * number
    if arguments.kind == "train":
        from intarsia.config import load_config
        from training.config import TrainConfig, require_paths

        for part in parts:
            if not part:
                raise UsageError("no config given: submit train CONFIG.yaml run=FOLDER data.shards=FOLDER")
            require_paths(load_config(TrainConfig, part[0], part[1:]))
    return JobSpec(arguments.kind, parts, arguments.sbatch, at_once)


def _folder(spec: JobSpec, given: Sequence[str]) -> str:
    runs = [word.partition("=")[2] for word in given if word.startswith("run=")]
    if spec.kind != "train":
        return "slurm-jobs"
    from intarsia.config import load_config
    from training.config import TrainConfig

    run = runs[-1] if runs else load_config(TrainConfig, given[0], given[1:]).run
    return f"{run}/slurm"


def _preview(spec: JobSpec, folder: Path, local: bool) -> str:
    """Text of the submission."""
    lines = []
    if not local:
        lines.append(spec.sbatch_text(_starter(folder), folder, ROOT).rstrip())
    for number, part in enumerate(spec.parts):
        words = ["python", *spec.local_command(number)] if local else ["bash", spec.script, *part]
        lines.append(f"# part {number}: {shlex.join(words)}")
    return "\n".join(lines)


def _starter(folder: Path) -> str:
    return f"{_python()} -u -m submitit.core._submit {shlex.quote(str(folder))}"


def _python() -> str:
    """Becomes slurm/KIND.sh by `exec`: the signal before the time limit goes to the first process only."""
    return f"exec {shlex.quote(sys.executable)}"


def _submit_to_slurm(spec: JobSpec, folder: Path, chain: int) -> list[str]:
    """Submit through submitit; a line for each job.

    Raises:
        UserError: if there is no Slurm, or it refuses.
    """
    import submitit

    try:
        executor = submitit.SlurmExecutor(folder=folder, python=_python())
    except RuntimeError:
        raise UserError("there is no Slurm here (no srun); add --local to run on this machine") from None
    executor.update_parameters(**spec.parameters(ROOT))
    lines: list[str] = []
    for link in range(chain):
        try:
            jobs = _submit_parts(executor, spec)
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"sbatch refuses the job: {' '.join(str(error).split())}") from None
        lines += [f"{job.job_id}  {job.paths.stdout}" for job in jobs]
        after = f"afterany:{jobs[0].job_id.partition('_')[0]}"
        if link + 1 < chain:
            executor.update_parameters(dependency=after)
    return lines


def _submit_parts(executor: Any, spec: JobSpec) -> list[Any]:
    """One job, or one array of all parts. The script takes the place of submitit's process."""
    if len(spec.parts) == 1:
        return [executor.submit(os.execv, "/bin/bash", ["bash", spec.script, *spec.parts[0]])]
    with executor.batch():
        return [executor.submit(os.execv, "/bin/bash", ["bash", spec.script, *part]) for part in spec.parts]


def _submit_here(spec: JobSpec, folder: Path, chain: int) -> list[str]:
    """Start processes on this machine, which outlive this command; a line for each."""
    import submitit

    if chain > 1:
        raise UsageError("--chain needs Slurm; on this machine, the same command again continues")
    options = spec.merged_options(ROOT)
    ranks = number_of(options, "ntasks-per-node") if spec.kind == "train" else 1
    parameters = replace(spec, options=options).parameters(ROOT)
    executor = submitit.LocalExecutor(folder=folder)
    executor.update_parameters(
        tasks_per_node=ranks,
        gpus_per_node=number_of(options, "gpus-per-node", 0),
        timeout_min=parameters["time"],
        signal_delay_s=min(120, parameters["time"] * 30),
        stderr_to_stdout=True,
        nodes=number_of(options, "nodes") if spec.kind == "train" else 1,
    )
    jobs = [executor.submit(become_rank, spec.local_command(number)) for number in range(len(spec.parts))]
    return [f"{job.job_id}  {job.paths.stdout}" for job in jobs]


def become_rank(arguments: Sequence[str]) -> None:
    """Become one rank of a local job: set what torch.distributed reads, and run python with `arguments`."""
    import submitit

    here = submitit.JobEnvironment()
    os.environ.update(RANK=str(here.global_rank), LOCAL_RANK=str(here.local_rank))
    os.environ.update(WORLD_SIZE=str(here.num_tasks), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(PORTS[int(here.job_id) % len(PORTS)])
    os.execv(sys.executable, [sys.executable, *arguments])
