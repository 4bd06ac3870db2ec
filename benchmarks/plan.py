"""Measure CPU time and peak memory of planning: read, filter, join with the files, fingerprint, write.

    python -m benchmarks.plan openimages FOLDER [max_iou=0.8 …]   # made by benchmarks.openimages_csv --files
    python -m benchmarks.plan coco FOLDER [filters=pbe …]         # made by benchmarks.coco_json

Each command runs in a separate process and prints the kernel's figures for it (CPU user + system time of all
threads, peak resident memory) as one JSON object.
"""

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from dataprep.build import plan_build
from dataprep.plan.inputs import BuildRequest
from dataprep.plan.plan import BuildConfig


def main() -> None:
    """Parse the command line, measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", choices=["coco", "openimages"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("choices", nargs="*", metavar="NAME=VALUE", help="fields of BuildConfig")
    options = parser.parse_args()
    choices = {name: yaml.safe_load(value) for name, _, value in (c.partition("=") for c in options.choices)}
    json.dump(measure_plan(options.source, options.folder, **choices), sys.stdout, indent=1)
    print()


def measure_plan(source: str, folder: Path, **choices: Any) -> dict[str, Any]:
    """Plan in a child process; return its times, memory, and the numbers of pictures and boxes.

    Args:
        source: "coco" or "openimages".
        folder: folder with boxes.csv and classes.csv, or instances.json; and images/.
        choices: fields of BuildConfig.
    """
    names = {"annotations": "instances.json"} if source == "coco" else {"boxes": "boxes.csv"}
    if source == "openimages":
        names["classes"] = "classes.csv"
    with tempfile.TemporaryDirectory(dir=folder) as out:
        request = BuildRequest(
            BuildConfig(source=source, name="bench", **choices),
            {role: folder / name for role, name in names.items()},
            folder / "images",
            Path(out) / "out",
        )
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as pool:
            return pool.apply(_plan, (request,))


def _plan(request: BuildRequest) -> dict[str, Any]:
    start = time.monotonic()
    header = plan_build(request)
    used = resource.getrusage(resource.RUSAGE_SELF)
    counts = header["counts"]
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "wall_s": round(time.monotonic() - start, 1),
        "peak_mb": _peak_mb(),
        "pictures": [counts["in"]["pictures"], header["pictures"]],
        "boxes": [counts["in"]["boxes"], sum(counts["rejected"]["boxes"].values())],
        "files_mb": {path.name: path.stat().st_size >> 20 for path in sorted(request.out.iterdir())},
    }


def _peak_mb() -> int:
    """Peak resident memory of this process in MB; getrusage's value includes the parent's before exec."""
    status = Path("/proc/self/status").read_text()
    kilobytes = next(line for line in status.splitlines() if line.startswith("VmHWM:")).split()[1]
    return round(int(kilobytes) / 1024)


if __name__ == "__main__":
    main()
