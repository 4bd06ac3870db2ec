"""Several training runs in one process, because importing DeepSpeed takes longer than any of them.

    python -m tests.training.many_runs JOBS.json       (or under torchrun)

JOBS.json: a list of {"config": path, "overrides": [...], "stop_after": steps or null,
"fails": words of the error that ends it, or absent}.
"""

import json
import sys
from pathlib import Path

from intarsia.config import load_config
from intarsia.errors import UserError
from training import distributed
from training.config import TrainConfig


class StopAfter(distributed.StopFlag):
    """A signal that comes during step number `steps`; it is looked at once before the first step."""

    def __init__(self, steps: int | None) -> None:
        super().__init__()
        self.looks_left = None if steps is None else steps

    @property
    def raised(self) -> bool:
        if self.looks_left is None:
            return False
        self.looks_left -= 1
        return self.looks_left < 0

    @raised.setter
    def raised(self, value: bool) -> None: ...


def main() -> None:
    jobs = json.loads(Path(sys.argv[1]).read_text())
    world = distributed.connect()
    from training.loop import train

    for job in jobs:
        config = load_config(TrainConfig, job["config"], job["overrides"])
        last = world.rank == world.size - 1  # one rank alone gets the signal
        try:
            code = train(config, world, StopAfter(job.get("stop_after") if last else None))
        except UserError as error:
            assert job.get("fails", "nothing") in str(error), (job, error)
            continue
        expected = distributed.EXIT_AGAIN if job.get("stop_after") else 0
        assert code == expected, (job, code)
    distributed.disconnect(world)


if __name__ == "__main__":
    main()
