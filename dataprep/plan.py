"""What will be built: a seeded order of the pictures with their boxes, one row group for each shard."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from dataprep.coco import coco_key
from dataprep.filters import FilterOptions, judge_balance, near_duplicates, rules_of
from dataprep.picture_index import PictureIndex
from dataprep.records import (
    REASONS,
    Annotations,
    BoxRecord,
    FilterRules,
    PictureRecord,
    RejectReason,
    judge_boxes,
)
from intarsia.errors import UserError
from intarsia.files import atomic_path, fingerprint, sha256_bytes
from intarsia.rng import derive_seeds
from intarsia.sample import FORMAT_VERSION

PLAN_FILE = "plan.parquet"
_METADATA = b"intarsia"
_SLICE = 50_000  # pictures of the table that are in memory at a time
_CORNERS = ("x0", "y0", "x1", "y1")


class BuildConfig(FilterOptions):
    """Every option that decides what the shards hold; two builds with equal ones are the same build."""

    source: Literal["coco", "openimages", "boxes"]
    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    split: str = Field("train", pattern=r"^[A-Za-z0-9_-]+$")
    seed: int = 0
    profile: Literal["tuple", "source"] = "tuple"
    image_size: int = Field(512, ge=16, le=4096, multiple_of=8)
    images_per_shard: int = Field(1000, ge=1)
    draws_per_image: int = Field(1, ge=1, le=1000)
    short_side: int | None = Field(None, ge=64, le=8192)
    all_boxes: bool = False
    object_masks: bool = False
    exemplar_background: Literal["keep", "grey", "white"] = "keep"

    @model_validator(mode="after")
    def _of_the_profile(self) -> "BuildConfig":
        if self.short_side is not None and self.profile != "source":
            raise ValueError("short_side is for whole pictures: give --profile source, or leave it out")
        cut_out = self.exemplar_background != "keep"
        if cut_out and self.profile == "source" and not (self.all_boxes and self.object_masks):
            raise ValueError(
                f"--exemplar-background {self.exemplar_background} with --profile source needs --all-boxes "
                "and --object-masks: a loader that draws afresh knows the mask of a sample's own box alone"
            )
        return self

    @property
    def needs_masks(self) -> bool:
        """Whether instance masks are looked at."""
        return self.object_masks or self.exemplar_background != "keep"

    @property
    def accounts(self) -> tuple[str, ...]:
        """Of what there are accounts: in = kept + rejected. Masks are those of samples whose box has one."""
        return ("pictures", "boxes", "draws", *(("masks",) if self.needs_masks else ()))

    def draws(self, pictures: int, boxes: int) -> int:
        """How many draws there are of so many kept pictures with so many kept boxes."""
        return self.draws_per_image * (boxes if self.all_boxes else pictures)

    def shard_name(self, shard: int) -> str:
        """The name of a shard without its extension."""
        return f"{self.name}-{self.split}-{shard:06d}"


@dataclass(frozen=True)
class Plan:
    """A plan in columns.

    Attributes:
        config: of the build.
        annotations: everything that was read.
        verdict: int16 [N]: -1 for a box kept so far, otherwise an index into REASONS.
        fate: int16 [P]: the same for pictures.
        order: int64 [K]: the kept pictures, in the order of the shards.
        files: path below the folder of pictures, text [P]; empty where there is no such file.
        rows: int32: the boxes of the kept pictures in the order of the shards.
        ends: int64 [K + 1]: picture `order[i]` has the boxes `rows[ends[i] : ends[i + 1]]`.
    """

    config: BuildConfig
    annotations: Annotations
    verdict: np.ndarray
    fate: np.ndarray
    order: np.ndarray
    files: pa.Array
    rows: np.ndarray
    ends: np.ndarray

    @property
    def shards(self) -> int:
        """How many shards."""
        return -(-len(self.order) // self.config.images_per_shard)

    def counts(self) -> dict[str, Any]:
        """Boxes and pictures in, and rejected so far. Boxes of a rejected picture count with it."""
        notes, dropped = self.annotations, self.annotations.dropped
        boxes = _count(self.verdict) + _count(dropped.reason)
        boxes += _count(self.fate[notes.picture[self.verdict < 0]])
        return {
            "in": {"pictures": len(self.fate), "boxes": len(notes) + len(dropped)},
            "rejected": {
                "pictures": {REASONS[c].value: n for c, n in sorted(_count(self.fate).items())},
                "boxes": dict(sorted((REASONS[c].value, n) for c, n in boxes.items())),
            },
        }


def make_plan(
    annotations: Annotations,
    index: PictureIndex,
    config: BuildConfig,
    families: Mapping[str, Collection[str]] | None = None,
    excluded: Collection[str] = frozenset(),
) -> Plan:
    """Filter the boxes, group them by picture, and order the pictures by a hash of seed and name.

    Args:
        annotations: of the data set.
        index: of the picture files.
        config: of the build.
        families: class name -> the names that it stands for.
        excluded: pictures that are not wanted, by their names or files as annotated.
    """
    notes, rules = annotations, rules_of(config, families)
    if notes.judged == rules:
        verdict: np.ndarray = np.full(len(notes), -1, np.int16)
    else:
        verdict = judge_boxes(notes, rules)
    files = index.find(notes.files, notes.image_ids)
    fate: np.ndarray = np.full(len(files), -1, np.int16)
    fate[pc.equal(files, "").to_numpy(zero_copy_only=False)] = REASONS.index(RejectReason.FILE_MISSING)
    if excluded:
        pictures = zip(notes.image_ids, notes.files, strict=True)
        named = np.array([name in excluded or file in excluded for name, file in pictures], bool)
        fate[named] = REASONS.index(RejectReason.EXCLUDED)
    _judge_together(notes, rules, config.seed, fate, verdict)
    boxes_left = np.bincount(notes.picture[verdict < 0], minlength=len(files))
    fate[(boxes_left == 0) & (fate != REASONS.index(RejectReason.EXCLUDED))] = REASONS.index(
        RejectReason.NO_BOX
    )
    order = np.flatnonzero(fate < 0)
    ranks = derive_seeds((config.seed, "order"), (notes.image_ids[p] for p in order.tolist()))
    order = order[np.argsort(ranks, kind="stable")]
    rows = _rows_in_order(notes.picture, verdict < 0, order)
    ends = np.concatenate([[0], np.cumsum(boxes_left[order])])
    return Plan(config, notes, verdict, fate, order, files, rows, ends)


def _rows_in_order(picture: np.ndarray, kept: np.ndarray, order: np.ndarray) -> np.ndarray:
    """int32: the kept boxes of the pictures in `order`, in that order; within a picture as annotated."""
    place: np.ndarray = np.full(max(int(picture.max(initial=0)), int(order.max(initial=0))) + 1, -1, np.int32)
    place[order] = np.arange(len(order))
    rows: np.ndarray = np.flatnonzero(kept).astype(np.int32)
    places = place[picture[rows]]
    rows, places = rows[places >= 0], places[places >= 0]
    return rows[np.argsort(places, kind="stable")]


def _judge_together(
    notes: Annotations, rules: FilterRules, seed: int, fate: np.ndarray, verdict: np.ndarray
) -> None:
    """The rules about several boxes, among those that are left in usable pictures; writes into `verdict`."""
    if rules.largest_iou < 1:
        rows: np.ndarray = np.flatnonzero(verdict < 0).astype(np.int32)
        verdict[near_duplicates(notes, rows, rules.largest_iou)] = REASONS.index(RejectReason.NEAR_DUPLICATE)
    if rules.per_class_max is not None or rules.class_temperature > 1:
        rows = np.flatnonzero(verdict < 0)
        rows = rows[fate[notes.picture[rows]] < 0]
        verdict[rows] = judge_balance(notes.label[rows], notes.box_ids[rows], seed, rules)


def _count(codes: np.ndarray) -> Counter[int]:
    values, numbers = np.unique(codes[codes >= 0], return_counts=True)
    return Counter(dict(zip(values.tolist(), numbers.tolist(), strict=True)))


def plan_table(plan: Plan, first: int = 0, last: int | None = None) -> pa.Table:
    """The plan's pictures from `first` up to but without `last`, as rows.

    Columns: image_id, key, file, width, height (0: unknown), boxes (a list of structures).
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
    boxes = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    image_ids = [notes.image_ids[p] for p in order]
    return pa.table(
        {
            "image_id": pa.array(image_ids, pa.string()),
            "key": pa.array([sample_key(notes.source, i) for i in image_ids], pa.string()),
            "file": plan.files.take(pa.array(order)),
            "width": pa.array(notes.sizes[order, 0]),
            "height": pa.array(notes.sizes[order, 1]),
            "boxes": pa.ListArray.from_arrays(pa.array((ends - ends[0]).astype(np.int32)), boxes),
        }
    )


def _plan_slices(plan: Plan) -> Iterator[pa.Table]:
    """The whole table in pieces of some whole shards each, so that it is never all in memory."""
    pictures = _SLICE if plan.annotations.segmentation is None else _SLICE // 8  # outlines are long
    step = max(pictures // plan.config.images_per_shard, 1) * plan.config.images_per_shard
    for first in range(0, max(len(plan.order), 1), step):
        yield plan_table(plan, first, first + step)


def sample_key(source: str, image_id: str) -> str:
    """A picture's name as sample keys bear it: letters, digits, - and _ only, at most 64 of them."""
    key = coco_key(image_id) if source == "coco" else image_id
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key):
        return key
    return re.sub(r"[^A-Za-z0-9_-]", "-", key)[:48] + "-" + sha256_bytes(image_id.encode())[:12]


def plan_fingerprint(plan: Plan, config: dict[str, Any] | None = None) -> str:
    """The sha256 of everything that decides the shards: format version, options, and the plan's content.

    Args:
        plan: what is to be built.
        config: its options as an earlier version wrote them; as this one does where None.
    """
    config = plan.config.model_dump(mode="json") if config is None else config
    return _fingerprint(config, plan.counts(), _plan_slices(plan))


def stored_fingerprint(path: Path) -> str:
    """The fingerprint of a written plan, by what it holds, not by what its header says.

    Raises:
        UserError: if it is missing, damaged or no plan.
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


def write_plan(path: Path, plan: Plan, header: dict[str, Any]) -> None:
    """Write the plan, whole or not at all.

    Args:
        path: of the parquet file.
        plan: what is to be built.
        header: what `read_plan_header` is to give back.
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
        UserError: if the file is missing or is no plan.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
        return json.loads(metadata[_METADATA])
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: its folder is not one that `dataprep build` made") from None
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"{path} is not a plan of `dataprep build`, or is damaged ({said})") from None


def read_plan_rows(path: Path, shard: int) -> list[PictureRecord]:
    """The pictures of one shard, in order."""
    with pq.ParquetFile(path) as file:
        rows = file.read_row_group(shard).to_pylist()
    return [
        PictureRecord(
            image_id=row["image_id"],
            key=row["key"],
            file=row["file"],
            size=(row["width"], row["height"]) if row["width"] and row["height"] else None,
            boxes=tuple(_box_record(box) for box in row["boxes"]),
        )
        for row in rows
    ]


def _box_record(row: dict[str, Any]) -> BoxRecord:
    bounds = tuple(row.pop(name) for name in _CORNERS)
    box_id, label, segmentation = row.pop("box_id"), row.pop("label"), row.pop("segmentation", "")
    return BoxRecord(box_id, bounds, label, flags=row, segmentation=segmentation)
