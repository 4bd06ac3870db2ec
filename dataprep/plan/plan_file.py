"""The plan on disk: a parquet file with one row group for each shard, and its fingerprint."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dataprep.plan.plan import BuildPlan
from dataprep.records import BoxRecord, BoxUnit, PictureRecord, View, Views
from dataprep.sources.source import source_of
from intarsia.errors import UserError
from intarsia.files import atomic_path, fingerprint
from intarsia.sample import FORMAT_VERSION

PLAN_FILE = "plan.parquet"
AS_SHOWN = "as_shown"  # in the header of plans whose rules look at the shown part of boxes (`FilterRules`)
_METADATA = b"intarsia"
_SLICE = 50_000  # pictures of the table that are in memory at a time
_CORNERS = ("x0", "y0", "x1", "y1")


def plan_table(plan: BuildPlan, first: int = 0, last: int | None = None) -> pa.Table:
    """The plan's pictures from `first` up to but without `last`, as rows.

    Columns: image_id, key, file, width, height (0: unknown), captions (a list in JSON; only if the data set
    has any), boxes (a list of structures).
    """
    notes, order = plan.annotations, plan.order[first:last]
    ends = plan.ends[first : first + len(order) + 1]
    rows = plan.rows[ends[0] : ends[-1]]
    columns: dict[str, pa.Array] = {"box_id": pa.array(notes.box_ids[rows].astype(np.int64))}
    columns |= {name: pa.array(notes.bounds[rows, i]) for i, name in enumerate(_CORNERS)}
    columns["label"] = pa.array(notes.labels, pa.string()).take(pa.array(notes.label[rows]))
    columns |= {name: pa.array(values[rows]) for name, values in notes.flags.items()}
    if notes.segmentation is not None:
        columns["segmentation"] = notes.segmentation(rows)
    if notes.views is not None:
        columns |= _view_columns(notes.views, rows)
    boxes = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    image_ids = [notes.image_ids[p] for p in order]
    sample_key = source_of(plan.config.source).sample_key
    captions = {} if notes.captions is None else {"captions": _captions(notes.captions, order)}
    return pa.table(
        {
            "image_id": pa.array(image_ids, pa.string()),
            "key": pa.array([sample_key(i) for i in image_ids], pa.string()),
            "file": plan.files.take(pa.array(order)),
            "width": pa.array(notes.sizes[order, 0]),
            "height": pa.array(notes.sizes[order, 1]),
            **captions,
            "boxes": pa.ListArray.from_arrays(pa.array((ends - ends[0]).astype(np.int32)), boxes),
        }
    )


def _captions(captions: Mapping[int, tuple[str, ...]], order: np.ndarray) -> pa.Array:
    texts = (json.dumps(captions.get(place, ()), ensure_ascii=False) for place in order.tolist())
    return pa.array(texts, pa.string())


def _view_columns(views: Views, rows: np.ndarray) -> dict[str, pa.Array]:
    roles = views.is_target.astype(np.int8) + 2 * views.is_exemplar.astype(np.int8)
    numbers = {"frame": views.frame, "track": views.track, "role": roles}
    columns = {"view_file": pa.array(views.files, pa.string()).take(pa.array(views.file[rows]))}
    if views.caption:
        columns["view_caption"] = pa.array([views.caption[row] for row in rows.tolist()], pa.string())
    return columns | {f"view_{name}": pa.array(values[rows]) for name, values in numbers.items()}


def _plan_slices(plan: BuildPlan) -> Iterator[pa.Table]:
    """The whole table in pieces of whole shards, so that it is never in memory as a whole."""
    pictures = _SLICE if plan.annotations.segmentation is None else _SLICE // 8  # outlines are long
    step = max(pictures // plan.config.images_per_shard, 1) * plan.config.images_per_shard
    for first in range(0, max(len(plan.order), 1), step):
        yield plan_table(plan, first, first + step)


def plan_fingerprint(plan: BuildPlan, config: dict[str, Any] | None = None) -> str:
    """The sha256 of everything that decides the shards: format version, options, and the plan's content.

    Args:
        plan: plan of the build.
        config: its options as an earlier version wrote them; as this version writes them if None.
    """
    config = plan.config.model_dump(mode="json") if config is None else config
    return _fingerprint(config, plan.counts(), _plan_slices(plan))


def stored_fingerprint(path: Path) -> str:
    """The fingerprint of a written plan, computed from its content, not read from its header.

    Raises:
        UserError: if it is missing, damaged or not a plan.
    """
    header = read_plan_header(path)
    try:
        with pq.ParquetFile(path) as file:
            tables = (pa.Table.from_batches([batch]) for batch in file.iter_batches(_SLICE))
            return _fingerprint(header["config"], header["counts"], tables)
    except (pa.ArrowException, OSError, KeyError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"{path} is damaged ({said})") from None


def _fingerprint(config: dict[str, Any], counts: dict[str, Any], tables: Iterable[pa.Table]) -> str:
    digests: dict[str, Any] = {}
    for table in tables:
        boxes = table["boxes"].combine_chunks()
        columns = {name: table[name].combine_chunks() for name in table.column_names[:-1]}
        columns |= {field.name: boxes.flatten().field(field.name) for field in boxes.type.value_type}
        columns["numbers"] = pc.list_value_length(boxes)
        for name, column in columns.items():
            content = text_bytes(column) if pa.types.is_string(column.type) else column.to_numpy().tobytes()
            digests.setdefault(name, hashlib.sha256()).update(content)
    return fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "config": config,
            "counts": counts,
            "plan": {name: digest.hexdigest() for name, digest in digests.items()},
        }
    )


def text_bytes(column: pa.Array, end: str = "\0") -> memoryview:
    """All texts of a column in UTF-8, one after the other, each with `end` behind it."""
    joined = pc.binary_join_element_wise(column, "", end)
    _, offsets, content = joined.buffers()
    if not len(joined) or content is None:
        return memoryview(b"")
    ends = np.frombuffer(offsets, np.int32)[joined.offset : joined.offset + len(joined) + 1]
    return memoryview(content)[ends[0] : ends[-1]]


def write_plan(path: Path, plan: BuildPlan, header: dict[str, Any]) -> None:
    """Write the plan, whole or not at all.

    Args:
        path: parquet file.
        plan: plan of the build.
        header: content that `read_plan_header` returns.
    """
    metadata = {_METADATA: json.dumps(header).encode()}
    with atomic_path(path) as temporary:
        schema = plan_table(plan, 0, 0).schema.with_metadata(metadata)
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for table in _plan_slices(plan):
                writer.write_table(
                    table.replace_schema_metadata(metadata), row_group_size=plan.config.images_per_shard
                )


def read_plan_header(path: Path) -> dict[str, Any]:
    """The header of a plan: config, fingerprint, counts, and what it was made from.

    Raises:
        UserError: if the file is missing or not a plan.
    """
    try:
        return _header_of(pq.read_schema(path))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: its folder is not one that `dataprep build` made") from None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(
            f"{path} is not a plan of `dataprep build`, or is damaged ({said}); delete "
            f"{path.parent} and build again"
        ) from None


def _header_of(schema: pa.Schema) -> dict[str, Any]:
    return json.loads((schema.metadata or {})[_METADATA])


def read_plan_rows(path: Path, shard: int) -> list[PictureRecord]:
    """The pictures of one shard, in order."""
    with pq.ParquetFile(path) as file:
        header = _header_of(file.schema_arrow)
        rows = file.read_row_group(shard).to_pylist()
    # Plans of earlier versions do not name the unit.
    unit: BoxUnit = header.get("unit") or source_of(header["config"]["source"]).unit
    return [
        PictureRecord(
            image_id=row["image_id"],
            key=row["key"],
            file=row["file"],
            size=(row["width"], row["height"]) if row["width"] and row["height"] else None,
            boxes=tuple(_box_record(box) for box in row["boxes"]),
            unit=unit,
            captions=tuple(json.loads(row.get("captions") or "[]")),
        )
        for row in rows
    ]


def _box_record(row: dict[str, Any]) -> BoxRecord:
    bounds = tuple(row.pop(name) for name in _CORNERS)
    box_id, label, segmentation = row.pop("box_id"), row.pop("label"), row.pop("segmentation", "")
    view = None
    if "view_file" in row:
        file, frame, track, role = (row.pop(f"view_{name}") for name in ("file", "frame", "track", "role"))
        caption = row.pop("view_caption", "")
        view = View(file, frame, track, bool(role & 1), bool(role & 2), caption)
    return BoxRecord(box_id, bounds, label, flags=row, segmentation=segmentation, view=view)
