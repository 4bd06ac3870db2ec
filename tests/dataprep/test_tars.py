"""Our tars are those of the standard library, byte for byte."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataprep.tars import tar_header, tar_members, write_tar

NAMES = st.from_regex(r"[A-Za-z0-9_.-]{1,100}", fullmatch=True)
MEMBERS = st.lists(st.tuples(NAMES, st.binary(max_size=2000)), max_size=30)


def tar_of_the_standard_library(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o644
            # Pythons differ in a file's device numbers, which mean nothing: empty, as in most.
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@settings(deadline=None, max_examples=60)
@given(members=MEMBERS)
def test_a_tar_is_what_the_standard_library_writes(
    members: list[tuple[str, bytes]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("tars") / "a.tar"
    digest = write_tar(path, members)
    assert path.read_bytes() == tar_of_the_standard_library(members)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_long_member_is_read_back(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    write_tar(tmp_path / "a.tar", [("key.image.jpg", content)])
    with tarfile.open(tmp_path / "a.tar") as tar:
        file = tar.extractfile("key.image.jpg")
        assert file is not None
        assert file.read() == content


def test_a_name_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than the 100 characters"):
        tar_header("k" * 101, 1)


PATHS = st.from_regex(r"(\./)?([a-zA-Z0-9äé _-]{1,9}/){0,20}[a-zA-Z0-9äé_-]{1,130}\.jpg", fullmatch=True)
KINDS = st.sampled_from(
    [tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CONTTYPE]
)


def index_of(path: Path) -> list[tuple[str, int, int]]:
    with path.open("rb") as file:
        return list(tar_members(file))


@pytest.mark.long
@settings(deadline=None, max_examples=150)
@given(
    members=st.lists(st.tuples(PATHS, KINDS, st.binary(max_size=1100)), max_size=12),
    layout=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_the_files_of_any_tar_lie_where_the_standard_library_finds_them(
    members: list[tuple[str, bytes, bytes]], layout: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("tars") / "a.tar"
    with tarfile.open(path, "w", format=layout) as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "elsewhere" if kind == tarfile.SYMTYPE else ""
            if kind not in (tarfile.DIRTYPE, tarfile.SYMTYPE):
                member.size = len(content)
            try:
                tar.addfile(member, io.BytesIO(content))
            except ValueError:  # USTAR holds no such name
                assert layout == tarfile.USTAR_FORMAT
    with tarfile.open(path) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    assert index_of(path) == expected


@pytest.mark.parametrize("cut", [100, 512, 700, 1536, 2000])
def test_a_cut_tar_is_told(tmp_path: Path, cut: int) -> None:
    write_tar(tmp_path / "a.tar", [("a.jpg", b"x" * 600), ("b.jpg", b"x" * 600)])
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[:cut])
    if cut == 1536:  # between two members it reads as one that ends there, as for the standard library
        assert index_of(tmp_path / "a.tar") == [("a.jpg", 512, 600)]
        return
    with pytest.raises(tarfile.TarError):
        index_of(tmp_path / "a.tar")


@pytest.mark.parametrize("at", [0, 130, 150, 156, 260])
def test_a_damaged_header_is_no_end(tmp_path: Path, at: int) -> None:
    """To the standard library it is one."""
    write_tar(tmp_path / "a.tar", [("a.jpg", b"x" * 600), ("b.jpg", b"x" * 600)])
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[1536 + at] ^= 1
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(tarfile.TarError, match="no header at byte 1,536"):
        index_of(tmp_path / "a.tar")
