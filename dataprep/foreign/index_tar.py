"""The index of one tar: where its samples are, its hash, and why samples are left out."""

import os
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from dataprep.draw.redraw import redraw_sample
from dataprep.foreign.fields import IndexOptions
from dataprep.foreign.sample import annotated_boxes, read_foreign
from dataprep.foreign.tars import MemberGroup, group_members
from dataprep.pictures.stores import is_uri
from dataprep.records import CLIPPED, CLIPPED_PX, BoxRecord, Rejected, RejectReason
from dataprep.remote import Patience, read_remote
from dataprep.tars import tar_members
from intarsia.errors import UserError
from intarsia.files import fingerprint, read_json, sha256_file, write_json
from intarsia.sample import FORMAT_VERSION, Sample

TRIAL_SIZE = 512  # side of the crop that every sample is drawn at once, to see that it can be
TAR_PATIENCE = Patience(tries=6, pause_s=1.0)


@dataclass(frozen=True)
class TarJob:
    """One tar to index.

    Attributes:
        tar: path or address.
        name: its path below the common folder of all.
        sidecar: path of its index.
        options: fields and recipe.
    """

    tar: str
    name: str
    sidecar: str
    options: IndexOptions

    @property
    def fingerprint(self) -> str:
        """What the index depends on besides the tar."""
        return fingerprint([FORMAT_VERSION, self.options.model_dump(mode="json")])


@dataclass
class _TarTally:
    """What was found in a tar."""

    entries: list[tuple[str, dict[str, tuple[int, int]]]] = field(default_factory=list)
    rejects: list[dict[str, str]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    box_reasons: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    boxes: int = 0

    def reject(self, key: str, rejected: Rejected, boxes: int = 0) -> None:
        """Leave a sample out, with its boxes."""
        self.reasons[rejected.reason] += 1
        self.box_reasons[rejected.reason] += boxes
        self.rejects.append({"key": key, "reason": rejected.reason, "detail": rejected.detail})


def sidecar_of(job: TarJob) -> dict[str, Any] | None:
    """The finished index of a job's tar; None if there is none, or the tar or the options are others."""
    try:
        content = read_json(job.sidecar)
    except UserError:  # missing or damaged: it is made again
        return None
    if not isinstance(content, dict) or content.get("fingerprint") != job.fingerprint:
        return None
    if is_uri(job.tar):
        return content
    state = Path(job.tar).stat()
    same = (content.get("bytes"), content.get("modified")) == (state.st_size, state.st_mtime_ns)
    return content if same else None


def index_tar(job: TarJob) -> dict[str, Any]:
    """Read a tar from end to end, decode every sample once, write its index and return it.

    Raises:
        UserError: for a tar that cannot be read or fetched, or whose samples are all left out.
    """
    tally = _TarTally()
    with opened_tar(job.tar) as file:
        state = os.fstat(file.fileno())
        for group, members in samples_of(job, file):
            _judge(group, members, job.options, tally)
        sha256 = sha256_file(file.name)
    content = {
        "format_version": FORMAT_VERSION,
        "fingerprint": job.fingerprint,
        "tar": job.name,
        "bytes": state.st_size,
        "modified": 0 if is_uri(job.tar) else state.st_mtime_ns,
        "sha256": sha256,
        "samples": len(tally.entries),
        "boxes": tally.boxes,
        "rejected": {"samples": dict(tally.reasons), "boxes": dict(+tally.box_reasons)},
        "changed": dict(tally.changed),
        "rejects": tally.rejects,
        "entries": tally.entries,
    }
    if tally.rejects and not tally.entries:
        refuse_empty(job, tally.reasons, tally.rejects)
    Path(job.sidecar).parent.mkdir(parents=True, exist_ok=True)
    write_json(job.sidecar, content)
    return content


def refuse_empty(job: TarJob, reasons: Counter[str], rejects: list[dict[str, str]]) -> None:
    """Stop for a tar whose samples are all left out.

    Raises:
        UserError: with the counts by reason, and one sample.
    """
    counts = ", ".join(f"{reason} {number:,}" for reason, number in reasons.most_common())
    one = rejects[0]
    raise UserError(
        f"{job.tar}: not one of {reasons.total():,} samples can be used ({counts}); sample {one['key']}: "
        f"{one['detail'] or one['reason']}; correct the fields, or leave this tar out"
    )


def samples_of(
    job: TarJob, file: BinaryIO, most: int | None = None
) -> Iterator[tuple[MemberGroup, dict[str, bytes]]]:
    """The samples of an open tar, with the content of the members that fields name; at most so many.

    Raises:
        UserError: for a damaged tar.
    """
    wanted = job.options.suffixes
    try:
        groups = group_members(tar_members(file))
    except tarfile.TarError as error:
        raise UserError(f"{job.tar} is not a whole tar ({error}); fetch it again") from None
    for group in islice(groups, most):
        yield (
            group,
            {
                # The names of the others stay, for messages.
                suffix: os.pread(file.fileno(), size, offset) if suffix in wanted else b""
                for suffix, (offset, size) in group.places.items()
            },
        )


def _judge(group: MemberGroup, members: dict[str, bytes], options: IndexOptions, tally: _TarTally) -> None:
    """Take a sample in, or leave it out for a reason."""
    wanted = options.suffixes
    twice = [suffix for suffix in group.twice if suffix in wanted]
    if twice:
        tally.reject(group.key, Rejected(RejectReason.MEMBER_TWICE, ", ".join(twice)))
        return
    dropped: list[Rejected] = []
    try:
        found = read_foreign(members, group.key, options, dropped)
        if isinstance(found, Sample):
            drawn = redraw_sample(found, TRIAL_SIZE, found.meta.seed, 0, options.drawing)
            found = drawn if isinstance(drawn, Rejected) else found
    except UserError:  # not this sample's fault
        raise
    except Exception as error:  # noqa: BLE001 - one sample must not stop an index; the reason is kept
        found = Rejected(RejectReason.RENDER_FAILED, f"{type(error).__name__}: {error}")
    boxes = annotated_boxes(members, options)
    if isinstance(found, Rejected):
        tally.reject(group.key, found, len(boxes))
        return
    tally.boxes += len(found.meta.boxes) if boxes else 0
    tally.box_reasons.update(rejected.reason for rejected in dropped)
    tally.entries.append((group.key, {s: place for s, place in group.places.items() if s in wanted}))
    unit = options.box_unit or "pixels"
    for bounds in boxes:
        if BoxRecord(0, bounds, "").overhang(found.meta.image_size, unit) > CLIPPED_PX:
            tally.changed[CLIPPED] += 1


@contextmanager
def opened_tar(tar: str) -> Iterator[BinaryIO]:
    """A local tar, or a copy of a remote one that lasts as long as the block.

    Raises:
        UserError: if it cannot be read or fetched.
    """
    if not is_uri(tar):
        try:
            with Path(tar).open("rb") as file:
                yield file
        except OSError as error:
            raise UserError(f"{tar} cannot be read ({error.strerror or error})") from None
        return
    with tempfile.NamedTemporaryFile() as copy:
        try:
            for piece in read_remote(tar, TAR_PATIENCE):
                copy.write(piece)
        except (FileNotFoundError, ValueError) as error:
            raise UserError(f"{tar} is not there ({error}); correct the pattern") from None
        except OSError as error:
            raise UserError(
                f"{tar} cannot be fetched ({error}); see to it, then run the same command again"
            ) from None
        copy.flush()
        with Path(copy.name).open("rb") as file:
            yield file


def read_entries(content: Any, place: str) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """Key and members (suffix to offset and size) of the samples in an index of one tar.

    Args:
        content: JSON of the index.
        place: path or address of the index, for messages.

    Raises:
        UserError: if it is something else.
    """
    try:
        if content["format_version"] != FORMAT_VERSION:
            raise UserError(f"{place} has format version {content['format_version']}; index the tars again")
        return [
            (key, {suffix: (int(start), int(size)) for suffix, (start, size) in members.items()})
            for key, members in content["entries"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{place} is not an index of a tar; index the tars again") from None
