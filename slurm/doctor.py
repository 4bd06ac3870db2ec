"""What is wrong with this machine or checkout, before a job finds out. Imports nothing heavy."""

import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("intarsia", "dataprep", "sampling", "evaluation", "training", "slurm")
_LIBRARIES = {  # what each extra brings
    "sampling": ("torch", "diffusers", "transformers"),
    "dataprep": ("ray", "pyarrow", "pycocotools", "opencv-python-headless", "simplejpeg"),
    "training": ("deepspeed", "wandb"),
    "slurm": ("submitit",),
}
_GIB = 1024**3


class Finding(NamedTuple):
    """One check: what was looked at, what was found, and the remedy where it is not in order."""

    what: str
    level: Literal["ok", "warning", "failure"]
    found: str
    remedy: str = ""


def examine() -> list[Finding]:
    """All findings about this machine and this checkout, in the order in which a user should read them."""
    return [
        _python(),
        *_libraries(),
        *_namesakes(),
        _slurm(),
        _gpus(),
        _shared_memory(),
        _open_files(),
        _wandb(),
    ]


def _python() -> Finding:
    return Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def _libraries() -> Iterator[Finding]:
    for extra, names in _LIBRARIES.items():
        versions, missing = [], []
        for name in names:
            try:
                versions.append(f"{name} {importlib.metadata.version(name)}")
            except importlib.metadata.PackageNotFoundError:
                missing.append(name)
        if missing:
            remedy = f"pip install -c constraints.txt -e '.[{extra}]'"
            yield Finding(f"libraries of {extra}", "warning", f"missing: {', '.join(missing)}", remedy)
        else:
            yield Finding(f"libraries of {extra}", "ok", ", ".join(versions))


def _namesakes() -> Iterator[Finding]:
    """Other distributions install a `training`, `dataprep` or `slurm` too; say where they lie in wait."""
    for name in _PACKAGES:
        strangers = [
            str(Path(entry) / name)
            for entry in dict.fromkeys(sys.path)
            if entry and Path(entry).resolve() != _ROOT and (Path(entry) / name / "__init__.py").is_file()
        ]
        spec = importlib.util.find_spec(name)
        ours = spec is not None and spec.origin is not None and Path(spec.origin).parent.parent == _ROOT
        if not ours:
            found = f"`{name}` is {spec.origin if spec else 'not importable'}, not this checkout's"
            yield Finding("package names", "failure", found, f"run `python -m {name}` from {_ROOT}")
        elif strangers:
            remedy = "always `python -m` from the repository root; a console script would find a mixture"
            yield Finding("package names", "warning", f"`{name}` also lies in {', '.join(strangers)}", remedy)


def _slurm() -> Finding:
    sbatch = shutil.which("sbatch")
    if sbatch is None:
        return Finding("Slurm", "warning", "no sbatch here", "submit from a login node of the cluster")
    return Finding("Slurm", "ok", sbatch)


def _gpus() -> Finding:
    driver = Path("/proc/driver/nvidia/gpus")
    count = len(list(driver.iterdir())) if driver.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if count == 0:
        remedy = "expected on a login node; without any, only toy models train in reasonable time"
        return Finding("GPUs", "warning", "none on this machine", remedy)
    if visible == "":
        return Finding("GPUs", "failure", f"{count}, but CUDA_VISIBLE_DEVICES hides them all", "unset it")
    return Finding("GPUs", "ok", f"{count}" + (f", CUDA_VISIBLE_DEVICES={visible}" if visible else ""))


def _shared_memory() -> Finding:
    if not Path("/dev/shm").is_dir():
        return Finding(
            "/dev/shm", "failure", "absent", "data loader workers and Ray need it: mount a tmpfs there"
        )
    free = shutil.disk_usage("/dev/shm").free / _GIB
    if free < 1:
        remedy = "data loader workers and Ray need 1 GiB: enlarge it (`--shm-size` in a container)"
        return Finding("/dev/shm", "warning", f"{free:.1f} GiB free", remedy)
    return Finding("/dev/shm", "ok", f"{free:.1f} GiB free")


def _open_files() -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 4096:
        return Finding("open files", "warning", f"limit {soft}", f"ulimit -n {min(hard, 65536)}")
    return Finding("open files", "ok", f"limit {soft}")


def _wandb() -> Finding:
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if os.environ.get("WANDB_API_KEY") or (netrc.is_file() and "wandb" in netrc.read_text(errors="replace")):
        return Finding("W&B", "ok", "logged in")
    remedy = "`wandb login` to see runs live; offline runs are uploaded later by `wandb sync`"
    return Finding("W&B", "warning", "not logged in: runs are written offline", remedy)
