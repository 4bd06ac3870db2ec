"""`python -m slurm doctor`: checks of a machine, a cluster and the checkout, before a job fails there.

Imports nothing heavy.
"""

import argparse
import json
import re
import shutil
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from intarsia.command_line import Commands
from intarsia.errors import UsageError, UserError
from intarsia.files import ROOT
from slurm import checks
from slurm.checks import Finding, Level
from slurm.gpus import driver, work

_GRACE = 30  # seconds between SIGTERM and SIGKILL that a checkpoint should have; Slurm's own default
_PATIENCE = 120  # seconds to wait for nodes
_MARKS = {"ok": "ok     ", "warning": "warning", "failure": "FAILURE"}
_ANSWER = "DOCTOR "  # in front of each line of a node's answer, which other programs' output may surround


def add(commands: Commands) -> None:
    """Declare `doctor`."""
    parser = commands.add_parser(
        "doctor", help="check this machine and this checkout; exit code 1 on a failure"
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="folders of shards and runs, to check as well"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)  # a node's answer to --nodes
    parser.add_argument(
        "--gpus",
        type=int,
        nargs="?",
        const=0,
        metavar="N",
        help="measure the GPUs as well: products, all-reduce, errors, clocks; N = GPUs of each machine",
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="check N nodes of the cluster, through srun")
    parser.add_argument(
        "--srun",
        action="append",
        default=[],
        metavar="OPTION",
        help="option for srun, such as --srun=--partition=gpu",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    folders = arguments.folders
    if arguments.answer:
        print(answer(socket.gethostname(), folders), end="")
        return 0
    if arguments.nodes is None:
        findings = examine(folders)
    elif arguments.nodes < 1:
        raise UsageError(f"--nodes={arguments.nodes} must be at least 1")
    else:
        findings = examine_nodes(arguments.nodes, folders, arguments.srun)
    if arguments.gpus is not None:
        findings += examine_gpus(arguments.gpus, arguments.nodes or 0, arguments.srun)
    if arguments.json:
        print(json.dumps([finding._asdict() for finding in findings], indent=1))
    else:
        width = shutil.get_terminal_size(fallback=(110, 24)).columns
        for what, level, found, remedy in findings:
            print(_wrapped(f"{_MARKS[level]} {what}: {found}", width))
            if remedy:
                print(_wrapped(f"        -> {remedy}", width))
    return int(any(finding.level == "failure" for finding in findings))


def _wrapped(line: str, width: int) -> str:
    """The line, wrapped between words, and indented after its first words."""
    indent = " " * (11 if line.startswith(" ") else 8)
    lines = textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines)


def examine(folders: Sequence[Path] = ()) -> list[Finding]:
    """All findings about this machine and this checkout, in the order for the reader.

    Args:
        folders: folders to check like the checkout, such as those of shards and runs.
    """
    cluster = list(_slurm())
    return _findings(cluster, folders, shared=len(cluster) > 1)


def examine_gpus(gpus: int, nodes: int, options: Sequence[str]) -> list[Finding]:
    """What the driver reports of this machine's GPUs, and what they compute and exchange.

    Args:
        gpus: number of GPUs of each machine; 0 for as many as the driver reports here.
        nodes: number of nodes that work together through srun; 0 for this machine alone.
        options: more options for srun, such as `--gpus-per-node=8`.

    Raises:
        UserError: if their work fails or does not end.
    """
    found = list(driver())
    number = gpus or sum(finding.what.startswith("GPU ") for finding in found)
    return [*found, *(work(nodes, number, options) if number else [])]


def _findings(cluster: Sequence[Finding], folders: Sequence[Path], shared: bool) -> list[Finding]:
    return [
        checks.python(),
        *checks.libraries(),
        *checks.namesakes(),
        *cluster,
        *(checks.folder(path, shared) for path in dict.fromkeys((ROOT, *map(Path.resolve, folders)))),
        checks.address(),
        checks.ports(),
        checks.gpus(),
        checks.shared_memory(),
        *checks.limits(),
        checks.wandb(),
    ]


def examine_nodes(nodes: int, folders: Sequence[Path], options: Sequence[str]) -> list[Finding]:
    """The findings of several nodes, each from its own job step; they begin with the nodes' names.

    Args:
        nodes: number of nodes.
        folders: same as for `examine`; every node must see the same ones.
        options: more options for srun, such as `--partition=gpu`.

    Raises:
        UserError: if no cluster answers, or a node could not run the doctor, with its output.
    """
    cluster = list(_slurm())
    if len(cluster) == 1:
        raise UserError(f"--nodes needs a cluster, but Slurm here is: {cluster[0].found}; go to a login node")
    paths = list(dict.fromkeys(str(path.resolve()) for path in folders))
    step = ["srun", f"--nodes={nodes}", "--ntasks-per-node=1", "--time=5", "--kill-on-bad-exit=0"]
    step += [f"--immediate={_PATIENCE}", *options]
    command = [*step, sys.executable, "-m", "slurm", "doctor", "--answer", *paths]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    lines = [line.removeprefix(_ANSWER) for line in run.stdout.splitlines() if line.startswith(_ANSWER)]
    answers = sorted((json.loads(line) for line in lines), key=lambda line: line["node"])
    silent = nodes - len({line["node"] for line in answers})
    if silent:
        raise UserError(
            f"{silent} of {nodes} nodes could not run `{sys.executable} -m slurm doctor` in "
            f"{ROOT}: {' '.join(run.stderr.split()[-40:])}; are both on a file system that every node sees?"
        )
    return [*cluster, *_grouped(answers, nodes), *(_same(path, answers) for path in (__file__, *paths))]


def answer(node: str, folders: Sequence[Path]) -> str:
    """A node's findings, and the identities of folders, which show whether they are shared, as lines of JSON.

    Each has its own line: srun keeps lines of different nodes apart up to 1024 bytes only.
    """
    findings = _findings((), folders, shared=False)  # by their kind; `seen` is certain
    lines: list[dict[str, Any]] = [{"node": node, "finding": finding} for finding in findings]
    lines += [{"node": node, "seen": str(p), "as": _identity(p)} for p in (Path(__file__), *folders)]
    return "".join(f"{_ANSWER}{json.dumps(line)}\n" for line in lines)


def _grouped(answers: Sequence[dict[str, Any]], nodes: int) -> list[Finding]:
    """The nodes' findings, each once, with the names of the nodes that have it."""
    having: dict[Finding, list[str]] = {}
    for line in answers:
        if "finding" in line:
            having.setdefault(Finding(*line["finding"]), []).append(line["node"])
    result = []
    for finding, names in having.items():
        who = f"all {nodes} nodes" if len(names) == nodes else ", ".join(names)
        result.append(finding._replace(what=f"{who}: {finding.what}"))
    return result


def _identity(path: Path) -> list[int]:
    """The identity of a file or folder, whatever its name; folders in use change their times."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_ino] + [status.st_mtime_ns] * path.is_file()


def _same(path: str, answers: Sequence[dict[str, Any]]) -> Finding:
    here = _identity(Path(path))
    other = [line["node"] for line in answers if line.get("seen") == path and line["as"] != here]
    if other:
        remedy = "it must be one and the same, on a file system that all nodes mount"
        return Finding("one for all nodes", "failure", f"{path} is another on {', '.join(other)}", remedy)
    return Finding("one for all nodes", "ok", f"{path}")


def _slurm() -> Iterator[Finding]:
    """Slurm's version and settings; one finding if there is no Slurm, or none that answers."""
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        yield Finding("Slurm", "ok", "none on this machine; `python -m slurm submit --local` runs jobs here")
        return
    try:
        run = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=10)
        said, answers = run.stderr, run.returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        said, answers = str(error), False
    if "configuration source" in said:
        yield Finding("Slurm", "ok", f"{sbatch}, but this machine belongs to no cluster")
        return
    if not answers:
        remedy = "ask `scontrol ping`; the controller must answer before anything can be submitted"
        yield Finding("Slurm", "failure", f"{sbatch}, but its controller does not answer", remedy)
        return
    config = dict(re.findall(r"^(\w+) *= *(.*?) *$", run.stdout, re.MULTILINE))
    version, name = config.get("SLURM_VERSION", "?"), config.get("ClusterName", "?")
    yield Finding("Slurm", "ok", f"{version}, cluster {name}")
    yield from _settings(config)


def _settings(config: dict[str, str]) -> Iterator[Finding]:
    """Settings of slurm.conf on which restarts and saves depend."""
    if config.get("JobRequeue") == "0":
        remedy = "slurm/*.sh ask for it by --requeue; where that is refused, `slurm submit --chain N`"
        yield Finding("requeue", "warning", "off by default on this cluster (JobRequeue=0)", remedy)
    digits = re.match(r"\d+", config.get("KillWait", ""))
    grace = int(digits[0]) if digits else _GRACE
    level: Level = "ok" if grace >= _GRACE else "warning"
    remedy = "a large checkpoint may take longer than scancel leaves: `scancel --signal=USR1` stops gently"
    found = f"{grace} s (KillWait)"
    yield Finding("time to save at scancel", level, found, "" if level == "ok" else remedy)
    if "associations" in config.get("AccountingStorageEnforce", ""):
        yield Finding("account", "ok", "jobs need one: --account, or your default (`sacctmgr show user`)")
