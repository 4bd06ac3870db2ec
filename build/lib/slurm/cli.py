"""`python -m slurm`: what a user asks of a cluster."""

import argparse
import json
import shutil
import socket
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from intarsia.command_line import Parser
from intarsia.errors import UsageError, run_command

_MARKS = {"ok": "ok     ", "warning": "warning", "failure": "FAILURE"}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(_command, argv)


def _command(argv: Sequence[str]) -> int:
    if argv and argv[0] == "submit":
        from slurm import submit

        return submit.command(argv[1:])
    parser = Parser(prog="python -m slurm", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("submit", help="submit a job, a chain, an array or a sweep", add_help=False)
    doctor = commands.add_parser(
        "doctor", help="check this machine and this checkout; exit code 1 on a failure"
    )
    doctor.add_argument(
        "folders", nargs="*", type=Path, metavar="FOLDER", help="of shards and runs, to be checked as well"
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    doctor.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)  # a node's, to --nodes
    doctor.add_argument("--nodes", type=int, metavar="N", help="examine N nodes of the cluster, through srun")
    doctor.add_argument(
        "--srun", action="append", default=[], metavar="OPTION", help="of srun: --srun=--partition=gpu"
    )
    return _doctor(parser.parse_args(argv))


def _doctor(arguments: argparse.Namespace) -> int:
    from slurm.doctor import answer, examine, examine_nodes

    folders = arguments.folders
    if arguments.answer:
        sys.stdout.write(answer(socket.gethostname(), folders))
        return 0
    if arguments.nodes is None:
        findings = examine(folders)
    elif arguments.nodes < 1:
        raise UsageError(f"--nodes={arguments.nodes} must be at least 1")
    else:
        findings = examine_nodes(arguments.nodes, folders, arguments.srun)
    if arguments.json:
        sys.stdout.write(json.dumps([finding._asdict() for finding in findings], indent=1) + "\n")
    else:
        width = shutil.get_terminal_size(fallback=(110, 24)).columns
        for what, level, found, remedy in findings:
            sys.stdout.write(_wrapped(f"{_MARKS[level]} {what}: {found}", width))
            sys.stdout.write(_wrapped(f"        -> {remedy}", width) if remedy else "")
    return int(any(finding.level == "failure" for finding in findings))


def _wrapped(line: str, width: int) -> str:
    """The line, broken between words, and indented below its first words."""
    indent = " " * (11 if line.startswith(" ") else 8)
    lines = textwrap.wrap(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(lines) + "\n"
