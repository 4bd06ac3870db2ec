"""Mistakes that a whole data set has, seen in the first samples: wrong suffixes, units or corners."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from dataprep.foreign.fields import ForeignFields
from dataprep.foreign.index_tar import TarJob, opened_tar, samples_of
from dataprep.foreign.sample import annotated_boxes, read_foreign
from dataprep.plan.mistakes import WARNED_SHARE, box_remarks
from dataprep.plan.plan import BuildConfig
from dataprep.records import Annotations, Rejected
from intarsia.config import build_config
from intarsia.errors import UserError
from intarsia.sample import Sample
from intarsia.words import counted

_PROBED = 100  # samples of the first tar that are looked at before all others
_SHOWN = 12  # suffixes in a message
_AS_BOXES = build_config(BuildConfig, {"source": "boxes", "name": "foreign"}, where="")


@dataclass
class _Probe:
    """What the first samples have."""

    kept: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: str = ""  # sample that was left out, and why
    suffixes: Counter[str] = field(default_factory=Counter)
    names: list[str] = field(default_factory=list)
    picture: list[int] = field(default_factory=list)  # of each box
    bounds: list[tuple[float, float, float, float]] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)


def probe_tar(job: TarJob) -> tuple[str, ...]:
    """Look at the first samples of a tar; sentences about what looks like a mistake.

    Raises:
        UserError: if none of them can be used, with the remedy where it is plain.
    """
    seen = _Probe()
    with opened_tar(job.tar) as file:
        for group, members in samples_of(job, file, _PROBED):
            _look(seen, group.key, members, job.options)
    if not seen.names:
        raise UserError(f"{job.tar} holds no samples: no file in it has a name of the form KEY.SUFFIX")
    remarks = _box_remarks(seen, job.options)
    if not seen.kept:
        counts = ", ".join(f"{reason} {number}" for reason, number in seen.reasons.most_common())
        hint = "; ".join(remarks) or f"its members are {_members(seen)}"
        first = counted(len(seen.names), "sample")
        raise UserError(f"{job.tar}: none of the first {first} can be used ({counts}); {seen.first}; {hint}")
    out = len(seen.names) - seen.kept
    if out > WARNED_SHARE * len(seen.names):
        remarks = (
            *remarks,
            f"{out} of the first {len(seen.names)} samples are left out, such as {seen.first}",
        )
    return remarks


def _look(seen: _Probe, key: str, members: dict[str, bytes], fields: ForeignFields) -> None:
    seen.names.append(key)
    seen.suffixes.update(members.keys())
    found = read_foreign(members, key, fields)
    seen.sizes.append(found.meta.image_size if isinstance(found, Sample) else _size_of(members, key, fields))
    for bounds in annotated_boxes(members, fields):
        seen.picture.append(len(seen.names) - 1)
        seen.bounds.append(bounds)
    if isinstance(found, Rejected):
        seen.reasons[found.reason] += 1
        seen.first = (
            seen.first or f"sample {key}: {found.reason}{f' ({found.detail})' if found.detail else ''}"
        )
    else:
        seen.kept += 1


def _size_of(members: dict[str, bytes], key: str, fields: ForeignFields) -> tuple[int, int]:
    """(width, height) of the picture of a sample whose box cannot be used; 0, 0 if it cannot be read."""
    whole = {
        "fields": {"image": fields.fields["image"], "box": "whole"},
        "box_format": "xyxy",
        "box_unit": "fractions",
    }
    plain = fields.model_copy(update=whole | {"min_area": 0.0, "max_area": 1.0})
    found = read_foreign({**members, "whole": b"0 0 1 1"}, key, plain)
    return found.meta.image_size if isinstance(found, Sample) else (0, 0)


def _members(seen: _Probe) -> str:
    names = [f"{suffix} ({number})" for suffix, number in seen.suffixes.most_common(_SHOWN)]
    return ", ".join(names) + (", …" if len(seen.suffixes) > _SHOWN else "")


def _box_remarks(seen: _Probe, fields: ForeignFields) -> tuple[str, ...]:
    """What looks like a mistake of many boxes, with the option that would read them otherwise."""
    number = len(seen.bounds)
    if not number:
        return ()
    notes = Annotations(
        unit=fields.box_unit or "pixels",
        image_ids=seen.names,
        files=seen.names,
        sizes=np.array(seen.sizes, np.int32).reshape(-1, 2),
        picture=np.array(seen.picture),
        box_ids=np.zeros(number, np.int32),
        bounds=np.array(seen.bounds, np.float64),
        label=np.zeros(number, np.int32),
        labels=[""],
        flags={},
    )
    texts = zip(box_remarks(notes, _AS_BOXES), _remedies(notes, fields), strict=True)
    return tuple(f"{text}{remedy}" for text, remedy in texts if text)


def _remedies(notes: Annotations, fields: ForeignFields) -> tuple[str, str, str]:
    """The option that would read the boxes otherwise, for each of `box_remarks`; empty if none would."""
    beyond = ""
    if notes.unit == "fractions" and (notes.bounds > 2).mean() > WARNED_SHARE:
        beyond = " (--box-unit pixels reads them as pixels)"
    elif fields.box_format == "xywh":
        beyond = " (--box-format xyxy would read them as two corners)"
    ends = " (--box-format xywh reads these as width and height)" if fields.box_format == "xyxy" else ""
    return beyond, ends, " (--box-unit fractions reads them as shares of the picture)"
