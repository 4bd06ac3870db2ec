"""One run at a time in a run folder, and none kept out by a run that no longer lives."""

import errno
import fcntl
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

from intarsia.errors import UserError
from training.ranks.distributed import World
from training.run.state import RunFolder

log = logging.getLogger("training")
_ANOTHER = "take another run="


@dataclass(frozen=True)
class Holder:
    """Who trains in a folder.

    Attributes:
        host: name of its machine.
        pid: number of its process.
        job: number of its Slurm job; empty without Slurm.
        start: number of times that Slurm has restarted the job.
    """

    host: str
    pid: int
    job: str = ""
    start: int = 0

    @classmethod
    def ourselves(cls, environ: Mapping[str, str]) -> "Holder":
        """This process."""
        job, start = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_RESTART_COUNT", "0")
        return cls(socket.gethostname(), os.getpid(), job, int(start))

    def was_ended_for(self, other: "Holder") -> bool:
        """Whether Slurm ended it before it started `other`: the same job, requeued."""
        return bool(self.job) and self.job == other.job and self.start < other.start

    def __str__(self) -> str:
        job = f", Slurm job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


@contextmanager
def claimed(run: RunFolder, world: World) -> Iterator[None]:
    """Hold a run folder against other runs inside the block. Collective.

    Rank 0 holds a POSIX lock on RUN/.lock, which no child inherits: the kernel, or the file server, drops it
    when the process ends, however that is. A server may take minutes to find out that a node is lost; so a
    job which Slurm has requeued does not ask for the lock of its own earlier start.

    Raises:
        UserError: on every rank, naming who holds the folder.
    """
    with ExitStack() as held:
        refusal = None
        try:
            if world.is_main:
                held.enter_context(_lock(run, Holder.ourselves(os.environ)))
        except UserError as error:
            refusal = error
        except OSError as error:
            refusal = UserError(f"{run.lock} cannot be written ({error.strerror}); {_ANOTHER}")
        world.from_main(refusal)
        yield


def _lock(run: RunFolder, us: Holder) -> TextIO:
    """The locked file; closing it gives the lock back."""
    while True:
        try:
            file = run.lock.open("a+", encoding="utf-8")
        except OSError as error:
            raise UserError(f"{run.lock} cannot be written ({error.strerror}); {_ANOTHER}") from None
        file.seek(0)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                with file:
                    _take_over(run, file.read(), us)
                continue
            log.warning("%s: this file system has no locks; start no second run in the folder", run.root)
        if _is_at(run.lock, file):
            file.truncate(0)
            file.write(json.dumps(asdict(us)))
            file.flush()
            return file
        file.close()


def _take_over(run: RunFolder, text: str, us: Holder) -> None:
    """Put a held lock out of the way if Slurm has ended its holder; refuse otherwise."""
    try:
        holder = Holder(**json.loads(text))
    except (ValueError, TypeError):  # it has yet to write who it is
        holder = None
    if holder is None or not holder.was_ended_for(us):
        raise UserError(
            f"run={run.root} is in use by {holder or 'another process'}; wait for its end, take another run "
            f"folder or, where that machine is lost, delete {run.lock}"
        )
    run.lock.unlink(missing_ok=True)


def _is_at(path: Path, file: TextIO) -> bool:
    """Whether an open file is the one at `path`; to open that one, too, and close it would drop our lock."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
