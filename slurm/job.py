"""A job as pure text and parameters: nothing here submits, and nothing heavy is imported.

The #SBATCH lines of slurm/KIND.sh are the defaults of every option, so that `sbatch slurm/train.sh` and
`python -m slurm submit train` cannot differ.
"""

import difflib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intarsia.errors import UsageError

# Kind of job -> the command of one rank, or of one part of an array, on a machine without Slurm.
KINDS: Mapping[str, tuple[str, ...]] = {
    "train": ("-m", "training"),
    "sample": ("-m", "sampling", "batch"),
    "evaluate": ("-m", "evaluation"),
    "dataprep": ("-m", "dataprep"),
}
_SHARDED = ("sample", "evaluate")  # a part of their array gets --shard i/n
# Options of sbatch that submitit does not know, and those of its own that we set.
_MORE = ("begin", "licenses", "mail-user", "nice", "priority", "requeue", "reservation", "signal", "tmp")
_OURS = {"array_parallelism", "additional_parameters", "num_gpus", "setup", "teardown", "srun_args"}
_OURS |= {"use_srun", "stderr_to_stdout", "signal_delay_s"}
_MINUTES = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")


@dataclass(frozen=True)
class JobSpec:
    """One job, or one job array.

    Attributes:
        kind: key of `KINDS`; slurm/KIND.sh runs.
        parts: the arguments of that script, for each part of an array; one part is a plain job.
        options: options of sbatch by their long names without dashes; they override the script's header.
        at_once: limit of parts of an array that run at the same time.
    """

    kind: str
    parts: tuple[tuple[str, ...], ...]
    options: Mapping[str, str | bool] = field(default_factory=dict)
    at_once: int = 256

    @property
    def script(self) -> str:
        """The job's script, from the root of the checkout."""
        return f"slurm/{self.kind}.sh"

    def merged_options(self, root: Path) -> dict[str, str | bool]:
        """The script's header below the user's options; a GPU gets a task of its own."""
        options = header_options((root / self.script).read_text(encoding="utf-8")) | dict(self.options)
        if "gpus-per-node" in self.options and "ntasks-per-node" not in self.options and self.kind == "train":
            options["ntasks-per-node"] = str(number_of(options, "gpus-per-node"))
        return options

    def parameters(self, root: Path) -> dict[str, Any]:
        """The parameters of submitit's SlurmExecutor.

        Raises:
            UsageError: for a time that Slurm would not understand.
        """
        known, additional = submitit_options(), {}
        parameters: dict[str, Any] = {"wckey": None, "stderr_to_stdout": True, "use_srun": False}
        for name, value in self.merged_options(root).items():
            if name == "time":
                parameters["time"] = minutes(str(value))
            elif name.replace("-", "_") in known:
                number = isinstance(value, str) and value.isdecimal()
                parameters[name.replace("-", "_")] = int(value) if number else value
            elif name not in ("output", "open-mode"):  # submitit's own
                additional[name] = value
        return parameters | {"array_parallelism": self.at_once, "additional_parameters": additional}

    def sbatch_text(self, command: str, folder: Path, root: Path, dependency: str | None = None) -> str:
        """The whole text that sbatch gets.

        Args:
            command: command that starts one part of the job.
            folder: submitit's folder of logs and pickles.
            root: root of the checkout.
            dependency: value of sbatch's --dependency.
        """
        from submitit.slurm.slurm import _make_sbatch_string

        parameters = self.parameters(root) | ({"dependency": dependency} if dependency else {})
        if len(self.parts) > 1:
            parameters["map_count"] = len(self.parts)
        return _make_sbatch_string(command=command, folder=folder, **parameters)

    def local_command(self, part: int) -> list[str]:
        """The arguments of python for a part of the job on this machine."""
        command = [*KINDS[self.kind], *self.parts[part]]
        divided = self.kind in _SHARDED and len(self.parts) > 1
        return [*command, "--shard", f"{part}/{len(self.parts)}"] if divided else command


def number_of(options: Mapping[str, str | bool], name: str, default: int = 1) -> int:
    """The number that an option of sbatch gives; of `h100:8` the 8.

    Raises:
        UsageError: if it is not a number.
    """
    text = str(options.get(name, default)).rpartition(":")[2]
    if not text.isdecimal():
        raise UsageError(
            f"--{name}={options[name]} is not a number; write one, such as 2, or for GPUs h100:8"
        )
    return int(text)


def header_options(script: str) -> dict[str, str | bool]:
    """The options in a script's #SBATCH lines; one without a value is True."""
    found = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?", script, re.MULTILINE)
    return {name: value or True for name, value in found}


def submitit_options() -> frozenset[str]:
    """The options of sbatch that submitit knows, spelt with underscores, from its own signature."""
    from submitit.slurm.slurm import _get_default_parameters

    return frozenset(_get_default_parameters()) - _OURS


def valid_options() -> list[str]:
    """Every option of sbatch that `submit` passes on."""
    return sorted({name.replace("_", "-") for name in submitit_options()} | set(_MORE))


def refuse_unknown(words: Sequence[str], valid: Sequence[str]) -> None:
    """Refuse unknown options.

    Raises:
        UsageError: with the first one, a similar valid one, and all valid ones.
    """
    for word in words:
        if word.startswith("-"):
            name = word.lstrip("-").partition("=")[0]
            close = difflib.get_close_matches(name, valid, n=1)
            hint = f"did you mean --{close[0]}? " if close else ""
            raise UsageError(
                f"unknown option --{name}; {hint}put options of the script after `--`; "
                f"valid before it: {', '.join(f'--{v}' for v in valid)}"
            )


def minutes(time: str) -> int:
    """Slurm's ways to write a time limit (90, 4:30:00, 1-12, 1-12:00:00, 30:00) in minutes, rounded up.

    Raises:
        UsageError: for anything else.
    """
    match = _MINUTES.fullmatch(time)
    if match is None:
        raise UsageError(f"--time={time} is not a time; write minutes, hours:minutes:seconds or days-hours")
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is not None:
        hours, mins, seconds = (*parts, 0, 0)[:3]
        hours += 24 * int(match["days"])
    elif len(parts) == 3:
        hours, mins, seconds = parts
    else:
        hours, (mins, seconds) = 0, (*parts, 0)[:2]
    return hours * 60 + mins + (seconds > 0)


def parse_array(text: str) -> tuple[int, int]:
    """`0-7%4` as (8 parts, 4 at the same time); without `%` all at the same time.

    Raises:
        UsageError: for anything that is not of this form.
    """
    match = re.fullmatch(r"0-(\d+)(?:%(\d+))?", text)
    if match is None or match[2] == "0":
        raise UsageError(f"--array={text} does not have the form 0-LAST or 0-LAST%AT_ONCE, such as 0-7%4")
    parts = int(match[1]) + 1
    return parts, int(match[2] or parts)


def sweep_runs(arguments: Sequence[str], axes: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The product of several `a.b=1,2,3`: the arguments of each run, with a folder of its own in `run`.

    Raises:
        UsageError: for an axis of another form, a key or value that appears twice, or arguments without
            run=FOLDER.
    """
    keys, columns = [], []
    for axis in axes:
        key, equals, values = axis.partition("=")
        column = re.findall(r"(?:\[[^\]]*\]|\{[^}]*\}|[^,\[{])+", values)  # commas inside brackets stay
        if not equals or not key or not column or key in keys or key == "run":
            raise UsageError(
                f"--sweep {axis!r} does not have the form a.b=1,2,3, with each key once and not run"
            )
        if len(set(column)) < len(column):
            raise UsageError(f"--sweep {axis!r} has the same value twice; two runs would share a folder")
        keys.append(key)
        columns.append(column)
    runs = [word for word in arguments if word.startswith("run=")]
    if not runs:
        raise UsageError("a sweep needs run=FOLDER; each of its runs gets a folder in it")
    others = [word for word in arguments if not word.startswith("run=")]
    short = [key.rpartition(".")[2] for key in keys]
    names = short if len(set(short)) == len(short) else keys
    result = []
    for chosen in itertools.product(*columns):
        name = ",".join(f"{key}={value.replace('/', '_')}" for key, value in zip(names, chosen, strict=True))
        settings = [f"{key}={value}" for key, value in zip(keys, chosen, strict=True)]
        result.append((*others, *settings, f"{runs[-1]}/{name}"))
    return tuple(result)
