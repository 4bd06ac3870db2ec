"""The ranks meet before anything else: who is missing is said after seconds, and minutes end the wait.

torch.distributed would wait without a word for as long as its collective calls may take: half an hour.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

from intarsia.errors import UserError
from intarsia.words import first_of

_SAY_AFTER_S = 10.0  # and again after twice as long, and so on
_TRY_S = 5.0  # of one attempt to connect
_TO_READ_S = 5.0  # rank 0 waits at most so long for the others to read what it found
_NAMES = 8  # ranks that a sentence lists
_WAY_OUT = (
    "start all ranks with one launcher (srun or torchrun), with MASTER_ADDR and MASTER_PORT that each node "
    "can reach, or raise start_timeout_s"
)


def store_key(name: str) -> str:
    """A key of ours in the store that all ranks share; torchrun may keep one store over its restarts."""
    return f"intarsia/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{name}"


class StoppedWhileMeeting(UserError):
    """A stop signal came while the ranks met: nothing is begun, and the same command may be run again."""

    exit_code = 75  # as after a save (EX_TEMPFAIL)


def meet(
    rank: int, size: int, patience_s: float, gpu: str = "", stopped: Callable[[], bool] = lambda: False
) -> Any:
    """Wait until every rank has reached rank 0, and check that they are ranks of one launch.

    Args:
        rank: ours.
        size: number of ranks.
        patience_s: longest wait, seconds.
        gpu: name of the GPU that no other rank may use; empty without one.
        stopped: whether a stop signal has come.

    Returns:
        The `TCPStore`; whoever goes on to meet at the same address must keep it until then.

    Raises:
        UserError: on every rank that can be reached, naming the ranks that are missing or do not belong.
        StoppedWhileMeeting: after a stop signal.
    """
    pause = _pauses(patience_s, stopped)
    store, host, verdict = _reach(rank, patience_s, pause), socket.gethostname(), store_key("verdict")
    try:
        if store.add(store_key(f"count/{rank}"), 1) > 1:
            refusal = f"rank {rank} was started twice, the second time on {host}"
            store.set(verdict, refusal)
            raise UserError(f"{refusal}; {_WAY_OUT}")
        store.set(store_key(f"here/{rank}"), json.dumps({"host": host, "size": size, "gpu": gpu}))
        if rank == 0:
            store.set(verdict, _wait_for_all(store, size, patience_s, pause))
        while not store.check([verdict]):
            if next(pause) is None:
                raise UserError(f"rank 0 did not count the ranks within {patience_s:.0f} s; {_WAY_OUT}")
        refusal = store.get(verdict).decode()
        read = store.add(store_key("read"), 1)
        deadline = time.monotonic() + _TO_READ_S
        while rank == 0 and read < size and time.monotonic() < deadline:  # its end would end the store
            time.sleep(0.02)
            read = store.add(store_key("read"), 0)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"rank 0 has gone while the ranks met ({reason}); its log says why") from error
    if refusal:
        raise UserError(f"{refusal}; {_WAY_OUT}")
    return store


def _pauses(patience_s: float, stopped: Callable[[], bool]) -> Iterator[float | None]:
    """Sleeps a little at each step; gives the seconds so far when it is time to say something, else 0.

    None when patience is over.
    """
    began, say_after = time.monotonic(), _SAY_AFTER_S
    while (waited := time.monotonic() - began) < patience_s:
        if stopped():
            raise StoppedWhileMeeting(
                "stopped by a signal before all ranks had met; run the same command again"
            )
        if waited >= say_after:
            say_after *= 2
            yield waited
        else:
            yield 0.0
        time.sleep(min(0.02 + waited / 20, 0.5))
    while True:
        yield None


def _reach(rank: int, patience_s: float, pause: Iterator[float | None]) -> Any:
    """A connection to the store of rank 0, or of torchrun's agent where that has one."""
    from torch.distributed import TCPStore

    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts_it = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    reason = ""
    while (waited := next(pause)) is not None:
        if waited:
            _say(f"rank {rank} has waited {waited:.0f} s for rank 0 at {address}:{port} ({reason})")
        try:
            return TCPStore(
                address,
                port,
                is_master=hosts_it,
                wait_for_workers=False,
                multi_tenant=True,  # torch.distributed opens it once more
                timeout=timedelta(seconds=min(_TRY_S, patience_s)),
            )
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            if "EADDRINUSE" in str(error) or "address already in use" in str(error):
                raise UserError(
                    f"port {port} of {socket.gethostname()} is in use, so rank 0 cannot listen there; end "
                    "the process that uses it, or set MASTER_PORT"
                ) from error
    raise UserError(
        f"rank {rank} on {socket.gethostname()} waited {patience_s:.0f} s for rank 0 at {address}:{port} "
        f"({reason}); {_WAY_OUT}"
    )


def _wait_for_all(store: Any, size: int, patience_s: float, pause: Iterator[float | None]) -> str:
    """What is wrong with the ranks that came, or which did not come; empty where all is in order."""
    missing, verdict = set(range(size)), store_key("verdict")
    while (waited := next(pause)) is not None:
        if store.check([verdict]):
            return str(store.get(verdict).decode())
        missing -= {rank for rank in missing if store.check([store_key(f"here/{rank}")])}
        if not missing:
            return strangers([json.loads(store.get(store_key(f"here/{rank}"))) for rank in range(size)])
        if waited:
            _say(f"rank 0 has waited {waited:.0f} s for {_listed(missing)} of {size}")
    return f"{_listed(missing)} of {size} did not come within {patience_s:.0f} s"


def strangers(ranks: Sequence[dict[str, Any]]) -> str:
    """One sentence about ranks of another launch, or that share a GPU; empty where there are none.

    Args:
        ranks: by rank its `host`, the `size` it was told, and its `gpu`.
    """
    of_gpu: dict[tuple[str, str], int] = {}
    for rank, entry in enumerate(ranks):
        if entry["size"] != len(ranks):
            return (
                f"rank {rank} ({entry['host']}) was started as one of {entry['size']} ranks, rank 0 "
                f"({ranks[0]['host']}) as one of {len(ranks)}"
            )
        place = entry["host"], entry["gpu"]
        if entry["gpu"] and of_gpu.setdefault(place, rank) != rank:
            return (
                f"ranks {of_gpu[place]} and {rank} ({entry['host']}) have the same GPU ({entry['gpu']}): "
                "start one task for each GPU"
            )
    return ""


def _listed(ranks: set[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {first_of(sorted(ranks), _NAMES)}"


def _say(sentence: str) -> None:
    sys.stderr.write(f"{sentence}\n")
    sys.stderr.flush()
