"""`python -m dataprep index TARS`: make the tars of another program readable in exact order."""

import argparse
import os
import shlex
import sys
from pathlib import Path

from dataprep.options import check_workers
from intarsia.command_line import Commands
from intarsia.errors import UserError
from intarsia.words import counted


def add(commands: Commands) -> None:
    """Add `index` to the command line."""
    parser = commands.add_parser("index", help="index webdataset tars of another program for training")
    add = parser.add_argument
    add("tars", nargs="+", metavar="TARS", help="tars, or brace patterns such as 'set/{000000..000123}.tar'")
    add(
        "--field",
        action="append",
        required=True,
        metavar="NAME=WHERE",
        help="where samples have image, edit_mask, exemplar, object_mask, box, label or captions: a suffix "
        "(image=jpg), several (image=jpg;png), or keys in JSON (box=json:bbox); what is missing is drawn",
    )
    add("--box-format", metavar="FORMAT", help="numbers of a box: xyxy, xywh or cxcywh")
    add("--box-unit", metavar="UNIT", help="unit of a box: pixels, or fractions of the picture")
    add(
        "--mask-values",
        default="white",
        metavar="WHICH",
        help="what of a mask counts: white, nonzero (every level but 0) or black (default %(default)s)",
    )
    add(
        "--orientation",
        default="auto",
        choices=["auto", "upright", "stored"],
        help="how boxes were drawn on pictures with an EXIF rotation (default %(default)s)",
    )
    add(
        "--min-area", type=float, default=0.02, metavar="SHARE", help="smallest box that a mask is drawn from"
    )
    add("--max-area", type=float, default=0.8, metavar="SHARE", help="largest box that a mask is drawn from")
    add("--recipe", metavar="NAME", help="how missing parts are drawn, a name or file (default pbe)")
    add("--out", type=Path, help="folder of the index (default: beside the tars)")
    add("--workers", type=int, help="number of processes (default: one per CPU)")
    parser.set_defaults(run=_index)


def _index(options: argparse.Namespace) -> int:
    from dataprep.foreign.fields import IndexOptions, parse_fields
    from intarsia.config import build_config

    check_workers(options.workers)
    content = {name: getattr(options, name) for name in IndexOptions.model_fields if hasattr(options, name)}
    content["fields"] = parse_fields(options.field)
    asked = build_config(IndexOptions, content, where="index options")

    from dataprep.foreign.index import IndexRequest, index_remarks, index_tars
    from dataprep.progress import Reporter

    request = IndexRequest(
        tars=tuple(options.tars),
        options=asked,
        out=options.out,
        workers=options.workers or len(os.sched_getaffinity(0)),
        command=shlex.join(["python", "-m", "dataprep", *options.argv]),
    )
    reporter = Reporter()
    try:
        out, manifest = index_tars(request, reporter, _warn)
    finally:
        reporter.close()
    kept, given = manifest["kept"]["samples"], manifest["in"]["samples"]
    print(f"{kept:,} of {counted(given, 'sample')} in {counted(len(manifest['shardlist']), 'tar')}")
    rejected = manifest["rejected"]["samples"]
    print(f"left out, in {out}/rejects.jsonl:" if rejected else "left out: nothing")
    for reason, number in rejected.items():
        print(f"  {reason} {number:,}")
    for text in index_remarks(manifest):
        _warn(text)
    if not kept:
        raise UserError(f"the tars hold no samples; {out} cannot be trained from")
    print(f"in {out}\nnext: python -m training CONFIG data.shards={shlex.quote(str(out))} run=RUN")
    return 0


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
