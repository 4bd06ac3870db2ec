"""`python -m dataprep stats OUT`: what a shard folder holds, in figures."""

import argparse
import json
from pathlib import Path

from intarsia.command_line import Commands


def add(commands: Commands) -> None:
    """Add `stats` to the command line."""
    parser = commands.add_parser(
        "stats", help="print counts by reason and class, and sizes of boxes and masks"
    )
    parser.add_argument("folder", type=Path, metavar="OUT", help="shard folder")
    parser.add_argument("--out", type=Path, metavar="PNG", help="file to draw the histograms in")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_stats)


def _stats(options: argparse.Namespace) -> int:
    from dataprep.look.stats import folder_stats, stats_lines

    content = folder_stats(options.folder)
    if options.out:
        from dataprep.look.stats_plot import write_stats_plot

        write_stats_plot(content, options.out)
    print(json.dumps(content, indent=1) if options.json else "\n".join(stats_lines(content)))
    return 0
