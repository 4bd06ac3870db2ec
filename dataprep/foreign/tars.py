"""Tars of other programs: brace patterns and lists of them, their samples, and where their index is."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from dataprep.pictures.stores import is_uri
from dataprep.pictures.tar_store import PACKED
from intarsia.errors import UsageError
from intarsia.files import sha256_bytes

PIPE = "pipe:"
INDEX_PREFIX = "index-"
# As webdataset.tariterators has them: key and suffix part at the first dot of the file's own name.
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__($|/)")


def is_tar_place(place: str) -> bool:
    """Whether this names tars, by a path, an address, a brace pattern or a pipe, and not a folder."""
    return place.startswith(PIPE) or place.endswith((".tar", *PACKED)) or "::" in place


def expand_tars(places: Sequence[str]) -> list[str]:
    """The tars that brace patterns and `::` lists name, in order, as webdataset expands them.

    Raises:
        UsageError: for a pattern that cannot be expanded, or a tar that is named twice.
    """
    from braceexpand import braceexpand

    tars: list[str] = []
    for place in (part for whole in places for part in whole.split("::")):
        try:
            tars += map(os.path.expanduser, braceexpand(place))
        except ValueError as error:
            raise UsageError(f"{place}: not a brace pattern ({error}); write {{000000..000123}}") from None
    for tar in tars if len(set(tars)) < len(tars) else ():
        if tars.count(tar) > 1:
            raise UsageError(f"{tar} is named twice; name it once")
    return tars


def common_folder(tars: Sequence[str]) -> str:
    """The folder, or its address, that all tars lie in or below.

    Raises:
        UsageError: for tars of several machines.
    """
    protocols = sorted({tar.partition("://")[0] if is_uri(tar) else "" for tar in tars})
    parents = [tar.rpartition("://")[2].rpartition("/")[0] for tar in tars]
    if protocols == [""]:
        return os.path.commonpath([os.path.abspath(parent or ".") for parent in parents])  # noqa: PTH100
    common = os.path.commonpath(parents) if len(protocols) == 1 else ""
    if not common:
        raise UsageError(f"{tars[0]} and {tars[-1]} are on different machines; make one index for each")
    return f"{protocols[0]}://{common}"


def index_beside(tars: Sequence[str]) -> str:
    """The folder of an index that lies beside its tars; its name is a hash of theirs."""
    folder = common_folder(tars)
    names = [tar.rpartition("/")[2] for tar in tars]
    return f"{folder}/{INDEX_PREFIX}{sha256_bytes(chr(10).join(names).encode())[:12]}"


def names_below(folder: str, tars: Sequence[str]) -> list[str]:
    """The tars' paths below their common folder."""
    own = tars if is_uri(folder) else [os.path.abspath(tar) for tar in tars]  # noqa: PTH100
    return [str(PurePosixPath(tar[len(folder) :].lstrip("/"))) for tar in own]


@dataclass
class MemberGroup:
    """The members of one sample in a tar.

    Attributes:
        key: name of the sample.
        places: suffix -> offset and size.
        twice: suffixes that several members have.
    """

    key: str
    places: dict[str, tuple[int, int]] = field(default_factory=dict)
    twice: list[str] = field(default_factory=list)


def split_member(name: str) -> tuple[str, str] | None:
    """Key and suffix of a member, as webdataset parts them; None for a file that belongs to no sample."""
    match = None if _META.match(name) else _NAME.fullmatch(name)
    return None if match is None else (match[1], match[2].lower())


def group_members(members: Iterable[tuple[str, int, int]]) -> list[MemberGroup]:
    """The samples of a tar, from name, offset and size of its files, in the order of their first members.

    The members of a sample need not be adjacent, as they must be in a stream.
    """
    groups: dict[str, MemberGroup] = {}
    for name, offset, size in members:
        parts = split_member(name)
        if parts is None:
            continue
        key, suffix = parts
        group = groups.setdefault(key, MemberGroup(key))
        if suffix in group.places:
            group.twice.append(suffix)
        else:
            group.places[suffix] = offset, size
    return list(groups.values())


def first_suffix(places: Mapping[str, object], suffixes: Sequence[str]) -> str | None:
    """The first of these suffixes that a sample has."""
    return next((suffix for suffix in suffixes if suffix in places), None)
