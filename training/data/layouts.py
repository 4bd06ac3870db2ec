"""How samples lie in the tars of a data set: as `dataprep build` writes them, or as an index says."""

import json
import os
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dataprep.foreign.fields import ForeignFields
from dataprep.pictures.stores import is_uri
from dataprep.records import Rejected
from dataprep.tars import tar_members
from intarsia.errors import UserError
from intarsia.files import read_json
from intarsia.sample import MEMBERS, Sample, decode_sample
from training.data.open_files import REMEDY
from training.data.remote import read_shard_file


@dataclass(frozen=True)
class Entry:
    """One sample of a tar.

    Attributes:
        key: name of the sample.
        members: suffix -> offset and size of its content.
    """

    key: str
    members: Mapping[str, tuple[int, int]]


class TarLayout(Protocol):
    """What a data set's tars hold, and how a sample is made of it."""

    @property
    def remedy(self) -> str:
        """What to do about a tar that cannot be read."""

    @property
    def masks_remedy(self) -> str:
        """What to do if object masks are missing; RECIPE stands for the recipe's name."""

    def entries(self, descriptor: int) -> list[Entry]:
        """The samples of an open tar in their order.

        Raises:
            UserError: saying what is wrong with it.
            OSError: where the system cannot read it.
        """

    def wants(self, suffix: str, redraw: bool) -> bool:
        """Whether a member is read; `redraw`: something is to be drawn afresh."""

    def decode(self, members: Mapping[str, bytes], key: str) -> Sample:
        """The sample.

        Raises:
            UserError: for a damaged member.
        """


@dataclass(frozen=True)
class BuiltLayout:
    """Tars of `dataprep build`.

    Attributes:
        whole_pictures: whether edit mask and exemplar are drawn on reading, so that the stored ones are not
            needed.
    """

    whole_pictures: bool = False
    remedy: str = REMEDY

    @property
    def masks_remedy(self) -> str:
        """Options of the build."""
        options = "--object-masks --all-boxes" if self.whole_pictures else "--object-masks"
        return f"build the shards with --recipe RECIPE {options}"

    def entries(self, descriptor: int) -> list[Entry]:
        """From the tar's headers."""
        samples: dict[str, dict[str, tuple[int, int]]] = {}
        try:
            with os.fdopen(os.dup(descriptor), "rb") as file:
                for name, offset, size in tar_members(file):
                    key, _, suffix = name.partition(".")
                    samples.setdefault(key, {})[suffix] = (offset, size)
        except tarfile.TarError as error:
            raise UserError(f"cannot be read ({error})") from None
        for key, members in samples.items():
            missing = [suffix for suffix in MEMBERS if suffix not in members]
            if missing:
                raise UserError(f"is damaged: sample {key} has no member {', '.join(missing)}")
        return [Entry(key, members) for key, members in samples.items()]

    def wants(self, suffix: str, redraw: bool) -> bool:
        """Of finished crops that are not drawn afresh no object mask."""
        return suffix in MEMBERS or redraw or self.whole_pictures

    def decode(self, members: Mapping[str, bytes], key: str) -> Sample:
        """By the names that our members have."""
        return decode_sample(members, key, not self.whole_pictures)


@dataclass(frozen=True)
class IndexedLayout:
    """A tar of another program, with its index.

    Attributes:
        index: path or address of its index.
        tar: name that its samples' keys begin with, since each tar may count its keys from 0.
        fields: what its members mean.
    """

    index: str
    tar: str
    fields: ForeignFields
    remedy: str = "put it back, or delete its index and run the same `python -m dataprep index`"
    masks_remedy: str = "index the tars with --field object_mask=SUFFIX --recipe RECIPE"

    def entries(self, descriptor: int) -> list[Entry]:
        """From the index."""
        from dataprep.foreign.index_tar import read_entries  # imports of OpenCV, that commands can wait for

        return [Entry(key, places) for key, places in read_entries(_read(self.index), self.index)]

    def wants(self, suffix: str, redraw: bool) -> bool:
        """All that the index lists is of a field."""
        return True

    def decode(self, members: Mapping[str, bytes], key: str) -> Sample:
        """By the fields."""
        from dataprep.foreign.sample import read_foreign

        found = read_foreign(members, f"{self.tar}/{key}", self.fields)
        if isinstance(found, Rejected):
            detail = f" ({found.detail})" if found.detail else ""
            raise UserError(f"sample {key}: {found.reason}{detail}, while its index says that it can be used")
        return found


def _read(place: str) -> Any:
    if not is_uri(place):
        return read_json(Path(place))
    try:
        return json.loads(b"".join(read_shard_file(place)))
    except ValueError as error:
        raise UserError(f"{place}: not valid JSON ({error})") from None
