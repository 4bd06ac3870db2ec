"""What will be built: a seeded order of the pictures with their boxes, one row group for each shard."""

import hashlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from dataprep.coco import coco_key
from dataprep.filters import FilterOptions, judge_balance, near_duplicates, rules_of
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
from intarsia.rng import derive_seed

FORMAT_VERSION = 1
PLAN_FILE = "plan.parquet"
_METADATA = b"intarsia"
_CORNERS = ("x0", "y0", "x1", "y1")


class BuildConfig(FilterOptions):
    """Every option that decides what the shards hold; two builds with equal ones are the same build."""

    source: Literal["coco", "openimages"]
    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    split: str = Field("train", pattern=r"^[A-Za-z0-9_-]+$")
    seed: int = 0
    profile: Literal["tuple", "source"] = "tuple"
    image_size: int = Field(512, ge=16, le=4096, multiple_of=8)
    images_per_shard: int = Field(1000, ge=1)
    draws_per_image: int = Field(1, ge=1, le=1000)

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
        files: path below the folder of pictures [P]; empty where there is no such file.
    """

    config: BuildConfig
    annotations: Annotations
    verdict: np.ndarray
    fate: np.ndarray
    order: np.ndarray
    files: list[str]

    @property
    def shards(self) -> int:
        """How many shards."""
        return -(-len(self.order) // self.config.images_per_shard)

    def counts(self) -> dict[str, Any]:
        """Boxes and pictures in, and rejected so far. Boxes of a rejected picture count with it."""
        boxes = {REASONS[c].value: int(n) for c, n in _count(self.verdict)}
        remaining = self.verdict < 0
        with_picture = self.fate[self.annotations.picture[remaining]]
        for code, number in _count(with_picture):
            boxes[REASONS[code].value] = boxes.get(REASONS[code].value, 0) + int(number)
        return {
            "in": {"pictures": len(self.fate), "boxes": len(self.verdict)},
            "rejected": {
                "pictures": {REASONS[c].value: int(n) for c, n in _count(self.fate)},
                "boxes": dict(sorted(boxes.items())),
            },
        }


def make_plan(
    annotations: Annotations,
    index: dict[str, str],
    config: BuildConfig,
    families: Mapping[str, Collection[str]] | None = None,
    excluded: Collection[str] = frozenset(),
) -> Plan:
    """Filter the boxes, group them by picture, and order the pictures by a hash of seed and name.

    Args:
        annotations: of the data set.
        index: file name, with or without extension -> path (`index_pictures`).
        config: of the build.
        families: class name -> the names that it stands for.
        excluded: names of pictures that are not wanted.
    """
    rules = rules_of(config, families)
    verdict = judge_boxes(annotations, rules)
    files = [
        index.get(file or image_id, "") or index.get(file.rpartition("/")[2], "")
        for file, image_id in zip(annotations.files, annotations.image_ids, strict=True)
    ]
    fate: np.ndarray = np.full(len(files), -1, np.int16)
    fate[~np.array([bool(file) for file in files], bool)] = REASONS.index(RejectReason.FILE_MISSING)
    if excluded:
        named = np.array([image_id in excluded for image_id in annotations.image_ids], bool)
        fate[named] = REASONS.index(RejectReason.EXCLUDED)
    _judge_together(annotations, rules, config.seed, fate, verdict)
    boxes_left = np.bincount(annotations.picture[verdict < 0], minlength=len(files))
    fate[(boxes_left == 0) & (fate != REASONS.index(RejectReason.EXCLUDED))] = REASONS.index(
        RejectReason.NO_BOX
    )
    survivors = np.flatnonzero(fate < 0)
    rank = np.array(
        [derive_seed(config.seed, "order", annotations.image_ids[p]) for p in survivors], np.int64
    )
    order = survivors[np.argsort(rank, kind="stable")]
    return Plan(config, annotations, verdict, fate, order, files)


def _judge_together(
    notes: Annotations, rules: FilterRules, seed: int, fate: np.ndarray, verdict: np.ndarray
) -> None:
    """The rules about several boxes, among those that are left in usable pictures; writes into `verdict`."""
    rows = np.flatnonzero(verdict < 0)
    if rules.largest_iou < 1:
        hit = near_duplicates(notes.picture[rows], notes.bounds[rows], notes.box_ids[rows], rules.largest_iou)
        verdict[rows[hit]] = REASONS.index(RejectReason.NEAR_DUPLICATE)
    if rules.per_class_max is not None or rules.class_temperature > 1:
        rows = np.flatnonzero(verdict < 0)
        rows = rows[fate[notes.picture[rows]] < 0]
        verdict[rows] = judge_balance(notes.label[rows], notes.box_ids[rows], seed, rules)


def _count(codes: np.ndarray) -> list[tuple[int, int]]:
    values, numbers = np.unique(codes[codes >= 0], return_counts=True)
    return list(zip(values.tolist(), numbers.tolist(), strict=True))


def plan_rejects(plan: Plan) -> Iterator[dict[str, Any]]:
    """One record for each box and each picture that the plan drops; a picture's names its remaining boxes."""
    notes = plan.annotations
    for row in np.flatnonzero(plan.verdict >= 0).tolist():
        picture = int(notes.picture[row])
        yield {
            "stage": "plan",
            "what": "box",
            "image_id": notes.image_ids[picture] if picture >= 0 else None,
            "box_id": int(notes.box_ids[row]),
            "reason": REASONS[plan.verdict[row]].value,
        }
    remaining: dict[int, list[int]] = {}
    lost = np.flatnonzero((plan.verdict < 0) & (plan.fate[notes.picture] >= 0))
    for row in lost.tolist():
        remaining.setdefault(int(notes.picture[row]), []).append(int(notes.box_ids[row]))
    for picture in np.flatnonzero(plan.fate >= 0).tolist():
        yield {
            "stage": "plan",
            "what": "picture",
            "image_id": notes.image_ids[picture],
            "file": notes.files[picture],
            "reason": REASONS[plan.fate[picture]].value,
            "box_ids": remaining.get(picture, []),
        }


def plan_table(plan: Plan) -> pa.Table:
    """The plan as rows: image_id, key, file, width, height (0: unknown), boxes (a list of structures)."""
    notes, order = plan.annotations, plan.order
    place: np.ndarray = np.full(len(notes.image_ids), -1, np.int64)
    place[order] = np.arange(len(order))
    rows = np.flatnonzero((plan.verdict < 0) & (notes.picture >= 0))
    rows = rows[place[notes.picture[rows]] >= 0]
    rows = rows[np.argsort(place[notes.picture[rows]], kind="stable")]
    numbers = np.bincount(place[notes.picture[rows]], minlength=len(order))
    columns: dict[str, pa.Array] = {"box_id": pa.array(notes.box_ids[rows])}
    columns |= {name: pa.array(notes.bounds[rows, i]) for i, name in enumerate(_CORNERS)}
    columns["label"] = pa.array(notes.labels, pa.string()).take(pa.array(notes.label[rows]))
    columns |= {name: pa.array(values[rows]) for name, values in notes.flags.items()}
    boxes = pa.StructArray.from_arrays(list(columns.values()), names=list(columns))
    offsets = pa.array(np.concatenate([[0], np.cumsum(numbers)]).astype(np.int32))
    image_ids = [notes.image_ids[p] for p in order]
    return pa.table(
        {
            "image_id": pa.array(image_ids, pa.string()),
            "key": pa.array([sample_key(notes.source, i) for i in image_ids], pa.string()),
            "file": pa.array([plan.files[p] for p in order], pa.string()),
            "width": pa.array(notes.sizes[order, 0]),
            "height": pa.array(notes.sizes[order, 1]),
            "boxes": pa.ListArray.from_arrays(offsets, boxes),
        }
    )


def sample_key(source: str, image_id: str) -> str:
    """A picture's name as sample keys bear it: letters, digits, - and _ only, at most 64 of them."""
    key = coco_key(image_id) if source == "coco" else image_id
    if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key):
        return key
    return re.sub(r"[^A-Za-z0-9_-]", "-", key)[:48] + "-" + sha256_bytes(image_id.encode())[:12]


def plan_fingerprint(config: BuildConfig, table: pa.Table, counts: dict[str, Any]) -> str:
    """The sha256 of everything that decides the shards: format version, options, and the plan's content."""
    digest = hashlib.sha256()
    boxes = table["boxes"].combine_chunks()
    flat = boxes.flatten()
    columns = {name: table[name] for name in table.column_names[:-1]}
    columns |= {field.name: flat.field(field.name) for field in flat.type}
    columns["offsets"] = boxes.offsets
    for name, column in columns.items():
        digest.update(f"\0{name}\0".encode())
        if pa.types.is_string(column.type):
            digest.update("\0".join(column.to_pylist()).encode())
        else:
            digest.update(np.ascontiguousarray(column.to_numpy()).tobytes())
    return fingerprint(
        {
            "format_version": FORMAT_VERSION,
            "config": config.model_dump(mode="json"),
            "counts": counts,
            "plan": digest.hexdigest(),
        }
    )


def write_plan(path: Path, table: pa.Table, header: dict[str, Any]) -> None:
    """Write the plan, whole or not at all.

    Args:
        path: of the parquet file.
        table: from `plan_table`.
        header: what `read_plan_header` is to give back; needs `config`.
    """
    table = table.replace_schema_metadata({_METADATA: json.dumps(header).encode()})
    with atomic_path(path) as temporary:
        pq.write_table(
            table, temporary, row_group_size=header["config"]["images_per_shard"], compression="zstd"
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
    except (pa.ArrowInvalid, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a plan of `dataprep build` ({error})") from None


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
    return BoxRecord(box_id=row.pop("box_id"), bounds=bounds, label=row.pop("label"), flags=row)
