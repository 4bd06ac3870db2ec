"""Our tars are those of the standard library, byte for byte."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataprep.tars import tar_header, write_tar

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
