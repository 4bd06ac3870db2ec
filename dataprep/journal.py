"""What a worker is at, noted beside its shard: the next attempt sees which picture the last one died of."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from dataprep.plan import BuildConfig
from intarsia.errors import UserError

TRIALS = 2  # alone, after the death of a worker; whoever kills from outside may hit the first one too
HARMLESS_DEATHS = 10  # of a shard's workers, in one run, before the run is stopped
SECONDS_ALONE = 600.0  # that a picture may take before it counts as one that never ends
ATTEMPT = "\n*\n"  # begins one; the first line break ends a line that a kill cut short
_PROVEN = "!"


def journal_path(folder: Path | str, config: BuildConfig, shard: int) -> Path:
    """Where a shard being built notes the picture in work; gone once the shard is complete."""
    return Path(folder) / f".{config.shard_name(shard)}.journal"


def read_journal(journal: Path) -> tuple[set[str], list[str]]:
    """What earlier attempts left: the proven killers, and the last key of each attempt ("" for none).

    The journal has a line `*` at the start of each attempt and then the key of each picture begun, and a line
    `!KEY` for a picture that was seen to kill a process which did nothing else. Since a finished shard has no
    journal, no attempt in it lived to the end.
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
        elif deaths:
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
