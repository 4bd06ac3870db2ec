"""Compare the metrics with their peers, and measure the cost of scoring a bench.

    python -m benchmarks.evaluation peers     # a table: metric, peer, largest difference
    python -m benchmarks.evaluation speed     # 3,500 synthetic pictures: CPU time, peak memory, decodings

torchmetrics, SciPy, scikit-learn and transformers are part of the development environment. The other peers
need torchvision, whose wheels install another torch. Install them in a separate environment without their
dependencies; peers that cannot be imported are left out of the table:

    python -m venv /tmp/peers
    echo "$PWD/.venv/lib/python3.11/site-packages" > /tmp/peers/lib/python3.11/site-packages/ours.pth
    uv pip install --python /tmp/peers/bin/python --no-deps \
        pytorch-fid lpips clean-fid torch-fidelity torchvision
    /tmp/peers/bin/python -m benchmarks.evaluation peers --record tests/evaluation/peers.json
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.metric_peers import compare_peers
from benchmarks.scoring_speed import measure_speed


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and print one of the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evaluation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("peers", "speed"))
    parser.add_argument("--record", type=Path, help="file for the values of the peers, for the tests")
    parser.add_argument("--pictures", type=int, default=3500, help="number of cases to score")
    parser.add_argument("--size", type=int, default=512, help="side of a result in pixels")
    options = parser.parse_args(argv)
    if options.what == "peers":
        compare_peers(options.record)
    else:
        measure_speed(options.pictures, options.size)


if __name__ == "__main__":
    main()
