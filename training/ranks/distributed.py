"""Who am I among the ranks, how we talk, and how all of us stop after the same step.

Importing this module loads nothing heavy, so that signals are caught from the first moment on.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType
from typing import Any

from intarsia.errors import UserError
from training.ranks.meeting import meet
from training.ranks.watchdog import Watchdog

EXIT_AGAIN = 75  # saved and stopped by a signal: run the same command again (EX_TEMPFAIL)
EXIT_ALONE = 76  # another rank has gone, and it knows why (EX_PROTOCOL)
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
PORTS = range(20_000, 32_000)  # of the rendezvous; below the ephemeral range
_SECONDS_FOR_THE_FIRST = 3  # to end in, so that the launcher hears of it before the ranks it left alone


class LeftAlone(UserError):
    """Another rank has ended. The reason is in that rank's log."""

    exit_code = EXIT_ALONE


class StopFlag:
    """Set by SIGTERM, SIGUSR1 or Ctrl-C, and read at step boundaries."""

    def __init__(self) -> None:
        self.raised = False

    def install(self) -> "StopFlag":
        """Take over the signals. Call it before slow imports: until then a signal kills."""
        for number in _STOP_SIGNALS:
            # Whoever starts us in the background has Ctrl-C ignored, and means it.
            if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._raise)
        return self

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.raised = True
        if number == signal.SIGINT:  # of a person, who may not want to wait
            signal.signal(number, signal.default_int_handler)
            os.write(2, b"saving after the running step; Ctrl-C again ends at once\n")


@dataclass(frozen=True)
class World:
    """This process among the ranks; `control` is a CPU group for small messages."""

    rank: int
    size: int
    device: Any  # torch.device
    control: Any = None
    watchdog: Watchdog | None = None

    def at(self, place: str) -> None:
        """Report our position to the watchdog; every rank passes the same places in the same order."""
        if self.watchdog is not None:
            self.watchdog.at(place)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone writes shared files."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether `flag` holds on at least one rank. Collective."""
        if self.size == 1:
            return flag
        import torch

        shared = torch.tensor([int(flag)])
        torch.distributed.all_reduce(shared, op=torch.distributed.ReduceOp.MAX, group=self.control)
        return bool(shared.item())

    def mean(self, values: list[float]) -> list[float]:
        """The mean over the ranks of each value, in float64 and rank order: it never varies. Collective."""
        if self.size == 1:
            return values
        import torch

        mine = torch.tensor(values, dtype=torch.float64)
        all_of_them = [torch.empty_like(mine) for _ in range(self.size)]
        torch.distributed.all_gather(all_of_them, mine, group=self.control)
        return [sum(column) / self.size for column in zip(*(t.tolist() for t in all_of_them), strict=True)]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, on every rank, in rank order. Collective."""
        if self.size == 1:
            return [value]
        import torch

        box = [None] * self.size
        torch.distributed.all_gather_object(box, value, group=self.control)
        return box

    def from_main(self, value: Any) -> Any:
        """Rank 0's `value` on every rank; an exception sent this way is raised on all of them. Collective."""
        box = [value]
        if self.size > 1:
            import torch

            torch.distributed.broadcast_object_list(box, src=0, group=self.control)
        if isinstance(box[0], BaseException):
            raise box[0]
        return box[0]

    def when_stalled(self, tell: Callable[[str], None]) -> None:
        """Call `tell` with a sentence before the watchdog ends this process."""
        if self.watchdog is not None:
            self.watchdog.tell = tell

    def barrier(self) -> None:
        """Wait for all ranks. Collective."""
        if self.size > 1:
            import torch

            torch.distributed.barrier(group=self.control)


def set_environment(environ: MutableMapping[str, str]) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT, which torch.distributed reads.

    Under torchrun or the deepspeed launcher they are set. Under srun they come from SLURM_*: the
    first host of the step, and a port made from the job's id. Otherwise this process is alone.

    Raises:
        UserError: under srun, where the step's host list cannot be read.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        environ.setdefault("LOCAL_RANK", "0")
        environ.setdefault("MASTER_ADDR", "127.0.0.1")
        environ.setdefault("MASTER_PORT", str(PORTS[0]))
    elif (
        "SLURM_STEP_ID" in environ and "SLURM_PROCID" in environ
    ):  # the second alone also holds in a batch script
        environ["RANK"] = environ["SLURM_PROCID"]
        environ["WORLD_SIZE"] = environ.get("SLURM_STEP_NUM_TASKS") or environ.get("SLURM_NTASKS", "1")
        environ["LOCAL_RANK"] = environ.get("SLURM_LOCALID", "0")
        environ.setdefault("MASTER_ADDR", _first_host(environ))
        job = int(environ.get("SLURM_JOB_ID", "0"))
        environ.setdefault("MASTER_PORT", str(PORTS[job % len(PORTS)]))
    else:
        environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1")
        environ["MASTER_PORT"] = str(_free_port())


def connect(timeout_s: float = 1800, start_timeout_s: float = 600, stop: StopFlag | None = None) -> World:
    """Set the environment up, meet the other ranks, start torch.distributed, and say who we are.

    NCCL with GPUs, gloo without. With more than one rank a watchdog ends a run in which one of them hangs.

    Args:
        timeout_s: longest time without progress, seconds.
        start_timeout_s: longest wait for other ranks at the start, seconds.
        stop: flag that ends this wait.

    Raises:
        UserError: for an unusable Slurm environment, more ranks than GPUs on this machine, and ranks that are
            missing or of another launch.
    """
    set_environment(os.environ)
    import torch

    cuda = torch.cuda.is_available()
    if not cuda:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    # DeepSpeed warns of every optimizer that is not its own, and torch of the calls DeepSpeed makes.
    deepspeed.utils.logger.setLevel("ERROR")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    # DeepSpeed would compile this operation at start, which takes a minute and needs a C++ compiler.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    rank, size, local = (int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if not 0 <= rank < size:
        raise UserError(
            f"RANK={rank} is not one of the {size} ranks of WORLD_SIZE; start all with one launcher"
        )
    device, gpu = torch.device("cpu"), ""
    if cuda:
        device = torch.device("cuda", _gpu_of(local, torch.cuda.device_count()))
        torch.cuda.set_device(device)
        # DeepSpeed takes the GPU of this number, and a task that sees its own GPU alone has it as number 0.
        os.environ["LOCAL_RANK"] = str(device.index)
        gpu = str(getattr(torch.cuda.get_device_properties(device), "uuid", ""))
    stop = stop or StopFlag()
    store = meet(rank, size, start_timeout_s, gpu, lambda: stop.raised) if size > 1 else None
    watchdog = Watchdog(rank, size, timeout_s) if size > 1 else None
    patience = timedelta(seconds=2 * timeout_s + 60)  # the watchdog, which knows names, speaks first
    deepspeed.init_distributed(
        dist_backend="nccl" if cuda else "gloo", auto_mpi_discovery=False, verbose=False, timeout=patience
    )
    del store  # torch.distributed holds it now
    control = torch.distributed.new_group(backend="gloo", timeout=patience) if size > 1 else None
    return World(rank, size, device, control, watchdog)


@contextmanager
def told_when_alone() -> Iterator[None]:
    """Turn the error of a collective call whose other side has gone into a sentence and an exit code.

    Raises:
        LeftAlone: in place of what gloo, NCCL or the store raise then: RuntimeErrors with words of their own.
    """
    try:
        yield
    except RuntimeError as error:
        gone = re.search(
            r"(Connection (closed|reset) by peer|Broken pipe|ncclRemoteError)( \[\S+:\d+)?", str(error)
        )
        if not gone:
            raise
        time.sleep(_SECONDS_FOR_THE_FIRST)
        raise LeftAlone(f"another rank has gone ({gone[0]}); the end of its log says why") from error


def disconnect(world: World) -> None:
    """Leave torch.distributed, all ranks together. Collective.

    Once the first rank has gone with a code that is not 0, the launcher sends SIGTERM to others, and Python
    drops its handlers early when it ends: a rank killed just then would hide the code.
    """
    import torch

    for number in _STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    world.barrier()
    if world.watchdog is not None:
        world.watchdog.stop()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _gpu_of(local_rank: int, visible: int) -> int:
    if visible == 1:  # Slurm often shows each task its own GPU only
        return 0
    if local_rank >= visible:
        raise UserError(
            f"LOCAL_RANK={local_rank} but this process sees {visible} GPUs; start one process for each GPU, "
            "which sees its own GPU alone (--gpus-per-task=1) or all of the node (--gpus-per-node)"
        )
    return local_rank


def _first_host(environ: Mapping[str, str]) -> str:
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    if nodes and not set(nodes) & set("[,"):
        return nodes
    if shutil.which("scontrol") is None:
        raise UserError(
            f"cannot read the hosts of {nodes!r}: scontrol is not found; set MASTER_ADDR yourself"
        )
    run = subprocess.run(
        ["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=False
    )
    if run.returncode or not run.stdout.split():
        raise UserError(
            f"scontrol show hostnames {nodes!r} failed: {run.stderr.strip()}; set MASTER_ADDR yourself"
        )
    return run.stdout.split()[0]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
