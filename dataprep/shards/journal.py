"""Notes of a worker's progress beside its shard: the next attempt sees which picture the last one died of."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from intarsia.errors import UserError

if TYPE_CHECKING:  # a worker notes its start before it imports what may kill it
    from dataprep.plan.plan import BuildConfig

TRIALS = 2  # alone, after the death of a worker; a kill from outside may hit the first one too
HARMLESS_DEATHS = 10  # of a shard's workers, in one run, before the run is stopped
SECONDS_ALONE = 600.0  # that a picture may take before it counts as one that never ends
ATTEMPT = "\n*\n"  # begins an attempt; the first line break ends a line that a kill cut short
STARTS = 5  # starts of one shard's workers, one after the other, that end before the shard begins
_PROVEN = "!"
_START = "+"


def journal_path(folder: Path | str, config: "BuildConfig", shard: int) -> Path:
    """The file in which a shard notes the picture in progress; removed once the shard is complete."""
    return Path(folder) / f".{config.shard_name(shard)}.journal"


def note_start(journal: Path | str, shard: str) -> None:
    """Count the start of a worker, which does this before anything else.

    Ray gives a dead worker's task to another one without limit, and no picture is to blame for a worker that
    dies at its imports.

    Args:
        journal: journal of the shard; an attempt (`ATTEMPT`) in it ends the count.
        shard: name of the shard, for the message.

    Raises:
        UserError: if `STARTS` workers before this one did not get further.
    """
    path = Path(journal)
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    starts = text.rpartition(ATTEMPT)[2].split().count(_START)
    if starts >= STARTS:
        raise UserError(
            f"{starts} workers for {shard}, one after the other, died before they began it, so no picture is "
            "to blame; run with -v to see what they print"
        )
    with path.open("a", encoding="utf-8") as log:
        log.write(f"\n{_START}\n")


def read_journal(journal: Path) -> tuple[set[str], list[str]]:
    """The notes of earlier attempts: the proven killers, and the last key of each attempt ("" for none).

    The journal has a line `+` for each worker that started, a line `*` where a worker began the shard,
    followed by the key of each picture begun, and a line `!KEY` for a picture that killed a process which did
    nothing else. Since a finished shard has no journal, no attempt in it reached the end.
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

    An attempt ends for other reasons too (an operator, a machine that goes off, memory): its last picture is
    harmless then, and to leave it out would make the result depend on the accident.

    Args:
        journal: journal of the shard.
        shard: name of the shard, for the message.
        draw_alone: function that draws the picture of a key; run in a child process.

    Raises:
        UserError: after too many deaths for which no picture is to blame.
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
            f"{harmless[-1] or '(none begun)'}, which does no harm alone; is memory short? try fewer workers"
        )
    return killers


def dies_alone(work: Callable[[], object], seconds: float = SECONDS_ALONE) -> bool:
    """Whether `work` kills its process, or does not end. An exception does not count."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except Exception:  # noqa: BLE001 - reported by the process that does the work in the end
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
