"""Checks of this machine and this checkout, one function each. Imports nothing heavy."""

import importlib.metadata
import importlib.util
import os
import platform
import resource
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from intarsia.files import ROOT
from training.ranks.distributed import PORTS

_PROC, _SYS, _SHM = Path("/proc"), Path("/sys"), Path("/dev/shm")
_PACKAGES = ("intarsia", "dataprep", "sampling", "evaluation", "training", "slurm")
_LIBRARIES = {  # what each extra brings
    "sampling": ("torch", "diffusers", "transformers"),
    "dataprep": ("ray", "pyarrow", "pycocotools", "opencv-python-headless", "simplejpeg"),
    "training": ("deepspeed", "peft", "wandb"),
    "slurm": ("submitit",),
}
_LOCAL_DISKS = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "overlay", "tmpfs", "ramfs", "f2fs")
_GIB = 1024**3
Level = Literal["ok", "warning", "failure"]


class Finding(NamedTuple):
    """One check: its subject, what was found, and the remedy if it is not in order."""

    what: str
    level: Level
    found: str
    remedy: str = ""


def python() -> Finding:
    """Which interpreter this is."""
    return Finding("Python", "ok", f"{platform.python_version()} in {sys.prefix}")


def libraries() -> Iterator[Finding]:
    """The versions of what each extra brings."""
    for extra, names in _LIBRARIES.items():
        versions = {name: _version(name) for name in names}
        missing = [name for name, version in versions.items() if version is None]
        if missing:
            remedy = f"pip install -c constraints.txt -e '.[{extra}]'"
            yield Finding(f"libraries of {extra}", "warning", f"missing: {', '.join(missing)}", remedy)
        else:
            found = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield Finding(f"libraries of {extra}", "ok", found)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def namesakes() -> Iterator[Finding]:
    """Other distributions that install packages of our names, such as `training`, and where they are."""
    for name in _PACKAGES:
        strangers = [
            str(Path(entry) / name)
            for entry in dict.fromkeys(sys.path)
            if entry
            and Path(entry).resolve() != ROOT
            and (Path(entry) / name / "__init__.py").is_file()
            and (Path(entry) / name / "_packages").resolve() != ROOT  # the door of an installed copy
        ]
        spec = importlib.util.find_spec(name)
        ours = spec is not None and spec.origin is not None and Path(spec.origin).parent.parent == ROOT
        if not ours:
            found = f"`{name}` is {spec.origin if spec else 'not importable'}, not this checkout's"
            yield Finding("package names", "failure", found, f"run `python -m {name}` from {ROOT}")
        elif strangers:
            remedy = "`python -m` from the repository root, and the command `intarsia`, find ours in any case"
            yield Finding("package names", "warning", f"`{name}` is also in {', '.join(strangers)}", remedy)


def folder(path: Path, on_cluster: bool) -> Finding:
    """Whether other nodes can see a folder, by the kind of its file system, and its free space."""
    if not path.is_dir():
        return Finding("folder", "failure", f"{path} does not exist", "make it, or mount its file system")
    kind, free = _file_system(path.resolve()), shutil.disk_usage(path).free / _GIB
    found = f"{path} is on {kind}, {free:.0f} GiB free"
    if kind in _LOCAL_DISKS and on_cluster:
        remedy = "`slurm doctor --nodes 2` is certain; checkout, shards and runs belong on a shared disk"
        return Finding("shared file system", "warning", f"{found}: a local disk", remedy)
    return Finding("shared file system", "ok", found)


def _file_system(path: Path) -> str:
    """The kind of file system that a path is on, by the kernel's table of mounts."""
    best, kind = -1, "unknown"
    for line in (_PROC / "self/mounts").read_text(encoding="utf-8").splitlines():
        _, point, this, *_ = line.split()
        point = point.replace("\\040", " ")  # the table's way to write a space
        if path.is_relative_to(point) and len(point) >= best:
            best, kind = len(point), this
    return kind


def address() -> Finding:
    """The address of this host for other ranks: gloo and NCCL use the address of its name."""
    name = socket.gethostname()
    try:
        found = socket.gethostbyname(name)
    except OSError:
        remedy = "ranks on other nodes cannot find it: add it to the hosts file or the name server"
        return Finding("host name", "warning", f"{name} has no address", remedy)
    if found.startswith("127."):
        remedy = "over several nodes set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network's interface"
        return Finding("host name", "warning", f"{name} is {found}, which only this host sees", remedy)
    return Finding("host name", "ok", f"{name} is {found}")


def ports() -> Finding:
    """Whether the ports of training's rendezvous are outside those that the kernel gives to programs."""
    limits = (_PROC / "sys/net/ipv4/ip_local_port_range").read_text(encoding="utf-8").split()
    lowest, (first, last) = int(limits[0]), (PORTS.start, PORTS.stop - 1)
    with socket.socket() as probe:
        try:
            probe.bind(("", last))
        except OSError as error:
            remedy = f"jobs meet at ports {first}-{last}: set MASTER_PORT to one that is free"
            return Finding("ports", "warning", f"{last} cannot be used ({error.strerror})", remedy)
    if lowest <= last:
        remedy = f"set net.ipv4.ip_local_port_range above {last}, or MASTER_PORT below {lowest}"
        return Finding("ports", "warning", f"the kernel gives ports from {lowest} on to programs", remedy)
    return Finding("ports", "ok", f"{first}-{last}, below those that the kernel gives to programs")


def gpus() -> Finding:
    """Whether this machine has visible GPUs that torch can use."""
    driver = _PROC / "driver/nvidia/gpus"
    count = len(list(driver.iterdir())) if driver.is_dir() else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if count == 0:
        remedy = "normal on a login node; without GPUs, only toy models train in reasonable time"
        return Finding("GPUs", "warning", "none on this machine", remedy)
    if visible == "":
        return Finding("GPUs", "failure", f"{count}, but CUDA_VISIBLE_DEVICES hides them all", "unset it")
    if (_version("torch") or "").endswith("+cpu"):
        remedy = "install torch's build for CUDA (pytorch.org has the command)"
        return Finding("GPUs", "failure", f"{count}, but torch {_version('torch')} is without CUDA", remedy)
    return Finding("GPUs", "ok", f"{count}" + (f", CUDA_VISIBLE_DEVICES={visible}" if visible else ""))


def shared_memory() -> Finding:
    """Whether loader workers and Ray have shared memory."""
    if not _SHM.is_dir():
        remedy = "data loader workers and Ray need it: mount a tmpfs there"
        return Finding("/dev/shm", "failure", "absent", remedy)
    free = shutil.disk_usage(_SHM).free / _GIB
    if free < 1:
        remedy = "data loader workers and Ray need 1 GiB: enlarge it (`--shm-size` in a container)"
        return Finding("/dev/shm", "warning", f"{free:.1f} GiB free", remedy)
    return Finding("/dev/shm", "ok", f"{free:.1f} GiB free")


def limits() -> Iterator[Finding]:
    """The shell's limits of a process; jobs inherit them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < 4096:
        wanted = 65536 if hard < 0 else min(hard, 65536)
        yield Finding("open files", "warning", f"limit {soft}", f"ulimit -n {wanted}")
    else:
        yield Finding("open files", "ok", f"limit {'none' if soft < 0 else soft}")
    processes, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if 0 <= processes < 4096:
        remedy = "each rank starts loader workers and threads: ulimit -u 65536"
        yield Finding("processes", "warning", f"limit {processes}", remedy)
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if (_SYS / "class/infiniband").is_dir() and locked >= 0:
        remedy = (
            "NCCL over InfiniBand needs it unlimited: PropagateResourceLimitsExcept=MEMLOCK in slurm.conf"
        )
        yield Finding("locked memory", "warning", f"limit {locked / 1024:.0f} KiB", remedy)


def wandb() -> Finding:
    """Whether curves go to W&B's server."""
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "disabled"):
        remedy = "unset it to see runs live; offline runs are uploaded later by `wandb sync`"
        return Finding("W&B", "warning", f"WANDB_MODE={mode}", remedy)
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    if os.environ.get("WANDB_API_KEY") or (netrc.is_file() and "wandb" in netrc.read_text(errors="replace")):
        return Finding("W&B", "ok", "logged in")
    remedy = "`wandb login` to see runs live; offline runs are uploaded later by `wandb sync`"
    return Finding("W&B", "warning", "not logged in: runs are written offline", remedy)
