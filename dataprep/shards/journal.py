"""What a worker is at, noted beside its shard: the next attempt sees which picture the last one died of."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.errors import UserError

if TYPE_CHECKING:  # a worker notes its start before it imports what may kill it
    from dataprep.plan.plan import BuildConfig

TRIALS = 2  # alone, after the death of a worker; whoever kills from outside may hit the first one too
HARMLESS_DEATHS = 10  # of a shard's workers, in one run, before the run is stopped
SECONDS_ALONE = 600.0  # that a picture may take before it counts as one that never ends
ATTEMPT = "\n*\n"  # begins one; the first line break ends a line that a kill cut short
STARTS = 5  # of one shard's workers, one after the other, that end before the shard is begun
_PROVEN = "!"
_START = "+"


def journal_path(folder: Path | str, config: "BuildConfig", shard: int) -> Path:
    """Where a shard being built notes the picture in work; gone once the shard is complete."""
    return Path(folder) / f".{config.shard_name(shard)}.journal"


def note_start(journal: Path | str, shard: str) -> None:
    """Count the start of a worker, which does this before anything else.

    Ray gives a dead worker's task to another one without end, and one that dies at its imports has no picture
    to blame.

    Args:
        journal: of the shard; an attempt (`ATTEMPT`) in it ends the count.
        shard: its name, for the message.

    Raises:
        UserError: if `STARTS` workers before this one came no further.
    """
    path = Path(journal)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    starts = text.rpartition(ATTEMPT)[2].split().count(_START)
    if starts >= STARTS:
        raise UserError(
            f"{starts} workers for {shard}, one after the other, died before they began it, so no picture is "
            "to blame; run with -v to see what they say"
        )
    with path.open("a", encoding="utf-8") as log:
        log.write(f"\n{_START}\n")


def read_journal(journal: Path) -> tuple[set[str], list[str]]:
    """What earlier attempts left: the proven killers, and the last key of each attempt ("" for none).

    The journal has a line `+` for each worker that started, a line `*` where one began the shard and then the
    key of each picture begun, and a line `!KEY` for a picture that was seen to kill a process which did
    nothing else. Since a finished shard has no journal, no attempt in it lived to the end.
    """
    if not journal.is_file():
        return set(), []
    killers: set[str] = set()
    deaths: list[str] = []
    for line in journal.read_text(encoding="utf-8").split():
        if line == ATTEMPT.strip():
            deaths.append("")
        elif line.startswith(_PROVEN):
            killers.add(line.removeprefix(_PROVEN))
        elif deaths and line != _START:
            deaths[-1] = line
    return killers, deaths


def find_killers(journal: Path, shard: str, draw_alone: Callable[[str], object]) -> set[str]:
    """The pictures that kill the process which draws them; each attempt's last one is tried in a child.

    An attempt ends for other reasons too (an operator, a machine that goes off, memory): a picture that was
    in work then is harmless, and to leave it out would make the result depend on the accident.

    Args:
        journal: of the shard.
        shard: its name, for the message.
        draw_alone: draws the picture of a key; run in a child process.

    Raises:
        UserError: after too many deaths that no picture is to blame for.
    """
    killers, deaths = read_journal(journal)
    for key in sorted(set(deaths) - killers - {""}):
        if all(dies_alone(lambda key=key: draw_alone(key)) for _ in range(TRIALS)):  # type: ignore[misc]
            killers.add(key)
            with journal.open("a", encoding="utf-8") as log:
                log.write(f"{_PROVEN}{key}\n")
    harmless = [key for key in deaths if key not in killers]
    if len(harmless) >= HARMLESS_DEATHS:
        raise UserError(
            f"the workers that built {shard} were killed {len(harmless)} times, the last one at picture "
            f"{harmless[-1] or '(none begun)'}, which alone does no harm; is memory short? try fewer workers"
        )
    return killers


def dies_alone(work: Callable[[], object], seconds: float = SECONDS_ALONE) -> bool:
    """Whether `work` kills the process that does it, or does not end. An exception is no death."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except Exception:  # noqa: BLE001 - told where the work is done for good
            code = 0
        finally:
            os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status != 0
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return True
