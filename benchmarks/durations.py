"""Time the examples one after the other, in an empty folder: the minutes that examples/README.md names.

    python -m benchmarks.durations [NAME ...]     # demo, own_boxes, …; default: all

An example that needs the demo's model, or shards, takes those of an earlier one; `picture` paints with the
models in examples/ and trains none. Wall time is printed with the load of the machine before each, because
other work makes it longer.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from intarsia.files import ROOT

MODEL = ("--model", "{folder}/demo/run/model")
EXAMPLES: dict[str, tuple[str, ...]] = {
    "demo": (),
    "demo_conditions": (),
    "demo_cascade": (),
    "own_boxes": (),
    "edit": MODEL,
    "cross": MODEL,
    "finetune": (*MODEL, "--shards", "{folder}/own_boxes/shards"),
    "evaluate": MODEL,
    "picture": ("--show", "examples/picture"),
}
NEEDS = {"edit": ["demo"], "cross": ["demo"], "evaluate": ["demo"], "finetune": ["demo", "own_boxes"]}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the chosen examples; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(EXAMPLES))
    chosen = parser.parse_args(argv).names or list(EXAMPLES)
    if unknown := set(chosen) - set(EXAMPLES):
        parser.error(f"there is no example {min(unknown)}; there are {', '.join(EXAMPLES)}")
    needed = {name for one in chosen for name in [*NEEDS.get(one, []), one]}
    with tempfile.TemporaryDirectory() as folder:
        for name in (name for name in EXAMPLES if name in needed):
            load, seconds = os.getloadavg()[0], run_example(name, Path(folder))
            sys.stdout.write(f"{name:16} {seconds // 60:3.0f} min {seconds % 60:2.0f} s   load {load:.1f}\n")
            sys.stdout.flush()
    return 0


def run_example(name: str, folder: Path) -> float:
    """Run one example into `folder`/NAME, its output into `folder`/NAME.log; wall seconds."""
    options = [option.format(folder=folder) for option in EXAMPLES[name]]
    command = [sys.executable, f"examples/{name}.py", "--out", str(folder / name), *options]
    start = time.monotonic()
    with (folder / f"{name}.log").open("w") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        last = (folder / f"{name}.log").read_text()[-2000:]
        sys.exit(f"{name} ended with exit code {done.returncode}:\n{last}")
    return time.monotonic() - start


if __name__ == "__main__":
    sys.exit(main())
