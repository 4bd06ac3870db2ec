"""Which rank keeps the others waiting: every rank reports its position; a stall is reported and ended.

A thread of each rank notes in torch.distributed's store how far its main thread has come: the number of
places that it has passed and of collective calls that it has issued, with the one that it waits for. When
nothing has moved for too long, the ranks that came least far hang, and the others wait for them. Where they
wait makes no difference: with gloo in the collective call itself, with NCCL wherever the answer is asked for,
such as `.item()`. Only the end of the process frees them. Whoever notices first tells the rest through the
store; each writes down its stack and its last collective calls, and none ends before all had the time to.
"""

import faulthandler
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from intarsia.errors import EXIT_FAILURE
from training.ranks.meeting import store_key

log = logging.getLogger("training")
_EXCHANGES = ".exchanges.json"  # what torch's flight recorder has of the last collective calls


@dataclass(frozen=True)
class Beat:
    """How far a rank has come.

    Attributes:
        rank: number of the rank.
        passed: number of places that it has passed and of collective calls that it has issued.
        place: the last of them.
        host: name of its machine.
        line: line of code of its main thread.
        waiting: whether that is in a call which needs the other ranks.
    """

    rank: int
    passed: int
    place: str
    host: str
    line: str = ""
    waiting: bool = False


def describe_stall(beats: Sequence[Beat], seconds: float) -> str:
    """One sentence that names the ranks that hang, as far as they are known."""
    fewest = min(beat.passed for beat in beats)
    behind = [beat for beat in beats if beat.passed == fewest]
    behind = [beat for beat in behind if not beat.waiting] or behind
    way_out = "the stack is in its log; run the same command again, or raise distributed_timeout_s"
    if len(behind) == len(beats):
        return (
            f"no rank has moved for {seconds:.0f} s, all stand at {behind[0].place!r} after the same number "
            f"of exchanges, so a GPU or the network hangs (see logs/rank-N{_EXCHANGES}); {way_out}"
        )
    names = ", ".join(
        f"rank {beat.rank} (host {beat.host}) at {beat.place!r} {beat.line}".strip() for beat in behind
    )
    return f"{names} has not moved for {seconds:.0f} s and the other ranks wait; {way_out}"


class Watchdog:
    """Ends this process with exit code 1 and a sentence when its main thread has stood still for too long.

    Args:
        rank: ours.
        size: number of ranks.
        timeout_s: time without progress that is a stall, seconds.
    """

    def __init__(self, rank: int, size: int, timeout_s: float) -> None:
        from torch.distributed import TCPStore

        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        # A connection of our own: the main thread's may be blocked in just the call that hangs.
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = TCPStore(address, port, is_master=False, timeout=timedelta(seconds=max(timeout_s, 30)))
        self._beat, self._since = Beat(rank, 0, "start", socket.gethostname()), time.monotonic()
        self._stopped = threading.Event()
        self.tell: Callable[[str], None] = lambda sentence: None
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def at(self, place: str) -> None:
        """Note that the main thread is at a place; all ranks come to the same ones in the same order."""
        self._beat = Beat(self.rank, self._beat.passed + 1, place, self._beat.host)
        self._since = time.monotonic()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()

    @property
    def _pause(self) -> float:
        return min(self.timeout_s / 4, 15)

    def _watch(self) -> None:
        while not self._stopped.wait(self._pause):
            stood = time.monotonic() - self._since
            try:
                beat = self._beat
                beat = replace(beat, passed=beat.passed + _issued(), **_where_the_main_thread_stands())
                self._store.set(store_key(f"beat/{self.rank}"), json.dumps(asdict(beat)))
                if stood > self.timeout_s and not self._store.check([store_key("stall")]):
                    self._store.set(store_key("stall"), describe_stall(self._beats(), self.timeout_s))
                if self._store.check([store_key("stall")]):
                    self._give_up(self._store.get(store_key("stall")).decode())
            except RuntimeError as error:  # the store is gone, and rank 0 with it
                if stood > self.timeout_s:
                    self._give_up(f"rank 0 cannot be reached ({str(error).splitlines()[0]})")

    def _beats(self) -> list[Beat]:
        beats = []
        for rank in range(self.size):
            key = store_key(f"beat/{rank}")
            known = self._store.get(key) if self._store.check([key]) else None
            beats.append(Beat(**json.loads(known)) if known else Beat(rank, -1, "start", "unknown"))
        return beats

    def _give_up(self, sentence: str) -> Any:
        if self._stopped.is_set():
            return
        log.error(sentence, extra={"file_only": True})
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler) and handler.stream:
                faulthandler.dump_traceback(handler.stream, all_threads=True)
                with suppress(OSError, RuntimeError):
                    Path(handler.baseFilename).with_suffix(_EXCHANGES).write_bytes(_last_exchanges())
        sys.stderr.write(f"error: {sentence}\n")
        sys.stderr.flush()
        telling = threading.Thread(target=self.tell, args=(sentence,), daemon=True)
        telling.start()
        telling.join(10)  # it may need what the main thread holds
        time.sleep(self._pause + 1)  # once one of us ends, the launcher ends the others
        os._exit(EXIT_FAILURE)  # the main thread stands in a call that no exception reaches


def _issued() -> int:
    """How many collective calls this process has issued in all its groups, done or not."""
    from torch.distributed import distributed_c10d

    groups = tuple(distributed_c10d._world.pg_map)
    return sum(int(group._get_sequence_number_for_group()) for group in groups)


def _last_exchanges() -> bytes:
    """The last collective calls and how far each has come, as JSON of torch's flight recorder."""
    from torch._C import _distributed_c10d as c10d

    dump = getattr(c10d, "_dump_nccl_trace_json", None) or getattr(c10d, "_dump_fr_trace_json", None)
    return b"" if dump is None else bytes(dump())


def _where_the_main_thread_stands() -> dict[str, Any]:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    line, waiting = "", False
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        line = line or f"({path.name}:{frame.f_lineno})"
        waiting = waiting or path.parts[-3:-1] == ("torch", "distributed")
        frame = frame.f_back
    return {"line": line, "waiting": waiting}
