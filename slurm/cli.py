"""`python -m slurm`: what a user asks of a cluster."""

import argparse
import json
import sys
from collections.abc import Sequence

from intarsia.errors import run_command
from slurm import submit
from slurm.doctor import Finding, examine

_MARKS = {"ok": "ok     ", "warning": "warning", "failure": "FAILURE"}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return run_command(_command, argv)


def _command(argv: Sequence[str]) -> int:
    if argv and argv[0] == "submit":
        return submit.command(argv[1:])
    parser = argparse.ArgumentParser(
        prog="python -m slurm", description=__doc__, epilog="--debug shows the whole traceback of an error."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("submit", help="submit a job, a chain, an array or a sweep", add_help=False)
    doctor = commands.add_parser(
        "doctor", help="check this machine and this checkout; exit code 1 on a failure"
    )
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    arguments = parser.parse_args(argv)
    return _doctor(arguments.json)


def _doctor(as_json: bool) -> int:
    findings = examine()
    if as_json:
        sys.stdout.write(json.dumps([finding._asdict() for finding in findings], indent=1) + "\n")
    else:
        sys.stdout.write("".join(_line(finding) for finding in findings))
    return int(any(finding.level == "failure" for finding in findings))


def _line(finding: Finding) -> str:
    remedy = f"\n        -> {finding.remedy}" if finding.remedy else ""
    return f"{_MARKS[finding.level]} {finding.what}: {finding.found}{remedy}\n"
